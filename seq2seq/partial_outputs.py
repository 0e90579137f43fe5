"""Decoded texts written as they come, so that a decoding that is killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class PartialOutputs:
    """Texts of one decoding in a file beside its output; one JSON line a batch: `{"3": "text", "17": "text"}`.

    The first line names the decoding by what its texts follow from. A file of another decoding is started again, a last
    line that a kill has cut is dropped, so a batch is there as a whole or not at all.

    Args:
        path: the file; its folder exists.
        follows_from: plain values that decide the texts (model, sources, search, batch size).
    """

    def __init__(self, path: Path, follows_from: Any) -> None:
        self.path = path
        name = hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()[:32]
        self.texts: dict[int, str] = {}
        header = json.dumps({"decoding": name}).encode() + b"\n"
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in lines if line.endswith(b"\n")]
        if not kept or kept[0] != header:
            kept = [header]
        path.write_bytes(b"".join(kept))
        for line in kept[1:]:
            self.texts.update({int(index): text for index, text in json.loads(line).items()})

    def add(self, batch: Mapping[int, str]) -> None:
        """Append the texts of a batch, by the numbers of their records."""
        self.texts.update(batch)
        with self.path.open("ab") as file:
            file.write(json.dumps(dict(batch)).encode() + b"\n")

    def remove(self) -> None:
        """Delete the file: the output is written."""
        self.path.unlink(missing_ok=True)
