"""What is checked before a training, and what a step learns from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from seq2seq import training
from seq2seq.callbacks import Checkpoints
from seq2seq.lightning_base import BaseTransformer, batch_order, distillation_loss
from seq2seq.rhythm import StopOnScore
from seq2seq.runs import Run
from seq2seq.training import check_rhythm, check_tools
from seq2seq.utils import UserError


def options_of(**options: Any) -> Any:
    given = {"gradient_accumulation_steps": 1, "epoch": 2, "val_every_steps": None, "max_steps": -1, "warmup_steps": 0}
    return SimpleNamespace(**{**given, "learning_rate": 0.01, **options})


@pytest.mark.parametrize(
    "options, said",
    [
        ({"val_every_steps": 10}, ""),
        ({"max_steps": 10}, ""),
        ({"max_steps": 4, "warmup_steps": 3}, ""),
        ({"max_steps": 4, "warmup_steps": 4}, "the training has 4 steps, in which the learning rate gets to 0.0075 of"),
    ],
)
def test_the_rhythms_bounds_are_those_of_the_steps_made(
    capsys: pytest.CaptureFixture[str], options: dict[str, int], said: str
) -> None:
    check_rhythm(Mock(batches_an_epoch=5), options_of(**options))
    printed = capsys.readouterr().err
    assert said in printed and bool(printed) == bool(said)


def test_either_package_of_tensorboard_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: name == "tensorboardX" or None)
    check_tools(Mock(logger="tensorboard", compile=False))


def test_the_teachers_share_is_distill_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seq2seq.lightning_base.distillation_loss", lambda ours, theirs: torch.tensor(8.0))
    module = Mock(average_loss=lambda *_: torch.tensor(4.0), examples_seen=0)
    module.arguments.distill_weight = 0.25
    batch = {"labels": torch.zeros(1, 2), "input_ids": torch.zeros(1, 2)}
    assert BaseTransformer.training_step(module, batch, 0) == 5.0


def test_the_teacher_does_not_drop_out_and_learns_nothing() -> None:
    """Lightning's `train()` reaches it too: it is a part of the module."""
    teacher = torch.nn.Linear(2, 2)
    teacher.config = SimpleNamespace(vocab_size=9, _attn_implementation="none")  # type: ignore[assignment]
    asked: list[tuple[bool, bool]] = []

    def predictions(batch: Any, model: Any = None) -> Any:
        if model is not None:
            asked.append((model.training, torch.is_grad_enabled()))
        return SimpleNamespace(logits=torch.zeros(3, 9))

    module = Mock(predictions=predictions, examples_seen=0)
    module.model.config.vocab_size, module.arguments.distill_weight = 9, 1
    BaseTransformer.learn_from(module, teacher)  # type: ignore[arg-type]
    module.teacher.train()
    batch = {"labels": torch.zeros(1, 2), "input_ids": torch.zeros(1, 2)}
    BaseTransformer.training_step(module, batch, 0)
    assert asked == [(False, False)]
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_of_another_vocabulary_is_refused() -> None:
    module, teacher = (Mock(**{"model.config.vocab_size": n, "config.vocab_size": n}) for n in (8, 9))
    with pytest.raises(UserError, match="--distill_from: the teacher has 9 tokens, the base 8; take one of this"):
        BaseTransformer.learn_from(module, teacher)


def test_every_step_of_every_epoch_seed_and_process_draws_its_own_numbers() -> None:
    def drawn(seed: int = 1, epoch: int = 0, batch: int = 0, rank: int = 0) -> float:
        module = Mock(current_epoch=epoch, global_rank=rank)
        module.arguments.seed = seed
        BaseTransformer.on_train_batch_start(module, {}, batch)
        return float(torch.rand((), dtype=torch.float64))

    ways = [{}, {"seed": 2}, {"epoch": 1}, {"epoch": 2}, {"batch": 1}, {"batch": 2}, {"rank": 1}]
    once = [drawn(**way) for way in ways]
    assert len(set(once)) == len(ways) and [drawn(**way) for way in ways] == once


def test_the_teachers_divergence_is_in_float32_where_logits_are_less() -> None:
    student, teacher = torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(1)).bfloat16()
    loss = distillation_loss(student, teacher)
    assert loss.dtype == torch.float32 and torch.equal(loss, distillation_loss(student.float(), teacher.float()))


def test_the_order_of_batches_is_found_in_either_place() -> None:
    order = SimpleNamespace(start_batch=0)
    assert batch_order(SimpleNamespace(batch_sampler=order, sampler=object())) is order
    assert batch_order(SimpleNamespace(batch_sampler=None, sampler=order)) is order
    assert batch_order(SimpleNamespace(batch_sampler=object(), sampler=object())) is None


def test_the_optimiser_and_its_schedule_are_as_the_options_say() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2))]
    options = options_of(learning_rate=0.25, adam_beta2=0.75, weight_decay=0.5, warmup_steps=4, lr_scheduler="linear")
    module = Mock(arguments=options, trained_parameters=lambda: parameters)
    module.trainer.estimated_stepping_batches = 12
    found = BaseTransformer.configure_optimizers(module)
    (group,) = found["optimizer"].param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.75), 1e-8, 0.5)
    rates = []
    for _ in range(12):
        rates.append(group["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert rates[:5] == [0.0, 0.0625, 0.125, 0.1875, 0.25] and rates[11] == pytest.approx(0.25 / 8)


def test_lightnings_trainer_is_as_the_options_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What only a real training would show: clipping, accumulation, what is the better score, when a run is saved."""
    made: dict[str, Any] = {}
    monkeypatch.setattr("seq2seq.training.pl.Trainer", lambda **options: made.update(options) or Mock())
    for name in ("draw_curves", "_speed"):
        monkeypatch.setattr(training, name, lambda *_: {})
    module, run = Mock(has_frozen_base=False, measured_by=lambda monitor: {"by": monitor}), Run(tmp_path)
    options = {"val_every_steps": None, "max_minutes": None, "progress": False, "early_stopping_patience": 3}
    more = {"save_every_steps": 7, "compile": False, "precision": "bf16", "max_grad_norm": 0.5, "logger": "none"}
    arguments = options_of(**options, **more, resume=False)
    arguments.gradient_accumulation_steps = 6
    for monitor, mode in (("val_rougeL", "max"), ("val_loss", "min")):
        training.fit(module, run, arguments, monitor, "title")
        keeper = next(callback for callback in made["callbacks"] if isinstance(callback, Checkpoints))
        stopper = next(callback for callback in made["callbacks"] if isinstance(callback, StopOnScore))
        assert (keeper.every_n_steps, keeper.monitor, keeper.mode) == (7, monitor, mode)
        assert keeper.measured_by == stopper.measured_by == {"by": monitor}
        assert (stopper.patience, stopper.monitor, stopper.mode) == (3, monitor, mode)
    assert (made["gradient_clip_val"], made["accumulate_grad_batches"], made["precision"]) == (0.5, 6, "bf16-mixed")
    module.has_frozen_base = True
    training.fit(module, run, arguments, None, "title")
    assert (made["precision"], made["limit_val_batches"]) == ("32-true", 0)
