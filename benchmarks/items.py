"""What `make bench` measures, item by item; each gives plain numbers for results.json.

{"work": what was done in a turn, "turns": {precision: {system: seconds of each turn, or null}}}
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks import machine, memory, roofline, startup
from benchmarks.adapters_peer import AdaptersWorker
from benchmarks.shapes import E2E_LENGTHS, Setting, base_model
from benchmarks.systems import ADAPTERS, measure, systems_of

Precision = Literal["32", "bf16"]
BART_TRAIN = (
    "ours", "ours decoder only", "ours decoder only, flat", "peft", "peft with MLP", ADAPTERS, "floor", "fine-tuning",
)  # fmt: skip
GPT2_TRAIN = ("ours", "peft", "peft with MLP", ADAPTERS, "floor", "fine-tuning")
BEAM = ("ours", "ours without prefix", "peft", "plain", ADAPTERS)
MEMORY = ("ours", "ours, gradient checkpointing", "ours decoder only", "peft", "peft with MLP", "floor", "fine-tuning")
MEMORY_TURNS = 3  # at most: where the allocator places tensors differs from process to process, by some per cent
CURVE = ("ours", "peft")
CURVE_TOKENS = 16  # new ones in the searches of a curve: what a step costs shows in a few
VALUES: dict[str, tuple[int, ...]] = {
    "preseqlen": (1, 5, 20, 50, 100, 200, 400),
    "source": (128, 256, 512, 1024),
    "batch": (1, 2, 4, 8),
    "beams": (2, 4, 6, 8),
}


@dataclass(frozen=True)
class Plan:
    """How everything is measured.

    Args:
        turns: of each system at most.
        budget: seconds after which a system that has had two turns (adapters' search: one) sits the others out.
        threads: of torch, in every process.
        quick: tiny models and few values, to see that all of it works.
        python: interpreter of adapters' environment; None = it cannot be had.
        worker: adapters' process in it.
    """

    turns: int
    budget: float
    threads: int
    quick: bool = False
    python: Path | None = None
    worker: AdaptersWorker | None = None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those measured; bf16 not where the processor has no units for it, for a step then takes minutes."""
        return ("32", "bf16") if self.quick or machine.has_bf16_units() else ("32",)

    def setting(self, item: Literal["beam", "train"], family: Literal["bart", "gpt2"], **changes: Any) -> Setting:
        """The family's own shape, or a tiny one."""
        tiny = {"layers": 1, "width": 48, "batch": 2, "source": 12, "target": 4, "beams": 2, "mid_dim": 8}
        tiny["preseqlen"] = 6 if family == "bart" else 2
        return Setting(**{"item": item, "family": family, **(tiny if self.quick else {}), **changes})


def compare(plan: Plan, setting: Setting, names: tuple[str, ...]) -> dict[str, Any]:
    """All systems in all precisions, taking turns in one run."""
    systems = {
        (precision, name): system
        for precision in plan.precisions
        for name, system in systems_of(replace(setting, precision=precision), names, plan.worker).items()
    }
    flat = measure({f"{precision}/{name}": system for (precision, name), system in systems.items()},
                   plan.turns, plan.budget)  # fmt: skip
    if plan.worker:
        plan.worker.ask("forget")
    turns = {p: {name: flat[f"{p}/{name}"] for q, name in systems if q == p} for p in plan.precisions}
    return {"work": asdict(setting), "turns": turns}


def bart_train(plan: Plan) -> dict[str, Any]:
    """A training step of BART."""
    return compare(plan, plan.setting("train", "bart"), BART_TRAIN)


def gpt2_train(plan: Plan) -> dict[str, Any]:
    """Training steps of GPT-2 on E2E's rows in their order; turn t takes batch t."""
    return compare(plan, plan.setting("train", "gpt2", lengths=E2E_LENGTHS), GPT2_TRAIN)


def bart_beam(plan: Plan) -> dict[str, Any]:
    """A beam search of BART."""
    return compare(plan, plan.setting("beam", "bart"), BEAM)


def gpt2_beam(plan: Plan) -> dict[str, Any]:
    """A beam search of GPT-2."""
    return compare(plan, plan.setting("beam", "gpt2"), BEAM)


def peak_memory(plan: Plan) -> dict[str, Any]:
    """Bytes of a BART training step at its peak, each system in a fresh process in each turn."""
    setting = plan.setting("train", "bart")
    names = (*MEMORY, ADAPTERS) if plan.python else MEMORY
    peaks: dict[str, dict[str, list[int]]] = {p: {name: [] for name in names} for p in plan.precisions}
    for _ in range(min(plan.turns, MEMORY_TURNS)):
        for precision, of_precision in peaks.items():
            of = replace(setting, precision=precision)
            for name, of_system in of_precision.items():
                if name == ADAPTERS:
                    of_system.append(memory.peak_of_adapters(plan.python, of, plan.threads))
                else:
                    of_system.append(memory.peak_of(name, of, plan.threads))
    return {"work": asdict(setting), "bytes": peaks}


def curve(field: str) -> Callable[[Plan], dict[str, Any]]:
    """An item: seconds of BART's search and step against one field of the setting, in the automatic precision."""

    def item(plan: Plan) -> dict[str, Any]:
        precision: Precision = "bf16" if machine.has_bf16_units() else "32"
        kinds: tuple[Literal["beam", "train"], ...] = ("beam",) if field == "beams" else ("beam", "train")
        own = {"precision": precision} | ({} if plan.quick else {"target": CURVE_TOKENS})
        values = (2, 3) if plan.quick else VALUES[field]
        model = base_model(plan.setting("beam", "bart", **own))
        turns: dict[str, dict[str, Any]] = {}
        for kind in kinds:
            turns[kind] = {}
            for value in values:
                changes = {**({"precision": precision} if kind == "train" else own), field: value}
                systems = systems_of(plan.setting(kind, "bart", **changes), CURVE, None, model)
                turns[kind][str(value)] = measure(systems, min(plan.turns, 2), plan.budget)
                del systems
                gc.collect()
        return {"work": {**asdict(plan.setting("beam", "bart", **own)), "field": field}, "turns": turns}

    item.__doc__ = f"Cost of BART's beam search and training step against {field}."
    return item


def start_up(plan: Plan) -> dict[str, Any]:
    """Seconds of train_bart.py: its help, and to the first step on the carried model with the tokens cached."""
    flags = ("--threads", str(plan.threads))
    with tempfile.TemporaryDirectory() as folder:
        startup.seconds_to_first_step(Path(folder), flags)  # fills the cache
        steps = [startup.seconds_to_first_step(Path(folder), flags) for _ in range(plan.turns)]
    return {"help": [startup.seconds_to_help() for _ in range(plan.turns + 1)][1:], "first step": steps}


def rates(plan: Plan) -> dict[str, Any]:
    """This machine's matrix-product rates; the shares reached follow from them and the other items."""
    square, seconds = (64, 0.01) if plan.quick else (4096, 2.0)
    return {"rates": roofline.product_rates(plan.setting("beam", "bart"), plan.precisions, square, seconds)}


ITEMS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "start_up": start_up,
    "roofline": rates,
    "bart_train": bart_train,
    "bart_beam": bart_beam,
    "gpt2_train": gpt2_train,
    "gpt2_beam": gpt2_beam,
    "memory": peak_memory,
    **{f"curve_{field}": curve(field) for field in VALUES},
}
