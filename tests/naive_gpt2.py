"""GPT-2 written out in plain PyTorch, one row, one head, one query at a time: prefix, infix, adapters."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]  # (key, value) of each layer, each (H, P, D)


def run(
    model: Any,
    vectors: Tensor,
    first: int = 0,
    before: Pairs | None = None,
    behind_attention: Callable[[int, Tensor], Tensor] = lambda layer, x: x,
    behind_mlp: Callable[[int, Tensor], Tensor] = lambda layer, x: x,
    behind_block: Callable[[int, Tensor], Tensor] = lambda layer, x: x,
) -> tuple[Tensor, Pairs]:
    """Logits (T, V) of input vectors (T, d) at positions `first`.., and the keys and values they make, by layer.

    before: keys and values that every token sees in front of its own.
    """
    transformer, length = model.transformer, len(vectors)
    hidden = vectors + torch.stack([transformer.wpe.weight[first + t] for t in range(length)])
    made: Pairs = []
    for number, block in enumerate(transformer.h):
        projected = norm(hidden, block.ln_1) @ block.attn.c_attn.weight + block.attn.c_attn.bias
        query, key, value = (part.unflatten(1, (block.attn.num_heads, -1)) for part in projected.chunk(3, dim=1))
        made.append((key.transpose(0, 1), value.transpose(0, 1)))
        rows = []
        for t in range(length):
            heads = []
            for h in range(block.attn.num_heads):
                keys, values = [key[s, h] for s in range(t + 1)], [value[s, h] for s in range(t + 1)]
                if before is not None:
                    keys, values = [*before[number][0][h], *keys], [*before[number][1][h], *values]
                scores = torch.stack([query[t, h] @ k / sqrt(len(k)) for k in keys])
                weights = scores.exp() / scores.exp().sum()
                heads.append(sum(w * v for w, v in zip(weights, values, strict=True)))
            rows.append(torch.cat(heads))
        attended = torch.stack(rows) @ block.attn.c_proj.weight + block.attn.c_proj.bias
        hidden = hidden + behind_attention(number, attended)
        wide = norm(hidden, block.ln_2) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
        wide = 0.5 * wide * (1 + torch.tanh(sqrt(2 / pi) * (wide + 0.044715 * wide**3)))
        hidden = hidden + behind_mlp(number, wide @ block.mlp.c_proj.weight + block.mlp.c_proj.bias)
        hidden = behind_block(number, hidden)
    return norm(hidden, transformer.ln_f) @ transformer.wte.weight.T, made


def norm(x: Tensor, layer: Any) -> Tensor:
    """LayerNorm over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def words(model: Any, ids: Any) -> Tensor:
    """Input vectors (T, d) of token ids."""
    return torch.stack([model.transformer.wte.weight[int(token)] for token in ids])


def mlp_key_values(embedding: Tensor, layers: list[tuple[Tensor, Tensor]], heads: int) -> Pairs:
    """Keys and values of an MLP: linear layers with a tanh between; feature (2·layer + kv)·d + head·D + j."""
    x = embedding
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        x = torch.tanh(x) if number < len(layers) - 1 else x
    width = embedding.shape[1]
    parts = [x[:, i : i + width].unflatten(1, (heads, -1)).transpose(0, 1) for i in range(0, x.shape[1], width)]
    return list(zip(parts[::2], parts[1::2], strict=True))
