"""How records are read from disk: line files, json lines, csv, parquet and `save_to_disk` folders -> rows of text.

    folder --find_split--> files of one split --read--> Row(source, targets, part, place)

A place is `file:line` (for parquet and data sets: `file:record`), counted from 1, so that every error and every skipped
record can be found again. Nothing here knows what a task is; `seq2seq/tasks.py` says which fields to read.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from seq2seq.utils import UserError

Split = Literal["train", "val", "test"]

# The names under which the field's data sets keep each split; the first that is there is read.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test",),
}
TABLE_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".csv", ".csv.gz")
SHARD = re.compile(r"-(\d+)-of-(\d+)")

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


@dataclass(frozen=True)
class SplitFiles:
    """The files that hold one split: an aligned (source, target) pair of line files, or the shards of one table."""

    paths: tuple[Path, ...]
    aligned: bool
    notes: tuple[str, ...] = ()
    """Choices made while looking, one line each."""


@dataclass(frozen=True)
class OwnFiles:
    """Where a data set's own format keeps one split."""

    patterns: tuple[str, ...]
    """Globs inside the folder, the preferred one first; all files of one pattern belong together, each also `.gz`."""
    origin: str
    """Where these files are to be had, for the error when none is there."""
    whole: bool = False
    """Each file is the whole split, so that two of one pattern are two versions of it."""


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
        source = _first_field(record, _names(fields.source, "source"))
        target = _first_field(record, _names(fields.target, "target"))
        references = _first_field(record, ("references",))
        if source is None:
            raise _missing(place, record, _names(fields.source, "source"))
        if target is None and references is None:
            raise _missing(place, record, (*_names(fields.target, "target"), "references"))
        targets = texts(target[0], place, "target") if target else []
        if references:
            further = texts(references[0], place, "references")
            targets = targets + [text for text in further if text not in targets]
        part = _first_field(record, ("part",))
        yield Row(
            " ".join(texts(source[0], place, "source")),
            tuple(targets),
            str(part[0]) if part and part[0] is not None else "",
            place,
        )


def find_split(
    folder: Path,
    split: Split,
    languages: tuple[str, str] | None = None,
    subfolders: Sequence[str] = (),
    own: OwnFiles | None = None,
) -> SplitFiles:
    """The files of `folder` that hold `split`; `languages` adds line files such as `train.en` and `train.de`.

    Looks in the folder, then in `data/` and in `subfolders`, where hub data sets keep theirs; the data set's `own`
    files come before the usual ones. A test split that is not called `test` is the alphabetically first `test*`.
    Whatever was found and is not read is said in the notes. Raises UserError when the split is not there, not whole, or
    there twice.
    """
    for place in (folder, folder / "data", *(folder / name for name in subfolders)):
        if not place.is_dir():
            continue
        usual = _own_files(place, own) + _files_named(place, SPLIT_NAMES[split], languages)
        found = usual or (_files_named(place, _test_names(place, languages), languages) if split == "test" else [])
        if found:
            chosen, *others = found
            if usual and not others:
                return chosen
            note = f"read from {_shown(chosen)}"
            if others:
                note += f"; not read: {', '.join(_shown(files) for files in others)}"
            return SplitFiles(chosen.paths, chosen.aligned, (note,))
    raise _no_split(folder, split, languages, own)


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
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--data_dir {folder}: not a whole save_to_disk folder ({_one_line(error)}); save it again"
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
        raise UserError(f"{place}: {name} is {_one_line(repr(value))[:60]}; write a string or a list of strings")
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
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path}: not a whole parquet file ({_one_line(error)}); write it again") from error


def _names(own: str, usual: str) -> tuple[str, ...]:
    """Names under which a field is looked for: the task's own, its last step (`translation.en`: en), the usual one."""
    return tuple(dict.fromkeys((own, own.rpartition(".")[2], usual)))


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


