"""How source and target stand in a row: the authors' strings for decoders, the tokenizer's own for encoder-decoders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seq2seq.data import tokenise
from seq2seq.records import Record
from seq2seq.text_forms import CausalForm
from seq2seq.utils import IGNORE, UserError

RECORD = Record("name : Alba Mill | type : inn", ("Alba Mill is an inn .", "An inn : Alba Mill ."))
WORDS = ["<|endoftext|>", "[PAD]", "name", ":", "Alba", "Mill", "|", "type", "inn", "is", "an", ".", "An"]


def word_tokenizer(words: list[str], **special: Any) -> PreTrainedTokenizerFast:
    """One token a word; blanks between words are no tokens."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(WORDS, eos_token="<|endoftext|>", pad_token="[PAD]")


@pytest.fixture
def blanks(tiny_tokenizer) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, in which a lone blank is a token, as in GPT-2's."""
    return PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="</s>")


class TestCausal:
    def test_a_row_is_source_end_target_end_without_loss_on_the_source(self, tokenizer):
        form = CausalForm(tokenizer)
        tokens = tokenise([RECORD], form, 32, 32, None)
        batch = form.collate([tokens[0], tokens[1]])
        source = [2, 3, 4, 5, 6, 7, 3, 8, 0]
        assert batch["input_ids"].tolist() == [[*source, 4, 5, 9, 10, 8, 11, 0], [*source, 12, 8, 3, 4, 5, 11, 0]]
        assert batch["labels"].tolist()[0] == [IGNORE] * 9 + [4, 5, 9, 10, 8, 11, 0]
        assert batch["index"].tolist() == [0, 1]

    def test_padding_is_on_the_right_in_training_and_on_the_left_in_prompts(self, tokenizer):
        form = CausalForm(tokenizer)
        rows = list(tokenise([RECORD, Record("name : inn", ("inn .",))], form, 32, 32, None, pairs="first"))
        batch, prompts = form.collate(rows), form.prompts(rows)
        assert batch["input_ids"][1].tolist() == [2, 3, 8, 0, 8, 11, 0] + [1] * 9
        assert batch["attention_mask"][1].tolist() == [1] * 7 + [0] * 9
        assert batch["labels"][1].tolist() == [IGNORE] * 4 + [8, 11, 0] + [IGNORE] * 9
        assert prompts["input_ids"].tolist() == [[2, 3, 4, 5, 6, 7, 3, 8, 0], [1] * 5 + [2, 3, 8, 0]]
        assert prompts["attention_mask"].tolist() == [[1] * 9, [0] * 5 + [1] * 4]

    def test_the_blanks_around_the_end_token_are_tokens(self, blanks):
        form = CausalForm(blanks)
        ((source, _),), ((target, _),) = form.sources(["the inn"], 32), form.targets(["an inn"], 32)
        whole = blanks(f" the inn {blanks.eos_token} an inn {blanks.eos_token}", add_special_tokens=False)["input_ids"]
        assert [*source, *target] == whole
        assert blanks.convert_ids_to_tokens(source)[-2:] == ["Ġ", "</s>"]

    def test_a_cut_source_keeps_its_end(self, tokenizer):
        tokens = tokenise([RECORD], CausalForm(tokenizer), 4, 3, None)
        assert tokens[0]["input_ids"].tolist() == [2, 3, 4, 0] and tokens[0]["labels"].tolist() == [4, 5, 0]
        assert tuple(tokens.truncated) == (1, 2)

    def test_without_a_pad_token_the_end_token_pads(self):
        bare = word_tokenizer(WORDS, eos_token="<|endoftext|>")
        form = CausalForm(bare)
        rows = list(tokenise([RECORD, Record("inn", ("inn",))], form, 32, 32, None, pairs="first"))
        batch = form.collate(rows)
        assert batch["input_ids"][1].tolist()[:4] == [8, 0, 8, 0] and set(batch["input_ids"][1].tolist()[4:]) == {0}
        assert batch["labels"][1].tolist() == [IGNORE, IGNORE, 8, 0] + [IGNORE] * 12
        assert batch["attention_mask"].sum(1).tolist() == [16, 4]

    def test_the_loss_begins_behind_the_first_end_token_also_where_it_stands_in_the_source(self, tokenizer):
        rows = list(tokenise([Record("name <|endoftext|> inn", ("inn .",))], CausalForm(tokenizer), 32, 32, None))
        batch = CausalForm(tokenizer).collate(rows)
        assert batch["input_ids"].tolist() == [[2, 0, 8, 0, 8, 11, 0]]
        assert batch["labels"].tolist() == [[IGNORE, IGNORE, 8, 0, 8, 11, 0]]

    def test_a_source_prefix_stands_straight_in_front_of_the_source(self, blanks):
        form = CausalForm(blanks, "sum up: ")
        ((source, _),), ((target, _),) = form.sources(["the inn"], 32), form.targets(["an inn"], 32)
        whole = f" sum up: the inn {blanks.eos_token} an inn {blanks.eos_token}"
        assert [*source, *target] == blanks(whole, add_special_tokens=False)["input_ids"]

    def test_a_tokenizer_without_an_end_is_refused(self):
        with pytest.raises(UserError, match="no end-of-text token"):
            CausalForm(word_tokenizer(WORDS))


GOLDEN = Path(os.environ.get("PREFIXTUNING_SHARED", "")) / "oracle" / "data_golden.json"


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the authors' batches are not in the repository")
@pytest.mark.parametrize("task", ["data2text", "webnlg", "triples"])
def test_batches_are_the_authors(task):
    golden = json.loads(GOLDEN.read_text())[task]
    vocabulary = golden["vocab"]
    tokenizer = word_tokenizer(sorted(vocabulary, key=vocabulary.get), eos_token="<|endoftext|>", pad_token="[PAD]")
    form = CausalForm(tokenizer)
    records = []
    for row in golden["training_strings"]:
        source, target, _ = row.split(" <|endoftext|>")
        records.append(Record(source.removeprefix(" "), (target.removeprefix(" "),)))
    rows = list(tokenise(records, form, 512, 512, None))
    assert [[*row["input_ids"].tolist(), *row["labels"].tolist()] for row in rows] == golden["training_input_ids"]
    batch, theirs = form.collate(rows), golden["collated"]["cat"]
    assert torch.equal(batch["input_ids"], torch.tensor(theirs["input_ids"]))
    assert torch.equal(batch["labels"], torch.tensor(theirs["labels"]))
    assert torch.equal(batch["attention_mask"], torch.tensor(theirs["tgt_attn"]))
