"""Write the generated part of the carried `sample_tables` table-to-text data: the same seed gives the same bytes.

python -m seq2seq.make_tables --output_dir DIR [--seed 7] [--check | --overwrite]
"""

from __future__ import annotations

import random
import re
import sys
from dataclasses import dataclass
from itertools import permutations

from seq2seq.make_sample import write_or_check
from seq2seq.sample_texts.templates import fill, polish
from seq2seq.table_texts import SEEN, UNSEEN
from seq2seq.table_texts.names import draw
from seq2seq.table_texts.plans import PLANS, THING_PLANS
from seq2seq.table_texts.shape import Domain, Field

COUNTS = {"test": 200, "val": 200, "train": 2000}
"""Records of the seen domains; the test split has as many of the unseen ones again."""
OTHER_FIELDS, WEIGHTS = (1, 2, 3, 4), (2, 3, 3, 2)
"""How many fields a record has beside its name and its kind, and how often."""
REFERENCES = (2, 3, 3, 4)
BOOLEAN = ("yes", "no")
"""Values that a reference says in other words."""
MAX_SOURCE, MAX_REFERENCE = 170, 170
"""Characters; about 70 and 60 tokens of the carried tokenizer."""

_SLOT = re.compile(r"\{\^?([^{}]+)\}")
_FORM = re.compile(r"(adj|post|part|verb|clause):(\d|\?)(?:-(\d))?")
_PREPOSITIONS = {"at", "by", "for", "from", "in", "of", "on", "to", "near", "close", "over", "across"}
"""First words of the phrases that another one may follow after the noun."""
_ASTRAY = re.compile(
    r" (?:with|by|starring|lasting|on the label) [^,.]* (?:that|who) | with [^,.]*, which |[.] It [^.]*, and it "
)
"""A relative clause that would seem to speak of the word before it, not of the thing; two clauses of one opening."""


@dataclass(frozen=True)
class _Table:
    """One record before its references are written."""

    domain: Domain
    name: str
    kind: str
    facts: tuple[tuple[Field, str], ...]

    @property
    def cells(self) -> list[tuple[str, str]]:
        """(key, value) of every field in the order of the source."""
        held = [(field.key, value) for field, value in self.facts]
        return [("name", self.name), (self.domain.kind.key, self.kind), *held]

    @property
    def source(self) -> str:
        """The linearised table."""
        return " | ".join(f"{key} : {value}" for key, value in self.cells)


def _draw_table(rng: random.Random, domain: Domain) -> _Table:
    """A table in which no value stands inside another one."""
    keys = list(dict.fromkeys(field.key for field in domain.fields))
    while True:
        drawn = rng.sample(keys, rng.choices(OTHER_FIELDS, WEIGHTS)[0])
        chosen = [rng.choice([field for field in domain.fields if field.key == key]) for key in drawn]
        facts = tuple((field, draw(rng, field.values)) for field in chosen)
        table = _Table(domain, draw(rng, domain.names), draw(rng, domain.kind.values), facts)
        values = [value for _, value in table.cells]
        words = re.findall(r"[A-Z]\w{3,}", " ".join(values))
        repeated = len(set(words)) < len(words)
        nested = any(place(one, other) >= 0 for one, other in permutations(values, 2))
        if not nested and not repeated and len(table.source) <= MAX_SOURCE:
            return table


def place(value: str, text: str) -> int:
    """Where the value stands in the text as whole words; -1 if nowhere."""
    found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text)
    return found.start() if found else -1


def outline(cells: list[tuple[str, str]], reference: str) -> tuple[str, ...]:
    """The keys of a table in the order in which a reference says their values, "yes" and "no" left out."""
    return tuple(
        key for _, key in sorted((place(value, reference), key) for key, value in cells if value not in BOOLEAN)
    )


class _NoFitError(Exception):
    """A plan and a table do not go together in this draw."""


