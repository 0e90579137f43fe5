"""The records of a task: read from a folder, the package or the hub; what was left out is counted and named.

Task, folder --load_records--> Records (source, references, part)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from seq2seq.readers import (
    Fields,
    Row,
    is_saved_dataset,
    numbered,
    read_aligned,
    read_table,
    rows_of,
    saved_records,
)
from seq2seq.split_files import Split, SplitFiles, find_split
from seq2seq.table_readers import TABLES, read_own, rows_of_own
from seq2seq.tasks import CARRIED, Task
from seq2seq.utils import UserError, one_line

PLACES_SHOWN = 5  # places of what was skipped that a report names before "..."
EMPTY_REFERENCE = "empty reference"  # beside others: the record is kept


class Record(NamedTuple):
    """One source with all its references, in the order in which the data set gives them."""

    source: str
    references: tuple[str, ...]
    part: str = ""
    """Subset that is scored apart, e.g. "generated" and "handwritten", or "seen" and "unseen"."""

    def with_text(self, text: str) -> dict[str, object]:
        """The record with the text generated for it, as generations_<split>.jsonl holds it."""
        part = {"part": self.part} if self.part else {}
        return {"source": self.source, "references": list(self.references), "generated": text, **part}


@dataclass
class Records:
    """The records of one split, and an account of what was left out."""

    split: Split
    items: list[Record] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> places, each `file:line`."""
    notes: list[str] = field(default_factory=list)
    """Choices made while reading, e.g. which of several test files was taken."""

    def report(self) -> list[str]:
        """One line a note and a reason: `train: 3 records skipped: empty source (train.source:17, :90, :91)`."""
        lines = [f"{self.split}: {note}" for note in self.notes]
        for reason, places in self.skipped.items():
            what = "reference" if reason == EMPTY_REFERENCE else "record"
            count = f"{len(places)} {what}{'s' if len(places) > 1 else ''}"
            lines.append(f"{self.split}: {count} skipped: {reason} ({_places(places)})")
        return lines


def first_of_each_part(records: Sequence[Record], count: int) -> list[Record]:
    """The first `count` records of each part, in order."""
    taken: dict[str, int] = {}
    kept = []
    for record in records:
        taken[record.part] = taken.get(record.part, 0) + 1
        if taken[record.part] <= count:
            kept.append(record)
    return kept


