"""What a study's finished runs say: mean and standard deviation over seeds, as a table and a plot.

    run directories --collect--> Row (a cell) --write_report--> table.csv, table.md, plot.png

A missing run is named with its reason; a cell's mean is that of the runs that are there, and says how many they are.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2seq.grid import failure_of, score_of, state_of
from seq2seq.runs import Run
from seq2seq.studies import OPTIONS, Cell, Study
from seq2seq.utils import UserError, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNTS = {"trainable_parameters": "trained", "prefix_parameters": "kept", "train_seconds": "seconds"}
"""Beside the scores: names in metrics.json, and as columns."""


@dataclass
class Row:
    """A cell and what its finished runs measured, on the whole test split or on one of its parts."""

    cell: Cell
    part: str = ""
    """"" = the whole test split."""
    records: int | None = None
    """How many were scored."""
    finished: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)
    """Column -> one value a finished run."""
    signatures: dict[str, str] = field(default_factory=dict)
    """Metric -> signature."""
    missing: dict[str, str] = field(default_factory=dict)
    """Run -> why it is not counted; on the whole split's row."""

    def mean(self, column: str) -> float | None:
        """None where there is no run."""
        return statistics.fmean(self.values[column]) if self.values.get(column) else None

    def deviation(self, column: str) -> float | None:
        """Sample standard deviation (n - 1); None for fewer than two runs."""
        return statistics.stdev(self.values[column]) if len(self.values.get(column, ())) > 1 else None

    def shown(self, column: str) -> str:
        """`mean ± deviation` for people."""
        mean, deviation = self.mean(column), self.deviation(column)
        if mean is None:
            return "–"
        if column in COUNTS.values():
            return f"{mean:,.0f}"
        return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def collect(study: Study, place: Path) -> list[Row]:
    """Read the study's finished runs below `place`: a row for each cell, and with `parts` for each part of the split.

    A run with other options is not counted. Raises UserError for a finished run without a score that is reported.
    """
    rows: list[Row] = []
    for cell in study.cells:
        of_cell = {"": Row(cell)}
        for planned in study.runs_of(cell):
            run = Run(place / planned.name)
            state = state_of(run, planned.arguments)
            if state.kind == "finished":
                _count(of_cell, run, study)
            else:
                failed = failure_of(run) if state.kind != "other options" else ""
                of_cell[""].missing[planned.name] = f"failed: {failed}" if failed else str(state)
        rows += of_cell.values()
    return rows


def _count(of_cell: dict[str, Row], run: Run, study: Study) -> None:
    """Add a finished run to its cell's rows."""
    metrics = run.read_metrics()
    parts = {name.partition("/")[2]: name for name in metrics if name == "test" or name.startswith("test/")}
    for part, split in parts.items() if study.parts else (("", "test"),):
        row = of_cell.setdefault(part, Row(of_cell[""].cell, part))
        row.finished += 1
        for name in study.metrics:
            found = score_of(run, name, split)
            row.records = found["n"]
            row.signatures[name] = found["signature"]
            if found["score"] is not None:  # a score that is no number is null there
                row.values.setdefault(name, []).append(found["score"])
        for name, column in COUNTS.items():
            if not isinstance(metrics.get(name), (int, float)):
                raise UserError(f"{run.metrics}: has no number {name}; delete the file to run it again")
            row.values.setdefault(column, []).append(metrics[name])


def write_report(study: Study, rows: Sequence[Row], place: Path) -> None:
    """Write table.csv, table.md and plot.png into `place`; without any finished run no plot."""
    write_atomically(place / "table.csv", table_csv(study, rows))
    write_atomically(place / "table.md", table_markdown(study, rows))
    if any(row.finished for row in rows):
        figure_of(study, rows).savefig(place / "plot.png", dpi=150)


def _head(study: Study) -> list[str]:
    return [*study.axes, *(["part"] if study.parts else []), "runs"]


def _labels(study: Study, row: Row) -> list[str]:
    return [*row.cell.labels.values(), *([row.part or "all"] if study.parts else [])]


