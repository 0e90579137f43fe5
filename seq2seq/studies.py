"""A study: a YAML file that says a grid of runs, and what is read off them.

description: ...                       one line
command: train_bart                    or train_e2e
options: {task: sample, ...}           of every run, by the names of arguments.py
axes:                                  the grid is their product
  preseqlen: [1, 5, 20]                an option and its values,
  method: {prefix: {...}, all: {...}}  or cells by name, each with its options
x: preseqlen                           the axis along the plot's x, the others are its lines; default: the first
log_x: true                            default: false
seeds: [1, 2, 3]                       one run a cell and seed, which is its --seed and --lowdata_seed
metrics: [rougeL, rouge2]              the first is plotted; default: the task's, that of the best checkpoint first
parts: true                            score the parts of the test split (seen, unseen) apart; default: false

file --read_study--> Study --runs--> GridRun (cell, seed, Arguments): one run directory each
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from seq2seq.arguments import ABOUT_THE_CALL, LARGEST_SEED, Arguments
from seq2seq.effect import without_effect
from seq2seq.parsing import flags_of, reader
from seq2seq.runs import read_options
from seq2seq.tasks import Task, task_for
from seq2seq.utils import UserError

KEYS: dict[str, type] = {
    "description": str, "command": str, "options": dict, "axes": dict, "x": str, "log_x": bool, "seeds": list,
    "metrics": list, "parts": bool,
}  # fmt: skip
NEEDED = ("description", "command", "options", "axes", "seeds")
OPTIONS = {field.name for field in fields(Arguments)}
OF_THE_RUNNER = (*ABOUT_THE_CALL, "config", "seed", "lowdata_seed")


@dataclass(frozen=True)
class Level:
    """One place of an axis: its name, the options that it sets, and where it lies if it is a number."""

    label: str
    options: Mapping[str, Any]
    number: float | None = None


@dataclass(frozen=True)
class Cell:
    """One point of the grid: the options of its runs, still without a seed."""

    name: str
    labels: Mapping[str, str]
    """Axis -> label."""
    arguments: Arguments


@dataclass(frozen=True)
class GridRun:
    """One run: a cell with a seed."""

    name: str
    """Of its run directory."""
    seed: int
    arguments: Arguments


@dataclass(frozen=True)
class Study:
    """What a study's file says, read and checked."""

    name: str
    description: str
    command: str
    axes: Mapping[str, Sequence[Level]]
    x: str
    log_x: bool
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    parts: bool
    cells: tuple[Cell, ...]

    def runs_of(self, cell: Cell) -> list[GridRun]:
        """A cell's runs, one a seed."""
        return [
            GridRun(f"{cell.name}-seed{seed}", seed, replace(cell.arguments, seed=seed, lowdata_seed=seed))
            for seed in self.seeds
        ]

    def runs(self) -> list[GridRun]:
        """All runs: every cell's first seed, then every cell's second, so that a grid cut short shows all cells."""
        return [run for turn in zip(*map(self.runs_of, self.cells), strict=True) for run in turn]


