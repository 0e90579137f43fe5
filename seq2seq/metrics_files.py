"""Files of generated texts and their references, and the table of their scores."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from seq2seq.readers import numbered_lines
from seq2seq.utils import UserError, console

Texts = tuple[list[str], list[tuple[str, ...]]]
JSON_ENDINGS = (".jsonl", ".jsonl.gz")


def read_scored(generated: Path, references: Path | None) -> dict[str, Texts]:
    """Read what is to be scored: name of a part -> (hypotheses, references of each); "all" comes first.

    generated: one text a line (a blank line is an empty text) with `references` beside it, the E2E challenge's format:
    each text's references in a block of lines, blank lines between the blocks (a file without blank lines has one
    reference a text). Or json lines with `generated` and `references`, alone; where their records name a `part`, each
    part is scored by itself too. Raises UserError for a file that cannot be read as that.
    """
    for path in (generated, references):
        if path is not None and path.is_dir():
            raise UserError(f"{path}: is a folder; give a file in it (a run's is generations_test.jsonl)")
        if path is not None and not path.is_file():
            raise UserError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    if generated.name.endswith(JSON_ENDINGS):
        if references is not None:
            raise UserError(f"{generated} holds references itself; leave {references} out")
        return _read_json_lines(generated)
    if references is None:
        raise UserError(f"{generated}: the file of its references must follow (only a .jsonl holds its own)")
    hypotheses = [line.strip() for _, line in numbered_lines(generated)]
    blocks = _blocks(references)
    if len(blocks) == 1 and len(hypotheses) != 1:
        blocks = [(reference,) for reference in blocks[0]]
    if len(hypotheses) != len(blocks):
        raise UserError(
            f"{generated} has {len(hypotheses)} texts, {references} has references of {len(blocks)}: "
            "text i must belong to block i (blocks end at a blank line)"
        )
    return {"all": _some(generated, hypotheses, blocks)}


def _blocks(path: Path) -> list[tuple[str, ...]]:
    lines = (line.strip() for _, line in numbered_lines(path))
    return [tuple(block) for is_text, block in groupby(lines, key=bool) if is_text]


def _read_json_lines(path: Path) -> dict[str, Texts]:
    parts: dict[str, Texts] = {"all": ([], [])}
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the second: nested too deeply
            record = None
        if not _is_scorable(record):
            raise UserError(
                f'{path}:{number}: must be {{"generated": text, "references": [text, ...]}} with at least one reference'
            )
        for name in dict.fromkeys(("all", record.get("part") or "all")):
            hypotheses, references = parts.setdefault(name, ([], []))
            hypotheses.append(record["generated"])
            references.append(tuple(record["references"]))
    _some(path, *parts["all"])
    return parts if len(parts) > 2 else {"all": parts["all"]}


def _is_scorable(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("references"), list) or not record["references"]:
        return False
    part = "" if record.get("part") is None else record["part"]
    return all(isinstance(text, str) for text in (record.get("generated"), part, *record["references"]))


def _some(path: Path, hypotheses: list[str], references: list[tuple[str, ...]]) -> Texts:
    if not hypotheses:
        raise UserError(f"{path}: holds no text to score")
    return hypotheses, references


def show(scored: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print the scores, a column for each part, and below them the signature of each metric."""
    from rich.table import Table

    metrics = next(iter(scored.values()))
    table = Table("metric")
    for part, scores in scored.items():
        sizes = next(iter(scores.values()))
        table.add_column(f"{part}\n{sizes['n']} texts\n{sizes['references']} references", justify="right")
    for name in metrics:
        table.add_row(name, *(f"{scores[name]['score']:.4f}" for scores in scored.values()))
    console(markup=False, emoji=False).print(table)  # a part may be called anything
    width = max(map(len, metrics))
    for name, values in metrics.items():
        print(f"{name:{width}}  {values['signature']}")
