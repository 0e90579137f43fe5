"""The comparison with PEFT trains both on the same batches and scores both."""

from __future__ import annotations

from typing import Any

import pytest

peft = pytest.importorskip("peft")

from small_runs import flags, write_gpt2_base  # noqa: E402

from benchmarks import peft_search  # noqa: E402
from benchmarks.peft_search import peft_keeps_its_prefix  # noqa: E402
from benchmarks.quality import compare  # noqa: E402
from benchmarks.shapes import Setting  # noqa: E402
from benchmarks.systems import beam_systems  # noqa: E402
from seq2seq.arguments import Arguments  # noqa: E402
from seq2seq.curves import read_rows  # noqa: E402
from seq2seq.parsing import parse  # noqa: E402
from seq2seq.runs import Run  # noqa: E402
from seq2seq.utils import UserError  # noqa: E402

keeps = pytest.mark.skipif(not peft_keeps_its_prefix(), reason="this PEFT loses its prefix on this transformers")


def arguments_of(options: dict[str, Any], **more: Any) -> Arguments:
    given = {name: value for name, value in {**options, **more}.items() if name != "program"}
    return parse(flags(**given), "train_e2e.py")


@keeps
def test_both_are_trained_and_scored_alike(small_gpt2: dict[str, Any], tmp_path: Any, capsys: Any) -> None:
    compare(arguments_of(small_gpt2, n_val=0, max_steps=3, output_dir=tmp_path))
    rows = {name: read_rows(Run(tmp_path / name).metrics_csv) for name in ("prefixtuning", "peft")}
    assert len(rows["peft"]) == len(rows["prefixtuning"])
    # other random prefixes on the same batches of the same base: losses are near, not equal
    first = [float(rows[name][0]["train_loss"]) for name in rows]
    assert first[0] == pytest.approx(first[1], rel=0.2) and first[0] != first[1]
    assert len(Run(tmp_path / "peft").read_generations("test")) == 5
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in shown[-2:]] == ["| prefixtuning", "| peft"]


@keeps
def test_in_double_both_do_the_same(small_gpt2: dict[str, Any], tiny_tokenizer: Any, tmp_path: Any) -> None:
    base = write_gpt2_base(tmp_path / "base", tiny_tokenizer, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    options = {**small_gpt2, "model_name_or_path": base, "n_val": 0, "epoch": 4, "learning_rate": 0.3}
    compare(arguments_of(options, output_dir=tmp_path / "runs"), double=True)
    ours, theirs = (Run(tmp_path / "runs" / name) for name in ("prefixtuning", "peft"))
    losses = [[float(row["train_loss"]) for row in read_rows(run.metrics_csv)] for run in (ours, theirs)]
    assert len(losses[0]) == 20 and sum(losses[0][-5:]) < 0.9 * sum(losses[0][:5])
    assert losses[0] == losses[1]
    texts = [[row["generated"] for row in run.read_generations("test")] for run in (ours, theirs)]
    assert texts[0] == texts[1]


@keeps
def test_low_data_is_the_same_few_records_for_both(small_gpt2: dict[str, Any], tmp_path: Any) -> None:
    compare(arguments_of(small_gpt2, n_val=0, lowdata=4, epoch=2, output_dir=tmp_path))
    rows = {name: len(read_rows(Run(tmp_path / name).metrics_csv)) for name in ("prefixtuning", "peft")}
    assert rows == {"prefixtuning": 2, "peft": 2}  # one batch of four an epoch


def test_other_modes_are_refused(small_gpt2: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(UserError, match="quality.py: compares --mode prefixtune"):
        compare(arguments_of(small_gpt2, mode="finetune", output_dir=tmp_path))


def test_a_peft_that_loses_its_prefix_is_refused_before_anything_is_trained(
    small_gpt2: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft_search, "peft_keeps_its_prefix", lambda: False)
    with pytest.raises(UserError, match="PEFT .* loses its prefix where it generates on transformers .*; install"):
        compare(arguments_of(small_gpt2, n_val=0, output_dir=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="loses its prefix"):
        beam_systems(Setting("beam", "gpt2"), None, ["peft"])


def test_a_peft_that_loses_its_prefix_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_prefix(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.base_model_prepare_inputs_for_generation(*args, **kwargs)

    monkeypatch.setattr(peft.PeftModelForCausalLM, "prepare_inputs_for_generation", without_prefix)
    assert not peft_keeps_its_prefix.__wrapped__()
