"""The command line of the studies: `python experiment.py prefix_length`; with no name it lists them.

It stands here because a study may be of either family, and gpt2/ may use seq2seq/, never the reverse.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file, also from inside its own folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gpt2 import train_e2e
from seq2seq import train_bart
from seq2seq.arguments import CONFIGS
from seq2seq.runs import read_options
from seq2seq.utils import OneLineParser, UserError, command

STUDIES = CONFIGS / "experiments"
PROGRAMS = {"train_bart": Path(str(train_bart.__file__)), "train_e2e": Path(str(train_e2e.__file__))}
GO_ON = "interrupted; the same command goes on where it was"


def parser_of(program: str, name: str, what: str) -> OneLineParser:
    """A command that takes a YAML file by name, and any option of the training commands for its runs."""
    parser = OneLineParser(
        prog=program,
        usage=f"{program} [{name.upper()}] [--output_dir DIR] [other flags]",
        description=f"{what} {name.upper()} is its name in configs/, or the path of a .yaml file.",
        epilog="Any other flag is an option of train_bart.py or train_e2e.py, for every run: --data_dir, --bsz, …",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=lambda text: Path(os.path.expanduser(text)), help="where its runs lie")
    return parser


def parse(parser: OneLineParser, argv: list[str]) -> tuple[str | None, argparse.Namespace, list[str]]:
    """(name, own flags, flags of the runs); the name, if there is one, comes first.

    It is no positional argument: argparse would take the value of a flag that it does not know for it.
    """
    name = argv[0] if argv and not argv[0].startswith("-") else None
    return name, *parser.parse_known_args(argv if name is None else argv[1:])


def main() -> int:
    """Run what is left of a study, then write and show its table and plot; exit code 1 if a run failed."""
    failed: dict[str, str] = {}

    def work() -> None:
        parser = parser_of("experiment.py", "study", "Run a study, or go on with it; then write its table and plot.")
        parser.add_argument("--seeds", type=int, nargs="+", default=[], help="in place of the study's own")
        parser.add_argument("--report", action="store_true", help="run nothing: table and plot of what is finished")
        parser.add_argument("--keep_checkpoints", action="store_true", help="keep those of finished runs as well")
        name, taken, flags = parse(parser, sys.argv[1:])
        if name is not None:
            failed.update(run_study(name, taken, flags))
        elif len(sys.argv) > 1:
            raise UserError(f"experiment.py {sys.argv[1]}: the study stands first; experiment.py alone lists them")
        else:
            list_studies()

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run that is under way as Ctrl-C does
    return command(work, GO_ON) or (1 if failed else 0)


def list_studies() -> None:
    """Print every study that the package carries."""
    for path in sorted(STUDIES.glob("*.yaml")):
        print(f"{path.stem:22}{read_options(path)['description']}")


def run_study(name: str, taken: argparse.Namespace, flags: list[str]) -> dict[str, str]:
    """Run and report; returns {run: last error line} of those that failed."""
    from seq2seq.grid import process_of, run_grid
    from seq2seq.studies import find_file, read_study
    from seq2seq.study_report import collect, write_report

    study = read_study(find_file(name, STUDIES, "study"), PROGRAMS, flags, taken.seeds)
    place = taken.output_dir or Path("runs") / "experiments" / study.name
    failures: dict[str, str] = {}
    if not taken.report:
        launch = process_of(PROGRAMS[study.command])
        failures = run_grid(study.runs(), place, study.metrics[0], launch, taken.keep_checkpoints)
    rows = collect(study, place)
    if taken.report and not any(row.finished for row in rows):
        raise UserError(f"--report: {place} holds no finished run of {study.name}; leave it out to run them")
    write_report(study, rows, place)
    print((place / "table.md").read_text(encoding="utf-8"))
    print(f"table.csv, table.md, plot.png: {place}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
