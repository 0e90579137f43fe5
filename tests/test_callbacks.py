"""What a training leaves behind is whole and exact, wherever it was killed."""

import errno
import io
import math
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from toy_trainings import BATCHES, Clocked, Line, fit, steps

from seq2seq import training
from seq2seq.callbacks import Checkpoints, FrozenWeights, MetricsCsv, RunProgressBar
from seq2seq.curves import read_rows
from seq2seq.rhythm import StopAtStep, StopOnScore
from seq2seq.runs import Run
from seq2seq.utils import UserError

pytestmark = pytest.mark.usefixtures("quiet_and_light")


# ---- checkpoints -------------------------------------------------------------------------------------------------


def test_only_the_last_and_the_best_checkpoint_are_kept(tmp_path):
    keeper = Checkpoints(tmp_path, every_n_steps=2, monitor="val_rougeL")
    fit(Line(scores=(10.0, 30.0, 20.0)), [keeper])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(tmp_path / "best.ckpt")["global_step"] == 10
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 15
    assert (keeper.best_score, keeper.best_step) == (30.0, 10)


def test_the_best_by_another_monitor_does_not_count(tmp_path):
    fit(Line(scores=(10.0,)), [Checkpoints(tmp_path, 0, monitor="val_rougeL")], max_epochs=1)
    keeper = Checkpoints(tmp_path, 0, monitor="val_loss", mode="max")
    fit(Line(scores=(10.0, 20.0)), [keeper], tmp_path / "last.ckpt", max_epochs=2)
    assert keeper.best_step == 10 and keeper.best_score != 20.0


@pytest.mark.parametrize("now, best", [({"n_val": 2}, 20.0), ({"n_val": 4}, 10.0), ({"n_val": 2, "beams": 1}, 10.0)])
def test_a_score_that_was_measured_otherwise_does_not_count(tmp_path, capsys, now, best):
    scores = (20.0, 10.0, 9.0)

    def run(epochs: int, by: dict[str, int], resume: bool) -> tuple[Checkpoints, StopOnScore]:
        keeper = Checkpoints(tmp_path, 0, "val_rougeL", measured_by=by)
        stopper = StopOnScore("val_rougeL", patience=9, measured_by=by)
        fit(Line(scores=scores), [keeper, stopper], tmp_path / "last.ckpt" if resume else None, max_epochs=epochs)
        return keeper, stopper

    run(1, {"n_val": 2}, resume=False)
    keeper, stopper = run(3, now, resume=True)
    assert keeper.best_score == float(stopper.best_score) == best
    assert stopper.wait_count == (2 if best == 20.0 else 1)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming: ")]
    assert len(said) == (best != 20.0)
    if now == {"n_val": 4}:
        assert "(n_val 2 there, 4 here); the best is chosen anew" in said[0]


def test_a_checkpoint_that_does_not_say_how_it_measured_keeps_its_score(tmp_path):
    (tmp_path / "best.ckpt").touch()
    state = {"monitor": "val_rougeL", "mode": "max", "score": 20.0, "step": 5}
    keeper = Checkpoints(tmp_path, 0, "val_rougeL", measured_by={"n_val": 4})
    keeper.load_state_dict(state)
    assert keeper.best_score == 20.0


def test_a_best_checkpoint_that_was_deleted_does_not_count(tmp_path):
    fit(Line(scores=(20.0,)), [Checkpoints(tmp_path, 0, monitor="val_rougeL")], max_epochs=1)
    (tmp_path / "best.ckpt").unlink()
    keeper = Checkpoints(tmp_path, 0, monitor="val_rougeL")
    fit(Line(scores=(20.0, 10.0)), [keeper], tmp_path / "last.ckpt", max_epochs=2)
    assert keeper.best_score == 10.0 and torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 10


