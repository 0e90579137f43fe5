"""The benchmark runs what it says it compares, keeps what it measured, and reports it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("peft")

from benchmarks import adapters_peer, bench, items, memory, peft_search, startup  # noqa: E402
from benchmarks.adapters_peer import AdaptersWorker, Unavailable, python_of_environment  # noqa: E402
from benchmarks.bench import Options, read_results  # noqa: E402
from benchmarks.items import BART_TRAIN, BEAM, GPT2_TRAIN, MEMORY, Plan  # noqa: E402
from benchmarks.machine import describe  # noqa: E402
from benchmarks.minimums import checks  # noqa: E402
from benchmarks.ratios import automatic, default_ratio, ratio  # noqa: E402
from benchmarks.report import write_report  # noqa: E402
from benchmarks.roofline import rate_of, search_flops, training_flops  # noqa: E402
from benchmarks.shapes import E2E_LENGTHS, Setting, base_model, inputs_of, search_options  # noqa: E402
from benchmarks.systems import System, beam_systems, measure, systems_of, train_step  # noqa: E402
from seq2seq.generation import generate  # noqa: E402
from seq2seq.prefixTuning import PrefixTuning  # noqa: E402
from seq2seq.utils import UserError  # noqa: E402

PLAN = Plan(turns=2, budget=1.0, threads=1, quick=True)
TINY: dict[str, Any] = {"layers": 1, "width": 48, "batch": 2, "source": 6, "target": 3, "beams": 2, "preseqlen": 2}

# a worker that knows nothing of adapters: it answers what it is asked
FAKE_WORKER = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    answers = {"run": {"seconds": 0.5}, "versions": {"adapters": "1", "transformers": "2", "torch": "3"},
               "peak": {"bytes": 7}, "fail": {"error": "OSError: no such thing"}}
    if request["do"] == "end":
        break
    print(json.dumps(answers.get(request["do"], {})), flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdaptersWorker]:
    """A worker process with the protocol alone."""
    (tmp_path / "adapters_worker.py").write_text(FAKE_WORKER)
    monkeypatch.setattr(adapters_peer, "HERE", tmp_path)
    with AdaptersWorker(Path(sys.executable), 1) as running:
        yield running


# -- what is compared -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_search_without_prefix_gives_the_plain_ones_tokens(family: Any) -> None:
    setting = Setting("beam", family, **TINY)
    model, options = base_model(setting).eval(), search_options(setting)
    plain = model.generate(**options)
    assert plain.shape == (2, 4 if family == "bart" else 9)
    assert torch.equal(generate(model, **options), plain)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_each_system_of_a_search_has_its_turns(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_search, "peft_keeps_its_prefix", lambda: True)  # what it decodes is not looked at
    setting = Setting("beam", family, **TINY)
    assert list(beam_systems(setting, base_model(setting).eval(), BEAM)) == [
        "ours", "ours without prefix", "peft", "plain",
    ]  # fmt: skip


@pytest.mark.parametrize(("family", "names"), [("bart", BART_TRAIN), ("gpt2", GPT2_TRAIN)])
def test_all_systems_take_turns_in_training(family: Any, names: tuple[str, ...], worker: AdaptersWorker) -> None:
    systems = systems_of(Setting("train", family, "bf16", mid_dim=4, **TINY), names, worker)
    seconds = measure(systems, 2, budget=60.0)
    assert set(seconds) == set(names)
    assert all(value and value > 0 for values in seconds.values() for value in values)
    assert seconds["adapters"] == [0.5, 0.5]


def test_a_long_system_sits_turns_out_after_its_least() -> None:
    order: list[str] = []

    def system(name: str, seconds: float, least: int) -> System:
        return System(
            lambda: order.append(f"warm {name}"), lambda turn: order.append(f"{name}{turn}") or seconds, least
        )

    seconds = measure({"a": system("a", 0.1, 2), "b": system("b", 9.0, 2), "c": system("c", 9.0, 1)}, 3, budget=1.0)
    assert order == ["warm a", "warm b", "warm c", "a0", "b0", "c0", "a1", "b1", "a2"]
    assert seconds == {"a": [0.1, 0.1, 0.1], "b": [9.0, 9.0, None], "c": [9.0, None, None]}


def test_the_floor_has_a_gradient_through_every_activation_and_trains_nothing() -> None:
    setting = Setting("train", "bart", **TINY)
    model, reached = base_model(setting), []
    step = train_step("floor", setting, model)
    for layer in (*model.get_encoder().layers, *model.get_decoder().layers):
        layer.register_full_backward_hook(
            lambda module, to_inputs, to_outputs: reached.append(to_inputs[0] is not None)
        )
    step(inputs_of(setting)[0])
    assert reached == [True, True] and not any(p.requires_grad for p in model.parameters())


def test_rows_of_e2e_stand_in_their_order() -> None:
    setting = Setting("train", "gpt2", **{**TINY, "batch": 10}, lengths=E2E_LENGTHS)
    first = inputs_of(setting)[0]
    assert len(inputs_of(setting)) == 10
    assert first["attention_mask"].sum(1).tolist() == [source + target for source, target in E2E_LENGTHS[:10]]
    assert (first["labels"] != -100).sum(1).tolist() == [target for _, target in E2E_LENGTHS[:10]]
    assert first["input_ids"].shape[1] == max(source + target for source, target in E2E_LENGTHS[:10])


def test_zero_is_the_familys_own() -> None:
    assert (Setting().layers, Setting().beams, Setting(family="gpt2").beams) == (6, 6, 5)
    assert Setting(item="train", family="gpt2").batch == 10 and Setting(family="gpt2").batch == 16
    assert base_model(Setting("train", "gpt2", "bf16", **TINY)).dtype == torch.bfloat16


# -- memory, start, roofline ----------------------------------------------------------------------------------------


def test_peak_memory_is_a_new_processs() -> None:
    assert 0 < memory.peak_of("ours", Setting("train", "bart", mid_dim=4, **TINY), threads=1) < 10**9


def test_every_system_of_the_memory_table_makes_a_step() -> None:
    setting = Setting("train", "bart", mid_dim=4, **TINY)
    for name in MEMORY:
        train_step(name, setting, base_model(setting))(inputs_of(setting)[0])


def test_the_first_step_is_seen(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [f"--{name}={value}" for name, value in small.items() if name not in ("cache_dir", "progress")]
    assert 0 < startup.seconds_to_first_step(tmp_path, tuple(flags)) < startup.PATIENCE
    monkeypatch.setattr(startup, "COMMAND", [sys.executable, "-c", "raise SystemExit('no model')"])
    with pytest.raises(RuntimeError, match="ended before its first step: no model"):
        startup.seconds_to_first_step(tmp_path)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_the_formula_counts_what_a_training_step_cannot_leave_out(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch counts what is done: a little more, as causal attention computes the hidden half too."""
    monkeypatch.setattr("seq2seq.prefix_attention.products_pay", lambda *args: True)  # torch counts no fused CPU kernel
    monkeypatch.setattr("seq2seq.frozen_products.onednn_pays", lambda: False)  # nor oneDNN's products
    setting = Setting("train", family, layers=2, width=192, batch=2, source=20, target=10, preseqlen=4, mid_dim=16)
    step = train_step("ours", setting, base_model(setting))
    batch = inputs_of(setting)[0]
    with FlopCounterMode(display=False) as counter:
        step(batch)
    assert 1.0 <= counter.get_total_flops() / training_flops(setting) < 1.05


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_the_formula_counts_what_a_search_cannot_leave_out(family: Any) -> None:
    setting = Setting("beam", family, layers=2, width=192, batch=2, source=20, target=6, beams=3, preseqlen=4)
    prefix = PrefixTuning(base_model(setting), setting.preseqlen, mid_dim=0).eval()
    with FlopCounterMode(display=False) as counter, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "seq2seq.generation.fast_layers", lambda model, rows: torch.no_grad()
        )  # torch does not count packed ones
        patch.setattr("seq2seq.prefix_attention.products_pay", lambda *args: True)
        prefix.generate(**search_options(setting))
    assert 1.0 <= counter.get_total_flops() / search_flops(setting) < 1.05


