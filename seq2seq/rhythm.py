"""When a training validates and when it stops, counted in whole optimiser steps."""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping, Timer

from seq2seq.utils import changes


def made_step(trainer: pl.Trainer) -> bool:
    """Whether the batch just done ended an optimiser step, so that no accumulated gradient waits for the next."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def at_epoch_end(trainer: pl.Trainer) -> bool:
    """Whether the batch at hand is the epoch's last."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


class ValidateEverySteps(Callback):
    """Validate every `steps` optimiser steps, however many batches each of them takes, and at the end of the fit.

    For Trainer(val_check_interval=1, check_val_every_n_epoch=None), which counts batches: with accumulation an epoch's
    last step may have fewer than the others, and from there on its validations would fall within a step.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._arrange(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._arrange(trainer, at_end=at_epoch_end(trainer) and trainer.current_epoch + 1 == trainer.max_epochs)

    def _arrange(self, trainer: pl.Trainer, at_end: bool = False) -> None:
        batches = trainer.fit_loop.total_batch_idx + 1
        due = at_end or (trainer.global_step % self.steps == 0 and made_step(trainer))
        # Lightning validates where this divides the number of batches.
        trainer.val_check_batch = max(batches, 1) if due else batches + 1


class StopAtTime(Timer):
    """Stop after so many minutes of training, resumes included, at the next whole optimiser step."""

    state_key = "Timer"  # what Trainer(max_time), whose place this takes, has written into checkpoints

    def __init__(self, minutes: float) -> None:
        super().__init__(timedelta(minutes=minutes))

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if made_step(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)


class StopAtStep(Callback):
    """Stop after `max_steps` optimiser steps (-1 = never), with a validation of the last one.

    In place of Trainer(max_steps): with that, Lightning takes a checkpoint of an epoch's end for one of its middle,
    trains one batch of a new epoch and ends; nor does it validate the last step.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or 0 < self.max_steps <= trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_train_start(trainer, pl_module)


class StopOnScore(EarlyStopping):
    """Stop when `monitor` has not improved in `patience` validations; best score and count survive a resume.

    Beyond Lightning's: the patience asked for now holds, not the checkpoint's, and a run that has stopped for good
    stays stopped when it is resumed, also one that a score stopped which was not finite. Both count no longer if they
    were measured by something else than `measured_by`.
    """

    def __init__(
        self,
        monitor: str,
        patience: int,
        mode: str = "max",
        measured_by: Mapping[str, Any] | None = None,
    ) -> None:
        # At the end of validation, before Checkpoints saves, so that the saved count includes it.
        super().__init__(monitor, patience=patience, mode=mode, check_on_train_epoch_end=False)
        self.measured_by = dict(measured_by or {})

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "measured_by": self.measured_by}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not changes(state_dict.get("measured_by", self.measured_by), self.measured_by):
            super().load_state_dict({**state_dict, "patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if not math.isfinite(trainer.callback_metrics.get(self.monitor, 0.0)):
            self.wait_count = max(self.wait_count, self.patience, 1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= max(1, self.patience)
