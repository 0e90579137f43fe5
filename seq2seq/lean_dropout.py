"""Dropout on a CPU that keeps a byte for each number for the backward pass, where torch's keeps four.

torch has two dropouts for a CPU. `nn.functional.dropout` keeps its noise as numbers of the inputs' kind,
`native_dropout` as booleans, as both do on a GPU. They draw the same random numbers, and give the same outputs and
gradients, bit for bit; in bfloat16 the first rounds the noise too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seq2seq.stacks import checkpointed_layers, has_own_forward


@contextmanager
def lean_dropout(model: Any) -> Iterator[None]:
    """While open, a model in training on a CPU drops out leanly.

    Not with gradient checkpointing, which computes again outside of here and compares what is kept (`checkpointing.py`
    does it for each layer), nor where the model's stack is compiled.
    """
    stock = not model.training or model.device.type != "cpu"
    if stock or has_own_forward(model) or checkpointed_layers(model):
        yield
        return
    with LeanDropout():
        yield


class LeanDropout(TorchFunctionMode):
    """Calls of `nn.functional.dropout`, which models make directly and through nn.Dropout, become native ones."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.dropout:
            return _dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """The arguments are those of `torch.nn.functional.dropout`."""
    if not 0.0 < p < 1.0 or not training or inplace or input.device.type != "cpu":
        return torch.nn.functional.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, True)[0]
