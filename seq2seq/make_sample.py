"""Write the generated part of the carried `sample` summarisation data: the same seed gives the same bytes.

python -m seq2seq.make_sample --output_dir DIR [--seed 7] [--check | --overwrite]
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

from seq2seq.sample_texts import DOMAINS, common, names
from seq2seq.sample_texts.shape import Domain
from seq2seq.sample_texts.templates import fill, polish
from seq2seq.utils import OneLineParser, UserError, command, write_atomically

COUNTS = {"train": 3000, "val": 200, "test": 200}
SOURCE_WORDS = (45, 110)
SUMMARY_WORDS = (10, 24)
LEAD_SHARE = 0.62
MAX_COVER = 0.8
"""Share of the summary's words one sentence alone may hold; above it the summary would be no fusion."""

# A sentence that opens so speaks of the one before it, which therefore must not be a filler.
_BACKWARD = ("It ", "They ", "She ", "Together ", "Between them", "As a result", "By winning", "With this", "After ")
_TOKEN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9',.-]*[A-Za-z0-9])?")


class _Record:
    """The slots of one record in the making and the drawing of phrasings for them."""

    def __init__(self, rng: random.Random, domain: Domain) -> None:
        self.rng = rng
        # A second date or weekday could be taken for the first, so only a lone date may be a bare weekday.
        held = str(domain.slots)
        lone = "{date+" not in held and not any(weekday in held for weekday in names.WEEKDAYS)
        self.style = rng.randrange(3 if lone else 2)
        self.day: date = names.first_day(rng, domain.days)
        self.values: dict[str, str] = {}
        for key, options in domain.slots.items():
            choice = rng.choice(options) if isinstance(options, tuple) else options
            row = (choice,) if isinstance(choice, str) else choice
            for name, text in zip(key.split(","), row, strict=True):
                self.values[name] = self.fill(text)

    def fill(self, text: str) -> str:
        """Draw every choice of a template and put in its slots."""
        return fill(self.rng, text, self._value)

    def _value(self, name: str) -> str:
        if name in self.values:
            return self.values[name]
        if name.startswith("date"):
            return names.show_day(self.day + timedelta(days=int(name[4:] or 0)), self.style)
        kind = name if name[0] == "#" or name[1:2].isdigit() else name.rstrip("0123456789")
        while (value := names.fresh(self.rng, kind)) in self.values.values() and kind in ("place", "person", "street"):
            pass
        return value

    def sentence(self, text: str) -> str:
        """A template as a finished sentence."""
        return polish(self.fill(text))


def tokens(text: str) -> list[str]:
    """The words and numbers of a text without the punctuation around them."""
    return _TOKEN.findall(text)


def _draft(rng: random.Random, domain: Domain) -> tuple[list[str], str]:
    """One attempt at a record: its sentences in order and its summary."""
    record = _Record(rng, domain)
    facts = [record.sentence(rng.choice(phrasings)) for phrasings in domain.facts]
    rest = facts[1:]
    rng.shuffle(rest)
    body = [facts[0], *rest]
    fillers = list(domain.fillers)
    rng.shuffle(fillers)
    shared = list(common.FILLERS)
    rng.shuffle(shared)
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
        text = record.sentence((fillers if rng.random() < 0.7 else shared).pop())
        gaps = [at for at in range(1, len(body) + 1) if at == len(body) or not body[at].startswith(_BACKWARD)]
        body.insert(rng.choice(gaps), text)
    if rng.random() < LEAD_SHARE:
        leads = [rng.choice(common.LEADS), rng.choice(domain.leads)]
        shown = rng.choice((leads, leads[:1], leads[1:], leads[1:]))
        body = [record.sentence(text) for text in shown] + body
    return body, record.sentence(rng.choice(domain.summaries))


def _sound(sentences: list[str], summary: str) -> bool:
    """Whether a draft keeps the bounds and its summary needs more than one sentence, all names and numbers copied."""
    source = " ".join(sentences)
    if not SOURCE_WORDS[0] <= len(source.split()) <= SOURCE_WORDS[1] or not 3 <= len(sentences) <= 7:
        return False
    wanted = tokens(summary)
    if not SUMMARY_WORDS[0] <= len(summary.split()) <= SUMMARY_WORDS[1]:
        return False
    held = set(tokens(source))
    if any((word != word.lower() or word[0].isdigit()) and word not in held for word in wanted[1:]):
        return False
    lower = [word.lower() for word in wanted]
    return all(
        sum(word in have for word in lower) <= MAX_COVER * len(lower)
        for have in ({word.lower() for word in tokens(sentence)} for sentence in sentences)
    )


def make_records(seed: int = 7) -> dict[str, list[dict[str, object]]]:
    """Every generated record by split, no two alike in source, set of sentences or summary."""
    rng = random.Random(seed)
    seen: set[object] = set()
    splits: dict[str, list[dict[str, object]]] = {}
    for split in ("test", "val", "train"):
        records: list[dict[str, object]] = []
        for number in range(COUNTS[split]):
            domain = DOMAINS[number % len(DOMAINS)]
            while True:
                sentences, summary = _draft(rng, domain)
                marks = (summary.lower(), tuple(sorted(sentences)))
                if _sound(sentences, summary) and not seen.intersection(marks):
                    break
            seen.update(marks)
            records.append(
                {"source": " ".join(sentences), "references": [summary], "domain": domain.name, "part": "generated"}
            )
        rng.shuffle(records)
        splits[split] = records
    return splits


def to_lines(records: list[dict[str, object]]) -> bytes:
    """The records as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def to_gzip(data: bytes) -> bytes:
    """The data as a gzip file that tells neither its name nor its time."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def write_or_check(
    make: Callable[[int], dict[str, list[dict[str, object]]]], description: str | None, argv: list[str] | None
) -> int:
    """Write the files of the splits that `make` makes of a seed, or compare them with what would be written.

    Returns the exit code: 1 where files differ, 2 for a mistake.
    """
    parser = OneLineParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of {train,val,test}.jsonl.gz")
    parser.add_argument("--seed", type=int, default=7, help="seed of the generator (the committed files have 7)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the files there differ")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    different = False

    def work() -> None:
        nonlocal different
        args = parser.parse_args(argv)
        paths = {split: args.output_dir / f"{split}.jsonl.gz" for split in ("train", "val", "test")}
        if args.check:
            if found := _difference(make(args.seed), paths, args.seed):
                different = True
                print(found, file=sys.stderr)
            return
        try:
            args.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output_dir {args.output_dir}: cannot be made ({error.strerror}); give another"
            ) from error
        for path in paths.values():
            if path.is_dir() or (path.exists() and not args.overwrite):
                how = (
                    "give another folder" if path.is_dir() else "add --overwrite to replace it, or give another folder"
                )
                raise UserError(f"{path}: is there already; {how}")
        for split, records in make(args.seed).items():
            write_atomically(paths[split], to_gzip(to_lines(records)))

    return command(work) or int(different)


def _difference(splits: Mapping[str, list[dict[str, object]]], paths: Mapping[str, Path], seed: int) -> str | None:
    """The first split that is missing or otherwise; unpacked, for zlibs pack the same lines into other bytes."""
    for split, records in splits.items():
        path = paths[split]
        if not path.is_file():
            return f"{path} is missing"
        try:
            same = gzip.decompress(path.read_bytes()) == to_lines(records)
        except (OSError, EOFError, zlib.error):
            same = False
        if not same:
            return f"{path} differs from what seed {seed} makes"
    return None


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return write_or_check(make_records, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
