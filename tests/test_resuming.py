"""What --resume asks of a checkpoint and of the run's recipe; test_resume.py goes on with real trainings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seq2seq.arguments import Arguments, recipe_of
from seq2seq.resuming import check_origin, check_resumable, read_checkpoint
from seq2seq.runs import Run
from seq2seq.utils import UserError

PARTS = ["state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step"]
PARTS += ["examples_seen"]
ASKED = Arguments(data_dir="/data", epoch=2, max_steps=-1, precision="32")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Run]:
    """A run whose checkpoint says how much is done, and more if given."""

    def make(epochs: int = 2, steps: int = 10, **more: Any) -> Run:
        run = Run.create(tmp_path / "run")
        run.write_config(recipe_of(ASKED))
        progress = {"fit_loop": {"epoch_progress": {"current": {"processed": epochs, "ready": epochs + 1}}}}
        parts = {**dict.fromkeys(PARTS), "loops": progress, "global_step": steps, **more}
        torch.save(parts, run.last_checkpoint)
        return run

    return make


@pytest.mark.parametrize("lost", PARTS)
def test_a_checkpoint_that_lacks_a_part_is_refused(lost: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(dict.fromkeys(set(PARTS) - {lost}), path)
    with pytest.raises(UserError, match=rf"is no checkpoint of a run \(it lacks {lost}\); put --overwrite in place"):
        read_checkpoint(path)


def test_the_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Writes:
        def __reduce__(self) -> Any:
            return Path.write_text, (tmp_path / "made", "run")

    torch.save({**dict.fromkeys(PARTS), "state_dict": Writes()}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "change",
    [{"best_metric": "loss"}, {"n_val": 7}, {"eval_num_beams": 5}, {"val_max_target_length": 9}],
)
def test_a_training_that_has_ended_is_not_validated_otherwise(made: Callable[..., Run], change: dict[str, Any]) -> None:
    run, ((name, value),) = made(), change.items()
    asked = replace(ASKED, **change)
    with pytest.raises(UserError, match=rf"--{name} {value}: the training in .*run has ended at step 10, nothing is"):
        check_resumable(run, asked)
    check_resumable(run, replace(asked, epoch=3))
    with pytest.raises(UserError, match="has ended at step 10"):
        check_resumable(run, replace(asked, epoch=3, max_steps=10))
    check_resumable(run, replace(asked, epoch=3, max_steps=11))


def test_an_option_that_the_run_did_not_know_yet_is_no_other(made: Callable[..., Run]) -> None:
    run = made()
    options = run.read_config()
    run.write_config({name: value for name, value in options.items() if name not in ("eval_num_beams", "preseqlen")})
    check_resumable(run, ASKED)


def test_a_pretraining_that_has_ended_is_not_validated_on_another_file(
    made: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("text")
    asked = Arguments(mode="pretrain", data_dir="/data", epoch=2, valid_file="one.txt")
    run = made()
    run.write_config({**recipe_of(asked), "valid_file": "one.txt"})  # as earlier versions did
    check_resumable(run, asked)
    with pytest.raises(UserError, match="--valid_file .*two.txt: the training in .*run has ended at step 10"):
        check_resumable(run, replace(asked, valid_file="two.txt"))


def test_epochs_that_have_begun_are_not_made_yet(made: Callable[..., Run]) -> None:
    run = made(epochs=1, steps=9)
    check_resumable(run, replace(ASKED, epoch=1))
    with pytest.raises(UserError, match="--max_steps 8: the training in .* has made 9 already; give at least that"):
        check_resumable(run, replace(ASKED, max_steps=8))


def test_of_the_origin_only_what_the_checkpoint_names_is_compared(made: Callable[..., Run]) -> None:
    def ours(**origin: Any) -> Any:
        return SimpleNamespace(origin=origin, arguments=ASKED)

    run = made(origin={"base": {"vocab_size": 3}})
    check_origin(run, ours(base={"vocab_size": 3}, teacher={"vocab_size": 3}))
    with pytest.raises(UserError, match=r"not the base that the run was started on \(vocab_size 3 there, 4 here\)"):
        check_origin(run, ours(base={"vocab_size": 4}))
