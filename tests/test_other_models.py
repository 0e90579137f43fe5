"""Models beside BART, GPT-2 and Llama, and inputs beside token ids: as the base does, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from transformers import (
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    PreTrainedModel,
)

from seq2seq.adapters import AdapterTuning
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import UserError

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": tiny.VOCABULARY}


@pytest.mark.parametrize("kind", [lambda model: PrefixTuning(model, 4, 0), lambda model: AdapterTuning(model, 6)])
@pytest.mark.parametrize("head", [GPT2ForTokenClassification, GPT2ForSequenceClassification])
def test_a_classifier_has_its_own_loss(kind: object, head: type[PreTrainedModel]) -> None:
    torch.manual_seed(0)
    wrapped = kind(head(tiny.gpt2(num_labels=3)).eval())  # type: ignore[operator]
    ids = torch.randint(3, tiny.VOCABULARY, (2, 5))
    labels = torch.randint(3, (2, 5) if head is GPT2ForTokenClassification else (2,))
    output = wrapped(input_ids=ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, -2), labels.flatten())
    tiny.close(output.loss, expected, 1e-6)


@pytest.mark.parametrize("multi_query", [True, False])
def test_one_head_of_keys_for_all_queries(multi_query: bool) -> None:
    torch.manual_seed(0)
    base = GPTBigCodeForCausalLM(GPTBigCodeConfig(**SIZES, multi_query=multi_query)).double().eval()
    prefix = PrefixTuning(base, 4, 0).double().eval()
    assert prefix.key_values()["decoder"].shape[-3] == (1 if multi_query else 4)
    ids = torch.randint(3, tiny.VOCABULARY, (1, 6))
    whole = prefix(input_ids=ids).logits
    first = prefix(input_ids=ids[:, :4], use_cache=True)
    rest = prefix(input_ids=ids[:, 4:], past_key_values=first.past_key_values)
    tiny.close(rest.logits, whole[:, 4:])


def test_an_attention_that_cannot_be_understood_is_one_line() -> None:
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "vocab_size": 60}
    with pytest.raises(UserError, match="GPTJForCausalLM"):
        PrefixTuning(GPTJForCausalLM(GPTJConfig(**sizes)), 4, 0)


def test_adapters_stand_behind_every_attention() -> None:
    adapters = AdapterTuning(tiny.base("t5gemma", "eager"), 6, design=2)
    behind = {name.split(".")[-1] for name, module in adapters.model.named_modules() if module._forward_hooks}
    assert behind == {"self_attn", "cross_attn", "mlp"}


def test_shifted_positions_of_input_vectors_are_those_of_their_tokens() -> None:
    prefix = tiny.prefixed("bart", shift_positions=True)
    inputs = tiny.batch("bart")
    targets = inputs.pop("labels").clamp(min=0)
    vectors = prefix.model.get_input_embeddings()(targets)
    expected = prefix(**inputs, decoder_input_ids=targets).logits
    tiny.close(prefix(**inputs, decoder_inputs_embeds=vectors).logits, expected)


def test_a_float16_base_is_told_what_to_do(tmp_path: Path) -> None:
    tiny.prefixed("gpt2", dtype=torch.float32).save_pretrained(tmp_path)
    PrefixTuning.from_pretrained(tmp_path, tiny.base("gpt2", dtype=torch.bfloat16))
    with pytest.raises(UserError, match=r"load the base in float32 or bfloat16, put the prefix on it, then call .half"):
        PrefixTuning.from_pretrained(tmp_path, tiny.base("gpt2", dtype=torch.float16))


def test_rotary_positions_have_no_end() -> None:
    model = tiny.base("llama", max_position_embeddings=16).eval()
    prefix = PrefixTuning(model, 3, mid_dim=0).eval()
    ids = torch.arange(3, 23)[None]
    whole = prefix(input_ids=ids).logits
    assert torch.allclose(whole[:, :8], prefix(input_ids=ids[:, :8]).logits)
    assert prefix.generate(input_ids=ids, max_new_tokens=4, min_new_tokens=4, do_sample=False).shape[1] == 24
    with pytest.raises(UserError, match=r"prefix length 3 \+ 20 tokens exceed the base's 16 positions"):
        PrefixTuning(tiny.base("gpt2", n_positions=16), 3, mid_dim=0)(input_ids=ids)
