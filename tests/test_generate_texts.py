"""What the decoding of a run asks of `generate`, whatever the base's own settings say."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from tiny import base

from seq2seq.decoding import generate_texts, newline_tokens
from seq2seq.tasks import Search
from seq2seq.text_forms import CausalForm, Seq2SeqForm

SEARCH = Search(1, 3, 9, 1.0, 0, False)


class Asked:
    """A model that notes the options of its `generate` and answers with the prompt and one more token."""

    def __init__(self, **own: Any) -> None:
        self.generation_config = SimpleNamespace(**{"suppress_tokens": None, **own})

    def generate(self, **options: Any) -> torch.Tensor:
        self.options = options
        ids = options["input_ids"]
        return torch.cat((ids, ids[:, :1]), dim=1)


def asked(form: Any, **own: Any) -> dict[str, Any]:
    model = Asked(**own)
    ids = torch.tensor([[5, 6]])
    generate_texts(model, form, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, SEARCH)
    return model.options


def test_a_decoders_output_is_one_line(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["\n", "\n\n", "a\n"])
    newlines = tokenizer.convert_tokens_to_ids(["\n", "\n\n"])
    assert newline_tokens(tokenizer) == sorted(newlines)
    form = CausalForm(tokenizer)
    assert sorted(asked(form)["suppress_tokens"]) == sorted(newlines)
    assert sorted(asked(form, suppress_tokens=[7])["suppress_tokens"]) == sorted([7, *newlines])


def test_an_encoder_decoders_own_lengths_do_not_win(tiny_tokenizer: Any) -> None:
    options = asked(Seq2SeqForm(tiny_tokenizer))
    assert (options["min_length"], options["max_length"]) == (3, 9)
    model = base("bart").eval()
    model.generation_config.max_new_tokens = 40
    ids = torch.tensor([[5, 6, 7]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    output = model.generate(**batch, **{name: options[name] for name in options if name.endswith(("length", "tokens"))})
    assert output.shape[1] <= 9


def test_a_decoders_lengths_are_new_tokens(tiny_tokenizer: Any) -> None:
    options = asked(CausalForm(tiny_tokenizer))
    assert (options["min_new_tokens"], options["max_new_tokens"]) == (3, 9)


def test_a_decoder_without_a_pad_token_pads_all_the_same(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = None
    assert asked(CausalForm(tokenizer))["pad_token_id"] is not None


def test_lengths_count_the_prompt_where_the_search_says_so(tiny_tokenizer: Any) -> None:
    ids = torch.tensor([[5, 6]])
    for norm in ("prompt", SEARCH.length_norm):
        model = Asked()
        search = replace(SEARCH, num_beams=2, length_norm=norm)
        generate_texts(model, CausalForm(tiny_tokenizer), {"input_ids": ids, "attention_mask": ids}, search)
        assert model.options.get("count_prompt", False) == (norm == "prompt")
