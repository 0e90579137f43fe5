"""What holds for a prefix in front of a frozen model's attention, on tiny random BART, GPT-2 and Llama models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from tiny import check_same_step, close, count_calls, exactness, step
from torch import Tensor, nn
from transformers import DynamicCache, T5Config, T5ForConditionalGeneration

from seq2seq.prefix_attention import KEYWORD, LivePrefix
from seq2seq.prefix_positions import positions_behind
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import UserError

FAMILIES = ["bart", "gpt2", "llama"]
SEARCH = {"max_new_tokens": 12, "do_sample": False}


# -- switches that change nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_equals_eager(family: str) -> None:
    sdpa, eager = (tiny.prefixed(family, attention) for attention in ("sdpa", "eager"))
    assert sdpa.config._attn_implementation != eager.config._attn_implementation
    steps = (step(prefix, **tiny.batch(family)) for prefix in (sdpa, eager))
    check_same_step(*steps, exactness(family, "eager"))
    ids = [p.generate(**tiny.prompts(family), **SEARCH, num_beams=3).tolist() for p in (sdpa, eager)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_uncached_generation(family: str, attention: str, num_beams: int) -> None:
    prefix = tiny.prefixed(family, attention)
    wanted = {"return_dict_in_generate": True, "output_logits": True, "num_beams": num_beams, **SEARCH}
    cached, uncached = (prefix.generate(**tiny.prompts(family), **wanted, use_cache=use) for use in (True, False))
    assert cached.sequences.tolist() == uncached.sequences.tolist()
    close(torch.stack(cached.logits), torch.stack(uncached.logits), exactness(family, attention))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tokens_in_two_pieces_through_the_cache_equal_all_at_once(family: str) -> None:
    prefix, ids = tiny.prefixed(family), tiny.rows(family)[0]["input_ids"]
    first = prefix(input_ids=ids[:, :3], use_cache=True)
    second = prefix(input_ids=ids[:, 3:], past_key_values=first.past_key_values)
    close(torch.cat((first.logits, second.logits), dim=1), prefix(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("family", "base_dropout"), [("bart", None), ("bart", False), ("gpt2", None), ("gpt2", False), ("llama", None)]
)
def test_gradient_checkpointing_changes_nothing_but_memory(family: str, base_dropout: bool | None) -> None:
    off = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0} if base_dropout is None else {}
    prefix = tiny.prefixed(family, changes=off if family == "bart" else {}, base_dropout=base_dropout).train()
    calls = {name: count_calls(site.modules[0]) for name, site in prefix.sites.items()}
    stored = step(prefix, **tiny.batch(family))
    assert {name: len(seen) for name, seen in calls.items()} == {name: 1 for name in prefix.sites}

    prefix.model.gradient_checkpointing_enable()
    check_same_step(step(prefix, **tiny.batch(family)), stored)
    assert {name: len(seen) for name, seen in calls.items()} == {name: 3 for name in prefix.sites}  # forward and replay


def test_a_base_that_was_checkpointed_without_dropout_gets_its_dropout_back() -> None:
    prefix = tiny.prefixed("bart", base_dropout=False).train()
    prefix.model.gradient_checkpointing_enable()
    step(prefix, **tiny.batch("bart"))
    stock = prefix.detach().train()
    one, other = (stock(**tiny.batch("bart"), use_cache=False).loss for _ in range(2))
    assert one != other
    assert all(layer.training for layer in stock.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_autocast_is_near_float32_and_the_prefix_stays_float32(family: str) -> None:
    prefix = tiny.prefixed(family, dtype=torch.float32)
    loss, _ = step(prefix, **tiny.batch(family))
    with torch.autocast("cpu", torch.bfloat16):
        rough, gradients = step(prefix, **tiny.batch(family))
        kept = [vectors.dtype for layers in prefix.past_key_values().values() for pair in layers for vectors in pair]
    assert rough.item() == pytest.approx(loss.item(), rel=0.02)
    trained = [tensor.dtype for tensor in (*prefix.prefix.parameters(), *gradients.values())]
    assert set(trained) == set(kept) == {torch.float32}


@pytest.mark.parametrize(
    ("family", "side"), [("bart", "right")] + [(f, s) for f in FAMILIES[1:] for s in ("right", "left")]
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_equals_its_examples_one_by_one(family: str, side: str, attention: str) -> None:
    prefix, together = tiny.prefixed(family, attention), tiny.batch(family, side)
    logits = prefix(**together).logits
    for row, example in enumerate(tiny.rows(family)):
        close(logits[row][together["labels"][row] != -100], prefix(**example).logits[0], exactness(family, attention))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_generated_batch_equals_its_examples_one_by_one(family: str, num_beams: int) -> None:
    prefix = tiny.prefixed(family)
    search = {**SEARCH, "num_beams": num_beams}
    together = prefix.generate(**tiny.prompts(family), **search)
    padded = tiny.prompts(family)["input_ids"].shape[1] if family != "bart" else 0
    for row, example in enumerate(tiny.rows(family)):
        del example["labels"]
        alone = prefix.generate(**example, **search)[0, example["input_ids"].shape[1] if padded else 0 :].tolist()
        assert together[row, padded:].tolist() == alone + [tiny.PAD] * (together.shape[1] - padded - len(alone))


@pytest.mark.parametrize("family", FAMILIES)
def test_several_hypotheses_per_source(family: str) -> None:
    prefix, source = tiny.prefixed(family), tiny.prompts(family)
    best = prefix.generate(**source, **SEARCH, num_beams=4)
    several = prefix.generate(**source, **SEARCH, num_beams=4, num_return_sequences=3)
    assert len(several) == 3 * len(best)
    assert several[::3, : best.shape[1]].tolist() == best.tolist()
    sampled = prefix.generate(**source, do_sample=True, max_new_tokens=12, num_return_sequences=2)
    assert len(sampled) == 2 * len(best)


# -- naive references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_equals_the_stock_model_with_the_prefix_in_its_cache(family: str, side: str) -> None:
    prefix, inputs = tiny.prefixed(family), tiny.batch(family, side)
    logits = prefix(**inputs).logits

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache = DynamicCache()
    for layer, pair in enumerate(prefix.past_key_values()["decoder"]):
        cache.update(*(vectors.expand(len(ids), *vectors.shape) for vectors in pair), layer)
    naive = tiny.base(family)(
        input_ids=ids,
        attention_mask=torch.cat((torch.ones(len(ids), prefix.preseqlen, dtype=torch.long), mask), dim=1),
        position_ids=prefix.preseqlen + (mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
    )
    close(logits[mask == 1], naive.logits[mask == 1])


def test_one_site_may_be_given_by_its_name_alone() -> None:
    assert set(tiny.prefixed("bart", sites="cross").sites) == {"cross"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sites", [None, ("encoder",), ("decoder",), ("cross",), ("decoder", "encoder")])
def test_every_bart_site_has_its_prefix_and_no_other(sites: tuple[str, ...] | None, attention: str) -> None:
    prefix, inputs = tiny.prefixed("bart", attention, sites=sites), tiny.batch("bart")
    assert set(prefix.prefix) == set(prefix.past_key_values()) == set(sites or ("encoder", "decoder", "cross"))
    seen: dict[nn.Module, tuple[Tensor, Tensor, Tensor]] = {}

    def remember(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        states = kwargs.get("key_value_states", args[1] if len(args) > 1 else None)
        seen[module] = (args[0], args[0] if states is None else states, output[0])

    modules = {
        "encoder": [layer.self_attn for layer in prefix.model.model.encoder.layers],
        "decoder": [layer.self_attn for layer in prefix.model.model.decoder.layers],
        "cross": [layer.encoder_attn for layer in prefix.model.model.decoder.layers],
    }
    for module in sum(modules.values(), []):
        module.register_forward_hook(remember, with_kwargs=True)
    prefix(**inputs)

    source, length = inputs["attention_mask"].bool()[:, None, :], inputs["labels"].shape[1]
    visible = {"encoder": source, "decoder": torch.ones(1, length, length, dtype=torch.bool).tril(), "cross": source}
    for name, layers in modules.items():
        pairs = prefix.past_key_values().get(name, [None] * len(layers))
        for module, pair in zip(layers, pairs, strict=True):
            queries, states, output = seen[module]
            shown = visible[name].expand(len(queries), queries.shape[1], -1)
            close(output, tiny.naive_bart_attention(module, queries, states, shown, pair))


# -- the base ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_is_frozen_and_untouched(family: str, attention: str) -> None:
    model, inputs = tiny.base(family, attention), tiny.batch(family)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    stock = model(**inputs).logits
    prefix = PrefixTuning(model, preseqlen=4, mid_dim=8).double()

    optimizer = torch.optim.SGD([p for p in prefix.parameters() if p.requires_grad], lr=0.1)
    _, gradients = step(prefix.train(), **inputs)
    optimizer.step()
    prefix.eval().generate(**tiny.prompts(family), **SEARCH)
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())

    assert not torch.equal(prefix(**inputs).logits, stock)
    close(model(**inputs).logits, stock, 1e-12)
    assert prefix.detach() is model
    assert model.config._attn_implementation == attention
    assert torch.equal(model(**inputs).logits, stock)
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_two_prefixes_on_one_base_do_not_disturb_each_other(family: str) -> None:
    first, inputs = tiny.prefixed(family), tiny.batch(family)
    before = first(**inputs).logits
    second = PrefixTuning(first.model, preseqlen=3, mid_dim=0).double().eval()
    other = second(**inputs).logits
    assert not torch.equal(before, other)
    assert torch.equal(first(**inputs).logits, before)
    second.detach()
    assert torch.equal(first(**inputs).logits, before)
    assert torch.equal(second(**inputs).logits, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlp_runs_once_per_step_and_once_per_generation(family: str) -> None:
    prefix = tiny.prefixed(family)
    calls = {name: count_calls(prefix.prefix[name].mlp[0]) for name in prefix.sites}
    step(prefix, **tiny.batch(family))
    assert {len(seen) for seen in calls.values()} == {1}
    prefix.generate(**tiny.prompts(family), **SEARCH, num_beams=4)
    assert {len(seen) for seen in calls.values()} == {2}


def test_base_dropout_is_off_for_gpt2_and_on_for_bart_unless_told() -> None:
    def varies(family: str, base_dropout: bool | None) -> bool:
        prefix = tiny.prefixed(family, base_dropout=base_dropout).train()
        return not torch.equal(prefix(**tiny.batch(family)).logits, prefix(**tiny.batch(family)).logits)

    assert {(f, on): varies(f, on) for f in ("bart", "gpt2") for on in (None, True, False)} == {
        ("bart", None): True,
        ("bart", True): True,
        ("bart", False): False,
        ("gpt2", None): False,
        ("gpt2", True): True,
        ("gpt2", False): False,
    }


# -- forms of the prefix ----------------------------------------------------------------------------------------------


def test_encoder_and_decoder_may_differ_in_depth_and_heads() -> None:
    changes = {"encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2}
    prefix = tiny.prefixed("bart", changes=changes)
    shapes = {name: (len(layers), *layers[0][0].shape) for name, layers in prefix.past_key_values().items()}
    assert shapes == {"encoder": (3, 4, 4, 8), "decoder": (2, 2, 4, 16), "cross": (2, 2, 4, 16)}
    check_unequal_sides_work(prefix, "bart")


def test_encoder_and_decoder_may_differ_in_width() -> None:
    prefix = tiny.prefixed("t5gemma", "eager")
    assert {name: site.width for name, site in prefix.sites.items()} == {"encoder": 32, "decoder": 48, "cross": 48}
    shapes = {name: (len(layers), *layers[0][0].shape) for name, layers in prefix.past_key_values().items()}
    assert shapes == {"encoder": (3, 1, 4, 16), "decoder": (2, 3, 4, 16), "cross": (2, 3, 4, 16)}
    check_unequal_sides_work(prefix, "t5gemma")


def check_unequal_sides_work(prefix: PrefixTuning, family: str) -> None:
    _, gradients = step(prefix, **tiny.batch(family))
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    cached, uncached = (prefix.generate(**tiny.prompts(family), **SEARCH, use_cache=use) for use in (True, False))
    assert cached.tolist() == uncached.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_deep_has_one_more_layer_and_flat_has_none(family: str) -> None:
    def linears(prefix: PrefixTuning) -> int:
        return sum(isinstance(module, nn.Linear) for module in prefix.prefix.modules())

    shallow, deep, flat = (tiny.prefixed(family, **o) for o in ({}, {"deep": True}, {"mid_dim": 0}))
    sites = len(shallow.sites)
    assert (linears(shallow), linears(deep), linears(flat)) == (2 * sites, 3 * sites, 0)
    heads = sum(site.heads for site in flat.sites.values())
    assert flat.num_prefix_parameters() == 2 * heads * 2 * 4 * 8  # layers, key and value, prefix length, head width
    assert sum(p.numel() for p in flat.prefix.parameters()) == flat.num_prefix_parameters()
    assert shallow.num_prefix_parameters() == deep.num_prefix_parameters() == flat.num_prefix_parameters()


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_collapse_drops_the_mlp_and_changes_nothing(family: str, deep: bool) -> None:
    prefix = tiny.prefixed(family, deep=deep)
    logits = prefix(**tiny.batch(family)).logits
    ids = prefix.generate(**tiny.prompts(family), **SEARCH, num_beams=3)
    assert prefix.collapse() is prefix
    assert torch.equal(prefix(**tiny.batch(family)).logits, logits)
    assert torch.equal(prefix.generate(**tiny.prompts(family), **SEARCH, num_beams=3), ids)
    assert {name.split(".")[1] for name, _ in prefix.prefix.named_parameters()} == {"key_values"}
    assert sum(p.numel() for p in prefix.prefix.parameters()) == prefix.num_prefix_parameters()
    assert all(p.requires_grad for p in prefix.prefix.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_dropout_is_drawn_for_each_example_and_attention_and_off_in_eval(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, taken, take = tiny.prefixed(family, dropout=0.5), [], LivePrefix.take

    def watch(live: LivePrefix, *args: Any) -> tuple[Tensor, Tensor] | None:
        taken.append((args[0], take(live, *args)))
        return taken[-1][1]

    monkeypatch.setattr(LivePrefix, "take", watch)
    prefix.eval()(**tiny.batch(family))
    kept = dict(taken)
    assert all((key == key[:1]).all() and (key != 0).all() for key, _ in kept.values())
    taken.clear()
    prefix.train()(**tiny.batch(family))
    drawn = [vectors for _, pair in taken for vectors in pair]
    for module, pair in taken:
        for vectors, whole in zip(pair, kept[module], strict=True):
            close(vectors, whole * 2 * (vectors != 0))
    masks = [row != 0 for vectors in drawn for row in vectors]
    assert 0.4 < torch.cat([mask.flatten() for mask in masks]).double().mean() < 0.6
    distinct = {tuple(mask.flatten().tolist()) for mask in masks}
    assert len(distinct) == len(masks) == 2 * 3 * sum(len(site.modules) for site in prefix.sites.values())


# -- positions --------------------------------------------------------------------------------------------------------


def positions_seen(prefix: PrefixTuning, run: Callable[[], Any]) -> list[list[list[int]]]:
    """The position ids that GPT-2's table is asked for, call by call."""
    seen: list[list[list[int]]] = []
    hook = prefix.model.transformer.wpe.register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    run()
    hook.remove()
    return seen