def test_a_rate_is_operations_a_second() -> None:
    assert 1e6 < rate_of(64, 64, 64, torch.float32, 0.001) < 1e15


# -- results --------------------------------------------------------------------------------------------------------


def run(place: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """Items that `bench` measured, with items that take no time."""
    measured: list[str] = []

    def item(name: str) -> Any:
        def measure_item(plan: Plan) -> dict[str, Any]:
            measured.append(name)
            return RESULTS["items"][name]

        return measure_item

    monkeypatch.setattr(items, "ITEMS", {name: item(name) for name in RESULTS["items"]})
    monkeypatch.setattr(bench, "in_a_new_process", lambda work, *arguments: work(*arguments))
    bench.bench(Options(**{"output_dir": str(place), "quick": True, "adapters": False, "turns": 2, **options}))
    return measured


def alternating(kind: str, family: str, names: tuple[str, ...], seconds: dict[str, float]) -> dict[str, Any]:
    """An item whose systems take 6 s, or what `seconds` says, in float32, and half of that in bf16."""
    work = PLAN.setting(kind, family).__dict__  # type: ignore[arg-type]
    turns = {name: [seconds.get(name, 6.0), seconds.get(name, 6.0)] for name in names}
    halves: dict[str, list[float | None]] = {name: [s / 2, None] for name, (s, _) in turns.items()}
    return {"work": work, "turns": {"32": turns, "bf16": halves}}


RESULTS: dict[str, Any] = {
    "items": {
        "bart_train": alternating("train", "bart", BART_TRAIN, {"ours": 2.0}),
        "bart_beam": alternating("beam", "bart", BEAM, {"ours": 1.0, "ours without prefix": 0.9, "peft": 3.0}),
        "memory": {
            "work": PLAN.setting("train", "bart").__dict__,
            "bytes": {p: dict.fromkeys(MEMORY, [1e9, 1.2e9]) | {"ours": [2e9, 2e9]} for p in ("32", "bf16")},
        },
        "start_up": {"help": [0.5, 0.7], "first step": [3.5, 3.6]},
        "roofline": {"rates": {"32": {"big square": 2e9}, "bf16": {"big square": 4e9}}},
        "curve_beams": {
            "work": {**PLAN.setting("beam", "bart").__dict__, "field": "beams"},
            "turns": {"beam": {"2": {"ours": [1.0], "peft": [2.0]}, "4": {"ours": [1.5], "peft": [8.0]}}},
        },
    }
}


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, only=["bart_beam"]) == ["bart_beam"]
    assert run(tmp_path, monkeypatch) == [name for name in RESULTS["items"] if name != "bart_beam"]
    assert run(tmp_path, monkeypatch) == []
    assert run(tmp_path, monkeypatch, only=["memory"], again=True) == ["memory"]
    assert set(read_results(tmp_path / "results.json")["items"]) == set(RESULTS["items"])
    assert run(tmp_path, monkeypatch, report=True) == []
    assert run(tmp_path, monkeypatch, threads=torch.get_num_threads() + 1) == list(RESULTS["items"])
    torch.set_num_threads(torch.get_num_threads() - 1)


