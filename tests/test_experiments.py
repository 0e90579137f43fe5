"""Studies: a grid of runs that goes on where it was, reports its failures, and ends in a table and a plot."""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import IO, Any, get_args, get_type_hints

import pytest
import torch
import yaml
from small_studies import study_of, write_study

from gpt2 import experiment
from gpt2.run_language_modeling import GPT2
from seq2seq import prefixTuning
from seq2seq.arguments import Arguments
from seq2seq.curves import read_rows
from seq2seq.finetune import BART, run
from seq2seq.grid import BUSY, Launch, do_run, failure_of, process_of, run_grid, state_of
from seq2seq.lightning_base import BaseTransformer
from seq2seq.loading import load_pretrained
from seq2seq.parsing import parse
from seq2seq.runs import Run
from seq2seq.studies import OPTIONS
from seq2seq.study_report import collect, table_markdown
from seq2seq.tasks import TASKS
from seq2seq.tuning import tune
from seq2seq.utils import UserError

pytestmark = pytest.mark.usefixtures("without_curves")

SHIPPED = sorted(experiment.STUDIES.glob("*.yaml"))
CELLS = {
    "prefix_length": 6, "embedding": 6, "infix": 6, "initialisation": 5, "low_data": 12, "parametrisation": 12,
    "sites": 7, "extrapolation_tables": 4, "extrapolation_news": 2,
}  # fmt: skip
Options = dict[str, Any]


class Killed(BaseException):
    """In place of a kill: nothing may catch it."""


def in_process(argv: list[str], log: IO[str]) -> str:
    """In place of a process: the command in this one."""
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(log):
            run(parse([*argv, "--progress=no"], "train_bart.py"), BART)
    except UserError as error:
        return f"error: {error}"
    finally:
        torch.set_num_threads(threads)
    return ""


def never(argv: list[str], log: IO[str]) -> str:
    raise AssertionError(f"ran {argv}")


def noting(done: list[list[str]], launch: Launch = in_process) -> Launch:
    """A launch that notes what it was called with."""

    def noted(argv: list[str], log: IO[str]) -> str:
        done.append(argv)
        return launch(argv, log)

    return noted


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
class TestEveryShippedStudy:
    def test_parses_into_valid_arguments_on_carried_data(self, path):
        study = study_of(path)
        assert len(study.cells) == CELLS[path.stem] and len(study.seeds) >= 3
        assert len({run.name for run in study.runs()}) == len(study.cells) * len(study.seeds)
        for run_of_grid in study.runs():
            arguments = run_of_grid.arguments
            assert arguments.task and TASKS[arguments.task].carried and arguments.model_name_or_path is None
            assert (arguments.seed, arguments.lowdata_seed) == (run_of_grid.seed, run_of_grid.seed)
            assert re.fullmatch(r"[\w.+-]+", run_of_grid.name)

    def test_has_cells_that_its_family_can_do(self, path, small, small_gpt2, monkeypatch):
        monkeypatch.setattr(prefixTuning, "fit", lambda *args, **options: 0.0)
        study = study_of(path)
        family, base = (BART, small) if study.command == "train_bart" else (GPT2, small_gpt2)
        for cell in study.cells:
            if cell.arguments.mode == "finetune-top":
                cell.arguments.top_layers = 1  # the tiny base has one block
            model, tokenizer = load_pretrained(str(base["model_name_or_path"]), cell.arguments, family)
            assert any(parameter.requires_grad for parameter in tune(cell.arguments, model, tokenizer).parameters())

    def test_explains_itself(self, path):
        first, *lines = path.read_text().splitlines()
        assert first.startswith("# ") and "Li & Liang 2021" in first or "not in the paper" in first
        for line in lines[lines.index("options:") + 1 : lines.index("axes:")]:
            assert "#" in line, line


def test_the_papers_studies_are_all_there():
    assert {path.stem for path in SHIPPED} == set(CELLS)


