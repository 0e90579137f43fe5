"""Every option of `gen.py`: its own, and the groups that it shares with the training commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seq2seq.arguments import DecodingArguments, InputArguments, MachineArguments, SearchArguments
from seq2seq.utils import UserError

STANDARD_INPUT = "-"


@dataclass
class WhatToDecode:
    """Which run decodes what."""

    run: str | None = None
    """Run directory, GPT-2's or BART's; default: the carried prefix for the carried tables."""
    split: Literal["train", "val", "test"] = "test"
    """Split of the run's task (or of --task, --data_dir)."""
    input: str | None = None
    """Instead of a split: a file with a source a line, .jsonl with `source`, or `-` for lines as they are typed."""
    output: str | None = None
    """File to write; default: generations_<split>.jsonl in the run (carried run: in runs/gen); --input: the screen."""
    overwrite: bool = False
    """Replace an --output that is there."""


@dataclass
class GenerationArguments(SearchArguments, DecodingArguments, MachineArguments, InputArguments, WhatToDecode):
    """All options of `gen.py`."""

    def __post_init__(self) -> None:
        if self.input and (self.task or self.data_dir):
            raise UserError("--input: is decoded as it is; leave out --task and --data_dir")
        if self.input == STANDARD_INPUT and self.output:
            raise UserError("--output: typed lines are answered on the screen; give --input FILE to write a file")
        if self.output and Path(self.output).exists() and not self.overwrite:
            raise UserError(f"--output {self.output}: is there already; add --overwrite, or give another")
        if self.output and not Path(self.output).resolve().parent.is_dir():
            raise UserError(f"--output {self.output}: there is no such folder; make it, or give another")
