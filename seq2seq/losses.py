"""Losses that transformers' own do not give exactly; output_layer.py has the loss of a frozen output layer.

Shapes: B batch, T tokens, N target tokens of the batch, V vocabulary, d width, R rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq.utils import IGNORE, at_least_float32

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
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        rows = max(1, BLOCK // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
        total = logits.new_zeros((), dtype=at_least_float32(logits.dtype))
        for first in range(0, len(logits), rows):
            part = slice(first, first + rows)
            block = logits[part].to(total.dtype, copy=True)
            loss, of_logits = block_loss(block, targets[part], smoothing, divisor, gradient is not None)
            total += loss
            if gradient is not None:
                gradient[part] = of_logits
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total.div_(divisor)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        if upstream[0].device.type != "cpu" or upstream[0] != 1:  # on a GPU a look would wait
            gradient = gradient * upstream[0].to(gradient.dtype)
        return gradient, None, None, None


def block_loss(
    logits: Tensor, targets: Tensor, smoothing: float, divisor: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Sum of the losses of logits (R, V), which are used up, and the gradient of that sum over `divisor` (R, V).

    Logits are at least in float32. Without gradient the second is not one.
    """
    column = targets[:, None]
    losses = -(1 - smoothing) * logits.gather(1, column)
    if smoothing:
        losses -= smoothing * logits.mean(1, keepdim=True)
    greatest = logits.amax(1, keepdim=True)
    weights_RV = logits.sub_(greatest).exp_()
    sums = weights_RV.sum(1, keepdim=True)
    losses += sums.log() + greatest
    if with_gradient:
        weights_RV.div_(sums * divisor).scatter_add_(1, column, torch.full_like(losses, (smoothing - 1) / divisor))
        if smoothing:
            weights_RV.sub_(smoothing / logits.shape[1] / divisor)
    return losses.sum(), weights_RV
