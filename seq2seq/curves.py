"""A run's table (metrics.csv) read back, and drawn as curves.png."""

import csv
import io
from pathlib import Path

from seq2seq.utils import UserError


def read_rows(path: Path) -> list[dict[str, str]]:
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
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = read_rows(Path(csv_path))
    if not rows:
        raise UserError(f"{csv_path}: holds no training step to draw; train at least one")

    def series(name: str) -> tuple[np.ndarray, np.ndarray]:
        points = [(float(row["step"]), float(row[name])) for row in rows if row[name]]
        return np.array([step for step, _ in points]), np.array([value for _, value in points])

    validated = [name for name in rows[0] if name.startswith("val_") and any(row[name] for row in rows)]
    scores = [name for name in validated if not name.endswith("loss")]
    heights = [3, 2, 1] if scores else [3, 1]
    # A figure of its own: pyplot would keep it and choose a backend for the whole process.
    figure = Figure(figsize=(8, 1.2 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    loss_axis, rate_axis = axes[0], axes[-1]
    loss_axis.set_title(title, loc="left", fontweight="bold")

    steps, losses = series("train_loss")
    width = max(1, len(losses) // 30)
    window = np.ones(width)
    smoothed = np.convolve(losses, window, "same") / np.convolve(np.ones(len(losses)), window, "same")
    if width > 1:
        loss_axis.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="training, each step")
    label = f"training, mean of {width} steps" if width > 1 else "training"
    marker = "." if len(losses) <= 15 else ""
    loss_axis.plot(steps, smoothed, color="tab:blue", marker=marker, label=label)
    for name in (name for name in validated if name not in scores):
        part = name.removeprefix("val_").removesuffix("loss").strip("_")
        label = f"validation, {part}" if part else "validation"
        loss_axis.plot(*series(name), color=None if part else "tab:orange", marker="o", markersize=4, label=label)
    loss_axis.set_ylabel("loss (nats per token)")
    loss_axis.legend(frameon=False, loc="upper right")

    for name in scores:
        at, values = series(name)
        (line,) = axes[1].plot(at, values, marker="o", markersize=4, label=name.removeprefix("val_"))
        end = {"xy": (at[-1], values[-1]), "xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes[1].annotate(f"{values[-1]:.3g}", color=line.get_color(), fontsize=8, **end)
    if scores:
        axes[1].set_ylabel("bits per byte" if scores == ["val_bits_per_byte"] else "validation score")
        axes[1].legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)

    rate_axis.plot(*series("learning_rate"), color="tab:gray", marker=marker)
    rate_axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate_axis.set(ylabel="learning rate", xlabel="optimiser step", ylim=(0, None), xlim=(0, 1.05 * steps[-1]))
    rate_axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(axes)
    figure.savefig(png_path, dpi=150)
