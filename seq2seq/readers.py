"""How records are read from disk: line files, json lines, csv, parquet and `save_to_disk` folders -> rows of text.

    folder --find_split--> files of one split --read--> Row(source, targets, part, place)

A place is `file:line` (for parquet and data sets: `file:record`), counted from 1, so that every error and every skipped
record can be found again. Nothing here knows what a task is; `seq2seq/tasks.py` says which fields to read.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from seq2seq.split_files import SPLIT_NAMES, Split
from seq2seq.utils import UserError, one_line

BLANK: Mapping[str, object] = {"source": "", "references": []}  # a blank line is counted as an empty record


class Row(NamedTuple):
    """One record as it stands in the file; empty texts are kept, so that the caller can count them."""

    source: str
    targets: tuple[str, ...]
    part: str
    """Subset that is scored apart, from the record's own field `part`; "" when it has none."""
    place: str
    """`path:line`, from 1."""
    skip: str = ""
    """Why the record is left out, where it is not for an empty text."""


@dataclass(frozen=True)
class Fields:
    """Which fields of a json, csv or parquet record are source and target; a dot steps into a nested record."""

    source: str = "source"
    target: str = "target"


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file (`.gz` is unpacked) with their numbers from 1; only a newline ends a line.

    Raises UserError for a line that is not UTF-8 and for a file that cannot be read to its end.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}); "
                        "convert the file to UTF-8 or remove the line"
                    ) from error
                # editors on Windows put a byte order mark in front of the first line
                yield number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read beyond line {number} ({error}); replace it by a whole, readable file"
        ) from error


def read_aligned(source_path: Path, target_path: Path) -> Iterator[Row]:
    """Rows of two line files in which line i of the target belongs to line i of the source.

    Raises UserError when the two have unequal numbers of lines, before any row is given out.
    """
    sources = list(numbered_lines(source_path))
    targets = list(numbered_lines(target_path))
    if len(sources) != len(targets):
        raise UserError(
            f"{target_path.name} has {len(targets)} lines, {source_path.name} has {len(sources)}: line i of one must "
            f"belong to line i of the other; mend the files in {source_path.parent}"
        )
    for (number, source), (_, target) in zip(sources, targets, strict=True):
        # the place names the file in which an empty line is to be looked for
        yield Row(source, (target,), "", f"{target_path if source.strip() else source_path}:{number}")


def read_table(path: Path, fields: Fields) -> Iterator[Row]:
    """Rows of one json lines, csv or parquet file, told apart by the file's ending."""
    return rows_of(table_records(path), fields)


def table_records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(place, record) pairs of one json lines, csv or parquet file, told apart by the file's ending."""
    readers = {".parquet": _parquet_records, ".csv": _csv_records}
    return readers.get(ending(path), _json_records)(path)


def ending(path: Path) -> str:
    """A file's ending, `.gz` left out: `.csv` of `train.csv.gz`."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def rows_of(records: Iterable[tuple[str, Mapping[str, object]]], fields: Fields) -> Iterator[Row]:
    """Rows of (place, record) pairs.

    The source is the task's field, else `source`; a list of strings is joined by blanks. The targets are the task's
    field, else `target`, and after it what `references` holds beyond it. Raises UserError for a record without them.
    """
    for place, record in records:
        sources, names = _names(fields.source, "source"), _names(fields.target, "target")
        source = _first_field(record, sources)
        target = _first_field(record, names)
        references = _first_field(record, ("references",))
        if source is None:
            raise _missing(place, record, sources)
        if target is None and references is None:
            raise _missing(place, record, (*names, "references"))
        targets = texts(target[0], place, _own_name(record, names)) if target else []
        if references:
            further = texts(references[0], place, "references")
            targets = targets + [text for text in further if text not in targets]
        part = _first_field(record, ("part",))
        yield Row(
            " ".join(texts(source[0], place, _own_name(record, sources))),
            tuple(targets),
            str(part[0]) if part and part[0] is not None else "",
            place,
        )


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` wrote this folder with `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_records(folder: Path, split: Split) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(place, record) pairs of one split of a `save_to_disk` folder, be it a DatasetDict or one Dataset.

    One Dataset is the split whose name it carries, or train when it carries none: served as test as well, it would be
    scored on what was trained. Raises UserError when the split is not there.
    """
    import datasets  # slow to import, and needed for few inputs

    try:
        loaded = datasets.load_from_disk(str(folder)).with_format(None)  # whatever it was saved with
    except (OSError, ValueError, LookupError, TypeError) as error:  # an empty split: IndexError
        raise UserError(
            f"--data_dir {folder}: not a whole save_to_disk folder, or one with an empty split ({one_line(error)}); "
            "save it again"
        ) from error
    by_name = loaded if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
    for name in SPLIT_NAMES[split]:
        if name in by_name:
            return numbered(by_name[name], f"{folder}/{name}")
    raise UserError(
        f"--data_dir {folder}: no {split} split, only {', '.join(map(str, by_name))}; save a DatasetDict with "
        f"{' or '.join(SPLIT_NAMES[split])} in it"
    )


