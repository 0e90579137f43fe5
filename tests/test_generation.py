"""Fast beam search gives what transformers' own gives, and does less for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import EOS, PAD, VOCABULARY, base, close, prefixed, prompts
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
)

from seq2seq import beam_cache, generation
from seq2seq.fast_layers import fast_layers
from seq2seq.generation import fast_search, generate
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import UserError

FAMILIES = ["bart", "gpt2", "llama"]
OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 2},
    {"num_beams": 6, "early_stopping": True},
    {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 4, "early_stopping": True, "length_penalty": 0.5, "no_repeat_ngram_size": 3, "min_new_tokens": 6},
    {"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never"},
    {"num_beams": 4, "length_penalty": 2.0, "num_return_sequences": 3},
    {"num_beams": 4, "early_stopping": True, "num_return_sequences": 4, "max_new_tokens": 20},
    {"num_beams": 4, "bad_words_ids": [[5], [9], [11, 12]], "no_repeat_ngram_size": 2},
    {"num_beams": 4, "forced_eos_token_id": EOS, "forced_bos_token_id": 0, "min_length": 5},
    {"num_beams": 4, "eos_token_id": [EOS, 5, 9, 13, 17, 21, 25], "early_stopping": True},
    {"num_beams": 5, "eos_token_id": [EOS, 5, 9, 13, 17, 21, 25], "length_penalty": 2.0},
    {"num_beams": 4, "suppress_tokens": [EOS], "max_new_tokens": 15},
    {"num_beams": 4, "repetition_penalty": 1.3},
    {"num_beams": 4, "max_length": 12},
    {"num_beams": 4, "max_new_tokens": 1},
]


@pytest.fixture(autouse=True)
def squeeze_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squeeze the pools of short searches too."""
    monkeypatch.setattr(beam_cache, "SPARE_STEPS", 1)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A list that grows with every beam search that is not transformers' own."""
    taken: list[str] = []
    search = generation.beam_search

    def spy(*args: Any, **options: Any) -> Tensor:
        taken.append("beam_search")
        return search(*args, **options)

    monkeypatch.setattr(generation, "beam_search", spy)
    yield taken


def limited(options: dict[str, Any]) -> dict[str, Any]:
    return {"do_sample": False, **({} if "max_length" in options else {"max_new_tokens": 12}), **options}


def check_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.tolist() == theirs.tolist()


# -- the same tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("family", "attention"),
    [("bart", "sdpa"), ("bart", "eager"), ("gpt2", "sdpa"), ("gpt2", "eager"), ("llama", "sdpa")],
)
def test_a_base_generates_as_its_own_generate(
    family: str, attention: str, options: dict[str, Any], searches: list[str]
) -> None:
    model = base(family, attention)
    theirs = model.generate(**prompts(family), **limited(options))
    check_same(generate(model, **prompts(family), **limited(options)), theirs)
    assert searches == ["beam_search"]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_generates_as_without_any_cache(family: str, options: dict[str, Any], searches: list[str]) -> None:
    prefix = prefixed(family)
    naive = prefix.generate(**prompts(family), **limited(options), use_cache=False)
    assert not searches
    check_same(prefix.generate(**prompts(family), **limited(options)), naive)
    assert searches == ["beam_search"]


