"""What --resume asks of an earlier run before anything slow is done and anything is written."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from seq2seq.arguments import MAY_CHANGE, Arguments, recipe_of
from seq2seq.runs import Run
from seq2seq.utils import UserError

if TYPE_CHECKING:
    from seq2seq.lightning_base import BaseTransformer


def check_resumable(run: Run, arguments: Arguments) -> None:
    """Raise UserError if the run was made with other options than these, or if its checkpoint cannot be read."""
    run.refuse_other_config(recipe_of(arguments), MAY_CHANGE)
    read_checkpoint(run.last_checkpoint)


def check_origin(run: Run, module: BaseTransformer) -> None:
    """Raise UserError if the run was started on another base or on other training data than the module's.

    A checkpoint that says nothing of them is taken as it is.
    """
    was = read_checkpoint(run.last_checkpoint).get("origin", {})
    for name, now in module.origin.items():
        if was.get(name, now) != now:
            raise UserError(
                f"{run.last_checkpoint}: this is not the {name} that the run was started on "
                f"({_difference(was[name], now)}); resume it with that, or start another with --output_dir"
            )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, its tensors left on the disk until they are needed; UserError if it cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path}: cannot be read ({reason}); put --overwrite in place of --resume to start again"
        ) from error


def _difference(was: Any, now: Any) -> str:
    if not isinstance(was, dict):
        return f"fingerprint {was} there, {now} here"
    return "; ".join(f"{key} {was.get(key)} there, {now[key]} here" for key in now if was.get(key) != now[key])
