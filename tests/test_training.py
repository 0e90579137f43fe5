"""What is checked before a training, and what a step learns from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from seq2seq import training
from seq2seq.lightning_base import BaseTransformer
from seq2seq.training import check_rhythm, check_tools


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
