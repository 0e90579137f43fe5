"""The source strings and references of E2E, WebNLG and DART: the authors' own, and every one of the real data sets."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from tables import (
    BOTH_SOURCE,
    DART_RECORDS,
    DART_SOURCE,
    E2E_LINES,
    FERRY,
    LISBON,
    LISBON_SOURCE,
    QUAY,
    QUAY_MR,
    TOWER,
    read,
    webnlg_json,
    write,
    write_rows,
)

from seq2seq.table_readers import linearise_mr

SHARED = os.environ.get("PREFIXTUNING_SHARED")

OWN_CASES = {
    "data2text": {
        "raw_file": f"{QUAY}||A pub . \n{QUAY}||The Quay . \n{TOWER}||No kids .\n",
        "training_strings": [
            f" {QUAY} <|endoftext|> A pub .  <|endoftext|>",
            f" {QUAY} <|endoftext|> The Quay .  <|endoftext|>",
            f" {TOWER} <|endoftext|> No kids . <|endoftext|>",
        ],
        "prompts_in_order": [f" {QUAY} <|endoftext|>", f" {TOWER} <|endoftext|>"],
        "references_in_order": [["A pub .", "The Quay ."], ["No kids ."]],
    },
    "webnlg": {
        "raw_file": json.dumps(
            webnlg_json(
                ([LISBON, FERRY], [("good", "T."), ("bad", "U.")]),
                ([LISBON], [("good", "V.")]),
                ([LISBON], [("toFix", "W.")]),
            )
        ),
        "training_strings": [
            f" {BOTH_SOURCE} <|endoftext|> T. <|endoftext|>",
            f" {LISBON_SOURCE} <|endoftext|> V. <|endoftext|>",
        ],
        "prompts_in_order": ["(the authors' reader writes the first without bars)", f" {LISBON_SOURCE} <|endoftext|>"],
        "references_in_order": [["T.", "U."], ["V.", "W."]],
    },
    "triples": {
        "raw_file": json.dumps(DART_RECORDS[:2]),
        "training_strings": [
            f" {DART_SOURCE} <|endoftext|> Ann is from Oslo. <|endoftext|>",
            f" {DART_SOURCE} <|endoftext|>    <|endoftext|>",
            " Oslo : area : 454 <|endoftext|> 454 for Oslo. <|endoftext|>",
        ],
        "prompts_in_order": [f" {DART_SOURCE} <|endoftext|>", " Oslo : area : 454 <|endoftext|>"],
        "references_in_order": [["Ann is from Oslo.", "  "], ["454 for Oslo."]],
    },
}
FILES = {
    "data2text": ("e2e", "src1_{}.txt", ("train", "test")),
    "webnlg": ("webnlg", "{}.json", ("train", "test")),
    "triples": ("dart", "dart-v1.1.1-full-{}.json", ("train", "test")),
}


@pytest.fixture(params=["own", "authors"])
def case(request) -> dict[str, dict]:
    """Raw files with what the authors' readers make of them, or own ones that follow the same rules."""
    if request.param == "own" or not SHARED:
        return OWN_CASES
    return json.loads((Path(SHARED) / "oracle" / "data_golden.json").read_text(encoding="utf-8"))


class TestAuthorsStrings:
    @pytest.mark.parametrize("name", FILES)
    def test_are_those_of_our_records(self, tmp_path, case, name):
        task, file, splits = FILES[name]
        for split in splits:
            write(tmp_path / file.format(split), case[name]["raw_file"])
        trained = [
            f" {record.source} <|endoftext|> {reference} <|endoftext|>"
            for record in read(task, tmp_path)
            for reference in record.references
        ]
        # theirs also train on blank targets, which we drop
        assert trained == [text for text in case[name]["training_strings"] if text.split("<|endoftext|>")[1].strip()]

        evaluated = read(task, tmp_path, "test")
        prompts = [f" {record.source} <|endoftext|>" for record in evaluated]
        wanted = list(case[name]["prompts_in_order"])
        if name == "webnlg":  # their first prompt of a WebNLG test set has no bars; their training string has them
            wanted[0] = case[name]["training_strings"][0].partition("<|endoftext|>")[0] + "<|endoftext|>"
        assert prompts == wanted
        references = [[text for text in texts if text.strip()] for texts in case[name]["references_in_order"]]
        assert [list(record.references) for record in evaluated] == references


# task -> split -> records, references, records of each part
REAL_COUNTS = {
    "e2e": {"train": (4862, 42061), "val": (547, 4672), "test": (315, 2370)},
    "webnlg": {"train": (6888, 18025), "val": (871, 2268), "test": (932, 2487)},
    "dart": {"val": (2720, 6977), "test": (2285, 6301)},
}


@pytest.fixture
def real(tmp_path) -> tuple[Path, dict[str, dict[str, tuple[int, int]]]]:
    """The real data sets and their counts where PREFIXTUNING_SHARED names them, else small ones of the same files."""
    if SHARED:
        return Path(SHARED) / "data", REAL_COUNTS
    for name in ("train", "valid", "test"):
        write(tmp_path / f"e2e/src1_{name}.txt.gz", E2E_LINES)
        write_rows(tmp_path / f"e2e/{name}.jsonl.gz", [{"mr": QUAY_MR, "src": QUAY, "refs_tok": ["A pub ."]}])
        row = {"category": "Airport", "triples": [LISBON], "refs": ["T."], "refs_bad": ["U."]}
        write_rows(tmp_path / f"webnlg/{name}.jsonl.gz", [row, {**row, "triples": [FERRY]}])
    for name in ("valid", "test"):
        write_rows(tmp_path / f"dart/{name}.jsonl.gz", DART_RECORDS)
    splits: dict[str, tuple[int, int]] = {"train": (2, 3), "val": (2, 3), "test": (2, 3)}
    webnlg = {"train": (2, 2), "val": (2, 4), "test": (2, 4)}
    return tmp_path, {"e2e": splits, "webnlg": webnlg, "dart": {"val": (2, 3), "test": (2, 3)}}


class TestRealData:
    @pytest.mark.parametrize("task", ["e2e", "webnlg", "dart"])
    def test_every_source_and_reference_is_there(self, real, task):
        folder, counts = real
        for split, wanted in counts[task].items():
            records = read(task, folder / task, split)
            assert (len(records), sum(len(record.references) for record in records)) == wanted, split

    def test_every_meaning_representation_becomes_the_authors_source(self, real):
        folder, _ = real
        for name in ("train", "valid", "test"):
            with gzip.open(folder / "e2e" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            assert [linearise_mr(row["mr"], name) for row in rows] == [row["src"] for row in rows]
