"""What a training shows of itself while it runs: loss, speed, time left, in a live bar or plain lines."""

from __future__ import annotations

import io
from unittest.mock import Mock

import pytest
import torch
from pytorch_lightning.callbacks import Timer
from toy_trainings import Clocked, Line, fit

from seq2seq.callbacks import RunProgressBar, total_steps

pytestmark = pytest.mark.usefixtures("quiet_and_light")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("max_steps, total", [(12, 12), (99, 15), (-1, 15)])
def test_the_earlier_of_two_ends_counts(max_steps: int, total: int) -> None:
    assert total_steps(Mock(estimated_stepping_batches=15), max_steps) == total


def test_the_loss_is_that_of_the_last_50_batches() -> None:
    bar = RunProgressBar(stream=io.StringIO())
    fit(Line(), [bar], max_epochs=11)
    assert len(bar._losses) == 50


@pytest.mark.parametrize("allowed, left", [(None, "2:09:40"), (9e9, "2:09:40"), (5.0, "0:00:05"), (-3.0, "0:00:00")])
def test_the_time_left_follows_from_the_steps_of_this_start(clock: None, allowed: float | None, left: str) -> None:
    timer = Mock(spec=Timer, time_remaining=lambda: allowed)
    trainer = Mock(global_step=100, estimated_stepping_batches=4000, callbacks=[timer])
    bar = RunProgressBar(stream=io.StringIO())
    bar.on_train_start(trainer, Line())
    Clocked.now, trainer.global_step = Clocked.now + 20, 110
    assert bar._time_left(trainer) == left


def test_the_bars_speed_leaves_validations_out(clock: None) -> None:
    class Slow(Clocked):
        def on_validation_epoch_end(self) -> None:
            Clocked.now += 100.0

    stream = io.StringIO()
    fit(Slow(), [RunProgressBar(interval=0.0, stream=stream)], max_epochs=2)
    assert all(" 2.0 examples/s" in line for line in stream.getvalue().splitlines() if "examples/s" in line)


def test_a_validation_alone_prints_no_step() -> None:
    stream = io.StringIO()
    module = Line()
    trainer = fit(module, [RunProgressBar(interval=600.0, stream=stream)], max_epochs=1)
    before = stream.getvalue()
    trainer.validate(module, verbose=False)
    assert stream.getvalue() == before


def test_plain_lines_come_once_in_an_interval(clock: None) -> None:
    stream = io.StringIO()
    fit(Clocked(), [RunProgressBar(interval=8.0, stream=stream)], limit_val_batches=0)
    assert [line.split("step ")[1].split("/")[0] for line in stream.getvalue().splitlines()] == ["4", "8", "12", "15"]


def test_the_bars_loss_is_that_of_a_batch_also_where_they_are_accumulated() -> None:
    class Constant(Line):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return 0 * self._loss(batch) + 3.0

    stream = io.StringIO()
    fit(Constant(), [RunProgressBar(stream=stream)], max_epochs=1, accumulate_grad_batches=2)
    assert "loss 3.000" in stream.getvalue().splitlines()[-1]


def test_an_error_leaves_no_live_bar() -> None:
    bar = RunProgressBar(stream=Terminal())
    with pytest.raises(RuntimeError, match="killed"):
        fit(Line(die_at=("train", 3)), [bar])
    assert bar._progress is None
