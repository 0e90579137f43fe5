"""RESULTS.md: every figure of results.json as a table, the minimum ratios, and what they say.

A ratio compares two systems turn by turn, within the one alternating run; median (least - greatest) of the turns that
both took.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.minimums import Check, checks
from benchmarks.plots import draw
from benchmarks.ratios import automatic, default_ratio, median_of, ratio, spread_of
from benchmarks.shares import shares
from seq2seq.utils import write_atomically

GIGA = 1e9
TITLES = {
    "bart_train": "Training step, BART-base shape",
    "gpt2_train": "Training step, GPT-2-small shape, E2E's rows in their order",
    "bart_beam": "Beam search, BART-base shape",
    "gpt2_beam": "Beam search, GPT-2-small shape",
}
FIELDS = {"preseqlen": "prefix length P", "source": "source tokens", "batch": "batch", "beams": "beams"}


def write_report(results: dict[str, Any], place: Path) -> None:
    """Write RESULTS.md and results.svg into a folder."""
    items = results["items"]
    draw(results, place / "results.svg")
    sections = [head(results), minimums(checks(results))]
    sections += [compared(name, items[name], results) for name in TITLES if name in items]
    if "memory" in items:
        sections.append(memory(items["memory"]))
    sections += [curve(name, items[name]) for name in items if name.startswith("curve_")]
    if "start_up" in items:
        sections.append(start_up(items["start_up"]))
    if "roofline" in items:
        sections.append(roofline(results))
    write_atomically(place / "RESULTS.md", "\n\n".join(sections) + "\n")


def head(results: dict[str, Any]) -> str:
    """Machine, versions, dates, and how to read the rest."""
    machine, items = results["machine"], results["items"]
    dates = sorted({item["date"] for item in items.values()})
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft", "pytorch-lightning"))
    lines = [
        "# Speed and memory",
        "",
        "Written by `make bench`; do not edit. The raw figures are in `results.json`.",
        "",
        f"* Machine: {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads of torch in every "
        f"system; matrix units: {', '.join(machine['units']) or 'none'}.",
        f"* Versions: Python {machine['python']}, {versions}; adapters: {adapters_of(items)}.",
        f"* Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, "
        f"{sum(item['took'] for item in items.values()) / 60:.0f} minutes in all.",
    ]
    if automatic(results) == "32" and not machine["quick"]:
        lines.append("* bf16 is left out: this processor has no units for it, and takes minutes for a step.")
    if machine["quick"]:
        lines.append("* **`--quick`: tiny models. These figures say nothing about speed.**")
    lines += [
        "",
        "Weights are random; shapes are those of BART-base and GPT-2-small. Each item has a process of its own, where "
        "all systems take turns, both precisions together, after a warm-up of each. Spread is least to greatest. "
        "`times ours` is the median (least to greatest) over the turns that both took of the seconds of a system over "
        "those of ours in the same precision. BART's dropout is 0.1 in every system, GPT-2's is 0, so that all do the "
        "same work. AdapterHub "
        "adapters runs in its own process, with eager attention. PEFT has its prefix in the decoder's "
        "self-attention alone. bf16: the base is in bfloat16.",
        "",
        "![results](results.svg)",
    ]
    return "\n".join(lines)


def adapters_of(items: dict[str, Any]) -> str:
    """Versions of adapters and its transformers, or why it is missing, over all items."""
    found: dict[str, None] = {}
    for item in items.values():
        versions = item["adapters"]
        if "missing" in versions:
            found[f"left out: {versions['missing']}"] = None
        else:
            libraries = f"transformers {versions['transformers']}, torch {versions['torch']}"
            found[f"{versions['adapters']} with {libraries}"] = None
    return "; ".join(found)


def minimums(found: list[Check]) -> str:
    """The minimum ratios as a table, and how many are met."""
    lines = ["## Minimums", "", "| what | minimum | measured | met |", "|---|---|---|---|"]
    for check in found:
        lines.append(f"| {check.what} | {check.bound} | {check.measured} | {check.verdict} |")
    known = [check for check in found if check.met is not None]
    missed = [check.what for check in known if not check.met]
    lines += ["", f"{len(known) - len(missed)} of {len(known)} measured minimums are met."]
    if missed:
        lines.append(f"Not met: {'; '.join(missed)}.")
    if len(known) < len(found):
        lines.append(f"{len(found) - len(known)} are not measured.")
    return "\n".join(lines)


def compared(name: str, item: dict[str, Any], results: dict[str, Any]) -> str:
    """One alternating run: a row for each precision and system."""
    work = item["work"]
    train = work["item"] == "train"
    per = work["batch"] if train else work["batch"] * work["target"]
    unit = "examples/s" if train else "new tokens/s"
    lines = [f"## {TITLES[name]}", "", _of_work(work), ""]
    lines += [
        f"| precision | system | turns | seconds | spread | {unit} | times ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for precision, turns in item["turns"].items():
        for system, seconds in turns.items():
            of_ours = ratio(turns[system], turns["ours"])
            lines.append(
                f"| {precision} | {system} | {sum(s is not None for s in seconds)} | {median_of(seconds):.3f} | "
                f"{spread_of(seconds)} | {per / median_of(seconds):.1f} | {of_ours} |"
            )
    lines += ["", _said(item, results)]
    if "missing" in item["adapters"]:
        lines += ["", f"adapters is left out: {item['adapters']['missing']}."]
    return "\n".join(lines)


def _of_work(work: dict[str, Any]) -> str:
    batch = f"Batch {work['batch']}"
    sizes = f"{batch}, source {work['source']}, "
    if work["lengths"]:
        sizes = f"{batch}, rows of {len(work['lengths'])} (source, target) lengths in the data set's order, "
    elif work["item"] == "train":
        sizes += f"target {work['target']}, "
    else:
        sizes += f"{work['target']} new tokens, {work['beams']} beams, "
    mlp = f", MLP width {work['mid_dim']}" if work["item"] == "train" else ", no MLP"
    return f"{sizes}P = {work['preseqlen']}{mlp}; {work['layers']} layers of width {work['width']}."


def _said(item: dict[str, Any], results: dict[str, Any]) -> str:
    """The comparison in words, from the numbers."""
    parts = []
    for precision, turns in item["turns"].items():
        others = [f"{name} {ratio(turns[name], turns['ours'])}" for name in turns if name != "ours"]
        parts.append(f"In {precision}, seconds over ours: {', '.join(others)}.")
    best = automatic(results)
    if best != "32":
        theirs = [name for name in ("peft", "adapters") if name in item["turns"]["32"]]
        pairs = [f"{name} in float32 over ours in {best}: {default_ratio(item, name, results)}" for name in theirs]
        parts.append(f"Default against default: {', '.join(pairs)}.")
    return " ".join(parts)


def memory(item: dict[str, Any]) -> str:
    """Peaks of a training step."""
    lines = [
        "## Peak memory of a BART training step",
        "",
        _of_work(item["work"]) + " The largest resident memory of a fresh process through model, prefix, optimiser and "
        "two steps, less what it had when its imports were done; median of the turns (least to greatest).",
        "",
        "| system | " + " | ".join(f"{precision}, GB" for precision in item["bytes"]) + " |",
        "|---" * (1 + len(item["bytes"])) + "|",
    ]
    for name in item["bytes"]["32"]:
        peaks = [[peak / GIGA for peak in of[name]] for of in item["bytes"].values()]
        cells = [f"{median_of(of):.2f} ({min(of):.2f}-{max(of):.2f})" for of in peaks]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve(name: str, item: dict[str, Any]) -> str:
    """Seconds against one field."""
    field, work = name.removeprefix("curve_"), item["work"]
    kinds = {"beam": f"beam search, {work['target']} new tokens", "train": "training step"}
    head = [f"{kinds[kind].split(',')[0]}, {system}, s" for kind in item["turns"] for system in ("ours", "peft")]
    lines = [f"## Cost against {FIELDS[field]} (BART, {work['precision']})", ""]
    lines += [
        f"Beam search: {work['target']} new tokens. Training: prefix at three sites (PEFT: one), MLP in ours.",
        "",
    ]
    lines += [f"| {FIELDS[field]} | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for value in next(iter(item["turns"].values())):
        cells = [f"{median_of(item['turns'][kind][value][s]):.3f}" for kind in item["turns"] for s in ("ours", "peft")]
        lines.append(f"| {value} | {' | '.join(cells)} |")
    for kind, values in item["turns"].items():
        first, last = list(values)[0], list(values)[-1]
        grows = [
            f"{system} {median_of(values[last][system]) / median_of(values[first][system]):.2f} times"
            for system in ("ours", "peft")
        ]
        lines += [
            "",
            f"From {FIELDS[field]} {first} to {last} a {kinds[kind].split(',')[0]} grows {' and '.join(grows)}.",
        ]
    return "\n".join(lines)


def start_up(item: dict[str, Any]) -> str:
    """Seconds of the command line."""
    lines = ["## Starting", "", "| what | seconds | spread |", "|---|---|---|"]
    names = {"help": "`train_bart.py --help`", "first step": "command to first training step, tokens cached"}
    for key, text in names.items():
        lines.append(f"| {text} | {statistics.median(item[key]):.2f} | {spread_of(item[key])} |")
    return "\n".join(lines)


def roofline(results: dict[str, Any]) -> str:
    """Rates of matrix products, and the share of them that ours reaches."""
    found = results["items"]["roofline"]["rates"]
    lines = ["## Share of the machine's matrix-product rate", "", "| product (rows x in x out) | "]
    lines[-1] += " | ".join(f"{precision}, GFLOP/s" for precision in found) + " |"
    lines.append("|---" * (1 + len(found)) + "|")
    for shape in next(iter(found.values())):
        lines.append(f"| {shape} | " + " | ".join(f"{of[shape] / GIGA:.0f}" for of in found.values()) + " |")
    lines += ["", "| ours | precision | GFLOP needed | GFLOP/s | of the big square's rate |", "|---|---|---|---|---|"]
    for share in shares(results):
        lines.append(
            f"| {share.what} | {share.precision} | {share.needed / GIGA:.0f} | {share.rate / GIGA:.0f} | "
            f"{100 * share.of_limit:.0f} % |"
        )
    lines += ["", "Needed: what no implementation can leave out; the formula is in `benchmarks/roofline.py`."]
    return "\n".join(lines)
