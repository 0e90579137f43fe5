"""gen.py: any run is decoded, batch by batch, and a decoding that was killed goes on where it was."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from small_runs import start

from gpt2 import run_generation
from gpt2.generation_arguments import GenerationArguments
from gpt2.run_generation import generate
from seq2seq.partial_outputs import PartialOutputs
from seq2seq.runs import Run
from seq2seq.utils import UserError

QUIET: dict[str, Any] = {"progress": False, "threads": 1}


@pytest.fixture(scope="module")
def runs(small, small_gpt2, tmp_path_factory) -> dict[str, Path]:
    """A prefix on BART, a prefix on GPT-2, a fine-tuned GPT-2."""
    place = tmp_path_factory.mktemp("runs")
    ways: dict[str, dict[str, Any]] = {
        "bart": small, "gpt2": small_gpt2, "finetuned": {**small_gpt2, "mode": "finetune"},
    }  # fmt: skip
    for name, options in ways.items():
        start(**{**options, "max_steps": 4, "n_val": 0}, output_dir=place / name)
    return {name: place / name for name in ways}


@pytest.mark.parametrize("name", ["bart", "gpt2", "finetuned"])
class TestAnyRun:
    def test_is_decoded_to_what_its_training_decoded(self, runs, name, tmp_path):
        output = tmp_path / "out.jsonl"
        generate(GenerationArguments(run=str(runs[name]), output=str(output), **QUIET))
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert rows == Run(runs[name]).read_generations("test")

    def test_one_by_one_gives_the_same_texts(self, runs, name, tmp_path):
        output = tmp_path / "out.jsonl"
        generate(GenerationArguments(run=str(runs[name]), output=str(output), eval_bsz=1, **QUIET))
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert rows == Run(runs[name]).read_generations("test")

    def test_typed_lines_are_answered(self, runs, name, monkeypatch, capsys):
        rows = Run(runs[name]).read_generations("test")
        typed = "\n".join(["", rows[0]["source"], "", rows[3]["source"], ""])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        generate(GenerationArguments(run=str(runs[name]), input="-", **QUIET))
        assert capsys.readouterr().out.split("\n")[:-1] == [rows[0]["generated"], rows[3]["generated"]]


class TestWhere:
    def test_a_splits_scores_go_into_the_run(self, runs):
        before = Run(runs["gpt2"]).read_metrics()
        generate(GenerationArguments(run=str(runs["gpt2"]), split="val", **QUIET))
        after = Run(runs["gpt2"]).read_metrics()
        assert "rougeL" in after["val"] and after["test"] == before["test"]
        assert len(Run(runs["gpt2"]).read_generations("val")) == 5

    def test_a_text_file_gives_a_line_each(self, runs, tmp_path, capsys):
        rows = Run(runs["gpt2"]).read_generations("test")
        sources, output = tmp_path / "in.txt", tmp_path / "out.txt"
        sources.write_text("".join(f"{row['source']}\n" for row in rows))
        options = {"run": str(runs["gpt2"]), "input": str(sources), **QUIET}
        generate(GenerationArguments(output=str(output), **options))
        assert output.read_text().splitlines() == [row["generated"] for row in rows]
        capsys.readouterr()
        generate(GenerationArguments(**options))
        assert capsys.readouterr().out.splitlines() == [row["generated"] for row in rows]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]

    def test_search_settings_of_the_call_count(self, runs, tmp_path):
        output = tmp_path / "out.jsonl"
        generate(GenerationArguments(run=str(runs["gpt2"]), output=str(output), max_length=2, **QUIET))
        short = [json.loads(line)["generated"] for line in output.read_text().splitlines()]
        long = [row["generated"] for row in Run(runs["gpt2"]).read_generations("test")]
        assert short != long and all(a == b[: len(a)] for a, b in zip(short, long, strict=True) if a == b)


class Killed(BaseException):
    """In place of a kill."""


def test_killed_at_random_twice_it_ends_with_the_same_file(runs, tmp_path, monkeypatch):
    options = {"run": str(runs["gpt2"]), "eval_bsz": 1, **QUIET}
    generate(GenerationArguments(output=str(tmp_path / "whole.jsonl"), **options))
    stock, decoded = PartialOutputs.add, []

    def dying(self: PartialOutputs, batch: Any) -> None:
        stock(self, batch)
        decoded.extend(batch)
        if len(decoded) in deaths:
            if cut:
                self.path.write_bytes(self.path.read_bytes()[: -random.Random(1).randint(2, 9)])
            raise Killed

    deaths, cut = {2, 4}, False
    monkeypatch.setattr(PartialOutputs, "add", dying)
    for cut in (False, True):  # noqa: B007 - read by `dying`
        with pytest.raises(Killed):
            generate(GenerationArguments(output=str(tmp_path / "out.jsonl"), **options))
        assert not (tmp_path / "out.jsonl").exists()
    generate(GenerationArguments(output=str(tmp_path / "out.jsonl"), **options))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(decoded) == 6  # five, and the one whose line was cut
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "whole.jsonl"]


def test_what_another_decoding_left_is_not_gone_on_with(runs, tmp_path, monkeypatch):
    def dying(*args: Any) -> None:
        raise Killed

    options = {"run": str(runs["gpt2"]), "output": str(tmp_path / "out.jsonl"), **QUIET}
    monkeypatch.setattr(run_generation, "write_outputs", dying)
    with pytest.raises(Killed):
        generate(GenerationArguments(max_length=2, **options))
    monkeypatch.undo()
    generate(GenerationArguments(**options))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == Run(runs["gpt2"]).read_generations("test")


class TestMistakes:
    @pytest.mark.parametrize(
        "options, said",
        [
            ({"input": "x", "task": "e2e"}, "--input: is decoded as it is"),
            ({"input": "-", "output": "x"}, "--output: typed lines are answered on the screen"),
            ({"output": __file__}, "is there already; add --overwrite"),
            ({"output": "/no/such/folder/out"}, "there is no such folder"),
        ],
    )
    def test_options_that_do_not_go_together(self, options, said):
        with pytest.raises(UserError, match=said):
            GenerationArguments(**options)

    @pytest.mark.parametrize(
        "name, content, said",
        [
            ("none.txt", None, "cannot be read .No such file"),
            ("latin.txt", b"caf\xe9", "not UTF-8"),
            ("gap.txt", b"one\n\ntwo\n", "gap.txt:2: empty source"),
            ("empty.txt", b"", "holds no source"),
            ("broken.jsonl", b'{"source": "a"}\n{"sour', "broken.jsonl:2: no JSON object with `source`"),
            ("other.jsonl", b'{"text": "a"}\n', "other.jsonl:1: no JSON object with `source`"),
        ],
    )
    def test_in_a_file_are_named_by_line(self, runs, tmp_path, name, content, said):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            generate(GenerationArguments(run=str(runs["gpt2"]), input=str(tmp_path / name), **QUIET))

    def test_a_directory_that_is_no_run(self, tmp_path):
        with pytest.raises(UserError, match="is no finished run: config.yaml missing"):
            generate(GenerationArguments(run=str(tmp_path), **QUIET))
