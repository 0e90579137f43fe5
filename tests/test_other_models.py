"""Models beside BART, GPT-2 and Llama, and inputs beside token ids: as the base does, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from transformers import (
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    DogeConfig,
    DogeForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from seq2seq.adapters import AdapterTuning
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import UserError

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": tiny.VOCABULARY}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}


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


def test_an_attention_that_asks_twice_is_refused() -> None:
    """DiffLlama's function is called for each half of the values: a prefix would come in twice, and wrongly."""
    config = DiffLlamaConfig(**LLAMA, num_key_value_heads=2)
    with pytest.raises(UserError, match="DiffLlamaForCausalLM: no decoder attention found that a prefix can enter"):
        PrefixTuning(DiffLlamaForCausalLM(config), 4, 0)


def test_layers_of_another_kind_are_refused() -> None:
    """MiniMax's linear attention looks for no prefix."""
    layers = {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2, "num_key_value_heads": 2}
    with pytest.raises(UserError, match=r"differs from layer to layer \(MiniMaxAttention 2 × 8, MiniMaxLightningAtt"):
        PrefixTuning(MiniMaxForCausalLM(MiniMaxConfig(**LLAMA, **layers, head_dim=8)), 4, 0)


def test_layers_of_another_width_are_refused() -> None:
    widths = {"head_dim": 8, "global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 60}
    config = Gemma4TextConfig(**LLAMA, **widths, num_key_value_heads=2, num_kv_shared_layers=0, sliding_window=8)
    with pytest.raises(UserError, match=r"differs from layer to layer \(Gemma4TextAttention 2 × 16, Gemma4Text"):
        PrefixTuning(Gemma4ForCausalLM(config), 4, 0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_of_each_head_is_kept(attention: str) -> None:
    """Doge hides keys for some heads and not for others, also from a single new token."""
    torch.manual_seed(0)
    config = DogeConfig(**LLAMA, num_key_value_heads=2, keep_window_size=3, initializer_range=0.3)
    prefix = PrefixTuning(DogeForCausalLM._from_config(config, attn_implementation=attention).double().eval(), 4, 0)
    for layer in prefix.model.base_model.layers:
        torch.nn.init.normal_(layer.self_attn.A)
    prefix.double().eval()
    ids = torch.tensor([[5, 9, 33, 12, 40, 7]])
    found = prefix.generate(input_ids=ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=1)
    for _ in range(4):
        ids = torch.cat((ids, prefix(input_ids=ids).logits[:, -1:].argmax(-1)), dim=1)
    assert found.shape == ids.shape


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_static_cache_gives_the_same_texts(family: str, num_beams: int) -> None:
    """transformers then makes masks beforehand, and a dictionary of them where layers are of several kinds."""
    torch.manual_seed(0)
    options = {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
    model = Qwen3ForCausalLM(Qwen3Config(**LLAMA, **options)) if family == "qwen3" else tiny.base("llama")
    prefix = PrefixTuning(model.double().eval(), 4, 0).double().eval()
    ids = torch.tensor([[1, 1, 33, 12, 40], [5, 9, 33, 12, 40]])
    search = {"max_new_tokens": 6, "num_beams": num_beams, "do_sample": False, "pad_token_id": 1, "eos_token_id": 2}
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long(), **search}
    assert prefix.generate(**inputs, cache_implementation="static").tolist() == prefix.generate(**inputs).tolist()


def test_a_base_without_a_bos_token_generates() -> None:
    config = PegasusConfig(**tiny.SIZES_OF_BARTS)
    assert not hasattr(config, "bos_token_id") or config.bos_token_id is None
    prefix = PrefixTuning(PegasusForConditionalGeneration(config).eval(), 4, 0).eval()
    assert prefix.generate(input_ids=torch.tensor([[5, 9, 1]]), max_new_tokens=3, min_new_tokens=3).shape == (1, 4)


def test_rows_of_choices_are_refused() -> None:
    prefix = PrefixTuning(GPT2DoubleHeadsModel(tiny.gpt2()).eval(), 4, 0)
    with pytest.raises(UserError, match=r"input_ids \(2, 1, 3\): a prefix stands in front of rows of tokens"):
        prefix(input_ids=torch.full((2, 1, 3), 7))
