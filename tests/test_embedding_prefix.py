"""What holds for a prefix that the frozen base computes from learned input vectors (PrefixEmbTuning)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import check_same_step, close, count_calls, exactness, step
from torch import Tensor, nn

from seq2seq.prefixTuning import PrefixEmbTuning, PrefixTuning
from seq2seq.utils import UserError

FAMILIES = ["bart", "gpt2", "llama"]
SEARCH = {"max_new_tokens": 8, "do_sample": False}
NO_DROPOUT = {
    "bart": {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


def embedding(family: str, attention: str = "sdpa", **options: Any) -> PrefixEmbTuning:
    prefix = tiny.prefixed(family, attention, kind=PrefixEmbTuning, **options)
    assert isinstance(prefix, PrefixEmbTuning)
    return prefix


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("mid_dim", [8, 0])
def test_a_decoders_keys_and_values_are_its_own_of_the_vectors_at_positions_0_to_p(family: str, mid_dim: int) -> None:
    prefix = embedding(family, mid_dim=mid_dim)
    cache = tiny.base(family)(inputs_embeds=prefix.prefix["decoder"]()[None], use_cache=True).past_key_values
    for pair, layer in zip(prefix.past_key_values()["decoder"], cache.layers, strict=True):
        close(pair[0], layer.keys[0])
        close(pair[1], layer.values[0])


@pytest.mark.parametrize("sites", [None, ("cross",), ("encoder",), ("decoder",)])
def test_barts_three_sites_are_what_both_stacks_compute_of_their_vectors(sites: tuple[str, ...] | None) -> None:
    prefix, stock = embedding("bart", sites=sites), tiny.base("bart")
    vectors = {name: module()[None] for name, module in prefix.prefix.items()}
    assert set(vectors) == ({"encoder", "decoder"} if not sites or "decoder" in sites else {"encoder"})
    made: dict[str, Tensor] = {}
    for name, module in stock.named_modules():
        if name.endswith(("k_proj", "v_proj")):
            module.register_forward_hook(lambda _, args, output, name=name: made.update({name: output}))
    stock(
        inputs_embeds=vectors["encoder"], decoder_inputs_embeds=vectors.get("decoder", torch.zeros(1, 1, 32).double())
    )
    attention = {"encoder": "encoder.layers.{}.self_attn", "decoder": "decoder.layers.{}.self_attn"}
    attention["cross"] = "decoder.layers.{}.encoder_attn"
    assert set(prefix.past_key_values()) == set(sites or attention)
    for site, layers in prefix.past_key_values().items():
        for number, pair in enumerate(layers):
            for own, projection in zip(pair, ("k_proj", "v_proj"), strict=True):
                output = made[f"model.{attention[site].format(number)}.{projection}"]
                close(own, output[0].unflatten(1, (4, 8)).transpose(0, 1))


def test_cross_attention_alone_of_a_decoder_that_is_wider_than_its_encoder() -> None:
    prefix, stock = embedding("t5gemma", "eager", sites=("cross",)), tiny.base("t5gemma", "eager")
    encoded = stock.get_encoder()(inputs_embeds=prefix.prefix["encoder"]()[None]).last_hidden_state
    for layer, (key, value) in zip(stock.get_decoder().layers, prefix.past_key_values()["cross"], strict=True):
        close(key.transpose(0, 1).flatten(1), layer.cross_attn.k_proj(encoded)[0])
        close(value.transpose(0, 1).flatten(1), layer.cross_attn.v_proj(encoded)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_vector_through_the_frozen_base(family: str) -> None:
    prefix = embedding(family).train()
    _, gradients = step(prefix, **tiny.batch(family))
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert not any(p.requires_grad or p.grad is not None for p in prefix.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_equals_eager(family: str) -> None:
    steps = [step(embedding(family, attention), **tiny.batch(family)) for attention in ("sdpa", "eager")]
    check_same_step(*steps, exactness(family, "eager"))


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_near_float32_and_what_is_trained_stays_float32(family: str) -> None:
    exact, inputs = embedding(family, dtype=torch.float32), tiny.batch(family)
    loss, _ = step(exact, **inputs)
    with torch.autocast("cpu", torch.bfloat16):
        cast, others = step(exact, **inputs)
    rough = PrefixEmbTuning(tiny.base(family, dtype=torch.bfloat16), preseqlen=4, mid_dim=8).eval()
    rough.prefix.load_state_dict(exact.prefix.state_dict())
    in_bf16, gradients = step(rough, **inputs)
    assert in_bf16.item() == pytest.approx(loss.item(), rel=0.02)
    assert cast.item() == pytest.approx(loss.item(), rel=0.02)
    assert {gradient.dtype for gradient in (*gradients.values(), *others.values())} == {torch.float32}


@pytest.mark.parametrize("base_dropout", [True, False])
@pytest.mark.parametrize("family", NO_DROPOUT)
def test_gradient_checkpointing_changes_nothing(family: str, base_dropout: bool) -> None:
    prefix = embedding(family, changes=NO_DROPOUT[family], base_dropout=base_dropout).train()
    stored = step(prefix, **tiny.batch(family))
    prefix.model.gradient_checkpointing_enable()
    check_same_step(step(prefix, **tiny.batch(family)), stored)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_uncached_generation(family: str, num_beams: int) -> None:
    prefix, search = embedding(family), {**SEARCH, "num_beams": num_beams}
    cached, uncached = (prefix.generate(**tiny.prompts(family), **search, use_cache=use) for use in (True, False))
    assert cached.tolist() == uncached.tolist()


def test_the_base_runs_over_the_vectors_once_per_step_and_once_per_generation() -> None:
    prefix = embedding("gpt2")
    calls = count_calls(prefix.prefix["decoder"].mlp[0])
    runs = count_calls(prefix.model.transformer)
    step(prefix, **tiny.batch("gpt2"))
    assert (len(calls), len(runs)) == (1, 2)
    prefix.generate(**tiny.prompts("gpt2"), **SEARCH, min_new_tokens=8)
    assert (len(calls), len(runs)) == (2, 2 + 1 + 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_collapse_leaves_keys_and_values_that_a_plain_prefix_reads(family: str, tmp_path: Path) -> None:
    prefix, inputs = embedding(family), tiny.batch(family)
    logits = prefix(**inputs).logits
    assert prefix.collapse() is prefix
    close(prefix(**inputs).logits, logits)
    assert sum(p.numel() for p in prefix.prefix.parameters()) == prefix.num_prefix_parameters()
    prefix.save_pretrained(tmp_path)
    assert {name.split(".")[1] for name in load_file(tmp_path / "prefix.safetensors")} == {"key_values"}
    back = PrefixTuning.from_pretrained(tmp_path, tiny.base(family)).eval()
    assert type(back) is PrefixTuning
    assert torch.equal(back(**inputs).logits, prefix(**inputs).logits)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_more_vectors_or_words_than_the_base_has_positions_are_refused(family: str) -> None:
    said = "prefix length 65 .*exceed the base's 64 positions"
    with pytest.raises(UserError, match=said):
        embedding(family, preseqlen=65)
    prefix = PrefixTuning(tiny.base(family), preseqlen=65, shift_positions=False)
    with pytest.raises(UserError, match=said):
        prefix.init_from_text("words", lambda text, add_special_tokens: {"input_ids": [7]})
    assert prefix.past_key_values()["decoder"][0][0].shape[1] == 65  # still whole


def test_a_look_at_keys_and_values_leaves_each_modules_mode() -> None:
    prefix = embedding("gpt2").train()
    modes = [module.training for module in prefix.modules()]
    prefix.past_key_values()
    assert [module.training for module in prefix.modules()] == modes and len(set(modes)) == 2


def test_what_is_kept_is_computed_without_the_bases_dropout() -> None:
    still = embedding("bart").past_key_values()
    prefix = embedding("bart").train()
    prefix.detach()
    for kept in (prefix.past_key_values(), prefix.collapse().past_key_values()):
        for site, layers in still.items():
            for pair, own in zip(layers, kept[site], strict=True):
                close(own[0], pair[0])
                close(own[1], pair[1])
    assert prefix.model.training


@pytest.mark.parametrize("mid_dim", [8, 0])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_trained_vectors_come_back_bit_for_bit(family: str, mid_dim: int, tmp_path: Path) -> None:
    prefix = embedding(family, mid_dim=mid_dim, dropout=0.25)
    prefix.save_pretrained(tmp_path)
    for reader in (PrefixTuning, PrefixEmbTuning):
        back = reader.from_pretrained(tmp_path, tiny.base(family)).eval()
        assert (type(back), back.mid_dim, back.dropout) == (PrefixEmbTuning, mid_dim, 0.25)
        assert torch.equal(back(**tiny.batch(family)).logits, prefix(**tiny.batch(family)).logits)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_dropout_is_on_the_vectors_and_drawn_for_each_example(family: str) -> None:
    prefix = embedding(family, dropout=0.5, changes=NO_DROPOUT[family]).train()
    rows = {"input_ids": torch.full((3, 4), 7), "labels": torch.full((3, 4), 7)}
    drawn = prefix(**rows).logits
    assert not torch.equal(drawn[0], drawn[1])
    still = prefix.eval()(**rows).logits
    close(still[0], still[1])


@pytest.mark.parametrize("parametrize_emb", ["MLP", "Emb"])
def test_the_authors_names_are_read(parametrize_emb: str) -> None:
    prefix = embedding("gpt2", mid_dim=8 if parametrize_emb == "MLP" else 0)
    state = {"wte.weight": torch.randn(4, 32).double()}
    expected = state["wte.weight"]
    if parametrize_emb == "MLP":
        mlp = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 32)).double()
        state.update({f"control_trans.{name}": value.detach() for name, value in mlp.state_dict().items()})
        expected = mlp(expected).detach()
    prefix.load_original(state)
    close(prefix.prefix["decoder"]().detach(), expected)
    with pytest.raises(UserError, match="holds no tensors by name"):
        prefix.load_original({})
    with pytest.raises(UserError, match=r"no control_trans\.0|no wte"):
        prefix.load_original({"other.weight": torch.zeros(1)})


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("kind", [PrefixTuning, PrefixEmbTuning])
def test_layers_that_the_base_leaves_out_in_training_have_keys_and_values_all_the_same(kind: Any, share: float) -> None:
    """M2M100 leaves layers out; where it leaves out all, none sees the prefix, which is no mistake."""
    model = tiny.base("bart", encoder_layerdrop=share, decoder_layerdrop=share)
    prefix = kind(model, 4, 8).double().train()
    for seed in range(6):
        torch.manual_seed(seed)
        assert prefix(**tiny.batch("bart")).loss.isfinite()
    assert model.get_encoder().layerdrop == model.get_decoder().layerdrop == share
