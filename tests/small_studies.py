"""Studies of runs that take a second, and run directories as finished runs leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gpt2 import experiment
from seq2seq.arguments import recipe_of
from seq2seq.runs import Run
from seq2seq.studies import Study, read_study

Options = dict[str, Any]
SCORES = {"preseqlen_2": {"test": [30.0, 34.0]}, "preseqlen_4": {"test": [40.0, 41.0]}}


def shared_options(small: Options, **more: Any) -> Options:
    """The options of runs that take a second, as a study's file has them."""
    options = {"epoch": 2, "n_val": 0, "save_every_steps": 1, "baselines": "none", **more}
    options = {**{name: value for name, value in small.items() if name != "progress"}, **options}
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def write_study(folder: Path, small: Options, **keys: Any) -> Path:
    """A study of two lengths and two seeds, with other keys as they are given."""
    content: Options = {"description": "Two lengths.", "command": "train_bart", "options": shared_options(small)}
    content |= {"axes": {"preseqlen": [2, 4]}, "seeds": [1, 2]}
    path = folder / "lengths.yaml"
    path.write_text(yaml.safe_dump({**content, **keys}, sort_keys=False))
    return path


def study_of(path: Path, *flags: str) -> Study:
    return read_study(path, experiment.PROGRAMS, flags)


def pretend(study: Study, place: Path, scores: dict[str, dict[str, list[float]]]) -> None:
    """Run directories as finished runs leave them: cell -> split -> the first metric's score under each seed."""
    for cell in study.cells:
        for turn, planned in enumerate(study.runs_of(cell)):
            if cell.name in scores:
                written = Run.create(place / planned.name, overwrite=True)
                written.write_config(recipe_of(planned.arguments))
                counts = {"trainable_parameters": 1000, "prefix_parameters": 10, "train_seconds": 2.0 + turn}
                found = {
                    split: {name: {"score": values[turn], "signature": "s", "n": 5} for name in study.metrics}
                    for split, values in scores[cell.name].items()
                }
                written.update_metrics({**found, **counts})