def test_a_fit_that_ends_within_an_epoch_has_its_last_step_judged_too(tmp_path):
    keeper = Checkpoints(tmp_path, every_n_steps=0, monitor="val_rougeL")
    module = Line(scores=(10.0, 20.0, 30.0))
    fit(module, [StopAtStep(12), MetricsCsv(tmp_path / "m.csv"), keeper])
    assert module.validations == [5, 10, 12]
    assert (keeper.best_score, keeper.best_step) == (30.0, 12)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["global_step"] == 12
    assert best["state_dict"]["line.weight"].item() == module.weights[0]
    assert read_rows(tmp_path / "m.csv")[-1]["val_rougeL"] == "30"


def test_lower_is_better_in_mode_min_and_nan_is_never_best(tmp_path):
    keeper = Checkpoints(tmp_path, every_n_steps=0, monitor="val_rougeL", mode="min")
    fit(Line(scores=(float("nan"), 2.0, 3.0)), [keeper])
    assert (keeper.best_score, keeper.best_step) == (2.0, 10)


def test_where_no_score_is_finite_a_line_says_that_the_last_weights_are_kept(tmp_path, capsys):
    for scores, says in (((float("nan"),) * 3, True), ((float("nan"), 2.0, 3.0), False)):
        fit(Line(scores=scores), [Checkpoints(tmp_path / str(says), every_n_steps=0, monitor="val_rougeL")])
        said = "no validation gave a finite val_rougeL: the last weights are kept" in capsys.readouterr().err
        assert said == says == (not (tmp_path / str(says) / "best.ckpt").exists())


