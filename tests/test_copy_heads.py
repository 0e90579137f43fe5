"""A new GPT-2 that starts with induction heads copies its context; one that does not, cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small_runs import start, write_text
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from gpt2.copy_heads import start_copying
from seq2seq.utils import UserError

VOCABULARY, LENGTH = 400, 24
SIZES = {"n_embd": 256, "n_layer": 2, "n_head": 8}
OWN: Any = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}


def model_of(**sizes: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, initializer_range=0.06, **OWN, **{**SIZES, **sizes})
    return GPT2LMHeadModel(config).eval()


def repeated(offset: int, vocabulary: int = VOCABULARY) -> Tensor:
    """(16, offset + 2 · LENGTH + 1): tokens of the vocabulary's first half, a text of the second, <eos>, the text."""
    generator = torch.Generator().manual_seed(1)
    before = torch.randint(2, vocabulary // 2, (16, offset), generator=generator)
    text = torch.randint(vocabulary // 2, vocabulary, (16, LENGTH), generator=generator)
    return torch.cat((before, text, torch.zeros(16, 1, dtype=torch.long), text), 1)


@torch.no_grad()
def copied(model: GPT2LMHeadModel, ids: Tensor) -> float:
    """Share of the second text's tokens, but its first, that come out as the likeliest."""
    predicted = model(ids).logits[:, -LENGTH:-1].argmax(-1)
    return (predicted == ids[:, -LENGTH + 1 :]).float().mean().item()


@pytest.mark.parametrize("offset", [0, 40])
def test_an_untrained_model_copies_wherever_the_text_stands(offset):
    model = model_of()
    assert copied(model, repeated(offset)) < 0.1
    start_copying(model)
    assert copied(model, repeated(offset)) > 0.3


def test_the_seed_decides():
    first, again, other = model_of(), model_of(), model_of()
    start_copying(first, seed=1)
    start_copying(again, seed=1)
    start_copying(other, seed=2)
    first, again, other = (model.transformer.h[1].attn.c_attn.weight for model in (first, again, other))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("sizes", [{"n_layer": 1}, {"n_head": 2}, {"n_embd": 24, "n_head": 8}])
def test_a_shape_without_room_is_refused(sizes):
    with pytest.raises(UserError, match="--start_copying: needs 2 layers, 3 heads and heads of even width"):
        start_copying(model_of(**sizes))


def options_of(tmp_path: Any, program: str, sizes: dict[str, int]) -> dict[str, Any]:
    return {
        "program": program, "mode": "pretrain", "data_dir": write_text(tmp_path / "text"), "start_copying": "yes",
        "base_config": json.dumps(sizes), "vocab_size": 300, "tokens_per_batch": 512, "max_steps": 1,
        "learning_rate": 1e-12, "precision": "32", "progress": "no", "threads": 1, "cache_dir": tmp_path / "cache",
        "output_dir": tmp_path / "run",
    }  # fmt: skip


def test_pretraining_starts_from_it(tmp_path):
    start(**options_of(tmp_path, "train_e2e.py", {**SIZES, "n_positions": 514, "initializer_range": 0.06}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model", dtype=torch.float32).eval()
    assert copied(model, repeated(0, 300)) > 0.5


def test_barts_pretraining_refuses_it(tmp_path):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    with pytest.raises(UserError, match="--start_copying: is for GPT-2's pretraining"):
        start(**options_of(tmp_path, "train_bart.py", sizes))
