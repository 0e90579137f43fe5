"""Attention of one new token per row, where rows share keys: the beams of a source, the whole batch the prefix.

    scores   [ q · k_1 … k_P  |  q · K_1 … K_S ]      the prefix: one matrix product for all rows of a head
                  ↓ one softmax ↓                     own keys: one matrix product for all beams of a source
    output     weights · v      +  weights · V        neither is copied for a row

Shapes: R rows = B sources × N beams (next to each other), H key heads, G query heads for each key head, P prefix
length, S own keys, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    beams, groups = rows // sources, query_heads // heads
    query = query.reshape(sources, beams, heads, groups, width).transpose(1, 2)
    query = query.reshape(sources, heads, beams * groups, width) * scaling
    scores = query @ key.transpose(2, 3)
    if mask is not None:
        mask = mask.repeat_interleave(groups, dim=2) if groups > 1 < mask.shape[2] else mask
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if prefix is None:
        output = _weights(scores, dropout) @ value
    else:
        length = prefix[0].shape[1]
        of_prefix = _by_head(query) @ prefix[0].transpose(1, 2)
        of_prefix = of_prefix.view(heads, sources, beams * groups, length).transpose(0, 1)
        weights = _weights(torch.cat((of_prefix, scores), dim=-1), dropout)
        by_prefix, by_own = weights.split((length, scores.shape[-1]), dim=-1)
        output = (_by_head(by_prefix) @ prefix[1]).view(heads, sources, beams * groups, width).transpose(0, 1)
        output = output + by_own @ value
    output = output.view(sources, heads, beams, groups, width).transpose(1, 2)
    return output.reshape(rows, 1, query_heads, width)


def _weights(scores: Tensor, dropout: float) -> Tensor:
    weights = scores.softmax(-1)
    return torch.nn.functional.dropout(weights, dropout) if dropout > 0.0 else weights


def _by_head(tensor: Tensor) -> Tensor:
    """(B, H, N·G, X) as (H, B·N·G, X): all rows of a head together."""
    return tensor.transpose(0, 1).flatten(1, 2)
