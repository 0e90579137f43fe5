"""A training that is killed and resumed ends bit for bit like one that was not (float32, base dropout above 0)."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PRETRAINING, flags, start, write_base, write_data, write_text

from seq2seq import finetune
from seq2seq.curves import read_rows
from seq2seq.lightning_base import BaseTransformer
from seq2seq.pretrain import PretrainModule
from seq2seq.runs import Run
from seq2seq.utils import UserError

Options = dict[str, Any]
pytestmark = pytest.mark.usefixtures("without_curves")


class Killed(BaseException):
    """In place of a kill: nothing may catch it."""


@pytest.fixture
def kill(monkeypatch) -> Callable[[str, int], None]:
    """Die in the training step or the validation that comes `step` optimiser steps after the start."""

    def arrange(where: str, step: int) -> None:
        for owner in (BaseTransformer, finetune.SummarizationModule, PretrainModule):
            method = f"{where}_step"
            if method in vars(owner):
                stock = vars(owner)[method]

                def dying(module: BaseTransformer, *args: Any, _stock: Callable[..., Any] = stock) -> Any:
                    if module.global_step == step:
                        raise Killed
                    return _stock(module, *args)

                monkeypatch.setattr(owner, method, dying)

    return arrange


def end_of(directory: Path) -> dict[str, Any]:
    """What must be the same: kept weights and those of the last checkpoint, the table and the scores, times aside."""
    kept = directory / "prefix.safetensors"
    weights = (kept if kept.is_file() else directory / "model/model.safetensors").read_bytes()
    timings = ("seconds", "examples_per_second")
    rows = [{k: v for k, v in row.items() if k not in timings} for row in read_rows(directory / "metrics.csv")]
    metrics = {k: v for k, v in Run(directory).read_metrics().items() if k not in (*timings, "train_seconds")}
    last = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    trained = {name: value.tolist() for name, value in last["state_dict"].items()}
    return {"kept": weights, "last": trained, "step": last["global_step"], "table": rows, "metrics": metrics}


WAYS: dict[str, Options] = {
    "whole epochs": {},
    "flat": {"mid_dim": 0, "prefix_dropout": 0.1},
    "within epochs": {"val_every_steps": 2, "max_steps": 9},
    "accumulated": {"gradient_accumulation_steps": 2, "bsz": 2},
    "stopping early": {"epoch": 4, "best_metric": "loss", "early_stopping_patience": 1, "learning_rate": 1e-12},
    "fine-tuned": {"mode": "finetune", "learning_rate": 0.001},
    "gpt2": {"prefix_dropout": 0.1},
}


@pytest.fixture(scope="module")
def options_of(small, small_gpt2) -> Callable[[str], Options]:
    return lambda way: {**(small_gpt2 if way == "gpt2" else small), **WAYS[way]}


@pytest.fixture(scope="module")
def uninterrupted(options_of, tmp_path_factory) -> Callable[[str], Any]:
    done: dict[str, Any] = {}

    def end(way: str) -> Any:
        if way not in done:
            done[way] = end_of(start(**options_of(way), output_dir=tmp_path_factory.mktemp("whole")))  # type: ignore[arg-type]
        return done[way]

    return end


@pytest.mark.parametrize(
    "way, save_every_steps, where, step",
    [
        ("whole epochs", 1, "training", 3),
        ("whole epochs", 1, "validation", 5),
        ("whole epochs", 200, "training", 5),
        ("flat", 2, "training", 4),
        ("within epochs", 1, "training", 5),
        ("within epochs", 2, "validation", 6),
        ("within epochs", 1, "validation", 9),
        ("accumulated", 1, "training", 2),
        ("accumulated", 2, "validation", 5),
        ("stopping early", 1, "training", 7),
        ("fine-tuned", 2, "training", 7),
        ("gpt2", 2, "training", 7),
    ],
)
def test_a_killed_training_ends_like_one_that_was_not(
    options_of, tmp_path, uninterrupted, kill, monkeypatch, way, save_every_steps, where, step
):
    options = {**options_of(way), "save_every_steps": save_every_steps, "output_dir": tmp_path / "run"}
    with monkeypatch.context():
        kill(where, step)
        with pytest.raises(Killed):
            start(**options)
    monkeypatch.undo()
    start(**options, resume="yes")
    assert end_of(tmp_path / "run") == uninterrupted(way)


def test_twice_killed_is_as_good_as_once(small, tmp_path, uninterrupted, kill, monkeypatch):
    options = {**small, "save_every_steps": 2, "output_dir": tmp_path / "run"}
    for step, resume in ((3, "no"), (7, "yes")):
        kill("training", step)
        with pytest.raises(Killed):
            start(**options, resume=resume)
        monkeypatch.undo()
    start(**options, resume="yes")
    assert end_of(tmp_path / "run") == uninterrupted("whole epochs")


def test_killed_while_decoding_the_rest_is_done_on_resuming(small, tmp_path, uninterrupted, monkeypatch):
    def dying(*args: Any) -> Any:
        raise Killed

    monkeypatch.setattr(finetune, "decode", dying)
    options = {**small, "output_dir": tmp_path / "run"}
    with pytest.raises(Killed):
        start(**options)
    monkeypatch.undo()
    start(**options, resume="yes")
    assert end_of(tmp_path / "run") == uninterrupted("whole epochs")


def test_a_finished_run_may_be_resumed_to_more_epochs(small, tmp_path):
    options = {**small, "lr_scheduler": "constant", "n_val": 0}
    start(**{**options, "epoch": 1}, output_dir=tmp_path / "run")
    start(**{**options, "epoch": 2}, output_dir=tmp_path / "run", resume="yes")
    start(**{**options, "epoch": 2}, output_dir=tmp_path / "whole")
    assert end_of(tmp_path / "run") == end_of(tmp_path / "whole")


def kill_when(command: list[str], table: Path, steps: int) -> None:
    """Start a process and send it SIGKILL once its table holds so many steps and a checkpoint lies beside it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    looks = 40_000  # counted, not timed: the machine may rest in between
    checkpoint = table.parent / "checkpoints/last.ckpt"
    while process.poll() is None and (looks := looks - 1):
        if checkpoint.is_file() and len(read_rows(table)) >= steps:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read().decode()


