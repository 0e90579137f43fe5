"""gen.py: any run is decoded, batch by batch, and a decoding that was killed goes on where it was."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import start

from gpt2 import gen, run_generation
from gpt2.generation_arguments import GenerationArguments
from gpt2.run_generation import as_arguments, generate, in_a_line, read_sources
from seq2seq.arguments import Arguments
from seq2seq.parsing import parse
from seq2seq.partial_outputs import PartialOutputs
from seq2seq.records import Record, Records
from seq2seq.runs import Run
from seq2seq.tasks import TASKS
from seq2seq.utils import UserError, device

QUIET: dict[str, Any] = {"progress": False, "threads": 1}


@pytest.fixture(scope="module")
def runs(small, small_gpt2, tmp_path_factory) -> dict[str, Path]:
    """A prefix on BART, a prefix on GPT-2, a fine-tuned GPT-2, two GPT-2s with adapters."""
    place = tmp_path_factory.mktemp("runs")
    ways: dict[str, dict[str, Any]] = {
        "bart": small, "gpt2": {**small_gpt2, "task": "custom", "baselines": "all"},
        "finetuned": {**small_gpt2, "mode": "finetune"},
        "adapters": {**small_gpt2, "mode": "adaptertune"},
        "others": {**small_gpt2, "mode": "adaptertune", "learning_rate": 0.5},
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
        assert capsys.readouterr().out.split("\n")[:-1] == [in_a_line(rows[i]["generated"]) for i in (0, 3)]


class TestWhere:
    def test_a_splits_scores_go_into_the_run(self, runs):
        before = Run(runs["gpt2"]).read_metrics()
        generate(GenerationArguments(run=str(runs["gpt2"]), split="val", **QUIET))
        after = Run(runs["gpt2"]).read_metrics()
        assert "rougeL" in after["val"] and after["test"] == before["test"]
        for system, scores in before["baselines"].items():
            assert after["baselines"][system]["test"] == scores["test"]
        assert "val" in after["baselines"]["first sentence"] and "val" not in after["baselines"]["untuned base"]
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

    def test_another_folder_keeps_the_runs_task(self, runs):
        run = Run(runs["gpt2"])
        own = as_arguments(GenerationArguments(run=str(run.directory)), run)
        moved = as_arguments(GenerationArguments(run=str(run.directory), data_dir="elsewhere", output="x"), run)
        assert moved == replace(own, data_dir="elsewhere")

    def test_what_is_given_wins_over_the_run_even_where_it_is_the_default(self, runs):
        run = Run(runs["gpt2"])
        given = GenerationArguments(run=str(run.directory), eval_bsz=16, attn_implementation="sdpa", precision="auto")
        assert run.read_config()["eval_bsz"] != 16
        assert as_arguments(given, run).eval_bsz == 16
        assert as_arguments(GenerationArguments(), run).eval_bsz == run.read_config()["eval_bsz"]

    def test_sources_that_are_cut_are_counted(self, runs, tmp_path, capsys, monkeypatch):
        (tmp_path / "in.txt").write_text("one two three four five six seven eight\na\n")
        options = {"run": str(runs["gpt2"]), "max_source_length": 4, **QUIET}
        generate(GenerationArguments(input=str(tmp_path / "in.txt"), **options))
        captured = capsys.readouterr()
        assert f"{tmp_path / 'in.txt'}: 1 source longer than 4 tokens was cut" in captured.err
        monkeypatch.setattr("sys.stdin", (tmp_path / "in.txt").open())
        generate(GenerationArguments(input="-", **options))
        typed = capsys.readouterr()
        assert typed.out == captured.out and typed.err.count("longer than 4 tokens and was cut") == 1

    def test_only_the_first_of_a_file(self, runs, tmp_path, capsys):
        (tmp_path / "in.txt").write_text("one\ntwo\nthree\n")
        generate(GenerationArguments(run=str(runs["gpt2"]), input=str(tmp_path / "in.txt"), n_test=2, **QUIET))
        assert len(capsys.readouterr().out.splitlines()) == 2

    def test_it_runs_where_training_does(self, runs, tmp_path, monkeypatch):
        (tmp_path / "in.txt").write_text("one\ntwo\n")
        asked: list[str] = []
        monkeypatch.setattr("seq2seq.decoding.device", lambda: asked.append("decode") or torch.device("cpu"))
        monkeypatch.setattr("gpt2.run_generation.device", lambda: asked.append("typed") or torch.device("cpu"))
        generate(GenerationArguments(run=str(runs["gpt2"]), input=str(tmp_path / "in.txt"), **QUIET))
        monkeypatch.setattr("sys.stdin", io.StringIO("one"))
        generate(GenerationArguments(run=str(runs["gpt2"]), input="-", **QUIET))
        assert asked == ["decode", "typed"]
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        assert device() == torch.device("cuda")

    def test_outputs_stay_aligned_with_their_sources(self, runs, tmp_path, monkeypatch):
        (tmp_path / "in.txt").write_text("one\ntwo\n")
        monkeypatch.setattr(run_generation, "decode", lambda *args: ["first\nsecond", "third"])
        for name in ("out.txt", "out.jsonl"):
            options = {"run": str(runs["bart"]), "input": str(tmp_path / "in.txt"), "output": str(tmp_path / name)}
            generate(GenerationArguments(**options, **QUIET))
        assert (tmp_path / "out.txt").read_text() == "first second\nthird\n"
        assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["generated"] == "first\nsecond"


class TestSources:
    """A file of sources is read as the training data is."""

    def test_a_line_stands_as_it_is(self, tmp_path):
        path = tmp_path / "in.txt"
        path.write_bytes("\ufeff | A : b : C\r\none\u2028two\x0cthree\n".encode())
        assert [record.source for record in read_sources(path)] == [" | A : b : C", "one\u2028two\x0cthree"]

    def test_json_lines_packed_or_not(self, tmp_path):
        rows = [{"source": ["a", "b\u2028c"]}, {"source": "d", "references": "e"}]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        (tmp_path / "in.json").write_bytes(content)
        (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(content))
        for name in ("in.json", "in.jsonl.gz"):
            assert read_sources(tmp_path / name) == [Record("a b\u2028c", ()), Record("d", ("e",))]


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


def test_a_screen_that_fails_leaves_a_decoding_finished(runs, tmp_path, monkeypatch):
    def failing(*args: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(run_generation.Report, "show", failing)
    with pytest.raises(BrokenPipeError):
        generate(GenerationArguments(run=str(runs["gpt2"]), output=str(tmp_path / "out.jsonl"), **QUIET))
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_what_another_decoding_left_is_not_gone_on_with(runs, tmp_path, monkeypatch):
    def dying(*args: Any) -> None:
        raise Killed

    options = {"run": str(runs["gpt2"]), "output": str(tmp_path / "out.jsonl"), **QUIET}
    monkeypatch.setattr(run_generation, "write_outputs", dying)
    with pytest.raises(Killed):
        generate(GenerationArguments(max_length=2, **options))
    monkeypatch.undo()
    left = (tmp_path / "out.jsonl.partial").read_bytes()
    with pytest.raises(UserError, match="out.jsonl.partial: holds texts of another decoding"):
        generate(GenerationArguments(**options))
    assert (tmp_path / "out.jsonl.partial").read_bytes() == left
    (tmp_path / "out.jsonl.partial").unlink()
    generate(GenerationArguments(**options))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == Run(runs["gpt2"]).read_generations("test")


def test_a_decoding_is_another_by_everything_that_decides_its_texts(tmp_path):
    task, records = TASKS["sample_tables"], [Record("a", ("b",))]
    arguments = Arguments(precision="32", eval_bsz=4)
    ways = [
        (records, task, arguments),
        ([Record("c", ("b",))], task, arguments),
        (records, replace(task, max_source_length=7), arguments),
        (records, replace(task, source_lang="en", target_lang="de"), arguments),
        (records, replace(task, search=replace(task.search, num_beams=7)), arguments),
        *(
            (records, task, replace(arguments, **change))
            for change in ({"precision": "bf16"}, {"eval_bsz": 5}, {"format_mode": "peek"})
        ),
    ]
    found = [json.dumps(run_generation.follows_from(Run(tmp_path), *way)) for way in ways]
    assert len(set(found)) == len(ways)


@pytest.mark.parametrize(("split", "n_test"), [(None, 2), ("test", 2), ("val", None)])
def test_a_runs_own_number_of_test_records_is_of_its_test_split(tmp_path, split, n_test):
    (tmp_path / "config.yaml").write_text("task: sample_tables\nn_test: 2\n")
    assert as_arguments(GenerationArguments(run=str(tmp_path), split=split), Run(tmp_path)).n_test == n_test


def test_a_few_records_are_a_few_of_each_part(monkeypatch):
    items = [Record(f"{part}{i}", ("t",), part) for part in "ab" for i in range(3)]
    monkeypatch.setattr(run_generation, "load_records", lambda *_: Records("test", items))
    options = GenerationArguments(run="x", output="y.jsonl", n_test=1)
    few = run_generation.read_split(TASKS["sample_tables"], Arguments(n_test=1), options)
    assert [record.source for record in few] == ["a0", "b0"]


def test_what_other_adapters_left_is_not_gone_on_with(runs, tmp_path, monkeypatch):
    def dying(*args: Any) -> None:
        raise Killed

    options = {"output": str(tmp_path / "out.jsonl"), **QUIET}
    monkeypatch.setattr(run_generation, "write_outputs", dying)
    with pytest.raises(Killed):
        generate(GenerationArguments(run=str(runs["others"]), **options))
    monkeypatch.undo()
    with pytest.raises(UserError, match="out.jsonl.partial: holds texts of another decoding"):
        generate(GenerationArguments(run=str(runs["adapters"]), **options))
    (tmp_path / "out.jsonl.partial").unlink()
    generate(GenerationArguments(run=str(runs["adapters"]), **options))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == Run(runs["adapters"]).read_generations("test") != Run(runs["others"]).read_generations("test")


def test_a_number_of_threads_below_1_is_refused():
    with pytest.raises(UserError, match="--threads -1: must be at least 1"):
        run_generation.generate(GenerationArguments(threads=-1))


def test_two_decodings_into_one_file_are_kept_apart(tmp_path):
    with PartialOutputs(tmp_path / "out.partial", 1) as first:
        first.add({0: "a"})
        with pytest.raises(UserError, match="another process decodes into it"):
            PartialOutputs(tmp_path / "out.partial", 2)
    with PartialOutputs(tmp_path / "out.partial", 1) as again:
        assert again.texts == {0: "a"}


DAMAGES = [
    b'{"1": "b',
    b'{"1": "b"',
    b'{"1": "b"}',
    b"[1]\n",
    b'{"x": "b"}\n',
    b'{"1": 2}\n',
    b"\xff\n",
    b'[]\n{"2": "c"}\n',
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_texts_in_front_of_a_damaged_line_are_kept(tmp_path, damage):
    with PartialOutputs(tmp_path / "out.partial", 1) as first:
        first.add({0: "a"})
        whole = first.path.read_bytes()
    first.path.write_bytes(whole + damage)
    with PartialOutputs(tmp_path / "out.partial", 1) as again:
        assert again.texts == {0: "a"} and again.path.read_bytes() == whole
        again.add({1: "c"})
    with PartialOutputs(tmp_path / "out.partial", 1) as third:
        assert third.texts == {0: "a", 1: "c"}


class TestMistakes:
    @pytest.mark.parametrize("option", ["length_penalty", "early_stopping", "length_norm"])
    def test_an_option_of_a_search_that_has_one_beam(self, runs, option):
        value = {"length_penalty": 2.0, "early_stopping": True, "length_norm": "prompt"}[option]
        with pytest.raises(UserError, match=f"--{option}: does nothing with one beam; give --num_beams above 1"):
            generate(GenerationArguments(run=str(runs["gpt2"]), num_beams=1, **{option: value}, **QUIET))
        with pytest.raises(UserError, match=f"--{option}: does nothing with one beam"):
            flags = ["--do_train=no", f"--prefix_model_path={runs['gpt2']}", "--num_beams=1", f"--{option}={value}"]
            parse(flags, "train_e2e.py")

    @pytest.mark.parametrize(
        "options, said",
        [
            ({"input": "x", "task": "e2e"}, "--input: is decoded as it is"),
            ({"input": "-", "output": "x"}, "--output: typed lines are answered on the screen"),
            ({"output": __file__}, "is there already; add --overwrite"),
            ({"output": "/no/such/folder/out"}, "there is no such folder"),
            ({"output": str(Path(__file__).parent)}, "is a folder; give a file"),
            ({"input": "x", "split": "val"}, "--input: is decoded as it is"),
            ({"input": "-", "n_test": 3}, "--input -: typed lines are answered one by one"),
            ({"run": "x", "n_test": 3}, "--output: say where these texts go"),
            ({"run": "x", "data_dir": "y"}, "--output: say where these texts go"),
            ({"input": "x", "output": "./x", "overwrite": True}, "is the --input; give another"),
            ({"run": ""}, "--run: is empty"),
            ({"input": "x", "overwrite": True}, "--overwrite: replaces an --output that is there"),
        ],
    )
    def test_options_that_do_not_go_together(self, options, said):
        with pytest.raises(UserError, match=said):
            GenerationArguments(**options)

    @pytest.mark.parametrize(
        "name, content, said",
        [
            ("none.txt", None, "no such file"),
            ("latin.txt", b"caf\xe9", "latin.txt:1: not UTF-8"),
            ("gap.txt", b"one\n\ntwo\n", "gap.txt:2: empty source"),
            ("empty.txt", b"", "holds no source"),
            ("broken.jsonl", b'{"source": "a"}\n{"sour', "broken.jsonl:2: not JSON"),
            ("other.jsonl", b'{"text": "a"}\n', "other.jsonl:1: no `source`; it has text"),
            ("number.jsonl", b'{"source": 3}\n', "number.jsonl:1: source is 3; write a string"),
            ("half.jsonl", b'{"source": "a \\ud800"}\n', "half.jsonl:1: source holds half a character"),
        ],
    )
    def test_in_a_file_are_named_by_line(self, runs, tmp_path, name, content, said):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            generate(GenerationArguments(run=str(runs["gpt2"]), input=str(tmp_path / name), **QUIET))

    @pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second: a locale such as C.UTF-8
    def test_typed_lines_that_are_no_text(self, runs, monkeypatch, errors):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8", errors=errors))
        with pytest.raises(UserError, match="--input -: a line is not UTF-8"):
            generate(GenerationArguments(run=str(runs["gpt2"]), input="-", **QUIET))

    @pytest.mark.parametrize("content", ["{", "{}", "[]", '{"base": {"model_type": "none"}}', "[" * 100_000])
    def test_a_damaged_run(self, runs, tmp_path, content):
        shutil.copytree(runs["gpt2"], tmp_path / "run")
        (tmp_path / "run" / "prefix_config.json").write_text(content)
        with pytest.raises(UserError, match="prefix_config.json: is damaged"):
            generate(GenerationArguments(run=str(tmp_path / "run"), **QUIET))

    def test_more_tokens_than_a_fine_tuned_model_has_positions(self, runs):
        with pytest.raises(UserError, match="--max_source_length 5000: .*positions; give at most"):
            there = str(runs["gpt2"] / "config.yaml")
            generate(GenerationArguments(run=str(runs["finetuned"]), input=there, max_source_length=5000, **QUIET))
        with pytest.raises(UserError, match="--max_source_length .*positions; lower --max_length$"):
            generate(GenerationArguments(run=str(runs["finetuned"]), input=there, max_length=128, **QUIET))

    def test_a_recipe_is_no_option(self, monkeypatch, capsys):
        monkeypatch.setattr("sys.argv", ["gen.py", "--config", "x.yaml"])
        assert gen.main() == 2
        assert "--config" in capsys.readouterr().err

    def test_an_output_that_would_destroy_what_is_read(self, runs, tmp_path):
        (tmp_path / "in.txt").write_text("a\n")
        for path in (runs["gpt2"] / "prefix.safetensors", runs["finetuned"] / "model" / "config.json"):
            before = path.read_bytes()
            run = path.parent if path.parent.name != "model" else path.parent.parent
            with pytest.raises(UserError, match="is a file of the run; give another"):
                generate(GenerationArguments(run=str(run), output=str(path), overwrite=True, **QUIET))
            assert path.read_bytes() == before
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="pipe: is no file; give another, or leave it out for the screen"):
            generate(GenerationArguments(run=str(runs["gpt2"]), output=str(tmp_path / "pipe"), overwrite=True, **QUIET))
        for name in ("o.jsonl.gz", "o.json", "o.csv", "o.parquet"):
            with pytest.raises(UserError, match=f"{name}: is written as .jsonl, or a text a line as .txt; name it so"):
                generate(GenerationArguments(run=str(runs["gpt2"]), output=str(tmp_path / name), **QUIET))
        with pytest.raises(UserError, match="in.txt: is the --input; give another"):
            file = str(tmp_path / "in.txt")
            generate(GenerationArguments(run=str(runs["gpt2"]), input=file, output=file, overwrite=True, **QUIET))
        assert (tmp_path / "in.txt").read_text() == "a\n"

    def test_results_of_other_options_in_the_place_of_the_runs_own(self, runs, tmp_path, capsys):
        run = shutil.copytree(runs["gpt2"], tmp_path / "run")
        (run / "generations_val.jsonl").unlink(missing_ok=True)
        for beams, split, said in ((None, "test", False), (1, "val", False), (1, "test", True)):
            generate(GenerationArguments(run=str(run), split=split, num_beams=beams, **QUIET))
            assert ("are replaced by those of other options" in capsys.readouterr().err) == said

    def test_how_many_test_records_a_run_scored_says_nothing_about_other_splits(self, runs, tmp_path, capsys):
        run = Run(shutil.copytree(runs["gpt2"], tmp_path / "run"))
        run.write_config({**run.read_config(), "n_test": 1})
        for _ in range(2):
            generate(GenerationArguments(run=str(run.directory), split="val", **QUIET))
            assert len(run.read_generations("val")) == 5
        generate(GenerationArguments(run=str(run.directory), **QUIET))
        assert run.read_metrics()["test"]["rougeL"]["n"] == len(run.read_generations("test")) < 5
        assert "are replaced by those of other options" not in capsys.readouterr().err

    def test_a_run_that_cannot_be_written_in(self, runs, monkeypatch):
        monkeypatch.setattr("os.access", lambda path, how: Path(path) != runs["gpt2"])
        with pytest.raises(UserError, match=f"--run {runs['gpt2']}: cannot be written in; give another"):
            generate(GenerationArguments(run=str(runs["gpt2"]), **QUIET))

    def test_a_value_of_another_kind_in_a_run(self, runs, tmp_path):
        shutil.copytree(runs["gpt2"], tmp_path / "run")
        config = tmp_path / "run" / "config.yaml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("num_beams")]
        config.write_text("\n".join([*lines, "num_beams: many"]))
        with pytest.raises(UserError, match="config.yaml: a value is of the wrong kind"):
            generate(GenerationArguments(run=str(tmp_path / "run"), **QUIET))

    def test_a_directory_that_is_no_run(self, tmp_path):
        with pytest.raises(UserError, match="is no finished run: config.yaml missing"):
            generate(GenerationArguments(run=str(tmp_path), **QUIET))
