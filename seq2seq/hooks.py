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

import torch
from torch import nn

registering = threading.Lock()  # torch counts its hooks up without one, and two with one number replace each other
_call: ContextVar[object | None] = ContextVar("call", default=None)


@contextmanager
def own_call() -> Iterator[None]:
    """While open, hooks from outside do not act here, nor those from here outside; nothing under a compiler."""
    if torch.compiler.is_compiling():  # which reads no ContextVar: it traces one call, with the hooks that are there
        yield
        return
    token = _call.set(object())
    try:
        yield
    finally:
        _call.reset(token)


@contextmanager
def forward_pre_hooks(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """While open, `hook(module, args, kwargs)` rewrites what the modules are called with, in this call alone."""
    here = None if torch.compiler.is_compiling() else _call.get()

    def guarded(module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        """torch calls it without `kwargs` where another thread comes across it while it is put on or taken off."""
        acts = torch.compiler.is_compiling() or _call.get() is here
        return hook(module, args, kwargs) if acts else None

    with registering:
        handles = [module.register_forward_pre_hook(guarded, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        with registering:
            for handle in handles:
                handle.remove()