def numbered(records: Iterable[Mapping[str, object]], name: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(place, record) pairs: the records of something called `name`, counted from 1."""
    return ((f"{name}:{number}", record) for number, record in enumerate(records, start=1))


def texts(value: object, place: str, name: str) -> list[str]:
    """A field as a list of strings: null is none of them, a string is one. Raises UserError for anything else."""
    held = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(held, list) or not all(isinstance(text, str) for text in held):
        raise UserError(f"{place}: {name} is {one_line(repr(value), 60)}; write a string or a list of strings")
    for text in held:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place}: {name} holds half a character (\\u{ord(text[error.start]):04x} at position "
                f"{error.start + 1}); mend or remove the line"
            ) from error
    return held


def _json_records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in numbered_lines(path):
        place = f"{path}:{number}"
        if not line.strip():
            yield place, BLANK
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # the second: nested too deeply
            if number == 1 and isinstance(error, ValueError) and line.lstrip().startswith("["):
                raise UserError(f"{place}: a JSON array over several lines; write one JSON object a line") from error
            raise UserError(f"{place}: not JSON ({error}); mend or remove the line") from error
        if not isinstance(record, dict):
            raise UserError(f"{place}: a JSON {type(record).__name__}; write one JSON object a line")
        yield place, record


def _csv_records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # documents are longer than csv's default of 128 KiB
    # strict: an unclosed quote is an error rather than one field that swallows the rest of the file
    rows = csv.reader((line + "\n" for _, line in numbered_lines(path)), strict=True)
    header: list[str] | None = None
    start = 1  # line on which a row starts; quoted texts may go over several
    try:
        for cells in rows:
            if header is None:
                header = cells
                if twice := sorted({name for name in cells if cells.count(name) > 1}):
                    raise UserError(f"{path}:{start}: the header has {', '.join(twice)} twice; rename one of them")
            elif not cells:
                yield f"{path}:{start}", BLANK
            elif len(cells) != len(header):
                raise UserError(
                    f"{path}:{start}: {len(cells)} columns, the header has {len(header)}; quote texts that hold commas"
                )
            else:
                yield f"{path}:{start}", dict(zip(header, cells, strict=True))
            start = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start}: not csv ({error}); mend the row's quotes") from error


def _parquet_records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    import pyarrow
    import pyarrow.parquet

    def records() -> Iterator[Mapping[str, object]]:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()

    try:
        yield from numbered(records(), str(path))
    except (OSError, pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole parquet file ({one_line(error)}); write it again") from error


def _names(own: str, usual: str) -> tuple[str, ...]:
    """Names under which a field is looked for: the task's own, its last step (`translation.en`: en), the usual one."""
    return tuple(dict.fromkeys((own, own.rpartition(".")[2], usual)))


def _own_name(record: Mapping[str, object], names: Sequence[str]) -> str:
    """What a record calls the field that it has under one of these names."""
    return next((name for name in names if name in record), names[0])


def _first_field(record: Mapping[str, object], names: Sequence[str]) -> tuple[object] | None:
    """The first field that the record has, wrapped so that a field holding null differs from no field."""
    for name in names:
        if name in record:
            return (record[name],)
        value: object = record
        for step in name.split("."):
            if not isinstance(value, Mapping) or step not in value:
                break
            value = value[step]
        else:
            return (value,)
    return None


def _missing(place: str, record: Mapping[str, object], names: Sequence[str]) -> UserError:
    return UserError(
        f"{place}: no field {' or '.join(names)}; it has {', '.join(map(str, record)) or 'none'}: rename the field, or "
        "pass the --task whose fields these are"
    )