def test_low_data_has_the_papers_recipe():
    arguments = [run.arguments for run in study_of(experiment.STUDIES / "low_data.yaml").runs()]
    assert {a.lowdata for a in arguments} == {50, 100, 200, 500}
    for a in arguments:
        assert (a.max_steps, a.val_every_steps, a.warmup_steps, a.bsz) == (400, 50, 100, 10)
        assert a.epoch * math.ceil((a.lowdata or 0) / a.bsz) >= a.max_steps


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> tuple[Path, Path]:
    """(file, place) of a study that has run, with its checkpoints."""
    folder = tmp_path_factory.mktemp("study")
    path = write_study(folder, small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seq2seq.training.draw_curves", lambda *args: None)
        study = study_of(path)
        assert run_grid(study.runs(), folder / "runs", "rougeL", in_process, keep_checkpoints=True) == {}
    return path, folder / "runs"


@pytest.fixture
def copied(finished, tmp_path) -> tuple[Path, Path]:
    """The same, to change."""
    path, place = finished
    shutil.copytree(place, tmp_path / "runs")
    return Path(shutil.copy(path, tmp_path / "lengths.yaml")), tmp_path / "runs"


class TestTheGrid:
    def test_runs_every_cell_with_every_seed_in_a_directory_of_its_own(self, finished):
        path, place = finished
        names = {f"preseqlen_{length}-seed{seed}" for length in (2, 4) for seed in (1, 2)}
        assert {folder.name for folder in place.iterdir()} == names
        for name in names:
            config = Run(place / name).read_config()
            assert f"preseqlen_{config['preseqlen']}-seed{config['seed']}" == name
            assert (place / name / "prefix.safetensors").is_file() and (place / name / "log.txt").read_text()

    def test_never_runs_a_finished_cell_again(self, finished, capsys):
        path, place = finished
        before = {file: file.stat().st_mtime_ns for file in place.rglob("*") if file.is_file()}
        assert run_grid(study_of(path).runs(), place, "rougeL", never) == {}
        assert {file: file.stat().st_mtime_ns for file in place.rglob("*") if file.is_file()} == before
        assert "4 finished, 0 to do" in capsys.readouterr().out

    def test_refuses_a_file_in_its_place(self, finished, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(
            UserError, match=r"cannot make the folder .*/file \(File exists\); give another --output_dir"
        ):
            run_grid(study_of(finished[0]).runs(), tmp_path / "file", "rougeL", never)
        assert (tmp_path / "file").read_text() == "mine"

    def test_goes_on_where_it_was_killed(self, finished, tmp_path, capsys, monkeypatch):
        path, whole = finished
        study, place, calls = study_of(path), tmp_path / "runs", []
        stock = BaseTransformer.training_step

        def dying(module: BaseTransformer, *args: Any) -> Any:
            if len(calls) == 2 and module.global_step == 6:
                raise Killed
            return stock(module, *args)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(BaseTransformer, "training_step", dying)
            run_grid(study.runs(), place, "rougeL", noting(calls), keep_checkpoints=True)
        first, second = study.runs()[:2]
        assert [state_of(Run(place / r.name), r.arguments).kind for r in (first, second)] == ["finished", "interrupted"]
        touched = (place / first.name / "metrics.json").stat().st_mtime_ns
        calls.clear()
        assert run_grid(study.runs(), place, "rougeL", noting(calls), keep_checkpoints=True) == {}
        assert (place / first.name / "metrics.json").stat().st_mtime_ns == touched
        assert len(calls) == 3 and ["--resume" in call for call in calls] == [True, False, False]
        assert f"{second.name}: goes on" in capsys.readouterr().out
        for planned in study.runs():  # and ends as the grid that nobody killed
            here, there = Run(place / planned.name), Run(whole / planned.name)
            assert here.read_generations("test") == there.read_generations("test")
            assert here.prefix.read_bytes() == there.prefix.read_bytes()
            assert [row["step"] for row in read_rows(here.metrics_csv)] == [str(step) for step in range(1, 11)]

    def test_scores_a_run_that_was_killed_behind_its_training(self, copied):
        path, place = copied
        directory = Run(place / study_of(path).runs()[0].name)
        expected = directory.read_metrics()["test"]
        directory.replace_scores("test", {})
        calls: list[list[str]] = []
        run_grid(study_of(path).runs(), place, "rougeL", noting(calls))
        assert len(calls) == 1 and "--resume" in calls[0]
        assert directory.read_metrics()["test"] == expected

    def test_removes_the_checkpoints_of_what_is_finished_unless_it_is_to_keep_them(self, copied):
        path, place = copied
        runs = study_of(path).runs()
        assert all(Run(place / planned.name).last_checkpoint.is_file() for planned in runs)
        assert do_run(runs[0], Run(place / runs[0].name), never) == ""
        assert not (place / runs[0].name / "checkpoints").exists()
        assert state_of(Run(place / runs[0].name), runs[0].arguments).kind == "finished"

    def test_reports_a_failing_cell_and_finishes_the_others(self, study_file, tmp_path, capsys):
        axes = {"length": {"long": {"max_source_length": 500}, "short": {}}}
        study, place = study_of(study_file(axes=axes, seeds=[1])), tmp_path / "runs"
        failures = run_grid(study.runs(), place, "rougeL", in_process)
        assert failures.keys() == {"long-seed1"}
        assert re.match(r"error: --max_source_length 500: .* has 64 positions", failures["long-seed1"])
        assert failure_of(Run(place / "long-seed1")) == failures["long-seed1"]
        assert "[1/2] short-seed1: rougeL " in (said := capsys.readouterr().out)
        assert "long-seed1: failed: error: --max_source_length 500" in said
        table = table_markdown(study, collect(study, place))
        assert "Missing: 1 of 2 runs." in table and f"- long-seed1: failed: {failures['long-seed1']}" in table
        assert "| long | 0 of 1 | – | – |" in table

    def test_runs_again_what_has_other_options_and_nothing_else(self, copied, capsys):
        path, place = copied
        content = yaml.safe_load(path.read_text())
        content["axes"] = {"length": {"preseqlen_2": {"preseqlen": 2}, "preseqlen_4": {"preseqlen": 3}}}
        path.write_text(yaml.safe_dump(content))
        calls: list[list[str]] = []
        run_grid(study_of(path).runs(), place, "rougeL", noting(calls))
        assert [Path(call[-1]).name for call in calls] == ["preseqlen_4-seed1", "preseqlen_4-seed2"]
        assert "preseqlen_4-seed1: runs again, other options (preseqlen was 4, is 3)" in capsys.readouterr().out
        assert Run(place / "preseqlen_4-seed1").read_config()["preseqlen"] == 3

    def test_does_not_replace_runs_of_other_data(self, copied):
        path, place = copied
        with pytest.raises(UserError, match=r"data_dir .*, not elsewhere; give another --output_dir, or delete"):
            run_grid(study_of(path, "--data_dir=elsewhere").runs(), place, "rougeL", never)

    def test_leaves_a_run_alone_that_another_process_runs(self, copied):
        path, place = copied
        planned = study_of(path).runs()[0]
        with (place / planned.name / "log.txt").open("a") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            assert do_run(planned, Run(place / planned.name), never) == BUSY


class TestTheProcess:
    @staticmethod
    def launched(tmp_path: Path, code: str) -> tuple[str, str]:
        program = tmp_path / "program.py"
        program.write_text(code)
        with (tmp_path / "log.txt").open("a") as log:
            error = process_of(program)(["--flag"], log)
        return error, (tmp_path / "log.txt").read_text()

    def test_prints_into_the_log(self, tmp_path):
        assert self.launched(tmp_path, "import sys; print(sys.argv[1:])") == ("", "['--flag']\n")

    def test_that_fails_gives_its_last_error_line(self, tmp_path):
        error, log = self.launched(tmp_path, "print('shown'); raise ValueError('too long')")
        assert error == "ValueError: too long"
        assert log.startswith("shown\nTraceback")

    def test_that_is_killed_says_by_what(self, tmp_path):
        kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        assert self.launched(tmp_path, kill)[0] == "ended by SIGKILL"

    def test_ends_with_the_grid(self, tmp_path):
        program = "import os, time, pathlib; pathlib.Path(r'{0}').write_text(str(os.getpid())); time.sleep(60)"
        (tmp_path / "program.py").write_text(program.format(tmp_path / "pid"))
        grid = "import signal, sys; from pathlib import Path; from seq2seq.grid import process_of\n"
        grid += "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        grid += f"process_of(Path(r'{tmp_path / 'program.py'}'))([], sys.stdout)"
        root = Path(experiment.__file__).resolve().parent.parent
        started = subprocess.Popen([sys.executable, "-c", grid], cwd=root, stderr=subprocess.DEVNULL)
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert started.poll() is None
        started.terminate()
        assert started.wait(60) != 0
        child = int((tmp_path / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_the_page_on_modes_names_flags_modes_and_studies_that_are_there():
    page = (Path(experiment.__file__).resolve().parent.parent / "docs" / "modes.md").read_text()
    own = {"config", "output_dir", "seeds", "report", "keep_checkpoints", "trials"}
    assert set(re.findall(r"--(\w+)", page)) <= OPTIONS | own
    modes = get_args(get_type_hints(Arguments)["mode"])
    assert all(f"| `{mode}` |" in page for mode in modes)
    assert all(f"| `{path.stem}` |" in page for path in SHIPPED)
    assert set(re.findall(r"NAME=(\w+)[ `]", page)) <= {path.stem for path in SHIPPED} | {"sample_tables"}