@pytest.mark.parametrize(("shift", "first"), [(None, 4), (True, 4), (False, 0)])
def test_real_token_j_has_position_p_plus_j(shift: bool | None, first: int) -> None:
    prefix = tiny.prefixed("gpt2", shift_positions=shift)
    row = tiny.rows("gpt2")[0]["input_ids"]
    assert positions_seen(prefix, lambda: prefix(input_ids=row)) == [[list(range(first, first + 7))]]
    given = torch.arange(20, 27)[None]
    assert positions_seen(prefix, lambda: prefix(input_ids=row, position_ids=given)) == [(given + first).tolist()]

    search = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    prompt, *steps = positions_seen(prefix, lambda: prefix.generate(**tiny.prompts("gpt2"), **search))
    lengths = tiny.prompts("gpt2")["attention_mask"].sum(1).tolist()
    assert [row[-length:] for row, length in zip(prompt, lengths, strict=True)] == [
        list(range(first, first + length)) for length in lengths
    ]
    assert steps == [[[first + length + number] for length in lengths] for number in range(2)]


@pytest.mark.parametrize(
    ("sites", "first"), [(None, {"encoder": 4, "decoder": 4}), (("decoder",), {"encoder": 0, "decoder": 4})]
)
def test_a_bart_stack_whose_own_attention_has_a_prefix_starts_at_p_if_asked(
    sites: tuple[str, ...] | None, first: dict[str, int]
) -> None:
    prefix = tiny.prefixed("bart", sites=sites, shift_positions=True)
    rows = {"input_ids": torch.full((2, 5), 7), "labels": torch.full((2, 3), 7)}
    shifted = prefix(**rows)
    for name, start in first.items():
        table = prefix.model.get_submodule(f"model.{name}").embed_positions
        table.weight.data = table.weight.data.roll(-start, dims=0)
    prefix.shifted = []
    moved = prefix(**rows)
    close(shifted.encoder_last_hidden_state, moved.encoder_last_hidden_state)
    close(shifted.logits, moved.logits)


