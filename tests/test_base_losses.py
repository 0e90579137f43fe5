"""Which losses are the base's own: what a stock base computes for `labels`, its prefix or adapters compute too."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollatorForSeq2Seq,
    MixtralConfig,
    MixtralForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from seq2seq.adapters import AdapterTuning
from seq2seq.prefixTuning import PrefixTuning

IDS = torch.tensor([[5, 9, 33, 12, 7, 21], [8, 40, 3, 16, 30, 11]])
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS: dict[str, Any] = {
    "prefix": lambda model: PrefixTuning(model, 4, 0),
    "adapters": lambda model: AdapterTuning(model, 6),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def next_tokens_loss(logits: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


@kinds
@pytest.mark.parametrize("asked_for", ["configuration", "call"])
@torch.no_grad()
def test_a_routers_part_is_in_the_loss(kind: str, asked_for: str) -> None:
    torch.manual_seed(0)
    options = {"num_key_value_heads": 2, "num_local_experts": 4, "router_aux_loss_coef": 0.5, "sliding_window": None}
    config = MixtralConfig(**SIZES, **options, vocab_size=60, output_router_logits=asked_for == "configuration")
    wrapped = KINDS[kind](MixtralForCausalLM(config).eval())
    output = wrapped(input_ids=IDS, labels=IDS, **({"output_router_logits": True} if asked_for == "call" else {}))
    assert output.aux_loss > 0
    tiny.close(output.loss, next_tokens_loss(output.logits) + 0.5 * output.aux_loss, 1e-5)


@torch.no_grad()
def test_a_masked_language_model_predicts_the_masked_token_not_the_next() -> None:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    model = ModernBertForMaskedLM(ModernBertConfig(**SIZES, **special, vocab_size=60, mask_token_id=4)).eval()
    labels = torch.full_like(IDS, -100)
    labels[:, 3] = IDS[:, 3]
    output = AdapterTuning(model, 6)(input_ids=IDS, labels=labels)
    tiny.close(output.loss, cross_entropy(output.logits[:, 3], IDS[:, 3]), 1e-5)


@kinds
@torch.no_grad()
def test_a_loss_function_of_the_users_and_labels_that_are_shifted_already_are_the_bases(kind: str) -> None:
    wrapped = KINDS[kind](tiny.base("llama", dtype=torch.float32))
    shifted = torch.full_like(IDS, -100)
    shifted[:, 2] = 7
    output = wrapped(input_ids=IDS, labels=IDS, shift_labels=shifted)
    tiny.close(output.loss, cross_entropy(output.logits[:, 2], shifted[:, 2]), 1e-5)
    wrapped.model.loss_function = lambda logits, labels, vocab_size, **options: logits.sum() * 0 + 42
    assert wrapped(input_ids=IDS, labels=IDS).loss == 42
    assert wrapped.accepts_loss_kwargs  # by Llama's own rule: its forward takes any options


@kinds
def test_the_collator_of_sequence_to_sequence_batches_asks_the_base(kind: str, tiny_tokenizer: Any) -> None:
    rows = [{"input_ids": [5, 9, 33], "labels": [7, 8]}, {"input_ids": [5], "labels": [7]}]
    gpt2, bart = KINDS[kind](tiny.base("gpt2")), KINDS[kind](tiny.base("bart"))
    assert "decoder_input_ids" not in DataCollatorForSeq2Seq(tiny_tokenizer, model=gpt2)(rows)
    batch = DataCollatorForSeq2Seq(tiny_tokenizer, model=bart)(rows)
    assert batch["decoder_input_ids"].tolist() == [[tiny.EOS, 7], [tiny.EOS, 7]]


def test_a_loss_of_our_own_is_divided_whatever_the_base_takes() -> None:
    prefix = tiny.prefixed("gpt2")
    prefix.model.accepts_loss_kwargs = False
    assert prefix.accepts_loss_kwargs
