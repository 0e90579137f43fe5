"""Logits and loss of the target tokens alone, and the loss of a frozen output layer without ever holding its logits.

    hidden states   ──►   logits (R, V)   ──►   loss: added up                                     block by block
    (N, d)                                      gradient of the logits ──► of the states (N, d): kept for backward

The gradient that a frozen layer hands down needs nothing that comes later, so it is computed with the loss; logits and
their gradient, of which there are 50,000 for each token, live for a block only. The products are as many as otherwise.

Shapes: B batch, T tokens, N target tokens of the batch, V vocabulary, d width, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq.frozen_products import multiplies_faster, multiply
from seq2seq.losses import block_loss, target_loss
from seq2seq.stacks import checkpointed_layers, has_own_forward, layers_of
from seq2seq.unpadded import RealTokens
from seq2seq.utils import at_least_float32

FAMILIES = ("bart", "gpt2", "llama", "mbart")  # whose logits are the output layer's, with final_logits_bias if any
DECODERS = ("gpt2", "llama")  # whose layers end with `mlp`, which works on each token by itself
BLOCK = {"cpu": 2**23, "others": 2**26}  # logits of a block at most, 32 or 256 MB in float32; smaller is slower
ROWS = 16  # of a block are a multiple of it: others are multiplied slower


class Predictions:
    """What a model predicts for the target tokens (N,) of a batch.

    Args:
        tokens: the targets.
        logits: of each (N, V); None where they come of hidden states.
        states, layer, bias: hidden states (N, d), the output layer over them, what is added to its logits (V,).
    """

    def __init__(
        self,
        tokens: Tensor,
        logits: Tensor | None = None,
        states: Tensor | None = None,
        layer: nn.Linear | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.tokens, self._states, self._layer, self._bias = tokens, states, layer, bias
        if logits is not None:
            self.logits = logits

    @cached_property
    def logits(self) -> Tensor:
        """The logits of each target token (N, V)."""
        logits = self._layer(self._states)  # type: ignore[misc]
        return logits if self._bias is None else logits + self._bias

    def loss(self, label_smoothing: float = 0.0, divisor: float | None = None) -> Tensor:
        """Cross-entropy as `target_loss` has it; the logits are not kept unless they are there already."""
        if "logits" in vars(self):
            return target_loss(self.logits, self.tokens, label_smoothing, divisor)
        divisor = len(self.tokens) if divisor is None else divisor
        weight = self._layer.weight  # type: ignore[union-attr]
        return _OutputLoss.apply(self._states, weight, self._bias, self.tokens, label_smoothing, divisor)


class Output:
    """What a forward left for its target positions: logits, or the states below a frozen output layer."""

    def __init__(self, model: Any) -> None:
        self.layer = model.get_output_embeddings()
        self.states: Tensor | None = None
        bias = getattr(model, "final_logits_bias", None)
        self.bias = None if bias is None else bias[0]
        self.frozen = (
            model.config.model_type in FAMILIES
            and type(self.layer) is nn.Linear
            and "forward" not in vars(self.layer)
            and not self.layer.weight.requires_grad
            and not _is_autocast(self.layer.weight.device.type)
        )

    def keep(self, states: Tensor) -> Tensor:
        """In the place of the layer's forward: no logits."""
        self.states = states[0]
        return states.new_empty(1, 0, len(self.layer.weight))

    def predictions(self, logits: Tensor, tokens: Tensor) -> Predictions:
        """What the forward predicts for tokens (N,); `logits` is what it returned."""
        if self.states is None:
            return Predictions(tokens, logits.flatten(0, 1))  # [0] would zero it all backward
        return Predictions(tokens, states=self.states, layer=self.layer, bias=self.bias)


@contextmanager
def output_at(model: Any, positions: Tensor) -> Iterator[Output]:
    """While open, the model's output layer sees the hidden states at positions (N,) of B·T alone.

    GPT-2's output layer is a third of its work, and most positions hold a source or padding. The MLP of a decoder's
    last layer sees no more either: of its output at other positions nothing comes. A frozen output layer computes no
    logits at all: `Output.predictions` has what its loss comes of.
    """

    def select(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1).index_select(0, positions)[None],)

    output = Output(model)
    hook = output.layer.register_forward_pre_hook(select)
    if output.frozen:
        output.layer.forward = output.keep
    try:
        with _last_mlp_at(model, positions):
            yield output
    finally:
        hook.remove()
        if output.frozen:
            del output.layer.forward


@contextmanager
def _last_mlp_at(model: Any, positions: Tensor) -> Iterator[None]:
    """While open, the last layer's MLP in a forward of the model sees positions (N,) of B·T alone; zeros elsewhere.

    Not where it drops out, for it would draw other numbers, nor with gradient checkpointing or a compiled stack.
    """
    if model.config.model_type not in DECODERS or model.training or has_own_forward(model):
        yield
        return
    mlp: Any = layers_of(model.base_model)[-1].mlp
    if mlp._forward_hooks or mlp._forward_pre_hooks or checkpointed_layers(model):
        yield
        return
    shape: list[int] = []
    of_the_forward: list[Any] = []

    def gather(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        shape[:] = inputs[0].shape[:2]
        return (RealTokens(positions, *shape).in_a_row(inputs[0]),)

    def spread(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return RealTokens(positions, *shape).in_rows(output)

    def begin(*_: Any) -> None:  # other forwards, for keys and values of a prefix, go through the stack alone
        of_the_forward[:] = mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(spread)

    def end(*_: Any) -> None:
        while of_the_forward:
            of_the_forward.pop().remove()

    hooks = model.register_forward_pre_hook(begin), model.register_forward_hook(end)
    try:
        yield
    finally:
        end()
        for hook in hooks:
            hook.remove()


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class _OutputLoss(torch.autograd.Function):
    """See the head of this file."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float, divisor: float
    ) -> Tensor:
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        rows = max(1, BLOCK["cpu" if states.device.type == "cpu" else "others"] // len(weight) // ROWS) * ROWS
        total = states.new_zeros((), dtype=at_least_float32(states.dtype))
        by_onednn = multiplies_faster(weight)
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            if by_onednn:
                logits = multiply(states[part], weight, bias)
            else:  # weights on the left: on a CPU up to twice as fast for few rows
                columns_VR = weight @ states[part].t()
                logits = (columns_VR if bias is None else columns_VR.add_(bias[:, None])).t().to(total.dtype)
            loss, of_logits = block_loss(logits, targets[part], smoothing, divisor, gradient is not None)
            total += loss
            if gradient is not None and by_onednn:
                gradient[part] = multiply(of_logits, weight.t())
            elif gradient is not None:
                gradient[part] = of_logits.to(weight.dtype) @ weight
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total.div_(divisor)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None, None, None
