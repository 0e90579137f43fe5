"""Dropout that keeps booleans is torch's own dropout, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import base
from torch import Tensor

from seq2seq import lean_dropout as room
from seq2seq.lean_dropout import lean_dropout

IDS = torch.arange(3, 17).view(2, 7)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The share that each call of the native dropout drops, as calls are made."""
    seen: list[float] = []
    stock = torch.native_dropout

    def counted(input: Tensor, p: float, train: bool) -> Any:
        seen.append(p)
        return stock(input, p, train)

    monkeypatch.setattr(torch, "native_dropout", counted)
    return seen


def step(model: Any, lean: bool) -> tuple[Tensor, list[Tensor], int]:
    """Loss, gradients, and bytes of floating-point numbers that were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if lean:
            with lean_dropout(model):
                loss = model(input_ids=IDS, labels=IDS).loss
        else:
            loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_step_is_the_same_and_keeps_less(family: str, dtype: torch.dtype, native: list[float]) -> None:
    model = base(family, dtype=dtype).train()
    stock = step(model, lean=False)
    assert not native
    lean = step(model, lean=True)
    assert native and set(native) == {0.1}
    assert torch.equal(stock[0], lean[0])
    assert len(stock[1]) == len(lean[1])
    for one, other in zip(stock[1], lean[1], strict=True):
        assert torch.equal(one, other)
    assert lean[2] < stock[2]


@pytest.mark.parametrize("where", ["in eval mode", "with gradient checkpointing", "where the stack is compiled"])
def test_where_it_stays_torchs_own(where: str, native: list[float]) -> None:
    model = base("bart").train()
    if where == "in eval mode":
        model.eval()
    elif where == "with gradient checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        stack: Any = model.base_model
        stack.forward = stack.forward  # where --compile puts its own
    step(model, lean=True)
    assert not native


@pytest.mark.parametrize(
    "options", [{"p": 0.0}, {"p": 1.0}, {"p": 0.3, "training": False}, {"p": 0.3, "inplace": True}]
)
def test_other_calls_are_torchs_own(options: dict[str, Any], native: list[float]) -> None:
    states = torch.randn(50)
    torch.manual_seed(1)
    theirs = torch.nn.functional.dropout(states.clone(), **options)
    torch.manual_seed(1)
    with room.LeanDropout():
        ours = torch.nn.functional.dropout(states.clone(), **options)
    assert torch.equal(ours, theirs) and not native
