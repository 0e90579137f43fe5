"""The benchmark runs what it says it compares."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("peft")

from benchmarks.speed import Setting, beam_runs, measure, table, train_runs  # noqa: E402
from seq2seq.utils import UserError  # noqa: E402


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_beam_searches_give_new_tokens_and_without_a_prefix_the_same(family: str) -> None:
    setting = Setting("beam", family, layers=1, batch=2, source=6, target=3, beams=2, preseqlen=2)
    tokens = {name: run() for name, run in beam_runs(setting).items()}
    length = 4 if family == "bart" else 9
    assert list(tokens) == ["ours", "ours without prefix", "peft", "plain"]
    assert all(rows.shape == (2, length) for rows in tokens.values())
    assert torch.equal(tokens["ours without prefix"], tokens["plain"])


@pytest.mark.parametrize(("family", "systems"), [("bart", 5), ("gpt2", 4)])
def test_training_steps_take_turns(family: str, systems: int) -> None:
    setting = Setting("train", family, "bf16", layers=1, batch=2, source=6, target=3, preseqlen=2, mid_dim=4)
    runs = train_runs(setting)
    seconds = measure(runs, 2)
    assert list(seconds) == list(runs) and len(runs) == systems
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())


def test_the_table_compares_turn_by_turn() -> None:
    text = table({"ours": [1.0, 2.0, 4.0], "peft": [3.0, 4.0, 20.0]})
    assert "| ours | 2.000 | 1.000-4.000 | 1.00 (1.00-1.00) |" in text
    assert "| peft | 4.000 | 3.000-20.000 | 3.00 (2.00-5.00) |" in text


def test_zero_is_the_familys_own_and_no_runs_are_a_mistake() -> None:
    assert (Setting().layers, Setting().beams, Setting(family="gpt2").beams) == (6, 6, 5)
    assert Setting(item="train", family="gpt2").batch == 10 and Setting(family="gpt2").batch == 16
    with pytest.raises(UserError, match="--runs 0: give at least 1"):
        Setting(runs=0)
