"""Keys and values that the base model itself computes: of words or input vectors, and of an infix behind a source.

    decoder           vectors ──positions 0..P-1──► self
    encoder-decoder   vectors ──encoder──► encoder self;   its output ──► decoder cross;   vectors ──decoder──► self

    infix             [ source 0..S-1 | infix S..S+P-1 | target S+P.. ]    the source does not see the infix

Shapes: B batch, L layers, H key/value heads, P prefix length, S source length, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seq2seq.checkpointing import without_checkpoints
from seq2seq.prefix_attention import KEYWORD, LivePrefix, Site, enable_prefix
from seq2seq.prefix_positions import check_positions, position_table
from seq2seq.stacks import share_left_out, stacks_of
from seq2seq.utils import UserError

KeyValues = dict[nn.Module, tuple[Tensor, Tensor]]


@contextmanager
def as_evaluated(model: PreTrainedModel) -> Iterator[None]:
    """While open, the base computes without dropout."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():  # the embeddings' may be another than their model's
            module.training = training


def ids_of_words(text: str, tokenizer: Any, model: PreTrainedModel) -> list[int]:
    """The tokens that a prefix starts from, without special ones.

    Raises UserError for a text that has none, and for tokens that the base does not know.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"init_from_text {text!r}: the tokenizer makes no token of it; give a word")
    table: Any = model.get_input_embeddings().weight
    if max(ids) >= len(table):
        raise UserError(
            f"init_from_text {text!r}: the tokenizer makes token {max(ids)} of it, the base has {len(table)}; "
            "give the base's own tokenizer"
        )
    return ids


def vectors_of_words(model: PreTrainedModel, ids: list[int]) -> dict[str, Tensor]:
    """The input vectors (1, P, width) of which each stack makes what it makes of token ids."""
    tokens = torch.tensor([ids], device=model.device)
    found = {}
    for name, stack in stacks_of(model).items():
        vectors = stack.get_input_embeddings()(tokens)
        scale = getattr(stack, "embed_scale", 1.0)
        # Pegasus's encoder scales the vectors of tokens alone, its decoder any.
        if scale != 1.0 and not torch.equal(stack(input_ids=tokens)[0], stack(inputs_embeds=vectors)[0]):
            vectors = vectors * scale
        found[name] = vectors
    return found


def key_values_of_vectors(
    model: PreTrainedModel, sites: dict[str, Site], vectors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """{site: (L, 2, B, H, P, D)}, what each attention makes of input vectors (B, P, width), without any prefix.

    vectors: by stack, "encoder" and "decoder"; a decoder that has none reads a zero vector, for its cross-attention.
    There are as many positions as vectors: who makes or resizes these checks it.
    """
    live = LivePrefix({}, record=True)
    if not model.config.is_encoder_decoder:
        given = {"inputs_embeds": vectors["decoder"], "attention_mask": _all_visible(vectors["decoder"])}
        _run(model, model.base_model, live, **given, use_cache=False)
    else:
        encoded = _run(model, model.get_encoder(), live, inputs_embeds=vectors["encoder"]).last_hidden_state
        decoder: Any = model.get_decoder()
        if set(sites) != {"encoder"}:
            nothing = encoded.new_zeros(len(encoded), 1, decoder.get_input_embeddings().weight.shape[1])
            inputs = {"inputs_embeds": vectors.get("decoder", nothing), "encoder_hidden_states": encoded}
            _run(model, decoder, live, **inputs, use_cache=False)
    found = live.recorded or {}
    return {name: torch.stack([torch.stack(found[m]) for m in site.modules]) for name, site in sites.items()}


def place_source(source_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (B, S) of a source with its mask (B, S), and the first position behind it (B, 1).

    Padding on the left takes no positions; padding on the right does, as in the authors' code.
    """
    padding = (source_mask.cumsum(1) == 0).sum(1, keepdim=True)
    columns = torch.arange(source_mask.shape[1], device=source_mask.device)
    return (columns - padding).clamp(min=0), source_mask.shape[1] - padding


