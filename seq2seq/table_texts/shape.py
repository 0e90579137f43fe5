"""The shape of a domain of the carried `sample_tables` data: its fields, and how a sentence can say each of them.

In a phrase `{}` is the value of the field and `{N}` the mention of the thing that the record is about. Which phrases
stand together in a sentence is the business of `plans.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """One field of a record and its phrases by their place in the sentence; an empty tuple means none."""

    key: str
    """The field's name in the source; two fields of one key are two kinds of value of it, e.g. a price and "free"."""
    values: str
    """Template of the values; see `names.draw`."""
    adj: tuple[str, ...] = ()
    """Before the noun: "dog-friendly"."""
    post: tuple[str, ...] = ()
    """After the noun: "with 40 seats"."""
    part: tuple[str, ...] = ()
    """Participle with the thing as its subject: "founded in 1934"."""
    verb: tuple[str, ...] = ()
    """Predicate with the thing as its subject: "opens at 7 am"."""
    lead: tuple[str, ...] = ()
    """Clause that mentions the thing somewhere behind its start: "Ada Crabbe runs {N}"."""
    clause: tuple[str, ...] = ()
    """Clause that follows another one about the thing: "the owner is Ada Crabbe"."""


@dataclass(frozen=True)
class Domain:
    """One kind of thing that records are about; fields stand in the order in which they may follow the noun."""

    name: str
    noun: str
    """What any of the things can be called: "the museum"."""
    names: str
    """Template of the names of the things."""
    kind: Field
    """The field that says what the thing is; every record has it, and its value is the noun of the sentence."""
    fields: tuple[Field, ...]
    frames: tuple[str, ...]
    """Plans of this domain alone, written as `plans.PLANS`."""
    person: bool = False
    """Whether the thing is a person: "who", and the surname in place of "it"."""
