"""--compile changes how a training step is computed, not what it gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import start
from tiny import batch, check_same_step, prefixed, step
from torch._dynamo.utils import counters

from seq2seq.arguments import Arguments
from seq2seq.compiling import check_compiler
from seq2seq.curves import read_rows
from seq2seq.padding import padding_known
from seq2seq.utils import UserError


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_step_is_one_graph_for_batches_of_all_lengths(family: str, padded: bool) -> None:
    """Without graph breaks, and captured no more than twice; the step is the uncompiled one's."""
    layers = {"encoder_layers": 1, "decoder_layers": 1} if family == "bart" else {"n_layer": 1}
    prefix = prefixed(family, changes=layers).train()
    prefix.model.eval()
    torch._dynamo.reset()
    counters.clear()
    stack = prefix.model.base_model
    with padding_known(padded):
        wanted = [step(prefix, **part) for part in parts(family, padded)]
        stack.forward = torch.compile(stack.forward, dynamic=True, fullgraph=True, backend="eager")
        for part, want in zip(parts(family, padded), wanted, strict=True):
            check_same_step(step(prefix, **part), want)
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]


def parts(family: str, padded: bool) -> list[dict[str, torch.Tensor]]:
    """Batches of different lengths and sizes; without padding: the first row's tokens alone, twice."""
    whole = batch(family)
    if padded:
        cuts: list[Any] = [slice(None), slice(2), (slice(1, None), slice(5))]
    else:
        whole = {name: x[:1].expand(2, -1).clamp(min=1) for name, x in whole.items()}
        cuts = [slice(None), (slice(None), slice(4)), (slice(None), slice(3))]
    return [{name: x[cut].clone() for name, x in whole.items()} for cut in cuts]


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_a_compiled_run_has_the_losses_of_an_uncompiled_one(
    small_gpt2: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], without_curves: None
) -> None:
    options = {**small_gpt2, "max_steps": 2, "n_val": 0, "n_test": 1, "max_length": 4, "baselines": "none"}
    runs = {name: start(**options, compile=name, output_dir=tmp_path / name) for name in ("no", "yes")}
    assert capsys.readouterr().out.count("--compile: the first step took ") == 1
    losses = {name: [float(row["train_loss"]) for row in read_rows(run / "metrics.csv")] for name, run in runs.items()}
    assert len(losses["yes"]) == 2
    assert losses["yes"] == pytest.approx(losses["no"], rel=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_wrapped_model_compiles_as_a_whole(family: str, training: bool) -> None:
    _compiles(prefixed(family).train(training), family)


def test_shifted_positions_compile_too() -> None:
    _compiles(prefixed("bart", shift_positions=True), "bart")


def _compiles(prefix: Any, family: str) -> None:
    prefix.model.eval()
    torch._dynamo.reset()
    inputs = batch(family)
    torch.testing.assert_close(torch.compile(prefix, backend="eager")(**inputs).logits, prefix(**inputs).logits)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.cpp_builder as builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none_found() -> str:
        raise InvalidCxxCompiler

    check_compiler("cpu")
    monkeypatch.setattr(builder, "get_cpp_compiler", none_found)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)


def test_without_a_compiler_there_is_one_line(no_compiler: None) -> None:
    with pytest.raises(UserError, match=r"--compile: no C\+\+ compiler is found; install g\+\+"):
        check_compiler("cpu")
    with pytest.raises(UserError, match="--compile: triton, which compiles for cuda, is not there"):
        check_compiler("cuda")


def test_without_a_compiler_nothing_is_overwritten(small: dict[str, Any], tmp_path: Path, no_compiler: None) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("mode: prefixtune\n")
    with pytest.raises(UserError, match=r"--compile: no C\+\+ compiler is found"):
        start(**small, compile="yes", overwrite="yes", output_dir=run)
    assert (run / "config.yaml").read_text() == "mode: prefixtune\n"


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"mode": "adaptertune"}, "--mode adaptertune"),
        ({"prefix_mode": "embedding"}, "--prefix_mode embedding"),
        ({"format_mode": "infix"}, "--format_mode infix"),
        ({"gradient_checkpointing": True}, "--gradient_checkpointing"),
    ],
)
def test_what_it_does_not_go_with(options: dict[str, Any], other: str) -> None:
    Arguments(**options)
    with pytest.raises(UserError, match=f"--compile: does not go with {other}; leave one of them out"):
        Arguments(**options, compile=True)
