"""The search for good options: its trials go on where they were, and the best becomes a recipe."""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from gpt2 import experiment
from gpt2 import tune as command
from seq2seq.grid import BUSY, Launch
from seq2seq.parsing import parse
from seq2seq.runs import Run, read_options
from seq2seq.search import OptionSearch, best_validation, read_search, run_search
from seq2seq.tasks import TASKS
from seq2seq.utils import UserError, lock

SHIPPED = sorted(command.SEARCHES.glob("*.yaml"))
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "preseqlen": {"low": 1, "high": 20},
    "mid_dim": [0, 8, 16],
}


class Killed(BaseException):
    """In place of a kill: nothing may catch it. Optuna takes note of a KeyboardInterrupt, though."""


def pretended(argv: list[str], log: IO[str]) -> str:
    """In place of a training: a run whose validation is best at the learning rate 0.01 and P = 10."""
    run = Run(argv[argv.index("--output_dir") + 1])
    options = run.read_config()
    score = 50 - 10 * abs(math.log10(options["learning_rate"]) + 2) - abs(options["preseqlen"] - 10)
    run.metrics_csv.write_text(f"step,val_rougeL\n1,{score - 3}\n2,{score}\n3,{score - 1}\n")
    run.update_metrics({"test": {}})
    return ""


def once(error: str | BaseException, at: int, calls: list[list[str]]) -> Launch:
    """A launch that fails, or dies, at the call of that number (from 1), and notes all of them."""

    def launch(argv: list[str], log: IO[str]) -> str:
        calls.append(argv)
        if len(calls) == at and isinstance(error, BaseException):
            directory = Run(argv[argv.index("--output_dir") + 1])
            directory.last_checkpoint.write_text("half way")
            raise error
        return error if len(calls) == at and isinstance(error, str) else pretended(argv, log)

    return launch


@pytest.fixture
def file_of(tmp_path) -> Callable[..., Path]:
    def write(**keys: Any) -> Path:
        content: dict[str, Any] = {
            "description": "A small one.", "command": "train_bart", "options": {"task": "sample", "bsz": 4},
            "trial_options": {"n_test": 1}, "space": SPACE, "trials": 6, "seed": 3,
        }  # fmt: skip
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**content, **keys}, sort_keys=False))
        return path

    return write


def search_of(path: Path, *given: str) -> OptionSearch:
    return read_search(path, experiment.PROGRAMS, given)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_search_is_of_carried_data_and_of_lr_length_and_width(path):
    search = search_of(path)
    assert search.space.keys() == {"learning_rate", "preseqlen", "mid_dim"}
    assert TASKS[search.options["task"]].carried and search.metric == TASKS[search.options["task"]].best_metric
    assert search.arguments({}).n_test == 1 and search.arguments({}, trial=False).n_test is None
    assert read_options(path)["description"]