def check_sources(source_ids: Tensor, source_mask: Tensor, targets: int | None) -> None:
    """Raise UserError unless an infix has a source (B, S) of a token or more, with its mask, for each target."""
    if source_ids.dim() != 2 or not source_ids.shape[1]:
        raise UserError(f"source_ids {tuple(source_ids.shape)}: give rows of tokens (B, S), one token at least")
    if source_mask.shape != source_ids.shape:
        raise UserError(f"source_attention_mask {tuple(source_mask.shape)}: source_ids are {tuple(source_ids.shape)}")
    if targets is not None and targets != len(source_ids):
        raise UserError(f"source_ids: {len(source_ids)} sources for {targets} targets; give one for each")


def infix_behind_source(
    model: PreTrainedModel, site: Site, learned: Tensor, vectors: Tensor, source_ids: Tensor, source_mask: Tensor
) -> LivePrefix:
    """[source; infix] as the prefix of a target: keys and values (B, H, S + P, D) of each attention.

    The infix's are what the model computes for its input vectors (P, width) behind the source, plus the learned
    (L, 2, H, P, D), or (L, 2, B, H, P, D) where dropout made them differ.
    Raises UserError where source and infix have not enough positions.
    Source: the authors' `get_prompt_p5_infix`.
    """
    batch, length = len(source_ids), len(vectors)
    positions, behind = place_source(source_mask)
    if source_mask.shape[1] + length > position_table(model):  # which counts padding
        check_positions(model, length, int(behind.max()))
    source = LivePrefix({}, record=True)
    inputs = {"input_ids": source_ids, "attention_mask": source_mask, "position_ids": positions}
    _run(model, model.base_model, source, **inputs, use_cache=False)
    # padding on the left attends to nothing, of which some attentions make NaN
    nothing = (source_mask.cumsum(1) == 0)[:, None, :, None]
    source_key_values: KeyValues = {
        module: (key.masked_fill(nothing, 0.0), value.masked_fill(nothing, 0.0))
        for module, (key, value) in (source.recorded or {}).items()
    }

    infix = LivePrefix(source_key_values, visible=source_mask.bool(), record=True)
    inputs = {
        "inputs_embeds": vectors.expand(batch, -1, -1),
        "attention_mask": _all_visible(vectors.expand(batch, -1, -1)),
        "position_ids": behind + torch.arange(length, device=source_ids.device),
    }
    _run(model, model.base_model, infix, **inputs, use_cache=False)
    infix_key_values: KeyValues = infix.recorded or {}

    key_values: KeyValues = {}
    for module, added in zip(site.modules, learned, strict=True):
        parts = zip(source_key_values[module], infix_key_values[module], added, strict=True)
        key, value = (torch.cat((before, own + more), dim=2) for before, own, more in parts)
        key_values[module] = key, value
    visible = torch.cat((source_mask.bool(), source_mask.new_ones(batch, length, dtype=torch.bool)), dim=1)
    return LivePrefix(key_values, visible=visible, start=behind + length)


def _all_visible(vectors: Tensor) -> Tensor:
    """A mask (B, P) of ones for vectors (B, P, width): without one transformers looks for packed rows in positions."""
    return torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)


def _run(model: PreTrainedModel, stack: Any, live: LivePrefix, **inputs: Any) -> Any:
    if "inputs_embeds" in inputs:
        inputs["inputs_embeds"] = inputs["inputs_embeds"].to(model.dtype)
    enable_prefix(model)
    with without_checkpoints(model), _all_layers(stack):
        return stack(**inputs, **{KEYWORD: live})


@contextmanager
def _all_layers(stack: Any) -> Iterator[None]:
    """While open, a stack in training leaves out no layer: each one's keys and values are asked for."""
    share = share_left_out(stack)
    if not share:
        yield
        return
    stack.layerdrop = 0.0
    try:
        yield
    finally:
        stack.layerdrop = share
