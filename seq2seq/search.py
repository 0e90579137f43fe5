"""A search for good options with Optuna: trials, each a run scored on validation; the best becomes a recipe.

    description: ...                                       one line
    command: train_bart                                    or train_e2e
    options: {task: sample, ...}                           of every trial, and of the recipe
    trial_options: {n_test: 1}                             of the trials alone
    space:                                                 what is searched
      learning_rate: {low: 1.0e-4, high: 0.02, log: true}  a range: of whole numbers if both its ends are
      mid_dim: [128, 512]                                  or a choice
    trials: 20                                             in all, those of earlier calls included
    seed: 1                                                of the runs, and of the sampler

optuna.db keeps what was tried; trials.csv, trials.md and best.yaml are written after every trial.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seq2seq.arguments import Arguments, recipe_of
from seq2seq.curves import read_rows
from seq2seq.effect import without_effect
from seq2seq.grid import BUSY, GridProgress, Launch, do_run, make_folder, state_of
from seq2seq.parsing import flags_of
from seq2seq.runs import Run, read_options
from seq2seq.studies import (
    GridRun,
    arguments_reader,
    check_keys,
    check_options,
    number_of,
    program_of,
    task_of,
    without_task,
)
from seq2seq.tasks import LOWER_IS_BETTER
from seq2seq.utils import UserError, lock, write_atomically

if TYPE_CHECKING:
    import optuna

KEYS: dict[str, type] = {
    "description": str, "command": str, "options": dict, "trial_options": dict, "space": dict, "trials": int,
    "seed": int,
}  # fmt: skip
SEEDS = 2**31  # numpy's end at 2³², and a search adds the number of its trials


class TrialFailed(Exception):
    """A trial's run ended with an error; the search goes on."""


@dataclass(frozen=True)
class OptionSearch:
    """What a search's file says, read and checked."""

    path: Path
    command: str
    options: Mapping[str, Any]
    trial_options: Mapping[str, Any]
    space: Mapping[str, Any]
    trials: int
    seed: int
    flags: Sequence[str]

    def arguments(self, values: Mapping[str, Any], trial: bool = True) -> Arguments:
        """Of a trial with these values of the space, or of the recipe that they make."""
        options = {**self.options, **(self.trial_options if trial else {}), **values}
        return replace(self._reader(options, "options"), seed=self.seed)

    @cached_property
    def _reader(self) -> Callable[[Mapping[str, Any], str], Arguments]:
        return arguments_reader(self.path, f"{self.command}.py", self.flags)

    @cached_property
    def metric(self) -> str:
        """The validation score that is searched for."""
        arguments = self.arguments({})
        return arguments.best_metric or task_of(arguments).best_metric


def read_search(path: Path, commands: Collection[str], flags: Sequence[str] = ()) -> OptionSearch:
    """Read a search's file and check it.

    flags: options of every trial, as the command line has them; they win over the file's.
    Raises UserError that names the file.
    """
    content = check_keys(path, read_options(path), KEYS, [name for name in KEYS if name != "trial_options"])
    program_of(path, content, commands)
    for name in ("options", "trial_options", "space"):
        check_options(path, name, content.get(name, {}))
    if given := sorted(flags_of(flags).keys() & content["space"].keys()):
        raise UserError(f"--{given[0]}: is searched by {path}; change a copy of the file and give that")
    if not 0 <= content["seed"] < SEEDS:
        raise UserError(f"{path}: seed: {content['seed']}: give a number from 0 to {SEEDS - 1}")
    if content["trials"] < 1:
        raise UserError(f"{path}: trials: {content['trials']}: give at least 1")
    space = {name: _checked_range(path, name, values) for name, values in content["space"].items()}
    options = without_task(content["options"], flags)
    search = OptionSearch(
        path, content["command"], options, content.get("trial_options", {}), space, content["trials"],
        content["seed"], flags,
    )  # fmt: skip
    trials = [search.arguments({name: _ends(values)[end] for name, values in search.space.items()}) for end in (0, -1)]
    for name in (*space, *(name for name, value in flags_of(flags).items() if value != "null")):
        idle = [without_effect(name, arguments) for arguments in trials]
        if all(idle):
            raise UserError(f"{path}: space: {name}: {idle[0]}" if name in space else f"--{name}: {idle[0]}")
    if search.metric != "loss" and not search.arguments({}).n_val:
        raise UserError(f"{path}: n_val: 0 gives no validation {search.metric} to search by; give at least 1")
    return search


def _checked_range(path: Path, name: str, values: Any) -> Any:
    """A choice as it is, or a range with numbers at both ends."""
    if isinstance(values, list) and values:
        return values
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        raise UserError(f"{path}: space: {name}: is {values!r}; give a list, or low and high (and log: true)")
    low, high = number_of(values["low"]), number_of(values["high"])
    if low is None or high is None or low >= high:
        raise UserError(f"{path}: space: {name}: low {values['low']!r} is no number below high {values['high']!r}")
    if values.get("log") and low <= 0:
        raise UserError(f"{path}: space: {name}: low {values['low']!r} has no logarithm; give one above 0")
    return {**values, "low": low, "high": high}


def _ends(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list) else (values["low"], values["high"])