class TestTheSearch:
    def test_ends_in_a_table_and_a_recipe_of_the_best(self, file_of, tmp_path, capsys):
        search, place = search_of(file_of(), "--epoch", "2"), tmp_path / "runs"
        trials = run_search(search, place, pretended)
        with (place / "trials.csv").open() as file:
            rows = list(csv.DictReader(file))
        scores = [float(row["validation rougeL"]) for row in rows]
        assert len(rows) == 6 and scores == sorted(scores, reverse=True)
        assert {row["run"] for row in rows} == {f"trial{i}" for i in range(6)}
        assert len({row["learning_rate"] for row in rows}) == 6
        best = rows[0]
        assert best_validation(Run(place / best["run"]), "rougeL") == pytest.approx(scores[0])
        recipe = parse(["--config", str(place / "best.yaml")], "train_bart.py")
        assert (recipe.preseqlen, recipe.mid_dim) == (int(best["preseqlen"]), int(best["mid_dim"]))
        assert recipe.learning_rate == float(best["learning_rate"]) == trials[0]["learning_rate"]
        assert (recipe.task, recipe.bsz, recipe.epoch, recipe.seed, recipe.n_test) == ("sample", 4, 2, 3, None)
        assert f"| {best['run']} | " in (place / "trials.md").read_text().splitlines()[2]
        assert "[6/6]" in capsys.readouterr().out

    @pytest.mark.parametrize("death", [Killed, KeyboardInterrupt])
    def test_goes_on_where_it_was_killed(self, file_of, tmp_path, death, capfd):
        search, place, calls = search_of(file_of()), tmp_path / "runs", []
        with pytest.raises(death):
            run_search(search, place, once(death(), 3, calls))
        assert "Traceback" not in capfd.readouterr().err
        begun = Run(place / "trial2").read_config()
        before = {name: (place / name / "metrics.json").stat().st_mtime_ns for name in ("trial0", "trial1")}
        calls.clear()
        trials = run_search(search, place, once("", 0, calls))
        assert len(calls) == 4 and "--resume" in calls[0] and calls[0][-2].endswith("trial2")
        assert Run(place / "trial2").read_config() == begun
        assert {name: (place / name / "metrics.json").stat().st_mtime_ns for name in before} == before
        assert len(trials) == 6 and len({trial["learning_rate"] for trial in trials}) == 6
        assert run_search(search, place, once(Killed(), 1, [])) == trials  # all is done

    def test_counts_a_failed_trial_and_goes_on(self, file_of, tmp_path, capsys):
        search, place = search_of(file_of(trials=3)), tmp_path / "runs"
        trials = run_search(search, place, once("error: too long", 2, []))
        assert [bool(trial["error"]) for trial in trials] == [False, False, True]
        assert (trials[-1]["run"], trials[-1]["error"]) == ("trial1", "error: too long")
        assert "trial1: failed: error: too long" in capsys.readouterr().out
        assert "| trial1 | " in (place / "trials.md").read_text().splitlines()[-1]

    def test_tries_a_trial_again_that_failed_before_its_first_step(self, file_of, tmp_path):
        search, place, calls = search_of(file_of(trials=3)), tmp_path / "runs", []
        failed = run_search(search, place, once("error: no such directory", 2, calls))[-1]
        trials = run_search(search, place, once(Killed(), 9, calls))
        assert len(calls) == 4 and failed["run"] == "trial1" and not any(trial["error"] for trial in trials)
        assert sorted(trial["run"] for trial in trials) == ["trial0", "trial1", "trial2"]
        again = next(trial for trial in trials if trial["run"] == "trial1")
        assert [again[name] for name in SPACE] == [failed[name] for name in SPACE]
        assert run_search(search, place, once(Killed(), 1, [])) == trials

    def test_shows_choices_that_are_words_or_nothing(self, file_of, tmp_path, capsys):
        space = {**SPACE, "lr_scheduler": ["linear", "constant"], "max_grad_norm": [None, 1.0]}
        trials = run_search(search_of(file_of(space=space)), tmp_path / "runs", pretended)
        assert len(trials) == 6 and not any(trial["error"] for trial in trials)
        assert re.search(r"lr_scheduler (linear|constant), max_grad_norm (–|1)\)", capsys.readouterr().out)

    def test_tries_a_trial_again_that_another_process_still_trained(self, file_of, tmp_path):
        search, place = search_of(file_of(trials=1)), tmp_path / "runs"
        with pytest.raises(Killed):
            run_search(search, place, once(Killed(), 1, []))
        (place / "trial0" / "metrics.csv").write_text("step,train_loss\n1,2.0\n")
        with (place / "trial0" / "log.txt").open("a") as log:
            lock(log, "is not there")
            assert run_search(search, place, pretended)[0]["error"] == BUSY
        trial = run_search(search, place, pretended)[0]
        assert trial["run"] == "trial0" and not trial["error"]

    def test_tries_none_again_whose_training_failed(self, file_of, tmp_path):
        def launch(argv: list[str], log: IO[str]) -> str:
            Run(argv[argv.index("--output_dir") + 1]).metrics_csv.write_text("step,train_loss\n1,nan\n")
            return "error: the loss is nan at step 1"

        search = search_of(file_of(trials=2))
        trials = run_search(search, tmp_path / "runs", launch)
        assert [trial["error"] for trial in trials] == ["error: the loss is nan at step 1"] * 2
        assert run_search(search, tmp_path / "runs", once(Killed(), 1, [])) == trials

    @pytest.mark.parametrize("scores", [[], ["nan"], ["", "inf", "-"]])
    def test_counts_a_trial_without_a_score_as_failed(self, file_of, tmp_path, scores):
        def launch(argv: list[str], log: IO[str]) -> str:
            pretended(argv, log)
            rows = [f"{step},{score}\n" for step, score in enumerate(scores)]
            Run(argv[argv.index("--output_dir") + 1]).metrics_csv.write_text("step,val_rougeL\n" + "".join(rows))
            return ""

        search = search_of(file_of(trials=2))
        trials = run_search(search, tmp_path / "runs", launch)
        assert [trial["error"] for trial in trials] == ["no validation gave a rougeL that is a number"] * 2
        assert run_search(search, tmp_path / "runs", once(Killed(), 1, [])) == trials  # both are counted

    @pytest.mark.parametrize("scores", [["nan", "3.0", "4.0"], ["4.0", "3.0", "nan"], ["3.0", "-inf"]])
    def test_leaves_out_a_score_that_is_no_number(self, tmp_path, scores):
        run = Run(tmp_path)
        run.metrics_csv.write_text("step,val_loss\n" + "".join(f"{i},{score}\n" for i, score in enumerate(scores)))
        assert best_validation(run, "loss") == 3.0

    @pytest.mark.parametrize("at", ["runs", "runs/trial0"])
    def test_refuses_a_file_in_a_folders_place(self, file_of, tmp_path, at):
        (tmp_path / at).parent.mkdir(exist_ok=True)
        (tmp_path / at).write_text("mine")
        with pytest.raises(
            UserError, match=rf"cannot make the folder .*{at} \(File exists\); give another --output_dir"
        ):
            run_search(search_of(file_of()), tmp_path / "runs", pretended)
        assert (tmp_path / at).read_text() == "mine"

    def test_refuses_a_damaged_database_and_leaves_it(self, file_of, tmp_path):
        search, place = search_of(file_of(trials=1)), tmp_path / "runs"
        run_search(search, place, pretended)
        whole = (place / "optuna.db").read_bytes()
        for damaged in (b"no database" * 999, whole[:4096] + bytes(len(whole) - 4096)):
            (place / "optuna.db").write_bytes(damaged)
            with pytest.raises(
                UserError, match=r"optuna\.db: cannot be read \(.*\); give another --output_dir"
            ) as error:
                run_search(search, place, pretended)
            assert "\n" not in str(error.value) and (place / "optuna.db").read_bytes() == damaged

    def test_does_not_join_trials_of_other_options(self, file_of, tmp_path):
        run_search(search_of(file_of(trials=1)), tmp_path / "runs", pretended)
        with pytest.raises(UserError, match=r"is a search with other options; give another --output_dir, or delete"):
            run_search(search_of(file_of(), "--bsz=8"), tmp_path / "runs", pretended)

    def test_minimises_a_loss(self, file_of):
        assert search_of(file_of(options={"task": "sample", "best_metric": "loss"})).metric == "loss"


