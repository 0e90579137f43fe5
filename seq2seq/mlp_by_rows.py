"""With gradient checkpointing on a CPU: a frozen layer's MLP by blocks of rows, whose wide states are never whole.

    states (R, D) ──► first ──► GELU ──► dropout ──► second ──► (R, D)        in between (rows of a block, W)

A checkpointed layer computes its activations again in the backward pass, and those of the MLP, W wide where the others
are D, are what its memory peaks at. Here the backward pass computes them once more, a block after the other. Only the
states in front are kept, and of a dropout a byte for each number. It draws the random numbers that it draws otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear
from transformers.pytorch_utils import Conv1D

from seq2seq.fast_layers import GELUS
from seq2seq.layer_forwards import Forward, is_free, layer_forwards

BLOCK = 2**19  # numbers of a block's wide states
NAMES = (("fc1", "activation_fn", "fc2"), ("c_fc", "act", "c_proj"))  # of an MLP's parts, in BART's and GPT-2's layout


@contextmanager
def mlp_by_rows(layer: nn.Module) -> Iterator[None]:
    """While open, the frozen MLPs of a layer compute by blocks of rows, in this thread.

    Others stay as they are: those on other devices than the CPU, under autocast or a compiler, of other layouts than
    BART's and GPT-2's, and those where a hook looks at what is within.
    """
    forwards: dict[nn.Module, Forward] = {}
    dropouts: dict[Any, float] = {}
    if not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
        for module in layer.modules():
            for names in NAMES:
                parts: Any = [getattr(module, name, None) for name in names]
                if not _can_split(*parts):
                    continue
                first, activation, second = parts
                dropouts[module] = getattr(module, "activation_dropout", 0.0)
                mlp = _MLP(first, GELUS[type(activation)], second, dropouts[module] if module.training else 0.0)
                forwards |= {first: _as_they_are, activation: _as_they_are, second: mlp}
    with _without_dropout(dropouts), layer_forwards(forwards):
        yield


@contextmanager
def _without_dropout(shares: dict[Any, float]) -> Iterator[None]:
    """While open, modules drop nothing out between an MLP's layers; shares: that they drop out otherwise."""
    for module, share in shares.items():
        if share:
            module.activation_dropout = 0.0
    try:
        yield
    finally:
        for module, share in shares.items():
            if share:
                module.activation_dropout = share


def _can_split(first: Any, activation: Any, second: Any) -> bool:
    if type(activation) not in GELUS or any(type(layer) not in (nn.Linear, Conv1D) for layer in (first, second)):
        return False
    weights = [*first.parameters(), *second.parameters()]
    hooks = (first._forward_pre_hooks, first._forward_hooks, activation._forward_pre_hooks, activation._forward_hooks)
    return (
        not any(weight.requires_grad or weight.device.type != "cpu" for weight in weights)
        and not any((*hooks, second._forward_pre_hooks))
        and all(is_free(part) for part in (first, activation, second))
    )


def _as_they_are(states: Tensor) -> Tensor:
    return states


@dataclass
class _MLP:
    first: nn.Module
    gelu: str  # which form of it
    second: nn.Module
    dropout: float

    def __call__(self, states: Tensor) -> Tensor:
        return _ByRows.apply(states, self)


class _ByRows(torch.autograd.Function):
    """See the head of this file."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, mlp: _MLP) -> Tensor:
        (to_wide, bias), (back, last_bias) = _weights(mlp.first), _weights(mlp.second)
        kept = None
        if mlp.dropout:
            shape = (*states.shape[:-1], len(to_wide))
            kept = torch.empty(shape, dtype=torch.bool).bernoulli_(1 - mlp.dropout)
        output = states.new_empty((*states.shape[:-1], len(back)))
        for part, rows in _blocks(states, len(to_wide)):
            wide = gelu(linear(rows, to_wide, bias), approximate=mlp.gelu)
            output.flatten(0, -2)[part] = linear(_dropped(wide, kept, part, mlp.dropout), back, last_bias)
        ctx.save_for_backward(*([states, kept] if ctx.needs_input_grad[0] else []))
        ctx.mlp = mlp
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        mlp: _MLP = ctx.mlp
        (to_wide, bias), (back, _) = _weights(mlp.first), _weights(mlp.second)
        states, kept = ctx.saved_tensors
        gradient = torch.empty_like(states, memory_format=torch.contiguous_format)
        above = upstream[0].flatten(0, -2)
        for part, rows in _blocks(states, len(to_wide)):
            wide = linear(rows, to_wide, bias)
            of_wide = _dropped(above[part] @ back, kept, part, mlp.dropout)
            torch.ops.aten.gelu_backward.grad_input(of_wide, wide, approximate=mlp.gelu, grad_input=of_wide)
            gradient.flatten(0, -2)[part] = of_wide @ to_wide
        return gradient, None


def _blocks(states: Tensor, width: int) -> Iterator[tuple[slice, Tensor]]:
    """The rows of states (…, D) by blocks, and where they lie; width: of what is made of them."""
    rows = states.flatten(0, -2)
    size = max(1, BLOCK // width)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield part, rows[part]


def _weights(layer: Any) -> tuple[Tensor, Tensor | None]:
    """A linear layer's weights (out, in) and bias."""
    return layer.weight.t() if type(layer) is Conv1D else layer.weight, layer.bias


def _dropped(wide: Tensor, kept: Tensor | None, part: slice, share: float) -> Tensor:
    return wide if kept is None else wide.mul_(kept.flatten(0, -2)[part]).mul_(1 / (1 - share))
