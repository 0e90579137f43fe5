"""A value of the wrong kind, in words: whose it is, where it stands, what the option takes."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seq2seq.utils import one_line

NAMES: dict[Any, str] = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}


def in_words(kind: Any) -> str:
    """What values of a type hint are: `int | None` is `a whole number or null`."""
    if kind in NAMES:
        return NAMES[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is list:
        return f"a list [x, …], each {in_words(parts[0])}"
    return "a mapping {x: y, …}"


def wrong_kind(error: Exception, kind: type, flags: Collection[str], recipe: Path | None) -> str | None:
    """jsonargparse's error as one line; None for an error that is not about an option of the dataclass `kind`.

    Args:
        flags: the options that the command line gives; others are the recipe's.
    """
    text = one_line(error)
    found = re.search(r'Parser key "(\w+)"', text)
    hints = get_type_hints(kind)
    if not found or found[1] not in hints:
        return None
    name = found[1]
    value = re.split(r"(?:Got|Given) value:\s?", text)[-1] or "nothing"
    of_recipe = recipe is not None and name not in flags
    where = f"{recipe}:{_line_of(name, recipe)}: {name}" if of_recipe and recipe else f"--{name}"
    return f"{where} {value}: must be {in_words(hints[name])}; see --help"


def in_the_recipe(mistake: str, flags: Collection[str], recipe: Path | None) -> str:
    """A mistake that begins with an option's flag, with the recipe's line in its place where that has the value."""
    found = re.match(r"--(\w+)", mistake)
    if recipe is None or not found or found[1] in flags or not _lines_of(found[1], recipe):
        return mistake
    return f"{recipe}:{_line_of(found[1], recipe)}: {mistake[2:]}"


def _line_of(name: str, recipe: Path) -> int:
    return next(iter(_lines_of(name, recipe)), 1)


def _lines_of(name: str, recipe: Path) -> list[int]:
    lines = recipe.read_text(encoding="utf-8").splitlines() if recipe.is_file() else []
    return [number for number, line in enumerate(lines, 1) if re.match(rf"[\"']?{name}[\"']?\s*:", line)]
