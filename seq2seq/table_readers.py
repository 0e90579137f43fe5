"""Table-to-text data sets in their own formats -> rows of text, with the source strings of Li & Liang (2021).

    E2E      name[The Quay], eatType[pub]      ->  "name : The Quay | Type : pub"
    WebNLG   (Lisbon, leaderName, Ana_Sousa)   ->  " | Lisbon : leaderName : Ana_Sousa"
    DART     (Lisbon, LEADER_NAME, Ana Sousa)  ->  "Lisbon : leader_name : Ana Sousa"

Each format is read from its own text, csv, XML and json files, from json lines and from the hub's records. A record
that has the field `source` is read as any other task's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from seq2seq.readers import (
    Fields,
    Row,
    ending,
    numbered,
    numbered_lines,
    rows_of,
    table_records,
    texts,
)
from seq2seq.split_files import SPLIT_NAMES, OwnFiles, Split
from seq2seq.utils import UserError

TableName = Literal["e2e", "webnlg", "dart"]

# The authors renamed these slots of E2E and kept the others.
E2E_SLOTS = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
E2E_SLOT = re.compile(r"\s*(?P<name>[^\[\],]+)\[(?P<value>[^\[\]]*)\]\s*(?:,|$)")
# E2E's references: the authors' tokenised ones, the challenge's, the hub's.
E2E_TEXTS = ("refs_tok", "refs", "ref", "human_reference", "references")

# Categories of the WebNLG 2017 test set that its training set does not have.
WEBNLG_UNSEEN = ("Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician")
# The hub's test split holds the test set three times; these two lack references or are a part of the third.
WEBNLG_REPEATED = ("testdata_no_lex", "testdata_unseen_with_lex")


@dataclass(frozen=True)
class TableFormat:
    """One data set's own layout: its files, and how its records read."""

    patterns: Mapping[Split, tuple[str, ...]]
    """Globs of its files beside the usual `train.jsonl` and the like."""
    origin: str
    """Where the files are to be had."""
    row: Callable[[Mapping[str, object], str, Split], Row]
    """(record, place, split) -> row."""
    whole: bool = False
    """Each file is a whole split."""

    def files(self, split: Split) -> OwnFiles:
        """Where one split is looked for."""
        return OwnFiles(self.patterns[split], self.origin, self.whole)


def read_own(path: Path, table: TableName, split: Split, fields: Fields) -> Iterator[Row]:
    """Rows of one file: E2E's `source||target` text, challenge XML, a whole json document, json lines, csv or parquet.

    Raises UserError with file and line for a file that is not of its format and for a record that cannot be read.
    """
    if ending(path) == ".txt":
        return _pairs(path, split)
    readers = {".xml": _xml_records, ".json": _json_records}
    return rows_of_own(readers.get(ending(path), table_records)(path), table, split, fields)


def rows_of_own(
    records: Iterable[tuple[str, Mapping[str, object]]], table: TableName, split: Split, fields: Fields
) -> Iterator[Row]:
    """Rows of (place, record) pairs in the data set's own fields, or in those of any task."""
    for place, record in records:
        if fields.source in record:
            yield from rows_of([(place, record)], fields)
        else:
            row = TABLES[table].row(record, place, split)
            texts(row.source, place, "source")
            yield row


def linearise_mr(meaning: str, place: str) -> str:
    """E2E's `name[...], eatType[...]` as the authors' `name : ... | Type : ...`, slots in the given order.

    Their files are tokenised: a price has blanks around its pound sign and hyphen. Raises UserError for another form.
    """
    slots, at = [], 0
    while at < len(meaning):
        slot = E2E_SLOT.match(meaning, at)
        if slot is None:
            rest = meaning[at:].strip()
            name, bracket, _ = rest.partition("[")
            wrong = f"{name + bracket!r} has no closing bracket" if bracket else f"{rest[:40]!r} has no [value]"
            raise UserError(f"{place}: {wrong}; write name[value], name[value]")
        name, value = slot["name"].strip(), slot["value"].strip()
        if name == "priceRange":
            value = re.sub(r"(?<=\d)-(?=\d)", " - ", re.sub(r"£(?=\d)", "£ ", value))
        slots.append(f"{E2E_SLOTS.get(name, name)} : {value}")
        at = slot.end()
    return " | ".join(slots)


