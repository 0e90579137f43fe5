"""E2E, WebNLG and DART in their own formats: what each layout reads as, all references kept, one line a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from tables import (
    BOTH_SOURCE,
    DART_RECORDS,
    DART_WANTED,
    E2E_LINES,
    FERRY,
    LISBON,
    LISBON_SOURCE,
    QUAY,
    QUAY_MR,
    TOWER,
    TOWER_MR,
    entry,
    load,
    read,
    webnlg_json,
    write,
    write_csv,
    write_rows,
    xml,
)

from seq2seq.records import Record, load_records
from seq2seq.split_files import Split
from seq2seq.table_readers import linearise_mr
from seq2seq.tasks import TASKS
from seq2seq.utils import UserError


class TestE2E:
    def test_training_lines_stay_as_they_are(self, tmp_path):
        write(tmp_path / "src1_train.txt", E2E_LINES)
        assert read("e2e", tmp_path) == [
            Record(QUAY, ("The Quay is a pub . ", "A pub : The Quay .")),
            Record(TOWER, ("Ink Tower , no place for children . ",)),
        ]

    @pytest.mark.parametrize("split, name", [("val", "src1_valid.txt"), ("test", "src1_test.txt.gz")])
    def test_lines_to_evaluate_on_are_stripped(self, tmp_path, split, name):
        write(tmp_path / name, E2E_LINES)
        assert read("e2e", tmp_path, split) == [
            Record(QUAY, ("The Quay is a pub .", "A pub : The Quay .")),
            Record(TOWER, ("Ink Tower , no place for children .",)),
        ]

    def test_lines_of_another_form_are_counted_and_named(self, tmp_path):
        write(tmp_path / "src1_train.txt", f"{E2E_LINES}\n\nno bars\na||b||c\n{TOWER}|| \n||text\n")
        assert load("e2e", tmp_path).report() == [
            "train: 2 records skipped: empty source (src1_train.txt:4, :8)",
            "train: 2 records skipped: not source||target (src1_train.txt:5, :6)",
            "train: 1 record skipped: empty target (src1_train.txt:7)",
        ]

    @pytest.mark.parametrize(
        "split, name", [("train", "trainset.csv"), ("val", "devset.csv"), ("test", "testset_w_refs.csv")]
    )
    def test_the_challenges_csv(self, tmp_path, split, name):
        write_csv(
            tmp_path / name, [(QUAY_MR, "The Quay is a pub, £20."), (TOWER_MR, "No kids."), (QUAY_MR, 'A "pub".')]
        )
        assert read("e2e", tmp_path, split) == [
            Record(QUAY, ("The Quay is a pub, £20.", 'A "pub".')),
            Record(TOWER, ("No kids.",)),
        ]

    def test_json_lines_prefer_the_tokenised_references(self, tmp_path):
        row = {"mr": TOWER_MR, "src": TOWER, "refs_tok": ["No kids .", "Ink Tower ."], "refs": ["No kids.", "Ink."]}
        write_rows(tmp_path / "test.jsonl.gz", [row, {"mr": QUAY_MR, "refs": ["A pub."]}])
        assert read("e2e", tmp_path, "test") == [Record(TOWER, ("No kids .", "Ink Tower .")), Record(QUAY, ("A pub.",))]

    def test_the_hubs_records(self, tmp_path):
        rows = [
            {"meaning_representation": QUAY_MR, "human_reference": "A pub."},
            {"meaning_representation": QUAY_MR, "human_reference": "The Quay."},
        ]
        datasets.DatasetDict(test=datasets.Dataset.from_list(rows)).save_to_disk(str(tmp_path / "saved"))
        assert read("e2e", tmp_path / "saved", "test") == [Record(QUAY, ("A pub.", "The Quay."))]

    def test_the_usual_files_with_source_and_target_are_read_too(self, tmp_path):
        write(tmp_path / "val.source", "S\n")
        write(tmp_path / "val.target", "T\n")
        write_rows(tmp_path / "test.jsonl", [{"source": "S", "references": ["T", "U"]}, {"source": "S", "target": "V"}])
        assert read("e2e", tmp_path, "val") == [Record("S", ("T",))]
        assert read("e2e", tmp_path, "test") == [Record("S", ("T", "U", "V"))]

    def test_the_authors_lines_come_first_and_the_choice_is_said(self, tmp_path):
        write(tmp_path / "src1_train.txt", E2E_LINES)
        write(tmp_path / "src1_train.txt.gz", E2E_LINES)
        write_rows(tmp_path / "train.jsonl", [{"mr": TOWER_MR, "refs": ["x"]}])
        records = load("e2e", tmp_path)
        assert len(records.items[0].references) == 2
        assert records.report() == ["train: read from src1_train.txt; not read: train.jsonl"]

    def test_a_source_stands_where_it_first_appears_also_with_an_empty_reference(self, tmp_path):
        write(tmp_path / "src1_test.txt", "a||\nb||x\na||y\nc||\n")
        records = load("e2e", tmp_path, "test")
        assert records.items == [Record("a", ("y",)), Record("b", ("x",))]
        assert records.skipped == {"empty target": ["src1_test.txt:1", "src1_test.txt:4"]}


class TestMeaningRepresentation:
    @pytest.mark.parametrize(
        "meaning, source",
        [
            (QUAY_MR, QUAY),
            ("name[A],food[B],customer rating[5 out of 5]", "name : A | food : B | customer rating : 5 out of 5"),
            ("priceRange[more than £30], name[J-2]", "price : more than £ 30 | name : J-2"),
            ("name[One, Two], near[]", "name : One, Two | near : "),
            ("", ""),
        ],
    )
    def test_is_written_as_the_authors_do(self, meaning, source):
        assert linearise_mr(meaning, "here:1") == source

    @pytest.mark.parametrize(
        "meaning, line",
        [
            ("name[", r"trainset.csv:3: 'name\[' has no closing bracket; write name\[value\], name\[value\]"),
            ("name[A, food[B]", r"trainset.csv:3: 'name\[' has no closing bracket"),
            ("name[A], pub", r"trainset.csv:3: 'pub' has no \[value\]"),
        ],
    )
    def test_that_is_broken_is_named(self, tmp_path, meaning, line):
        write_csv(tmp_path / "trainset.csv", [(QUAY_MR, "A pub."), (meaning, "x")])
        with pytest.raises(UserError, match=line) as error:
            read("e2e", tmp_path)
        assert "\n" not in str(error.value)


class TestWebNLG:
    TEXTS = [("good", "Ana & Lisbon."), ("bad", "Bad."), ("good", "Lisbon is led by Ana.")]
    GOOD = ("Ana & Lisbon.", "Lisbon is led by Ana.")
    ALL = ("Ana & Lisbon.", "Bad.", "Lisbon is led by Ana.")

    def write(self, layout: str, folder: Path, split: Split) -> None:
        """One record of two triples and three lexicalisations, the second marked bad."""
        name = {"train": "train", "val": "dev", "test": "test"}[split]
        triples = [LISBON, FERRY]
        if layout == "folders":
            file = "testdata_with_lex.xml" if split == "test" else "2triples/2triples_Airport.xml"
            write(folder / name / file, xml(entry(triples, self.TEXTS)))
        elif layout == "json":
            write(folder / f"{name}.json", json.dumps(webnlg_json((triples, self.TEXTS)), indent=2))
        elif layout == "json lines":
            row = {"category": "Airport", "triples": triples, "refs": list(self.GOOD), "refs_bad": ["Bad."]}
            write_rows(folder / f"{name}.jsonl.gz", [row])
        else:
            comments, texts = zip(*self.TEXTS, strict=True)
            record = {
                "category": "Airport",
                "modified_triple_sets": {"mtriple_set": [[" | ".join(triple) for triple in triples], ["x | y | z"]]},
                "lex": {"comment": list(comments), "text": list(texts), "lid": ["Id1"] * 3, "lang": [""] * 3},
                "test_category": "testdata_with_lex" if split == "test" else "",
            }
            datasets.DatasetDict({name: datasets.Dataset.from_list([record])}).save_to_disk(str(folder))

    @pytest.mark.parametrize("layout", ["folders", "json", "json lines", "hub"])
    def test_trains_on_good_lexicalisations_and_evaluates_on_all(self, tmp_path, layout):
        for split, part in (("train", ""), ("val", ""), ("test", "seen")):
            self.write(layout, tmp_path / split, split)
            (record,) = read("webnlg", tmp_path / split, split)
            references = self.GOOD if split == "train" else self.ALL
            assert (record.source, record.part) == (BOTH_SOURCE, part)
            # json lines keep the bad ones apart, so these come last
            assert record.references == references or layout == "json lines"
            assert sorted(record.references) == sorted(references)

    def test_the_subfolder_of_the_challenges_name_is_read(self, tmp_path):
        self.write("folders", tmp_path / "webnlg_challenge_2017", "train")
        assert read("webnlg", tmp_path) == [Record(BOTH_SOURCE, self.GOOD)]

    def test_all_files_of_a_folder_are_read_in_order(self, tmp_path):
        write(tmp_path / "train/2triples/b.xml", xml(entry([LISBON, FERRY], [("good", "Two.")])))
        write(tmp_path / "train/1triples/c.xml", xml(entry([LISBON], [("good", "One.")]), entry([FERRY], self.TEXTS)))
        write(tmp_path / "train/1triples/d.xml.gz", xml(entry([LISBON], [("good", "One again.")])))
        assert read("webnlg", tmp_path) == [
            Record(LISBON_SOURCE, ("One.", "One again.")),
            Record(' | Lisbon_Ferry : owner : "Tagus, Ltd"', self.GOOD),
            Record(BOTH_SOURCE, ("Two.",)),
        ]

    def test_of_the_test_files_the_one_with_all_references_is_read(self, tmp_path):
        for name in ("testdata_no_lex.xml", "testdata_unseen_with_lex.xml"):
            write(tmp_path / "test" / name, xml(entry([FERRY], [])))
        self.write("folders", tmp_path, "test")
        records = load("webnlg", tmp_path, "test")
        assert [record.source for record in records.items] == [BOTH_SOURCE]
        assert records.report() == [
            "test: read from testdata_with_lex.xml; not read: testdata_no_lex.xml and 1 more",
        ]

    def test_test_records_are_seen_or_unseen_by_category_or_by_their_own_word(self, tmp_path):
        rows = [
            {"category": category, "triples": [[category, "is", "x"]], "refs": ["T."]}
            for category in ("Airport", "Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician")
        ]
        rows += [{"category": "Airport", "split": "unseen", "triples": [LISBON], "refs": ["T."]}]
        rows += [{"triples": [FERRY], "refs": ["T."]}]
        write_rows(tmp_path / "test.jsonl", rows)
        write_rows(tmp_path / "dev.jsonl", rows)
        assert [record.part for record in read("webnlg", tmp_path, "test")] == ["seen", *["unseen"] * 6, ""]
        assert {record.part for record in read("webnlg", tmp_path, "val")} == {""}

    def test_a_training_record_without_a_good_text_is_counted_and_named(self, tmp_path):
        good, bad = entry([LISBON], [("good", "T.")]), entry([FERRY], [("toFix", "U.")])
        write(tmp_path / "train/a.xml", xml(good, bad))
        write(tmp_path / "dev/a.xml", xml(good, bad))
        assert load("webnlg", tmp_path).report() == [
            "train: 1 record skipped: no lexicalisation is marked good (a.xml:13)"
        ]
        assert [record.references for record in read("webnlg", tmp_path, "val")] == [("T.",), ("U.",)]

    def test_the_hubs_repeated_test_records_are_left_out_and_counted(self, tmp_path):
        lex = {"comment": ["good"], "text": ["T."]}
        rows = [
            {"modified_triple_sets": {"mtriple_set": [["a | b | c"]]}, "lex": texts, "test_category": name}
            for name, texts in [
                ("testdata_no_lex", {"comment": [], "text": []}),
                ("testdata_unseen_with_lex", lex),
                ("testdata_with_lex", lex),
            ]
        ]
        datasets.DatasetDict(test=datasets.Dataset.from_list(rows)).save_to_disk(str(tmp_path))
        records = load("webnlg", tmp_path, "test")
        assert records.items == [Record(" | a : b : c", ("T.",))]
        assert records.report() == ["test: 2 records skipped: not of testdata_with_lex (test:1, :2)"]

    @pytest.mark.parametrize(
        "file, text, line",
        [
            ("train/a.xml", "<benchmark>\n<entries>\n</benchmark>", r"a.xml:3: not XML \(mismatched tag\); mend"),
            ("train/a.xml", "<benchmark></benchmark>", r"a.xml: no <entry> in it"),
            (
                "train/a.xml",
                xml(entry([LISBON[:2]], [("good", "T.")])),
                r"a.xml:4: 'Lisbon \| leaderName' is no triple",
            ),
            ("train.json", '{"entries": [\n{"1": }]}', r"train.json:2: not JSON"),
            ("train.json", '{"entries":\n 5}', r"train.json: entries is 5; write a list of records"),
            ("train.json", "[\n1]", r"train.json: the JSON document is \[1\]; write a list of records"),
            ("train.json", '[\n{"triples": [["a", "b", null]]}]', r"train.json:1: \['a', 'b', None\] is no triple"),
            ("train.json", '[\n{"triples": [["a", "b", true]]}]', r"train.json:1: \['a', 'b', True\] is no triple"),
            ("train.jsonl", '{"triple": []}', r"train.jsonl:1: no field triples or .*; it has triple"),
            ("train.jsonl", '{"triples": [["a", "b", "c"]]}', r"train.jsonl:1: no field lexicalisations or lex"),
            (
                "train.jsonl",
                '{"triples": [["a", "b", "\\ud800"]], "refs": ["x"]}',
                r"train.jsonl:1: .*half a character",
            ),
        ],
    )
    def test_broken_files_get_one_line(self, tmp_path, file, text, line):
        write(tmp_path / file, text)
        with pytest.raises(UserError, match=line) as error:
            read("webnlg", tmp_path)
        assert "\n" not in str(error.value)

    def test_unequal_lists_of_a_hub_record_are_refused(self, tmp_path):
        row = {"triples": [LISBON], "lex": {"comment": ["good"], "text": ["T.", "U."]}}
        write_rows(tmp_path / "train.jsonl", [row])
        with pytest.raises(UserError, match=r"train.jsonl:1: the lists of lex have unequal lengths"):
            read("webnlg", tmp_path)

    def test_an_unknown_layout_names_what_was_looked_for(self, tmp_path):
        write(tmp_path / "notes.md", "x")
        with pytest.raises(
            UserError,
            match=r"no train split; looked for train/\*\*/\*.xml, train.xml, .*holds notes.md; put the missing",
        ):
            read("webnlg", tmp_path)

    def test_blanks_around_an_xml_text_are_none_of_it(self, tmp_path):
        write(tmp_path / "train/1triples/a.xml", xml(entry([LISBON], [("good", "\n  One text.\n  ")])))
        assert read("webnlg", tmp_path)[0].references == ("One text.",)


class TestDART:
    @pytest.mark.parametrize(
        "split, name",
        [("train", "dart-v1.1.1-full-train.json"), ("val", "dart-v1.1.1-full-dev.json"), ("test", "test.json.gz")],
    )
    @pytest.mark.parametrize("indent", [None, 2])
    def test_the_json_document(self, tmp_path, split, name, indent):
        write(tmp_path / name, json.dumps(DART_RECORDS, indent=indent))
        assert read("dart", tmp_path, split) == DART_WANTED

    @pytest.mark.parametrize("name", ["train.jsonl.gz", "train.json"])
    def test_json_lines(self, tmp_path, name):
        write_rows(tmp_path / name, DART_RECORDS)
        assert read("dart", tmp_path) == DART_WANTED

    def test_numbers_in_a_triple_read_as_they_are_written(self, tmp_path):
        row = {"tripleset": [["Oslo", "AREA", 454], ["Oslo", "RAIN", 76.0]], "annotations": [{"text": "Wet Oslo."}]}
        write_rows(tmp_path / "train.json", [row])
        assert read("dart", tmp_path) == [Record("Oslo : area : 454 | Oslo : rain : 76.0", ("Wet Oslo.",))]

    def test_the_xml(self, tmp_path):
        entries = [entry(r["tripleset"], [(a["source"], a["text"]) for a in r["annotations"]]) for r in DART_RECORDS]
        write(tmp_path / "dart-v1.1.1-full-dev.xml", xml(*entries))
        assert read("dart", tmp_path, "val") == DART_WANTED

    def test_the_hubs_records(self, tmp_path):
        rows = [
            {
                "tripleset": record["tripleset"],
                "annotations": {name: [a[name] for a in record["annotations"]] for name in ("source", "text")},
            }
            for record in DART_RECORDS
        ]
        datasets.DatasetDict(validation=datasets.Dataset.from_list(rows)).save_to_disk(str(tmp_path))
        assert read("dart", tmp_path, "val") == DART_WANTED

    def test_two_versions_of_a_split_are_not_joined(self, tmp_path):
        for version in ("v1.0.0", "v1.1.1"):
            write(tmp_path / f"dart-{version}-full-train.json", json.dumps(DART_RECORDS))
        both = r"dart-v1\.0\.0-full-train\.json and dart-v1\.1\.1-full-train\.json are each a whole split; keep one"
        with pytest.raises(UserError, match=both):
            read("dart", tmp_path)

    @pytest.mark.parametrize("text", ["[" * 100_000, '[{"tripleset": ' + "[" * 100_000])
    def test_a_document_that_is_nested_too_deeply_is_no_json(self, tmp_path, text):
        write(tmp_path / "dart-v1.1.1-full-train.json", text)
        with pytest.raises(UserError, match=r"train\.json:1: not JSON \(.*\); mend or replace the file"):
            read("dart", tmp_path)

    def test_a_missing_train_split_says_where_it_is(self, tmp_path):
        write_rows(tmp_path / "valid.jsonl.gz", DART_RECORDS)
        with pytest.raises(UserError, match=r"no train split; looked for dart-\*-train.json.*Yale-LILY/dart") as error:
            read("dart", tmp_path)
        assert "\n" not in str(error.value)
        assert read("dart", tmp_path, "val") == DART_WANTED


class TestHub:
    @pytest.mark.parametrize(
        "name, asked",
        [
            ("e2e", ("tuetschek/e2e_nlg", None, "validation")),
            ("webnlg", ("webnlg-challenge/web_nlg", "webnlg_challenge_2017", "dev")),
            ("dart", ("Yale-LILY/dart", None, "validation")),
        ],
    )
    def test_splits_go_by_the_hubs_names_and_records_by_its_fields(self, monkeypatch, name, asked):
        record = {
            "e2e": {"meaning_representation": TOWER_MR, "human_reference": "T."},
            "webnlg": {
                "modified_triple_sets": [{"mtriple_set": [" | ".join(LISBON)]}],
                "lex": [{"comment": "good", "text": "T."}],
            },
            "dart": {"tripleset": [LISBON], "annotations": {"source": ["s"], "text": ["T."]}},
        }[name]
        calls = []

        def load_dataset(hub, config, *, split):
            calls.append((hub, config, split))
            return [record]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        source = {"e2e": TOWER, "webnlg": LISBON_SOURCE, "dart": LISBON_SOURCE[3:].replace("leaderName", "leadername")}
        assert load_records(TASKS[name], None, "val").items == [Record(source[name], ("T.",))]
        assert calls == [asked]

    def test_the_first_of_several_triple_sets_is_used_and_a_value_may_hold_a_bar(self, monkeypatch):
        sets = [{"mtriple_set": ["Lisbon | motto | up|down"]}, {"mtriple_set": ["Lisbon | motto | sideways"]}]
        record = {"modified_triple_sets": sets, "lex": [{"comment": "good", "text": "T."}]}
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [record])
        (found,) = load_records(TASKS["webnlg"], None, "val").items
        assert "up|down" in found.source and "sideways" not in found.source