class TestTheCommand:
    @pytest.fixture
    def call(self, monkeypatch, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("signal.signal", lambda *args: None)
        monkeypatch.setattr("seq2seq.grid.process_of", lambda program: pretended)

        def called(*argv: str) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["tune.py", *argv])
            return command.main(), *capsys.readouterr()

        return called

    def test_searches_and_names_the_recipe(self, call, file_of, tmp_path):
        code, out, error = call(str(file_of()), "--trials", "2")
        assert (code, error) == (0, "") and "2 runs in runs/search/small" in out
        assert "best: python seq2seq/train_bart.py --config runs/search/small/best.yaml" in out
        assert (tmp_path / "runs" / "search" / "small" / "optuna.db").is_file()

    def test_ends_with_1_where_every_trial_failed(self, call, file_of, monkeypatch):
        monkeypatch.setattr("seq2seq.grid.process_of", lambda program: lambda argv, log: "error: no")
        assert call(str(file_of()), "--trials", "1")[0] == 1

    @pytest.mark.parametrize(
        "argv, said",
        [
            (["nope"], r"search nope: there is none; known are sample, sample_tables"),
            (["sample", "--trials", "0"], r"--trials 0: give at least 1"),
            (["sample", "--mid_dim", "4"], r"--mid_dim: is searched by .*sample.yaml"),
            (["sample", "--mode", "finetune"], r".*sample.yaml: space: \w+: does nothing in --mode finetune"),
            (["sample", "--top_layers", "1"], r"--top_layers: does nothing in --mode prefixtune"),
            (["sample", "more"], r"train_bart.py: .*more"),
        ],
    )
    def test_says_a_mistake_in_one_line(self, call, argv, said):
        code, out, error = call(*argv)
        assert (code, out) == (2, "") and error.count("\n") == 1 and re.match(f"error: {said}", error), error

    @pytest.mark.parametrize(
        "keys, said",
        [
            ({"space": {"width": [1]}}, r"space: unknown option width"),
            ({"space": {"mid_dim": 3}}, r"space: mid_dim: is 3; give a list, or low and high"),
            ({"space": {"mid_dim": {"low": 9, "high": 3}}}, r"space: mid_dim: low 9 is no number below high 3"),
            ({"space": {"preseqlen": [0, 1]}}, r"options: --preseqlen 0: must be at least 1"),
            ({"space": {"learning_rate": {"low": -1, "high": 3, "log": True}}}, r".*low -1 has no logarithm"),
            ({"space": {"learning_rate": {"low": "1e-4", "high": "1e-5"}}}, r".*low '1e-4' is no number below"),
            ({"space": {"learning_rate": {"low": "-1e-4", "high": 3, "log": True}}}, r".*low '-1e-4' has no log"),
            ({"space": {"learning_rate": {"low": "small", "high": 3}}}, r".*low 'small' is no number below high 3"),
            ({"seed": -1}, r"seed: -1: give a number from 0 to 2147483647"),
            ({"trials": 0}, r"trials: 0: give at least 1"),
            ({"trials": "many"}, r"trials: is 'many'; give int"),
            ({"options": {"task": "sample", "n_val": 0}}, r"n_val: 0 gives no validation rougeL"),
        ],
    )
    def test_says_a_mistake_in_a_search_with_its_file(self, call, file_of, keys, said):
        code, out, error = call(str(file_of(**keys)))
        assert (code, out) == (2, "") and error.count("\n") == 1
        assert re.match(rf"error: .*small.yaml: {said}", error), error