@pytest.mark.parametrize("change, made", [({"max_steps": 1}, 10), ({"epoch": 1}, 2)])
def test_fewer_steps_than_were_made_are_refused(small, tmp_path, change, made):
    options = {**small, "epoch": 2}
    run = start(**options, output_dir=tmp_path / "run")
    config = (run / "config.yaml").read_bytes()
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"--{name} {value}: the training in .*run has made {made} already; give at"):
        start(**{**options, **change}, output_dir=run, resume="yes")
    assert (run / "config.yaml").read_bytes() == config


def test_a_process_killed_in_the_middle_of_an_epoch(small, tmp_path):
    options = {**small, "epoch": 24, "save_every_steps": 7, "val_every_steps": 50, "n_val": 0, "learning_rate": 0.002}
    command = [sys.executable, "-m", "seq2seq.train_bart", *flags(**options, output_dir=tmp_path / "killed")]
    kill_when(command, tmp_path / "killed/metrics.csv", steps=23)
    assert not (tmp_path / "killed/prefix.safetensors").exists()
    start(**options, output_dir=tmp_path / "killed", resume="yes")
    start(**options, output_dir=tmp_path / "whole")
    assert end_of(tmp_path / "killed") == end_of(tmp_path / "whole")


class TestPretraining:
    @pytest.fixture(scope="class")
    def options(self, tmp_path_factory) -> Options:
        place = tmp_path_factory.mktemp("pretraining")
        return {**PRETRAINING, "data_dir": write_text(place / "text"), "cache_dir": place / "cache"}

    @pytest.fixture(scope="class")
    def whole(self, options, tmp_path_factory) -> Any:
        return end_of(start(**options, output_dir=tmp_path_factory.mktemp("whole")))  # type: ignore[arg-type]

    @pytest.mark.parametrize("save_every_steps, step", [(1, 3), (2, 6), (4, 19), (200, 17)])
    def test_killed_and_resumed_in_the_middle_of_an_epoch(
        self, options, whole, tmp_path, kill, monkeypatch, save_every_steps, step
    ):
        options = {**options, "save_every_steps": save_every_steps, "output_dir": tmp_path / "run"}
        kill("training", step)
        with pytest.raises(Killed):
            start(**options)
        monkeypatch.undo()
        start(**options, resume="yes")
        assert end_of(tmp_path / "run") == whole


