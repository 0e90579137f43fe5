"""When a training validates and stops, its learning rates, and that it goes on where it was killed or ended."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from toy_trainings import Line, fit
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from seq2seq.callbacks import Checkpoints, MetricsCsv
from seq2seq.curves import read_rows
from seq2seq.lightning_base import share_of_rate
from seq2seq.rhythm import StopAtStep, StopAtTime, StopOnScore, ValidateEverySteps

pytestmark = pytest.mark.usefixtures("quiet_and_light")


# ---- resuming ----------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "whole epochs": {},
    "within epochs": {"val_check_interval": 2},
    "across epochs": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "accumulated": {"accumulate_grad_batches": 2},
    "to a step": {"max_steps": 12},
    "every steps": {"every_steps": 3},
    "accumulated, every steps": {"every_steps": 2, "accumulate_grad_batches": 2},
}


def fit_with_all(directory: Path, module: Line, options: str, every_n_steps: int, resume: Path | None = None) -> Line:
    directory.mkdir(exist_ok=True)
    way = dict(OPTIONS[options])
    callbacks = [
        StopAtStep(way.pop("max_steps", -1)),
        MetricsCsv(directory / "metrics.csv"),
        StopOnScore("val_loss", patience=3, mode="min"),
        Checkpoints(directory, every_n_steps, monitor="val_loss", mode="min"),
    ]
    if every_steps := way.pop("every_steps", None):
        callbacks.insert(0, ValidateEverySteps(every_steps))
        way |= {"val_check_interval": 1, "check_val_every_n_epoch": None}
    fit(module, callbacks, resume, **way)
    return module


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, tuple[Path, Line]]:
    directories = {name: tmp_path_factory.mktemp("whole") for name in OPTIONS}
    return {name: (path, fit_with_all(path, Line(), name, every_n_steps=1)) for name, path in directories.items()}


@pytest.mark.parametrize(
    "options, every_n_steps, die_at",
    [
        ("whole epochs", 0, ("train", 3)),
        ("whole epochs", 1, ("train", 3)),
        ("whole epochs", 2, ("train", 3)),
        ("whole epochs", 0, ("train", 5)),
        ("whole epochs", 1, ("validate", 5)),
        ("whole epochs", 2, ("train", 9)),
        ("whole epochs", 1, ("validate", 15)),
        ("within epochs", 1, ("train", 3)),
        ("within epochs", 1, ("validate", 4)),
        ("within epochs", 2, ("train", 4)),
        ("within epochs", 1, ("train", 5)),
        ("within epochs", 0, ("validate", 9)),
        ("across epochs", 1, ("validate", 6)),
        ("across epochs", 2, ("train", 9)),
        ("to a step", 0, ("train", 5)),
        ("to a step", 1, ("train", 10)),
        ("to a step", 1, ("train", 11)),
        ("to a step", 1, ("validate", 12)),
        ("accumulated", 1, ("train", 2)),
        ("accumulated", 2, ("validate", 3)),
        ("accumulated", 1, ("train", 5)),
        ("every steps", 1, ("train", 3)),
        ("every steps", 2, ("train", 4)),
        ("every steps", 1, ("validate", 6)),
        ("every steps", 0, ("train", 10)),
        ("every steps", 1, ("train", 13)),
        ("accumulated, every steps", 1, ("train", 1)),
        ("accumulated, every steps", 1, ("train", 2)),
        ("accumulated, every steps", 1, ("validate", 4)),
        ("accumulated, every steps", 0, ("train", 4)),
        ("accumulated, every steps", 1, ("train", 5)),
        ("accumulated, every steps", 2, ("train", 7)),
        ("accumulated, every steps", 1, ("validate", 9)),
    ],
)
def test_a_killed_training_resumes_to_the_same_end(tmp_path, uninterrupted, options, every_n_steps, die_at):
    directory, whole = uninterrupted[options]
    with pytest.raises(RuntimeError, match="killed"):
        fit_with_all(tmp_path, Line(die_at=die_at), options, every_n_steps)
    last = tmp_path / "last.ckpt"
    resumed = fit_with_all(tmp_path, Line(), options, every_n_steps, last if last.is_file() else None)

    assert resumed.weights == whole.weights
    timings = {"seconds", "examples_per_second"}
    tables = [read_rows(path / "metrics.csv") for path in (directory, tmp_path)]
    exact = [[{key: row[key] for key in row if key not in timings} for row in table] for table in tables]
    assert exact[0] == exact[1]
    for name in ("last.ckpt", "best.ckpt"):
        states = [torch.load(path / name) for path in (directory, tmp_path)]
        assert states[0]["callbacks"] == states[1]["callbacks"]
        assert states[0]["global_step"] == states[1]["global_step"]


@pytest.mark.parametrize("validated", [1.0, 0])
@pytest.mark.parametrize("first, then", [(7, 12), (5, 12), (10, 11), (7, 7), (12, 15)])
def test_a_training_that_ended_at_a_step_goes_on_there(tmp_path, first, then, validated):
    def run(name: str, max_steps: int, resume: bool = False) -> list[float]:
        module, directory = Line(), tmp_path / name
        callbacks = [StopAtStep(max_steps), Checkpoints(directory, every_n_steps=0)]
        fit(module, callbacks, directory / "last.ckpt" if resume else None, limit_val_batches=validated)
        assert torch.load(directory / "last.ckpt", weights_only=True)["global_step"] == max_steps
        return module.weights

    run("parts", first)
    assert run("parts", then, resume=True) == run("whole", then)


@pytest.mark.parametrize(
    "accumulated, every, at",
    [(1, 3, [3, 6, 9, 12, 15]), (1, 4, [4, 8, 12, 15]), (2, 2, [2, 4, 6, 8, 9]), (2, 4, [4, 8, 9])],
)
def test_validations_are_counted_in_optimiser_steps_and_the_last_is_at_the_end(accumulated, every, at):
    module = Line()
    options = {"val_check_interval": 1, "check_val_every_n_epoch": None, "accumulate_grad_batches": accumulated}
    fit(module, [ValidateEverySteps(every)], **options)
    assert module.validations == at


@pytest.mark.parametrize("first, then, at", [(1, 2, [8, 10]), (2, 2, []), (2, 3, [12, 15])])
def test_a_training_that_was_validated_at_its_end_goes_on_to_more_epochs(tmp_path, first, then, at):
    def run(name: str, epochs: int, resume: bool = False) -> Line:
        module, directory = Line(), tmp_path / name
        callbacks = [ValidateEverySteps(4), Checkpoints(directory, every_n_steps=1)]
        options = {"val_check_interval": 1, "check_val_every_n_epoch": None, "max_epochs": epochs}
        fit(module, callbacks, directory / "last.ckpt" if resume else None, **options)
        return module

    run("parts", first)
    resumed = run("parts", then, resume=True)
    assert resumed.validations == at and resumed.weights == run("whole", then).weights


@pytest.mark.parametrize("batches", [1, 3, 4, 8])
def test_a_training_that_runs_out_of_time_ends_behind_a_whole_step(tmp_path, monkeypatch, batches):
    elapsed = iter([0.0] * batches + [99.0] * 99)
    with monkeypatch.context() as patch:
        patch.setattr(
            StopAtTime, "time_elapsed", lambda timer, stage="train": next(elapsed) if stage == "train" else 0.0
        )
        fit(Line(), [StopAtTime(1.0), Checkpoints(tmp_path / "parts", 0)], accumulate_grad_batches=2)
    stopped = torch.load(tmp_path / "parts/last.ckpt", weights_only=True)
    within = stopped["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]
    assert within in (2, 4, 5)
    parts, whole = Line(), Line()
    fit(parts, [Checkpoints(tmp_path / "parts", 0)], tmp_path / "parts/last.ckpt", accumulate_grad_batches=2)
    fit(whole, [Checkpoints(tmp_path / "whole", 0)], accumulate_grad_batches=2)
    assert parts.weights == whole.weights


# ---- early stopping ----------------------------------------------------------------------------------------------


def test_training_stops_when_the_score_no_longer_improves(tmp_path):
    module = Line(scores=(10.0, 20.0, 15.0, 20.0, 30.0))
    fit(module, [StopOnScore("val_rougeL", patience=2)], max_epochs=5)
    assert module.validations == [5, 10, 15, 20]


def test_a_stopped_training_stays_stopped_and_more_patience_lets_it_go_on(tmp_path):
    def run(patience: int, resume: bool) -> list[int]:
        module = Line(scores=(20.0, 10.0, 10.0, 10.0, 30.0))
        callbacks = [StopOnScore("val_rougeL", patience=patience), Checkpoints(tmp_path, every_n_steps=0)]
        fit(module, callbacks, tmp_path / "last.ckpt" if resume else None, max_epochs=5)
        return module.validations

    assert run(patience=2, resume=False) == [5, 10, 15]
    assert run(patience=2, resume=True) == []
    assert run(patience=4, resume=True) == [20, 25]


@pytest.mark.parametrize("warmup", [0, 1, 4, 12])
@pytest.mark.parametrize("total", [None, 10, 12])
def test_the_learning_rates_are_those_of_transformers_schedules(warmup: int, total: int | None) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    if total is None:
        schedule = get_constant_schedule_with_warmup(optimizer, warmup)
    else:
        schedule = get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(15):
        assert 0.3 * share_of_rate(step, warmup, total) == schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()


def test_a_training_that_ended_at_a_step_stays_ended_beside_early_stopping(tmp_path):
    def run(resume: bool) -> tuple[int, list[int]]:
        module = Line()
        callbacks = [StopAtStep(7), StopOnScore("val_loss", 3, "min"), Checkpoints(tmp_path, 0)]
        fit(module, callbacks, tmp_path / "last.ckpt" if resume else None)
        return module.global_step, module.validations

    assert run(False) == (7, [5, 7]) and run(True) == (7, [])


@pytest.mark.parametrize("patience", [0, 2])
def test_a_training_that_a_score_stopped_which_is_not_finite_stays_stopped(tmp_path, patience):
    def run(resume: bool) -> list[int]:
        module = Line(scores=(20.0, float("nan"), 10.0, 10.0, 30.0))
        callbacks = [StopOnScore("val_rougeL", patience=patience), Checkpoints(tmp_path, 0)]
        fit(module, callbacks, tmp_path / "last.ckpt" if resume else None, max_epochs=5)
        return module.validations

    assert run(False) == [5, 10] and run(True) == []


@pytest.mark.parametrize("before", ["sanity checking", "validating"])
def test_a_score_outside_of_the_training_stops_nothing(before):
    stop = StopOnScore("val_loss", patience=2, mode="min")
    trainer = Mock(sanity_checking=before == "sanity checking", callback_metrics={"val_loss": torch.tensor(math.inf)})
    trainer.state.fn = "fit" if before == "sanity checking" else "validate"
    stop.on_validation_end(trainer, Mock())
    assert stop.wait_count == 0


def test_without_patience_the_first_validation_that_is_no_better_ends_it():
    module = Line(scores=(20.0, 10.0, 30.0))
    fit(module, [StopOnScore("val_rougeL", patience=0)])
    assert module.validations == [5, 10]


def test_a_checkpoint_that_does_not_say_what_measured_it_counts():
    stop = StopOnScore("val_rougeL", 2, measured_by={"n_val": 2})
    state = {name: value for name, value in stop.state_dict().items() if name != "measured_by"}
    stop.load_state_dict({**state, "wait_count": 1})
    assert stop.wait_count == 1


def test_the_time_allowed_is_in_minutes():
    stop = StopAtTime(2.0)
    assert stop.time_remaining() == 120.0
    assert stop.state_key == "Timer"


def test_a_stop_that_another_asked_for_stays():
    trainer = Mock(should_stop=True, global_step=3)
    StopAtStep(5).on_train_start(trainer, Mock())
    assert trainer.should_stop
