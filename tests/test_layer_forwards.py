"""Another forward in a layer's place: in a call alone, and never over somebody else's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from seq2seq import fast_layers as room
from seq2seq.fast_layers import fast_layers
from seq2seq.layer_forwards import is_free, layer_forwards


def test_it_ends_with_an_error_in_the_call() -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(KeyboardInterrupt), layer_forwards({layer: torch.zeros_like}):
        assert not layer(torch.ones(4)).any()
        raise KeyboardInterrupt
    assert is_free(layer) and "forward" not in vars(layer)
    assert layer(torch.ones(4)).requires_grad


def test_a_forward_that_somebody_has_put_there_stays() -> None:
    layer = nn.Linear(512, 512)
    layer.forward = lambda states: states + 1  # type: ignore[method-assign]
    assert not is_free(layer)
    with torch.no_grad(), fast_layers(layer):
        assert torch.equal(layer(torch.zeros(1, 512)), torch.ones(1, 512))
    assert torch.equal(layer(torch.zeros(1, 512)), torch.ones(1, 512))


def test_searches_within_one_pack_no_weights_again(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Tensor] = []
    stock = room._packed

    def counted(weight: Tensor, *more: Any) -> Any:
        packed.append(weight)
        return stock(weight, *more)

    monkeypatch.setattr(room, "_packed", counted)
    layer = nn.Linear(512, 512)
    with fast_layers(layer):
        for _ in range(3):
            with fast_layers(layer):
                pass
    assert len(packed) == 1


class Mlp(nn.Module):
    def __init__(self, width: int = 512, act: nn.Module | None = None) -> None:
        super().__init__()
        self.c_fc, self.act = nn.Linear(width, width), act or NewGELUActivation()

    def forward(self, states: Tensor) -> Tensor:
        return self.act(self.c_fc(states))


@torch.no_grad()
def check_the_same(layer: nn.Module, states: Tensor) -> None:
    expected = layer(states)
    with fast_layers(layer):
        torch.testing.assert_close(layer(states), expected, atol=1e-5, rtol=0)


def test_a_gelu_that_somebody_has_replaced_stays() -> None:
    mlp = Mlp()
    mlp.act.forward = lambda x: 2 * x  # type: ignore[method-assign]
    check_the_same(mlp, torch.randn(3, 512))


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
@torch.no_grad()
def test_a_hook_on_a_gelu_sees_what_comes_into_it(hook: str) -> None:
    mlp, states = Mlp(), torch.randn(3, 512)
    seen: list[Tensor] = []
    getattr(mlp.act, hook)(lambda module, args, *output: seen.append(args[0]))
    check_the_same(mlp, states)
    torch.testing.assert_close(seen[1], seen[0], atol=1e-5, rtol=0)


def test_a_gelu_of_two_mlps_stays_for_both() -> None:
    act = NewGELUActivation()
    mlps = nn.ModuleList([Mlp(512, act), Mlp(32, act)])  # the second is too small to be packed
    with fast_layers(mlps), torch.no_grad():
        found = [mlp(torch.ones(2, mlp.c_fc.in_features)) for mlp in mlps]
    for mlp, output in zip(mlps, found, strict=True):
        torch.testing.assert_close(output, mlp(torch.ones(2, mlp.c_fc.in_features)), atol=1e-5, rtol=0)


def test_a_subclass_of_linear_computes_by_itself() -> None:
    class Twice(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            return 2 * super().forward(states)

    check_the_same(Twice(512, 512), torch.randn(3, 512))


@torch.no_grad()
def test_a_layer_computes_in_autocasts_precision() -> None:
    layer, states = nn.Linear(512, 512), torch.randn(3, 512)
    with torch.autocast("cpu", torch.bfloat16), fast_layers(layer):
        assert layer(states).dtype == torch.bfloat16
