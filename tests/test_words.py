"""A prefix that starts from words: the keys and values that the frozen base computes for them."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from tiny import close
from torch import Tensor
from transformers import (
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from seq2seq.prefixTuning import PrefixEmbTuning, PrefixTuning
from seq2seq.utils import UserError

IDS = {"mill": 21, "river": 33, "table": 7, "to": 40, "text": 12}


def tokenizer(text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
    """One token a word, and one at the end if special ones are asked for."""
    return {"input_ids": [IDS[word] for word in text.split()] + ([tiny.EOS] if add_special_tokens else [])}


TEXT, TOKENS = "table to text", [7, 40, 12]


def started(family: str, kind: type[PrefixTuning] = PrefixTuning, **options: bool | int) -> PrefixTuning:
    prefix = kind(tiny.base(family), **{"mid_dim": 0, **options}).double().eval()
    prefix.init_from_text(TEXT, tokenizer)
    return prefix


@pytest.mark.parametrize("kind", [PrefixTuning, PrefixEmbTuning])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_exact_words_predict_the_next_token_as_the_words_in_front_of_the_input_do(
    kind: type[PrefixTuning], attention: str
) -> None:
    stock = tiny.base("gpt2", attention)
    prefix = kind(tiny.base("gpt2", attention), mid_dim=0).double().eval()
    assert prefix.init_from_text(TEXT, tokenizer) < 1e-20
    ids = tiny.rows("gpt2")[0]["input_ids"]
    with_words = torch.cat((torch.tensor([TOKENS]), ids), dim=1)
    close(prefix(input_ids=ids).logits, stock(input_ids=with_words).logits[:, 3:])
    search = {"max_new_tokens": 9, "do_sample": False, "num_beams": 3, "pad_token_id": tiny.PAD}
    ours, theirs = prefix.generate(input_ids=ids, **search), stock.generate(input_ids=with_words, **search)
    assert ours.tolist() == theirs[:, 3:].tolist()


def test_exact_words_with_rotary_positions_and_grouped_heads() -> None:
    prefix, ids = started("llama"), tiny.rows("llama")[0]["input_ids"]
    with_words = torch.cat((torch.tensor([TOKENS]), ids), dim=1)
    close(prefix(input_ids=ids).logits, tiny.base("llama")(input_ids=with_words).logits[:, 3:])


def test_exact_words_of_an_infix_stand_between_source_and_target() -> None:
    prefix = started("gpt2", infix=True)
    source, target = torch.tensor([[9, 21, 5]]), torch.tensor([[2, 30, 31]])
    row = torch.cat((source, torch.tensor([TOKENS]), target), dim=1)
    close(prefix(input_ids=target, source_ids=source).logits, tiny.base("gpt2")(input_ids=row).logits[:, 6:])


def test_barts_three_sites_are_its_projections_in_a_pass_over_the_words() -> None:
    prefix, stock = started("bart"), tiny.base("bart")
    made: dict[str, Tensor] = {}
    for name, module in stock.named_modules():
        if name.endswith(("k_proj", "v_proj")):
            module.register_forward_hook(lambda _, args, output, name=name: made.update({name: output.detach()}))
    stock(input_ids=torch.tensor([TOKENS]), decoder_input_ids=torch.tensor([TOKENS]))
    places = {"encoder": "encoder.layers.{}.self_attn", "decoder": "decoder.layers.{}.self_attn"}
    places["cross"] = "decoder.layers.{}.encoder_attn"
    for site, layers in prefix.past_key_values().items():
        for number, pair in enumerate(layers):
            for own, projection in zip(pair, ("k_proj", "v_proj"), strict=True):
                output = made[f"model.{places[site].format(number)}.{projection}"]
                close(own.detach(), output[0].unflatten(1, (4, 8)).transpose(0, 1))


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (PegasusConfig, PegasusForConditionalGeneration),
        (MarianConfig, MarianMTModel),
        (BlenderbotSmallConfig, BlenderbotSmallForConditionalGeneration),
    ],
)
@pytest.mark.parametrize("kind", [PrefixTuning, PrefixEmbTuning])
def test_words_are_scaled_where_the_base_scales_them(config: Any, model: Any, kind: type[PrefixTuning]) -> None:
    """Some scale the vectors of tokens and not those that are given, which differs from stack to stack."""
    torch.manual_seed(0)
    special = {"scale_embedding": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    stock = model(config(**tiny.SIZES_OF_BARTS, **special)).double().eval()
    made: dict[str, Tensor] = {}
    hooks = [
        stack.layers[1].self_attn.k_proj.register_forward_hook(lambda _, args, output, n=name: made.update({n: output}))
        for name, stack in (("encoder", stock.get_encoder()), ("decoder", stock.get_decoder()))
    ]
    stock(input_ids=torch.tensor([TOKENS]), decoder_input_ids=torch.tensor([TOKENS]))
    for hook in hooks:
        hook.remove()
    prefix = kind(stock, mid_dim=0).double().eval()
    prefix.init_from_text(TEXT, tokenizer)
    for name, output in made.items():
        close(prefix.past_key_values()[name][1][0].detach(), output[0].unflatten(1, (4, 8)).transpose(0, 1).detach())


@pytest.mark.parametrize("kind", [PrefixTuning, PrefixEmbTuning])
@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_an_mlp_comes_near_the_words_and_its_embedding_stays(family: str, kind: type[PrefixTuning]) -> None:
    exact = started(family, kind)
    torch.manual_seed(2)
    prefix = kind(tiny.base(family), preseqlen=3, mid_dim=64).double()
    fixed = {name: p.clone() for name, p in prefix.prefix.named_parameters() if name.endswith("embedding")}

    def distance() -> float:
        squares = [
            (own - other).detach().pow(2).mean()
            for name, layers in prefix.trained().items()
            for own, other in zip(layers(), exact.trained()[name](), strict=True)
        ]
        return torch.stack(squares).mean().item()

    before, left = distance(), prefix.init_from_text(TEXT, tokenizer)
    assert left == pytest.approx(distance())
    assert left < before / 2
    assert all(torch.equal(p, fixed[name]) for name, p in prefix.prefix.named_parameters() if name in fixed)
    assert all(p.requires_grad and p.grad is None for p in prefix.prefix.parameters())


@pytest.mark.parametrize("mid_dim", [0, 8])
def test_p_becomes_the_number_of_tokens_unless_it_was_given(mid_dim: int) -> None:
    prefix = PrefixTuning(tiny.base("gpt2"), mid_dim=mid_dim)
    assert prefix.preseqlen == 5
    prefix.init_from_text(TEXT, tokenizer)
    assert prefix.preseqlen == 3
    assert prefix.past_key_values()["decoder"][0][0].shape == (4, 3, 8)
    prefix.init_from_text("mill river table to text mill", tokenizer)
    assert prefix.past_key_values()["decoder"][0][0].shape == (4, 6, 8)
    given = PrefixTuning(tiny.base("gpt2"), preseqlen=5, mid_dim=mid_dim)
    given.init_from_text(TEXT, tokenizer)
    assert given.preseqlen == 5


@pytest.mark.parametrize(("length", "repeated"), [(2, [7, 40]), (3, [7, 40, 12]), (8, [7, 40, 12, 7, 40, 12, 7, 40])])
def test_a_given_p_repeats_or_cuts_the_words(length: int, repeated: list[int]) -> None:
    prefix, ids = started("gpt2", preseqlen=length), tiny.rows("gpt2")[0]["input_ids"]
    row = torch.cat((torch.tensor([repeated]), ids), dim=1)
    close(prefix(input_ids=ids).logits, tiny.base("gpt2")(input_ids=row).logits[:, length:])


def test_the_bases_dropout_is_off_while_it_reads_the_words_and_back_on_afterwards() -> None:
    prefix = PrefixTuning(tiny.base("bart"), mid_dim=0).double().train()
    prefix.init_from_text(TEXT, tokenizer)
    assert prefix.model.training
    for site, layers in started("bart").past_key_values().items():
        for pair, own in zip(layers, prefix.past_key_values()[site], strict=True):
            close(own[0].detach(), pair[0].detach())


@pytest.mark.parametrize("training", [True, False])
def test_an_error_while_it_reads_the_words_leaves_the_base_in_its_mode(training: bool) -> None:
    prefix = PrefixTuning(tiny.base("bart"), mid_dim=0).train(training)
    prefix.model.get_encoder().register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prefix.init_from_text("mill", tokenizer)
    assert prefix.model.training is training


def test_another_bases_tokenizer_is_named_before_anything_changes(monkeypatch: Any) -> None:
    prefix = PrefixTuning(tiny.base("bart"), mid_dim=0)
    monkeypatch.setitem(IDS, "mill", tiny.VOCABULARY)
    with pytest.raises(UserError, match=r"init_from_text 'river mill': .* token 60 of it, the base has 60"):
        prefix.init_from_text("river mill", tokenizer)
    assert prefix.preseqlen == 5


def test_a_text_without_tokens_or_too_long_for_the_base_is_an_error() -> None:
    prefix = PrefixTuning(tiny.base("gpt2", n_positions=8), mid_dim=0)
    with pytest.raises(UserError, match="init_from_text '': .*no token"):
        prefix.init_from_text("", tokenizer)
    with pytest.raises(UserError, match=r"9 \+ 1 .* 8 positions"):
        prefix.init_from_text("mill river table " * 3, tokenizer)
    assert prefix.preseqlen == 5
