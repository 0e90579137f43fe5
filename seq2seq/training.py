"""One Lightning Trainer for every mode: precision, validation rhythm, checkpoints, progress, resuming."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from seq2seq.arguments import Arguments
from seq2seq.callbacks import Checkpoints, MetricsCsv, RunProgressBar
from seq2seq.checkpoint_files import LocalCheckpoints
from seq2seq.curves import draw_curves, read_rows
from seq2seq.rhythm import StopAtStep, StopAtTime, StopOnScore, ValidateEverySteps
from seq2seq.runs import Run
from seq2seq.tasks import LOWER_IS_BETTER
from seq2seq.utils import UserError, device, resolve_precision

if TYPE_CHECKING:
    from seq2seq.lightning_base import BaseTransformer


def quiet_libraries() -> None:
    """Keep the libraries' advertisements and device reports off the screen; errors and our own lines stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def fit(module: BaseTransformer, run: Run, arguments: Arguments, monitor: str | None, title: str) -> None:
    """Train `module` into `run`: from the start, or from checkpoints/last.ckpt with --resume.

    monitor: what validation logs and best.ckpt is chosen by (`val_loss` and other losses: the lower the better);
    None = no validation.
    """
    measured_by = module.measured_by(monitor) if monitor else {}
    mode = "min" if monitor and monitor.removeprefix("val_") in LOWER_IS_BETTER else "max"
    callbacks: list[Any] = [StopAtStep(arguments.max_steps), MetricsCsv(run.metrics_csv)]
    if arguments.val_every_steps:
        callbacks.append(ValidateEverySteps(arguments.val_every_steps))
    if arguments.max_minutes:
        callbacks.append(StopAtTime(arguments.max_minutes))
    if arguments.progress:
        callbacks.append(RunProgressBar(max_steps=arguments.max_steps))
    if arguments.early_stopping_patience >= 0 and monitor:
        callbacks.append(StopOnScore(monitor, arguments.early_stopping_patience, mode, measured_by=measured_by))
    callbacks.append(Checkpoints(run.checkpoints, arguments.save_every_steps, monitor, mode, measured_by))
    if arguments.compile:
        from seq2seq.compiling import Compile

        callbacks.append(Compile(module.base))
    precision = resolve_precision(arguments.precision)
    mixed = precision == "bf16" and not module.has_frozen_base
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,  # batch size, steps and what is written are those of one process
        precision="bf16-mixed" if mixed else "32-true",
        max_epochs=arguments.epoch,
        accumulate_grad_batches=arguments.gradient_accumulation_steps,
        gradient_clip_val=arguments.max_grad_norm or None,
        val_check_interval=1 if arguments.val_every_steps else None,
        check_val_every_n_epoch=None if arguments.val_every_steps else 1,
        callbacks=callbacks,
        logger=_logger(arguments, run),
        enable_checkpointing=True,
        enable_progress_bar=arguments.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if monitor else 0,
        plugins=[LocalCheckpoints()],
        use_distributed_sampler=False,  # LengthBuckets shares whole batches out itself
    )
    checkpoint = run.last_checkpoint if arguments.resume else None
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except SystemExit:  # how Lightning ends after Ctrl+C
        raise KeyboardInterrupt from None
    draw_curves(run.metrics_csv, run.curves, title)
    run.update_metrics({**_speed(run), "precision": precision})


def check_tools(arguments: Arguments) -> None:
    """Raise UserError if the package that --logger needs is not installed, or the compiler that --compile needs."""
    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}.get(arguments.logger, ())
    if packages and not any(find_spec(package) for package in packages):
        raise UserError(
            f"--logger {arguments.logger}: is not installed; type: pip install 'prefixtuning[{arguments.logger}]', or "
            "leave it out"
        )
    if arguments.compile:
        from seq2seq.compiling import check_compiler

        check_compiler(device().type)


def check_rhythm(module: BaseTransformer, arguments: Arguments) -> None:
    """Raise UserError for a --val_every_steps that the epochs never reach; say so of --max_steps and --warmup_steps."""
    steps = math.ceil(module.batches_an_epoch / arguments.gradient_accumulation_steps) * arguments.epoch
    if arguments.val_every_steps and arguments.val_every_steps > steps:
        raise UserError(
            f"--val_every_steps {arguments.val_every_steps}: the training has {steps} steps (--epoch "
            f"{arguments.epoch}); give at most that, more --epoch, or --val_every_steps null"
        )
    if arguments.max_steps > steps:
        print(
            f"--max_steps {arguments.max_steps}: --epoch {arguments.epoch} ends the training after {steps} steps; give "
            "more epochs for more",
            file=sys.stderr,
        )
    made = min(steps, arguments.max_steps) if arguments.max_steps > 0 else steps
    if arguments.warmup_steps >= made:
        reached = arguments.learning_rate * (made - 1) / arguments.warmup_steps
        print(
            f"--warmup_steps {arguments.warmup_steps}: the training has {made} steps, in which the learning rate gets "
            f"to {reached:.2g} of {arguments.learning_rate:g}; give fewer, or more epochs",
            file=sys.stderr,
        )


def restore_best(module: BaseTransformer, run: Run) -> None:
    """Put the weights of checkpoints/best.ckpt into the module, where there is one."""
    if run.best_checkpoint.is_file():
        state = torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict(state, strict=False)


def _logger(arguments: Arguments, run: Run) -> Any:
    if arguments.logger == "tensorboard":
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(run.directory, name="tensorboard", version="")
    if arguments.logger == "wandb":
        from pytorch_lightning.loggers import WandbLogger

        return WandbLogger(project="prefixtuning", name=run.directory.name, save_dir=run.directory)
    return False


def _speed(run: Run) -> dict[str, float]:
    """Seconds of the whole fit (all resumes, validation included) and examples per second of training alone."""
    rows = read_rows(run.metrics_csv)
    if not rows:
        return {"train_seconds": 0.0, "examples_per_second": 0.0}
    counted = [float(row["examples"]) for row in rows if row.get("examples")]
    usual = sum(counted) / len(counted) if counted else 1.0  # earlier versions did not count them
    examples = [float(row.get("examples") or usual) for row in rows]
    seconds = sum(n / float(row["examples_per_second"]) for n, row in zip(examples, rows, strict=True))
    return {"train_seconds": float(rows[-1]["seconds"]), "examples_per_second": sum(examples) / seconds}
