"""A long prefix and own keys attended apart by the stock CPU kernel, then merged exactly: no copy holds both.

    own       q · K_1 … K_S   ──►  output O₁, log of its sum of weights L₁   ┐   O = O₁ + σ(L₂ - L₁) · (O₂ - O₁)
    prefix    q · k_1 … k_P   ──►  output O₂, L₂                             ┘   L = log(e^L₁ + e^L₂)

The other way puts the prefix in front of the keys of each example, and of their gradient: a copy of both for each
attention, kept for the backward pass. Here the prefix meets the queries of all examples as if they were one, and its
gradient comes out summed over them. Backward, the kernel needs of a softmax only O and L; given those of the whole,
each part's gradients are exact (Liu, Zaharia and Abbeel 2023, "Ring Attention", uses the same).

Shapes: B batch, H heads, T queries, S own keys, P prefix length, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEAST_PREFIX = 64  # columns: to copy fewer costs less than to merge
PRECISE = (torch.float32, torch.float64)  # in bfloat16 the two outputs would be rounded before they are merged
_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def merging_pays(query: Tensor, key: Tensor, prefix: Tensor) -> bool:
    """Whether queries (B, H, T, D), own keys (B, H, S, D) and a prefix (H, P, D) are better attended apart."""
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype
        and query.dtype in PRECISE
        and query.shape[1] == key.shape[1]
        and prefix.shape[1] >= LEAST_PREFIX
        and not torch.compiler.is_compiling()
    )


def attend_merged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor],
    mask: Tensor | None,
    causal: bool,
    scaling: float,
) -> Tensor:
    """The attention output (B, T, H, D) of queries (B, H, T, D) over a prefix and own keys and values (B, H, S, D).

    Args:
        prefix: key and value of all examples (H, P, D), always visible.
        mask: of own keys, broadcast to (B, 1, T, S): True = visible, or added to the scores; None = all visible.
        causal: query t sees own keys up to t alone; goes without a mask.
        scaling: of the scores.
    """
    # hidden is the lowest number, not -inf: of a row that sees no own key, the kernel's L would be wrong
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    elif mask is not None:
        mask = mask.clamp(min=torch.finfo(mask.dtype).min)
    tensors = (_dense(tensor) for tensor in (query, key, value, *prefix))
    return _Merged.apply(*tensors, mask, causal, scaling).transpose(1, 2)


class _Merged(torch.autograd.Function):
    """See the head of this file."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor,
        mask: Tensor | None, causal: bool, scaling: float,
    ) -> Tensor:  # fmt: skip
        own, own_log = _attend(query, key, value, 0.0, causal, attn_mask=mask, scale=scaling)
        parts = _attend(_as_one(query), prefix_key[None], prefix_value[None], 0.0, False, scale=scaling)
        others, others_log = (_as_many(part, len(query)) for part in parts)
        output = own.lerp_(others, (others_log - own_log).sigmoid_().to(own.dtype)[..., None])
        keeps_own = any(ctx.needs_input_grad[:3])  # else the own keys, say those of the first layer, are not kept
        ctx.save_for_backward(
            query, prefix_key, prefix_value, output, torch.logaddexp(own_log, others_log),
            *((key, value, mask) if keeps_own else ()),
        )  # fmt: skip
        ctx.causal, ctx.scaling = causal, scaling
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradient = _dense(gradients[0])
        query, prefix_key, prefix_value, output, log, *own = ctx.saved_tensors
        of_query = of_key = of_value = None
        if own:
            key, value, mask = own
            of_query, of_key, of_value = _attend_backward(
                gradient, query, key, value, output, log, 0.0, ctx.causal, attn_mask=mask, scale=ctx.scaling
            )
            del own, key, value  # a checkpoint holds them here alone
        by_prefix, of_prefix_key, of_prefix_value = _attend_backward(
            _as_one(gradient), _as_one(query), prefix_key[None], prefix_value[None], _as_one(output), _as_one(log),
            0.0, False, scale=ctx.scaling,
        )  # fmt: skip
        if of_query is not None:
            of_query = of_query.add_(_as_many(by_prefix, len(query)))
        return of_query, of_key, of_value, of_prefix_key[0], of_prefix_value[0], None, None, None


def _dense(tensor: Tensor) -> Tensor:
    """The tensor with its last dimension innermost in memory, as the kernel takes for granted."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _as_one(rows: Tensor) -> Tensor:
    """(B, H, T, …) as (1, H, B·T, …); no copy where T is next to B in memory, as models lay their heads out."""
    return rows.transpose(1, 2).flatten(0, 1)[None].transpose(1, 2)


def _as_many(row: Tensor, batch: int) -> Tensor:
    """(1, H, B·T, …) as (B, H, T, …)."""
    return row[0].transpose(0, 1).unflatten(0, (batch, -1)).transpose(1, 2)
