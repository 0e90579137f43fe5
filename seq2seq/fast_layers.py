"""Layers of a model in a faster form; what they compute is the same up to rounding.

GPT-2's GELU: one pass over memory instead of eight, and one tensor kept for the backward pass instead of four.

Linear layers on a CPU, for inference: weights in the memory layout that the matrix products want. A product of a few
rows with a weight matrix, as in every step of a generation, otherwise spends much of its time on rearranging the
weights, again in every step. Library (oneDNN, part of torch) and layout are those of torch.compile's freezing. It costs
a second copy of the weights while it lasts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from seq2seq.few_rows import FewRows, Then, fits

SMALL = 256 * 256  # weights: a smaller float32 matrix is multiplied faster as it is


class FusedGELU(nn.GELU):
    """GPT-2's GELU, the one with tanh, as one operation."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


GELUS: dict[type[nn.Module], str] = {
    FusedGELU: "tanh",
    NewGELUActivation: "tanh",
    GELUActivation: "none",
}  # oneDNN's names


def fuse_gelu(model: nn.Module) -> None:
    """Replace every GELU that transformers writes out in Python by the fused one."""
    _replace(model, NewGELUActivation, FusedGELU)


def unfuse_gelu(model: nn.Module) -> None:
    """Undo `fuse_gelu`."""
    _replace(model, FusedGELU, NewGELUActivation)


def _replace(model: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is old:
                setattr(module, name, new())


@contextmanager
def fast_layers(model: nn.Module, rows: int | None = None) -> Iterator[None]:
    """While open, the linear layers of a model multiply with packed weights, here: other threads keep their own layers.

    For inference, gradients are lost. A GELU behind a layer is computed within it. Others stay as they are: those on
    other devices than the CPU, and precisions that oneDNN lacks. Weights that are changed meanwhile are not seen.

    Args:
        rows: the most that are multiplied in a step: sources times beams. Few are multiplied in a form of their own.
    """
    fast = dict(_fast.get())
    fused = {layer: gelu for layer, gelu in _linear_and_gelu(model) if _is_free(gelu)}
    new = [layer for layer in model.modules() if layer not in fast and _is_free(layer)]
    fast.update({layer: forward for layer in new if (forward := _faster(layer, fused.get(layer), rows)) is not None})
    fast.update({gelu: nn.Identity().forward for layer, gelu in fused.items() if layer in fast})
    replaced = [layer for layer in fast if layer not in _fast.get()]
    _switch(replaced)
    token = _fast.set(fast)
    try:
        yield
    finally:
        _fast.reset(token)
        _switch_back(replaced)


_fast: ContextVar[Mapping[nn.Module, Callable[[Tensor], Tensor]]] = ContextVar("fast", default=MappingProxyType({}))
_lock = threading.Lock()


class _Switch:
    """In the place of a layer's `forward`, as long as a thread has a faster form of it: that one or the layer's own."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.users = layer, 0

    def __call__(self, states: Tensor) -> Tensor:
        fast = _fast.get().get(self.layer)
        return type(self.layer).forward(self.layer, states) if fast is None else fast(states)


def _is_free(layer: nn.Module) -> bool:
    """Whether nobody else has put another `forward` in the place of the layer's own."""
    return isinstance(vars(layer).get("forward"), _Switch | None)


def _switch(layers: list[nn.Module]) -> None:
    with _lock:
        for layer in layers:
            switch = vars(layer).setdefault("forward", _Switch(layer))
            switch.users += 1


def _switch_back(layers: list[nn.Module]) -> None:
    with _lock:
        for layer in layers:
            switch = vars(layer)["forward"]
            switch.users -= 1
            if not switch.users:
                del vars(layer)["forward"]


def _linear_and_gelu(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The MLPs' first layers with the GELU behind them, in models of BART's and GPT-2's layout."""
    for module in model.modules():
        for linear, activation in (("c_fc", "act"), ("fc1", "activation_fn")):
            layer, gelu = getattr(module, linear, None), getattr(module, activation, None)
            if not isinstance(layer, nn.Module) or type(gelu) not in GELUS:
                continue
            if layer._forward_hooks or gelu._forward_hooks or gelu._forward_pre_hooks:  # type: ignore[union-attr]
                continue  # somebody looks at, or changes, what is between them
            yield layer, gelu  # type: ignore[misc]


def _faster(layer: nn.Module, gelu: nn.Module | None, rows: int | None) -> Callable[[Tensor], Tensor] | None:
    if type(layer) is nn.Linear:
        return _packed(layer.weight, layer.bias, gelu, rows)
    if type(layer) is Conv1D:
        return _packed(layer.weight.t(), layer.bias, gelu, rows)
    return None


@torch.no_grad()
def _packed(
    weight: Tensor, bias: Tensor | None, gelu: nn.Module | None, rows: int | None
) -> Callable[[Tensor], Tensor] | None:
    """The product with weights (out, in), packed, and the GELU of it; None where it would not be faster."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or weight.numel() < SMALL:
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return None
    then: Then = ("none", [], "") if gelu is None else ("gelu", [], GELUS[type(gelu)])
    if dtype == torch.float32 and fits(weight, rows):
        return FewRows(weight, bias, then)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous())
    added = None if bias is None else bias.to(dtype)

    def forward(states: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(states.to(dtype), packed, added, *then)

    return forward
