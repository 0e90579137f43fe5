"""What holds for bottleneck adapters in a frozen base, and GPT-2's other ways to condition."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_text_forms import word_tokenizer
from tiny import close, exactness
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from gpt2.train_control import FORMS, AdapterTuning
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import IGNORE, UserError

FAMILIES = ["gpt2", "llama", "bart"]
SEARCH = {"max_new_tokens": 8, "do_sample": False}
SHARED = os.environ.get("PREFIXTUNING_SHARED")


def adapted(family: str, design: int = 1, attention: str = "sdpa", base: Any = None, **options: Any) -> AdapterTuning:
    """Adapters far from their start, on a random base; the same arguments give the same weights."""
    model = tiny.base(family, attention) if base is None else base
    torch.manual_seed(13)
    adapters = AdapterTuning(model, bottleneck=6, design=design, **options).double().eval()
    for parameter in adapters.adapters.parameters():
        nn.init.normal_(parameter, std=0.5)
    return adapters


def step(adapters: AdapterTuning, **inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    adapters.zero_grad()
    loss = adapters(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in adapters.adapters.named_parameters()}


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "design", "places"),
    [
        ("gpt2", 1, {"decoder": {"block"}}),
        ("gpt2", 2, {"decoder": {"attn", "mlp"}}),
        ("llama", 2, {"decoder": {"self_attn", "mlp"}}),
        ("bart", 1, {"encoder": {"block"}, "decoder": {"block"}}),
        ("bart", 2, {"encoder": {"self_attn", "fc2"}, "decoder": {"self_attn", "encoder_attn", "fc2"}}),
    ],
)
def test_where_adapters_stand(family: str, design: int, places: dict[str, set[str]]) -> None:
    adapters = adapted(family, design)
    found = {name: [set(layer) for layer in layers] for name, layers in adapters.adapters.items()}
    assert found == {name: [expected] * 2 for name, expected in places.items()}
    _, gradients = step(adapters.train(), **tiny.batch(family))
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    norm = 2 * 32 if design == 1 else 0
    one = norm + 32 * 6 + 6 + 6 * 32 + 32
    assert adapters.num_adapter_parameters() == one * 2 * sum(map(len, places.values()))


@pytest.mark.parametrize("design", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_is_frozen_and_untouched_once_detached(family: str, design: int) -> None:
    model, inputs = tiny.base(family), tiny.batch(family)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    stock = model(**inputs).logits
    adapters = adapted(family, design, base=model)
    changed = adapters(**inputs).logits
    assert not torch.equal(changed, stock)
    step(adapters.train(), **inputs)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert adapters.eval().detach() is model
    assert torch.equal(model(**inputs).logits, stock)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.state_dict().keys() == weights.keys()
    assert torch.equal(adapters(**inputs).logits, changed)


def test_two_sets_of_adapters_on_one_base_do_not_disturb_each_other() -> None:
    first, inputs = adapted("gpt2", 1), tiny.batch("gpt2")
    before = first(**inputs).logits
    second = adapted("gpt2", 2, base=first.model)
    other = second(**inputs).logits
    assert not torch.equal(before, other)
    assert torch.equal(first(**inputs).logits, before)
    assert torch.equal(second(**inputs).logits, other)
    second.detach()
    assert torch.equal(first(**inputs).logits, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generation_keeps_its_adapters_whatever_is_called_meanwhile(family: str) -> None:
    first, prompts = adapted(family, 1).eval(), {**tiny.prompts(family), **SEARCH, "num_beams": 3}
    second = adapted(family, 2, base=first.model).eval()
    prefix = PrefixTuning(first.model, 4, mid_dim=8).double().eval()

    class Others(LogitsProcessor):
        def __init__(self, *others: Any) -> None:
            self.others = others

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            for other in self.others:
                other(**tiny.batch(family))
            return scores

    alone = first.generate(**prompts)
    assert first.generate(**prompts, logits_processor=LogitsProcessorList([Others(second, prefix)])).equal(alone)
    with ThreadPoolExecutor(2) as pool:
        runs = [(pool.submit(first.generate, **prompts), pool.submit(second.generate, **prompts)) for _ in range(4)]
        of_first, of_second = zip(*[(one.result(), other.result()) for one, other in runs], strict=True)
    others = second.generate(**prompts)
    assert not others.equal(alone)
    assert all(texts.equal(alone) for texts in of_first) and all(texts.equal(others) for texts in of_second)
    second.detach()
    with_prefix = prefix.generate(**prompts)
    assert prefix.generate(**prompts, logits_processor=LogitsProcessorList([Others(first)])).equal(with_prefix)
    assert not first.model._forward_hooks and first._attached() is None


@pytest.mark.parametrize("attached", [True, False])
def test_in_a_compiled_base_they_act_once(attached: bool) -> None:
    adapters, inputs = adapted("gpt2", 2), tiny.batch("gpt2")
    expected = adapters(**inputs).logits
    if not attached:
        adapters.detach()
    stack: Any = adapters.model.base_model
    stack.forward = torch.compile(stack.forward, backend="eager")
    close(adapters(**inputs).logits, expected)


@pytest.mark.parametrize("design", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_switches_that_change_nothing(family: str, design: int) -> None:
    adapters, inputs = adapted(family, design), tiny.batch(family)
    loss, gradients = step(adapters, **inputs)
    close(step(adapted(family, design, "eager"), **inputs)[0], loss, exactness(family, "eager"))
    for num_beams in (1, 3):
        search = {**tiny.prompts(family), **SEARCH, "num_beams": num_beams}
        cached, uncached = (adapters.generate(**search, use_cache=use) for use in (True, False))
        assert cached.tolist() == uncached.tolist()
    logits = adapters(**inputs).logits
    for row, example in enumerate(tiny.rows(family)):
        close(logits[row][inputs["labels"][row] != -100], adapters(**example).logits[0])


@pytest.mark.parametrize("base_dropout", [True, False])
@pytest.mark.parametrize("design", [1, 2])
def test_gradient_checkpointing_changes_nothing(design: int, base_dropout: bool) -> None:
    model = tiny.base("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    adapters, inputs = adapted("gpt2", design, base=model, base_dropout=base_dropout).train(), tiny.batch("gpt2")
    loss, gradients = step(adapters, **inputs)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again, replayed = step(adapters, **inputs)
    close(again, loss)
    for name, gradient in gradients.items():
        close(replayed[name], gradient)


def test_base_dropout_is_on_in_training_unless_told() -> None:
    inputs = tiny.batch("gpt2")
    for base_dropout, varies in ((True, True), (False, False)):
        adapters = adapted("gpt2", base_dropout=base_dropout).train()
        assert torch.equal(adapters(**inputs).logits, adapters(**inputs).logits) is not varies


def test_weights_start_as_the_authors_do() -> None:
    torch.manual_seed(1)
    adapters = AdapterTuning(tiny.base("gpt2", n_embd=128, initializer_range=0.02), bottleneck=100, design=1)
    for name, value in adapters.adapters.named_parameters():
        if name.endswith("ln.weight"):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("design", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_come_back_from_their_files_bit_for_bit(family: str, design: int, tmp_path: Path) -> None:
    adapters = adapted(family, design, base_dropout=False)
    adapters.save_pretrained(tmp_path)
    back = AdapterTuning.from_pretrained(tmp_path, tiny.base(family)).eval()
    assert (back.bottleneck, back.design, back.base_dropout) == (6, design, False)
    assert torch.equal(back(**tiny.batch(family)).logits, adapters(**tiny.batch(family)).logits)
    with pytest.raises(UserError, match="this adapter was trained on another base .*vocab_size 60 there, 61 here"):
        AdapterTuning.from_pretrained(tmp_path, tiny.base(family, vocab_size=61))
    (tmp_path / "adapters.safetensors").unlink()
    with pytest.raises(UserError, match=r"no adapters\.safetensors"):
        AdapterTuning.from_pretrained(tmp_path, tiny.base(family))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bottleneck": "6"}, "bottleneck is '6', no int"),
        ({"preseqlen": 6}, "AdapterTuning has no option preseqlen, only bottleneck, design, base_dropout"),
        ({"base": []}, r"damaged \(base is \[\]\)"),
    ],
)
def test_a_configuration_that_is_none_is_an_error_that_names_it(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    AdapterTuning(tiny.base("gpt2"), bottleneck=6).save_pretrained(tmp_path)
    path = tmp_path / "adapters_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"adapters_config\.json: {said}"):
        AdapterTuning.from_pretrained(tmp_path, tiny.base("gpt2"))


def test_adapters_in_float32_serve_a_bf16_base() -> None:
    exact, inputs = adapted("gpt2"), tiny.batch("gpt2")
    rough = AdapterTuning(tiny.base("gpt2", dtype=torch.bfloat16), bottleneck=6).eval()
    rough.adapters.load_state_dict(exact.adapters.state_dict())
    assert {p.dtype for p in rough.adapters.parameters()} == {torch.float32}
    difference = rough(**inputs).logits.float() - exact(**inputs).logits
    assert difference.abs().max() < 0.1 * exact(**inputs).logits.abs().max()


ORIGINAL_NAMES = {
    1: ["transformer.h.{}.adapter_block"],
    2: ["transformer.h.{}.adapter_block1", "transformer.h.{}.adapter_block2"],
    "stacks": ["adapter_blocks1.{}", "adapter_blocks2.{}"],
    "mlp first": ["h.{}.mlp.adapter_block", "h.{}.attn.adapter_block"],
}


@pytest.mark.parametrize(("design", "names"), [(1, 1), (2, 2), (2, "stacks"), (2, "mlp first")])
def test_the_authors_names_are_read(design: int, names: int | str) -> None:
    adapters = adapted("gpt2", design)
    state: dict[str, Tensor] = {"module.transformer.wte.weight": torch.zeros(60, 32)}
    order = ["mlp", "attn"] if names == "mlp first" else ["attn", "mlp"] if design == 2 else ["block"]
    for layer, places in enumerate(adapters.adapters["decoder"]):
        for place, name in zip(order, ORIGINAL_NAMES[names], strict=True):
            values = places[place].state_dict()
            state.update({f"module.{name.format(layer)}.{key}": value + 1 for key, value in values.items()})
    before = {name: value.clone() for name, value in adapters.adapters.state_dict().items()}
    del (broken := dict(state))[next(name for name in state if "project_up.bias" in name)]
    with pytest.raises(UserError, match=r"project_up\.bias: the checkpoint has none"):
        adapters.load_original(broken)
    adapters.load_original(state)
    assert all(torch.equal(value, before[name] + 1) for name, value in adapters.adapters.state_dict().items())
    with pytest.raises(UserError, match=rf"has {2 * design} adapters, design {3 - design} has"):
        adapted("gpt2", 3 - design).load_original(state)
    with pytest.raises(UserError, match="GPT-2's"):
        adapted("bart", design).load_original(state)


def test_a_design_or_a_width_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UserError, match="design 3"):
        AdapterTuning(tiny.base("gpt2"), design=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="bottleneck 0"):
        AdapterTuning(tiny.base("gpt2"), bottleneck=0)


# -- what stands where ------------------------------------------------------------------------------------------------


WORDS = ["<|endoftext|>", "[PAD]", "name", ":", "Alba", "Mill", "|", "type", "inn", "is", "an", ".", "river"]


def example(source: str, target: str, index: int = 0) -> Any:
    ids = {word: number for number, word in enumerate(WORDS)}
    rows = ([*(ids[word] for word in text.split()), 0] for text in (source, target))
    return dict(zip(("input_ids", "labels", "index"), (*map(np.array, rows), index), strict=True))


def test_the_forms_of_a_batch() -> None:
    tokenizer = word_tokenizer(WORDS, eos_token="<|endoftext|>", pad_token="[PAD]")
    rows = [example("name : Alba", "an inn ."), example("river", "Mill")]
    for name in ("cat", "peek"):
        assert FORMS[name](tokenizer).collate(rows)["input_ids"].tolist() == [
            [2, 3, 4, 0, 10, 8, 11, 0],
            [12, 0, 5, 0, 1, 1, 1, 1],
        ]
    for name in ("nopeek", "infix"):
        form = FORMS[name](tokenizer)
        batch, prompts = form.collate(rows), form.prompts(rows)
        assert batch["input_ids"].tolist() == [[0, 10, 8, 11, 0], [0, 5, 0, 1, 1]]
        assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
        assert batch["labels"].tolist() == [[IGNORE, 10, 8, 11, 0], [IGNORE, 5, 0, IGNORE, IGNORE]]
        assert prompts["input_ids"].tolist() == [[0], [0]]
        assert prompts["labels"].tolist() == [[10, 8, 11, 0], [5, 0, IGNORE, IGNORE]]
        for made in (batch, prompts) if name == "infix" else ():
            assert made["source_ids"].tolist() == [[2, 3, 4], [1, 1, 12]]
            assert made["source_attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.skipif(SHARED is None, reason="the authors' own batches are not in the repository")
@pytest.mark.parametrize("task", ["data2text", "webnlg", "triples"])
def test_the_forms_hold_what_the_authors_batches_hold(task: str) -> None:
    golden = json.loads((Path(SHARED or "") / "oracle" / "data_golden.json").read_text())[task]
    tokenizer = word_tokenizer(list(golden["vocab"]), eos_token="<|endoftext|>", pad_token="[PAD]")
    examples = []
    for row, ids in enumerate(golden["training_input_ids"]):
        cut = ids.index(0) + 1
        examples.append({"input_ids": np.array(ids[:cut]), "labels": np.array(ids[cut:]), "index": row})
    for mode, form in FORMS.items():
        authors, batch = golden["collated"][mode], form(tokenizer).collate(examples)
        assert batch["input_ids"].tolist() == authors["input_ids"]
        assert batch["attention_mask"].tolist() == authors["tgt_attn"]
        ours, theirs = batch["labels"][:, 1:], torch.tensor(authors["labels"])[:, 1:]  # the first predicts nothing
        assert ours.tolist() == theirs.tolist()
        if mode == "infix":
            for row, mask, source, seen in zip(
                batch["source_ids"], batch["source_attention_mask"], authors["src"], authors["src_attn"], strict=True
            ):
                assert row[mask == 1].tolist() == [token for token, real in zip(source, seen, strict=True) if real]


@pytest.mark.parametrize("form", ["nopeek", "infix"])
def test_a_form_and_its_prefix_fit_together(form: Any) -> None:
    tokenizer = word_tokenizer(WORDS, eos_token="<|endoftext|>", pad_token="[PAD]")
    rows = [example("name : Alba", "an inn ."), example("river", "Mill")]
    prefix = tiny.prefixed("gpt2", infix=form == "infix")
    batch, prompts = FORMS[form](tokenizer).collate(rows), FORMS[form](tokenizer).prompts(rows)
    del batch["index"], prompts["index"], prompts["labels"]
    assert prefix(**batch).loss.isfinite()
    assert prefix.generate(**prompts, **SEARCH, pad_token_id=1).shape[0] == 2


def test_a_source_that_holds_the_padding_token_is_seen_whole() -> None:
    form = FORMS["infix"](word_tokenizer(WORDS, eos_token="<|endoftext|>"))  # the end pads
    rows = [example("name <|endoftext|> Alba", "an inn ."), example("river", "Mill")]
    assert form.collate(rows)["source_attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