def find_file(name: str, folder: Path, kind: str) -> Path:
    """The YAML file called `name` in `folder`, or at the path `name`.

    Raises UserError that lists what there is.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in folder.glob("*.yaml")))
        raise UserError(f"{kind} {name}: there is none; known are {there}, or give the path of a .yaml file")
    return path


def read_study(path: Path, commands: Collection[str], flags: Sequence[str] = (), seeds: Sequence[int] = ()) -> Study:
    """Read a study's file and make the Arguments of every cell.

    flags: options of every run, as the command line has them; they win over the file's. seeds: in place of the file's.
    Raises UserError that names the file for an unknown key, option, axis or metric, and for a value that an option
    does not take.
    """
    content = check_keys(path, read_options(path), KEYS, NEEDED)
    program = program_of(path, content, commands)
    axes = {str(name): _levels(path, str(name), values) for name, values in content["axes"].items()}
    if not axes:
        raise UserError(f"{path}: axes: there are none; give one at least")
    x = content.get("x", next(iter(axes)))
    if x not in axes:
        raise UserError(f"{path}: x: {x} is no axis; the axes are {', '.join(axes)}")
    if content.get("log_x") and not all(level.number and level.number > 0 for level in axes[x]):
        raise UserError(f"{path}: log_x: {x} has values that are no numbers above 0; leave it out")
    _refuse_twice(path, axes, flags)
    cells = tuple(_cells(path, axes, without_task(content["options"], flags), program, flags))
    _refuse_idle(path, axes, cells, flags)
    return Study(
        name=path.stem,
        description=content["description"],
        command=content["command"],
        axes=axes,
        x=x,
        log_x=content.get("log_x", False),
        seeds=_seeds(path, seeds or content["seeds"]),
        metrics=_metrics(path, content.get("metrics"), cells),
        parts=content.get("parts", False),
        cells=cells,
    )


def check_keys(path: Path, content: dict[str, Any], keys: Mapping[str, type], needed: Iterable[str]) -> dict[str, Any]:
    """The file's content, if its keys are known, of their types, and all there that are needed."""
    for name in content:
        if name not in keys:
            raise UserError(f"{path}: unknown key {name}; there are {', '.join(keys)}")
    for name in needed:
        if name not in content:
            raise UserError(f"{path}: {name} is missing; the file needs {', '.join(needed)}")
    for name, value in content.items():
        if not isinstance(value, keys[name]):
            kind = {str: "a text", dict: "`name: value` lines", list: "a list", bool: "true or false"}
            raise UserError(f"{path}: {name}: is {value!r}; give {kind.get(keys[name], keys[name].__name__)}")
    return content


def check_options(path: Path, where: str, names: Iterable[str]) -> None:
    """Raise UserError for names that are no options, and for those that the runner sets itself."""
    for name in names:
        if name in OF_THE_RUNNER:
            raise UserError(f"{path}: {where}: {name} is set for each run; leave it out")
        if name not in OPTIONS:
            raise UserError(f"{path}: {where}: unknown option {name}; train_bart.py --help lists them")


def program_of(path: Path, content: Mapping[str, Any], commands: Collection[str]) -> str:
    """The command that a file's runs are of."""
    if content["command"] not in commands:
        raise UserError(f"{path}: command: {content['command']} is none; give {' or '.join(commands)}")
    return f"{content['command']}.py"


