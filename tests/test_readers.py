"""Records on disk: what each format reads as, what is skipped, and the one line that each mistake gets."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from seq2seq.records import Record, load_records
from seq2seq.tasks import CUSTOM, TASKS, Task, task_for
from seq2seq.utils import UserError

SHARED = os.environ.get("PREFIXTUNING_SHARED")
ROWS = [
    {"source": "A cat sat.\u2028It slept, too.", "target": "Cat."},
    {"source": "Rain \u2603 fell.", "target": "Wet."},
]
WANTED = [Record(row["source"], (row["target"],)) for row in ROWS]


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_rows(path: Path, rows: list[dict]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_lines(folder: Path, stem: str, rows: list[dict], endings=("source", "target"), packed: str = "") -> None:
    for ending, name in zip(endings, ("source", "target"), strict=True):
        write(folder / f"{stem}.{ending}{packed}", "".join(row[name] + "\n" for row in rows))


def read(folder: Path, split="train", task: Task = CUSTOM) -> list[Record]:
    return load_records(task, str(folder), split).items


class TestFormats:
    @pytest.mark.parametrize("packed", ["", ".gz"])
    def test_line_files(self, tmp_path, packed):
        write_lines(tmp_path, "train", ROWS, packed=packed)
        assert read(tmp_path) == WANTED

    @pytest.mark.parametrize("ending", ["jsonl", "json", "jsonl.gz", "json.gz"])
    def test_json_lines(self, tmp_path, ending):
        write_rows(tmp_path / f"train.{ending}", ROWS)
        assert read(tmp_path) == WANTED

    def test_csv_with_quoted_commas_and_newlines(self, tmp_path):
        rows = [*ROWS, {"source": 'One, "two"\nand three.', "target": "x" * 200_000}]
        write_csv(tmp_path / "train.csv", rows)
        assert read(tmp_path) == [*WANTED, Record(rows[2]["source"], (rows[2]["target"],))]

    @pytest.mark.parametrize("name", ["train.parquet", "data/train-00000-of-00001.parquet", "3.0.0/train/0000.parquet"])
    def test_parquet_also_as_the_hub_lays_it_out(self, tmp_path, name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / name)
        assert read(tmp_path, task=TASKS["cnn_dm"]) == WANTED
        assert load_records(TASKS["cnn_dm"], str(tmp_path), "train").report() == []

    def test_shards_are_read_in_order(self, tmp_path):
        for number, row in enumerate(ROWS):
            pyarrow.parquet.write_table(
                pyarrow.Table.from_pylist([row]), tmp_path / f"train-0000{number}-of-00002.parquet"
            )
        assert read(tmp_path) == WANTED

    @pytest.mark.parametrize("first, ending", [(0, "-3fa2.jsonl"), (1, ".jsonl.gz")])
    def test_shards_may_be_counted_from_1_and_carry_a_hash(self, tmp_path, first, ending):
        for number, row in enumerate(ROWS, start=first):
            write_rows(tmp_path / f"train-{number:05d}-of-00002{ending}", [row])
        assert read(tmp_path) == WANTED

    def test_saved_dataset_dict(self, tmp_path):
        one = datasets.Dataset.from_list(ROWS)
        datasets.DatasetDict(train=one, validation=one.select([1])).save_to_disk(str(tmp_path / "saved"))
        assert read(tmp_path / "saved") == WANTED
        assert read(tmp_path / "saved", "val") == WANTED[1:]
        with pytest.raises(UserError, match=r"no test split, only train, validation"):
            read(tmp_path / "saved", "test")

    def test_a_saved_dataset_without_a_split_serves_training_only(self, tmp_path):
        datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
        assert read(tmp_path / "saved") == WANTED
        with pytest.raises(UserError, match=r"no val split, only train"):
            read(tmp_path / "saved", "val")

    def test_a_saved_dataset_is_the_split_it_was_saved_from(self, tmp_path):
        datasets.Dataset.from_list(ROWS, split="test").save_to_disk(str(tmp_path / "saved"))
        assert read(tmp_path / "saved", "test") == WANTED

    def test_a_saved_dataset_may_have_any_format(self, tmp_path):
        rows = [{"source": "a", "references": ["b", "c"]}]
        datasets.Dataset.from_list(rows).with_format("numpy").save_to_disk(str(tmp_path / "saved"))
        assert read(tmp_path / "saved") == [Record("a", ("b", "c"))]

    @pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
    def test_validation_has_many_names(self, tmp_path, name):
        write_rows(tmp_path / f"{name}.jsonl", ROWS)
        assert read(tmp_path, "val") == WANTED

    def test_windows_line_ends_and_byte_order_marks_are_no_text(self, tmp_path):
        write(tmp_path / "train.source", b"\xef\xbb\xbfOne.\r\nTwo.")
        write(tmp_path / "train.target", b"1\r\n2\r\n")
        assert read(tmp_path) == [Record("One.", ("1",)), Record("Two.", ("2",))]

    def test_a_second_format_of_the_same_split_is_not_read_and_that_is_said(self, tmp_path):
        write_lines(tmp_path, "train", ROWS)
        write_rows(tmp_path / "train.jsonl", ROWS[:1])
        records = load_records(CUSTOM, str(tmp_path), "train")
        assert records.items == WANTED
        assert records.report() == ["train: read from train.source and train.target; not read: train.jsonl"]


class TestFields:
    def test_all_references_stay_in_order_and_empty_ones_go(self, tmp_path):
        rows = [
            {"source": "A.", "references": ["one", " ", "two", ""]},
            {"source": "B.", "target": "three", "references": ["four", "three"]},
            {"source": "C.", "target": ["five", "six"]},
        ]
        write_rows(tmp_path / "train.jsonl", rows)
        assert [record.references for record in read(tmp_path)] == [("one", "two"), ("three", "four"), ("five", "six")]

    def test_a_source_of_sentences_is_joined_by_blanks(self, tmp_path):
        write_rows(tmp_path / "train.jsonl", [{"source": ["One.", "Two."], "target": ["T."]}])
        assert read(tmp_path, task=TASKS["scitldr"]) == [Record("One. Two.", ("T.",))]

    def test_a_tasks_own_fields_come_before_the_usual_ones(self, tmp_path):
        write_rows(tmp_path / "train.jsonl", [{"document": "D.", "summary": "S.", "source": "BBC"}])
        assert read(tmp_path, task=TASKS["xsum"]) == [Record("D.", ("S.",))]

    def test_a_tasks_data_may_also_use_the_usual_names(self, tmp_path):
        write_rows(tmp_path / "train.jsonl", ROWS)
        assert read(tmp_path, task=TASKS["xsum"]) == WANTED

    @pytest.mark.parametrize(
        "row",
        [
            {"translation": {"en": "Yes", "de": "Ja"}},
            {"en": "Yes", "de": "Ja"},
            {"translation.en": "Yes", "translation.de": "Ja"},
        ],
    )
    def test_translations_nested_and_flat(self, tmp_path, row):
        write_rows(tmp_path / "train.jsonl", [row])
        assert read(tmp_path, task=task_for(None, "folder", "de", "en")) == [Record("Ja", ("Yes",))]

    def test_a_part_is_kept(self, tmp_path):
        write_rows(tmp_path / "test.jsonl", [{**ROWS[0], "part": "unseen"}])
        (record,) = read(tmp_path, "test")
        assert record == WANTED[0]._replace(part="unseen")
        assert record.with_text("a text")["part"] == "unseen"
        assert "part" not in WANTED[0].with_text("a text")

    def test_a_part_that_is_null_is_none(self, tmp_path):
        write_rows(tmp_path / "test.jsonl", [{**ROWS[0], "part": None}])
        assert read(tmp_path, "test") == [WANTED[0]]


class TestSkipped:
    def test_empty_records_are_counted_and_named(self, tmp_path):
        rows = [{"source": " " if i in (1, 4) else "S", "target": "" if i == 6 else "T"} for i in range(8)]
        write_lines(tmp_path, "train", rows)
        records = load_records(CUSTOM, str(tmp_path), "train")
        assert len(records.items) == 5
        assert records.skipped == {
            "empty source": ["train.source:2", "train.source:5"],
            "empty target": ["train.target:7"],
        }
        assert records.report() == [
            "train: 2 records skipped: empty source (train.source:2, :5)",
            "train: 1 record skipped: empty target (train.target:7)",
        ]

    def test_a_long_list_of_places_is_cut_in_the_report_only(self, tmp_path):
        write_rows(tmp_path / "val.jsonl", [{"source": None, "target": "T"}] * 7 + ROWS)
        records = load_records(CUSTOM, str(tmp_path), "val")
        assert len(records.skipped["empty source"]) == 7
        assert records.report() == ["val: 7 records skipped: empty source (val.jsonl:1, :2, :3, :4, :5, ...)"]

    def test_a_blank_line_among_json_lines_is_counted(self, tmp_path):
        write(tmp_path / "train.jsonl", json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]) + "\n")
        records = load_records(CUSTOM, str(tmp_path), "train")
        assert (records.items, records.skipped) == (WANTED, {"empty source": ["train.jsonl:2"]})

    def test_a_csv_record_is_named_by_the_line_on_which_it_starts(self, tmp_path):
        write(tmp_path / "train.csv", 'source,target\nA,"1\n1"\n\n" ","2\n2"\n')
        records = load_records(CUSTOM, str(tmp_path), "train")
        assert records.skipped == {"empty source": ["train.csv:4", "train.csv:5"]}

    def test_an_empty_reference_beside_others_is_counted_and_its_record_kept(self, tmp_path):
        write_rows(tmp_path / "test.jsonl", [ROWS[0], {"source": "A.", "references": ["one", " ", "two", ""]}])
        records = load_records(CUSTOM, str(tmp_path), "test")
        assert records.items == [WANTED[0], Record("A.", ("one", "two"))]
        assert records.skipped == {"empty reference": ["test.jsonl:2", "test.jsonl:2"]}
        assert records.report() == ["test: 2 references skipped: empty reference (test.jsonl:2, :2)"]

    def test_a_split_with_nothing_left_is_refused(self, tmp_path):
        write_rows(tmp_path / "train.jsonl", [{"source": "", "target": "T"}])
        with pytest.raises(UserError, match=r"train.jsonl: no train record has .* 1 record skipped: empty source"):
            read(tmp_path)


GOOD = json.dumps({"source": "S", "target": "T"}) + "\n"


class TestMistakes:
    @pytest.mark.parametrize(
        "files, line",
        [
            ({"train.jsonl": GOOD + "{oops\n"}, r"train\.jsonl:2: not JSON \(.*\); mend or remove the line"),
            ({"train.jsonl.gz": GOOD + "{oops\n"}, r"train\.jsonl\.gz:2: not JSON"),
            ({"train.json": "[\n{}\n]"}, r"train\.json:1: a JSON array"),
            ({"train.jsonl": GOOD + "[1]\n"}, r"train\.jsonl:2: a JSON list"),
            ({"train.jsonl": GOOD.encode() + b"caf\xe9\n"}, r"train\.jsonl:2: not UTF-8 \(byte 0xe9 at position 4\)"),
            ({"train.source": b"a\nb\xff\n", "train.target": "a\nb\n"}, r"train\.source:2: not UTF-8"),
            ({"train.source": "a\nb\n", "train.target": "a\n"}, r"train\.target has 1 lines, train\.source has 2"),
            ({"train.source": "a\n", "train.target": "a\nb\n"}, r"train\.target has 2 lines, train\.source has 1"),
            ({"train.source": "a\n"}, r"train\.source: no train\.target \(or \.gz\) beside it"),
            ({"train.jsonl": '{"text": "a", "id": 1}\n'}, r"train\.jsonl:1: no field source; it has text, id"),
            ({"train.jsonl": '{"source": "a", "id": 1}\n'}, r":1: no field target or references; it has source, id"),
            (
                {"train.jsonl": '{"source": "a", "target": [1]}\n'},
                r":1: target is \[1\]; write a string or a list of strings",
            ),
            (
                {"train.jsonl": '{"source": 3, "target": "T"}\n'},
                r":1: source is 3; write a string or a list of strings",
            ),
            (
                {"train.jsonl": '{"source": "a\\ud83d", "target": "T"}\n'},
                r":1: source holds half a character \(\\ud83d",
            ),
            ({"train.csv": "source,target\na,b\na,b,c\n"}, r"train\.csv:3: 3 columns, the header has 2"),
            ({"train.csv": "source,target,target\na,b,c\n"}, r"train\.csv:1: the header has target twice; rename one"),
            ({"train.csv": "source,target\na\n"}, r"train\.csv:2: 1 columns, the header has 2"),
            ({"train.csv": 'source,target\na,"b\nb"\n"a,b\nc,d\n'}, r"train\.csv:4: not csv"),
            ({"train.parquet": "no parquet"}, r"train\.parquet: not a whole parquet file"),
            (
                {"valid.jsonl": GOOD},
                r"no train split; looked for train\.\{source,target\}.*the folder holds valid\.jsonl",
            ),
            ({"train.en": "a\n", "train.de": "b\n"}, r"need --source_lang en --target_lang de"),
            (
                {"train-00000-of-00003.jsonl": GOOD, "train-00002-of-00003.jsonl": GOOD},
                r": no train-00001-of-00003\.jsonl beside train-00000-of-00003\.jsonl; put every shard there",
            ),
            ({"train/a-1-of-99999999999.parquet": ""}, r"/train: no a-00000-of-99999999999.parquet, .* and 999"),
            (
                {"data/train-9-of-9.csv": ""},
                r"/data: no train-00001-of-00009\.csv, .*04-of-00009.csv and 4 more beside",
            ),
            ({"train-0-of-1.csv": "", "train-0-of-2.csv": ""}, r"train-0-of-2\.csv are shards of more than one set"),
            ({"train-0-of-1-a.csv": "", "train-0-of-1-b.csv": ""}, r"-a\.csv, .*-b\.csv are shards of more than one"),
            ({"train-0-of-2.csv": "", "train-7-of-2.csv": ""}, r"train-7-of-2\.csv are shards of more than one set"),
            ({"train.jsonl": GOOD + "[" * 100_000 + "\n"}, r"train\.jsonl:2: not JSON"),
            ({"train.jsonl": "[" * 100_000 + "\n"}, r"train\.jsonl:1: not JSON"),
            ({"state.json": "{}"}, r"not a whole save_to_disk folder"),
        ],
    )
    def test_bad_input_gets_one_line_with_its_place(self, tmp_path, files, line):
        for name, text in files.items():
            write(tmp_path / name, text)
        with pytest.raises(UserError, match=line) as error:
            read(tmp_path)
        assert "\n" not in str(error.value)

    def test_a_parquet_file_with_broken_text_is_named(self, tmp_path):
        broken = pyarrow.array([b"a", b"\xff\xfe"]).view(pyarrow.string())
        pyarrow.parquet.write_table(pyarrow.table({"source": broken, "target": ["a", "b"]}), tmp_path / "train.parquet")
        with pytest.raises(UserError, match=r"train\.parquet: not a whole parquet file \('utf-?8' codec"):
            read(tmp_path)

    def test_a_saved_folder_with_an_empty_split_is_named(self, tmp_path):
        some = datasets.Dataset.from_list(ROWS)
        datasets.DatasetDict(train=some, validation=some.select([])).save_to_disk(str(tmp_path / "saved"))
        said = "no val record has a source and a target"
        try:
            datasets.load_from_disk(str(tmp_path / "saved"))
        except IndexError:  # from datasets 5 on
            said = "not a whole save_to_disk folder, or one with an empty split"
        with pytest.raises(UserError, match=said):
            read(tmp_path / "saved", "val")

    def test_a_gzip_file_that_breaks_off_is_named(self, tmp_path):
        write(tmp_path / "train.jsonl.gz", GOOD * 9)
        whole = (tmp_path / "train.jsonl.gz").read_bytes()
        (tmp_path / "train.jsonl.gz").write_bytes(whole[:-9])
        with pytest.raises(UserError, match=r"train\.jsonl\.gz: cannot be read beyond line \d"):
            read(tmp_path)

    def test_a_missing_folder_and_a_file_in_its_place_are_told_apart(self, tmp_path):
        with pytest.raises(UserError, match=r"--data_dir .*/nowhere: no such directory"):
            read(tmp_path / "nowhere")
        write(tmp_path / "train.jsonl", GOOD)
        with pytest.raises(UserError, match=r"train\.jsonl: a file; give the folder"):
            read(tmp_path / "train.jsonl")


@pytest.fixture
def shared(tmp_path) -> Path:
    """The folders of real data named by PREFIXTUNING_SHARED; else small ones of the same formats."""
    if SHARED:
        return Path(SHARED) / "data"
    one = {"package": "mill", "section": "games", "source": "Grinds flour.\n- fine\n- coarse", "target": "flour mill"}
    paper = {"source": ["We mill.", "It works."], "target": ["Milling works.", "Mills."], "paper_id": "x"}
    for name in ("train", "valid", "test"):
        write_rows(tmp_path / "debdesc" / f"{name}.jsonl.gz", [one, one])
        write_rows(
            tmp_path / "scitldr" / f"{name}.jsonl.gz", [paper if name != "train" else {**paper, "target": ["M."]}]
        )
    pair = [{"source": "A mill.", "target": "Eine Mühle."}, {"source": "Wind.", "target": "Wind."}]
    for name in ("train", "valid", "test_2016_flickr", "test_2017_flickr"):
        write_lines(tmp_path / "multi30k", name, pair, endings=("en", "de"), packed=".gz")
    return tmp_path


class TestRealFolders:
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_package_descriptions(self, shared, split):
        records = load_records(CUSTOM, str(shared / "debdesc"), split)
        assert all(len(record.references) == 1 for record in records.items)
        assert any("\n- " in record.source for record in records.items)
        assert records.report() == []

    def test_papers_have_one_target_in_training_and_several_later(self, shared):
        train, test = (read(shared / "scitldr", split, TASKS["scitldr"]) for split in ("train", "test"))
        assert {len(record.references) for record in train} == {1}
        assert max(len(record.references) for record in test) > 1

    def test_aligned_languages_and_several_test_files(self, shared):
        task = task_for(None, "multi30k", "en", "de")
        assert load_records(task, str(shared / "multi30k"), "train").report() == []
        test = load_records(task, str(shared / "multi30k"), "test")
        packed = (shared / "multi30k" / "test_2016_flickr.de.gz").read_bytes()
        assert len(test.items) == len(gzip.decompress(packed).decode().split("\n")) - 1
        assert test.report()[0].startswith(
            "test: read from test_2016_flickr.en.gz and test_2016_flickr.de.gz; not read: test_2017_flickr.en.gz"
        )

    def test_a_test_file_of_the_plain_name_comes_first(self, shared, tmp_path):
        write_lines(tmp_path / "own", "test_2016", ROWS[:1], endings=("en", "de"))
        write_lines(tmp_path / "own", "test", ROWS, endings=("en", "de"))
        records = load_records(task_for(None, "own", "en", "de"), str(tmp_path / "own"), "test")
        assert (records.items, records.report()) == (WANTED, [])