class _Writer:
    """Writes references of one table."""

    def __init__(self, rng: random.Random, table: _Table) -> None:
        self.rng, self.table = rng, table
        self.values = {field.key: value for field, value in table.facts}

    def write(self, plan: str) -> str:
        """The plan with every field of the table in exactly one of its slots; raises _NoFitError."""
        slots: list[str] = _SLOT.findall(plan)
        named = {slot[1:] for slot in slots if slot[0] == "="}
        if not named <= self.values.keys():
            raise _NoFitError
        shares = self._shares(slots, [field for field, _ in self.table.facts if field.key not in named])
        pieces = [self._piece(slot, share) for slot, share in zip(slots, shares, strict=True)]
        if "after" in slots:
            before = slots.index("before")
            pieces[before], pieces[slots.index("after")] = pieces[before].split("{N}")
        queue = iter(pieces)
        text = polish(fill(self.rng, plan, lambda _: next(queue)))
        return text.replace(" ,", ",").replace(" .", ".").replace(",.", ".")

    def _shares(self, slots: list[str], fields: list[Field]) -> list[list[Field]]:
        """The fields that each slot says, drawn at random; raises _NoFitError if no draw fits."""
        bounds = [_bounds(slot) for slot in slots]
        for _ in range(20):
            shares: list[list[Field]] = [[] for _ in slots]
            for field in self.rng.sample(fields, len(fields)):
                free = [
                    share
                    for share, (form, _, high) in zip(shares, bounds, strict=True)
                    if len(share) < high and _phrases(field, form)
                ]
                if not free:
                    break
                self.rng.choice(free).append(field)
            else:
                if all(len(share) >= low for share, (_, low, _) in zip(shares, bounds, strict=True)):
                    return shares
        raise _NoFitError

    def _piece(self, slot: str, share: list[Field]) -> str:
        """The text of a slot; raises _NoFitError if its phrases do not sound well side by side."""
        domain, table = self.table.domain, self.table
        noun, surname = f"the {domain.noun}", table.name.split()[-1]
        words = {
            "name": table.name,
            "type": table.kind,
            "that": "who" if domain.person else "that",
            "which": "who" if domain.person else "which",
            "the": surname if domain.person else noun,
            "it": self.rng.choice((surname, noun) if domain.person else ("it", "it", noun)),
        }
        if slot[0] == "=" or slot in words:
            return words.get(slot) or self.values[slot[1:]]
        form = _bounds(slot)[0]
        if form == "post":
            share = [field for field in domain.fields if field in share]
        phrases = [self.rng.choice(_phrases(field, form)).replace("{}", self.values[field.key]) for field in share]
        starts = [phrase.split()[0] for phrase in phrases]
        # "has 40 seats and has ..."; "with a roof of tin built by ..."
        if len(set(starts)) < len(starts) or (form == "post" and set(starts[:-1]) - _PREPOSITIONS):
            raise _NoFitError
        if form == "post":
            return " ".join(phrases)
        return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _bounds(slot: str) -> tuple[str, int, int]:
    """The form of a slot and the least and greatest number of fields in it; none for a slot that says no field."""
    if slot in ("before", "ending"):
        return slot, 1, 1
    if found := _FORM.fullmatch(slot):
        form, low, high = found.groups()
        return (form, 0, 1) if low == "?" else (form, int(low), int(high or low))
    return slot, 0, 0


def _phrases(field: Field, form: str) -> tuple[str, ...]:
    """The phrases of a field for a slot."""
    if form == "ending":
        return tuple(lead.removesuffix(" {N}") for lead in field.lead if lead.endswith("{N}"))
    return field.lead if form == "before" else getattr(field, form)


def _sound(reference: str) -> bool:
    """Whether a reference is short, its sentences start with capitals and its relative clauses with their noun."""
    starts = [0, *(found.end() for found in re.finditer(r"[.] ", reference))]
    short = len(reference) <= MAX_REFERENCE
    return short and all(reference[start].isupper() for start in starts) and not _ASTRAY.search(reference)


def _references(rng: random.Random, table: _Table) -> list[str]:
    """References of different openings and orders of the fields; raises _NoFitError if too few can be written."""
    plans = [*PLANS.values(), *table.domain.frames, *(() if table.domain.person else THING_PLANS.values())]
    wanted, writer = rng.choice(REFERENCES), _Writer(rng, table)
    kept: dict[tuple[str, ...], str] = {}
    openings: set[tuple[str, ...]] = set()
    for plan in rng.sample(plans, len(plans)):
        try:
            reference = writer.write(plan)
        except _NoFitError:
            continue
        order, opening = outline(table.cells, reference), tuple(reference.split()[:3])
        if _sound(reference) and order not in kept and opening not in openings:
            kept[order] = reference
            openings.add(opening)
        if len(kept) == wanted:
            return list(kept.values())
    raise _NoFitError


def _draw_record(rng: random.Random, domain: Domain, part: str, names: set[str]) -> dict[str, object]:
    """A record whose name is not among the names, to which it is added."""
    while True:
        table = _draw_table(rng, domain)
        if table.name not in names:
            try:
                references = _references(rng, table)
            except _NoFitError:
                continue
            names.add(table.name)
            return {"source": table.source, "references": references, "domain": domain.name, "part": part}


def make_records(seed: int = 7) -> dict[str, list[dict[str, object]]]:
    """Every generated record by split, no two of one name."""
    rng = random.Random(seed)
    names: set[str] = set()
    splits: dict[str, list[dict[str, object]]] = {}
    for split, count in COUNTS.items():
        splits[split] = []
        for part, domains in {"seen": SEEN, "unseen": UNSEEN if split == "test" else ()}.items():
            records = [
                _draw_record(rng, domains[number % len(domains)], part, names)
                for number in range(count if domains else 0)
            ]
            rng.shuffle(records)
            splits[split].extend(records)
    return splits


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return write_or_check(make_records, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
