"""Gradient checkpointing around a frozen base, which is in eval mode while what is put into it trains."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from seq2seq.lean_dropout import LeanDropout
from seq2seq.mlp_by_rows import mlp_by_rows
from seq2seq.stacks import checkpointed_layers
from seq2seq.utils import UserError

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LEAST_MAPPED = 2**19  # bytes
InPlace = Callable[[], AbstractContextManager[None]]
OfLayer = Callable[[nn.Module, dict[str, Any]], dict[str, Any]]


def keep_no_activations(model: PreTrainedModel, how: dict[str, Any] | None = None, **options: Any) -> None:
    """Turn a model's gradient checkpointing on, not reentrant where `how` does not say otherwise.

    Of a frozen base's embeddings no gradient is wanted, though transformers asks for one: the projections of a stack's
    first layer then need no backward pass. On a CPU, what is freed leaves the process (`return_freed_memory`).

    Args:
        how: options of torch's `checkpoint`.
        options: of the model's `activation_checkpointing_enable`.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, **(how or {})}, **options)
    if not model.get_input_embeddings().weight.requires_grad:
        model.disable_input_require_grads()
    if model.device.type == "cpu":
        return_freed_memory()


def return_freed_memory() -> bool:
    """From now on, blocks of 0.5 MB or more leave the process when they are freed; False where that can't be asked for.

    By itself glibc keeps more and more of them, up to 32 MB each, in a heap that has holes after each layer computed
    again: a training step of BART-base then takes 1.32 GB, not 1.02 GB (benchmarks/memory.py), and a tenth less time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LEAST_MAPPED))


@contextmanager
def checkpoint_all(
    model: PreTrainedModel, training: bool, in_place: InPlace, of_layer: OfLayer | None = None
) -> Iterator[bool]:
    """While open, layers in eval mode checkpoint too, though transformers' checkpoint only while training.

    They compute as in eval mode: their dropouts stay off. Yields whether any layer checkpoints. What a layer keeps and
    computes again is made small (`mlp_by_rows.py`, `lean_dropout.py`).

    Args:
        training: of what is put into the model; nothing happens outside of it.
        in_place: a context in which it is in the model: the backward pass computes layers again, when others may be.
        of_layer: makes of a layer's named arguments those that it uses; all are kept until its backward pass is done.

    Raises UserError for reentrant checkpoints: they free the graph that the layers' prefixes share with the first of
    them, and lose the gradient where a layer's input has none.
    """
    checkpointed: list[Any] = checkpointed_layers(model) if training else []
    if any(getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant") for layer in checkpointed):
        raise UserError(
            "gradient checkpointing with use_reentrant=True cannot train what is put into a frozen base; "
            'give activation_checkpointing_enable({"use_reentrant": False})'
        )
    stock = [(layer, layer.training, layer._gradient_checkpointing_func) for layer in checkpointed]
    for layer, mode, checkpoint in stock:
        layer.training = True
        layer._gradient_checkpointing_func = partial(_checkpoint, layer, mode, in_place, of_layer, checkpoint)
    try:
        yield bool(stock)
    finally:
        for layer, mode, checkpoint in stock:
            layer.training, layer._gradient_checkpointing_func = mode, checkpoint


@contextmanager
def without_checkpoints(model: PreTrainedModel) -> Iterator[None]:
    """While open, layers keep their activations: a short pass whose keys and values are trained through."""
    layers = [layer for layer in model.modules() if getattr(layer, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True  # type: ignore[assignment]


def _checkpoint(
    layer: nn.Module,
    mode: bool,
    in_place: InPlace,
    of_layer: OfLayer | None,
    checkpoint: Callable[..., Any],
    forward: Callable[..., Any],
    *inputs: Any,
) -> Any:
    if of_layer and isinstance(forward, partial):  # as transformers hands it over
        forward = partial(forward.func, *forward.args, **of_layer(layer, forward.keywords))

    def replayed(*inputs: Any) -> Any:
        lean = nullcontext() if torch.compiler.is_compiling() else LeanDropout()
        with in_place(), lean, mlp_by_rows(layer), _in_modes(modes):
            return forward(*inputs)

    layer.training = mode  # what the layer's own forward sees, now and in the backward's replay
    modes = {module: module.training for module in layer.modules()}
    return checkpoint(replayed, *inputs)


@contextmanager
def _in_modes(modes: dict[nn.Module, bool]) -> Iterator[None]:
    """While open, modules are in these modes: another model on their base may have changed them since."""
    now = {module: module.training for module in modes}
    if now == modes or torch.compiler.is_compiling():
        yield
        return
    for module, mode in modes.items():
        module.training = mode
    try:
        yield
    finally:
        for module, mode in now.items():
            module.training = mode
