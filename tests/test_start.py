"""How a command starts: what it needs is imported without looking for garbage meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import gpt2.gen
import gpt2.run_generation
import gpt2.run_language_modeling
import gpt2.train_e2e
import seq2seq.finetune
import seq2seq.train_bart
from seq2seq.utils import quick_imports


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As it was."""
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_while_importing() -> None:
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count()


def test_a_failing_import_leaves_the_collector_on() -> None:
    with pytest.raises(ImportError), quick_imports():
        import nowhere  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_who_has_turned_it_off_finds_it_off() -> None:
    gc.disable()
    with quick_imports():
        pass
    assert not gc.isenabled()


def test_peft_is_not_imported() -> None:
    """Half a second where it is installed; transformers' schedules of learning rates would import it."""
    code = "import sys, seq2seq.finetune; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("program", "module", "name"),
    [
        (seq2seq.train_bart, seq2seq.finetune, "run"),
        (gpt2.train_e2e, gpt2.run_language_modeling, "run"),
        (gpt2.gen, gpt2.run_generation, "generate"),
    ],
)
def test_commands_import_so(program: Any, module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(module, name, lambda options: seen.append((gc.isenabled(), gc.get_freeze_count() > 0)))
    monkeypatch.setattr(sys, "argv", ["command"])
    assert program.main() == 0
    assert seen == [(True, True)]
