"""The Python of docs/python.md runs as it stands there, behind a run of the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import start
from test_docs import ROOT

from seq2seq.finetune import BART
from seq2seq.loading import Family
from seq2seq.prefixTuning import PrefixTuning

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quiet_and_light", "without_curves")
def test_the_pages_python_runs(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(**{**small, "max_steps": 1, "n_val": 0}, output_dir=tmp_path / "runs/mine")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    first = blocks[0].replace("BART.carried_base", repr(str(small["model_name_or_path"])))
    assert first != blocks[0]
    capsys.readouterr()
    exec(first, names)
    assert capsys.readouterr().out.startswith("['")
    exec(blocks[1], names)
    assert (names["tuned"].prefix.preseqlen, names["trainer"].global_step) == (20, 2)
    assert PrefixTuning.from_pretrained("my_prefix", names["base"]).preseqlen == 20
    exec(blocks[2], names | {"BART": names["BART"]})


def test_the_family_it_names_is_the_commands() -> None:
    assert isinstance(BART, Family) and BART.carried_base.is_dir()
