"""Hooks that act in one call alone, so that models which share a base can be used at once.

A hook on a module sees every call of it: of other threads, and of another model on the same base that is called while
the first generates.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

registering = threading.Lock()  # torch counts its hooks up without one, and two with one number replace each other
_call: ContextVar[object | None] = ContextVar("call", default=None)


@contextmanager
def own_call() -> Iterator[None]:
    """While open, hooks from outside do not act here, nor those from here outside."""
    token = _call.set(object())
    try:
        yield
    finally:
        _call.reset(token)


def inside_a_call() -> bool:
    """Whether an `own_call` is open here."""
    return _call.get() is not None


@contextmanager
def forward_pre_hooks(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """While open, `hook(module, args, kwargs)` rewrites what the modules are called with, in this call alone."""
    here = _call.get()

    def guarded(module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        """torch calls it without `kwargs` where another thread comes across it while it is put on or taken off."""
        return hook(module, args, kwargs) if _call.get() is here else None

    with registering:
        handles = [module.register_forward_pre_hook(guarded, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        with registering:
            for handle in handles:
                handle.remove()