def test_each_item_has_a_process_of_its_own() -> None:
    processes = [bench.in_a_new_process(os.getpid) for _ in range(2)]
    assert len({os.getpid(), *processes}) == 3


def test_the_report_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, monkeypatch)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| BART beam search, 32: peft over ours | ≥ 4 | 3.00 (3.00-3.00) | **no** |" in text
    assert "| BART training step, 32: adapters over ours | ≥ 1.8 | 3.00 (3.00-3.00) | yes |" in text
    assert "| GPT-2 beam search, 32: peft over ours | ≥ 2 | not measured | - |" in text
    assert "| BART beam search, 32: P = 6 over P = 0 | ≤ 1.15 | 1.11 (1.11-1.11) | yes |" in text
    assert "| command to first training step, s | ≤ 3 | 3.55 | **no** |" in text
    assert "| 32 | peft | 2 | 3.000 | 3.000-3.000 | 2.7 | 3.00 (3.00-3.00) |" in text
    assert "| ours, gradient checkpointing | 1.10 (1.00-1.20) | 1.10 (1.00-1.20) |" in text
    assert "ours with gradient checkpointing over without | ≤ 0.6 | 0.55 (0.50-0.60) | yes |" in text
    assert "| 4 | 1.500 | 8.000 |" in text and "grows ours 1.50 times and peft 4.00 times" in text
    assert text.count("adapters is left out: left out with --adapters no.") == 2
    assert (tmp_path / "results.svg").stat().st_size > 10_000


