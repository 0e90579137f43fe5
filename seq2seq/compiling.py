"""--compile: torch.compile of a base's forward in training steps.

Compiled is the stack below the output layer, which is told each step's target positions. Validation and decoding stay
as they are: they would compile anew for every length. Dropout draws the same random numbers as uncompiled.
"""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from seq2seq.utils import UserError


class Compile(Callback):
    """Train through a compiled forward of a base; prints how long the first step took, most of which is compiling."""

    def __init__(self, base: Any) -> None:
        self.stack = base.base_model
        self.first_step: float | None = None
        """Seconds of the first training step."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # dynamic: batches differ in length, and each length would compile anew
        self._compiled = torch.compile(self.stack.forward, dynamic=True, options={"fallback_random": True})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stack.forward = self._compiled
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._give_back()
        if self.first_step is None:
            self.first_step = time.monotonic() - self._started
            bar: Any = trainer.progress_bar_callback
            say = bar.print if bar else print
            say(f"--compile: the first step took {self.first_step:.0f} s; batches of another form compile once more")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        vars(self.stack).pop("forward", None)


def check_compiler(device: str) -> None:
    """Raise UserError where torch.compile cannot work on a kind of device."""
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise UserError("--compile: no C++ compiler is found; install g++, or leave --compile out") from None
        return
    from torch.utils._triton import has_triton

    if not has_triton():
        raise UserError(f"--compile: triton, which compiles for {device}, is not there; install it, or leave it out")
