"""Token batches: what is cached, how batches are ordered, what padding costs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from seq2seq.data import LengthBuckets, TokenSet, tokenise
from seq2seq.records import Record
from seq2seq.text_forms import CausalForm, Seq2SeqForm
from seq2seq.utils import IGNORE, UserError

RECORDS = [
    Record("The mill burned down on Friday.", ("Mill burns.", "A mill has burned down.")),
    Record("A long report about rain, wind and the cancelled ferry to the island in the north.", ("Ferry cancelled.",)),
    Record("Fog.", ("It is foggy.", "Fog at noon.", "Fog.")),
]


class UnusableTokenizer(PreTrainedTokenizerFast):
    """Has a tokenizer's content and refuses to tokenise."""

    def __call__(self, *args, **kwargs):
        raise AssertionError("tokenised although the tokens were cached")


def tokens(tokenizer, cache_dir: Path | None = None, source: int = 64, target: int = 32, **more) -> TokenSet:
    return tokenise(RECORDS, Seq2SeqForm(tokenizer), source, target, cache_dir, **more)


def rows(token_set: TokenSet) -> list[tuple[list[int], list[int], int]]:
    return [
        (row["input_ids"].tolist(), row["labels"].tolist(), row["index"])
        for row in map(token_set.__getitem__, range(len(token_set)))
    ]


