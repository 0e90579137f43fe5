"""`make bench`: measure this project beside PEFT, AdapterHub adapters and plain transformers, and report.

    python benchmarks/bench.py                      everything that results.json does not hold yet, then the report
    python benchmarks/bench.py --only [bart_beam] --again
    python benchmarks/bench.py --report             the report of what is there
    python benchmarks/bench.py --quick              tiny models, to see that all of it works: into runs/bench-quick

Every item is written to results.json as soon as it is finished, so that a run that was ended goes on where it was.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from seq2seq.parsing import parse_into  # noqa: E402
from seq2seq.utils import UserError, command, write_atomically  # noqa: E402

DESCRIPTION = "Measure this project beside its peers, and report."
GO_ON = "interrupted; the same command goes on where it was"


@dataclass
class WhatToMeasure:
    """What to measure, how often, and where the results go."""

    only: list[str] | None = None
    """Items to measure, as `[bart_beam, memory]`; default: all."""
    again: bool = False
    """Measure items that results.json holds as well."""
    report: bool = False
    """Measure nothing, make the report of what is there."""
    quick: bool = False
    """Tiny models, to see that all of it works."""
    turns: int = 5
    """Of each system at most."""
    budget: float = 60.0
    """Seconds after which a system that has had two turns sits the others out."""
    threads: int | None = None
    """Of torch, for every system; default: torch's own choice."""
    output_dir: str | None = None
    """Where the results go; default: benchmarks, with --quick runs/bench-quick."""
    adapters: bool = True
    """Measure AdapterHub adapters, in an environment of their own that is set up first."""


@dataclass
class Options(WhatToMeasure):
    """All options of `bench.py`."""

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise UserError(f"--turns {self.turns}: give at least 1")

    @property
    def place(self) -> Path:
        """The folder of results.json, RESULTS.md and results.svg."""
        own = ROOT / "runs" / "bench-quick" if self.quick else ROOT / "benchmarks"
        return Path(self.output_dir) if self.output_dir else own


def read_results(path: Path) -> dict[str, Any]:
    """What results.json holds; empty if it is not there. Raises UserError where it cannot be read."""
    if not path.is_file():
        return {"items": {}}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); delete it to measure anew") from error


def bench(options: Options) -> None:
    """Measure what is asked for and not there yet, then write the report."""
    import torch

    from benchmarks.items import ITEMS
    from benchmarks.machine import describe
    from benchmarks.report import write_report

    unknown = [name for name in options.only or () if name not in ITEMS]
    if unknown:
        raise UserError(f"--only {unknown[0]}: no such item; known are {', '.join(ITEMS)}")
    path = options.place / "results.json"
    results = read_results(path)
    if not options.report:
        threads = options.threads or torch.get_num_threads()
        options.place.mkdir(parents=True, exist_ok=True)
        machine = {**describe(threads), "quick": options.quick}
        if options.again and not options.only or results.get("machine") != machine:
            if results["items"] and not options.again:
                print(f"{path} is of another machine or of other versions: measured anew")
            results = {"machine": machine, "items": {}}
        measure_items(options, threads, results, path)
    if not results["items"]:
        raise UserError(f"--report: {path} holds no item; leave --report out to measure")
    write_report(results, options.place)
    print(f"RESULTS.md, results.json, results.svg: {options.place}")


def measure_items(options: Options, threads: int, results: dict[str, Any], path: Path) -> None:
    """Measure what is missing, each item in a process of its own, and write it item by item.

    What one leaves in its process, free memory above all, makes the next one's systems faster, and not all alike.
    """
    from benchmarks.items import ITEMS

    names = [name for name in options.only or ITEMS if options.again or name not in results["items"]]
    if not names:
        return
    python = environment_of_adapters(options)
    for name in names:
        print(f"{name} …", end=" ", flush=True)
        started = time.perf_counter()
        item, adapters = in_a_new_process(measure_item, name, options, threads, python)
        seconds = time.perf_counter() - started
        date = f"{datetime.date.today()}"
        results["items"][name] = {**item, "adapters": adapters, "date": date, "took": round(seconds, 1)}
        print(f"{seconds:.0f} s", flush=True)
        write_atomically(path, json.dumps(results, indent=1))


def in_a_new_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns of the arguments; it can be imported, and all can be pickled."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def measure_item(
    name: str, options: Options, threads: int, python: Path | str
) -> tuple[dict[str, Any], dict[str, str]]:
    """An item's plain numbers, and the versions of adapters' environment or {"missing": why}.

    python: interpreter of that environment, or why there is none.
    """
    import torch

    from benchmarks.adapters_peer import AdaptersWorker, Unavailable
    from benchmarks.items import ITEMS, Plan
    from seq2seq.training import quiet_libraries

    quiet_libraries()
    warnings.filterwarnings("ignore", category=FutureWarning)  # peers call what transformers is about to rename
    torch.set_num_threads(threads)
    plan = Plan(options.turns, options.budget, threads, options.quick)
    if isinstance(python, str):
        return ITEMS[name](plan), {"missing": python}
    try:
        with AdaptersWorker(python, threads) as worker:
            return ITEMS[name](replace(plan, python=python, worker=worker)), worker.ask("versions")
    except Unavailable as reason:
        return ITEMS[name](plan), {"missing": left_out(reason)}


def environment_of_adapters(options: Options) -> Path | str:
    """The interpreter of adapters' environment, which is set up where it is not there, or why there is none."""
    from benchmarks.adapters_peer import Unavailable, python_of_environment

    if not options.adapters:
        return "left out with --adapters no"
    try:
        return python_of_environment()
    except Unavailable as reason:
        return left_out(reason)


def left_out(reason: Exception) -> str:
    """Say that adapters is left out, and return why."""
    print(f"adapters is left out: {reason}", flush=True)
    return str(reason)


def main() -> int:
    """Parse, then measure and report; returns the exit code."""

    def work() -> None:
        bench(parse_into(Options, sys.argv[1:], "bench.py", DESCRIPTION, None))

    return command(work, GO_ON)


if __name__ == "__main__":
    sys.exit(main())
