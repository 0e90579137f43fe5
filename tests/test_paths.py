"""Paths as people write them: the user's folder, what looks like a URL, and names that no file can have."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import flags, start

from gpt2.generation_arguments import GenerationArguments
from seq2seq.checkpoint_files import LocalCheckpoints
from seq2seq.parsing import parse, parse_into
from seq2seq.runs import Run
from seq2seq.utils import UserError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, beside the working directory."""
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_users_folder_is_meant_wherever_a_path_is_given(small: dict[str, Any], home: Path) -> None:
    (home / "recipe.yaml").write_text("output_dir: ~/mine\nepoch: 1\ncache_dir: ~/cache\n")
    given = {**small, "epoch": None, "cache_dir": None, "model_name_or_path": "~/base", "config": "~/recipe.yaml"}
    arguments = parse(flags(**given), "train_bart.py")
    assert (arguments.output_dir, arguments.epoch, arguments.cache_dir) == (f"{home}/mine", 1, f"{home}/cache")
    assert arguments.model_name_or_path == f"{home}/base"
    (home / "run").mkdir()
    (home / "run" / "config.yaml").write_text("data_dir: there\npreseqlen: 7\n")
    decoding = parse(["--do_train=no", "--prefix_model_path=~/run"], "train_bart.py")
    assert (decoding.prefix_model_path, decoding.preseqlen) == (f"{home}/run", 7)
    options = ["--run=~/run", "--input=~/texts", "--output=~/out"]
    gen = parse_into(GenerationArguments, options, "gen.py", "", None)
    assert (gen.run, gen.input, gen.output) == (f"{home}/run", f"{home}/texts", f"{home}/out")


@pytest.mark.parametrize("name", ["a::b", "file:x", "~run", "[1] {x}*?#%"])
def test_a_run_goes_on_at_any_path(name: str, small: dict[str, Any], home: Path) -> None:
    options = {**small, "n_val": 0, "output_dir": Path(name), "baselines": "none"}
    start(**{**options, "epoch": 1})
    start(**options, resume=True)
    assert sorted(path.name for path in Path.cwd().iterdir()) == [name] and not list(home.iterdir())
    assert torch.load(Run(name).last_checkpoint, weights_only=True)["global_step"] == 10


def test_a_checkpoint_is_written_where_it_stands(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))  # is not there: nothing can be written
    start(**small, n_train=4, output_dir=tmp_path / "run", baselines="none", max_steps=1)
    assert Run(tmp_path / "run").last_checkpoint.is_file()


@pytest.mark.parametrize("numbers", [10, 1_000_000])
def test_a_disk_that_takes_no_more_is_named(numbers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, "w"))
    with pytest.raises(OSError, match=r"No space left on device: '.*last.ckpt'"):
        LocalCheckpoints().save_checkpoint({"numbers": torch.zeros(numbers)}, tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        ('output_dir: "a\\0b"\n', ["--config=x.yaml"], "output_dir: holds a character of number 0"),
        ("", ["--config"], "--config: is empty; give a YAML file"),
        ("", ["--config="], "--config: is empty; give a YAML file"),
    ],
)
def test_no_path(recipe: str, given: list[str], said: str, home: Path) -> None:
    Path("x.yaml").write_text(recipe)
    with pytest.raises(UserError, match=said):
        parse(given, "train_bart.py")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "generations_test.jsonl", "checkpoints/last.ckpt"])
def test_a_folder_where_a_run_writes_a_file(name: str, small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name}: is a folder, where a run writes a file; remove it, or give another"):
        start(**small, output_dir=tmp_path / "run")