def test_shifted_bart_positions_in_cached_generation_and_at_the_tables_end() -> None:
    prefix = tiny.prefixed("bart", changes={"max_position_embeddings": 12}, shift_positions=True)
    cached, uncached = (
        prefix.generate(**tiny.prompts("bart"), **{**SEARCH, "max_new_tokens": 6}, use_cache=use)
        for use in (True, False)
    )
    assert cached.tolist() == uncached.tolist()
    ids = torch.full((1, 9), 7)
    with pytest.raises(UserError, match=r"4 \+ 9 .* 12 positions"):
        prefix(input_ids=ids, labels=ids[:, :2])
    with pytest.raises(UserError, match=r"4 \+ 9 .* 12 positions"):
        prefix(input_ids=ids[:, :2], labels=ids)
    with pytest.raises(UserError, match=r"4 \+ 9 .* 12 positions"):
        prefix.generate(input_ids=ids[:, :2], min_new_tokens=9, max_new_tokens=9)


def test_positions_that_do_not_exist_are_an_error() -> None:
    limit = {"n_positions": 16}
    with pytest.raises(UserError, match=r"16 \+ 1 .* 16 positions"):
        tiny.prefixed("gpt2", changes=limit, preseqlen=16)
    prefix = tiny.prefixed("gpt2", changes=limit, preseqlen=10)
    ids = torch.full((1, 7), 5)
    assert prefix(input_ids=ids[:, :6]).logits.shape[1] == 6
    with pytest.raises(UserError, match=r"10 \+ 7 .* 16 positions"):
        prefix(input_ids=ids)
    with pytest.raises(UserError, match=r"10 \+ 7 .* 16 positions"):
        prefix.generate(input_ids=ids[:, :3], min_new_tokens=8, max_new_tokens=8)
    assert tiny.prefixed("gpt2", changes=limit, preseqlen=16, shift_positions=False)(input_ids=ids) is not None