def _pairs(path: Path, split: Split) -> Iterator[Row]:
    """`source||target` lines; the authors train on the line as it is and evaluate on its stripped form."""
    for number, line in numbered_lines(path):
        source, *targets = (line if split == "train" else line.strip()).split("||")
        place = f"{path}:{number}"
        if len(targets) == 1 or not line.strip():
            yield Row(source, tuple(targets), "", place)
        else:
            yield Row(source, tuple(targets), "", place, skip="not source||target")


def _e2e_row(record: Mapping[str, object], place: str, split: Split) -> Row:
    meaning = _field(record, ("src", "mr", "meaning_representation"), place)
    if not isinstance(meaning, str):
        raise UserError(f"{place}: the meaning representation is {meaning!r:.60}; write name[value], name[value]")
    source = meaning if "src" in record else linearise_mr(meaning, place)
    return Row(source, tuple(texts(_field(record, E2E_TEXTS, place), place, "reference")), "", place)


def _webnlg_row(record: Mapping[str, object], place: str, split: Split) -> Row:
    triples = _triples(_field(record, ("triples", "modifiedtripleset", "modified_triple_sets"), place), place)
    source = "".join(f" | {subject} : {relation} : {value}" for subject, relation, value in triples)
    if "refs" in record:
        good = texts(record["refs"], place, "refs")
        everything = good + texts(record.get("refs_bad"), place, "refs_bad")
    else:
        forms = _records(_field(record, ("lexicalisations", "lex"), place), place, "lex")
        good = [text for form in forms if form.get("comment") == "good" for text in _lex(form, place)]
        everything = [text for form in forms for text in _lex(form, place)]
    part, skip = "", ""
    if split == "train" and everything and not good:
        skip = "no lexicalisation is marked good"
    elif split == "test":
        category = record.get("category")
        part = str(record.get("split") or (category and ("unseen" if category in WEBNLG_UNSEEN else "seen")) or "")
        if record.get("test_category") in WEBNLG_REPEATED:
            skip = "not of testdata_with_lex"
    return Row(source, tuple(good if split == "train" else everything), part, place, skip)


def _dart_row(record: Mapping[str, object], place: str, split: Split) -> Row:
    triples = _triples(_field(record, ("tripleset", "triples"), place), place)
    source = " | ".join(f"{subject} : {relation.lower()} : {value}" for subject, relation, value in triples)
    forms = _records(_field(record, ("annotations", "lex"), place), place, "annotations")
    return Row(source, tuple(text for form in forms for text in _lex(form, place)), "", place)


def _field(record: Mapping[str, object], names: Sequence[str], place: str) -> object:
    """The first of these fields that the record has."""
    for name in names:
        if name in record:
            return record[name]
    raise UserError(
        f"{place}: no field {' or '.join(names)}; it has {', '.join(map(str, record)) or 'none'}: give this data set's "
        "own records, or source with target"
    )


def _triples(value: object, place: str) -> list[tuple[str, str, str]]:
    """Triples as lists of three texts or numbers, as `subject | property | object`, or as records of these names."""
    if isinstance(value, Mapping):  # the hub: one list for each way of writing the triples, the first is used
        value = (value.get("mtriple_set") or [[]])[0]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping) and "mtriple_set" in value[0]:
        value = value[0]["mtriple_set"]
    triples = []
    for triple in value if isinstance(value, list) else [value]:
        parts = triple
        if isinstance(triple, str):
            parts = [part.strip() for part in triple.split(" | ")]
        elif isinstance(triple, Mapping):
            parts = [triple.get(name) for name in ("subject", "property", "object")]
        if not isinstance(parts, list) or len(parts) != 3 or any(type(part) not in (str, int, float) for part in parts):
            raise UserError(f"{place}: {triple!r:.60} is no triple; write subject, property and object")
        triples.append((str(parts[0]), str(parts[1]), str(parts[2])))
    return triples


