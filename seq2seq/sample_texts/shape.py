"""The shape of a domain of the carried `sample` data: its facts, phrasings, summaries and sentences that do not matter.

Templates know three marks: `[a|b]` is a free choice, `{slot}` a slot of the record (or a fresh name, see
`names.fresh`), and `{^slot}` the same with a capital letter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """One kind of notice or report."""

    name: str
    slots: dict[str, str | tuple]
    """Filled in order; a key "a,b" with tuples of two fills both slots from the same row."""
    facts: tuple[tuple[str, ...], ...]
    """Phrasings of every fact sentence; the first fact is the news, the others follow it in any order."""
    summaries: tuple[str, ...]
    leads: tuple[str, ...]
    """Openings that come before the news."""
    fillers: tuple[str, ...]
    """Sentences that do not matter, fit for any place after the news."""
    days: tuple[int, ...] = ()
    """Weekdays (Monday is 0) of the record's first date; empty means any."""
