"""How a command ends: one line and a code for what a user or a disk has done, a traceback for a mistake of ours."""

from __future__ import annotations

import errno
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seq2seq.runs import Run
from seq2seq.utils import UserError, command

OF_RICH = """
import sys
from seq2seq.utils import command, console

def work():
    for _ in range(10_000):
        console().print("line")

sys.exit(command(work))
"""

READER_GONE = """
import sys
from seq2seq.utils import command

def work():
    for _ in range(100_000):
        print("line")

sys.exit(command(work))
"""


def raising(error: BaseException) -> int:
    def work() -> None:
        raise error

    return command(work)


def test_a_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(UserError("--bsz 0: must be at least 1")) == 2
    assert capsys.readouterr().err == "error: --bsz 0: must be at least 1\n"


@pytest.mark.parametrize("kind", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_takes_no_more(kind: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(OSError(kind, "why", "runs/a/config.yaml")) == 2
    assert capsys.readouterr().err.startswith("error: runs/a/config.yaml: why; make room or change its permissions")
    assert raising(OSError(kind, "why")) == 2
    assert capsys.readouterr().err.startswith("error: why; ")


def test_a_path_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        (tmp_path / ("a" * 300)).is_dir() or (tmp_path / ("a" * 300)).mkdir()

    assert command(work) == 2
    assert re.fullmatch(r"error: .*aaa: File name too long; give another\n", capsys.readouterr().err)
    assert raising(IsADirectoryError(errno.EISDIR, "Is a directory", "x")) == 2


def test_a_full_disk_that_a_library_has_no_class_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(Exception("I/O error: No space left on device (os error 28)")) == 2
    assert capsys.readouterr().err == (
        "error: I/O error: No space left on device (os error 28); make room, then go on or start again\n"
    )
    with pytest.raises(Exception, match="no device"):
        raising(Exception("no device"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_too_little_memory(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(error) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: not enough memory (") and "--bsz" in said and said.count("\n") == 1


def test_other_errors_of_the_system_are_not_hidden() -> None:
    with pytest.raises(FileNotFoundError):
        raising(FileNotFoundError(errno.ENOENT, "no such file", "x"))


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert raising(KeyboardInterrupt("nothing yet")) == 130
    assert capsys.readouterr().err == "nothing yet\n"


def test_an_interruption_that_an_import_took_for_a_missing_module(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ModuleNotFoundError("could not import this module")
    missing.__cause__ = ImportError()
    missing.__cause__.__context__ = KeyboardInterrupt()
    assert raising(missing) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ModuleNotFoundError):
        raising(ModuleNotFoundError("no such module"))


@pytest.mark.parametrize("program", [READER_GONE, OF_RICH])
def test_a_reader_that_has_gone_is_no_traceback(program: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("where", ["", "checkpoints"])
def test_a_run_that_cannot_be_written_in_loses_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path)
    run.last_checkpoint.write_text("kept")
    monkeypatch.setattr("os.access", lambda path, how: Path(path) != tmp_path / where)
    for how in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match=f"--output_dir {tmp_path / where}: cannot be written in"):
            Run.create(tmp_path, **how)  # type: ignore[arg-type]
    assert run.last_checkpoint.read_text() == "kept"


def test_a_new_run_in_a_folder_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, how: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"--output_dir {tmp_path}: cannot be written in"):
        Run.check(tmp_path / "new" / "run")


@pytest.mark.parametrize("words", [["demo", "DATA=x"], ["bench", "BASE=x"], ["pretrain_gpt2", "BASE=x"]])
def test_make_takes_no_variable_that_a_target_would_not_look_at(words: list[str]) -> None:
    make = subprocess.run(["make", "-n", *words], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    name = words[1].split("=")[0]
    assert make.returncode == 2 and f"{words[0]}: takes no {name}=; leave it out" in make.stderr


@pytest.mark.parametrize("script", ["gpt2/run_generation.py", "gpt2/run_language_modeling.py", "seq2seq/finetune.py"])
def test_the_authors_script_names_are_commands_too(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parent.parent / script
    monkeypatch.setattr("sys.argv", [script, "--bogus"])
    monkeypatch.setattr("sys.path", [str(path.parent), *sys.path])  # as Python does for a file
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 2 and "unrecognized arguments: --bogus; see --help" in capsys.readouterr().err
