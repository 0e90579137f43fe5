"""The least that this project asks of its speed, checked against results.json."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.ratios import Ratio, default_ratio, ratio


@dataclass(frozen=True)
class Check:
    """One minimum; `met` is None where it is not measured."""

    what: str
    bound: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "yes", False: "**no**", None: "-"}[self.met]


# item, precision (default: a peer's float32 against ours' automatic one), theirs, ours, how often as long at least
FASTER = (
    ("bart_beam", "32", "peft", "ours", 4.0),
    ("bart_beam", "bf16", "peft", "ours", 3.0),
    ("bart_beam", "32", "plain", "ours", 3.0),
    ("bart_beam", "bf16", "plain", "ours", 3.0),
    ("bart_beam", "32", "adapters", "ours", 20.0),
    ("bart_beam", "bf16", "adapters", "ours", 20.0),
    ("bart_beam", "default", "peft", "ours", 7.0),
    ("gpt2_beam", "32", "peft", "ours", 2.0),
    ("gpt2_beam", "bf16", "peft", "ours", 5.0),
    ("gpt2_beam", "default", "peft", "ours", 4.5),
    ("bart_train", "32", "adapters", "ours", 1.8),
    ("bart_train", "bf16", "adapters", "ours", 2.2),
    ("bart_train", "default", "adapters", "ours", 5.0),
    ("bart_train", "32", "peft", "ours decoder only, flat", 1.0),
    ("bart_train", "bf16", "peft", "ours decoder only, flat", 1.0),
    ("bart_train", "32", "peft with MLP", "ours decoder only", 1.0),
    ("bart_train", "bf16", "peft with MLP", "ours decoder only", 1.0),
    ("gpt2_train", "32", "peft", "ours", 1.7),
    ("gpt2_train", "bf16", "peft", "ours", 3.0),
    ("gpt2_train", "default", "peft", "ours", 4.5),
)
PREFIX_COST = 1.15  # P = 200 over no prefix, in beam search
OF_FLOOR, OF_PLAIN_STEP = 1.10, 0.60  # peak memory: of the floor's; with gradient checkpointing, of without
SECONDS = {"help": ("`train_bart.py --help`, s", 1.0), "first step": ("command to first training step, s", 3.0)}
NAMES = {"bart_beam": "BART beam search", "gpt2_beam": "GPT-2 beam search",
         "bart_train": "BART training step", "gpt2_train": "GPT-2 training on E2E's rows"}  # fmt: skip


def checks(results: dict[str, Any]) -> list[Check]:
    """Every minimum, measured or not."""
    items = results["items"]
    found = [_faster(results, *row) for row in FASTER]
    found += [_prefix_cost(items, precision) for precision in ("32", "bf16")]
    found += _memory(items)
    for key, (what, most) in SECONDS.items():
        seconds = statistics.median(items["start_up"][key]) if "start_up" in items else None
        found.append(_at_most(what, seconds, most))
    return found


def _faster(results: dict[str, Any], name: str, precision: str, theirs: str, ours: str, least: float) -> Check:
    where = "default against default" if precision == "default" else precision
    what = f"{NAMES[name]}, {where}: {theirs} over {ours}"
    turns = results["items"].get(name, {}).get("turns", {})
    if theirs not in turns.get("32" if precision == "default" else precision, {}):
        return Check(what, f"≥ {least:g}", "not measured", None)
    if precision == "default":
        found = default_ratio(results["items"][name], theirs, results)
    else:
        found = ratio(turns[precision][theirs], turns[precision][ours])
    return Check(what, f"≥ {least:g}", str(found), found.median >= least)


def _prefix_cost(items: dict[str, Any], precision: str) -> Check:
    turns = items.get("bart_beam", {}).get("turns", {}).get(precision)
    prefix = items["bart_beam"]["work"]["preseqlen"] if turns else 200
    what = f"BART beam search, {precision}: P = {prefix} over P = 0"
    return _at_most(what, ratio(turns["ours"], turns["ours without prefix"]) if turns else None, PREFIX_COST)


def _memory(items: dict[str, Any]) -> list[Check]:
    peaks = items.get("memory", {}).get("bytes", {}).get("32")
    pairs = (
        ("ours over floor", "ours", "floor", OF_FLOOR),
        ("ours with gradient checkpointing over without", "ours, gradient checkpointing", "ours", OF_PLAIN_STEP),
    )
    found = []
    for words, system, other, most in pairs:
        value = ratio(peaks[system], peaks[other]) if peaks else None
        found.append(_at_most(f"peak memory, float32: {words}", value, most))
    return found


def _at_most(what: str, found: Ratio | float | None, most: float) -> Check:
    if found is None:
        return Check(what, f"≤ {most:g}", "not measured", None)
    value, shown = (found.median, str(found)) if isinstance(found, Ratio) else (found, f"{found:.2f}")
    return Check(what, f"≤ {most:g}", shown, value <= most)
