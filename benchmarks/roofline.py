"""The physical limit: this machine's matrix-product rate, and the floating-point operations that the work needs.

Operations are multiplications and additions of matrix products, two for each weight and token. Counted is what no
implementation can leave out, so that waste (padding, copies, logits that nobody needs) lowers the share.

    training step      linear layer on n tokens    forward 2·n·in·out, backward to its input the same (weights are
                                                   frozen: no gradient of them)
                       attention of T on K keys    forward 4·T·K·d (scores, output), backward 8·T·K·d
                       first block of a stack      no gradient to its input, so none through its projections of
                                                   queries, keys and values, nor to its queries and own keys and
                                                   values: attention's backward is 2·T·K·d for dW and 4·T·P·d for dK, dV
                       output layer, and the MLP   on target tokens alone
                       of a decoder's last block
                       prefix MLP                  forward and twice that backward (weights are trained)
    beam search        encoder, cross keys and values, prompt: once a source; then one token a beam and step

Shapes: B sources, S source and T target tokens, N beams, P prefix length, d width, V vocabulary, L layers of a stack.
"""

from __future__ import annotations

import time

import torch

from benchmarks.shapes import DTYPES, Setting


def training_flops(setting: Setting, lengths: tuple[tuple[int, int], ...] | None = None) -> float:
    """Floating-point operations of one training step with a prefix at all sites.

    lengths: (source, target) tokens of each row, in place of the setting's.
    """
    rows = lengths or setting.batches()[0]
    d, layers, prefix = setting.width, setting.layers, setting.preseqlen
    total = 0.0
    for source, target in rows:
        if setting.family == "bart":
            total += _stack_training(source, source * source, layers, d, prefix)
            total += _stack_training(target, _causal(target), layers, d, prefix)
            # cross-attention: queries and output from target tokens, keys and values from source tokens
            total += layers * 2 * 2.0 * (2 * target + 2 * source) * d * d
            total += layers * 12.0 * target * (prefix + source) * d
        else:
            tokens = source + target
            total += _stack_training(tokens, _causal(tokens), layers, d, prefix) - 4.0 * source * 8 * d * d
        total += 4.0 * target * d * setting.vocabulary
    sites = 3 if setting.family == "bart" else 1
    mlp = 2.0 * prefix * setting.mid_dim * (d + 2 * layers * d)
    return total + sites * 3 * mlp


def _causal(tokens: int) -> int:
    """Pairs of a query and an own key that it sees."""
    return tokens * (tokens + 1) // 2


def _stack_training(tokens: int, pairs: int, layers: int, d: int, prefix: int) -> float:
    """Self-attention (4·d² weights) and MLP (8·d²) of all blocks; `pairs` of queries and own keys that they see."""
    linear = 4.0 * tokens * 12 * d * d * layers
    attention = 12.0 * (pairs + tokens * prefix) * d * layers
    first = 2.0 * tokens * 3 * d * d  # no gradient through the first block's projections
    first += 8.0 * (pairs + tokens * prefix) * d - (2.0 * (pairs + tokens * prefix) + 4.0 * tokens * prefix) * d
    return linear + attention - first


def search_flops(setting: Setting) -> float:
    """Floating-point operations of one beam search with a flat prefix at all sites."""
    d, layers, prefix, source = setting.width, setting.layers, setting.preseqlen, setting.source
    steps, rows = setting.target - 1, setting.batch * setting.beams
    prompt = 1 if setting.family == "bart" else source
    total = 0.0
    if setting.family == "bart":
        encoder = 2.0 * source * 12 * d * d + 4.0 * source * (prefix + source) * d
        cross = 2.0 * source * 2 * d * d
        total += setting.batch * layers * (encoder + cross)
    # what one token costs behind `seen` tokens of its own, itself counted
    weights = 12 + (2 if setting.family == "bart" else 0)
    others = prefix + source if setting.family == "bart" else 0

    def tokens(count: float, seen: float) -> float:
        return layers * count * (2.0 * weights * d * d + 4.0 * (prefix + seen + others) * d)

    total += setting.batch * (tokens(prompt, (prompt + 1) / 2) + 2.0 * d * setting.vocabulary)
    seen = sum(prompt + step + 1 for step in range(steps)) / max(steps, 1)
    return total + rows * (tokens(steps, seen) + steps * 2.0 * d * setting.vocabulary)


def product_rates(
    setting: Setting, precisions: tuple[str, ...], square: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Operations a second of matrix products, by precision and shape.

    Args:
        setting: whose shapes are measured besides: a training batch's tokens, and one token of each beam.
        precisions: 32 or bf16.
        square: rows and columns of the big product.
        seconds: for each shape.
    """
    tokens, rows, d = setting.batch * setting.source, setting.batch * setting.beams, setting.width
    shapes = {
        "big square": (square, square, square),
        "training: attention projection": (tokens, d, d),
        "training: MLP": (tokens, d, 4 * d),
        "beam step: attention projection": (rows, d, d),
        "beam step: MLP": (rows, d, 4 * d),
        "beam step: output layer": (rows, d, setting.vocabulary),
    }
    return {
        precision: {
            f"{name} {m} x {k} x {n}": rate_of(m, k, n, DTYPES[precision], seconds)
            for name, (m, k, n) in shapes.items()
        }
        for precision in precisions
    }


def rate_of(m: int, k: int, n: int, dtype: torch.dtype, seconds: float) -> float:
    """The best rate, operations a second, of the product (m, k) · (n, k)ᵀ, as a linear layer computes it."""
    states, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    best = float("inf")
    ends = time.perf_counter() + seconds
    with torch.no_grad():
        torch.nn.functional.linear(states, weight)
        while True:
            started = time.perf_counter()
            torch.nn.functional.linear(states, weight)
            best = min(best, time.perf_counter() - started)
            if time.perf_counter() > ends:
                return 2.0 * m * k * n / best