def _files_named(folder: Path, names: Sequence[str], languages: tuple[str, str] | None) -> list[SplitFiles]:
    """Every way in which `folder` holds a split of one of these names; files of the asked languages come first."""
    found = []
    for name in names:
        for pair in ([languages] if languages else []) + [("source", "target")]:
            source, target = (_plain_or_packed(folder / f"{name}.{ending}") for ending in pair)
            if source and target:
                found.append(SplitFiles((source, target), aligned=True))
            elif source or target:
                have, lack = (source, pair[1]) if source else (target, pair[0])
                raise UserError(f"{have}: no {name}.{lack} (or .gz) beside it; put the missing file there")
        for ending in TABLE_ENDINGS:
            whole = folder / f"{name}{ending}"
            shards = [whole] if whole.is_file() else _whole_set(folder.glob(f"{name}-*-of-*{ending}"))
            if shards:
                found.append(SplitFiles(tuple(shards), aligned=False))
        if shards := _whole_set((folder / name).glob("*.parquet")):  # the layout of the hub's own parquet copies
            found.append(SplitFiles(tuple(shards), aligned=False))
    return found


def _whole_set(paths: Iterable[Path]) -> list[Path]:
    """The shards in order. Raises UserError where their `-<i>-of-<N>` (i from 0 or 1) are not each there once."""
    shards = sorted(paths)
    numbers = [(int(of[1]), int(of[2]), path) for path in shards if (of := SHARD.search(path.name))]
    if not numbers:
        return shards
    total, named = numbers[0][1], numbers[0][2]
    held = {i for i, _, _ in numbers}
    first = int(0 not in held and total in held)
    whole = range(first, first + total)
    if any(n != total for _, n, _ in numbers) or len(held) < len(numbers) or not all(i in whole for i in held):
        names = ", ".join(path.name for _, _, path in numbers[:6]) + ", …" * (len(numbers) > 6)
        raise UserError(f"{named.parent}: {names} are shards of more than one set; keep the files of one set there")
    if lacking := list(islice((i for i in whole if i not in held), 4)):
        names = ", ".join(SHARD.sub(f"-{i:05d}-of-{total:05d}", named.name) for i in lacking)
        more = total - len(held) - len(lacking)
        names += f" and {more} more" if more else ""
        raise UserError(f"{named.parent}: no {names} beside {named.name}; put every shard there")
    return shards


def _own_files(folder: Path, own: OwnFiles | None) -> list[SplitFiles]:
    found: list[SplitFiles] = []
    for pattern in own.patterns if own else ():
        taken = {path for files in found for path in files.paths}
        plain = set(folder.glob(pattern))
        packed = {path for path in folder.glob(pattern + ".gz") if path.with_suffix("") not in plain}
        paths = sorted((plain | packed) - taken)
        if own and own.whole and len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(f"{folder}: {names} are each a whole split; keep one of them there")
        if paths:
            found.append(SplitFiles(tuple(paths), aligned=False))
    return found


def _plain_or_packed(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def _test_names(folder: Path, languages: tuple[str, str] | None) -> list[str]:
    """Names before the ending of the files called `test*` that could hold a test split, sorted."""
    endings = [*TABLE_ENDINGS, *(f".{e}{gz}" for e in ("source", *(languages or ())[:1]) for gz in ("", ".gz"))]
    files = [path.name for path in folder.iterdir() if path.name.startswith("test")]
    return sorted({name.removesuffix(ending) for name in files for ending in endings if name.endswith(ending)})


def _shown(files: SplitFiles) -> str:
    if files.aligned:
        return " and ".join(path.name for path in files.paths)
    return files.paths[0].name + (f" and {len(files.paths) - 1} more" if len(files.paths) > 1 else "")


def _no_split(folder: Path, split: Split, languages: tuple[str, str] | None, own: OwnFiles | None) -> UserError:
    names = SPLIT_NAMES[split]
    stem = names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    first = f"{stem}.{{{languages[0]},{languages[1]}}}, " if languages else ""
    first += "".join(f"{pattern}, " for pattern in own.patterns) if own else ""
    held = sorted(path.name for path in folder.iterdir())
    listing = ", ".join(held[:8]) + (", …" if len(held) > 8 else "") if held else "nothing"
    hint = "" if languages else "; files such as train.en and train.de need --source_lang en --target_lang de"
    if own:
        hint = f"; put the missing files there: {own.origin}"
    return UserError(
        f"--data_dir {folder}: no {split} split; looked for {first}{stem}.{{source,target}}, .jsonl, .json, .csv "
        f"(each also .gz) and .parquet; the folder holds {listing}{hint}"
    )


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