def run_search(search: OptionSearch, place: Path, launch: Launch) -> list[dict[str, Any]]:
    """Do the trials that are left, each in place/trial<N>; returns all trials, the best first.

    A trial that was interrupted goes on in its directory; one that failed before its first step, say for want of data,
    is tried again. Raises UserError for another search's directory, for one that cannot be made or read, and where
    another process searches in it.
    """
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError("optuna is not installed; type: pip install 'prefixtuning[tune]'") from error

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial that fails or is interrupted has its line here
    make_folder(place)

    def write(study: optuna.Study, trial: Any) -> None:
        write_results(search, study, place)

    with (place / "search.lock").open("w") as file:
        lock(file, f"{place}: another process searches here; wait for it, or end it")
        try:
            study = _open(search, place)
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            reason = "".join(str(error).splitlines()[:1])
            raise UserError(
                f"{place / 'optuna.db'}: cannot be read ({reason}); give another --output_dir, or put back a whole copy"
            ) from error
        done = len(_ended(study))
        with GridProgress(search.trials, max(0, search.trials - done), place) as progress:
            objective = _objective(search, place, launch, progress)
            study.optimize(objective, max(0, search.trials - done), catch=TrialFailed, callbacks=[write])
        return write_results(search, study, place)


def _open(search: OptionSearch, place: Path) -> optuna.Study:
    """The search's Optuna study, new or as an earlier call left it; trials that did not train are put up again."""
    import optuna

    storage = f"sqlite:///{place / 'optuna.db'}"
    study = optuna.create_study(
        storage=storage,
        study_name="search",
        load_if_exists=True,
        direction="minimize" if search.metric in LOWER_IS_BETTER else "maximize",
    )
    # A sampler that starts again with its first seed would draw the first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + len(study.trials))
    made_with = json.dumps({"space": search.space, "options": recipe_of(search.arguments({}))}, sort_keys=True)
    if study.user_attrs.get("made_with", made_with) != made_with:
        raise UserError(f"{place}: is a search with other options; give another --output_dir, or delete {place}")
    study.set_user_attr("made_with", made_with)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    trials = study.trials
    taken = {_run_name(trial) for trial in trials if not _is_open(trial)}
    for name, trial in {_run_name(trial): trial for trial in trials if _is_open(trial)}.items():
        if name not in taken:
            study.enqueue_trial(trial.params, user_attrs={"run": name})
    return study


def _is_open(trial: Any) -> bool:
    """Whether it was interrupted, or failed before its first step."""
    return trial.state.name == "FAIL" and not trial.user_attrs.get("trained", False)


def _run_name(trial: Any) -> str:
    return trial.user_attrs.get("run", f"trial{trial.number}")


def _ended(study: optuna.Study) -> list[Any]:
    """The trials that count: finished ones, and those whose training failed."""
    return [trial for trial in study.trials if trial.state.name == "COMPLETE" or trial.user_attrs.get("trained", False)]


def _objective(search: OptionSearch, place: Path, launch: Launch, progress: GridProgress) -> Any:
    def objective(trial: optuna.Trial) -> float:
        name = _run_name(trial)
        values = {option: _suggest(trial, option, values) for option, values in search.space.items()}
        trial.set_user_attr("run", name)
        run, directory = GridRun(name, search.seed, search.arguments(values)), Run(place / name)
        progress.start(name, state_of(directory, run.arguments))
        error = do_run(run, directory, launch)
        score = None if error else best_validation(directory, search.metric)
        if score is None and not error:
            error = f"no validation gave a {search.metric} that is a number"
        shown = ", ".join(f"{option} {_shown(value)}" for option, value in values.items())
        progress.end(name, error or f"validation {search.metric} {score:.2f} ({shown})", error)
        if score is None:
            trial.set_user_attr("error", error)
            trained = error != BUSY and bool(read_rows(directory.metrics_csv))
            trial.set_user_attr("trained", trained)
            raise TrialFailed(error)
        return score

    return objective


def _suggest(trial: optuna.Trial, name: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    whole = isinstance(values["low"], int) and isinstance(values["high"], int)
    suggest = trial.suggest_int if whole else trial.suggest_float
    return suggest(name, values["low"], values["high"], log=values.get("log", False))


def best_validation(run: Run, metric: str) -> float | None:
    """The best finite score of a run's validations, that of the weights it kept; None if there is none."""
    scores = [_number(row.get(f"val_{metric}", "")) for row in read_rows(run.metrics_csv)]
    return (min if metric in LOWER_IS_BETTER else max)(filter(math.isfinite, scores), default=None)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def write_results(search: OptionSearch, study: optuna.Study, place: Path) -> list[dict[str, Any]]:
    """Write trials.csv, trials.md and best.yaml; returns the trials, the best first, failed ones last."""
    sign = 1 if search.metric in LOWER_IS_BETTER else -1
    last = {_run_name(t): t for t in study.trials if t.state.name == "COMPLETE" or "error" in t.user_attrs}
    score = f"validation {search.metric}"
    trials = [
        {"run": _run_name(trial), **trial.params, score: trial.value, "error": trial.user_attrs.get("error", "")}
        for trial in sorted(last.values(), key=lambda t: (t.value is None, sign * (t.value or 0.0)))
    ]
    columns = ["run", *search.space, score, "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(trials)
    write_atomically(place / "trials.csv", text.getvalue())
    lines = [columns, ["---"] * len(columns), *([_shown(trial[name]) for name in columns] for trial in trials)]
    write_atomically(place / "trials.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))
    if trials and trials[0][score] is not None:
        best = trials[0]
        head = f"# The best of {len(trials)} trials of {search.path.stem}: {score} {best[score]:.2f}.\n"
        write_atomically(place / "best.yaml", head + _recipe(search, {name: best[name] for name in search.space}))
    return trials


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _recipe(search: OptionSearch, values: dict[str, Any]) -> str:
    """The options that the search's file, its flags and its best trial name, as YAML."""
    arguments = search.arguments(values, trial=False)
    names = ["mode", *search.options, *values, *sorted(flags_of(search.flags)), "seed"]
    recipe = recipe_of(arguments)
    return yaml.safe_dump({name: recipe[name] for name in dict.fromkeys(names)}, sort_keys=False, allow_unicode=True)
