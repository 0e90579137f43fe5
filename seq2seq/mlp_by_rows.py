"""With gradient checkpointing on a CPU: a frozen layer's MLP by blocks of rows, whose wide states are never whole.

    states (R, D) ──► first ──► GELU ──► dropout ──► second ──► (R, D)        in between (rows of a block, W)

A checkpointed layer computes its activations again in the backward pass, and those of the MLP, W wide where the others
are D, are what its memory peaks at. Here the backward pass computes them once more, a block after the other. Only the
states in front are kept, and of a dropout a byte for each number. It draws the random numbers that it draws otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear
from torch.overrides import TorchFunctionMode
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
    between = _Between()
    if not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
        for module in layer.modules():
            for names in NAMES:
                parts: Any = [getattr(module, name, None) for name in names]
                if _can_split(*parts):
                    first, activation, second = parts
                    mlp = _MLP(first, GELUS[type(activation)], second, between)
                    forwards |= {first: _as_they_are, activation: between.begin, second: mlp}
    if not forwards:
        yield
        return
    with between, layer_forwards(forwards):
        yield


class _Between(TorchFunctionMode):
    """Leaves out what a layer drops out between an MLP's activation and its second layer, and says how much it is."""

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None
        self.share = 0.0

    def begin(self, states: Tensor) -> Tensor:
        """In the place of the activation."""
        self.states, self.share = states, 0.0
        return states

    def end(self) -> float:
        """The share that was to be dropped out; the states are let go."""
        self.states = None
        return self.share

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.dropout and args and args[0] is self.states:
            self.share = _share(*args, **(kwargs or {}))
            return args[0]
        return func(*args, **(kwargs or {}))


def _share(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> float:
    """What `torch.nn.functional.dropout` drops with these arguments."""
    return p if training else 0.0


def _can_split(first: Any, activation: Any, second: Any) -> bool:
    if type(activation) not in GELUS or any(type(layer) not in (nn.Linear, Conv1D) for layer in (first, second)):
        return False
    weights = [*first.parameters(), *second.parameters()]
    behind = [hook for hook in second._forward_hooks.values() if not getattr(hook, "reads_outputs_alone", False)]
    hooks = [first._forward_hooks, first._forward_pre_hooks, activation._forward_hooks, activation._forward_pre_hooks]
    hooks += [part._backward_hooks for part in (first, activation, second)]
    hooks += [part._backward_pre_hooks for part in (first, activation, second)]
    return (
        not any(weight.requires_grad or weight.device.type != "cpu" for weight in weights)
        and not any((*hooks, behind, second._forward_pre_hooks))
        and all(is_free(part) for part in (first, activation, second))
    )


def _as_they_are(states: Tensor) -> Tensor:
    return states


@dataclass
class _MLP:
    """In the place of an MLP's second layer: all of it.

    Args:
        gelu: which form of it.
        between: what is dropped out in front of the second layer.
    """

    first: nn.Module
    gelu: str
    second: nn.Module
    between: _Between

    def __call__(self, states: Tensor) -> Tensor:
        return _ByRows.apply(states, self, self.between.end())


class _ByRows(torch.autograd.Function):
    """See the head of this file."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, mlp: _MLP, dropout: float) -> Tensor:
        (to_wide, bias), (back, last_bias) = _weights(mlp.first), _weights(mlp.second)
        kept = None
        if dropout:
            kept = torch.empty((*states.shape[:-1], len(to_wide)), dtype=torch.bool).bernoulli_(1 - dropout)
        output = states.new_empty((*states.shape[:-1], len(back)))
        for part, rows in _blocks(states, len(to_wide)):
            wide = gelu(linear(rows, to_wide, bias), approximate=mlp.gelu)
            output.flatten(0, -2)[part] = linear(_dropped(wide, kept, part, dropout), back, last_bias)
        ctx.save_for_backward(*([states, kept] if ctx.needs_input_grad[0] else []))
        ctx.mlp, ctx.dropout = mlp, dropout
        return output

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        mlp: _MLP = ctx.mlp
        (to_wide, bias), (back, _) = _weights(mlp.first), _weights(mlp.second)
        states, kept = ctx.saved_tensors
        above = upstream[0].flatten(0, -2)

        def gradient(part: slice, rows: Tensor) -> Tensor:
            of_wide = _dropped(above[part] @ back, kept, part, ctx.dropout)
            wide = linear(rows, to_wide, bias)
            return torch.ops.aten.gelu_backward(of_wide, wide, approximate=mlp.gelu) @ to_wide

        with torch.autocast("cpu", enabled=False):  # there was none in the forward pass
            if torch.is_grad_enabled():  # a gradient of this gradient is wanted
                return gradient(slice(None), states.flatten(0, -2)).view(states.shape), None, None
            whole = torch.empty_like(states, memory_format=torch.contiguous_format)
            for part, rows in _blocks(states, len(to_wide)):
                whole.flatten(0, -2)[part] = gradient(part, rows)
            return whole, None, None


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
    return wide if kept is None else wide * kept.flatten(0, -2)[part] * (1 / (1 - share))
