"""Another forward in a layer's place: in a call alone, and never over somebody else's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
