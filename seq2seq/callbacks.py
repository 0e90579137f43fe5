"""Lightning callbacks of a run: progress line, per-step table, checkpoints."""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar, Timer, WeightAveraging
from torch import Tensor

from seq2seq.curves import read_rows
from seq2seq.rhythm import at_epoch_end, made_step
from seq2seq.utils import UserError, changes, write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress


def total_steps(trainer: pl.Trainer, max_steps: int) -> float:
    """Optimiser steps of the whole fit; `max_steps` -1 = by the epochs alone. Infinite if neither ends it."""
    by_epochs = float(trainer.estimated_stepping_batches)
    return min(by_epochs, max_steps) if max_steps > 0 else by_epochs


def _batch_loss(trainer: pl.Trainer, outputs: Any) -> Tensor:
    # Lightning hands the loss divided by the number of accumulated batches. A number would wait for the device.
    return outputs["loss"].detach() * trainer.accumulate_grad_batches


def _mean(losses: Iterable[Tensor]) -> float:
    values = torch.stack(list(losses)).tolist()
    return sum(values) / len(values)


def _val_scores(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}


class OnException(Callback):
    """Does something where an error or Ctrl+C ends a fit: Lightning then leaves out the module's `on_fit_end`."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.then()


class FrozenWeights(Callback):
    """Gives frozen weights their very numbers back behind a fit in which a callback averages them with the others.

    An average of what does not change is rounded nevertheless.
    """

    def __init__(self) -> None:
        self._kept: dict[torch.nn.Parameter, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        frozen = [p for p in pl_module.parameters() if averages and not p.requires_grad]
        self._kept = {parameter: parameter.detach().clone() for parameter in frozen}

    @torch.no_grad()
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for parameter, value in self._kept.items():
            parameter.copy_(value)
        self._kept = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)


class _Meter:
    """Examples and seconds of training since `start`, validations left out.

    Examples are counted by the module's `examples_seen` if it has one, else by the rows of the batch's `input_ids`.
    """

    def start(self, module: pl.LightningModule) -> None:
        self._before = int(getattr(module, "examples_seen", 0))
        self.examples = 0
        self.seconds = 0.0
        self.skip()

    def add(self, module: pl.LightningModule, batch: Any) -> None:
        seen = getattr(module, "examples_seen", None)
        self.examples = self.examples + batch["input_ids"].shape[0] if seen is None else int(seen) - self._before
        self.seconds += time.monotonic() - self._mark
        self.skip()

    def skip(self) -> None:
        """Leave out the time since the last batch."""
        self._mark = time.monotonic()


class RunProgressBar(ProgressBar):
    """One line for the whole fit: epoch, step, loss (mean of the last 50 batches), examples/s, time left.

    A terminal gets a live bar. Anything else (a file, CI) gets a plain line every `interval` seconds, at each
    validation and at the end. The time left counts validations, and ends with the time allowed if that is
    nearer. `stream` defaults to standard output at the start of the fit; `max_steps` is `StopAtStep`'s.
    """

    def __init__(self, interval: float = 10.0, stream: TextIO | None = None, max_steps: int = -1) -> None:
        super().__init__()
        self.interval = interval
        self.max_steps = max_steps
        self._stream = stream
        self._enabled = True
        self._progress: Progress | None = None
        self._meter = _Meter()
        self._losses: deque[Tensor] = deque(maxlen=50)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._meter.start(pl_module)
        self._losses.clear()
        self._first_step = trainer.global_step
        self._total = total_steps(trainer, self.max_steps)
        self._started = self._printed = time.monotonic()
        self._output = self._stream or sys.stdout
        if self._enabled and self._output.isatty():
            self._progress = self._live_bar()

    def _live_bar(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(file=self._output)
        # Beside the line of about 80 characters there must be room for the bar.
        bar = [BarColumn(bar_width=20)] if console.width >= 110 else []
        progress = Progress(*bar, TextColumn("{task.description}"), console=console)
        total = self._total if math.isfinite(self._total) else None
        progress.add_task("starting", total=total, completed=self._first_step)
        progress.start()
        return progress

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._meter.add(pl_module, batch)
        self._losses.append(_batch_loss(trainer, outputs))
        self._show(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking and self._progress:
            self._show(trainer, f" · validating {batch_idx + 1}/{trainer.num_val_batches[dataloader_idx]}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._meter.skip()
        scores = ", ".join(f"{name} {value:.4g}" for name, value in sorted(_val_scores(trainer).items()))
        if self._enabled and scores and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.print(f"epoch {trainer.current_epoch + 1} · step {trainer.global_step} · {scores}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._losses:
            self._show(trainer, final=True)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line above the bar, or just print it where there is none."""
        if self._progress:
            self._progress.console.print(*args, markup=False, highlight=False)
        else:
            print(*args, **{"file": self._stream or sys.stdout, "flush": True, **kwargs})

    def _close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _show(self, trainer: pl.Trainer, note: str = "", final: bool = False) -> None:
        if not self._enabled:
            return
        if self._progress:
            line = self._line(trainer) + note
            self._progress.update(self._progress.task_ids[0], completed=trainer.global_step, description=line)
        elif final or time.monotonic() - self._printed >= self.interval:
            self._printed = time.monotonic()
            self.print(self._line(trainer) + note)

    def _line(self, trainer: pl.Trainer) -> str:
        last_epoch = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        epoch = min(trainer.current_epoch + 1, last_epoch or sys.maxsize)  # at the end Lightning counts one more
        epochs = f"/{last_epoch}" if last_epoch else ""
        steps = f"/{int(self._total)}" if math.isfinite(self._total) else ""
        loss = _mean(self._losses)
        return (
            f"epoch {epoch}{epochs} · step {trainer.global_step}{steps} · loss {loss:.3f} · "
            f"{self._meter.examples / max(self._meter.seconds, 1e-9):.1f} examples/s · {self._time_left(trainer)} left"
        )

    def _time_left(self, trainer: pl.Trainer) -> str:
        done = trainer.global_step - self._first_step
        left = (time.monotonic() - self._started) / done * (self._total - trainer.global_step) if done else math.inf
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (remaining := callback.time_remaining()) is not None:
                left = min(left, remaining)
        if not math.isfinite(left):
            return "?"
        minutes, seconds = divmod(max(0, round(left)), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class MetricsCsv(Callback):
    """Write one row per optimiser step to a CSV file as training goes, and keep it whole across resumes.

    Columns: `step`, `epoch` (from 1), `train_loss` (mean over the step's batches), `learning_rate` (that the step
    used), `examples` (of the step), `examples_per_second` (training alone), `seconds` (since the first start, with
    validations, without pauses between resumes), and every `val_*` value in the row of the step at which the
    validation ended.
    Raises UserError behind the row of a loss that is not finite: what is trained is lost.
    """

    COLUMNS = ("step", "epoch", "train_loss", "learning_rate", "examples", "examples_per_second", "seconds")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._last: dict[str, str] = {}
        self._columns = list(self.COLUMNS)
        self._last_offset = self._end = 0  # bytes before and behind the last row
        self._step = 0
        self._meter = _Meter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Rows behind the step that the checkpoint holds will be written again.
        rows = [row for row in read_rows(self.path) if float(row["step"]) <= trainer.global_step]
        self._last = rows[-1] if rows else {}
        self._columns = list(self._last or self.COLUMNS)
        self._seconds_before = float(self._last.get("seconds", 0.0))
        self._step = trainer.global_step
        self._meter.start(pl_module)
        self._counted = (0, 0.0)
        self._losses: list[Tensor] = []
        self._learning_rate = math.nan
        self._started = time.monotonic()
        if trainer.is_global_zero:
            self._rewrite(rows)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        # Behind the step the scheduler has already set the next one's.
        self._learning_rate = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._meter.add(pl_module, batch)
        self._losses.append(_batch_loss(trainer, outputs))
        if trainer.global_step == self._step:
            return
        examples, seconds = self._meter.examples - self._counted[0], self._meter.seconds - self._counted[1]
        row = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch + 1,
            "train_loss": _mean(self._losses),
            "learning_rate": self._learning_rate,
            "examples": examples,
            "examples_per_second": examples / max(seconds, 1e-9),
            "seconds": self._seconds_before + time.monotonic() - self._started,
        }
        self._step, self._losses = trainer.global_step, []
        self._counted = (self._meter.examples, self._meter.seconds)
        if trainer.is_global_zero:
            self._put({name: f"{value:.8g}" for name, value in row.items()})
        if not math.isfinite(row["train_loss"]):
            raise UserError(
                f"the loss is {row['train_loss']} at step {trainer.global_step}: the training has diverged; start "
                f"again with a learning rate below {self._learning_rate:.2g} or more --warmup_steps"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._meter.skip()
        if trainer.is_global_zero and self._last:
            self._put(self._last | {name: f"{value:.8g}" for name, value in _val_scores(trainer).items()})

    def _put(self, row: dict[str, str]) -> None:
        """Write a row behind the others, or over the last one if that is the same step's."""
        same_step = bool(self._last) and self._last["step"] == row["step"]
        if not set(row) <= set(self._columns):
            rows = read_rows(self.path)
            self._columns += [name for name in row if name not in self._columns]
            self._rewrite([*(rows[:-1] if same_step else rows), row])
        else:
            with self.path.open("r+b") as file:
                file.seek(self._last_offset if same_step else self._end)
                self._last_offset = file.tell()
                file.write(self._text([row]))
                self._end = file.tell()
                file.truncate()
        self._last = row

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        head = ",".join(self._columns).encode() + b"\n"
        body = [self._text([row]) for row in rows]
        write_atomically(self.path, (head + b"".join(body)).decode())
        self._end = self.path.stat().st_size
        self._last_offset = self._end - (len(body[-1]) if body else 0)

    def _text(self, rows: list[dict[str, str]]) -> bytes:
        return "".join(",".join(row.get(name, "") for name in self._columns) + "\n" for row in rows).encode()


class Checkpoints(Checkpoint):
    """Keep `last.ckpt` (every `every_n_steps` optimiser steps, each epoch's end) and `best.ckpt` (by `monitor`).

    Each is written beside its place and then moved there, so that a kill leaves the former one. Both are written
    where resuming repeats nothing and skips nothing: behind an optimiser step, not within its batches, and a save that
    falls due at a step with a validation waits for it.
    Random states are not kept: the module draws each step's randomness from its place in the training.
    `every_n_steps=0` saves at epoch ends only, `monitor=None` keeps no best. A best score of an earlier
    start that was measured by something else than `measured_by` does not count.
    A score that is not finite is never the best; a line says so at the end where no score was.
    Raises UserError if a validation has not logged `monitor`.
    """

    def __init__(
        self,
        directory: str | Path,
        every_n_steps: int,
        monitor: str | None = None,
        mode: str = "max",
        measured_by: Mapping[str, Any] | None = None,
    ) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps ({every_n_steps}) must be 0 or more")
        if mode not in ("max", "min"):
            raise ValueError(f"mode is max or min, got {mode!r}")
        self.last = Path(directory) / "last.ckpt"
        self.best = Path(directory) / "best.ckpt"
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.mode = mode
        self.measured_by = dict(measured_by or {})
        self.best_score: float | None = None
        self.best_step: int | None = None
        self._saved_step = -1
        self._note = ""  # to be said if there is anything left to train
        self._was_measured = False

    def state_dict(self) -> dict[str, Any]:
        best = {"score": self.best_score, "step": self.best_step}
        return {"monitor": self.monitor, "mode": self.mode, "measured_by": self.measured_by, **best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["monitor"] is None or not self.best.is_file():  # no score, or the weights it is of are gone
            return
        was = {"best by": state_dict["monitor"], **state_dict.get("measured_by", self.measured_by)}
        changed = changes(was, {"best by": self.monitor, **self.measured_by})
        if changed or state_dict["mode"] != self.mode:
            self._note = f"resuming: scores are no longer measured as before ({changed}); the best is chosen anew"
        else:
            self.best_score, self.best_step = state_dict["score"], state_dict["step"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._note:
            print(self._note)
            self._note = ""
        step = trainer.global_step
        due = self.every_n_steps > 0 and step % self.every_n_steps == 0
        # A fit that stops within an epoch must not look like one that has ended it.
        follows = at_epoch_end(trainer) or _validation_follows(trainer, batch_idx)
        if step != self._saved_step and (due or trainer.should_stop) and made_step(trainer) and not follows:
            self._save(trainer, self.last)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor is not None:
            self._keep_best(trainer, self.monitor)
        if not at_epoch_end(trainer):
            self._save(trainer, self.last)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if at_epoch_end(trainer) or trainer.global_step != self._saved_step:
            self._save(trainer, self.last)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor is not None and self.best_step is None and self._was_measured:
            print(
                f"no validation gave a finite {self.monitor}: the last weights are kept, not the best", file=sys.stderr
            )
            if trainer.is_global_zero:
                self.best.unlink(missing_ok=True)  # of an earlier start, measured otherwise

    def _keep_best(self, trainer: pl.Trainer, monitor: str) -> None:
        if monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(_val_scores(trainer))) or "nothing"
            raise UserError(f"cannot keep the best checkpoint by {monitor}: validation gives {logged}; choose of these")
        score = float(trainer.callback_metrics[monitor])
        self._was_measured = True
        sign = 1 if self.mode == "max" else -1
        if math.isfinite(score) and (self.best_score is None or sign * score > sign * self.best_score):
            self.best_score, self.best_step = score, trainer.global_step
            self._save(trainer, self.best)

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        partial = path.with_name(f"{path.name}.tmp")
        try:
            trainer.save_checkpoint(partial)  # called by every process, written by the first
        except OSError:  # a full disk; the earlier checkpoint stays
            partial.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            os.replace(partial, path)
        if path == self.last:
            self._saved_step = trainer.global_step


def _validation_follows(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation comes next, behind this batch in the middle of an epoch."""
    every_n_epochs = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every_n_epochs and (trainer.current_epoch + 1) % every_n_epochs):
        return False
    batches = batch_idx + 1 if every_n_epochs else trainer.fit_loop.total_batch_idx + 1
    interval = trainer.val_check_batch
    return trainer.should_stop or (interval is not None and math.isfinite(interval) and batches % interval == 0)