def skewed(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Lengths as texts have them: most are short, a few are very long."""
    rng = np.random.default_rng(7)
    return (rng.lognormal(4, 1, n).astype(int) + 2).clip(max=1024), (rng.lognormal(3, 0.4, n).astype(int) + 2)


def buckets(n: int = 2000, batch_size: int = 16, **more) -> LengthBuckets:
    return LengthBuckets(*skewed(n), batch_size, **more)


def padding_share(batches: Iterable[list[int]], sources: np.ndarray, targets: np.ndarray) -> float:
    """Share of padding among the token slots of these batches, sources and targets together."""
    lengths = [of[batch] for batch in batches for of in (sources, targets)]
    return 1 - sum(int(one.sum()) for one in lengths) / sum(len(one) * int(one.max()) for one in lengths)


class TestTokenise:
    def test_every_reference_makes_a_training_pair_and_the_first_an_evaluation_row(self, tiny_tokenizer):
        pairs = tokens(tiny_tokenizer, pairs="all")
        first = tokens(tiny_tokenizer, pairs="first")
        wanted = [(r.source, text) for r in RECORDS for text in r.references]
        texts = [tuple(tiny_tokenizer.batch_decode([s, t], skip_special_tokens=True)) for s, t, _ in rows(pairs)]
        assert texts == wanted
        assert pairs.record.tolist() == [0, 0, 1, 2, 2, 2]
        assert first.record.tolist() == [0, 1, 2]
        assert [row[1] for row in rows(first)] == [rows(pairs)[i][1] for i in (0, 2, 3)]
        assert [row[2] for row in rows(pairs)] == list(range(6))

    def test_tokens_are_those_of_the_tokenizer_and_lengths_are_theirs(self, tiny_tokenizer):
        token_set = tokens(tiny_tokenizer, pairs="first")
        assert [row[0] for row in rows(token_set)] == tiny_tokenizer([r.source for r in RECORDS])["input_ids"]
        assert token_set.source_lengths.tolist() == [len(row[0]) for row in rows(token_set)]
        assert token_set.target_lengths.tolist() == [len(row[1]) for row in rows(token_set)]

    def test_cut_texts_keep_their_special_tokens_and_are_counted(self, tiny_tokenizer):
        token_set = tokens(tiny_tokenizer, source=12, target=5, pairs="first")
        assert max(token_set.source_lengths) == 12
        assert all(s[0] == t[0] == 0 and s[-1] == t[-1] == 2 for s, t, _ in rows(token_set))
        assert token_set.truncated.source == 2
        assert token_set.report("train")[0] == "train: 2 sources longer than 12 tokens were cut"
        assert tokens(tiny_tokenizer, source=512, target=512).report("train") == []
        cut_targets = tokens(tiny_tokenizer, source=512, target=3)
        assert len(cut_targets.report("test")) == 1 and cut_targets.report("test", ("source",)) == []

    def test_a_source_with_many_references_is_counted_once(self, tiny_tokenizer):
        assert tokens(tiny_tokenizer, source=12, pairs="all").truncated.source == 2

    def test_limits_without_room_for_text_are_refused(self, tiny_tokenizer):
        with pytest.raises(UserError, match=r"--max_target_length 2: no room beside the 2 special tokens"):
            tokens(tiny_tokenizer, target=2)

    def test_a_slow_tokenizer_is_refused(self):
        with pytest.raises(UserError, match="object is not a fast tokenizer"):
            tokens(object())


class TestCache:
    def test_the_second_call_does_not_tokenise(self, tiny_tokenizer, tmp_path):
        made = tokens(tiny_tokenizer, tmp_path, source=12)
        unusable = UnusableTokenizer(tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="<pad>")
        read = tokens(unusable, tmp_path, source=12)
        assert rows(read) == rows(made)
        assert read.truncated == made.truncated
        assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]

    @pytest.mark.parametrize(
        "change",
        ["records", "references", "limits", "target limit", "pairs", "tokenizer", "language", "side", "form", "words"],
    )
    def test_other_content_has_another_cache(self, tiny_tokenizer, tmp_path, change, monkeypatch):
        tokens(tiny_tokenizer, tmp_path)
        if change == "records":
            tokenise([Record("Fog", ("Fog.",)), *RECORDS[1:]], Seq2SeqForm(tiny_tokenizer), 64, 32, tmp_path)
        elif change == "references":
            tokenise(
                [Record(RECORDS[0].source, ("Fog.",)), *RECORDS[1:]], Seq2SeqForm(tiny_tokenizer), 64, 32, tmp_path
            )
        elif change == "target limit":
            tokens(tiny_tokenizer, tmp_path, target=31)
        elif change == "limits":
            tokens(tiny_tokenizer, tmp_path, source=63)
        elif change == "pairs":
            tokens(tiny_tokenizer, tmp_path, pairs="first")
        elif change == "words":
            tokenise(RECORDS, Seq2SeqForm(tiny_tokenizer, "In short: "), 64, 32, tmp_path)
        elif change == "side":
            monkeypatch.setattr(tiny_tokenizer, "truncation_side", "left")
            tokens(tiny_tokenizer, tmp_path)
        elif change == "form":
            monkeypatch.setattr(Seq2SeqForm, "name", "another")
            tokens(tiny_tokenizer, tmp_path)
        elif change == "language":
            monkeypatch.setattr(tiny_tokenizer, "tgt_lang", "ro_RO", raising=False)
            tokens(tiny_tokenizer, tmp_path)
        else:
            other = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="<pad>")
            other.add_tokens(["cellar"])
            tokens(other, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2

    def test_words_in_front_of_the_source_need_room_as_well(self, tiny_tokenizer):
        form = Seq2SeqForm(tiny_tokenizer, "The ferry: ")
        taken = 2 + len(tiny_tokenizer("The ferry: ", add_special_tokens=False)["input_ids"])
        with pytest.raises(UserError, match=f"--max_source_length {taken}: no room .* --source_prefix; give at least"):
            tokenise(RECORDS, form, taken, 32, None)
        tokenise(RECORDS, form, taken + 1, 32, None)

    def test_another_end_of_text_token_has_another_cache(self, tiny_tokenizer, tmp_path):
        for number, end in enumerate(("</s>", "<s>"), start=1):
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token=end)
            cached = tokenise(RECORDS, CausalForm(tokenizer), 64, 32, tmp_path)
            assert {row["labels"][-1] for row in cached} == {tokenizer.eos_token_id}
            assert len(list(tmp_path.iterdir())) == number

    @pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "flipped", "other arrays"])
    def test_a_damaged_cache_is_made_again(self, tiny_tokenizer, tmp_path, damage):
        made = tokens(tiny_tokenizer, tmp_path)
        (path,) = tmp_path.iterdir()
        whole = path.read_bytes()
        if damage == "other arrays":
            np.savez(path, source_ids=np.arange(3))
        else:
            middle = len(whole) // 2
            flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
            path.write_bytes({"empty": b"", "cut": whole[:middle], "garbage": b"no tokens", "flipped": flipped}[damage])
        assert rows(tokens(tiny_tokenizer, tmp_path)) == rows(made)
        unusable = UnusableTokenizer(tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="<pad>")
        assert rows(tokens(unusable, tmp_path)) == rows(made)

    def test_a_cache_folder_that_cannot_be_written_is_named(self, tiny_tokenizer, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(UserError, match=r"--cache_dir .*file/tokens: cannot be written"):
            tokens(tiny_tokenizer, tmp_path / "file" / "tokens")

    def test_a_write_that_fails_leaves_nothing_behind(self, tiny_tokenizer, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("seq2seq.data.os.replace", full)
        with pytest.raises(UserError, match="No space left"):
            tokens(tiny_tokenizer, tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestLengthBuckets:
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("n", [1, 15, 16, 2000, 2001])
    def test_an_epoch_holds_each_example_exactly_once(self, n, shuffle):
        sampler = buckets(n, shuffle=shuffle)
        batches = list(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(n))
        assert len(batches) == len(sampler)
        assert max(map(len, batches)) <= 16

    def test_padding_is_less_than_half_of_random_batching(self):
        sampler = buckets()
        order = np.random.default_rng(0).permutation(2000).tolist()
        random = padding_share([order[at : at + 16] for at in range(0, 2000, 16)], *skewed())
        assert 0 < padding_share(sampler, *skewed()) < random / 2

    def test_two_runs_agree_and_epochs_and_seeds_differ(self):
        sampler = buckets(seed=3)
        first = list(sampler)
        assert first == list(buckets(seed=3))
        assert first != list(buckets(seed=4))
        sampler.set_epoch(1)
        assert first != list(sampler)
        sampler.set_epoch(0)
        assert first == list(sampler)

    def test_a_small_data_set_is_batched_anew_each_epoch(self):
        sampler = buckets(100, 10)
        first = {frozenset(batch) for batch in sampler}
        sampler.set_epoch(1)
        assert len(first & {frozenset(batch) for batch in sampler}) <= 1

    def test_resuming_after_k_batches_is_the_tail_of_the_uninterrupted_order(self):
        whole = buckets(seed=3)
        whole.set_epoch(2)
        resumed = buckets(seed=3)
        resumed.set_epoch(2)
        resumed.start_batch = 40
        resumed.set_epoch(2)
        assert list(resumed) == list(whole)[40:]
        assert len(resumed) == len(whole) == 125

    def test_only_the_current_epoch_is_cut_by_start_batch(self):
        sampler = buckets()
        sampler.start_batch = 40
        sampler.set_epoch(1)
        assert len(list(sampler)) == len(sampler)

    def test_evaluation_goes_from_long_to_short(self):
        sources, _ = skewed()
        order = [sources[i] for batch in buckets(shuffle=False) for i in batch]
        assert order == sorted(order, reverse=True)

    def test_of_equally_long_sources_those_with_equally_long_targets_meet(self):
        sources, targets = np.full(64, 10), np.tile([5, 30], 32)
        assert padding_share(LengthBuckets(sources, targets, 8, shuffle=False), sources, targets) == 0

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("n, batch_size, ranks", [(2000, 16, 4), (17, 4, 3), (5, 2, 4), (4, 16, 4), (99, 98, 7)])
    def test_ranks_share_an_epoch_evenly_and_without_overlap(self, n, batch_size, ranks, shuffle):
        samplers = [buckets(n, batch_size, num_replicas=ranks, rank=rank, shuffle=shuffle) for rank in range(ranks)]
        shares = [list(sampler) for sampler in samplers]
        assert {len(share) for share in shares} == {len(samplers[0])}
        assert sorted(i for share in shares for batch in share for i in batch) == list(range(n))
        assert all(batch for share in shares for batch in share)

    @pytest.mark.parametrize("n, batch_size", [(3, 2), (5, 1)])
    def test_too_few_examples_for_the_processes_are_refused(self, n, batch_size):
        with pytest.raises(UserError, match=f"{n} examples .* cannot be shared evenly by 4 processes"):
            buckets(n, batch_size, num_replicas=4)

    def test_a_batch_without_examples_is_refused(self):
        with pytest.raises(UserError, match="--bsz 0"):
            buckets(batch_size=0)


class TestCollator:
    def test_padding_is_on_the_right_and_out_of_mask_and_loss(self, tiny_tokenizer):
        token_set = tokens(tiny_tokenizer)
        batch = Seq2SeqForm(tiny_tokenizer).collate([token_set[i] for i in (3, 2)])
        short, long = rows(token_set)[3], rows(token_set)[2]
        S, T = len(long[0]), max(len(short[1]), len(long[1]))
        assert batch["input_ids"].tolist() == [short[0] + [1] * (S - len(short[0])), long[0]]
        assert batch["attention_mask"].tolist() == [[1] * len(short[0]) + [0] * (S - len(short[0])), [1] * S]
        assert batch["labels"].tolist() == [ids + [IGNORE] * (T - len(ids)) for ids in (short[1], long[1])]
        assert batch["index"].tolist() == [3, 2]
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}

    def test_a_pad_token_inside_a_text_is_attended_to(self, tiny_tokenizer):
        row = {"input_ids": np.array([0, 1, 5, 2]), "labels": np.array([0, 2]), "index": 0}
        assert Seq2SeqForm(tiny_tokenizer).collate([row])["attention_mask"].tolist() == [[1, 1, 1, 1]]

    def test_a_tokenizer_without_a_pad_token_is_refused(self, tiny_tokenizer):
        bare = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer)
        with pytest.raises(UserError, match="no pad token"):
            Seq2SeqForm(bare)

    def test_a_data_loader_with_workers_gives_the_same_batches(self, tiny_tokenizer):
        token_set = tokens(tiny_tokenizer)
        sampler = LengthBuckets(token_set.source_lengths, token_set.target_lengths, 2)
        loaders = [
            torch.utils.data.DataLoader(
                token_set, batch_sampler=sampler, collate_fn=Seq2SeqForm(tiny_tokenizer).collate, num_workers=workers
            )
            for workers in (0, 1)
        ]
        for here, there in zip(*loaders, strict=True):
            assert all(torch.equal(here[name], there[name]) for name in here)
