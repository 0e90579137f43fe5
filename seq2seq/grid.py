"""Many runs, one after another, each in a process of its own: what is finished stays, the rest goes on.

    new ─────────────┬─► started ──► finished       metrics.json has test scores and config.yaml these options
    other options ───┘      │  │
                            │  └───► failed         failed.txt has the last error line; the other runs go on
    interrupted ──resumed───┘                       checkpoints/last.ckpt is there

A run directory of a grid also has log.txt, what the run printed. Who runs it holds a lock on that file, so that a
run that goes on by itself after its grid was killed, or a second grid beside this one, is left alone.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from seq2seq.arguments import Arguments, located, recipe_of
from seq2seq.runs import Run
from seq2seq.studies import GridRun
from seq2seq.utils import UserError, lock, write_atomically

Launch = Callable[[list[str], IO[str]], str]
"""(flags, log) -> "" or the last error line."""
WITHOUT_EFFECT = ("cache_dir", "threads", "logger", "save_every_steps")
"""Options that another value of does not make another result."""
ANOTHER_STUDY = ("task", "data_dir", "model_name_or_path")
"""Options that another value of makes results which belong in another place: runs with it are not replaced."""
BUSY = "is run by another process; wait for it, or end it"


@dataclass(frozen=True)
class State:
    """How far a run is."""

    kind: Literal["new", "interrupted", "finished", "other options"]
    differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Option -> (what the run directory was made with, what is asked for)."""

    def __str__(self) -> str:
        changes = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in self.differences.items())
        return f"other options ({changes})" if changes else {"new": "not run yet"}.get(self.kind, self.kind)


def state_of(run: Run, arguments: Arguments) -> State:
    """How far the run of these arguments is in this directory. Raises UserError for a file that is broken."""
    if not run.config.is_file():
        return State("new")
    old, new = located(run.read_config()), recipe_of(arguments)
    both = [name for name in new if name in old and name not in WITHOUT_EFFECT]
    if differences := {name: (old[name], new[name]) for name in both if old[name] != new[name]}:
        return State("other options", differences)
    if "test" in run.read_metrics():
        return State("finished")
    return State("interrupted" if run.last_checkpoint.is_file() else "new")


def score_of(run: Run, metric: str, split: str = "test") -> Mapping[str, Any]:
    """A finished run's score, signature and n. Raises UserError where its metrics.json has them not."""
    scores = run.read_metrics().get(split)
    found = scores.get(metric) if isinstance(scores, Mapping) else None
    kinds: dict[str, Any] = {"score": (int, float, type(None)), "n": int, "signature": str}
    if not isinstance(found, Mapping) or not all(isinstance(found.get(key, ()), kind) for key, kind in kinds.items()):
        raise UserError(
            f"{run.metrics}: {split} has no {metric} with {', '.join(kinds)}; delete the file to run it again"
        )
    return found


def make_folder(folder: Path) -> None:
    """Make a folder for runs. Raises UserError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}); give another --output_dir") from error


def failure_of(run: Run) -> str:
    """The last error line of a run's last start, "" if that did not fail."""
    path = run.directory / "failed.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def process_of(program: Path) -> Launch:
    """What starts a command in a process of its own and waits for it; an interruption of this one ends it too."""

    def launch(flags: list[str], log: IO[str]) -> str:
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
            command = [sys.executable, str(program), *flags]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=errors)
            try:
                code = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
            errors.seek(0)
            said = errors.read()
        log.write(said)
        if code == 0:
            return ""
        last = [line.strip() for line in said.splitlines() if line.strip()][-1:]
        return f"ended by {signal.Signals(-code).name}" if code < 0 else (last or [f"exit code {code}"])[0]

    return launch


