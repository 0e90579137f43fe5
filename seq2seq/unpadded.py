"""Training forwards of a decoder without padding: the real tokens in one row, padded again inside attention alone.

    (B, T)   a a a · ·                        (1, N)
             b b b b b    real tokens ──►     a a a b b b b b c c     embeddings, linear layers, norms, GELU
             c c · · ·                              │  ▲
                                                    ▼  │
                                              (B, H, T, D)            attention: causal, no mask

Padding stands on the right, where no real token sees it, so that attention needs no mask for it.

Shapes: B batch, T tokens, N real tokens of the batch, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

TOKENS = "real_tokens"  # the keyword argument under which the places travel to attention, also in a checkpoint's replay
FAMILIES = ("gpt2", "llama")  # whose every layer sees all tokens before; others may have windows
LEAST_PADDING = 0.05  # share of B·T: below, moving tokens costs more than it saves


def real_tokens(mask: Tensor) -> Tensor | None:
    """Where the real tokens of a batch with a padding mask (B, T) stand, counted through it row by row (N,).

    None where there is too little padding to gain by leaving it out, or some that is not on the right.
    """
    real = mask.bool()
    if real.float().mean() > 1 - LEAST_PADDING or bool((real[:, 1:] & ~real[:, :-1]).any()):
        return None
    return real.flatten().nonzero()[:, 0]


@dataclass(frozen=True)
class RealTokens:
    """The real tokens at places (N,) of a batch of rows (B, T)."""

    places: Tensor
    batch: int
    length: int

    def in_a_row(self, rows: Tensor) -> Tensor:
        """The real ones (1, N, …) of rows (B, T, …)."""
        return _Gather.apply(rows.flatten(0, 1), self.places)[None]

    def in_rows(self, row: Tensor) -> Tensor:
        """The rows (B, T, …) of real ones (1, N, …), zero where padding is."""
        return _Spread.apply(row[0], self.places, self.batch * self.length).unflatten(0, (self.batch, self.length))


def can_unpad(model: Any) -> bool:
    """Whether a model's attention can take tokens in a row and its mask hides nothing but padding and the future."""
    return model.config.model_type in FAMILIES and model.config._attn_implementation == "prefix_sdpa"


@contextmanager
def unpadded(model: Any, input_ids: Tensor, places: Tensor | None) -> Iterator[Callable[[Tensor], Tensor]]:
    """While open, the model's forward over input_ids (B, T) computes the tokens at places (N,) alone, in a row.

    Yields what turns positions in B·T into positions in its hidden states. Where places is None, or the model cannot,
    the forward stays what it is, and so do positions.
    """
    if places is None or not can_unpad(model):
        yield lambda positions: positions
        return
    tokens = RealTokens(places, *input_ids.shape)

    def put_in_a_row(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if given.get("input_ids") is not input_ids:  # another forward, for keys and values of a prefix
            return args, given
        positions = given.get("position_ids")
        if positions is None:
            positions = torch.arange(tokens.length, device=input_ids.device)
        return args, {
            **given,
            "input_ids": tokens.in_a_row(input_ids),
            "position_ids": tokens.in_a_row(positions.expand(tokens.batch, -1)),
            # four dimensions: transformers hands it down as it is, instead of making one from the positions
            "attention_mask": input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),
            TOKENS: tokens,
        }

    hook = model.register_forward_pre_hook(put_in_a_row, with_kwargs=True)
    try:
        yield partial(torch.searchsorted, places)
    finally:
        hook.remove()


class _Gather(torch.autograd.Function):
    """Rows of a tensor, each taken at most once: the gradient is copied, where index_select's would be added."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(source)
        return source.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (places,) = ctx.saved_tensors
        return _spread(upstream[0], places, ctx.count), None


class _Spread(torch.autograd.Function):
    """Rows of a tensor at places of a longer one, zeros between."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places)
        return _spread(source, places, count)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (places,) = ctx.saved_tensors
        return upstream[0].index_select(0, places), None, None


def _spread(source: Tensor, places: Tensor, count: int) -> Tensor:
    return source.new_zeros(count, *source.shape[1:]).index_copy_(0, places, source)
