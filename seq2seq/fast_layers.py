"""Layers of a model in a faster form; what they compute is the same up to rounding.

GPT-2's GELU: one pass over memory instead of eight, and one tensor kept for the backward pass instead of four.

Linear layers on a CPU, for inference: weights in the memory layout that the matrix products want. A product of a few
rows with a weight matrix, as in every step of a generation, otherwise spends much of its time on rearranging the
weights, again in every step. Library (oneDNN, part of torch) and layout are those of torch.compile's freezing. It costs
a second copy of the weights while it lasts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from seq2seq.few_rows import FewRows, Then, fits
from seq2seq.layer_forwards import Forward, forward_here, is_free, layer_forwards

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
    pairs = list(_linear_and_gelu(model))
    users = Counter(gelu for _, gelu in pairs)
    fused = {layer: gelu for layer, gelu in pairs if is_free(gelu) and users[gelu] == 1}
    free = [layer for layer in model.modules() if is_free(layer)]
    fast = {layer: forward for layer in free if (forward := _faster(layer, fused.get(layer), rows)) is not None}
    for layer, gelu in fused.items():  # also one that took the place of another since its layer became fast
        if _has_gelu(fast.get(layer) or forward_here(layer)):
            fast[gelu] = nn.Identity().forward
    with layer_forwards(fast):
        yield


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


def _faster(layer: nn.Module, gelu: nn.Module | None, rows: int | None) -> Forward | None:
    if type(layer) is nn.Linear:
        return _packed(layer.weight, layer.bias, gelu, rows)
    if type(layer) is Conv1D:
        return _packed(layer.weight.t(), layer.bias, gelu, rows)
    return None


@torch.no_grad()
def _packed(weight: Tensor, bias: Tensor | None, gelu: nn.Module | None, rows: int | None) -> Forward | None:
    """The product with weights (out, in), packed, and the GELU of it; None where it would not be faster."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or weight.numel() < SMALL:
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return None
    then: Then = ("none", [], "") if gelu is None else ("gelu", [], GELUS[type(gelu)])
    if dtype == torch.float32 and fits(weight, rows):
        return FewRows(weight, bias, then)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype))
    return _Packed(packed, None if bias is None else bias.to(dtype), dtype, then)


@dataclass
class _Packed:
    """The product with packed weights and what comes then."""

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    then: Then

    def __call__(self, states: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(states.to(self.dtype), self.weight, self.bias, *self.then)


def _has_gelu(forward: Forward | None) -> bool:
    return isinstance(forward, _Packed | FewRows) and forward.then[0] == "gelu"
