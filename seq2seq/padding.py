"""Whether a batch holds padding, found out where the batch is made.

transformers looks into the attention mask of every forward, to leave it out where nothing is hidden. On a GPU that look
waits for all work before. Known beforehand, the mask is left out, or made, without a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

MASKS = ("attention_mask", "source_attention_mask")
_padded: ContextVar[bool | None] = ContextVar("padded", default=None)  # of this thread: another may search meanwhile
_padded_compiled: bool | None = None  # the same for torch.compile, which reads no ContextVar


def holds_padding(batch: Mapping[str, Any]) -> bool:
    """Whether a mask (B, S) of a batch hides a token."""
    return any(not bool(batch[name].all()) for name in MASKS if name in batch)


@contextmanager
def padding_known(padded: bool | None) -> Iterator[None]:
    """While open, whether the padding masks hide anything is known; None = transformers looks itself."""
    global _padded_compiled
    token, before = _padded.set(padded), _padded_compiled
    _padded_compiled = padded
    try:
        yield
    finally:
        _padded.reset(token)
        _padded_compiled = before


def without_look(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a mask function of transformers: where padding is known it does not look at the padding mask."""

    def mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Any:
        padded = _padded_compiled if torch.compiler.is_compiling() else _padded.get()
        if padded is False:
            attention_mask = None
        elif padded and attention_mask is not None:
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return stock(*args, attention_mask=attention_mask, **options)

    return mask
