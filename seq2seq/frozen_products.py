"""Training through frozen layers: float32 products by oneDNN on the processors that torch's other library serves worse.

torch multiplies float32 matrices with Intel's MKL, and on AMD processors with AVX512 that is slower than oneDNN, which
is part of torch too: 182 to 197 GFLOP/s for 197 to 212 with the shapes of BART and GPT-2, forward; 182 to 193 for 182
to 209 backward (two cores of an EPYC, family 25, model 17). In bfloat16 torch takes oneDNN itself.

The weights stay as they are: no copy in another layout, which would be faster still, and no gradient of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from seq2seq.layer_forwards import is_free, layer_forwards
from seq2seq.stacks import checkpointed_layers, has_own_forward

SMALL = 256 * 256  # weights: with smaller matrices there is nothing to gain


@cache
def onednn_pays() -> bool:
    """Whether this is an AMD processor with AVX512."""
    described = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and described.is_file()
        and "AuthenticAMD" in described.read_text()
    )


def multiplies_faster(weight: Tensor) -> bool:
    """Whether `frozen_product` is the faster one for these weights (out, in)."""
    return (
        not weight.requires_grad
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= SMALL
        and not torch.is_autocast_enabled("cpu")
        and onednn_pays()
    )


@contextmanager
def frozen_products(model: Any) -> Iterator[None]:
    """While open, the frozen linear layers of a model's stacks multiply by `frozen_product` where that is faster.

    Not with gradient checkpointing, which computes again outside of here and compares what is kept, nor where the
    model's stack is compiled.
    """
    forwards = {}
    if onednn_pays() and not has_own_forward(model) and not checkpointed_layers(model):
        output = model.get_output_embeddings()  # output_layer.py has its own way
        for layer in model.modules():
            if layer is output or type(layer) not in (nn.Linear, Conv1D) or not is_free(layer):
                continue
            weight: Tensor = layer.weight.t() if type(layer) is Conv1D else layer.weight  # type: ignore[assignment,operator]
            bias: Tensor | None = layer.bias  # type: ignore[assignment]
            if multiplies_faster(weight) and (bias is None or not bias.requires_grad):
                forwards[layer] = partial(frozen_product, weight=weight, bias=bias)
    with layer_forwards(forwards):
        yield


def frozen_product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """states (..., in) · weightᵀ + bias, (..., out), by oneDNN; a gradient goes to the states alone.

    Args:
        weight: (out, in), in any order of memory.
        bias: (out,)
    """
    return _FrozenProduct.apply(states, weight, bias)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return multiply(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return multiply(upstream[0], weight.t()), None, None


def multiply(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`frozen_product` without any gradient."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
