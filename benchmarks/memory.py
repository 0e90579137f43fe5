"""Peak memory of a training step, each system in a fresh process.

    python benchmarks/memory.py '{"name": "ours", "threads": 2, "setting": {"item": "train"}}'

What is counted: the largest resident memory of the process through model, prefix, optimiser and two steps (Adam's
state is there from the second on), less what it had when its imports were done.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.adapters_peer import AdaptersWorker
from benchmarks.shapes import Setting, base_model, inputs_of, peak_memory

STEPS = 2


def peak_of(name: str, setting: Setting, threads: int) -> int:
    """Bytes of a system's peak, measured in a new process. Raises RuntimeError where that fails."""
    request = json.dumps({"name": name, "threads": threads, "setting": asdict(setting)})
    command = [sys.executable, str(Path(__file__).resolve()), request]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])["bytes"]


def peak_of_adapters(python: Path, setting: Setting, threads: int) -> int:
    """Bytes of adapters' peak, in a new worker."""
    with AdaptersWorker(python, threads) as worker:
        key = worker.prepare(setting)
        for turn in range(STEPS):
            worker.ask("run", key=key, turn=turn)
        return worker.ask("peak")["bytes"]


def main() -> None:
    """Measure one system in this process and print {"bytes": …}."""
    import peft  # noqa: F401  # so that it counts as imported, whichever system it is

    from benchmarks.systems import train_step

    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    setting = Setting(**{**request["setting"], "item": "train"})
    imported = peak_memory()
    batches = inputs_of(setting)
    step = train_step(request["name"], setting, base_model(setting))
    for turn in range(STEPS):
        step(batches[turn % len(batches)])
    print(json.dumps({"bytes": peak_memory() - imported}))


if __name__ == "__main__":
    main()