def test_without_a_monitor_no_best_is_kept(tmp_path):
    fit(Line(), [Checkpoints(tmp_path, every_n_steps=0)])
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_kill_while_writing_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    save = pl.Trainer.save_checkpoint

    def killed(trainer: pl.Trainer, path: Path) -> None:
        if trainer.global_step == 4:
            path.write_bytes(b"half a check")
            raise RuntimeError("killed")
        save(trainer, path)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", killed)
    with pytest.raises(RuntimeError, match="killed"):
        fit(Line(), [Checkpoints(tmp_path, every_n_steps=2)])
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 2
    monkeypatch.undo()
    fit(Line(), [Checkpoints(tmp_path, every_n_steps=2)], tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_score_that_validation_does_not_give_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot keep the best checkpoint by val_bleu: validation gives val_loss"):
        fit(Line(scores=(1.0, 2.0, 3.0)), [Checkpoints(tmp_path, every_n_steps=0, monitor="val_bleu")])
    with pytest.raises(ValueError, match="every_n_steps"):
        Checkpoints(tmp_path, every_n_steps=-1)
    with pytest.raises(ValueError, match="mode is max or min"):
        Checkpoints(tmp_path, every_n_steps=1, mode="best")


# ---- the table ---------------------------------------------------------------------------------------------------


def test_every_step_has_one_row(tmp_path):
    path = tmp_path / "metrics.csv"
    module = Line(scores=(1.0, 2.0, 3.0))
    fit(module, [MetricsCsv(path)])
    rows = read_rows(path)
    assert list(rows[0]) == [*MetricsCsv.COLUMNS, "val_loss", "val_rougeL"]
    assert steps(path) == list(range(1, 16))
    assert [row["epoch"] for row in rows] == ["1"] * 5 + ["2"] * 5 + ["3"] * 5
    assert {row["step"]: row["val_rougeL"] for row in rows if row["val_rougeL"]} == {"5": "1", "10": "2", "15": "3"}
    assert [float(row["learning_rate"]) for row in rows[:3]] == pytest.approx([0.1, 0.0975, 0.095])
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and all(float(row["examples_per_second"]) > 0 for row in rows)


def test_a_row_holds_the_mean_loss_of_its_accumulated_batches(tmp_path):
    class Constant(Line):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return 0 * self._loss(batch) + batch_idx

    fit(Constant(), [MetricsCsv(tmp_path / "m.csv")], max_epochs=1, accumulate_grad_batches=2)
    assert [float(row["train_loss"]) for row in read_rows(tmp_path / "m.csv")] == [0.5, 2.5, 4.0]


def test_rows_are_readable_while_training_goes(tmp_path):
    path = tmp_path / "metrics.csv"

    class Reader(Line):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            assert steps(path) == list(range(1, self.global_step + 1))
            return super().training_step(batch, batch_idx)

    fit(Reader(), [MetricsCsv(path)])
    assert len(steps(path)) == 15


def test_the_time_of_a_validation_is_none_of_the_next_steps(tmp_path):
    class Slow(Line):
        def on_validation_epoch_end(self) -> None:
            time.sleep(0.6)
            super().on_validation_epoch_end()

    fit(Slow(), [MetricsCsv(tmp_path / "m.csv")], max_epochs=2)
    assert float(read_rows(tmp_path / "m.csv")[5]["examples_per_second"]) > 4 / 0.5  # a batch of four, in half a second


def test_the_speed_is_that_of_all_examples_not_a_mean_of_the_steps(tmp_path):
    run = Run.create(tmp_path / "run")
    run.metrics_csv.write_text("step,examples,examples_per_second,seconds\n1,16,16,1\n2,1,1,2.5\n")
    assert training._speed(run) == {"train_seconds": 2.5, "examples_per_second": 8.5}
    run.metrics_csv.write_text("step,examples_per_second,seconds\n1,16,1\n2,1,2.5\n")  # of an earlier version
    assert training._speed(run)["examples_per_second"] == pytest.approx(32 / 17)
    text = "step,examples_per_second,seconds,examples\n1,4,2,\n2,8,3,8\n"  # resumed by this one
    run.metrics_csv.write_text(text)
    assert training._speed(run)["examples_per_second"] == pytest.approx(16 / 3)


def test_a_shorter_row_leaves_nothing_of_a_longer_one(tmp_path):
    path = tmp_path / "m.csv"
    table = MetricsCsv(path)
    fit(Line(), [table], max_epochs=1)
    for loss in ("0.12345678901234567890", "1"):
        table._put(table._last | {"train_loss": loss})
    assert path.read_text().count("\n") == 6 and path.read_text().endswith("\n")
    assert read_rows(path)[-1]["train_loss"] == "1"


def test_a_new_training_starts_a_new_table(tmp_path):
    path = tmp_path / "metrics.csv"
    fit(Line(), [MetricsCsv(path)])
    fit(Line(), [MetricsCsv(path)], max_epochs=1)
    assert steps(path) == [1, 2, 3, 4, 5]


# ---- the progress line -------------------------------------------------------------------------------------------


def test_a_file_gets_plain_lines():
    stream = io.StringIO()
    fit(Line(), [RunProgressBar(interval=0.0, stream=stream)], num_sanity_val_steps=1)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert lines[0].startswith("epoch 1/3 · step 1/15 · loss ") and lines[0].endswith(" left")
    assert lines[5].startswith("epoch 1 · step 5 · val_loss ")
    assert lines[-1].startswith("epoch 3/3 · step 15/15 · loss ") and lines[-1].endswith(" 0:00:00 left")


def test_plain_lines_keep_their_interval():
    stream = io.StringIO()
    fit(Line(), [RunProgressBar(interval=600.0, stream=stream)], limit_val_batches=0)
    assert len(stream.getvalue().splitlines()) == 1


def test_a_terminal_gets_one_live_line():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    fit(Line(), [RunProgressBar(stream=stream)])
    assert "step 15/15" in stream.getvalue()


def test_the_module_may_count_its_examples_itself():
    class Counting(Line):
        examples_seen = 100

        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.examples_seen += 7
            return super().training_step(batch, batch_idx)

    bar = RunProgressBar(stream=io.StringIO())
    fit(Counting(), [bar], max_epochs=1)
    assert bar._meter.examples == 7 * BATCHES
    fit(Line(), [bar], max_epochs=1)
    assert bar._meter.examples == 4 * BATCHES


def test_the_time_left_ends_with_the_time_allowed():
    stream = io.StringIO()
    fit(Line(), [RunProgressBar(interval=0.0, stream=stream)], max_epochs=-1, max_time={"seconds": 0.2})
    assert "step 1 ·" in stream.getvalue() and "0:00:00 left" in stream.getvalue()


def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path, monkeypatch):
    keeper = Checkpoints(tmp_path, every_n_steps=0, monitor=None)
    keeper.last.write_text("kept")
    trainer = Mock()

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer.save_checkpoint = full
    with pytest.raises(OSError, match="No space"):
        keeper._save(trainer, keeper.last)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("last.ckpt", "kept")]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training_behind_its_row(tmp_path, bad):
    class Diverges(Line):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * (bad if self.global_step == 2 else 1.0)

    keeper = Checkpoints(tmp_path, every_n_steps=1)
    with pytest.raises(UserError, match=f"^the loss is {bad} at step 3: the training has diverged; "):
        fit(Diverges(), [MetricsCsv(tmp_path / "metrics.csv"), keeper])
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["1", "2", "3"]
    assert torch.load(keeper.last, weights_only=True)["global_step"] == 2