def test_positions_are_bounded_by_shapes_and_read_only_where_these_leave_it_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[None] = []
    stock = Tensor.__int__
    monkeypatch.setattr(Tensor, "__int__", lambda tensor: (reads.append(None), stock(tensor))[1])
    prefix = tiny.prefixed("gpt2", changes={"n_positions": 12}, preseqlen=5)
    ids, mask = torch.full((2, 7), 7), torch.tensor([[0] + [1] * 6, [1] * 7])
    live = prefix._live({})

    def reads_of(trusted: bool = False, **inputs: Tensor) -> int:
        before = len(reads)
        positions_behind(live, inputs, prefix.model, 5, trusted)
        return len(reads) - before

    own = (mask.cumsum(1) - 1).clamp(min=0)
    assert reads_of(input_ids=ids) == reads_of(input_ids=ids, attention_mask=mask) == 0
    assert reads_of(trusted=True, input_ids=ids, attention_mask=mask, position_ids=own) == 0
    assert reads_of(input_ids=ids, attention_mask=mask, position_ids=own) == 1  # nothing bounds a caller's own
    wider = {"input_ids": nn.functional.pad(ids, (1, 0)), "attention_mask": nn.functional.pad(mask, (1, 0))}
    assert reads_of(**wider) == 1  # what is too much may be padding