def _records(value: object, place: str, name: str) -> list[Mapping[str, object]]:
    """A list of records, which the hub may keep as a record of lists."""
    if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
        columns = {key: column for key, column in value.items() if column}
        if len({len(column) for column in columns.values()}) > 1:
            raise UserError(f"{place}: the lists of {name} have unequal lengths; mend or remove the record")
        value = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise UserError(f"{place}: {name} is {value!r:.60}; write a list of records")
    return value


def _lex(form: Mapping[str, object], place: str) -> list[str]:
    return texts(_field(form, ("lex", "text"), place), place, "text")


def _xml_records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(place, record) pairs of the entries of a WebNLG or DART XML file; of several triple sets the first is used."""
    for line, entry in _xml_entries(path):
        triples = entry.find("modifiedtripleset")
        yield (
            f"{path}:{line}",
            {
                "category": entry.get("category"),
                "triples": [triple.text or "" for triple in (triples if triples is not None else ())],
                "lex": [{"comment": lex.get("comment"), "text": (lex.text or "").strip()} for lex in entry.iter("lex")],
            },
        )


def _xml_entries(path: Path) -> Iterator[tuple[int, Element]]:
    """The `entry` elements of a file with the lines on which they start."""
    parser, builder, starts = expat.ParserCreate(), TreeBuilder(), []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "entry":
            starts.append(parser.CurrentLineNumber)
        builder.start(tag, attributes)

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse("\n".join(line for _, line in numbered_lines(path)), True)
    except expat.ExpatError as error:
        raise UserError(
            f"{path}:{error.lineno}: not XML ({expat.ErrorString(error.code)}); mend or replace the file"
        ) from error
    if not starts:
        raise UserError(f"{path}: no <entry> in it; give the XML of WebNLG or DART, <benchmark><entries><entry>...")
    return zip(starts, builder.close().iter("entry"), strict=True)


def _json_records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(place, record) pairs of json lines or a whole document: DART's list, WebNLG's `{"entries": [{"1": {...}}]}`."""
    lines = [line for _, line in numbered_lines(path)]
    if _is_json_lines(lines):
        return table_records(path)
    try:
        document = json.loads("\n".join(lines))
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise UserError(f"{path}:{line}: not JSON ({error}); mend or replace the file") from error
    if isinstance(document, dict):
        document = [one for entry in _records(document.get("entries"), str(path), "entries") for one in entry.values()]
    return numbered(_records(document, str(path), "the JSON document"), str(path))


def _is_json_lines(lines: list[str]) -> bool:
    """Whether the first line that is not blank is a whole record by itself."""
    try:
        first = json.loads(next((line for line in lines if line.strip()), "{}"))
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "entries" not in first


def _named(split: Split, *patterns: str) -> tuple[str, ...]:
    """Patterns with each name of the split in place of `*split*`."""
    return tuple(pattern.replace("*split*", name) for name in SPLIT_NAMES[split] for pattern in patterns)


TABLES: dict[TableName, TableFormat] = {
    "e2e": TableFormat(
        patterns={
            "train": ("src1_train.txt", "trainset.csv"),
            "val": ("src1_valid.txt", "devset.csv"),
            "test": ("src1_test.txt", "testset_w_refs.csv"),
        },
        origin="github.com/tuetschek/e2e-dataset has the csv files",
        row=_e2e_row,
    ),
    "webnlg": TableFormat(
        patterns={
            "train": _named("train", "*split*/**/*.xml", "*split*.xml"),
            "val": _named("val", "*split*/**/*.xml", "*split*.xml"),
            "test": ("test/testdata_with_lex.xml", "testdata_with_lex.xml", "test/**/*.xml", "test.xml"),
        },
        origin="the WebNLG challenge 2017 has the XML folders train/, dev/ and test/",
        row=_webnlg_row,
    ),
    "dart": TableFormat(
        patterns={
            split: _named(split, "dart-*-*split*.json", "dart-*-*split*.xml") for split in ("train", "val", "test")
        },
        origin="github.com/Yale-LILY/dart has them in data/v1.1.1",
        row=_dart_row,
        whole=True,
    ),
}
