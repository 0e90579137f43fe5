"""What --resume asks of an earlier run before anything slow is done and anything is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seq2seq.arguments import MAY_CHANGE, Arguments, located, recipe_of
from seq2seq.runs import Run
from seq2seq.utils import UserError, changes, one_line, resolve_precision

if TYPE_CHECKING:
    from seq2seq.lightning_base import BaseTransformer


# What resuming reads of a checkpoint.
KEYS = (
    *("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"),
    *("epoch", "global_step", "examples_seen"),
)


# Options that decide what validation measures and nothing else.
OF_VALIDATION = ("best_metric", "n_val", "eval_num_beams", "val_max_target_length", "valid_file")


def check_resumable(run: Run, arguments: Arguments) -> None:
    """Raise UserError if the run was made with other options than these, or if a checkpoint of it cannot be read.

    Also for fewer steps or epochs than it has made, and for another way of validating where no step is left: nothing
    would be validated by it.
    """
    run.refuse_other_config(recipe_of(arguments), MAY_CHANGE)
    last = read_checkpoint(run.last_checkpoint)
    for name, made in (("max_steps", last["global_step"]), ("epoch", _epochs(last))):
        if 0 < (asked := getattr(arguments, name)) < made:
            raise UserError(
                f"--{name} {asked}: the training in {run.directory} has made {made} already; give at least that, or "
                "another --output_dir"
            )
    if not _steps_left(last, arguments):
        _refuse_other_validation(run, arguments, last["global_step"])
    if run.best_checkpoint.is_file():
        read_checkpoint(run.best_checkpoint, "delete it to choose the best of what is still to come")


def check_origin(run: Run, module: BaseTransformer) -> None:
    """Raise UserError if the run was started on another base, on other training data or with another teacher.

    A checkpoint that says nothing of them is taken as it is. Where `--precision auto` is another here than there, a
    line on standard error says so: the run goes on, but not as it would have there.
    """
    checkpoint = read_checkpoint(run.last_checkpoint)
    was = checkpoint.get("origin", {})
    for name, now in module.origin.items():
        if was.get(name, now) != now:
            raise UserError(
                f"{run.last_checkpoint}: this is not the {name} that the run was started on "
                f"({_difference(was[name], now)}); resume it with that, or start another with --output_dir"
            )
    precision = resolve_precision(module.arguments.precision)
    if checkpoint.get("precision", precision) != precision:
        print(
            f"{run.last_checkpoint}: was trained in precision {checkpoint['precision']}, and goes on in {precision}, "
            "which is what auto means on this machine",
            file=sys.stderr,
        )


def read_checkpoint(path: Path, cure: str = "put --overwrite in place of --resume to start again") -> dict[str, Any]:
    """A checkpoint of ours, its tensors left on the disk until they are needed.

    Raises UserError, with the cure, if it cannot be read or holds something else.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what unpickling damaged bytes raises is not bounded
        raise UserError(f"{path}: cannot be read ({one_line(error, 100)}); {cure}") from error
    missing = [name for name in KEYS if not isinstance(checkpoint, dict) or name not in checkpoint]
    if missing:
        raise UserError(f"{path}: is no checkpoint of a run (it lacks {', '.join(missing)}); {cure}")
    return checkpoint


def _epochs(checkpoint: dict[str, Any]) -> int:
    """How many whole epochs it has behind it."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def _steps_left(checkpoint: dict[str, Any], arguments: Arguments) -> bool:
    ended = 0 < arguments.max_steps <= checkpoint["global_step"]
    return _epochs(checkpoint) < arguments.epoch and not ended


def _refuse_other_validation(run: Run, arguments: Arguments, step: int) -> None:
    old, new = located(run.read_config()), recipe_of(arguments)
    for name in OF_VALIDATION:
        if name in old and old[name] != new[name]:
            raise UserError(
                f"--{name} {new[name]}: the training in {run.directory} has ended at step {step}, nothing is validated "
                f"any more; give more --epoch or --max_steps, or resume with {name} {old[name]}"
            )


def _difference(was: Any, now: Any) -> str:
    return changes(was, now) if isinstance(was, dict) else changes({"fingerprint": was}, {"fingerprint": now})