def without_task(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """The options without their task where the flags give other data and no task, as in the training commands."""
    replaced = "data_dir" in flags_of(flags)  # where a task is a flag too, that wins
    return {name: value for name, value in options.items() if not (replaced and name == "task")}


def arguments_reader(path: Path, program: str, flags: Sequence[str]) -> Callable[[Mapping[str, Any], str], Arguments]:
    """What makes Arguments of options under flags; its second argument says where the options stand.

    No task's recipe lies beneath: what neither says has its default. Raises UserError that names the file.
    """
    for name in flags_of(flags):
        if name in OF_THE_RUNNER:
            raise UserError(f"--{name}: is set for each run of a study; leave it out")
        if name not in OPTIONS:
            raise UserError(f"--{name}: no such option; {program} --help lists those that there are")
    read = reader(Arguments, program)
    read(list(flags))  # a mistake in a flag is the command line's, not the file's

    def make(options: Mapping[str, Any], where: str) -> Arguments:
        given = {name: value for name, value in options.items() if name not in flags_of(flags)}
        shown = {
            name: value if isinstance(value, str) else json.dumps(value, default=str)  # a date is a text
            for name, value in given.items()
        }
        try:
            arguments = read([*(f"--{name}={value}" for name, value in shown.items()), *flags])
            if not arguments.task and not arguments.data_dir:
                raise UserError("no data; give the option task or data_dir")
            if arguments.mode == "pretrain":
                raise UserError("--mode pretrain: its runs have no scores to compare; give another mode")
        except UserError as error:
            raise UserError(f"{path}: {where}: {error}") from None
        return arguments

    return make


def task_of(arguments: Arguments) -> Task:
    """The task of a run."""
    return task_for(arguments.task, arguments.data_dir, arguments.source_lang, arguments.target_lang)


def _levels(path: Path, axis: str, values: Any) -> list[Level]:
    if isinstance(values, dict):
        for name, options in values.items():
            if not re.fullmatch(r"[\w.+]+", str(name)):
                raise UserError(f"{path}: axes: {axis}: {name} is no name of a cell; use letters, digits, _ . and +")
            if not isinstance(options, dict):
                raise UserError(f"{path}: axes: {axis}: {name}: is {options!r}; give its options, or {{}}")
            check_options(path, f"axes: {axis}: {name}", options)
        levels = [Level(str(name), options) for name, options in values.items()]
    elif isinstance(values, list):
        check_options(path, "axes", [axis])
        for value in values:
            if not isinstance(value, (str, int, float, bool)) or not re.fullmatch(r"[\w.+-]+", str(value)):
                raise UserError(f"{path}: axes: {axis}: {value!r} names no run directory; give cells by name instead")
        numbers = [number_of(value) for value in values]
        numeric = None not in numbers
        levels = [
            Level(str(value), {axis: value}, number if numeric else None)
            for value, number in zip(values, numbers, strict=True)
        ]
    else:
        raise UserError(f"{path}: axes: {axis}: is {values!r}; give a list of values, or cells by name")
    if not levels or len({level.label for level in levels}) < len(levels):
        raise UserError(f"{path}: axes: {axis}: {'has a value twice' if levels else 'is empty'}; give each once")
    return levels


def number_of(value: Any) -> float | None:
    """The number that a file's value is, None for anything else; to YAML 1.1 `1e-5` is a text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return float(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", value, re.I) else None


def _refuse_twice(path: Path, axes: Mapping[str, Sequence[Level]], flags: Sequence[str]) -> None:
    """An option that two axes set, or an axis and a flag: one of them would be ignored."""
    sets = {axis: {name for level in levels for name in level.options} for axis, levels in axes.items()}
    for one, other in itertools.combinations(axes, 2):
        if both := sorted(sets[one] & sets[other]):
            raise UserError(f"{path}: axes: {one} and {other} both set {both[0]}; leave it to one of them")
    for axis, names in sets.items():
        if given := sorted(names & flags_of(flags).keys()):
            raise UserError(
                f"--{given[0]}: is set by the axis {axis} of {path}; change a copy of the file, and give it"
            )


def _refuse_idle(path: Path, axes: Mapping[str, Sequence[Level]], cells: Sequence[Cell], flags: Sequence[str]) -> None:
    """An axis's option, or a flag, that does nothing in any run: they would be the same ones again and again."""
    given = [name for name, value in flags_of(flags).items() if value != "null"]
    for name in (*(axis for axis in axes if axis in OPTIONS), *given):
        idle = [without_effect(name, cell.arguments) for cell in cells]
        if all(idle):
            raise UserError(f"--{name}: {idle[0]}" if name in given else f"{path}: axes: {name}: {idle[0]}")


def _cells(
    path: Path, axes: Mapping[str, Sequence[Level]], options: dict[str, Any], program: str, flags: Sequence[str]
) -> Iterable[Cell]:
    check_options(path, "options", options)
    make = arguments_reader(path, program, flags)
    make(options, "options")
    for levels in itertools.product(*axes.values()):
        labels = {axis: level.label for axis, level in zip(axes, levels, strict=True)}
        name = "-".join(f"{axis}_{label}" if axis in OPTIONS else label for axis, label in labels.items())
        own = {key: value for level in levels for key, value in level.options.items()}
        yield Cell(name, labels, make({**options, **own}, f"cell {name}"))


def _seeds(path: Path, seeds: Sequence[Any]) -> tuple[int, ...]:
    known = all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in seeds)
    if not seeds or not known or len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: seeds: are {list(seeds)}; give different whole numbers from 0 to {LARGEST_SEED}")
    return tuple(seeds)


def _metrics(path: Path, asked: list[str] | None, cells: Sequence[Cell]) -> tuple[str, ...]:
    """What the table shows, the plotted one first."""
    tasks = {task.name: task for task in (task_of(cell.arguments) for cell in cells)}
    first = next(iter(tasks.values()))
    metrics = asked or sorted(first.metrics, key=lambda name: name != first.best_metric)
    for task in tasks.values():
        if unknown := [name for name in metrics if name not in task.metrics]:
            raise UserError(
                f"{path}: metrics: task {task.name} has no {unknown[0]}; it has {', '.join(task.metrics)}, "
                "or leave metrics out"
            )
    return tuple(metrics)
