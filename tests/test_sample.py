"""What holds of the carried `sample` data: made again from its seed, no two alike, summaries fused from the source."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

import seq2seq
from seq2seq import make_sample
from seq2seq.make_sample import main, make_records, to_gzip, to_lines, tokens
from seq2seq.sample_texts import DOMAINS, names

FOLDER = Path(seq2seq.__file__).parent / "carried" / "sample"
COUNTS = {"train": 3000, "val": 200, "test": 200}
# First words a summary may have without taking them from the source.
OPENERS = {
    "a",
    "about",
    "an",
    "the",
    "after",
    "because",
    "from",
    "in",
    "on",
    "bus",
    "police",
    "researchers",
    "rescuers",
} | {
    "thieves",
    "people",
    "collection",
    "workers",
    "pupils",
}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    """The committed generated records by split."""
    return {
        split: [json.loads(line) for line in gzip.decompress((FOLDER / f"{split}.jsonl.gz").read_bytes()).splitlines()]
        for split in COUNTS
    }


@pytest.fixture(scope="module")
def handwritten() -> list[dict]:
    """The committed records written by hand."""
    return [json.loads(line) for line in (FOLDER / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def generated(splits) -> list[dict]:
    """All generated records."""
    return [record for records in splits.values() for record in records]


def sentences(text: str) -> list[str]:
    """The sentences of a generated source."""
    return re.split(r'(?<=[.!?]) (?=[A-Z0-9"])|(?<=[.!?]") (?=[A-Z0-9])', text)


def test_seed_7_makes_the_committed_lines_again_byte_for_byte():
    for split, records in make_records(7).items():
        assert gzip.decompress((FOLDER / f"{split}.jsonl.gz").read_bytes()) == to_lines(records), split


def test_another_seed_makes_other_records(splits):
    assert to_lines(make_records(8)["test"]) != to_lines(splits["test"])


def test_gzip_files_tell_neither_time_nor_name(splits):
    for split in COUNTS:
        head = (FOLDER / f"{split}.jsonl.gz").read_bytes()[:10]
        assert head[3] == 0 and head[4:8] == bytes(4), split
    assert to_gzip(b"same") == to_gzip(b"same")


def test_check_passes_on_the_committed_files(capsys):
    assert main(["--output_dir", str(FOLDER), "--check"]) == 0
    assert capsys.readouterr().err == ""


def test_check_tells_a_changed_file_in_one_line(tmp_path, splits, capsys):
    for split, records in splits.items():
        (tmp_path / f"{split}.jsonl.gz").write_bytes(to_gzip(to_lines(records[1:] if split == "val" else records)))
    assert main(["--output_dir", str(tmp_path), "--check"]) == 1
    message = capsys.readouterr().err
    assert "val.jsonl.gz" in message and message.count("\n") == 1


def test_files_that_are_there_are_replaced_where_that_is_said(tmp_path, splits, capsys, monkeypatch):
    monkeypatch.setattr(make_sample, "make_records", lambda seed: splits)
    mine = tmp_path / "val.jsonl.gz"
    mine.write_bytes(b"mine")
    assert main(["--output_dir", str(tmp_path)]) == 2
    assert f"{mine}: is there already; add --overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [mine.name] and mine.read_bytes() == b"mine"
    assert main(["--output_dir", str(tmp_path), "--overwrite"]) == 0
    assert mine.read_bytes() == to_gzip(to_lines(splits["val"]))
    mine.unlink()
    mine.mkdir()
    assert main(["--output_dir", str(tmp_path), "--overwrite"]) == 2
    assert f"{mine}: is there already; give another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output_dir", __file__], "cannot be made (File exists); give another"),
        (["--output_dir", f"{__file__}/x"], "cannot be made (Not a directory); give another"),
        (["--output_dir", "x", "--seed", "y"], "invalid int value: 'y'; see --help"),
        (["--output_di", "x"], "required: --output_dir; see --help"),
    ],
)
def test_a_mistake_is_one_line(flags, said, capsys):
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_check_tells_a_missing_folder(tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path / "none"), "--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_counts(splits, handwritten):
    assert {split: len(records) for split, records in splits.items()} == COUNTS
    assert len(handwritten) == 40


def test_the_folder_is_under_one_megabyte():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


def test_every_record_has_the_four_fields(generated, handwritten):
    for part, records in (("generated", generated), ("handwritten", handwritten)):
        for record in records:
            assert list(record) == ["source", "references", "domain", "part"]
            assert record["part"] == part
            for text in (record["source"], *record["references"]):
                assert text == " ".join(text.split())
                assert not re.search(r"[\[\]{}|]|  |\n|\ba [aeio]|\.\.|,,| ,", text), text


def test_no_two_records_are_alike(generated, handwritten):
    everything = generated + handwritten
    assert len({record["source"] for record in everything}) == len(everything)
    summaries = [reference.lower() for record in everything for reference in record["references"]]
    assert len(set(summaries)) == len(summaries)


def test_no_record_is_another_with_its_sentences_in_another_order(generated):
    assert len({tuple(sorted(sentences(record["source"]))) for record in generated}) == len(generated)


def test_lengths_of_the_generated_part(generated):
    for record in generated:
        assert len(record["references"]) == 1
        assert 45 <= len(record["source"].split()) <= 110
        assert 3 <= len(sentences(record["source"])) <= 7, record["source"]
        assert 10 <= len(record["references"][0].split()) <= 24


def test_lengths_of_the_handwritten_part(handwritten):
    for record in handwritten:
        assert 50 <= len(record["source"].split()) <= 120
        assert all(10 <= len(reference.split()) <= 26 for reference in record["references"])
    assert sum(len(record["references"]) == 2 for record in handwritten) >= 18


def test_names_and_numbers_of_a_summary_stand_in_its_source(generated):
    for record in generated:
        held = set(tokens(record["source"]))
        first, *rest = tokens(record["references"][0])
        copied = [word for word in rest if word != word.lower() or word[0].isdigit()]
        assert not set(copied) - held, record
        assert first in held or first.lower() in held | OPENERS, record


def test_a_summary_is_no_sentence_of_its_source(generated, handwritten):
    for record in generated + handwritten:
        assert not any(reference in record["source"] for reference in record["references"])


def test_no_single_sentence_holds_the_words_of_the_summary(generated):
    for record in generated:
        words = [word.lower() for word in tokens(record["references"][0])]
        for sentence in sentences(record["source"]):
            have = {word.lower() for word in tokens(sentence)}
            assert sum(word in have for word in words) <= 0.8 * len(words), record


def test_most_first_sentences_are_not_the_news(generated):
    def overlap(record: dict) -> float:
        words = [word.lower() for word in tokens(record["references"][0])]
        have = {word.lower() for word in tokens(sentences(record["source"])[0])}
        return sum(word in have for word in words) / len(words)

    poor = sum(overlap(record) < 0.3 for record in generated) / len(generated)
    assert 0.5 < poor < 0.85


def test_every_domain_appears_in_each_split(splits):
    everywhere = {domain.name for domain in DOMAINS}
    assert len(everywhere) == len(DOMAINS) >= 24
    for records in splits.values():
        assert {record["domain"] for record in records} == everywhere


def test_every_domain_has_enough_phrasings():
    for domain in DOMAINS:
        assert len(domain.facts) >= 3 and all(len(phrasings) >= 4 for phrasings in domain.facts), domain.name
        assert len(domain.summaries) >= 3 and domain.leads and len(domain.fillers) >= 6, domain.name


def test_there_are_many_places_and_names():
    assert len(set(names.PLACES)) >= 300
    assert len(set(names.WOMEN + names.MEN)) >= 100 and len(set(names.SURNAMES)) >= 100