def run_grid(
    runs: Sequence[GridRun], place: Path, metric: str, launch: Launch, keep_checkpoints: bool = False
) -> dict[str, str]:
    """Do what is left of the runs, each in place/<its name>; returns {name: last error line} of those that failed.

    metric: the test score to show. keep_checkpoints: keep those of finished runs as well.
    Raises UserError for runs of other data or another base at this place, and where it cannot be made.
    """
    make_folder(place)
    states = {run.name: state_of(Run(place / run.name), run.arguments) for run in runs}
    _refuse_another_study(states, place)
    left = [run for run in runs if states[run.name].kind != "finished"]
    failures = {}
    with GridProgress(len(runs), len(left), place) as progress:
        for run in left:
            progress.start(run.name, states[run.name])
            directory = Run(place / run.name)
            error = do_run(run, directory, launch, keep_checkpoints)
            if error:
                failures[run.name] = error
            progress.end(run.name, error or f"{metric} {_shown(score_of(directory, metric)['score'])}", error)
    return failures


def do_run(run: GridRun, directory: Run, launch: Launch, keep_checkpoints: bool = False) -> str:
    """Start a run, or go on with it, unless it is finished; returns "" or its last error line."""
    make_folder(directory.directory)
    with (directory.directory / "log.txt").open("a", encoding="utf-8") as log:
        try:
            lock(log, BUSY)  # the process that is started holds it as well
        except UserError:
            return BUSY
        failed = directory.directory / "failed.txt"
        state = state_of(directory, run.arguments)
        if state.kind != "finished":
            failed.unlink(missing_ok=True)
            error = launch(_prepare(directory, run.arguments, state), log)
            if not error and state_of(directory, run.arguments).kind != "finished":
                error = "ended without test scores"
            if error:
                write_atomically(failed, error + "\n")
                return error
        if not keep_checkpoints:
            shutil.rmtree(directory.checkpoints, ignore_errors=True)
    return ""


def _prepare(directory: Run, arguments: Arguments, state: State) -> list[str]:
    """Make the run directory ready; returns the flags to start with."""
    flags = ["--config", str(directory.config), "--output_dir", str(directory.directory)]
    if state.kind == "interrupted":
        return [*flags, "--resume"]
    # Old results go before the new options are there: a kill in between must not join the two.
    Run.create(directory.directory, overwrite=True)
    directory.write_config(recipe_of(arguments))
    return flags


def _refuse_another_study(states: Mapping[str, State], place: Path) -> None:
    for name, state in states.items():
        for option in ANOTHER_STUDY:
            if option in state.differences:
                old, new = state.differences[option]
                raise UserError(
                    f"{place / name}: is a run with {option} {old}, not {new}; give another --output_dir, "
                    f"or delete {place}"
                )


class GridProgress:
    """A line for each run, and on a terminal a bar below them: runs done, time left by the mean of those done."""

    def __init__(self, total: int, left: int, place: Path) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.total, self.done, self.left = total, total - left, left
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[left]}"))
        self.bar.disable = not self.bar.console.is_terminal
        self.task = self.bar.add_task("runs", total=total, completed=self.done, left="")
        self.seconds: list[float] = []
        self.say(f"{total} runs in {place}: {self.done} finished, {left} to do")

    def __enter__(self) -> GridProgress:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        self.bar.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def start(self, name: str, state: State) -> None:
        if state.kind != "new":
            self.say(f"{name}: {'goes on' if state.kind == 'interrupted' else f'runs again, {state}'}")
        self.bar.update(self.task, description=name)
        self.started = time.monotonic()

    def end(self, name: str, what: str, error: str) -> None:
        """Count a run as done, or as failed."""
        self.seconds.append(time.monotonic() - self.started)
        self.left -= 1
        self.done += not error
        left = f"{_clock(self.left * sum(self.seconds) / len(self.seconds))} left"
        self.bar.update(self.task, completed=self.done, left=left)
        failed = "failed: " if error else ""
        self.say(f"[{self.done}/{self.total}] {name}: {failed}{what} · {_clock(self.seconds[-1])} · {left}")


def _shown(score: float | None) -> str:
    return "no number" if score is None else f"{score:.2f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
