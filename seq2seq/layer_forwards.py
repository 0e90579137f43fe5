"""Another forward in the place of single layers' own, in this thread and context alone.

A layer's `forward` is an attribute that all threads see; so what stands there looks up which forward it is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]

_here: ContextVar[Mapping[nn.Module, Forward]] = ContextVar("forwards", default=MappingProxyType({}))
_lock = threading.Lock()


@contextmanager
def layer_forwards(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """While open, layers compute by the forwards given here; those of a call around this one stay in force.

    Each layer `is_free`.
    """
    around = _here.get()
    new = [layer for layer in forwards if layer not in around]
    _switch(new)
    token = _here.set({**forwards, **around})
    try:
        yield
    finally:
        _here.reset(token)
        _switch_back(new)


def forward_here(layer: nn.Module) -> Forward | None:
    """What stands in the place of a layer's own forward here, if anything."""
    return _here.get().get(layer)


def is_free(layer: nn.Module) -> bool:
    """Whether a layer computes by its class's forward here, and nobody else has put another in its place."""
    return isinstance(vars(layer).get("forward"), _Switch | None) and forward_here(layer) is None


class _Switch:
    """In the place of a layer's `forward`, as long as a thread has another for it: that one or the layer's own."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.users = layer, 0

    def __call__(self, states: Tensor) -> Tensor:
        other = forward_here(self.layer)
        return type(self.layer).forward(self.layer, states) if other is None else other(states)


def _switch(layers: list[nn.Module]) -> None:
    with _lock:
        for layer in layers:
            switch = vars(layer).setdefault("forward", _Switch(layer))
            switch.users += 1


def _switch_back(layers: list[nn.Module]) -> None:
    with _lock:
        for layer in layers:
            switch = vars(layer)["forward"]
            switch.users -= 1
            if not switch.users:
                del vars(layer)["forward"]
