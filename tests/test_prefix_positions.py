"""Positions behind a prefix, whatever else a forward is called with: masks of any type, vectors, a past by any name."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from tiny import close
from torch import Tensor
from transformers import M2M100Config, M2M100ForConditionalGeneration

from seq2seq.prefix_positions import shifted_stacks, stacks_to_shift
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import UserError


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_may_have_any_type(dtype: torch.dtype) -> None:
    prefix, inputs = tiny.prefixed("gpt2"), tiny.batch("gpt2", "left")
    mask = inputs["attention_mask"].to(dtype)
    close(prefix(**{**inputs, "attention_mask": mask}).logits, prefix(**inputs).logits)


def test_a_mask_of_queries_and_keys_gives_no_positions() -> None:
    prefix, ids = tiny.prefixed("gpt2"), tiny.rows("gpt2")[0]["input_ids"]
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    close(prefix(input_ids=ids, attention_mask=mask).logits, prefix(input_ids=ids).logits)


@pytest.mark.parametrize("infix", [False, True])
def test_positions_of_all_rows_may_be_given_once(infix: bool) -> None:
    prefix, ids = tiny.prefixed("gpt2", infix=infix), torch.arange(3, 15).view(3, 4)
    more = {"source_ids": torch.full((3, 5), 9)} if infix else {}
    once = torch.arange(4)[None]
    close(prefix(input_ids=ids, position_ids=once, **more).logits, prefix(input_ids=ids, **more).logits)


def test_shifted_bart_positions_of_input_vectors() -> None:
    prefix, ids = tiny.prefixed("bart", shift_positions=True), torch.arange(5, 11).view(2, 3)
    inputs = {"input_ids": torch.full((2, 5), 7)}
    vectors = prefix.model.get_decoder().get_input_embeddings()(ids)
    close(prefix(**inputs, decoder_inputs_embeds=vectors).logits, prefix(**inputs, decoder_input_ids=ids).logits)


@pytest.mark.parametrize("name", ["past_key_values_length", "cache_length"])
@torch.no_grad()
def test_bart_positions_are_shifted_whatever_the_past_is_called(name: str) -> None:
    prefix = tiny.prefixed("bart")
    stack: Any = prefix.model.get_decoder()
    if name == "cache_length":
        kind: Any = type(stack.embed_positions)

        class Renamed(kind):
            def forward(self, input_ids: Tensor, cache_length: int = 0, position_ids: Tensor | None = None) -> Any:
                return super().forward(input_ids, cache_length, position_ids)

        stack.embed_positions.__class__ = Renamed
    assert stacks_to_shift(prefix.model, prefix.sites)
    ids = torch.full((2, 3), 7)
    expected = stack.embed_positions(ids, 6)
    with shifted_stacks(prefix.model, [stack], 4):
        close(stack.embed_positions(ids, **{name: 2}), expected)


def test_positions_of_another_kind_are_not_taken_for_barts() -> None:
    stacks = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 60}
    with pytest.raises(UserError, match="M2M100.* has no learned positions of BART's kind"):
        PrefixTuning(M2M100ForConditionalGeneration(M2M100Config(**stacks, **sizes)), shift_positions=True)