def draw(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """`count` pairs of a source and a reference at random, in order; a source keeps the references drawn with it.

    With one seed a smaller draw is part of a larger one. Raises UserError for more pairs than there are.
    Source: Li & Liang 2021, section 6.3, whose examples are pairs (lines of the authors' E2E files).
    """
    pairs = [(i, reference) for i, record in enumerate(records) for reference in record.references]
    if count > len(pairs):
        raise UserError(f"--lowdata {count}: there are {len(pairs)} training pairs; give at most that")
    drawn: dict[int, list[str]] = {}
    for place in sorted(random.Random(seed).sample(range(len(pairs)), len(pairs))[:count]):
        i, reference = pairs[place]
        drawn.setdefault(i, []).append(reference)
    return [records[i]._replace(references=tuple(references)) for i, references in drawn.items()]


def load_records(task: Task, data_dir: str | None, split: Split) -> Records:
    """The records of one split, from `data_dir`, else from the package, else from the hub.

    A record without a source or without any reference is skipped and counted, and so is an empty reference. Tables and
    questions: records of equal source become one with the references of all. Raises UserError for input that
    cannot be read, and for a split in which no record is left.
    """
    records = Records(split)
    if data_dir:
        folder = Path(data_dir).expanduser()
    elif task.carried:
        folder = CARRIED / task.carried
    else:
        return _filled(records, _rows(task, _hub_records(task, split), split), f"--task {task.name}", task)
    if not folder.is_dir():
        what = "a file; give the folder that holds it" if folder.exists() else "no such directory; check the path"
        raise UserError(f"--data_dir {folder}: {what}")
    if is_saved_dataset(folder):
        return _filled(records, _rows(task, saved_records(folder, split), split), f"--data_dir {folder}", task)

    own = TABLES[task.table].files(split) if task.table else None
    files = find_split(folder, split, task.languages, (task.hub_config,) if task.hub_config else (), own)
    records.notes.extend(files.notes)
    further = [folder / name for name in task.carried_test] if split == "test" and not data_dir else []
    return _filled(records, _file_rows(task, split, files, further), str(files.paths[0]), task)


def _fields(task: Task) -> Fields:
    return Fields(task.source_field, task.target_field)


def _rows(task: Task, records: Iterable[tuple[str, Mapping[str, object]]], split: Split) -> Iterator[Row]:
    return rows_of_own(records, task.table, split, _fields(task)) if task.table else rows_of(records, _fields(task))


def _file_rows(task: Task, split: Split, files: SplitFiles, further: list[Path]) -> Iterator[Row]:
    if files.aligned:
        yield from read_aligned(*files.paths)
    else:
        for path in (*files.paths, *further):
            if task.table:
                yield from read_own(path, task.table, split, _fields(task))
            else:
                yield from read_table(path, _fields(task))


def _hub_records(task: Task, split: Split) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(place, record) pairs of one split of the task's hub data set, downloaded once into the hub's cache."""
    if task.hub is None:
        raise UserError(
            f"--task {task.name}: no hub data set holds it; pass --data_dir DIR with "
            "{train,val,test}.{source,target} or .jsonl files"
        )
    import datasets  # slow to import, and needed for few inputs

    hub_split = task.hub_splits[split]
    try:
        try:
            loaded = datasets.load_dataset(task.hub, task.hub_config, split=hub_split)
        except RuntimeError:
            # The data set still lies on the hub as a loading script, which `datasets` no longer runs: read the copy in
            # parquet which the hub makes of every such data set.
            files = f"{task.hub_config or 'default'}/{hub_split}/*.parquet"
            loaded = datasets.load_dataset(
                task.hub, data_files={hub_split: files}, revision="refs/convert/parquet", split=hub_split
            )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = one_line(error)
        raise UserError(
            f"--task {task.name}: the hub data set {task.hub} cannot be loaded ({reason}); connect to the hub or pass "
            "--data_dir DIR with its files"
        ) from error
    return numbered(loaded, f"{task.name}[{hub_split}]")


def _filled(records: Records, rows: Iterable[Row], where: str, task: Task) -> Records:
    """`records` with the rows that have a source and a reference, and with the places of what is empty."""
    for row in rows:
        references = tuple(text for text in row.targets if text.strip())
        reason, count = row.skip or ("empty target" if row.source.strip() else "empty source"), 1
        if row.source.strip() and not row.skip:
            records.items.append(Record(row.source, references, row.part))
            if references:
                reason, count = EMPTY_REFERENCE, len(row.targets) - len(references)
        if count:
            records.skipped.setdefault(reason, []).extend([PurePath(row.place).name] * count)
    if task.kind in ("table_to_text", "question_answering"):
        records.items = _merged(records.items)
    records.items = [record for record in records.items if record.references]
    if not records.items:
        account = "".join(f" ({line})" for line in records.report())
        raise UserError(f"{where}: no {records.split} record has a source and a target{account}; pass other data")
    return records


def _merged(records: list[Record]) -> list[Record]:
    """One record a source, where it first appears, with the references of all in their order."""
    by_source: dict[str, Record] = {}
    for record in records:
        first = by_source.get(record.source)
        merged = first._replace(references=first.references + record.references) if first else record
        by_source[record.source] = merged
    return list(by_source.values())


def _places(places: list[str]) -> str:
    """The first few places, the file named once: `train.source:17, :90, ...`."""
    shown, last = [], ""
    for place in places[:PLACES_SHOWN]:
        name, _, line = place.rpartition(":")
        shown.append(f":{line}" if name == last else place)
        last = name
    return ", ".join(shown + ["..."] * (len(places) > PLACES_SHOWN))
