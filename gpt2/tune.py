"""The command line of the search: `python tune.py sample`; it stands beside experiment.py, for the same reason."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):  # run as a file, also from inside its own folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gpt2.experiment import GO_ON, PROGRAMS, parse, parser_of
from seq2seq.arguments import CONFIGS
from seq2seq.utils import UserError, command

SEARCHES = CONFIGS / "search"


def main() -> int:
    """Do the trials that are left of a search and show the best; exit code 1 if no trial has a score."""
    codes = [0]

    def work() -> None:
        parser = parser_of("tune.py", "search", "Search learning rate, prefix length and MLP width with Optuna.")
        parser.add_argument("--trials", type=int, help="in all, in place of the file's own")
        name, taken, flags = parse(parser, sys.argv[1:])
        if taken.trials is not None and taken.trials < 1:
            raise UserError(f"--trials {taken.trials}: give at least 1")
        codes.append(0 if tune(name or "sample", taken, flags) else 1)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run that is under way as Ctrl-C does
    return command(work, GO_ON) or codes[-1]


def tune(name: str, taken: argparse.Namespace, flags: list[str]) -> bool:
    """Search and report; returns whether there is a best trial."""
    from seq2seq.grid import process_of
    from seq2seq.search import read_search, run_search
    from seq2seq.studies import find_file

    search = read_search(find_file(name, SEARCHES, "search"), PROGRAMS, flags)
    search = replace(search, trials=taken.trials or search.trials)
    place = taken.output_dir or Path("runs") / "search" / search.path.stem
    program = PROGRAMS[search.command]
    run_search(search, place, process_of(program))
    print((place / "trials.md").read_text(encoding="utf-8"))
    found = (place / "best.yaml").is_file()
    if found:
        print(f"best: python {program.parent.name}/{program.name} --config {place / 'best.yaml'}")
    return found


if __name__ == "__main__":
    sys.exit(main())