def test_a_resume_with_nothing_left_to_train_says_nothing_of_scores(tmp_path, capsys):
    for by in (1, 2):
        keeper = Checkpoints(tmp_path, 0, "val_rougeL", measured_by={"n_val": by})
        resumed = keeper.last if by == 2 else None
        fit(Line(scores=(20.0,)), [keeper], resumed, max_epochs=1)
    said = capsys.readouterr()
    assert "no longer measured" not in said.out and "no validation" not in said.err


def test_an_error_gives_frozen_weights_back_too():
    module, keeper = Line(), FrozenWeights()
    module.line.bias.requires_grad_(False)
    keeper.on_fit_start(Mock(callbacks=[EMAWeightAveraging()]), module)
    module.line.bias.fill_(7.0)
    keeper.on_exception(Mock(), module, RuntimeError())
    assert module.line.bias.item() == 0.0


def test_the_table_counts_each_steps_speed_and_the_seconds_of_all_starts(clock, tmp_path):
    def run(epochs: int, resume: Path | None = None) -> None:
        fit(Clocked(), [MetricsCsv(tmp_path / "m.csv"), Checkpoints(tmp_path, 0)], resume, max_epochs=epochs)

    run(1)
    Clocked.now += 1000  # a pause
    run(2, tmp_path / "last.ckpt")
    rows = read_rows(tmp_path / "m.csv")
    assert [float(row["examples_per_second"]) for row in rows] == [2.0] * 10
    assert [float(row["seconds"]) for row in rows] == [2.0 * step for step in range(1, 11)]


def test_a_score_of_the_other_mode_does_not_count(tmp_path):
    (tmp_path / "best.ckpt").touch()
    keeper = Checkpoints(tmp_path, 0, "val_rougeL", mode="min")
    keeper.load_state_dict({"monitor": "val_rougeL", "mode": "max", "score": 20.0, "step": 5})
    assert keeper.best_score is None


def test_an_old_best_is_not_taken_where_the_last_weights_are_said_to_be_kept(tmp_path, capsys):
    def run(by: int, epochs: int, resume: bool) -> None:
        keeper = Checkpoints(tmp_path, 0, "val_rougeL", measured_by={"n_val": by})
        fit(Line(scores=(20.0, math.nan)), [keeper], keeper.last if resume else None, max_epochs=epochs)

    run(2, 1, resume=False)
    run(4, 2, resume=True)
    assert "the last weights are kept, not the best" in capsys.readouterr().err
    assert not (tmp_path / "best.ckpt").exists()