def test_default_against_default_is_the_peers_float32_over_our_automatic_precision() -> None:
    item = RESULTS["items"]["bart_beam"]
    for units, expected in ((["AMX"], 6.0), ([], 3.0)):
        results = {"machine": {"units": units}, "items": {"bart_beam": item}}
        assert automatic(results) == ("bf16" if units else "32")
        assert default_ratio(item, "peft", results).median == expected
        check = next(check for check in checks(results) if "default" in check.what and "BART beam" in check.what)
        assert (check.measured, check.met) == (f"{expected:.2f} ({expected:.2f}-{expected:.2f})", False)


def test_without_bf16_units_only_float32_is_measured_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items.machine, "has_bf16_units", lambda: False)
    plan = Plan(turns=1, budget=1.0, threads=1)
    assert plan.precisions == ("32",)
    assert replace(plan, quick=True).precisions == ("32", "bf16")
    monkeypatch.setattr(items.machine, "has_bf16_units", lambda: True)
    assert plan.precisions == ("32", "bf16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    found = {
        name: {**item, "turns": {"32": item["turns"]["32"]}} if name.startswith("bart") else item
        for name, item in RESULTS["items"].items()
    }
    found["memory"] = {**found["memory"], "bytes": {"32": found["memory"]["bytes"]["32"]}}
    found["roofline"] = {"rates": {"32": {"big square": 2e9}}}
    stamp = {"adapters": {"missing": "left out"}, "date": "2026-01-01", "took": 1.0}
    machine = {**describe(1), "quick": False}
    write_report({"machine": machine, "items": {name: {**item, **stamp} for name, item in found.items()}}, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "bf16 is left out: this processor has no units for it" in text
    assert "| BART beam search, bf16: peft over ours | ≥ 3 | not measured | - |" in text
    assert "| BART beam search, default against default: peft over ours | ≥ 7 | 3.00 (3.00-3.00) | **no** |" in text


def test_ratios_are_of_the_turns_that_both_took() -> None:
    assert str(ratio([3.0, 4.0, 20.0], [1.0, 2.0, 4.0])) == "3.00 (2.00-5.00)"
    assert str(ratio([3.0, None], [1.0, 9.0])) == "3.00 (3.00-3.00)"


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--turns 0: give at least 1"):
        Options(turns=0)
    with pytest.raises(UserError, match="--only beams: no such item; known are bart_train"):
        run(tmp_path, monkeypatch, only=["beams"])
    with pytest.raises(UserError, match="holds no item; leave --report out to measure"):
        run(tmp_path, monkeypatch, report=True)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON .* delete it"):
        run(tmp_path, monkeypatch)


# -- adapters' own process ------------------------------------------------------------------------------------------


def test_the_worker_answers_and_its_failures_say_why(worker: AdaptersWorker) -> None:
    assert worker.ask("versions")["adapters"] == "1"
    with pytest.raises(Unavailable, match="adapters fails at 'fail': OSError: no such thing"):
        worker.ask("fail")
    with pytest.raises(Unavailable, match="the adapters worker ended at 'end'"):
        worker.ask("end")


def test_without_adapters_the_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable() -> Path:
        raise Unavailable("adapters==1.3.0 cannot be installed: ERROR: no network")

    monkeypatch.setattr(adapters_peer, "python_of_environment", unavailable)
    assert run(tmp_path, monkeypatch, adapters=True) == list(RESULTS["items"])
    assert "adapters is left out: adapters==1.3.0 cannot be installed: ERROR: no network\n" in capsys.readouterr().out
    assert "adapters: left out: adapters==1.3.0 cannot be installed" in (tmp_path / "RESULTS.md").read_text()


def test_an_environment_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, int("pip" in command), "", "WARNING: a\nERROR: no match for torch\n"
        )

    monkeypatch.setattr(adapters_peer.subprocess, "run", pip)
    with pytest.raises(Unavailable, match="adapters==1.3.0 cannot be installed: ERROR: no match for torch"):
        python_of_environment(tmp_path / "venv")


@pytest.mark.skipif(not (adapters_peer.VENV / ".ready").is_file(), reason="`make bench` has not set adapters up")
def test_adapters_itself_does_the_same_work() -> None:
    kinds: list[tuple[Any, Any]] = [(item, family) for item in ("beam", "train") for family in ("bart", "gpt2")]
    settings = [Setting(item, family, "bf16", mid_dim=4, **TINY) for item, family in kinds]
    with AdaptersWorker(python_of_environment(), 1) as running:
        for setting in settings:
            system = systems_of(setting, ("adapters",), running)["adapters"]
            system.warm()
            assert system.run(0) > 0
        assert running.ask("peak")["bytes"] > 0
