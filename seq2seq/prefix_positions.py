"""Positions of real tokens behind a prefix, and the error where a base has too few.

    decoder           token j of the target gets position P + j; behind an infix S + P + j, within its window
    encoder-decoder   token j of a stack whose own attention has a prefix gets P + j, if it is asked for

Shapes: B batch, T tokens, P prefix length.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from seq2seq.hooks import forward_pre_hooks
from seq2seq.prefix_attention import LivePrefix, Site
from seq2seq.stacks import stacks_of
from seq2seq.utils import UserError, cache_of


def positions_behind(
    live: LivePrefix, inputs: dict[str, Any], model: PreTrainedModel, preseqlen: int, trusted: bool
) -> Tensor:
    """Positions (B, T) of a decoder's real tokens, the first one's being `live.start`; padding takes none.

    trusted: `position_ids` in the inputs are transformers' own, which the attention mask bounds.
    Raises UserError where a position does not exist, and without rows of tokens.
    """
    ids = inputs.get("input_ids")
    tokens = inputs.get("inputs_embeds") if ids is None else ids
    if tokens is None:
        raise UserError(
            "a decoder with a prefix was called without input_ids and inputs_embeds; give one of them (transformers' "
            "Trainer takes them away unless it is told remove_unused_columns=False)"
        )
    if ids is not None and ids.dim() != 2:
        raise UserError(f"input_ids {tuple(ids.shape)}: a prefix stands in front of rows of tokens (B, T)")
    batch, length = tokens.shape[:2]
    positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    past = cache_of(inputs)
    is_mask = isinstance(mask, Tensor) and mask.dim() == 2  # else transformers has made masks of it, of each layer kind
    seen = past.get_seq_length() if past is not None else 0
    bound = mask.shape[1] if is_mask else seen + length  # type: ignore[union-attr]
    if positions is not None:
        bound = bound if trusted else float("inf")
    elif is_mask:
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, seen : seen + length]  # type: ignore[union-attr]
    else:
        positions = torch.arange(seen, seen + length, device=tokens.device).expand(batch, -1)
    start = live.start
    if isinstance(start, Tensor):
        positions = positions.expand(batch, -1)
        start = start.repeat_interleave(len(positions) // len(start), dim=0)
    positions = positions + start
    window = float("inf") if isinstance(live.start, int) else attention_window(model)
    if live.columns() + bound > min(position_table(model), window):  # the bound counts padding; only now wait
        tokens = int(positions.max()) + 1
        check_positions(model, preseqlen, tokens - preseqlen)
        if tokens > window:
            raise UserError(
                f"infix: source, infix and target are {tokens} tokens, some of the base's layers see {window} back; "
                "shorten the input, or train a prefix, which all tokens see"
            )
    return positions


def attention_window(model: PreTrainedModel) -> float:
    """How many tokens the base's layers see at least, the own one counted; without windows there is no end."""
    kinds = getattr(model.config, "layer_types", None)
    sizes = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    found = [getattr(model.config, name, None) for kind, name in sizes.items() if kinds is None or kind in kinds]
    return min((size for size in found if size), default=float("inf"))


def position_table(model: PreTrainedModel) -> float:
    """How many positions the base has; rotary ones, as Llama's, have no table and no end."""
    rotary = hasattr(model.base_model, "rotary_emb")
    table = None if rotary else getattr(model.config, "max_position_embeddings", None)
    return float("inf") if table is None else table


def check_positions(model: PreTrainedModel, preseqlen: int, tokens: int) -> None:
    """Raise UserError where prefix and tokens exceed the position table."""
    table = position_table(model)
    if preseqlen + tokens > table:
        raise UserError(
            f"prefix length {preseqlen} + {tokens} tokens exceed the base's {table} positions; "
            "shorten --preseqlen or the input"
        )


def stacks_to_shift(model: PreTrainedModel, sites: dict[str, Site]) -> list[Any]:
    """The stacks of an encoder-decoder whose own attention has a prefix.

    Raises UserError where there is none, or a stack has no learned positions of BART's kind.
    """
    shifted = [stack for name, stack in stacks_of(model).items() if name in sites]
    if not shifted:
        raise UserError("shift_positions: a prefix in cross-attention stands before no tokens; leave it out")
    for stack in shifted:
        table = getattr(stack, "embed_positions", None)
        if table is None or not _is_of_barts_kind(list(inspect.signature(table.forward).parameters)):
            raise UserError(
                f"shift_positions: {type(model).__name__} has no learned positions of BART's kind; leave it out"
            )
    return shifted


PAST = ("past_key_values_length", "cache_length")  # the second from transformers 5.24 on


def _is_of_barts_kind(arguments: list[str]) -> bool:
    return any(arguments == ["input_ids", past, "position_ids"] for past in PAST)


@contextmanager
def shifted_stacks(model: PreTrainedModel, stacks: list[Any], preseqlen: int) -> Iterator[None]:
    """While open, the stacks' positions start at P. Raises UserError where a position does not exist."""

    def shift(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = dict(zip(("input_ids", PAST[0], "position_ids"), args, strict=False)) | kwargs
        tokens, positions = given["input_ids"], given.get("position_ids")
        past = next((given[name] for name in PAST if name in given), 0)
        length = next(x.shape[-1] for x in (tokens, positions) if x is not None)  # input vectors come without tokens
        check_positions(model, preseqlen, past + length)
        return (tokens, past + preseqlen, None if positions is None else positions + preseqlen), {}

    with forward_pre_hooks([stack.embed_positions for stack in stacks], shift):
        yield
