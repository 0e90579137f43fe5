"""How long the training command takes: to show its help, and to its first training step with the tokens cached."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seq2seq.curves import read_rows

COMMAND = [sys.executable, str(Path(__file__).resolve().parent.parent / "seq2seq" / "train_bart.py")]
PATIENCE = 600.0  # seconds


def seconds_to_help() -> float:
    """Wall time of `train_bart.py --help`."""
    started = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], capture_output=True, check=True)
    return time.perf_counter() - started


def seconds_to_first_step(cache_dir: Path, flags: tuple[str, ...] = ()) -> float:
    """Wall time from the command to the beginning of its first step, on the carried model and notices.

    The run's metrics.csv tells: its first row appears when the first step ends, and says how long training had gone on.
    The run is ended there. cache_dir: of tokens; the first call fills it.
    Raises RuntimeError if the run ends before.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [*COMMAND, "--output_dir", str(output), "--cache_dir", str(cache_dir), "--progress", "no", *flags]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
            try:
                while not (rows := _rows(output / "metrics.csv")):
                    if run.poll() is not None:
                        error = run.stderr.read() if run.stderr else ""
                        raise RuntimeError(f"train_bart.py ended before its first step: {error.strip()[-200:]}")
                    if time.perf_counter() - started > PATIENCE:
                        raise RuntimeError(f"train_bart.py takes no step in {PATIENCE:.0f} s")
                    time.sleep(0.002)
                return time.perf_counter() - started - float(rows[0]["seconds"])
            finally:
                run.kill()


def _rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a table that is being written."""
    return [row for row in read_rows(path) if row.get("seconds")] if path.is_file() else []
