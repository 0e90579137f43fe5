"""Attention written as matrix products, for the cases where that is faster than the stock kernel.

One new token per row, where rows share keys (the beams of a source its own keys, the whole batch the prefix):

    scores   [ q · k_1 … k_P  |  q · K_1 … K_S ]      the prefix: one matrix product for all rows of a head
                  ↓ one softmax ↓                     own keys: one matrix product for all beams of a source
    output     weights · v      +  weights · V        neither is copied for a row

Many tokens: a CPU's stock kernel is slow in bfloat16, above all backward, and with dropout. Without dropout, products
go block by block (block_attention.py).

Shapes: R rows = B sources × N beams (next to each other), H key heads, G query heads for each key head, P prefix
length, T queries, S own keys, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seq2seq.block_attention import attend_in_blocks


def products_pay(query: Tensor, dropout: float) -> bool:
    """Whether products are faster than the stock kernel for queries (B, H·G, T, D)."""
    return query.device.type == "cpu" and (dropout > 0.0 or query.dtype == torch.bfloat16)


def attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
) -> Tensor:
    """The attention output (B, T, H·G, D) of queries (B, H·G, T, D) over keys and values (B, H, S, D).

    Args:
        mask: broadcast to (B, 1, T, S): True = visible, or added to the scores; None = all visible.
        scaling: of the scores.
        dropout: on the weights.
    """
    if mask is not None and mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min  # not -inf: padding that sees nothing must stay a number
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill_(~mask, lowest)
    with torch.autocast(query.device.type, enabled=False):  # it would compute the softmax in float32
        if dropout == 0.0 and not torch.compiler.is_compiling():
            return attend_in_blocks(query, key, value, mask, scaling).transpose(1, 2)
        scores = (query * scaling).unflatten(1, (key.shape[1], -1)) @ key.unsqueeze(2).transpose(3, 4)
        scores = scores if mask is None else scores + mask.unsqueeze(2)
        output = _weights(scores, dropout) @ value.unsqueeze(2)
    return output.flatten(1, 2).transpose(1, 2)


def attend_one_token(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    prefix: tuple[Tensor, Tensor] | None,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """The attention output (R, 1, H·G, D) of queries (R, H·G, 1, D).

    Args:
        key, value: own ones (B, H, S, D), B dividing R.
        mask: of own keys, broadcast to (B, 1, N, S): True = visible, or added to the scores; None = all visible.
        prefix: key and value of all rows (H, P, D), always visible.
        scaling: of the scores.
        dropout: on the weights.
    """
    rows, query_heads, _, width = query.shape
    sources, heads, _, _ = key.shape
    groups, length = query_heads // heads, 0 if prefix is None else prefix[0].shape[1]
    query = (query * scaling).reshape(rows, heads, groups, width).transpose(0, 1).contiguous()
    query = query.view(heads, sources, -1, width)
    scores = _by_source(query, key.transpose(2, 3))
    if mask is not None:
        mask = mask.transpose(0, 1)
        mask = mask.repeat_interleave(groups, dim=2) if groups > 1 < mask.shape[2] else mask
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if prefix is None:
        output = _by_source(_weights(scores, dropout), value)
    else:
        of_prefix = torch.bmm(query.flatten(1, 2), prefix[0].transpose(1, 2)).view(*scores.shape[:3], length)
        weights = _weights(torch.cat((of_prefix, scores), dim=3), dropout)
        by_prefix, by_own = weights.split((length, scores.shape[3]), dim=3)
        output = torch.bmm(by_prefix.flatten(1, 2), prefix[1]).view(query.shape) + _by_source(by_own, value)
    return output.reshape(heads, rows, groups, width).transpose(0, 1).reshape(rows, 1, query_heads, width)


def _by_source(rows: Tensor, pool: Tensor) -> Tensor:
    """Products (H, B, N·G, Y) of the rows of each head and source (H, B, N·G, X) with what they share (B, H, X, Y)."""
    if pool.stride(0) < pool.stride(1):  # heads outermost in memory, as in beam_cache.py
        product = torch.bmm(rows.flatten(0, 1), pool.transpose(0, 1).flatten(0, 1))
        return product.view(*rows.shape[:3], pool.shape[3])
    return (rows.transpose(0, 1) @ pool).transpose(0, 1)


def _weights(scores: Tensor, dropout: float) -> Tensor:
    weights = scores.softmax(-1)
    return torch.nn.functional.dropout(weights, dropout) if dropout > 0.0 else weights
