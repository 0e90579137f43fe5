"""What a grid leaves alone, keeps and says, and what a study does with its flags: its runs are pretended."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from small_studies import SCORES, pretend, study_of, write_study

from gpt2 import experiment
from seq2seq.grid import BUSY, do_run, failure_of, process_of, run_grid, score_of, state_of
from seq2seq.runs import Run
from seq2seq.utils import UserError


class Killed(BaseException):
    """In place of a kill: nothing may catch it."""


def directory_of(argv: list[str]) -> Run:
    return Run(argv[argv.index("--output_dir") + 1])


def scored(argv: list[str], log: IO[str], score: float | None = 30.0) -> str:
    """In place of a process: a run that is finished at once."""
    counts = {"trainable_parameters": 1000, "prefix_parameters": 10, "train_seconds": 2.0}
    run = directory_of(argv)
    run.last_checkpoint.touch()
    run.update_metrics({"test": {"rougeL": {"score": score, "signature": "s", "n": 5}}, **counts})
    return ""


def never(argv: list[str], log: IO[str]) -> str:
    raise AssertionError(f"ran {argv}")


def failing(argv: list[str], log: IO[str]) -> str:
    """A run that ends with an error behind its first checkpoint."""
    print("step 1", file=log)
    directory_of(argv).last_checkpoint.touch()
    return "error: [cross] is too long"


@pytest.fixture
def study_file(small, tmp_path) -> Callable[..., Path]:
    return partial(write_study, tmp_path, small, metrics=["rougeL"])


class TestWhatIsFinished:
    def test_stays_so_under_an_option_that_changes_no_result(self, study_file, tmp_path):
        study = study_of(study_file())
        pretend(study, tmp_path, SCORES)
        planned = study.runs()[0]
        for option in ({"cache_dir": "c"}, {"threads": 9}, {"logger": "tensorboard"}, {"save_every_steps": 7}):
            assert getattr(planned.arguments, *option) not in option.values()
            other = replace(planned.arguments, **option)
            assert state_of(Run(tmp_path / planned.name), other).kind == "finished", option

    def test_stays_so_where_its_recipe_has_no_such_option_yet_or_names_its_data_from_here(
        self, study_file, tmp_path, monkeypatch
    ):
        study = study_of(study_file())
        pretend(study, tmp_path, SCORES)
        planned = study.runs()[0]
        run = Run(tmp_path / planned.name)
        options = run.read_config()
        del options["label_smoothing"]
        monkeypatch.chdir(tmp_path)
        run.write_config(options | {"data_dir": os.path.relpath(options["data_dir"], tmp_path)})
        assert state_of(run, planned.arguments).kind == "finished"

    @pytest.mark.parametrize("flag", ["--task=xsum", "--model_name_or_path=a/base"])
    def test_is_not_replaced_by_another_study(self, study_file, tmp_path, flag):
        pretend(study_of(study_file()), tmp_path, SCORES)
        option, new = flag[2:].split("=")
        with pytest.raises(UserError, match=rf"seed1: is a run with {option} .*, not {new}; give another --output_dir"):
            run_grid(study_of(study_file(), flag).runs(), tmp_path, "rougeL", never)

    @pytest.mark.parametrize("lacking", ["score", "n", "signature"])
    def test_has_a_score_with_its_signature_and_n(self, tmp_path, lacking):
        whole = {"score": None, "n": 5, "signature": "s"}
        run = Run.create(tmp_path)
        run.update_metrics({"test": {"rougeL": whole}})
        assert score_of(run, "rougeL") == whole
        del whole[lacking]
        run.replace_scores("test", {"test": {"rougeL": whole}})
        with pytest.raises(UserError, match="test has no rougeL with score, n, signature"):
            score_of(run, "rougeL")


class TestTheGrid:
    @pytest.mark.parametrize(
        "axis, values, names, numbers",
        [
            ("learning_rate", [1e-5, 0.5], ["1e-05", "0.5"], [1e-5, 0.5]),
            ("mode", ["finetune", "finetune-top"], ["finetune", "finetune-top"], [None, None]),
            ("deep", [True, False], ["True", "False"], [None, None]),
            ("lowdata_token", ["to", 5], ["to", "5"], [None, None]),
        ],
    )
    def test_names_its_cells_by_their_values_and_places_those_that_are_all_numbers(
        self, study_file, axis, values, names, numbers
    ):
        study = study_of(study_file(axes={axis: values}))
        assert [cell.name for cell in study.cells] == [f"{axis}_{name}" for name in names]
        assert [str(getattr(cell.arguments, axis)) for cell in study.cells] == [str(value) for value in values]
        assert [level.number for level in study.axes[axis]] == numbers

    @pytest.mark.parametrize(
        "options, first",
        [({"task": "sample"}, "rougeL"), ({"data_dir": "d", "source_lang": "en", "target_lang": "de"}, "bleu")],
    )
    def test_shows_all_metrics_of_its_task_the_best_checkpoints_first(self, small, tmp_path, options, first):
        metrics = study_of(write_study(tmp_path, small, options=options)).metrics
        assert metrics[0] == first and len(metrics) == len(set(metrics)) > 1

    def test_starts_every_cell_with_the_first_seed_before_any_with_the_second(self, study_file):
        assert [run.name for run in study_of(study_file(seeds=[3, 1])).runs()] == [
            f"preseqlen_{length}-seed{seed}" for seed in (3, 1) for length in (2, 4)
        ]

    def test_says_of_a_score_that_it_is_no_number_and_the_time_in_hours(
        self, study_file, tmp_path, capsys, monkeypatch
    ):
        clock = iter([0.0, 3723.6, 10_000.0, 10_001.0])
        monkeypatch.setattr("seq2seq.grid.time", SimpleNamespace(monotonic=lambda: next(clock)))
        runs = study_of(study_file(seeds=[1])).runs()
        assert run_grid(runs, tmp_path, "rougeL", partial(scored, score=None)) == {}
        said = capsys.readouterr().out.splitlines()
        assert said == [
            f"2 runs in {tmp_path}: 0 finished, 2 to do",
            "[1/2] preseqlen_2-seed1: rougeL no number · 1:02:04 · 1:02:04 left",
            "[2/2] preseqlen_4-seed1: rougeL no number · 0:00:01 · 0:00:00 left",
        ]

    def test_gives_the_mean_of_the_runs_that_are_done_as_the_time_of_those_that_are_left(
        self, study_file, tmp_path, capsys, monkeypatch
    ):
        clock = iter([0.0, 10.0, 10.0, 40.0, 40.0, 40.0, 40.0, 40.0])
        monkeypatch.setattr("seq2seq.grid.time", SimpleNamespace(monotonic=lambda: next(clock)))
        run_grid(study_of(study_file()).runs(), tmp_path, "rougeL", scored)
        said = capsys.readouterr().out
        assert re.findall(r"(\S+) · (\S+) left", said)[:2] == [("0:00:10", "0:00:30"), ("0:00:30", "0:00:40")]

    def test_keeps_what_a_failed_run_printed_and_its_checkpoint_and_goes_on_with_it(self, study_file, tmp_path):
        planned = study_of(study_file()).runs()[0]
        run = Run(tmp_path / "runs" / "here" / planned.name)
        assert do_run(planned, run, failing) == failure_of(run) == "error: [cross] is too long"
        assert run.last_checkpoint.is_file()

        def killed(argv: list[str], log: IO[str]) -> str:
            assert "--resume" in argv
            print("step 2", file=log)
            raise Killed

        with pytest.raises(Killed):
            do_run(planned, run, killed)
        assert (run.directory / "log.txt").read_text() == "step 1\nstep 2\n"
        assert failure_of(run) == ""  # it did not fail this time
        assert do_run(planned, run, scored) == "" and not run.checkpoints.exists()

    def test_leaves_the_log_of_a_run_that_another_process_runs(self, study_file, tmp_path):
        planned = study_of(study_file()).runs()[0]
        with (tmp_path / "log.txt").open("a") as log:
            log.write("step 1\n")
            log.flush()
            fcntl.flock(log, fcntl.LOCK_EX)
            assert do_run(planned, Run(tmp_path), never) == BUSY
        assert (tmp_path / "log.txt").read_text() == "step 1\n"

    def test_counts_a_run_that_ends_without_scores_as_failed(self, study_file, tmp_path):
        runs = study_of(study_file(seeds=[1])).runs()
        failures = run_grid(runs, tmp_path, "rougeL", lambda argv, log: "")
        assert failures == {run.name: "ended without test scores" for run in runs}
        assert failure_of(Run(tmp_path / runs[0].name)) == "ended without test scores"


class TestTheProcess:
    @staticmethod
    def launched(tmp_path: Path, code: str) -> tuple[str, str]:
        (tmp_path / "program.py").write_text(code)
        with (tmp_path / "log.txt").open("w") as log:
            error = process_of(tmp_path / "program.py")([], log)
        return error, (tmp_path / "log.txt").read_text()

    def test_that_fails_silently_gives_its_exit_code(self, tmp_path):
        assert self.launched(tmp_path, "raise SystemExit(3)") == ("exit code 3", "")

    def test_may_print_what_is_no_text_and_empty_lines(self, tmp_path):
        code = r"import sys; sys.stderr.buffer.write(b'worse \xff\n\n'); sys.exit(1)"
        assert self.launched(tmp_path, code) == ("worse \ufffd", "worse \ufffd\n\n")

    def test_waits_for_nothing_that_is_typed(self, tmp_path):
        (tmp_path / "typed").write_text("yes\n")
        kept, typed = os.dup(0), os.open(tmp_path / "typed", os.O_RDONLY)
        try:
            os.dup2(typed, 0)
            assert self.launched(tmp_path, "import sys; print(repr(sys.stdin.read()))") == ("", "''\n")
        finally:
            os.dup2(kept, 0)
            os.close(kept)
            os.close(typed)


class TestTheCommand:
    @pytest.fixture
    def handlers(self) -> dict[int, Any]:
        return {}

    @pytest.fixture
    def programs(self) -> list[str]:
        return []

    @pytest.fixture
    def call(self, monkeypatch, tmp_path, capsys, handlers, programs) -> Callable[..., tuple[int, str, str]]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("signal.signal", lambda number, handler: handlers.update({number: handler}))
        monkeypatch.setattr("seq2seq.study_report.figure_of", lambda *_: SimpleNamespace(savefig=lambda *_, **__: None))

        def command(launch: Callable[[list[str], IO[str]], str], *argv: str) -> tuple[int, str, str]:
            monkeypatch.setattr("seq2seq.grid.process_of", lambda program: programs.append(program.name) or launch)
            monkeypatch.setattr(sys, "argv", ["experiment.py", *argv])
            return experiment.main(), *capsys.readouterr()

        return command

    def test_ends_a_run_at_a_sigterm_as_at_ctrl_c_and_says_how_to_go_on(self, call, study_file, handlers):
        def terminated(argv: list[str], log: IO[str]) -> str:
            handlers[signal.SIGTERM](signal.SIGTERM, None)
            return "error: went on"

        code, _, error = call(terminated, str(study_file()))
        assert (code, error) == (130, "interrupted; the same command goes on where it was\n")

    @pytest.mark.parametrize("flags", [[], ["--keep_checkpoints"]])
    def test_keeps_checkpoints_where_it_is_asked_to(self, call, study_file, tmp_path, flags):
        code, out, _ = call(scored, str(study_file(seeds=[1])), *flags)
        run = Run(tmp_path / "runs" / "experiments" / "lengths" / "preseqlen_2-seed1")
        assert code == 0 and "| 2 | 1 of 1 | 5 | 30.00 |" in out
        assert run.last_checkpoint.is_file() is bool(flags)

    @pytest.mark.parametrize("command, ending", [("train_bart", "yaml"), ("train_e2e", "yml")])
    def test_runs_a_file_at_a_path_with_the_command_that_it_names(self, call, study_file, programs, command, ending):
        path = study_file(command=command, seeds=[1], options={"task": "sample"})
        assert call(scored, str(path.rename(path.with_suffix(f".{ending}"))))[0] == 0
        assert programs == [f"{command}.py"]

    def test_shows_the_metric_of_the_table_that_is_first(self, call, study_file):
        def both(argv: list[str], log: IO[str]) -> str:
            scored(argv, log)
            directory_of(argv).update_metrics({"test": {"rouge1": {"score": 7.0, "signature": "s", "n": 5}}})
            return ""

        _, out, _ = call(both, str(study_file(seeds=[1], metrics=["rouge1", "rougeL"])))
        assert "preseqlen_2-seed1: rouge1 7.00 · " in out

    def test_reports_a_study_that_is_half_done(self, call, study_file, tmp_path):
        pretend(study_of(study_file()), tmp_path / "half", {"preseqlen_4": SCORES["preseqlen_4"]})
        code, out, _ = call(never, str(study_file()), "--report", "--output_dir", "half")
        assert code == 0 and "Missing: 2 of 4 runs." in out

    def test_shows_the_table_of_a_study_whose_every_run_failed(self, call, study_file):
        code, out, _ = call(failing, str(study_file(seeds=[1])))
        assert code == 1 and "Missing: 2 of 2 runs." in out
        for start in ("[0/2] preseqlen_2-seed1", "- preseqlen_2-seed1"):
            assert f"{start}: failed: error: [cross] is too long" in out

    def test_tells_its_flags_without_a_study(self, call, capsys):
        with pytest.raises(SystemExit) as end:
            call(never, "--help")
        assert end.value.code == 0 and "--keep_checkpoints" in capsys.readouterr().out
