"""Decoded texts written as they come, so that a decoding that is killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2seq.utils import UserError, lock


class PartialOutputs:
    """Texts of one decoding in a file beside its output; one JSON line a batch: `{"3": "text", "17": "text"}`.

    The first line names the decoding by what its texts follow from. What is behind a line that a kill has cut, or that
    is damaged, is dropped, so a batch is there as a whole or not at all. While open, it is open only once.

    Args:
        path: the file; its folder exists.
        follows_from: plain values that decide the texts (model, sources, search, batch size).

    Raises UserError where another process has it open, and where it holds texts of another decoding.
    """

    def __init__(self, path: Path, follows_from: Any) -> None:
        self.path = path
        name = hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()[:32]
        self.texts: dict[int, str] = {}
        header = json.dumps({"decoding": name}).encode() + b"\n"
        self.file = path.open("ab+")
        try:
            lock(self.file, f"{path}: another process decodes into it; wait for it, or give another --output")
        except UserError:
            self.file.close()
            raise
        lines = path.read_bytes().splitlines(keepends=True)
        good = len(header)
        if lines[:1] != [header]:
            if lines[1:] and _is_header(lines[0]):
                self.file.close()
                raise UserError(
                    f"{path}: holds texts of another decoding (other options, weights or sources); "
                    "finish that one, or delete the file"
                )
            self.file.truncate(0)
            self.file.write(header)
            lines = []
        for line in lines[1:]:
            if (texts := _batch_of(line)) is None:
                break
            self.texts.update(texts)
            good += len(line)
        self.file.truncate(good)
        self.file.flush()

    def add(self, batch: Mapping[int, str]) -> None:
        """Append the texts of a batch, by the numbers of their records."""
        self.texts.update(batch)
        self.file.write(json.dumps(dict(batch)).encode() + b"\n")
        self.file.flush()

    def __enter__(self) -> PartialOutputs:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def remove(self) -> None:
        """Delete the file: the output is written."""
        self.path.unlink(missing_ok=True)


def _is_header(line: bytes) -> bool:
    return line.startswith(b'{"decoding": ') and line.endswith(b"}\n")


def _batch_of(line: bytes) -> dict[int, str] | None:
    """The texts of a whole line, None for one that is cut or damaged."""
    try:
        texts = {int(index): text for index, text in json.loads(line).items()}
    except (ValueError, AttributeError):
        return None
    return texts if line.endswith(b"\n") and all(isinstance(text, str) for text in texts.values()) else None
