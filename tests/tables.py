"""Small tables in the layouts of E2E, WebNLG and DART, and short ways to write and read them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from xml.sax.saxutils import escape

from seq2seq.records import Record, Records, load_records
from seq2seq.split_files import Split
from seq2seq.tasks import TASKS

QUAY = "name : The Quay | Type : pub | price : £ 20 - 25"
QUAY_MR = "name[The Quay], eatType[pub], priceRange[£20-25]"
TOWER = "name : Ink Tower | family friendly : no"
TOWER_MR = "name[Ink Tower], familyFriendly[no]"

LISBON = ["Lisbon", "leaderName", "Ana_Sousa"]
FERRY = ["Lisbon_Ferry", "owner", '"Tagus, Ltd"']
LISBON_SOURCE = " | Lisbon : leaderName : Ana_Sousa"
BOTH_SOURCE = LISBON_SOURCE + ' | Lisbon_Ferry : owner : "Tagus, Ltd"'

E2E_LINES = f"{QUAY}||The Quay is a pub . \n{TOWER}||Ink Tower , no place for children . \n{QUAY}||A pub : The Quay ."

DART_SOURCE = "Ann Lee : birth_place : Oslo | [TABLECONTEXT] : [title] : Mayors"
DART_RECORDS = [
    {
        "tripleset": [["Ann Lee", "BIRTH_PLACE", "Oslo"], ["[TABLECONTEXT]", "[TITLE]", "Mayors"]],
        "subtree_was_extended": False,
        "annotations": [{"source": "s", "text": "Ann is from Oslo."}, {"source": "s", "text": "  "}],
    },
    {"tripleset": [["Oslo", "Area", "454"]], "annotations": [{"source": "s", "text": "454 for Oslo."}]},
    {
        "tripleset": [["Ann Lee", "birth_place", "Oslo"], ["[TABLECONTEXT]", "[Title]", "Mayors"]],
        "annotations": [{"source": "s", "text": "Oslo, home of Ann."}],
    },
]
DART_WANTED = [
    Record(DART_SOURCE, ("Ann is from Oslo.", "Oslo, home of Ann.")),
    Record("Oslo : area : 454", ("454 for Oslo.",)),
]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_rows(path: Path, rows: list[dict]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("mr", "ref"), *rows])


def load(task: str, folder: Path, split: Split = "train") -> Records:
    return load_records(TASKS[task], str(folder), split)


def read(task: str, folder: Path, split: Split = "train") -> list[Record]:
    return load(task, folder, split).items


def entry(triples: list[list[str]], texts: list[tuple[str, str]], category: str = "Airport") -> str:
    lines = [f'    <entry category="{category}" eid="Id1" size="{len(triples)}">', "      <originaltripleset>"]
    lines += ["        <otriple>not | this | one</otriple>", "      </originaltripleset>", "      <modifiedtripleset>"]
    lines += [f"        <mtriple>{escape(' | '.join(triple))}</mtriple>" for triple in triples]
    lines += ["      </modifiedtripleset>"]
    lines += [f'      <lex comment="{comment}" lid="Id1">{escape(text)}</lex>' for comment, text in texts]
    return "\n".join([*lines, "    </entry>"])


def xml(*entries: str) -> str:
    return "\n".join(
        [
            "<?xml version='1.0' encoding='UTF-8'?>",
            "<benchmark>",
            "  <entries>",
            *entries,
            "  </entries>",
            "</benchmark>",
        ]
    )


def webnlg_json(*entries: tuple[list[list[str]], list[tuple[str, str]]]) -> dict:
    """A document in the layout of the authors' json."""
    return {
        "entries": [
            {
                str(number): {
                    "category": "Airport",
                    "lexicalisations": [{"comment": c, "lex": t, "xml_id": "Id0", "lang": ""} for c, t in texts],
                    "modifiedtripleset": [
                        dict(zip(("subject", "property", "object"), t, strict=True)) for t in triples
                    ],
                    "size": str(len(triples)),
                }
            }
            for number, (triples, texts) in enumerate(entries, start=1)
        ]
    }
