"""Questions and answers in a folder (--task custom_qa), with either family of bases."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import SENTENCES
from small_runs import start

from seq2seq.runs import Run

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
