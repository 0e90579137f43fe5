"""AdapterHub adapters from outside: its own virtual environment, and the worker in it (adapters_worker.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.shapes import Setting

HERE = Path(__file__).resolve().parent
VENV = HERE / ".adapters-venv"
CONSTRAINTS = HERE.parent / "constraints.txt"
PINNED = "adapters==1.3.0"  # it pins its own transformers


class Unavailable(Exception):
    """Why adapters cannot be measured, in one line."""


def python_of_environment(venv: Path = VENV) -> Path:
    """The interpreter of adapters' own environment, which is made first where it is not there.

    torch comes first, in the version of constraints.txt, so that all systems compute with the same.
    Raises Unavailable where the packages cannot be had.
    """
    python, ready = venv / "bin" / "python", venv / ".ready"
    torch_pin = re.search(r"^torch==\S+", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = [torch_pin.group() if torch_pin else "torch", PINNED]
    if ready.is_file() and ready.read_text(encoding="utf-8").split() == wanted:
        return python
    print(f"setting up {venv.name} for {PINNED} (once, some minutes)", flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", str(venv)], [*pip, wanted[0]], [*pip, *wanted]]
    for command in steps:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise Unavailable(f"{PINNED} cannot be installed: {error}") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [f"{command[0]} failed"]
            raise Unavailable(f"{PINNED} cannot be installed: {lines[-1][:200]}")
    ready.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    return python


class AdaptersWorker:
    """A running worker; `with` ends it.

    Args:
        python: interpreter of adapters' environment.
        threads: of torch.

    Raises Unavailable where it does not start, or fails at a request.
    """

    def __init__(self, python: Path, threads: int) -> None:
        self.threads = threads
        own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.process = subprocess.Popen(
            [str(python), str(HERE / "adapters_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=own,
        )

    def __enter__(self) -> AdaptersWorker:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()

    def ask(self, do: str, **rest: Any) -> dict[str, Any]:
        """The answer to one request."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"do": do, **rest}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable("the adapters worker does not start") from None
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"the adapters worker ended at {do!r} (exit code {self.process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(f"adapters fails at {do!r}: {' '.join(answer['error'].split())[:200]}")
        return answer

    def prepare(self, setting: Setting) -> str:
        """Make the model of a setting ready; returns the key to ask for it."""
        key = repr(setting)
        self.ask("prepare", key=key, setting=asdict(setting), threads=self.threads)
        return key