class TestStartingAgain:
    def test_is_refused_without_resume_or_overwrite(self, small, tmp_path, kill, monkeypatch):
        options = {**small, "save_every_steps": 1, "output_dir": tmp_path / "run"}
        kill("training", 3)
        with pytest.raises(Killed):
            start(**options)
        monkeypatch.undo()
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        with pytest.raises(UserError, match=r"already holds a run .* add --resume to go on, --overwrite to start"):
            start(**options)
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before

    def test_with_overwrite_starts_anew(self, small, tmp_path, uninterrupted, kill, monkeypatch):
        options = {**small, "output_dir": tmp_path / "run"}
        kill("training", 6)
        with pytest.raises(Killed):
            start(**{**options, "seed": 7})
        monkeypatch.undo()
        start(**options, overwrite="yes")
        assert end_of(tmp_path / "run") == uninterrupted("whole epochs")

    def test_killed_before_the_first_checkpoint_there_is_nothing_to_resume(self, small, tmp_path, kill, monkeypatch):
        options = {**small, "output_dir": tmp_path / "run"}
        kill("training", 2)
        with pytest.raises(Killed):
            start(**options)
        monkeypatch.undo()
        with pytest.raises(UserError, match="no checkpoints/last.ckpt to resume from; put --overwrite in place of"):
            start(**options, resume="yes")

    @pytest.mark.parametrize("change", [{"preseqlen": 4}, {"learning_rate": 0.1}, {"seed": 7}, {"bsz": 2}])
    def test_a_resumed_run_cannot_become_another(self, small, tmp_path, kill, monkeypatch, change):
        options = {**small, "save_every_steps": 1, "output_dir": tmp_path / "run"}
        kill("training", 2)
        with pytest.raises(Killed):
            start(**options)
        monkeypatch.undo()
        config = (tmp_path / "run/config.yaml").read_bytes()
        (name, value), was = next(iter(change.items())), small.get(next(iter(change)), 42)
        with pytest.raises(UserError, match=f"the run was started with {name} {was}, not {value}"):
            start(**{**options, **change}, resume="yes")
        assert (tmp_path / "run/config.yaml").read_bytes() == config

    def test_overwriting_takes_the_old_model_and_tokenizer_away(self, small, tmp_path):
        run = start(**{**small, "mode": "finetune", "max_steps": 1}, output_dir=tmp_path / "run")
        assert run and (run / "model").is_dir()
        start(**{**small, "max_steps": 1}, output_dir=run, overwrite="yes")
        assert not (run / "model").exists()

    def test_ctrl_c_says_how_to_go_on(self, small, tmp_path, kill, monkeypatch, capsys):
        self.interrupt(7, small, tmp_path, kill, monkeypatch)
        assert capsys.readouterr().err == "interrupted; add --resume to go on from checkpoints/last.ckpt\n"

    def test_ctrl_c_before_the_first_checkpoint_says_how_to_start_again(
        self, small, tmp_path, kill, monkeypatch, capsys
    ):
        self.interrupt(2, small, tmp_path, kill, monkeypatch)
        assert capsys.readouterr().err == "interrupted before the first checkpoint; --overwrite starts again\n"
        monkeypatch.undo()
        start(**small, output_dir=tmp_path / "run", overwrite="yes")

    def interrupt(self, step, small, tmp_path, kill, monkeypatch):
        from seq2seq.train_bart import main

        monkeypatch.setattr("test_resume.Killed", KeyboardInterrupt)
        kill("training", step)
        handler = signal.getsignal(signal.SIGINT)
        monkeypatch.setattr(sys, "argv", ["train_bart.py", *flags(**small, output_dir=tmp_path / "run")])
        try:
            assert main() == 130
        finally:
            signal.signal(signal.SIGINT, handler)


