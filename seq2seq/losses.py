"""Losses that transformers' own do not give exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, T, V) at t against labels (B, T) at t + 1, -100 ignored; at least in float32.

    transformers' own loss rounds float64 logits to float32, which hides differences below 1e-7.
    """
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
