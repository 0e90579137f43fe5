"""Pretraining: the noise is BART's, the batches repeat exactly, and what comes out is a base like any other."""

from __future__ import annotations

import gzip
import json
import lzma
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from safetensors.torch import load_file
from small_runs import PRETRAINING, flags, start, write_text
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

from seq2seq import pretraining_data
from seq2seq.curves import read_rows
from seq2seq.finetune import BART
from seq2seq.parsing import parse
from seq2seq.pretrain import load_or_create
from seq2seq.pretraining_data import (
    UNIT,
    Denoiser,
    EpochOrder,
    WindowBatches,
    bytes_of_tokens,
    read_documents,
    text_files,
    tokenise_corpus,
    train_tokenizer,
)
from seq2seq.runs import Run
from seq2seq.utils import UserError


def broken_off(path: Path) -> Iterator[str]:
    """In place of `read_documents`: an interruption behind the first document."""
    yield "The first document."
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "corpus")


@pytest.fixture(scope="module")
def tokenizer(text) -> PreTrainedTokenizerFast:
    return train_tokenizer(text_files(text), vocab_size=300)


class TestTokenizer:
    def test_has_exactly_the_size_asked_for_and_barts_ids(self, tokenizer):
        assert len(tokenizer) == 300
        assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 299]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        assert tokenizer("a")["input_ids"][0] == 0 and tokenizer("a")["input_ids"][-1] == 2

    @pytest.mark.parametrize(
        "said",
        [
            "The ferry leaves at 18:45, not at 7.",
            "two  blanks, a\ttab,\na newline and one at the end ",
            "naïve café – “quoted” … 東京 🚲",
            "<b>markup</b> & #hash @at",
            "x",
        ],
    )
    def test_a_text_comes_back_as_it_was(self, tokenizer, said):
        ids = tokenizer(said)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == said

    def test_every_digit_stands_alone(self, tokenizer):
        tokens = tokenizer.convert_ids_to_tokens(
            tokenizer("In 1984, 20 of 305.", add_special_tokens=False)["input_ids"]
        )
        assert [token for token in tokens if any(c.isdigit() for c in token)] == list("198420305")

    def test_saved_and_loaded_it_is_the_same(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        assert loaded(SENTENCES[0])["input_ids"] == tokenizer(SENTENCES[0])["input_ids"]
        assert (loaded.mask_token_id, loaded.pad_token_id) == (299, 1)


class TestFiles:
    DOCUMENTS = ["One line.\nAnother.", "A second document."]

    @pytest.mark.parametrize("ending, opener", [(".txt", open), (".txt.gz", gzip.open), (".txt.xz", lzma.open)])
    def test_plain_and_packed_ones_are_read(self, tmp_path, ending, opener: Any):
        with opener(tmp_path / f"a{ending}", "wt", encoding="utf-8") as file:
            file.write("\n" + "\n\n \n".join(self.DOCUMENTS) + "\n")
        (path,) = text_files(tmp_path)
        assert list(read_documents(path)) == self.DOCUMENTS

    def test_held_out_files_and_licences_are_left_out_and_named(self, tmp_path, capsys):
        for name in ("b.txt", "a.txt", "a_valid.txt", "test.txt.gz", "LICENSE.txt", "notes.md"):
            (tmp_path / name).write_text("x")
        assert [path.name for path in text_files(tmp_path)] == ["a.txt", "b.txt"]
        assert capsys.readouterr().err.endswith("licences: LICENSE.txt, a_valid.txt, test.txt.gz\n")

    def test_a_word_within_a_word_leaves_nothing_out(self, tmp_path, capsys):
        names = ["contest.txt", "invalid.txt", "latest_news.txt", "values.txt"]
        for name in names:
            (tmp_path / name).write_text("x")
        assert [path.name for path in text_files(tmp_path)] == names
        assert not capsys.readouterr().err

    @pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz"])
    def test_what_is_not_utf8_or_not_whole_is_named(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"caf\xe9 \x00\xff")
        with pytest.raises(UserError, match=f"{name}: not readable as UTF-8 text"):
            list(read_documents(tmp_path / name))

    def test_a_packed_file_that_is_damaged_inside_is_named(self, tmp_path):
        packed = bytearray(gzip.compress(b"One line.\n" * 999))
        packed[12:20] = b"damaged!"
        (tmp_path / "a.txt.gz").write_bytes(packed)
        with pytest.raises(UserError, match=r"a\.txt\.gz: not readable as UTF-8 text \(.*\); convert or remove"):
            list(read_documents(tmp_path / "a.txt.gz"))

    def test_a_folder_with_a_texts_name_is_refused(self, tmp_path):
        (tmp_path / "a.txt").mkdir()
        with pytest.raises(UserError, match=r"--data_dir .*: a\.txt is no file"):
            text_files(tmp_path)
        with pytest.raises(UserError, match=r"a\.txt: not readable"):
            list(read_documents(tmp_path / "a.txt"))

    @pytest.mark.parametrize("blank", ["", "\n \n"])
    def test_a_text_without_a_word_is_named_each_time(self, tokenizer, tmp_path, blank):
        (tmp_path / "valid.txt").write_text(blank)
        for _ in range(2):
            with pytest.raises(UserError, match=r"valid\.txt: without any text; give a file with some"):
                tokenise_corpus([tmp_path / "valid.txt"], tokenizer, tmp_path / "cache")

    def test_a_file_in_the_caches_place_is_refused(self, text, tokenizer, tmp_path):
        (tmp_path / "cache").write_text("mine")
        with pytest.raises(UserError, match=r"--cache_dir .*/cache: cannot be written \(.*\); give another folder"):
            tokenise_corpus(text_files(text), tokenizer, tmp_path / "cache")
        assert (tmp_path / "cache").read_text() == "mine"

    def test_the_corpus_is_all_documents_with_a_line_between(self, text, tokenizer, tmp_path):
        corpus = tokenise_corpus(text_files(text), tokenizer, tmp_path)
        assert corpus.dtype == np.uint16
        documents = [d for path in text_files(text) for d in read_documents(path)]
        assert tokenizer.decode(corpus.tolist()) == " \n ".join(documents) + " \n"  # a word's blank stands before it

    def test_the_corpus_is_tokenised_once(self, text, tokenizer, tmp_path, monkeypatch):
        first = np.array(tokenise_corpus(text_files(text), tokenizer, tmp_path))

        def never(path: Path) -> Iterator[str]:
            raise AssertionError(path)

        monkeypatch.setattr(pretraining_data, "read_documents", never)
        assert np.array_equal(tokenise_corpus(text_files(text), tokenizer, tmp_path), first)
        (text_files(text)[0]).touch()
        with pytest.raises(AssertionError):
            tokenise_corpus(text_files(text), tokenizer, tmp_path)

    @pytest.mark.parametrize("damage", ["cut", "gone", "being written"])
    def test_a_corpus_that_is_not_whole_is_made_again(self, text, tokenizer, tmp_path, damage):
        first = np.array(tokenise_corpus(text_files(text), tokenizer, tmp_path))
        (tokens,) = tmp_path.glob("*.bin")
        if damage == "gone":
            tokens.unlink()
        elif damage == "cut":
            tokens.write_bytes(tokens.read_bytes()[:-500])
        else:
            tokens.with_suffix(".json").unlink()
        assert np.array_equal(tokenise_corpus(text_files(text), tokenizer, tmp_path), first)
        assert {path.suffix for path in tmp_path.iterdir()} == {".bin", ".json"}

    def test_one_that_reads_the_corpus_keeps_it_while_another_writes_it(self, text, tokenizer, tmp_path, monkeypatch):
        corpus = tokenise_corpus(text_files(text), tokenizer, tmp_path)
        first = np.array(corpus)
        monkeypatch.setattr(pretraining_data, "read_documents", broken_off)
        (tmp_path / next(tmp_path.glob("*.json"))).unlink()
        with pytest.raises(KeyboardInterrupt):
            tokenise_corpus(text_files(text), tokenizer, tmp_path)
        assert np.array_equal(corpus, first) and [path.suffix for path in tmp_path.iterdir()] == [".bin"]

    def test_the_home_folders_sign_is_read(self, text, monkeypatch):
        monkeypatch.setenv("HOME", str(text.parent))
        assert text_files(f"~/{text.name}") == text_files(text)

    @pytest.mark.parametrize("said", ["Straße – 12", "Ελλάδα", "東京は雨", " two  blanks\n"])
    def test_the_bytes_of_a_text_are_those_of_its_tokens(self, tokenizer, said):
        ids = tokenizer(f" {said}")["input_ids"]
        sizes = bytes_of_tokens(tokenizer)[torch.tensor(ids)]
        assert sizes.sum() == len(f" {said}".encode()) and sizes[0] == sizes[-1] == 0

    @pytest.mark.parametrize("kind", ["Metaspace", "ByteFallback", "WordPiece"])
    def test_the_bytes_of_tokens_that_are_written_in_other_ways(self, kind):
        entries, decoder = {
            "Metaspace": ({"▁mill": 5, "stone": 5, "▁": 1}, decoders.Metaspace()),
            "ByteFallback": ({"▁mill": 5, "<0xC3>": 1, "é": 2}, decoders.Sequence([decoders.ByteFallback()])),
            "WordPiece": ({"mill": 5, "##stone": 5, "é": 3}, decoders.WordPiece()),
        }[kind]
        backend = Tokenizer(models.WordLevel({"<unk>": 0, **{name: i for i, name in enumerate(entries, 1)}}, "<unk>"))
        backend.decoder = decoder
        backend.add_tokens(["café"])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
        assert bytes_of_tokens(tokenizer).tolist() == [0, *entries.values(), 5]

    def test_the_corpus_may_be_read_by_whom_the_folder_lets(self, text, tokenizer, tmp_path):
        tokenise_corpus(text_files(text), tokenizer, tmp_path)
        assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1

    def test_the_corpus_is_streamed(self, tokenizer):
        taken = 0

        def documents() -> Iterator[str]:
            nonlocal taken
            while taken < 10_000:
                taken += 1
                yield "A short document."

        next(pretraining_data._encode_in_batches(documents(), tokenizer))
        assert taken <= 512


class TestNoise:
    IDS = np.arange(5, 255)  # 250 tokens, no two alike: what is missing shows where it was

    @staticmethod
    def noisy(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray, seed: int, permute: bool = False) -> np.ndarray:
        return Denoiser(tokenizer, 0.3, 3.0, permute)(ids, np.random.default_rng(seed))[0]

    def test_labels_are_the_clean_text(self, tokenizer):
        _, labels = Denoiser(tokenizer, 0.3, 3.0, True)(self.IDS, np.random.default_rng(0))
        assert labels.tolist() == [0, *self.IDS.tolist(), 2]

    def test_30_percent_are_hidden_and_the_rest_keeps_its_order(self, tokenizer):
        for seed in range(20):
            source = self.noisy(tokenizer, self.IDS, seed)
            assert (source[0], source[-1]) == (0, 2)
            kept = source[1:-1][source[1:-1] != 299]
            assert len(kept) == 175 and np.all(np.diff(kept) > 0)

    def test_spans_are_poisson_3_and_each_is_one_mask(self, tokenizer):
        lengths: list[int] = []
        masks = 0
        for seed in range(400):
            body = self.noisy(tokenizer, self.IDS, seed)[1:-1].tolist()
            masks += body.count(299)
            # a mask between two kept tokens: the gap between their numbers is its span
            triples = zip(body, body[1:], body[2:], strict=False)
            lengths += [b - a - 1 for a, mask, b in triples if mask == 299 and 299 not in (a, b)]
        assert 400 * 75 / masks == pytest.approx(3, abs=0.15)
        assert np.mean(lengths) == pytest.approx(3, abs=0.15) and np.var(lengths) == pytest.approx(3, abs=0.3)
        assert lengths.count(0) / len(lengths) == pytest.approx(math.exp(-3), abs=0.02)

    def test_a_source_is_never_longer_than_its_text(self, tokenizer):
        pairs = [Denoiser(tokenizer, 0.3, 1.0, False)(self.IDS, np.random.default_rng(seed)) for seed in range(200)]
        assert max(len(source) - len(target) for source, target in pairs) == 0

    def test_sentences_change_places_and_nothing_is_lost(self, tokenizer):
        said = " ".join(SENTENCES)
        ids = np.array(tokenizer(said, add_special_tokens=False)["input_ids"])
        denoiser = Denoiser(tokenizer, 0.0, 3.0, True)
        sources = [denoiser(ids, np.random.default_rng(seed))[0] for seed in range(10)]
        assert all(Counter(source[1:-1].tolist()) == Counter(ids.tolist()) for source in sources)
        texts = {tokenizer.decode(source, skip_special_tokens=True) for source in sources}
        assert len(texts) > 5
        assert all(sentence in shown for shown in texts for sentence in SENTENCES)

    def test_windows_are_trimmed_to_whole_sentences_where_little_is_lost(self, tokenizer):
        ids = np.array(tokenizer(" ".join(SENTENCES), add_special_tokens=False)["input_ids"])
        denoiser = Denoiser(tokenizer, 0.3, 3.0, True)
        ends = np.flatnonzero(denoiser.ends_sentence[ids]) + 1
        window = ids[ends[0] - 3 : ends[3] + 4]
        assert denoiser.whole_sentences(window).tolist() == ids[ends[0] : ends[3]].tolist()
        within = ids[ends[0] : ends[1] - 1]  # no sentence ends in it
        assert denoiser.whole_sentences(within).tolist() == within.tolist()


class TestBatches:
    @staticmethod
    def batches(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> WindowBatches:
        tokens = np.random.default_rng(0).integers(5, 299, size=9 * UNIT + 100, dtype=np.uint16)
        options = {"tokens_per_batch": 2 * UNIT, "lengths": [64, 128], "seed": 3, **changes}
        return WindowBatches(tokens, Denoiser(tokenizer, 0.3, 3.0, True), **options)

    def test_are_a_function_of_seed_epoch_and_number_alone(self, tokenizer):
        forward = [self.batches(tokenizer)[2, i] for i in range(4)]
        same = self.batches(tokenizer)
        for i in (3, 1, 2, 0):
            assert all(torch.equal(same[2, i][name], forward[i][name]) for name in forward[i])
        for other in (same[1, 0], self.batches(tokenizer, seed=4)[2, 0]):
            assert not torch.equal(other["labels"][:, :20], forward[0]["labels"][:, :20])

    def test_an_epoch_takes_every_unit_once(self, tokenizer):
        tokens = np.repeat(np.arange(60, 68, dtype=np.uint16), UNIT)  # unit k holds nothing but 60 + k
        denoiser = Denoiser(tokenizer, 0.3, 3.0, True)
        batches = WindowBatches(tokens, denoiser, 2 * UNIT, [128, 256], seed=3)
        orders = []
        for epoch in range(2):
            rows = [row for i in range(len(batches)) for row in batches[epoch, i]["labels"]]
            content = Counter(int(token) for row in rows for token in row if token > 2)
            assert content == {token: UNIT for token in range(60, 68)}
            orders.append([int(row[1]) for row in rows])
        assert orders[0] != orders[1]

    def test_window_lengths_may_grow_in_the_course_of_the_training(self, tokenizer):
        batches = self.batches(tokenizer, lengths={0: [32], 2: [128], 5: [256]})
        rows = [len(batches[epoch, i]["input_ids"]) for epoch in range(2) for i in range(4)]
        assert rows == [32, 32, 8, 8, 8, 4, 4, 4]
        with pytest.raises(UserError, match="says nothing of batch 0"):
            self.batches(tokenizer, lengths={2: [128]})

    def test_padding_is_masked_and_carries_no_loss(self, tokenizer):
        batch = self.batches(tokenizer)[0, 0]
        assert torch.equal(batch["attention_mask"], (batch["input_ids"] != 1).long())
        assert bool(((batch["labels"] >= 0) | (batch["labels"] == -100)).all())
        assert len(batch["input_ids"]) in (8, 16)

    def test_a_pad_token_within_a_text_is_seen(self, tokenizer):
        rows = [np.array([0, 7, 1, 9, 2]), np.array([0, 7, 2])]
        batch = Denoiser(tokenizer, 0.3, 3.0, True).collate([(row, row) for row in rows])
        assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]

    def test_a_resumed_epoch_skips_what_is_done_and_the_next_one_is_whole(self):
        order = EpochOrder(4)
        order.set_epoch(1)
        order.start_batch = 2
        order.set_epoch(1)
        assert (list(order), len(order)) == ([(1, 2), (1, 3)], 4)
        order.set_epoch(2)
        assert list(order) == [(2, 0), (2, 1), (2, 2), (2, 3)]


class TestTheRun:
    @pytest.fixture(scope="class")
    def options(self, text, tmp_path_factory) -> dict[str, Any]:
        place = tmp_path_factory.mktemp("pretraining")
        valid = write_text(place / "held", documents=20) / "text.txt"
        return {**PRETRAINING, "data_dir": text, "valid_file": valid, "cache_dir": place / "cache"}

    @pytest.fixture(scope="class")
    def run(self, options, tmp_path_factory) -> Run:
        directory = tmp_path_factory.mktemp("run")
        start(**{**options, "epoch": 4, "val_every_steps": 20}, output_dir=directory)
        return Run(directory)

    def test_the_loss_falls(self, run):
        losses = [float(row["train_loss"]) for row in read_rows(run.metrics_csv)]
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])

    def test_the_files_are_those_of_a_pretraining(self, run):
        assert sorted(path.name for path in run.directory.iterdir()) == [
            *("checkpoints", "config.yaml", "curves.png", "metrics.csv", "metrics.json", "model", "tokenizer")
        ]

    def test_bits_per_byte_are_those_computed_by_hand(self, run, options):
        tokenizer = AutoTokenizer.from_pretrained(run.model)
        tokens = tokenise_corpus([Path(options["valid_file"])], tokenizer, Path(options["cache_dir"]))
        batches = WindowBatches(tokens, Denoiser(tokenizer, 0.3, 3.0, True), 1024, [32, 64], seed=0)
        model = AutoModelForSeq2SeqLM.from_pretrained(run.model, dtype=torch.float32).eval()
        trained = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
        model.load_state_dict({name.removeprefix("model."): v for name, v in trained.items()}, strict=False)
        nats, size = 0.0, 0
        for i in range(len(batches)):
            batch = batches[0, i]
            with torch.no_grad():
                loss = model(**batch).loss
            words = batch["labels"][batch["labels"] > 3]
            size += sum(len(word) for word in tokenizer.convert_ids_to_tokens(words))  # a character for each byte
            nats += loss.item() * int((batch["labels"] >= 0).sum())
        logged = [float(row["val_bits_per_byte"]) for row in read_rows(run.metrics_csv) if row["val_bits_per_byte"]]
        assert logged[-1] == pytest.approx(nats / math.log(2) / size, rel=1e-4)
        assert logged[-1] < logged[0]

    def test_the_model_is_a_save_pretrained_folder_in_bf16(self, run):
        weights = load_file(run.model / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
        model = AutoModelForSeq2SeqLM.from_pretrained(run.model)
        assert model.config.decoder_start_token_id == 2 and model.config.vocab_size == 300

    def test_it_is_a_base_for_prefix_tuning(self, run, small, tmp_path):
        options = {**small, "model_name_or_path": run.model, "max_source_length": 80, "max_steps": 2}
        tuned = start(**options, output_dir=tmp_path / "run")
        assert tuned and (tuned / "prefix.safetensors").is_file()

    def test_it_may_start_from_a_checkpoint_and_without_held_out_text(self, run, options, tmp_path):
        further = {**options, "valid_file": None, "base_config": None, "vocab_size": None, "max_steps": 4}
        start(**further, model_name_or_path=run.model, val_every_steps=1, save_every_steps=1, output_dir=tmp_path / "r")
        losses = [float(row["train_loss"]) for row in read_rows(tmp_path / "r/metrics.csv")]
        assert len(losses) == 4 and losses[0] < float(read_rows(run.metrics_csv)[0]["train_loss"])
        assert (tmp_path / "r/checkpoints/last.ckpt").is_file()
        assert not (tmp_path / "r/checkpoints/best.ckpt").exists()

    def test_held_out_text_is_measured_in_the_last_window_lengths_throughout(self, run, options, tmp_path):
        grown = {**options, "base_config": None, "vocab_size": None, "learning_rate": 1e-12, "max_steps": 2}
        for name, lengths in (("schedule", "{0: [32], 2: [64]}"), ("last", "[64]")):
            given = {**grown, "window_lengths": lengths, "val_every_steps": 1, "output_dir": tmp_path / name}
            start(**given, model_name_or_path=run.model)
        measured = [
            [row["val_bits_per_byte"] for row in read_rows(tmp_path / f"{name}/metrics.csv")]
            for name in ("schedule", "last")
        ]
        assert measured[0] == measured[1] and measured[0][0] == measured[0][1]

    def test_what_is_kept_is_the_best(self, run, options, tmp_path):
        further = {
            **options,
            "base_config": None,
            "vocab_size": None,
            "max_steps": 4,
            "learning_rate": 1,
            "warmup_steps": 6,
        }
        start(**further, model_name_or_path=run.model, val_every_steps=1, output_dir=tmp_path / "r")
        worse = Run(tmp_path / "r")
        measured = [float(row["val_bits_per_byte"]) for row in read_rows(worse.metrics_csv)]
        assert min(measured) < measured[-1]
        kept = load_file(worse.model / "model.safetensors")["model.shared.weight"]
        name = "model.model.shared.weight"
        best, last = (torch.load(path, weights_only=True)["state_dict"][name].bfloat16()
                      for path in (worse.best_checkpoint, worse.last_checkpoint))  # fmt: skip
        assert torch.equal(kept, best) and not torch.equal(kept, last)

    def test_the_attention_asked_for_is_a_new_bases_too(self, options):
        arguments = parse(flags(**options, attn_implementation="eager"), "train_bart.py")
        model, _ = load_or_create(arguments, BART, text_files(options["data_dir"]), Run("nowhere"))
        assert model.config._attn_implementation == "eager"

    def test_a_new_base_is_trained_in_float32(self, options):
        sizes = {**json.loads(options["base_config"]), "dtype": "bfloat16"}
        arguments = parse(flags(**{**options, "base_config": json.dumps(sizes)}), "train_bart.py")
        model, _ = load_or_create(arguments, BART, text_files(options["data_dir"]), Run("nowhere"))
        assert model.dtype == torch.float32

    def test_a_given_tokenizer_is_taken(self, run, options, tmp_path):
        given = {**options, "valid_file": None, "vocab_size": None, "max_steps": 1}
        start(**given, tokenizer_name_or_path=run.model, output_dir=tmp_path / "r")
        assert (tmp_path / "r/model/tokenizer.json").read_bytes() == (run.model / "tokenizer.json").read_bytes()
