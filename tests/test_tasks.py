"""Tasks: the registry, what the flags ask for, and records from the package and from the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import pytest

from seq2seq.metrics import METRICS
from seq2seq.records import Record, load_records
from seq2seq.tasks import TASKS, task_for
from seq2seq.utils import UserError


class TestRegistry:
    def test_every_task_of_the_paper_and_more_is_there(self):
        papers = ["xsum", "xsum_news", "xsum_news_sport", "cnn_dm", "e2e", "webnlg", "dart"]
        assert set(TASKS) >= {"sample", *papers, "scitldr", "wmt16_en_ro"}

    @pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
    def test_scores_of_a_task_exist(self, task):
        assert task.best_metric in task.metrics
        assert set(task.metrics) <= set(METRICS)

    @pytest.mark.parametrize(
        "name, limits",
        [
            ("sample", (256, 48, 48, 48)),
            ("xsum", (1024, 60, 60, 100)),
            ("xsum_news", (512, 60, 60, 100)),
            ("xsum_news_sport", (512, 60, 60, 100)),
            ("cnn_dm", (512, 56, 142, 142)),
        ],
    )
    def test_limits_are_the_papers(self, name, limits):
        task = TASKS[name]
        found = (
            task.max_source_length,
            task.max_target_length,
            task.val_max_target_length,
            task.test_max_target_length,
        )
        assert found == limits

    def test_search_of_xsum_is_bart_larges_own_and_fits_generate(self):
        assert asdict(TASKS["xsum"].search) == {
            "num_beams": 6,
            "min_length": 11,
            "max_length": 62,
            "length_penalty": 1.0,
            "no_repeat_ngram_size": 3,
            "early_stopping": True,
            "length_norm": "target",
        }

    @pytest.mark.parametrize("name", ["e2e", "webnlg", "dart"])
    def test_search_of_table_to_text_is_the_authors(self, name):
        assert TASKS[name].kind == "table_to_text"
        assert asdict(TASKS[name].search) == {
            "num_beams": 5,
            "min_length": 0,
            "max_length": 100,
            "length_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "early_stopping": False,
            "length_norm": "target",
        }

    def test_translation_bans_no_repetition_and_has_no_minimum(self):
        assert (TASKS["wmt16_en_ro"].search.min_length, TASKS["wmt16_en_ro"].search.no_repeat_ngram_size) == (0, 0)

    @pytest.mark.parametrize(
        "change, line", [({"min_length": 63}, "--min_length 63"), ({"num_beams": 0}, "--num_beams 0")]
    )
    def test_an_impossible_search_is_refused(self, change, line):
        with pytest.raises(UserError, match=line):
            replace(TASKS["xsum"].search, **change)

    def test_reading_the_registry_imports_nothing_slow(self):
        slow = "{'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'}"
        code = f"import seq2seq.tasks, sys; print({slow} & set(sys.modules))"
        root = Path(__file__).parent.parent
        shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "set()"


class TestTaskFor:
    def test_nothing_given_is_the_sample(self):
        assert task_for(None, None, None, None) is TASKS["sample"]

    def test_a_name_is_its_task_with_or_without_a_folder(self):
        assert task_for("xsum", None, None, None) is task_for("xsum", "folder", None, None) is TASKS["xsum"]

    def test_a_folder_without_a_task_is_a_summarization(self):
        task = task_for(None, "folder", None, None)
        assert (task.name, task.kind, task.source_field) == ("custom", "summarization", "source")
        assert task_for("custom", "folder", None, None) == task

    def test_a_folder_of_questions_is_asked_for_by_its_name(self):
        task = task_for("custom_qa", "folder", None, None)
        assert (task.kind, task.source_field, task.target_field) == ("question_answering", "question", "answer")
        assert task.metrics == ("exact_match", "f1")
        with pytest.raises(UserError, match="--task custom_qa: no such task"):
            task_for("custom_qa", None, None, None)

    def test_a_folder_with_two_languages_is_a_translation(self):
        task = task_for(None, "folder", "en", "de")
        assert (task.name, task.kind, task.languages) == ("custom", "translation", ("en", "de"))
        assert (task.source_field, task.target_field) == ("translation.en", "translation.de")

    def test_a_translation_task_can_be_turned_round(self):
        task = task_for("wmt16_en_ro", None, "ro", "en")
        assert (task.source_field, task.target_field, task.hub) == ("translation.ro", "translation.en", "wmt/wmt16")

    @pytest.mark.parametrize(
        "flags, line",
        [
            (("xsumm", None, None, None), r"--task xsumm: no such task; known are sample, xsum, .*wmt16_en_ro"),
            (("custom", None, None, None), r"--task custom: no such task"),
            ((None, "folder", "en", None), r"--source_lang en without --target_lang"),
            ((None, "folder", None, "de"), r"--target_lang de without --source_lang"),
            ((None, "folder", "en", "en"), r"both en"),
            ((None, None, "en", "de"), r"need --data_dir DIR"),
            (("xsum", None, "en", "de"), r"--task xsum is summarization"),
            (("wmt16_en_ro", None, "en", "de"), r"holds en and ro, not en and de"),
        ],
    )
    def test_flags_that_do_not_fit_get_one_line(self, flags, line):
        with pytest.raises(UserError, match=line) as error:
            task_for(*flags)
        assert "\n" not in str(error.value)


class TestHub:
    @pytest.mark.parametrize("name", ["xsum_news", "xsum_news_sport"])
    def test_tasks_without_a_hub_data_set_ask_for_a_folder(self, name):
        with pytest.raises(UserError, match=rf"--task {name}: no hub data set holds it; pass --data_dir"):
            load_records(TASKS[name], None, "train")

    def test_a_hub_out_of_reach_gets_one_line(self, monkeypatch):
        def unreachable(*_, **__):
            raise ConnectionError("Couldn't reach\nthe hub")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(UserError, match=r"--task xsum: .*EdinburghNLP/xsum.*Couldn't reach the hub.*--data_dir"):
            load_records(TASKS["xsum"], None, "train")

    def test_splits_go_by_the_hubs_names(self, monkeypatch):
        asked = []

        def load(*args, **options):
            asked.append((args, options))
            return [{"translation": {"en": "Yes", "ro": "Da"}}, {"translation": {"en": "", "ro": "x"}}]

        monkeypatch.setattr(datasets, "load_dataset", load)
        records = load_records(TASKS["wmt16_en_ro"], None, "val")
        assert asked == [(("wmt/wmt16", "ro-en"), {"split": "validation"})]
        assert records.items == [Record("Yes", ("Da",))]
        assert records.report() == ["val: 1 record skipped: empty source (wmt16_en_ro[validation]:2)"]

    def test_a_data_set_kept_as_a_script_is_read_from_the_hubs_parquet_copy(self, monkeypatch):
        asked = {}

        def load(*_, **options):
            if "revision" not in options:
                raise RuntimeError("Dataset scripts are no longer supported, but found scitldr.py")
            asked.update(options)
            return [{"source": ["One.", "Two."], "target": ["T."]}]

        monkeypatch.setattr(datasets, "load_dataset", load)
        assert load_records(TASKS["scitldr"], None, "test").items == [Record("One. Two.", ("T.",))]
        assert asked["data_files"] == {"test": "Abstract/test/*.parquet"}
        assert asked["revision"] == "refs/convert/parquet"


class TestSample:
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_the_carried_records_load_whole(self, split):
        records = load_records(TASKS["sample"], None, split)
        assert records.items
        assert records.report() == []

    def test_the_test_split_has_a_generated_and_a_handwritten_part(self):
        parts = Counter(record.part for record in load_records(TASKS["sample"], None, "test").items)
        assert set(parts) == {"generated", "handwritten"}

    def test_a_folder_takes_the_place_of_the_carried_records(self, tmp_path):
        (tmp_path / "test.jsonl").write_text(json.dumps({"source": "S.", "references": ["R."]}))
        assert load_records(TASKS["sample"], str(tmp_path), "test").items == [Record("S.", ("R.",))]
