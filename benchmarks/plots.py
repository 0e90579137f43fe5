"""results.svg: the alternating runs as bars, the curves as lines, all from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.ratios import median_of, taken

BARS = {
    "bart_train": "BART training step",
    "gpt2_train": "GPT-2 training step",
    "bart_beam": "BART beam search",
    "gpt2_beam": "GPT-2 beam search",
}
CURVES = {
    "curve_preseqlen": "prefix length P, tokens",
    "curve_source": "source length, tokens",
    "curve_batch": "batch, examples",
    "curve_beams": "beams",
}
COLOURS = {"32": "#4c78a8", "bf16": "#f58518", "ours": "#54a24b", "peft": "#b279a2"}
STYLES = {"beam": "-", "train": "--"}
KINDS = {"beam": "beam search", "train": "training step"}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw what was measured: bars above, curves below."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    items = results["items"]
    figure = Figure(figsize=(17, 8.5), layout="constrained")
    axes = figure.subplots(2, 4)
    for axis, (name, title) in zip(axes[0], BARS.items(), strict=True):
        _bars(axis, items.get(name), title)
    for axis, (name, label) in zip(axes[1], CURVES.items(), strict=True):
        _lines(axis, items.get(name), label)
    machine = results["machine"]
    figure.suptitle(f"{machine['processor']}, {machine['threads']} threads; less is better", fontsize=10)
    with rc_context({"svg.hashsalt": "results"}):  # the same results are the same file
        figure.savefig(path, metadata={"Date": None})


def _bars(axis: Any, item: dict[str, Any] | None, title: str) -> None:
    """Median seconds of each system, with least and greatest."""
    axis.set_title(title)
    if item is None:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    systems = list(item["turns"]["32"])
    height = 0.8 / len(item["turns"])
    for i, (precision, turns) in enumerate(item["turns"].items()):
        places = [row + i * height for row in range(len(systems))]
        medians = [median_of(turns[system]) for system in systems]
        below = [median - min(taken(turns[system])) for median, system in zip(medians, systems, strict=True)]
        above = [max(taken(turns[system])) - median for median, system in zip(medians, systems, strict=True)]
        label = "float32" if precision == "32" else precision
        bars = axis.barh(places, medians, height, xerr=[below, above], color=COLOURS[precision], label=label)
        axis.bar_label(bars, fmt="%.3g", fontsize=7, padding=3)
    axis.set_yticks([row + 0.4 - height / 2 for row in range(len(systems))], systems, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel("seconds")
    axis.legend(fontsize=8, loc="upper right")


def _lines(axis: Any, item: dict[str, Any] | None, label: str) -> None:
    """Median seconds of ours and PEFT against one field."""
    from matplotlib.ticker import StrMethodFormatter

    if item is None:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    axis.set_yscale("log")
    for kind, values in item["turns"].items():
        for system in ("ours", "peft"):
            points = [(int(value), median_of(turns[system])) for value, turns in values.items()]
            axis.plot(*zip(*points, strict=True), STYLES[kind], marker="o", color=COLOURS[system],
                      label=f"{system}, {KINDS[kind]}")  # fmt: skip
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    axis.set_title(f"BART, {item['work']['precision']}, against {label.split(',')[0]}")
    axis.set_xlabel(label)
    axis.set_ylabel("seconds (log)")
    axis.tick_params(axis="y", which="both", labelsize=7)
    axis.legend(fontsize=8)
