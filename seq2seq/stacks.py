"""The stacks and layers of a model, by the names that BART's, GPT-2's and Llama's classes give them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def stacks_of(model: Any) -> dict[str, Any]:
    """A model's stacks: `encoder` and `decoder`, or `decoder` alone."""
    if model.config.is_encoder_decoder:
        return {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    return {"decoder": model.base_model}


def layers_of(stack: Any) -> list[nn.Module]:
    """A stack's layers from the first to the last; none where it is laid out otherwise."""
    return list(getattr(stack, "h", None) or getattr(stack, "layers", None) or [])


def share_left_out(stack: Any) -> float:
    """The share of its layers that a stack leaves out of a step in training mode (layerdrop)."""
    return getattr(stack, "layerdrop", None) or 0.0


def has_own_forward(model: Any) -> bool:
    """Whether something else than its class computes the forward of a model's stack, as --compile makes it."""
    return "forward" in vars(model.base_model)


def checkpointed_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose activations are computed again in the backward pass."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing
    ]