class TestOnSomethingElse:
    """The same names with another content: a run that went on would be none that can be told."""

    @pytest.fixture
    def stopped(self, small, tmp_path, tiny_tokenizer) -> Callable[..., Options]:
        """Options of a run of one epoch, on a base of its own."""

        def make(**options: Any) -> Options:
            base = write_base(tmp_path / "base", tiny_tokenizer)
            options = {**small, "n_val": 0, "model_name_or_path": base, "output_dir": tmp_path / "run", **options}
            start(**{**options, "epoch": 1, "n_test": 1})
            return {**options, "resume": "yes"}

        return make

    @pytest.mark.parametrize("options", [{}, {"mode": "finetune-top", "top_layers": 1}, {"mode": "adaptertune"}])
    def test_another_frozen_base_is_refused(self, stopped, tmp_path, tiny_tokenizer, options):
        resumed = stopped(**options)
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        write_base(tmp_path / "base", tiny_tokenizer, seed=1)
        with pytest.raises(
            UserError, match=r"not the base that the run was started on \(fingerprint \w+ there, \w+ here\); re"
        ):
            start(**resumed)
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize("mode", ["prefixtune", "finetune"])
    def test_a_base_of_another_shape_is_refused(self, stopped, tmp_path, tiny_tokenizer, mode):
        resumed = stopped(mode=mode)
        write_base(tmp_path / "base", tiny_tokenizer, d_model=8)
        with pytest.raises(UserError, match=r"not the base that the run was started on \(hidden_size 16 there, 8 here"):
            start(**resumed)

    def test_a_fine_tuned_base_may_have_other_weights_for_the_checkpoint_holds_them_all(
        self, stopped, tmp_path, tiny_tokenizer
    ):
        resumed = stopped(mode="finetune")
        shutil.copytree(tmp_path / "run", tmp_path / "same")
        start(**{**resumed, "output_dir": tmp_path / "same"})
        write_base(tmp_path / "base", tiny_tokenizer, seed=1)
        start(**resumed)
        assert end_of(tmp_path / "run") == end_of(tmp_path / "same")

    @pytest.mark.parametrize("program", ["train_bart.py", "train_e2e.py"])
    def test_other_training_records_are_refused(self, stopped, small_gpt2, tmp_path, program):
        data = write_data(tmp_path / "data")
        base = {"model_name_or_path": small_gpt2["model_name_or_path"]} if program == "train_e2e.py" else {}
        resumed = stopped(program=program, data_dir=data, **base)
        train = data / "train.jsonl"
        train.write_text(train.read_text().replace("nine", "ten"))
        with pytest.raises(UserError, match="not the training data that the run was started on"):
            start(**resumed)

    def test_another_teacher_is_refused(self, stopped, tmp_path, tiny_tokenizer):
        resumed = stopped(distill_from=write_base(tmp_path / "teacher", tiny_tokenizer))
        write_base(tmp_path / "teacher", tiny_tokenizer, seed=1)
        with pytest.raises(UserError, match=r"not the teacher that the run was started on \(fingerprint"):
            start(**resumed)

    def test_other_text_to_pretrain_on_is_refused(self, tmp_path):
        text = write_text(tmp_path / "text")
        options = {**PRETRAINING, "data_dir": text, "cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
        start(**{**options, "max_steps": 1})
        (text / "text.txt").write_text((text / "text.txt").read_text().replace("nine", "five"))
        with pytest.raises(UserError, match="not the training data that the run was started on"):
            start(**options, resume="yes")

    def test_other_validation_and_test_records_are_not(self, stopped, tmp_path):
        resumed = stopped(data_dir=write_data(tmp_path / "data"))
        for split in ("val", "test"):
            file = tmp_path / f"data/{split}.jsonl"
            file.write_text(file.read_text().replace("nine", "ten"))
        start(**resumed)
        assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 10

    def test_a_checkpoint_that_says_nothing_of_its_origin_goes_on(self, stopped, tmp_path):
        resumed = stopped()
        last = tmp_path / "run/checkpoints/last.ckpt"
        checkpoint = torch.load(last, weights_only=True)
        del checkpoint["origin"]
        torch.save(checkpoint, last)
        start(**resumed)
        assert torch.load(last, weights_only=True)["global_step"] == 10

    def test_another_meaning_of_auto_goes_on_and_is_said(self, stopped, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("seq2seq.utils.has_bf16_units", lambda: False)
        resumed = stopped(precision="auto")
        last = tmp_path / "run/checkpoints/last.ckpt"
        checkpoint = torch.load(last, weights_only=True)
        assert checkpoint["precision"] == "32"
        torch.save({**checkpoint, "precision": "bf16"}, last)
        capsys.readouterr()
        start(**{**resumed, "max_steps": 7})
        line = f"{last}: was trained in precision bf16, and goes on in 32, which is what auto means on this machine\n"
        assert line in capsys.readouterr().err
        start(**resumed)
        assert "was trained in precision" not in capsys.readouterr().err
        assert Run(tmp_path / "run").read_metrics()["precision"] == "32"


class TestValidatingOtherwise:
    @pytest.mark.parametrize(
        "change, says",
        [
            ({"n_val": 4}, "n_val 2 there, 4 here"),
            ({"eval_num_beams": 2}, "num_beams 1 there, 2 here"),
            ({"val_max_target_length": 9}, "max_length 12 there, 9 here"),
            ({"length_penalty": 0.5}, "length_penalty "),
            ({"best_metric": "loss"}, "best by val_rougeL there, val_loss here"),
            ({"n_test": 1, "eval_bsz": 1}, None),
        ],
    )
    def test_the_best_is_chosen_anew(self, small, tmp_path, capsys, change, says):
        options = {**small, "best_metric": "rougeL", "early_stopping_patience": 9, "output_dir": tmp_path / "run"}
        start(**{**options, "epoch": 1})
        capsys.readouterr()
        start(**{**options, **change}, resume="yes")
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming: ")]
        assert len(said) == (says is not None) and (says or "") in "".join(said)
