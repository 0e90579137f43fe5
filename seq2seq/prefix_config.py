"""The json files beside saved weights: read, and checked against what is made of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2seq.utils import UserError

KINDS: dict[str, tuple[type, ...]] = {
    "preseqlen": (int,), "mid_dim": (int,), "bottleneck": (int,), "design": (int,), "dropout": (int, float),
    "deep": (bool,), "infix": (bool,), "shift_positions": (bool,), "base_dropout": (bool,), "sites": (list,),
}  # fmt: skip
"""Option -> its types in json."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file; UserError for a file that holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); save it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged (a JSON {type(content).__name__}, no object); save it again")
    return content


def checked_options(path: Path, options: Mapping[str, Any], made: Any) -> dict[str, Any]:
    """The options of a file, if the class that is made of them takes each, as it is there.

    Raises UserError that names the file and the option.
    """
    takes = {name: parameter.default for name, parameter in inspect.signature(made).parameters.items()}
    for name, value in options.items():
        if name not in KINDS or name not in takes:
            known = ", ".join(option for option in takes if option in KINDS)
            raise UserError(f"{path}: {made.__name__} has no option {name}, only {known}; save it again")
        if type(value) not in KINDS[name] and not (value is None and takes[name] is None):
            wanted = " or ".join(kind.__name__ for kind in KINDS[name])
            raise UserError(f"{path}: {name} is {value!r:.60}, no {wanted}; save it again")
    return dict(options)
