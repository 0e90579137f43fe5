"""What a prefix or adapters take over from the base they are put on: its precision, its mode, its ways to be called."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import tiny
import torch
from small_runs import write_gpt2_base
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from seq2seq.adapters import AdapterTuning
from seq2seq.prefixTuning import PrefixEmbTuning, PrefixTuning
from seq2seq.utils import UserError

Wrapped = PrefixTuning | AdapterTuning
KINDS: dict[str, Any] = {
    "prefix": lambda model, **options: PrefixTuning(model, 4, 8, **options),
    "flat": lambda model, **options: PrefixTuning(model, 4, 0, **options),
    "vectors": lambda model, **options: PrefixEmbTuning(model, 4, 8, **options),
    "adapters": lambda model, **options: AdapterTuning(model, 6, **options),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bart", "gpt2"])
@pytest.mark.parametrize(
    ("base", "trained"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_what_is_trained_is_as_exact_as_the_base_and_at_least_float32(
    kind: str, family: str, base: torch.dtype, trained: torch.dtype
) -> None:
    wrapped = KINDS[kind](tiny.base(family, dtype=base))
    assert {p.dtype for p in wrapped.parameters() if p.requires_grad} == {trained}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_in_the_bases_mode(kind: str, training: bool) -> None:
    assert KINDS[kind](tiny.base("bart").train(training)).training is training


@pytest.mark.parametrize("kind", KINDS)
def test_the_bases_dropout_is_off_from_the_start_where_it_is_to_be(kind: str) -> None:
    wrapped = KINDS[kind](tiny.base("gpt2").train(), base_dropout=False)
    training = [module for module in wrapped.model.modules() if module.training]
    assert wrapped.training and training == [wrapped.get_input_embeddings()]  # for NEFTune's noise
    first, second = (wrapped(**tiny.batch("gpt2")).loss for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("between", ["another", "detach"])
@pytest.mark.parametrize("family", ["bart", "gpt2", "llama"])
@pytest.mark.parametrize("kind", [*KINDS, "adapters of design 2"])
def test_layers_are_computed_again_with_what_was_in_them(kind: str, family: str, between: str) -> None:
    """Gradient checkpointing; before the backward pass the base serves as another model, or as itself."""
    none = {name: 0.0 for name in ("dropout", "attention_dropout", "activation_dropout", "resid_pdrop", "embd_pdrop")}
    base = tiny.base(family, **none, attn_pdrop=0.0)
    make = KINDS.get(kind, lambda model: AdapterTuning(model, 6, 2))
    one, other, batch = make(base).train(), make(base).train(), tiny.batch(family)
    for wrapped in (one, other):
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)

    def gradients(meanwhile: Any) -> list[torch.Tensor]:
        loss = one(**batch).loss
        meanwhile()
        return list(torch.autograd.grad(loss, [p for p in one.parameters() if p.requires_grad]))

    expected = gradients(lambda: None)
    one.gradient_checkpointing_enable()
    alone = other(**batch).logits.detach()
    called = {"another": lambda: other(**batch), "detach": lambda: one.detach()(**batch)}[between]
    found = gradients(called)
    for own, same in zip(expected, found, strict=True):
        tiny.close(own, same)
    assert torch.equal(other(**batch).logits, alone)


def test_a_decoder_without_tokens_is_told_what_to_give() -> None:
    with pytest.raises(UserError, match="without input_ids and inputs_embeds; give one of them"):
        KINDS["prefix"](tiny.base("gpt2"))()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_back_is_in_eval_mode(kind: str, tmp_path: Path) -> None:
    options = {} if kind == "adapters" else {"dropout": 0.5}
    wrapped = KINDS[kind](tiny.base("gpt2"), **options)
    wrapped.save_pretrained(tmp_path)
    back = type(wrapped).from_pretrained(tmp_path, tiny.base("gpt2").train())
    assert not any(module.training for module in back.modules())
    texts = [back.generate(**tiny.prompts("gpt2"), max_new_tokens=6, do_sample=False) for _ in range(3)]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])


@pytest.mark.parametrize("kind", ["prefix", "adapters"])
@pytest.mark.parametrize("family", ["bart", "gpt2", "llama"])
def test_it_is_called_as_the_base_is(kind: str, family: str) -> None:
    wrapped, inputs = KINDS[kind](tiny.base(family)), tiny.batch(family)
    named = wrapped(**inputs)
    as_tuple = wrapped(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], named.loss) and torch.equal(as_tuple[1], named.logits)
    positional = wrapped(inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=inputs["labels"])
    assert torch.equal(positional.logits, named.logits)
    with pytest.raises(TypeError, match="input_ids"):
        wrapped(inputs["input_ids"], **inputs)


@pytest.mark.parametrize("kind", ["prefix", "adapters"])
def test_the_losses_of_accumulated_batches_are_divided_by_their_tokens(kind: str) -> None:
    """transformers' Trainer hands their number down, and sums."""
    wrapped, inputs = KINDS[kind](tiny.base("gpt2")), tiny.batch("gpt2")
    tokens = (inputs["labels"][:, 1:] != -100).sum()
    total = wrapped(**inputs, num_items_in_batch=torch.tensor(5)).loss * 5
    tiny.close(total, wrapped(**inputs).loss * tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_reentrant_checkpoints_are_an_error_that_says_what_to_type(kind: str, family: str) -> None:
    wrapped = KINDS[kind](tiny.base(family)).train()
    wrapped.model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(UserError, match=r'activation_checkpointing_enable\(\{"use_reentrant": False\}\)'):
        wrapped(**tiny.batch(family))
    wrapped.model.gradient_checkpointing_enable({"use_reentrant": False})
    wrapped(**tiny.batch(family)).loss.backward()


@pytest.mark.parametrize("wrap", [PrefixTuning, AdapterTuning])
@pytest.mark.parametrize("first", [PrefixTuning, AdapterTuning])
def test_a_model_that_is_wrapped_is_not_wrapped_again(first: Any, wrap: Any) -> None:
    with pytest.raises(UserError, match=rf"model: is a {first.__name__} already; give its base"):
        wrap(first(tiny.base("gpt2")))


@pytest.mark.parametrize("wrap", [PrefixTuning, AdapterTuning])
@pytest.mark.parametrize("what", [None, "gpt2", torch.nn.Linear(2, 2)])
def test_what_is_no_model_of_transformers_is_not_wrapped(what: Any, wrap: Any) -> None:
    with pytest.raises(UserError, match="model: is a .*; give a model of transformers"):
        wrap(what)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preseqlen": 2.5}, "preseqlen 2.5: is a float; give a whole number"),
        ({"preseqlen": True}, "preseqlen True: is a bool"),
        ({"mid_dim": "8"}, "mid_dim '8': is a str"),
        ({"mid_dim": -1}, "mid_dim -1: an MLP is at least 1 wide"),
        ({"dropout": 1.5}, "dropout 1.5: is a share, at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout -0.1: is a share"),
    ],
)
def test_a_value_out_of_range_is_an_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PrefixTuning(tiny.base("gpt2"), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_pipeline_generates_with_it(kind: str, num_beams: int, tiny_tokenizer: Any, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(write_gpt2_base(tmp_path / "base", tiny_tokenizer))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    inputs = tokenizer("the red", return_tensors="pt")
    options: dict[str, Any] = {"max_new_tokens": 6, "num_beams": num_beams, "do_sample": False}
    without = tokenizer.decode(base.generate(**inputs, **options)[0], skip_special_tokens=True)
    wrapped = KINDS[kind](base).eval()
    torch.manual_seed(1)
    for parameter in filter(lambda parameter: parameter.requires_grad, wrapped.parameters()):
        torch.nn.init.normal_(parameter)
    with_it = tokenizer.decode(wrapped.generate(**inputs, **options)[0], skip_special_tokens=True)
    texts = pipeline("text-generation", model=wrapped, tokenizer=tokenizer, device="cpu")("the red", **options)
    assert texts[0]["generated_text"] == with_it != without


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_data_parallels_is_told_what_to_start_instead(kind: str) -> None:
    replica = KINDS[kind](tiny.base("gpt2"))._replicate_for_data_parallel()
    for call in (replica, replica.generate):
        with pytest.raises(UserError, match=r"nn.DataParallel .*torchrun.*CUDA_VISIBLE_DEVICES=0"):
            call(input_ids=torch.tensor([[5, 6]]))


def test_a_generation_config_is_the_bases() -> None:
    prefix, config = tiny.prefixed("gpt2"), Mock()
    prefix.generation_config = config
    assert prefix.model.generation_config is config
