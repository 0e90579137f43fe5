"""Questions and answers in a folder (--task custom_qa), with either family of bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SENTENCES
from small_runs import start

from seq2seq.records import load_records
from seq2seq.runs import Run
from seq2seq.tasks import task_for
from seq2seq.utils import UserError

pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.mark.parametrize("family", ["small", "small_gpt2"])
def test_answers_are_scored_against_all_that_a_question_has(family: str, request: Any, tmp_path: Any) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows: list[dict[str, Any]] = [{"question": f"{text}?", "answer": text.split()[0]} for text in SENTENCES]
    rows += [{"question": rows[0]["question"], "answer": ["another one", "a third"]}]
    for split in ("train", "val", "test"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {**request.getfixturevalue(family), "data_dir": data, "task": "custom_qa", "epoch": 1}
    run = start(**options, output_dir=tmp_path / "run")
    assert run
    metrics, kept = Run(run).read_metrics(), Run(run).read_generations("test")
    assert set(metrics["test"]) == {"exact_match", "f1"} and metrics["baselines"] == {}
    assert metrics["test"]["f1"]["n"] == len(kept) == len(SENTENCES)
    assert kept[0]["references"] == [rows[0]["answer"], "another one", "a third"]


@pytest.mark.parametrize(
    ("row", "said"),
    [({"question": "q", "answer": 3}, "answer is 3"), ({"question": 3, "answer": "a"}, "question is 3")],
)
def test_a_field_is_named_as_the_file_names_it(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"test.jsonl:1: {said}"):
        load_records(task_for("custom_qa", str(tmp_path), None, None), str(tmp_path), "test")
