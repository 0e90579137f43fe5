"""Seconds, or bytes, of turns as medians, spreads and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """Seconds (or bytes) of one system over those of another, turn by turn."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.greatest:.2f})"


def taken(seconds: Sequence[float | None]) -> list[float]:
    """The turns that a system took."""
    return [value for value in seconds if value is not None]


def median_of(seconds: Sequence[float | None]) -> float:
    """Median of the turns that a system took."""
    return statistics.median(taken(seconds))


def spread_of(seconds: Sequence[float | None]) -> str:
    """Least and greatest of the turns that a system took."""
    return f"{min(taken(seconds)):.3f}-{max(taken(seconds)):.3f}"


def ratio(theirs: Sequence[float | None], ours: Sequence[float | None]) -> Ratio:
    """Theirs over ours in the turns that both took; the first turn is always one of them."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None]
    return Ratio(statistics.median(pairs), min(pairs), max(pairs))


def automatic(results: dict[str, Any]) -> str:
    """What --precision auto is on the machine of the results: bf16 where it has units for it."""
    return "bf16" if {"AMX", "AVX512-BF16"} & set(results["machine"]["units"]) else "32"


def default_ratio(item: dict[str, Any], peer: str, results: dict[str, Any]) -> Ratio:
    """A peer in its default precision, float32, over ours in ours."""
    return ratio(item["turns"]["32"][peer], item["turns"][automatic(results)]["ours"])
