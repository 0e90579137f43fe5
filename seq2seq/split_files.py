"""Which files of a folder hold a split: line files, tables, shards, a data set's own files; what is amiss is named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

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
