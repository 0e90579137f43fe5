"""GPT-2's pretraining: every form is made of the window's own words, and carries loss on the text alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from small_runs import write_text

from gpt2 import pretraining_forms
from gpt2.pretraining_forms import END_OF_TEXT, CausalLanguageModelling, PretrainingForms
from seq2seq.arguments import Arguments
from seq2seq.pretraining_data import UNIT, text_files, train_tokenizer
from seq2seq.utils import IGNORE, UserError

TEXT = "In May 1987 Alba Morrow of Port Ellis opened the old mill. It sells bread, rope and 40 kinds of tea."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    files = text_files(write_text(tmp_path_factory.mktemp("text") / "corpus"))
    return CausalLanguageModelling.tokenizer(train_tokenizer(files, vocab_size=320))


class Always:
    """In a random generator's place: every telling word is taken, none is joined, nothing is shuffled."""

    def __init__(self) -> None:
        self.first = True

    def random(self) -> float:
        first, self.first = self.first, False
        return 1.0 if first else 0.99

    def integers(self, *_: int) -> int:
        return 0

    def permutation(self, n: int) -> np.ndarray:
        return np.arange(n)


def forms(tokenizer, share: float = 0.99) -> PretrainingForms:
    return PretrainingForms(tokenizer, share, mask_ratio=0.3, span_mean=3.0, permute=True)


@pytest.fixture
def window(tokenizer) -> np.ndarray:
    return np.array(tokenizer(TEXT, add_special_tokens=False)["input_ids"])


class TestTokenizer:
    def test_is_the_same_vocabulary_with_gpt2s_end(self, tokenizer):
        assert tokenizer.eos_token == tokenizer.bos_token == END_OF_TEXT and tokenizer.eos_token_id == 2
        assert tokenizer(TEXT)["input_ids"] == tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT

    def test_its_end_is_read_in_a_string(self, tokenizer):
        assert tokenizer(f" a {END_OF_TEXT} b")["input_ids"].count(2) == 1

    def test_one_in_gpt2s_form_stays(self, tokenizer):
        assert CausalLanguageModelling.tokenizer(tokenizer) is tokenizer