def test_padding_takes_no_positions() -> None:
    prefix = tiny.prefixed("gpt2", changes={"n_positions": 12}, preseqlen=8)
    ids, mask = torch.full((1, 10), 5), torch.tensor([[0] * 6 + [1] * 4])
    close(prefix(input_ids=ids, attention_mask=mask).logits[:, 6:], prefix(input_ids=ids[:, 6:]).logits)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [("encoder", "middle"), ()])
def test_an_unknown_site_is_an_error_that_names_the_known_ones(sites: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="has encoder, decoder, cross"):
        tiny.prefixed("bart", sites=sites)
    with pytest.raises(UserError, match="'cross'.* has decoder"):
        tiny.prefixed("gpt2", sites=("cross",))


def test_a_prefix_has_at_least_one_vector() -> None:
    with pytest.raises(UserError, match="preseqlen 0"):
        tiny.prefixed("bart", preseqlen=0)


def test_positions_that_cannot_be_shifted_are_an_error() -> None:
    with pytest.raises(UserError, match="shift_positions: T5Gemma.* has no learned positions"):
        tiny.prefixed("t5gemma", "eager", shift_positions=True)
    with pytest.raises(UserError, match="shift_positions: .*cross-attention"):
        tiny.prefixed("bart", sites=("cross",), shift_positions=True)


