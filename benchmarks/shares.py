"""The share of the matrix-product rate that this project reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.ratios import taken
from benchmarks.roofline import search_flops, training_flops
from benchmarks.shapes import Setting


@dataclass(frozen=True)
class Share:
    """Operations that one turn needs, those done a second, and their share of the big product's rate."""

    what: str
    precision: str
    needed: float
    rate: float
    of_limit: float


def shares(results: dict[str, Any]) -> list[Share]:
    """Every alternating run that was measured, in both precisions."""
    items = results["items"]
    found = []
    for name in ("bart_train", "bart_beam", "gpt2_train", "gpt2_beam"):
        for precision, turns in items.get(name, {"turns": {}})["turns"].items():
            limit = next(iter(items["roofline"]["rates"][precision].values()))
            needed = [flops_of_turn(items[name]["work"], turn) for turn, s in enumerate(turns["ours"]) if s is not None]
            rate = sum(needed) / sum(taken(turns["ours"]))
            what = name.replace("bart", "BART").replace("gpt2", "GPT-2").replace("_", " ")
            found.append(Share(what, precision, sum(needed) / len(needed), rate, rate / limit))
    return found


def flops_of_turn(work: dict[str, Any], turn: int) -> float:
    """Operations that the work of a turn needs; turn t takes batch t."""
    setting = Setting(**{**work, "lengths": tuple((source, target) for source, target in work["lengths"])})
    if setting.item == "beam":
        return search_flops(setting)
    batches = setting.batches()
    return training_flops(setting, batches[turn % len(batches)])
