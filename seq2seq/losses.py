"""Losses that transformers' own do not give exactly, and logits of the target tokens alone.

Shapes: B batch, T tokens, N target tokens of the batch, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq.text_forms import IGNORE


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, T, V) at t against labels (B, T) at t + 1, -100 ignored; at least in float32.

    transformers' own loss rounds float64 logits to float32, which hides differences below 1e-7.
    """
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


def next_tokens(labels: Tensor) -> Tensor:
    """The token (B, T) that a decoder predicts at each position of labels (B, T), -100 where there is none."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def target_positions(tokens: Tensor) -> Tensor:
    """Where the target tokens are in tokens (B, T), counted through the batch row by row (N,)."""
    return (tokens.flatten() != IGNORE).nonzero()[:, 0]


@contextmanager
def logits_at(model: Any, positions: Tensor) -> Iterator[None]:
    """While open, the model's logits are (1, N, V): the output layer computes those at positions (N,) of B·T alone.

    GPT-2's output layer is a third of its work, and most positions hold a source or padding.
    """

    def select(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1).index_select(0, positions)[None],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