def test_attention_that_cannot_hold_a_prefix_is_an_error() -> None:
    with pytest.raises(UserError, match="flex_attention.*sdpa or eager"):
        tiny.prefixed("llama", "flex_attention")
    with pytest.raises(UserError, match="reorder_and_upcast_attn"):
        tiny.prefixed("gpt2", "eager", changes={"reorder_and_upcast_attn": True})
    t5 = T5ForConditionalGeneration(T5Config(d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2, vocab_size=9))
    with pytest.raises(UserError, match="no encoder attention found"):
        PrefixTuning(t5)


@pytest.mark.parametrize("site", ["encoder", "decoder"])
def test_a_model_that_drops_the_prefix_on_its_way_is_an_error(site: str) -> None:
    prefix = tiny.prefixed("bart")
    for layer in getattr(prefix.model.model, site).layers:

        def forward(*args: Any, stock: Callable[..., Any] = layer.forward, **kwargs: Any) -> Any:
            kwargs.pop(KEYWORD, None)
            return stock(*args, **kwargs)

        layer.forward = forward
    with pytest.raises(UserError, match=f"did not reach the {site} attention"):
        prefix(**tiny.batch("bart"))
    with pytest.raises(UserError, match=f"did not reach the {site} attention"):
        prefix.generate(**tiny.prompts("bart"), **SEARCH)


def test_a_source_that_is_already_encoded_needs_no_encoder_prefix() -> None:
    prefix, inputs = tiny.prefixed("bart"), tiny.batch("bart")
    whole = prefix(**inputs)
    encoded = {"encoder_outputs": (whole.encoder_last_hidden_state,), "attention_mask": inputs["attention_mask"]}
    close(prefix(**encoded, labels=inputs["labels"]).logits, whole.logits)