class TestForms:
    def test_plain_text_is_the_whole_window_after_an_end(self, tokenizer, window):
        form = forms(tokenizer, share=0.0)
        batch = form.collate([form.from_window(window, np.random.default_rng(0))])
        assert batch["input_ids"][0].tolist() == [2, *window.tolist()]
        assert batch["labels"][0].tolist() == [IGNORE, *window.tolist()]

    @pytest.mark.parametrize("option", ["mask_ratio", "span_mean", "permute_sentences"])
    def test_have_the_noise_that_was_asked_for_and_plain_text_has_none(self, tokenizer, option):
        noise = {"mask_ratio": 0.1, "span_mean": 5.0, "permute_sentences": False}
        options = Arguments(text_to_text_share=0.5, **noise)
        denoiser = CausalLanguageModelling.form(tokenizer, options, held_out=False).denoiser
        assert (denoiser.mask_ratio, denoiser.span_mean, denoiser.permute) == (0.1, 5.0, False)
        with pytest.raises(UserError, match=f"--{option} {noise[option]}: does nothing to plain text"):
            CausalLanguageModelling.form(tokenizer, Arguments(**{option: noise[option]}), held_out=False)

    def test_held_out_text_stays_plain(self, tokenizer):
        options = Arguments(text_to_text_share=0.5)
        forms_of = (CausalLanguageModelling.form(tokenizer, options, held_out=held_out) for held_out in (False, True))
        assert [form.share for form in forms_of] == [0.5, 0.0]

    def test_a_pair_beyond_the_positions_stays_plain_text(self, tokenizer, window):
        form = forms(tokenizer)
        long = np.tile(window, 1 + UNIT // len(window))[:UNIT]
        for seed in range(20):
            source, text = form.from_window(long, np.random.default_rng(seed))
            assert form.collate([(source, text)])["input_ids"].shape[1] <= CausalLanguageModelling.positions
            assert len(source) or text is long

    def test_a_source_stands_before_the_text_and_has_no_loss(self, tokenizer, window):
        form = forms(tokenizer)
        source, target = form.from_window(window, np.random.default_rng(1))
        batch = form.collate([(source, target), (source[:0], target[:3])])
        row, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        said = tokenizer.decode(row)
        assert said.count(END_OF_TEXT) == 2 and said.endswith(f" {END_OF_TEXT}")
        assert labels[: row.index(2) + 1] == [IGNORE] * (row.index(2) + 1)
        assert labels[row.index(2) + 1 :] == row[row.index(2) + 1 :]
        assert batch["attention_mask"][1].tolist() == [1] * 4 + [0] * (len(row) - 4)
        assert batch["labels"][1].tolist() == [IGNORE, *target[:3].tolist()] + [IGNORE] * (len(row) - 4)

    def test_pieces_are_all_words_of_the_text(self, tokenizer, window):
        form = forms(tokenizer)
        source = form._pieces(window, np.random.default_rng(2))
        bars = Counter(tokenizer(" |", add_special_tokens=False)["input_ids"])
        count = tokenizer.decode(source).count("|")
        assert Counter(source.tolist()) - Counter({k: v * count for k, v in bars.items()}) == Counter(window.tolist())

    @pytest.mark.parametrize("seed", range(5))
    def test_key_words_hold_every_name_and_number(self, tokenizer, window, seed):
        said = tokenizer.decode(forms(tokenizer)._key_words(window, np.random.default_rng(seed)))
        keys = [key.strip() for key in said.split("|")]
        for name in ("In May 1987 Alba Morrow", "Port Ellis", "40"):  # neighbouring names are one span
            assert name in keys, said
        assert all(key in TEXT for key in keys)

    def test_records_give_each_of_them_a_label_from_the_text(self, tokenizer, window):
        said = tokenizer.decode(forms(tokenizer)._records(window, np.random.default_rng(3)))
        pairs = [field.split(" : ") for field in said.split(" | ")]
        assert all(len(pair) == 2 and all(part.strip() in TEXT for part in pair) for pair in pairs), said
        assert "Port Ellis" in [value.strip() for _, value in pairs]

    def test_records_of_every_telling_word_leave_out_the_common_ones(self, tokenizer, window, monkeypatch):
        monkeypatch.setattr(pretraining_forms, "COMMON", 0)  # a vocabulary this small has no whole words
        form = forms(tokenizer)
        said = tokenizer.decode(form._key_words(window, Always()))
        assert {word for key in said.split("|") for word in key.split()} == {word.strip(".,") for word in TEXT.split()}
        one = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(320)))) if token.startswith("Ġ")]
        monkeypatch.setattr(pretraining_forms, "COMMON", 320)
        spans = form._spans(np.array(one), Always())
        assert all(form.is_name[span[0]] or len(span) > 1 for _, span in spans[1:])

    def test_the_share_is_kept_and_all_forms_occur(self, tokenizer, window):
        form = forms(tokenizer, share=0.6)
        seen: list[str] = []
        for name in ("_noisy", "_pieces", "_key_words", "_records"):
            inner = getattr(form, name)
            form.forms[len(seen)] = lambda ids, rng, name=name, inner=inner: seen.append(name) or inner(ids, rng)
            seen.append("")
        seen.clear()
        rng = np.random.default_rng(4)
        plain = sum(len(form.from_window(window, rng)[0]) == 0 for _ in range(400))
        assert plain / 400 == pytest.approx(0.4, abs=0.08)
        assert set(seen) == {"_noisy", "_pieces", "_key_words", "_records"}

    def test_a_text_without_names_and_marks_alone_have_forms_too(self, tokenizer):
        form = forms(tokenizer)
        for said in ("so it goes on and on like that here.", "... -- !! ?? ,, ;; .. !!"):
            ids = np.array(tokenizer(said, add_special_tokens=False)["input_ids"])
            for seed in range(10):
                source, _ = form.from_window(ids, np.random.default_rng(seed))
                assert len(source)
