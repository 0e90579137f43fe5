"""Attention written as matrix products, a block of heads at a time: scores of one block live in the processor's cache.

    for each block of heads    scores = q · Kᵀ + mask    weights = softmax, in their place    output = weights · V
    backward, again            scores, weights           of V, of the scores                  of q, of K

All heads of a batch at once are tens of megabytes, which a CPU's allocator takes from the system and gives back for
each layer. Weights are not kept: the backward pass computes a block's again, as Dao and others 2022, "FlashAttention",
do. Where one block holds all heads, its weights are kept.

Shapes: B batch, H key heads, G query heads for each key head, T queries, S keys, D head width, R of the B·H heads in a
block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**22  # scores of a block at most, 8 MB in bfloat16; those of one head may be more


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """The attention output (B, H·G, T, D) of queries (B, H·G, T, D) over keys and values (B, H, S, D).

    Args:
        mask: added to the scores, broadcast to (B, 1, T, S); no gradient goes to it. None = all visible.
        scaling: of the scores.
    """
    heads = key.shape[1]
    grouped = (query * scaling).unflatten(1, (heads, -1)).flatten(2, 3)
    if mask is not None:
        mask = mask.expand(-1, -1, query.shape[2], -1)
    output = _Blocks.apply(grouped.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask, heads)
    return output.view(query.shape)


class _Blocks(torch.autograd.Function):
    """See the head of this file; queries (B·H, G·T, D), keys and values (B·H, S, D)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int) -> Tensor:
        output = query.new_empty(query.shape)
        for block, weights in _weights(query, key, mask, heads):
            torch.bmm(weights, value[block], out=output[block])
        kept = (mask, None) if len(weights) < len(query) else (None, weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.heads = heads
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, kept = ctx.saved_tensors
        blocks = _weights(query, key, mask, ctx.heads) if kept is None else [(slice(None), kept)]
        gradient = upstream[0].contiguous()
        of_query, of_key, of_value = (
            x.new_empty(x.shape) if wanted else None
            for x, wanted in zip((query, key, value), ctx.needs_input_grad[:3], strict=True)
        )
        pool: Tensor | None = None
        for block, weights in blocks:
            pool = torch.empty_like(weights) if pool is None else pool
            of_scores = pool[: len(weights)]
            if of_value is not None:
                torch.bmm(weights.transpose(1, 2), gradient[block], out=of_value[block])
            torch.bmm(gradient[block], value[block].transpose(1, 2), out=of_scores)
            torch._softmax_backward_data(of_scores, weights, -1, weights.dtype, grad_input=of_scores)
            if of_query is not None:
                torch.bmm(of_scores, key[block], out=of_query[block])
            if of_key is not None:
                torch.bmm(of_scores.transpose(1, 2), query[block], out=of_key[block])
        return of_query, of_key, of_value, None, None


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, heads: int) -> Iterator[tuple[slice, Tensor]]:
    """Each block of heads with its weights (R, G·T, S), which are overwritten by the next block's."""
    pool: Tensor | None = None
    for block in _blocks(len(query), heads, query.shape[1] * key.shape[1]):
        queries, keys = query[block], key[block].transpose(1, 2)
        if pool is None:
            pool = queries.new_empty(*queries.shape[:2], keys.shape[2])
        scores = torch.bmm(queries, keys, out=pool[: len(queries)])
        if mask is not None:
            examples = slice(block.start // heads, (block.stop - 1) // heads + 1)
            of_block = mask if len(mask) == 1 else mask[examples]
            groups = scores.shape[1] // mask.shape[2]
            scores.view(-1, min(len(queries), heads), groups, *mask.shape[2:]).add_(of_block.unsqueeze(2))
        yield block, torch.softmax(scores, -1, out=scores)


def _blocks(count: int, heads: int, scores: int) -> Iterator[slice]:
    """Slices of `count` heads, `heads` of each example: whole examples, or an equal part of one.

    scores: of one head.
    """
    fitting = max(1, BLOCK // scores)
    size = fitting // heads * heads or max(n for n in range(1, heads + 1) if heads % n == 0 and n <= fitting)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
