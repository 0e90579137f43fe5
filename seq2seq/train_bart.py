"""The command line of BART: `python train_bart.py --mode prefixtune [--task T]`; every flag is in arguments.py."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file, also from inside its own folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from seq2seq.parsing import parse
from seq2seq.utils import command, quick_imports


def main() -> int:
    """Parse, then run; returns the exit code."""

    def work() -> None:
        arguments = parse(None, "train_bart.py")
        with quick_imports():  # torch and Lightning only after --help and mistakes are dealt with
            from seq2seq.finetune import run

        run(arguments)

    return command(work)


if __name__ == "__main__":
    sys.exit(main())
