"""The command line of decoding: `python gen.py [--run RUN] [--split test | --input FILE] [--output FILE]`."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file, also from inside its own folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from seq2seq.parsing import parse_into
from seq2seq.utils import command, quick_imports

DESCRIPTION = "Decode a run: a split of its task, a file of sources, or lines as they are typed."


def main() -> int:
    """Parse, then decode; returns the exit code."""

    def work() -> None:
        from gpt2.generation_arguments import GenerationArguments

        options = parse_into(GenerationArguments, sys.argv[1:], "gen.py", DESCRIPTION, None)
        with quick_imports():  # torch only after --help and mistakes are dealt with
            from gpt2.run_generation import generate

        generate(options)

    return command(work, interrupted="interrupted; the same command goes on where it was")


if __name__ == "__main__":
    sys.exit(main())
