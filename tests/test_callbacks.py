"""What a training leaves behind is whole and exact, wherever it was killed."""

import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from seq2seq.callbacks import Checkpoints, MetricsCsv, RunProgressBar
from seq2seq.curves import read_rows
from seq2seq.rhythm import StopAtStep, StopAtTime, StopOnScore, ValidateEverySteps
from seq2seq.utils import UserError

BATCHES = 5


@pytest.fixture(autouse=True, scope="module")
def quiet_and_light() -> Iterator[None]:
    """Two parameters need one thread, and none of the trainer's advice."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


class Batches:
    """Batches of 4 rows in a fixed order, whose position is saved and restored."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.position %= BATCHES
        while self.position < BATCHES:
            self.position += 1
            x = torch.linspace(-1, 1, 4) + self.position / 10
            yield {"input_ids": x, "labels": (3 + self.position) * x + 1}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Line(pl.LightningModule):
    """y = w·dropout(x) + b; `scores` are what its validations say in turn; `die_at` is where it is killed."""

    def __init__(self, scores: tuple[float, ...] = (), die_at: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.line.weight)
        torch.nn.init.zeros_(self.line.bias)
        self.scores = scores
        self.die_at = die_at
        self.validations: list[int] = []

    def on_train_batch_start(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        torch.manual_seed(1000 * self.current_epoch + batch_idx)  # as BaseTransformer: a step's randomness is its own

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self._die("train")
        return self._loss(batch)

    def val_dataloader(self) -> Any:
        fixed: Any = list(Batches())
        return torch.utils.data.DataLoader(fixed, batch_size=None)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self._die("validate")
        self.log("val_loss", self._loss(batch), batch_size=4)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.validations.append(self.global_step)
            if self.scores:
                self.log("val_rougeL", self.scores[-(-self.global_step // BATCHES) - 1])

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = torch.nn.functional.dropout(batch["input_ids"], 0.2, self.training)
        return torch.nn.functional.mse_loss(self.line(x[:, None])[:, 0], batch["labels"])

    def _die(self, where: str) -> None:
        if self.die_at == (where, self.global_step):
            raise RuntimeError("killed")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 40))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def weights(self) -> list[float]:
        return [self.line.weight.item(), self.line.bias.item()]


def fit(module: Line, callbacks: list[pl.Callback], resume: Path | None = None, **options: Any) -> pl.Trainer:
    keeps = any(isinstance(callback, Checkpoints) for callback in callbacks)
    shows = any(isinstance(callback, RunProgressBar) for callback in callbacks)
    trainer = pl.Trainer(
        **{"max_epochs": 3, **options},
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=keeps,
        enable_progress_bar=shows,
        enable_model_summary=False,
    )
    torch.manual_seed(1 if resume is None else 2)  # what a new process draws must not matter to a resumed training
    trainer.fit(module, Batches(), ckpt_path=resume)
    return trainer


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in read_rows(path)]


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


@pytest.mark.parametrize("first, then", [(7, 12), (5, 12), (10, 11), (7, 7), (12, 15)])
def test_a_training_that_ended_at_a_step_goes_on_there(tmp_path, first, then):
    def run(name: str, max_steps: int, resume: bool = False) -> list[float]:
        module, directory = Line(), tmp_path / name
        callbacks = [StopAtStep(max_steps), Checkpoints(directory, every_n_steps=0)]
        fit(module, callbacks, directory / "last.ckpt" if resume else None)
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