@pytest.mark.parametrize("shift_positions", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_behind_the_prefix_or_not(family: str, shift_positions: bool, searches: list[str]) -> None:
    prefix = prefixed(family, shift_positions=shift_positions)
    options = limited({"num_beams": 3, "suppress_tokens": [EOS]})
    naive = prefix.generate(**prompts(family), **options, use_cache=False)
    check_same(prefix.generate(**prompts(family), **options), naive)
    assert searches == ["beam_search"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_classifier_free_guidance_has_the_prefix_on_both_sides(family: str) -> None:
    """transformers calls the model by place for the side without the prompt, of which it keeps the last token."""
    prefix, ids = prefixed(family), torch.arange(5, 13).view(2, 4)
    scale = 1.7
    new = prefix.generate(input_ids=ids, guidance_scale=scale, max_new_tokens=1, do_sample=False)[:, -1]
    with_prompt, without = (prefix(input_ids=part).logits[:, -1].log_softmax(-1) for part in (ids, ids[:, -1:]))
    assert torch.equal(new, (scale * (with_prompt - without) + without).argmax(-1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_infix_which_is_another_for_each_source(attention: str, searches: list[str]) -> None:
    prefix = prefixed("gpt2", attention, infix=True)
    sources = prompts("gpt2")
    inputs = {"source_ids": sources["input_ids"], "source_attention_mask": sources["attention_mask"]}
    options = limited({"num_beams": 3, "early_stopping": True, "eos_token_id": list(range(2, 60, 5))})
    ours = prefix.generate(**inputs, **options)
    assert searches == ["beam_search"]
    check_same(ours, prefix.generate(**inputs, **options, use_cache=False))


@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_generates_as_the_stock_model_with_the_prefix_in_its_cache(family: str, num_beams: int) -> None:
    prefix, stock, inputs = prefixed(family), base(family), prompts(family)
    rows, length = num_beams * len(inputs["input_ids"]), prefix.preseqlen
    cache = DynamicCache([(k.expand(rows, *k.shape), v.expand(rows, *v.shape)) for k, v in prefix_of(prefix)])
    mask = torch.nn.functional.pad(inputs["attention_mask"], (length, 0), value=1)
    options = limited({"num_beams": num_beams, "bad_words_ids": [[5], [9]]})
    theirs = stock.generate(
        input_ids=inputs["input_ids"], attention_mask=mask, past_key_values=cache, pad_token_id=PAD, **options
    )
    check_same(prefix.generate(**inputs, **options), theirs)


def prefix_of(prefix: PrefixTuning) -> list[tuple[Tensor, Tensor]]:
    return [(key.detach(), value.detach()) for key, value in prefix.past_key_values()["decoder"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_too(family: str) -> None:
    prefix, model = prefixed(family, dtype=torch.float32), base(family, dtype=torch.float32)
    for options in (limited({"num_beams": 6, "max_new_tokens": 30}), limited({"num_beams": 3, "early_stopping": True})):
        check_same(generate(model, **prompts(family), **options), model.generate(**prompts(family), **options))
        naive = prefix.generate(**prompts(family), **options, use_cache=False)
        check_same(prefix.generate(**prompts(family), **options), naive)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_finds_hypotheses_as_good_as_transformers(family: str) -> None:
    """Tokens may differ where two scores are nearer than bfloat16 tells apart; how likely they are does not."""
    model = base(family, dtype=torch.bfloat16)
    options = limited({"num_beams": 4, "suppress_tokens": [EOS]})
    ours = generate(model, **prompts(family), **options)
    theirs = model.generate(**prompts(family), **options)
    assert ours.shape == theirs.shape
    assert (log_likelihood(family, ours) > log_likelihood(family, theirs) - 3.0).all()


def log_likelihood(family: str, tokens: Tensor) -> Tensor:
    model, inputs = base(family), prompts(family)
    if family == "bart":
        logits = model(**inputs, decoder_input_ids=tokens[:, :-1]).logits
    else:
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 12), value=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(tokens, attention_mask=mask, position_ids=positions).logits[:, :-1]
    return logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[:, -12:, 0].sum(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_sources_of_very_different_lengths_and_times_to_finish(family: str) -> None:
    """Every source gets in the batch what it gets alone."""
    generator = torch.Generator().manual_seed(5)
    model = base(family)
    lengths = (1, 30, 3, 17, 9)
    sources = [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]
    side = "right" if family == "bart" else "left"
    pad = {"batch_first": True, "padding_side": side}
    ids = torch.nn.utils.rnn.pad_sequence(sources, padding_value=PAD, **pad)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in sources], **pad)
    options = {"num_beams": 4, "early_stopping": True, "eos_token_id": list(range(2, 60, 5)), "do_sample": False}
    ours = generate(model, input_ids=ids, attention_mask=mask, max_new_tokens=30, **options)
    check_same(ours, model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=30, **options))
    rows = forward_rows(model)
    generate(model, input_ids=ids, attention_mask=mask, max_new_tokens=30, **options)
    assert rows[1] == 5 * 4 and rows[-1] < rows[1]  # the sources did finish at different times
    for row, source in zip(ours.tolist(), sources, strict=True):
        alone = generate(model, input_ids=source[None], max_new_tokens=30, **options)[0].tolist()
        own = alone if family == "bart" else alone[len(source) :]
        assert (row if family == "bart" else row[max(lengths) :])[: len(own)] == own


def test_a_pad_token_zero_fills_as_transformers_does() -> None:
    model = base("gpt2")
    options = limited({"num_beams": 3, "eos_token_id": [EOS, 5, 9, 13, 17], "pad_token_id": 0})
    theirs = model.generate(**prompts("gpt2"), **options)
    check_same(generate(model, **prompts("gpt2"), **options), theirs)


def test_decoder_prompts_and_encoded_sources() -> None:
    model, inputs = base("bart"), prompts("bart")
    start = torch.tensor([[EOS, 7, 8], [EOS, 9, 9], [EOS, 3, 4]])
    encoded = model.get_encoder()(**inputs)
    options = limited({"num_beams": 4, "decoder_input_ids": start})
    theirs = model.generate(attention_mask=inputs["attention_mask"], encoder_outputs=encoded, **options)
    again = model.get_encoder()(**inputs)
    ours = generate(model, attention_mask=inputs["attention_mask"], encoder_outputs=again, **options)
    check_same(ours, theirs)


# -- what else `generate` can do ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 2, "return_dict_in_generate": True},
        {"num_beams": 2, "use_cache": False},
        {"num_beams": 2, "cache_implementation": "static"},
        {"num_beams": 2, "do_sample": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_other_options_run_transformers_own_loop(family: str, options: dict[str, Any], searches: list[str]) -> None:
    model, options = base(family), {"max_new_tokens": 6, **options}
    torch.manual_seed(0)
    theirs = model.generate(**prompts(family), **options)
    torch.manual_seed(0)
    ours = generate(model, **prompts(family), **options)
    check_same(*(x if isinstance(x, Tensor) else x.sequences for x in (ours, theirs)))
    assert not searches


def test_a_family_that_is_not_known_runs_transformers_own_loop(searches: list[str]) -> None:
    model, inputs = base("t5gemma", "eager"), prompts("t5gemma")
    options = limited({"num_beams": 3})
    check_same(generate(model, **inputs, **options), model.generate(**inputs, **options))
    assert not searches


def test_an_option_that_does_not_exist_is_transformers_error() -> None:
    with pytest.raises(ValueError, match="num_beans"):
        generate(base("gpt2"), **prompts("gpt2"), num_beans=3, max_new_tokens=2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_base_has_its_stock_attention_afterwards(attention: str) -> None:
    model = base("gpt2", attention)
    generate(model, **prompts("gpt2"), **limited({"num_beams": 3}))
    assert model.config._attn_implementation == attention
    with pytest.raises(RuntimeError, match="stop here"):
        generate(model, **prompts("gpt2"), **limited({"num_beams": 3}), logits_processor=[failing])
    assert model.config._attn_implementation == attention


def failing(*args: Any) -> Tensor:
    raise RuntimeError("stop here")


class BanForSource(LogitsProcessor):
    """Forbids other tokens to each source, told apart by their place in the batch."""

    def __init__(self, beams: int) -> None:
        self.beams = beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for row in range(len(scores)):
            scores[row, row // self.beams * 10 + 3 : row // self.beams * 10 + 13] = float("-inf")
        return scores


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_rules_that_know_the_place_of_a_source_keep_finished_sources_in_the_batch(family: str) -> None:
    model = base(family)
    options = limited({"num_beams": 3, "early_stopping": True, "eos_token_id": [EOS, 5, 19, 33, 41]})
    theirs = model.generate(**prompts(family), **options, logits_processor=LogitsProcessorList([BanForSource(3)]))
    rows = forward_rows(model)
    ours = generate(model, **prompts(family), **options, logits_processor=LogitsProcessorList([BanForSource(3)]))
    check_same(ours, theirs)
    assert set(rows[1:]) == {9}


# -- for less work --------------------------------------------------------------------------------------------------


def forward_rows(model: PreTrainedModel) -> list[int]:
    """A list that gets the number of rows of every forward of the decoder."""
    rows: list[int] = []
    stack = model.get_decoder() if model.config.is_encoder_decoder else model.base_model
    stack.register_forward_hook(lambda module, args, output: rows.append(len(output[0])))
    return rows


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_prompts_run_once_for_each_source(family: str) -> None:
    model = base(family)
    rows = forward_rows(model)
    generate(model, **prompts(family), **limited({"num_beams": 4, "suppress_tokens": [EOS]}))
    assert rows == [3] + 11 * [12]


def test_a_source_is_projected_once_whatever_the_beams() -> None:
    model, seen = base("bart"), []
    projection = model.get_decoder().layers[0].encoder_attn.k_proj
    projection.register_forward_hook(lambda module, args, output: seen.append(output.shape[:2]))
    generate(model, **prompts("bart"), **limited({"num_beams": 4}))
    assert seen == [(3, 7)]


def test_nothing_is_copied_when_beams_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a cache was reordered")

    monkeypatch.setattr("transformers.cache_utils.CacheLayerMixin.reorder_cache", refuse)
    generate(base("gpt2"), **prompts("gpt2"), **limited({"num_beams": 4}))


def test_columns_that_no_beam_sees_are_squeezed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    step_masks = beam_cache.BeamCache.step_masks

    def spy(cache: beam_cache.BeamCache) -> tuple[Tensor, Tensor | None]:
        masks = step_masks(cache)
        widths.append(masks[0].shape[3])
        return masks

    monkeypatch.setattr(beam_cache.BeamCache, "step_masks", spy)
    generate(base("gpt2"), **prompts("gpt2"), num_beams=4, do_sample=False, max_new_tokens=40, suppress_tokens=[EOS])
    assert max(widths) < 7 + 39 * 4
    assert any(later < earlier for earlier, later in zip(widths, widths[1:], strict=False))


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_fast_layers_change_nothing_but_rounding_and_leave_no_trace(family: str) -> None:
    """With layers wide enough to be packed; a processor without AVX512 packs none in bfloat16."""
    wide = {"bart": {"d_model": 256, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512}, "gpt2": {"n_embd": 256}}[family]
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 0.2)):
        model = base(family, dtype=dtype, **wide, init_std=0.05, initializer_range=0.05)
        before = {name for module in model.modules() for name in vars(module)}
        with torch.no_grad():
            stock = model(**prompts(family)).logits
            with fast_layers(model):
                replaced = [type(module).__name__ for module in model.modules() if "forward" in vars(module)]
                fast = model(**prompts(family)).logits
        packed = {"bart": {"Linear", "GELUActivation"}, "gpt2": {"Conv1D", "NewGELUActivation"}}[family]
        can = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        assert set(replaced) == (packed if can else set())
        visible = prompts(family)["attention_mask"].bool() if family == "gpt2" else slice(None)
        close(fast[visible].float(), stock[visible].float(), tolerance)
        assert {name for module in model.modules() for name in vars(module)} == before
        assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("fast", [fast_search, fast_layers])
def test_searches_of_a_base_within_fast_layers_are_its_own(fast: Any) -> None:
    """The search swaps GPT-2's GELUs: those of the packed layers must not come twice."""
    model = base("gpt2", dtype=torch.float32, n_embd=256, initializer_range=0.1)
    options: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 12, "do_sample": False}
    expected = model.generate(**prompts("gpt2"), **options)
    with fast(model):
        for _ in range(2):
            assert torch.equal(generate(model, **prompts("gpt2"), **options), expected)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    "family, layer", [("bart", "model.decoder.layers.0.fc1"), ("gpt2", "transformer.h.0.mlp.c_fc")]
)
def test_a_hook_on_an_mlps_first_layer_sees_what_it_computes(family: str, layer: str) -> None:
    wide = {"bart": {"d_model": 256, "decoder_ffn_dim": 512}, "gpt2": {"n_embd": 256}}[family]
    model = base(family, dtype=torch.float32, **wide, init_std=0.1, initializer_range=0.1)
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 9, "do_sample": False}
    push = torch.linspace(-3, 3, 512 if family == "bart" else 1024)
    plain = model.generate(**prompts(family), **options)
    model.get_submodule(layer).register_forward_hook(lambda module, args, output: output + push)
    steered = model.generate(**prompts(family), **options)
    assert not torch.equal(plain, steered)
    assert torch.equal(generate(model, **prompts(family), **options), steered)


def test_fast_layers_compute_in_autocasts_precision() -> None:
    model = base("bart", dtype=torch.float32, d_model=256, decoder_ffn_dim=512, init_std=0.05)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        stock = model(**prompts("bart")).logits
        with fast_layers(model):
            fast = model(**prompts("bart")).logits
    assert fast.dtype == stock.dtype
    close(fast.float(), stock.float(), 0.2)


def test_a_counted_prompt_is_its_tokens_and_not_its_padding() -> None:
    model = base("gpt2", dtype=torch.float64)
    prompts_by_length = [[5, 6], [7, 8, 9, 10, 11, 12, 13], [14, 15, 16, 17]]
    width = max(map(len, prompts_by_length))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts_by_length])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts_by_length])
    options: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 9, "length_penalty": 3.0, "do_sample": False}
    together = generate(model, input_ids=ids, attention_mask=mask, count_prompt=True, **options)[:, width:]
    for row, prompt in enumerate(prompts_by_length):
        alone = generate(model, input_ids=torch.tensor([prompt]), count_prompt=True, **options)[0, len(prompt) :]
        assert together[row, : len(alone)].tolist() == alone.tolist()
    with pytest.raises(UserError, match="--length_norm prompt: goes with plain beam search alone"):
        generate(model, input_ids=ids, attention_mask=mask, count_prompt=True, **options, output_scores=True,
                 return_dict_in_generate=True)  # fmt: skip


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_scores_that_a_rule_makes_float64(family: str, searches: list[str]) -> None:
    model, options = base(family, dtype=torch.float64), limited({"num_beams": 3, "guidance_scale": 1.5})
    theirs = model.generate(**prompts(family), **options)
    check_same(generate(model, **prompts(family), **options), theirs)
    assert searches == ["beam_search"]


@pytest.mark.parametrize("count_prompt", [False, True])
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_search_does_not_hang_on_torchs_default_precision(
    family: str, default: torch.dtype, count_prompt: bool
) -> None:
    """As in a validation of Lightning's precision="bf16-true" and "64-true"."""
    model = base(family, dtype=torch.float32, initializer_range=0.03, init_std=0.1)
    inputs = {"input_ids": torch.randint(3, VOCABULARY, (150, 5), generator=torch.Generator().manual_seed(0))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = {"num_beams": 6, "length_penalty": 0.95, "max_new_tokens": 30, "eos_token_id": [EOS, 5, 9]}
    options |= {"do_sample": False, "count_prompt": count_prompt}
    expected = generate(model, **inputs, **options)
    torch.set_default_dtype(default)
    try:
        check_same(generate(model, **inputs, **options), expected)
    finally:
        torch.set_default_dtype(torch.float32)
