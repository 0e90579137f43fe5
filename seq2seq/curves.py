"""A run's table (metrics.csv) read back, and drawn as curves.png."""

import csv
import io
from pathlib import Path
from typing import Any

from seq2seq.utils import UserError

Rows = list[dict[str, str]]


def read_rows(path: Path) -> Rows:
    """Read a table that `MetricsCsv` wrote, empty if there is none; a cut last line is left out.

    Raises UserError with file:line for a row that is no row of such a table.
    """
    if not path.is_file():
        return []
    whole, _, _cut = path.read_text(encoding="utf-8").rpartition("\n")
    rows = list(csv.DictReader(io.StringIO(whole)))
    for number, row in enumerate(rows, start=2):
        if not (row.get("step") or "").isdigit() or None in row or None in row.values():
            raise UserError(f"{path}:{number}: not a row of a run's metrics; delete the line")
    return rows


def draw_curves(csv_path: str | Path, png_path: str | Path, title: str) -> None:
    """Draw a run's table as PNG: loss, generation scores if a validation gave any, and learning rate, over steps.

    The training loss is shown raw (light) and as a centred mean over a thirtieth of the steps.
    Raises UserError if the table holds no step.
    """
    from matplotlib.figure import Figure

    rows = read_rows(Path(csv_path))
    if not rows:
        raise UserError(f"{csv_path}: holds no training step to draw; train at least one")
    validated = [name for name in rows[0] if name.startswith("val_") and any(row[name] for row in rows)]
    scores = [name for name in validated if not name.endswith("loss")]
    heights = [3, 2, 1] if scores else [3, 1]
    # A figure of its own: pyplot would keep it and choose a backend for the whole process.
    figure = Figure(figsize=(8, 1.2 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    axes[0].set_title(title, loc="left", fontweight="bold")
    _draw_losses(axes[0], rows, [name for name in validated if name not in scores])
    if scores:
        _draw_scores(axes[1], rows, scores)
    _draw_rates(axes[-1], rows)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(axes)
    figure.savefig(png_path, dpi=150)


def _series(rows: Rows, name: str) -> tuple[Any, Any]:
    """Steps and values of a column, as arrays, where it has any."""
    import numpy as np

    points = [(float(row["step"]), float(row[name])) for row in rows if row[name]]
    return np.array([step for step, _ in points]), np.array([value for _, value in points])


def _marker(rows: Rows) -> str:
    """A point at each step, where they are few."""
    return "." if len(rows) <= 15 else ""


def _draw_losses(axis: Any, rows: Rows, validated: list[str]) -> None:
    import numpy as np

    steps, losses = _series(rows, "train_loss")
    width = max(1, len(losses) // 30)
    window = np.ones(width)
    smoothed = np.convolve(losses, window, "same") / np.convolve(np.ones(len(losses)), window, "same")
    if width > 1:
        axis.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="training, each step")
    label = f"training, mean of {width} steps" if width > 1 else "training"
    axis.plot(steps, smoothed, color="tab:blue", marker=_marker(rows), label=label)
    for name in validated:
        part = name.removeprefix("val_").removesuffix("loss").strip("_")
        label = f"validation, {part}" if part else "validation"
        color = None if part else "tab:orange"
        axis.plot(*_series(rows, name), color=color, marker="o", markersize=4, label=label)
    axis.set_ylabel("loss (nats per token)")
    axis.legend(frameon=False, loc="upper right")


def _draw_scores(axis: Any, rows: Rows, scores: list[str]) -> None:
    for name in scores:
        at, values = _series(rows, name)
        (line,) = axis.plot(at, values, marker="o", markersize=4, label=name.removeprefix("val_"))
        end = {"xy": (at[-1], values[-1]), "xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"{values[-1]:.3g}", color=line.get_color(), fontsize=8, **end)
    axis.set_ylabel("bits per byte" if scores == ["val_bits_per_byte"] else "validation score")
    axis.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def _draw_rates(axis: Any, rows: Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    steps, rates = _series(rows, "learning_rate")
    axis.plot(steps, rates, color="tab:gray", marker=_marker(rows))
    axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.set(ylabel="learning rate", xlabel="optimiser step", ylim=(0, None), xlim=(0, 1.05 * float(rows[-1]["step"])))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
