"""Losses that transformers' own do not give exactly, and logits of the target tokens alone.

Shapes: B batch, T tokens, N target tokens of the batch, V vocabulary, d width, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq.text_forms import IGNORE
from seq2seq.utils import at_least_float32

BLOCK = 2**18  # logits of a block: a megabyte in float32, which a core's cache holds


def next_token_loss(logits: Tensor, labels: Tensor, divisor: Tensor | float | None = None) -> Tensor:
    """Cross-entropy of logits (B, T, V) at t against labels (B, T) at t + 1, -100 ignored; at least in float32.

    divisor: of the sum over tokens; None = their number, which gives the mean.
    transformers' own loss rounds float64 logits to float32, which hides differences below 1e-7.
    """
    logits = logits[:, :-1].to(at_least_float32(logits.dtype)).flatten(0, 1)
    targets = labels[:, 1:].flatten()
    if divisor is None:
        return nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE)
    return nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum") / divisor


@dataclass(frozen=True)
class WantedLoss:
    """The loss that a decoder's forward is asked for: `labels` (B, T), and what its sum is divided by."""

    labels: Tensor
    divisor: Tensor | float | None

    @classmethod
    def take(cls, inputs: dict[str, Any]) -> WantedLoss | None:
        """Take `labels` and transformers' `num_items_in_batch` out of a forward's arguments; None without labels."""
        labels = inputs.pop("labels", None)
        return None if labels is None else cls(labels, inputs.pop("num_items_in_batch", None))

    def added_to(self, output: Any) -> Any:
        """The output, an object or a tuple, with the loss in front."""
        if isinstance(output, tuple):
            return (next_token_loss(output[0], self.labels, self.divisor), *output)
        return type(output)(loss=next_token_loss(output.logits, self.labels, self.divisor), **output)


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


def target_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, divisor: float | None = None) -> Tensor:
    """Cross-entropy of logits (N, V) against tokens (N,), at least in float32: its sum over `divisor`; None = the mean.

    With smoothing ε: (1-ε)·nll + ε/V·Σ_v -log p. The same as torch's, which on a CPU goes through memory seven times
    and keeps two float32 copies of the logits; this keeps their gradient, in their own precision.
    """
    return _TargetLoss.apply(logits, targets, label_smoothing, len(targets) if divisor is None else divisor)


class _TargetLoss(torch.autograd.Function):
    """Loss and gradient together, a block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float, divisor: float) -> Tensor:
        with_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if with_gradient else None
        rows = max(1, BLOCK // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
        total = logits.new_zeros((), dtype=at_least_float32(logits.dtype))
        for first in range(0, len(logits), rows):
            block, column = logits[first : first + rows].to(total.dtype), targets[first : first + rows, None]
            greatest = block.amax(1, keepdim=True)
            weights_RV = (block - greatest).exp_()
            sums = weights_RV.sum(1, keepdim=True)
            losses = sums.log() + greatest - (1 - smoothing) * block.gather(1, column)
            if smoothing:
                losses -= smoothing * block.mean(1, keepdim=True)
            total += losses.sum()
            if gradient is not None:
                weights_RV.div_(sums * divisor).scatter_add_(
                    1, column, torch.full_like(losses, (smoothing - 1) / divisor)
                )
                if smoothing:
                    weights_RV.sub_(smoothing / block.shape[1] / divisor)
                gradient[first : first + rows] = weights_RV
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total.div_(divisor)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        if upstream[0].device.type != "cpu" or upstream[0] != 1:  # on a GPU a look would wait
            gradient = gradient * upstream[0].to(gradient.dtype)
        return gradient, None, None, None
