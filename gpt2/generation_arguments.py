"""Every option of `gen.py`: its own, and the groups that it shares with the training commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seq2seq.arguments import InputArguments, SearchArguments
from seq2seq.utils import UserError

STANDARD_INPUT = "-"


@dataclass
class WhatToDecode:
    """Which run decodes what."""

    run: str | None = None
    """Run directory, GPT-2's or BART's; default: the carried prefix for the carried tables."""
    split: Literal["train", "val", "test"] | None = None
    """Split of the run's task (or of --task, --data_dir); default: test."""
    input: str | None = None
    """Instead of a split: a file with a source a line, .jsonl with `source`, or `-` for lines as they are typed."""
    output: str | None = None
    """File to write; default: generations_<split>.jsonl in the run (carried run: in runs/gen); --input: the screen."""
    overwrite: bool = False
    """Replace an --output that is there."""


@dataclass
class HowToDecode:
    """How it is decoded; what is left out is as the run has it."""

    max_source_length: int | None = None
    """Longest source, tokens; longer ones are cut and counted."""
    eval_bsz: int | None = None
    """Examples per batch."""
    n_test: int | None = None
    """Decode only the first n records of each part of the split, or of the file."""
    cache_dir: str | None = None
    """Where token caches live, named by content."""
    precision: Literal["auto", "32", "bf16"] | None = None
    """bf16: frozen weights in bfloat16; auto: bf16 where there are units for it."""
    attn_implementation: Literal["sdpa", "eager"] | None = None
    """Attention of the base model."""
    threads: int | None = None
    """CPU threads of torch; default: torch's own choice."""
    progress: bool = True
    """Show the progress bar."""


@dataclass
class GenerationArguments(SearchArguments, HowToDecode, InputArguments, WhatToDecode):
    """All options of `gen.py`."""

    def __post_init__(self) -> None:
        for name in ("run", "input", "output"):
            if getattr(self, name) == "":
                raise UserError(f"--{name}: is empty; give a path, or leave it out")
        if self.overwrite and not self.output:
            raise UserError("--overwrite: replaces an --output that is there; give one, or leave it out")
        if self.input and (self.task or self.data_dir or self.split):
            raise UserError("--input: is decoded as it is; leave out --split, --task and --data_dir")
        if self.input == STANDARD_INPUT and self.output:
            raise UserError("--output: typed lines are answered on the screen; give --input FILE to write a file")
        if self.input == STANDARD_INPUT and (self.n_test or self.eval_bsz):
            raise UserError("--input -: typed lines are answered one by one; leave out --n_test and --eval_bsz")
        if self.run and not self.output and not self.input and (self.n_test or self.task or self.data_dir):
            raise UserError("--output: say where these texts go; those that the run keeps are of its own, whole split")
        if self.output and self.input and Path(self.output).resolve() == Path(self.input).resolve():
            raise UserError(f"--output {self.output}: is the --input; give another")
        if self.output and Path(self.output).is_dir():
            raise UserError(f"--output {self.output}: is a folder; give a file")
        if self.output and Path(self.output).exists() and not self.overwrite:
            raise UserError(f"--output {self.output}: is there already; add --overwrite, or give another")
        if self.output and not Path(self.output).resolve().parent.is_dir():
            raise UserError(f"--output {self.output}: there is no such folder; make it, or give another")
