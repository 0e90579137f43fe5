"""What holds for an infix: [source; prefix; target] in front of a frozen decoder's attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import check_same_step, close, exactness, step
from torch import Tensor, nn
from transformers import Lfm2Config, Lfm2ForCausalLM, MistralConfig, MistralForCausalLM

from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import UserError

DECODERS = ["gpt2", "llama"]
SEARCH = {"max_new_tokens": 8, "do_sample": False}
SOURCES = ([9, 21, 5, 33, 7], [11, 8], [30, 31, 32, 12])
TARGETS = ([2, 17, 18, 19], [2, 40, 41, 42, 43], [2, 50])


def infix(family: str, attention: str = "sdpa", **options: Any) -> PrefixTuning:
    return tiny.prefixed(family, attention, infix=True, **options)


def padded(rows: Any, side: str, fill: int) -> Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill, padding_side=side)


def sources(side: str = "left") -> dict[str, Tensor]:
    return {
        "source_ids": padded(SOURCES, side, tiny.PAD),
        "source_attention_mask": padded([[1] * len(row) for row in SOURCES], side, 0),
    }


def batch(side: str = "left", target_side: str = "right") -> dict[str, Tensor]:
    """Sources padded on one side, targets on another (labels with -100)."""
    return {
        "input_ids": padded(TARGETS, target_side, tiny.PAD),
        "attention_mask": padded([[1] * len(row) for row in TARGETS], target_side, 0),
        "labels": padded(TARGETS, target_side, -100),
        **sources(side),
    }


def alone(row: int) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([TARGETS[row]]), "source_ids": torch.tensor([SOURCES[row]])}


# -- switches that change nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_side", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", DECODERS)
def test_a_batch_of_sources_padded_on_the_left_equals_its_examples_one_by_one(
    family: str, attention: str, target_side: str
) -> None:
    prefix, together = infix(family, attention), batch(target_side=target_side)
    logits = prefix(**together).logits
    for row in range(3):
        own = logits[row][together["labels"][row] != -100]
        close(own, prefix(**alone(row)).logits[0], exactness(family, attention))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", DECODERS)
def test_a_generated_batch_equals_its_examples_one_by_one(family: str, num_beams: int) -> None:
    prefix, search = infix(family), {**SEARCH, "num_beams": num_beams}
    together = prefix.generate(**sources(), **search)
    assert together[:, 0].tolist() == [0, 0, 0]  # the base's bos token
    for row, source in enumerate(SOURCES):
        one = prefix.generate(source_ids=torch.tensor([source]), input_ids=torch.tensor([[0]]), **search)[0].tolist()
        assert together[row].tolist() == one + [tiny.PAD] * (together.shape[1] - len(one))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", DECODERS)
def test_cached_equals_uncached_generation_also_for_several_hypotheses(family: str, num_beams: int) -> None:
    prefix = infix(family)
    starts = {"input_ids": padded([[2], [2, 9], [2]], "left", tiny.PAD)}
    starts["attention_mask"] = (starts["input_ids"] != tiny.PAD).long()
    wanted = {**SEARCH, "num_beams": num_beams, "num_return_sequences": num_beams, "return_dict_in_generate": True}
    cached, uncached = (
        prefix.generate(**starts, **sources(), **wanted, output_logits=True, use_cache=use) for use in (True, False)
    )
    assert cached.sequences.tolist() == uncached.sequences.tolist()
    assert len(cached.sequences) == 3 * num_beams
    close(torch.stack(cached.logits), torch.stack(uncached.logits))


@pytest.mark.parametrize("family", DECODERS)
def test_sdpa_equals_eager(family: str) -> None:
    steps = [step(infix(family, attention), **batch()) for attention in ("sdpa", "eager")]
    check_same_step(*steps, exactness(family, "eager"))


def test_bf16_is_near_float32_and_what_is_trained_stays_float32() -> None:
    loss, _ = step(infix("gpt2", dtype=torch.float32), **batch())
    rough = PrefixTuning(tiny.base("gpt2", dtype=torch.bfloat16), infix=True, preseqlen=4, mid_dim=8).eval()
    rough.prefix.load_state_dict(infix("gpt2", dtype=torch.float32).prefix.state_dict())
    in_bf16, gradients = step(rough, **batch())
    with torch.autocast("cpu", torch.bfloat16):
        cast, others = step(infix("gpt2", dtype=torch.float32), **batch())
    assert in_bf16.item() == pytest.approx(loss.item(), rel=0.02)
    assert cast.item() == pytest.approx(loss.item(), rel=0.02)
    assert {gradient.dtype for gradient in (*gradients.values(), *others.values())} == {torch.float32}


@pytest.mark.parametrize("base_dropout", [None, True])
def test_gradient_checkpointing_changes_nothing(base_dropout: bool | None) -> None:
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    prefix = infix("gpt2", changes=off, base_dropout=base_dropout).train()
    stored = step(prefix, **batch())
    prefix.model.gradient_checkpointing_enable()
    check_same_step(step(prefix, **batch()), stored)
    assert all(layer.gradient_checkpointing for layer in prefix.model.transformer.h)


@pytest.mark.parametrize("deep", [False, True])
def test_collapse_keeps_keys_values_and_input_vectors(deep: bool) -> None:
    prefix = infix("gpt2", deep=deep)
    logits = prefix(**batch()).logits
    assert prefix.collapse() is prefix
    assert torch.equal(prefix(**batch()).logits, logits)
    assert {name for name, _ in prefix.prefix.named_parameters()} == {"decoder.key_values", "infix.embedding"}
    assert sum(p.numel() for p in prefix.prefix.parameters()) == prefix.num_prefix_parameters()


@pytest.mark.parametrize("collapsed", [False, True])
def test_an_infix_comes_back_from_its_files(collapsed: bool, tmp_path: Path) -> None:
    prefix = infix("gpt2")
    logits = (prefix.collapse() if collapsed else prefix)(**batch()).logits
    prefix.save_pretrained(tmp_path)
    back = PrefixTuning.from_pretrained(tmp_path, tiny.base("gpt2")).eval()
    assert back.infix
    assert torch.equal(back(**batch()).logits, logits)


# -- what it is -------------------------------------------------------------------------------------------------------


def test_source_infix_and_target_follow_each_other_and_only_padding_on_the_right_takes_positions() -> None:
    prefix, seen = infix("gpt2"), []
    prefix.model.transformer.wpe.register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    prefix(**batch("left"))
    source, own, target = seen
    assert source == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1], [0, 0, 1, 2, 3]]
    assert own == [[5, 6, 7, 8], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert [row[0] for row in target] == [9, 6, 8]
    seen.clear()
    prefix(**batch("right"))
    source, own, target = seen
    assert source == [list(range(5))] * 3
    assert own == [[5, 6, 7, 8]] * 3
    assert target == [[9, 10, 11, 12, 12], [9, 10, 11, 12, 13], [9, 10, 10, 10, 10]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_is_never_seen(side: str, attention: str) -> None:
    prefix, inputs = infix("gpt2", attention), batch(side)
    logits = prefix(**inputs).logits
    inputs["source_ids"] = inputs["source_ids"].masked_fill(inputs["source_attention_mask"] == 0, 44)
    real = inputs["attention_mask"] == 1
    close(prefix(**inputs).logits[real], logits[real])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sources_padded_on_the_right_give_what_the_authors_procedure_gives(attention: str) -> None:
    prefix, stock, inputs = infix("gpt2", attention), tiny.base("gpt2", attention), batch("right")
    ones = torch.ones(3, 4, dtype=torch.long)
    vectors = prefix.prefix["infix"]().expand(3, -1, -1)
    together = torch.cat((stock.transformer.wte(inputs["source_ids"]), vectors), dim=1)
    seen = torch.cat((inputs["source_attention_mask"], ones), dim=1)
    cache = stock(inputs_embeds=together, attention_mask=seen, use_cache=True).past_key_values
    for number, pair in enumerate(
        prefix.past_key_values(inputs["source_ids"], inputs["source_attention_mask"])["decoder"]
    ):
        layer, learned = cache.layers[number], prefix.prefix["decoder"]()[number]
        layer.keys, layer.values = (
            torch.cat((made[:, :, :5], made[:, :, 5:] + own), dim=2)
            for made, own in zip((layer.keys, layer.values), learned, strict=True)
        )
        close(pair[0], layer.keys)
        close(pair[1], layer.values)
    mask = torch.cat((seen, inputs["attention_mask"]), dim=1)
    naive = stock(input_ids=inputs["input_ids"], attention_mask=mask, past_key_values=cache).logits
    real = inputs["attention_mask"] == 1
    close(prefix(**inputs).logits[real], naive[real])


def test_the_source_does_not_see_the_infix_and_the_infix_sees_the_source() -> None:
    prefix, changed = infix("gpt2"), torch.tensor([[9, 21, 6, 33, 7]])
    source = torch.tensor([SOURCES[0]])

    def keys(source_ids: Tensor) -> list[Tensor]:
        return [key.detach() for key, _ in prefix.past_key_values(source_ids)["decoder"]]

    before = keys(source)
    nn.init.normal_(prefix.prefix["infix"].embedding)
    for old, new in zip(before, keys(source), strict=True):
        assert torch.equal(old[:, :, :5], new[:, :, :5])
        assert not torch.equal(old[:, :, 5:], new[:, :, 5:])
    assert not torch.equal(keys(source)[1][:, :, 5:], keys(changed)[1][:, :, 5:])


def test_every_part_of_an_infix_is_trained_and_the_base_is_not() -> None:
    prefix = infix("gpt2").train()
    _, gradients = step(prefix, **batch())
    assert {name.split(".")[0] for name in gradients} == {"decoder", "infix"}
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert not any(p.grad is not None for p in prefix.model.parameters())


def test_dropout_is_on_the_learned_keys_and_values_alone_and_drawn_for_each_example() -> None:
    prefix = infix("gpt2", dropout=0.5, mid_dim=0)
    same = {"source_ids": torch.tensor([SOURCES[0]] * 3)}
    with torch.no_grad():
        whole = prefix.past_key_values(**same)["decoder"]
        prefix.prefix["decoder"].key_values.zero_()
        computed = prefix.past_key_values(**same)["decoder"]
    torch.manual_seed(3)
    prefix = infix("gpt2", dropout=0.5, mid_dim=0).train()
    taken = prefix._live(dict(same)).key_values
    for layer, module in enumerate(prefix.sites["decoder"].modules):
        for drawn, full, own in zip(taken[module], whole[layer], computed[layer], strict=True):
            close(drawn[:, :, :5], full[:, :, :5])
            learned, kept = (full - own)[:, :, 5:], (drawn - own)[:, :, 5:]
            close(kept, 2 * learned * (kept.abs() > 1e-9))
            assert len({tuple((row.abs() > 1e-9).flatten().tolist()) for row in kept}) == 3


def test_the_authors_names_are_read() -> None:
    prefix = infix("gpt2")
    state = {
        "wte.weight": torch.randn(4, 32),
        "wte2.weight": torch.randn(4, 32),
        "control_trans.0.weight": torch.randn(8, 32),
        "control_trans.0.bias": torch.randn(8),
        "control_trans.2.weight": torch.randn(128, 8),
        "control_trans.2.bias": torch.randn(128),
    }
    prefix.load_original(state)
    close(prefix.prefix["infix"].embedding.detach(), state["wte2.weight"].double())
    close(prefix.prefix["decoder"].embedding.detach(), state["wte.weight"].double())
    del state["wte2.weight"]
    with pytest.raises(UserError, match=r"no wte2\.weight"):
        prefix.load_original(state)


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_an_infix_in_an_encoder_decoder_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="infix: an encoder-decoder reads its source in the encoder"):
        infix("bart")
    with pytest.raises(UserError, match="infix: its positions follow the source's"):
        infix("gpt2", shift_positions=False)


def test_an_infix_and_its_source_go_together() -> None:
    for run in (infix("gpt2"), infix("gpt2").generate):
        with pytest.raises(UserError, match="source_ids"):
            run(input_ids=torch.tensor([[5, 6]]))
    for run in (tiny.prefixed("gpt2"), tiny.prefixed("gpt2").generate):
        with pytest.raises(UserError, match="source_ids.*infix=True"):
            run(input_ids=torch.tensor([[5, 6]]), source_ids=torch.tensor([[7]]))


def test_positions_that_do_not_exist_are_an_error() -> None:
    prefix = infix("gpt2", changes={"n_positions": 12})
    source, target = torch.full((1, 5), 7), torch.full((1, 4), 8)
    assert prefix(input_ids=target[:, :3], source_ids=source).logits.shape[1] == 3
    with pytest.raises(UserError, match=r"4 \+ 9 .* 12 positions"):  # five tokens of source, four of target
        prefix(input_ids=target, source_ids=source)
    with pytest.raises(UserError, match=r"4 \+ 9 .* 12 positions"):
        prefix(input_ids=target[:, :1], source_ids=torch.full((1, 9), 7))
    mask = torch.tensor([[0] * 6 + [1] * 3])
    ids = torch.full((1, 9), 7)
    with pytest.raises(UserError, match=r"4 \+ 9 .* 12 positions"):  # the longest of a batch counts
        both = torch.cat((mask, torch.ones_like(mask)))
        prefix(input_ids=target[:, :1].repeat(2, 1), source_ids=ids.repeat(2, 1), source_attention_mask=both)
    close(
        prefix(input_ids=target, source_ids=ids, source_attention_mask=mask).logits,
        prefix(input_ids=target, source_ids=ids[:, 6:]).logits,
    )


def test_a_base_that_would_forget_the_source_is_refused() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Lfm2Config(**sizes, num_hidden_layers=2, vocab_size=60, layer_types=["conv", "full_attention"])
    model = Lfm2ForCausalLM(config).eval()
    with pytest.raises(UserError, match="infix: Lfm2ForCausalLM has layers without attention"):
        PrefixTuning(model, 4, 0, infix=True)
    assert PrefixTuning(model, 4, 0)(input_ids=torch.tensor([[5, 6]])).logits.shape[1] == 2


@pytest.mark.parametrize("window", [None, 13, 12])
def test_source_infix_and_target_are_within_the_window(window: int | None) -> None:
    """Sees a layer less than all of them, an infix shows what the base would hide."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = MistralConfig(**sizes, num_hidden_layers=2, vocab_size=60, initializer_range=0.3, sliding_window=window)
    prefix = PrefixTuning(MistralForCausalLM(config).double().eval(), 4, 0, infix=True).double().eval()
    prefix.prefix["decoder"].key_values.data.zero_()  # then it is what the base makes of the vectors
    source, target = torch.tensor([[9, 21, 5, 30, 8, 44]]), torch.tensor([[2, 30, 31]])
    if window == 12:
        with pytest.raises(UserError, match=r"infix: source, infix and target are 13 tokens.* 12 back"):
            prefix(input_ids=target, source_ids=source)
        return
    ours = prefix(input_ids=target, source_ids=source).logits
    embed = prefix.get_input_embeddings()
    row = torch.cat((embed(source), prefix.prefix["infix"]()[None], embed(target)), dim=1)
    close(ours, prefix.detach()(inputs_embeds=row, use_cache=False).logits[:, 10:])


def test_each_target_has_a_source_of_its_own() -> None:
    prefix, source = infix("gpt2"), torch.randint(3, 50, (3, 6))
    for targets in (1, 4, 6):
        rows = torch.randint(3, 50, (targets, 5))
        for call in (prefix, prefix.generate, lambda input_ids, **more: prefix.generate(inputs=input_ids, **more)):
            with pytest.raises(UserError, match=f"source_ids: 3 sources for {targets} targets; give one for each"):
                call(input_ids=rows, source_ids=source)
    with pytest.raises(UserError, match=r"source_attention_mask \(3, 5\): source_ids are \(3, 6\)"):
        prefix(input_ids=source, source_ids=source, source_attention_mask=torch.ones(3, 5))
    with pytest.raises(UserError, match=r"source_ids \(3, 0\): give rows of tokens"):
        prefix(input_ids=source, source_ids=source[:, :0])
    with pytest.raises(UserError, match="source_attention_mask: only an infix stands behind a source"):
        tiny.prefixed("gpt2")(input_ids=source, source_attention_mask=torch.ones_like(source))
