"""A start that can copy: two layers of a new GPT-2 are set as induction heads, and training goes on from there.

    layer 0   "previous token" heads: find position p - 1, write which token stands there
    layer 1   "copying" heads: find the place whose previous token is the current one, write the token found there

Such heads are what a decoder copies its context with (Olsson et al. 2022, "In-context Learning and Induction Heads"),
and finding them takes a small model most of its pretraining. All weights stay ordinary trained weights.
Positions start as sinusoids (Vaswani et al. 2017, section 3.5), which make "one before" the same rotation everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seq2seq.utils import UserError

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

PREVIOUS_HEADS = 4  # at most; each carries 1 / heads of a token's identity
SPARE_HEADS = 2  # of each layer, left random; their width also holds the positions
PREVIOUS_LOGIT = 22.0  # nats by which a previous-token head prefers position p - 1 to an unrelated one
MATCH_LOGIT = 12.0  # nats by which a copying head prefers a match to an unrelated token
COPY_GAIN = 6.0  # what a copying head writes, in lengths of the token's embedding
OTHERS = 0.1  # the random output projections are scaled down by this, so that they do not drown the heads
LONGEST_WAVE = 200  # times the shortest


@torch.no_grad()
def start_copying(model: GPT2LMHeadModel, seed: int = 0) -> None:
    """Set `model`'s position table and parts of its first two layers so that it copies from its context untrained.

    Raises UserError for fewer than 2 layers, fewer than 3 heads or a head of odd width.
    """
    config, blocks = model.config, list[Any](model.transformer.h)
    width, heads = config.n_embd, config.n_head
    size = width // heads
    if config.n_layer < 2 or heads <= SPARE_HEADS or size % 2:
        raise UserError(
            f"--start_copying: needs 2 layers, {SPARE_HEADS + 1} heads and heads of even width; base_config has "
            f"{config.n_layer} layers, {heads} heads of width {size}"
        )
    tokens = model.transformer.wte.weight
    places, contents = _directions(tokens, size, seed)
    length = float((tokens @ contents.T).norm(dim=1).mean())
    waves = math.pi * torch.logspace(0, -math.log10(LONGEST_WAVE), size // 2)  # radians per token
    angles = torch.arange(config.n_positions)[:, None] * waves
    table = torch.cat((angles.cos(), angles.sin()), 1) * length / math.sqrt(size // 2)
    model.transformer.wpe.weight.copy_(table @ places)
    for block in blocks:
        block.attn.c_proj.weight.mul_(OTHERS)
        block.mlp.c_proj.weight.mul_(OTHERS)

    # LayerNorm stretches a state of this length to sqrt(width)
    stretch = math.sqrt(width / (float(tokens.square().sum(1).mean()) + length**2))
    generator = torch.Generator().manual_seed(seed)
    elsewhere = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q  # where the previous token is kept
    previous = min(PREVIOUS_HEADS, heads - SPARE_HEADS)
    parts = contents[: (heads - SPARE_HEADS) * size].view(-1, size, width)
    sharp = _sharpness(PREVIOUS_LOGIT, stretch * length, size)
    for i in range(previous):
        query, key = places.T @ _one_back(waves), places.T
        _set_head(blocks[0].attn, i, query * sharp, key * sharp, parts[i].T, parts[i] @ elsewhere / stretch)
    sharp = _sharpness(MATCH_LOGIT, stretch * length / math.sqrt(heads), size)
    for i, part in enumerate(parts):
        match = parts[i % previous]
        query, key = match.T, (match @ elsewhere).T
        _set_head(blocks[1].attn, i, query * sharp, key * sharp, part.T, part * COPY_GAIN / stretch)


def _directions(tokens: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """(size, D) directions in which tokens differ least, and (D - size - 1, D) in which they differ; orthonormal.

    Both leave out the tokens' mean. The second are mixed at random, so that each holds an equal share of identity.
    """
    mean = torch.nn.functional.normalize(tokens.mean(0), dim=0)
    differences = tokens - (tokens @ mean)[:, None] * mean
    differences = differences - differences.mean(0)
    strongest_first = torch.linalg.svd(differences, full_matrices=False).Vh[:-1]
    contents = strongest_first[:-size]
    generator = torch.Generator().manual_seed(seed + 1)
    mix = torch.linalg.qr(torch.randn(len(contents), len(contents), generator=generator)).Q
    return strongest_first[-size:], mix @ contents


def _one_back(waves: Tensor) -> Tensor:
    """(W, W) with `position(p) @ it = position(p - 1)`, positions as `cos(waves · p), sin(waves · p)`."""
    cos, sin = waves.cos().diag(), waves.sin().diag()
    return torch.cat((torch.cat((cos, -sin), 1), torch.cat((sin, cos), 1)))


def _sharpness(logit: float, length: float, size: int) -> float:
    """The factor of query and key with which two equal vectors of `length` score `logit` nats."""
    return math.sqrt(logit * math.sqrt(size)) / length


def _set_head(attention: Any, head: int, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    """Write one head of a GPT2Attention: query, key, value (D, W), out (W, D)."""
    width, size = query.shape
    for i, matrix in enumerate((query, key, value)):
        attention.c_attn.weight[:, i * width + head * size : i * width + (head + 1) * size] = matrix
    attention.c_proj.weight[head * size : (head + 1) * size] = out
