"""Layers of a model in a faster form; what they compute is the same up to rounding.

GPT-2's GELU: one pass over memory instead of eight, and one tensor kept for the backward pass instead of four.

Linear layers on a CPU, for inference: weights in the memory layout that the matrix products want. A product of a few
rows with a weight matrix, as in every step of a generation, otherwise spends much of its time on rearranging the
weights, again in every step. Library (oneDNN, part of torch) and layout are those of torch.compile's freezing. It costs
a second copy of the weights while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation, NewGELUActivation
from transformers.pytorch_utils import Conv1D

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
def fast_layers(model: nn.Module) -> Iterator[None]:
    """While open, the linear layers of a model multiply with packed weights; for inference, gradients are lost.

    A GELU behind one is computed within it. Others stay as they are: those on other devices than the CPU, and
    precisions that oneDNN lacks. Weights that are changed meanwhile are not seen.
    """
    fused = dict(_linear_and_gelu(model))
    layers = [layer for layer in model.modules() if "forward" not in vars(layer)]
    faster = {layer: forward for layer in layers if (forward := _faster(layer, fused.get(layer))) is not None}
    passed = {gelu: nn.Identity().forward for layer, gelu in fused.items() if layer in faster}
    for layer, forward in {**faster, **passed}.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer in (*faster, *passed):
            vars(layer).pop("forward", None)  # of a base in use twice at once it may be gone already


def _linear_and_gelu(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The MLPs' first layers with the GELU behind them, in models of BART's and GPT-2's layout."""
    for module in model.modules():
        for linear, activation in (("c_fc", "act"), ("fc1", "activation_fn")):
            layer, gelu = getattr(module, linear, None), getattr(module, activation, None)
            if isinstance(layer, nn.Module) and type(gelu) in GELUS:
                yield layer, gelu  # type: ignore[misc]


def _faster(layer: nn.Module, gelu: nn.Module | None) -> Callable[[Tensor], Tensor] | None:
    if type(layer) is nn.Linear:
        return _packed(layer.weight, layer.bias, gelu)
    if type(layer) is Conv1D:
        return _packed(layer.weight.t(), layer.bias, gelu)
    return None


@torch.no_grad()
def _packed(weight: Tensor, bias: Tensor | None, gelu: nn.Module | None) -> Callable[[Tensor], Tensor] | None:
    """The product with weights (out, in), packed, and the GELU of it; None where it would not be faster."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    known = dtype == torch.float32 or dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not known or weight.numel() < SMALL:
        return None
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous())
    added = None if bias is None else bias.to(dtype)
    then: tuple[str, list[float], str] = ("none", [], "") if gelu is None else ("gelu", [], GELUS[type(gelu)])

    def forward(states: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(states.to(dtype), packed, added, *then)

    return forward