def table_csv(study: Study, rows: Sequence[Row]) -> str:
    """A line a row: its labels, how many runs of how many, and each column's mean and sample standard deviation."""
    columns = [*study.metrics, *COUNTS.values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = (f"{name} {what}" for name in columns for what in ("mean", "std"))
    writer.writerow([*_head(study), "of", "records", *figures])
    for row in rows:
        measured = [figure for name in columns for figure in (row.mean(name), row.deviation(name))]
        writer.writerow([*_labels(study, row), row.finished, len(study.seeds), row.records, *measured])
    return text.getvalue()


def table_markdown(study: Study, rows: Sequence[Row]) -> str:
    """The table for people, with the scores' signatures and the runs that are missing."""
    columns = [*study.metrics, *COUNTS.values()]
    head = _head(study)
    lines = [f"# {study.name}", "", study.description, "", _line([*head, "records", *columns])]
    lines.append(_line(["---"] * (len(head) - 1) + ["---:"] * (len(columns) + 2)))
    for row in rows:
        runs, records = f"{row.finished} of {len(study.seeds)}", "–" if row.records is None else str(row.records)
        lines.append(_line([*_labels(study, row), runs, records, *(row.shown(name) for name in columns)]))
    seeds = ", ".join(map(str, study.seeds))
    lines += ["", f"Test scores, mean ± sample standard deviation over seeds ({seeds}); one run alone has none."]
    lines += ["`trained`: numbers that are trained. `kept`: numbers of the prefix or the adapters, 0 without them."]
    lines += ["`seconds`: of the training.", ""]
    lines += dict.fromkeys(f"- {name}: {text}" for row in rows for name, text in row.signatures.items())
    missing = [f"- {name}: {why}" for row in rows for name, why in row.missing.items()]
    if missing:
        lines += ["", f"Missing: {len(missing)} of {len(study.runs())} runs.", "", *missing]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure_of(study: Study, rows: Sequence[Row]) -> Figure:
    """Draw the first metric over the x axis: a panel for each part, a line for each cell of the other axes.

    Points are means, bars sample standard deviations, dots the runs themselves.
    """
    from matplotlib.figure import Figure

    parts = dict.fromkeys(row.part for row in rows if row.part) or {"": None}
    width = max(5.0, 1.0 + 0.8 * len(study.axes[study.x]))
    figure = Figure(figsize=(1.5 + width * len(parts), 4.5), layout="constrained")
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for panel, part in zip(axes, parts, strict=True):
        _draw_panel(panel, figure, study, [row for row in rows if row.part == part])
        panel.set_title(part, loc="left")
    axes[0].set_ylabel(f"{study.metrics[0]} on test")
    lines = axes[-1].get_legend_handles_labels()
    if len(lines[0]) > 1:
        figure.legend(*lines, frameon=False, loc="outside right center")
    missing = sum(len(row.missing) for row in rows)
    note = f", {missing} of {len(study.runs())} runs missing" if missing else ""
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    title = f"{study.name}: mean ± standard deviation, {seeds}{note}"
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return figure


def _draw_panel(panel: Axes, figure: Figure, study: Study, rows: Sequence[Row]) -> None:
    from matplotlib.transforms import offset_copy

    column, levels = study.metrics[0], study.axes[study.x]
    numeric = all(level.number is not None for level in levels)
    places = {level.label: float(level.number or 0) if numeric else i for i, level in enumerate(levels)}
    beside = offset_copy(panel.transData, figure, x=6, units="points")
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(_others(study, row.cell), []).append(row)
    for turn, (name, members) in enumerate(series.items()):
        there = [row for row in members if row.values.get(column)]
        shift = 0.0 if numeric else 0.5 * ((turn + 0.5) / len(series) - 0.5)
        at = [places[row.cell.labels[study.x]] + shift for row in there]
        means, deviations = [row.mean(column) for row in there], [row.deviation(column) or 0.0 for row in there]
        color = f"C{turn % 10}"
        look: dict[str, Any] = {"color": color, "markersize": 5, "elinewidth": 1, "capsize": 3}
        panel.errorbar(at, means, deviations, fmt="o-" if numeric else "o", label=name, **look)  # type: ignore[arg-type]
        for x, row in zip(at, there, strict=True):
            values = row.values[column]
            panel.scatter([x] * len(values), values, s=9, color=color, alpha=0.5, linewidths=0, transform=beside)
    if study.log_x:
        panel.set_xscale("log")
        panel.minorticks_off()
    panel.set_xticks(list(places.values()), list(places), rotation=0 if numeric else 20)
    panel.set_xlabel(study.x)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _others(study: Study, cell: Cell) -> str:
    """A line's name: where the cell lies on the axes that are not x."""
    labels = ((axis, label) for axis, label in cell.labels.items() if axis != study.x)
    return ", ".join(f"{axis} {label}" if axis in OPTIONS else label for axis, label in labels)
