"""What a run shows at its end: scores whole and by part beside the baselines, sizes, times, three examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from seq2seq.metrics import score
from seq2seq.metrics_tokens import first_sentence
from seq2seq.records import Record
from seq2seq.runs import Run
from seq2seq.tasks import Task
from seq2seq.utils import console

LEAD = "first sentence"


class Report:
    """Scores of every system on the whole split and on each of its parts.

    Args:
        outputs: system -> one text a record; the first system is the run itself, the others are baselines.
        lead: add the source's first sentence as a baseline.
    """

    def __init__(self, task: Task, records: list[Record], outputs: dict[str, list[str]], lead: bool) -> None:
        self.task, self.records = task, records
        self.outputs = dict(outputs)
        self.main = next(iter(outputs))
        if lead and task.kind == "summarization":
            self.outputs[LEAD] = [first_sentence(record.source) for record in records]
        self.by_part: dict[str, list[int]] = {}  # "": the records without a part, where some have one
        for i, record in enumerate(records):
            self.by_part.setdefault(record.part, []).append(i)
        self.rows = {"": list(range(len(records)))}
        if len(self.by_part) > 1:
            self.rows.update({part: rows for part, rows in self.by_part.items() if part})
        self.scores = {
            system: {part: self._score(texts, rows) for part, rows in self.rows.items()}
            for system, texts in self.outputs.items()
        }

    def _score(self, texts: list[str], rows: Any) -> dict[str, dict]:
        return score(self.task.metrics, [texts[i] for i in rows], [self.records[i].references for i in rows])

    def metrics(self, split: str) -> dict[str, Any]:
        """The layout of metrics.json: `split`, `split/part`, and the same below `baselines` for each baseline."""
        named = {
            system: {f"{split}/{part}" if part else split: values for part, values in parts.items()}
            for system, parts in self.scores.items()
        }
        return {**named.pop(self.main), "baselines": named}

    def generations(self) -> Iterator[dict[str, Any]]:
        """Records for generations_<split>.jsonl."""
        for record, text in zip(self.records, self.outputs[self.main], strict=True):
            yield record.with_text(text)

    def show(self, run: Run, split: str = "test") -> None:
        """Print the table, the sizes and times, and three examples (of each part in turn)."""
        from rich.table import Table

        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # texts and parts may hold any
        screen = console(width=None if console().is_terminal else 110, **plain)
        for part, rows in self.rows.items():
            if part == "" and len(self.rows) > 1 and "" not in self.by_part:
                continue  # each record stands in the table of its part
            table = Table(title=f"{self.task.name} · {split}{' · ' + part if part else ''} · {len(rows)} records")
            table.add_column("")
            for name in self.task.metrics:
                table.add_column(name, justify="right")
            for system, scores in self.scores.items():
                table.add_row(system, *(f"{scores[part][name]['score']:.2f}" for name in self.task.metrics))
            screen.print(table)
        metrics = run.read_metrics()
        if "base_parameters" in metrics:
            screen.print(_sizes_and_times(metrics))
        for i in self._three():
            record = self.records[i]
            screen.print(f"\nsource     {record.source[:400]}")
            screen.print(f"reference  {record.references[0]}")
            screen.print(f"generated  {self.outputs[self.main][i]}")
        screen.print(f"\nrun directory: {run.directory}")

    def _three(self) -> list[int]:
        turns = [rows[turn] for turn in range(3) for rows in self.by_part.values() if turn < len(rows)]
        return turns[:3]


def _sizes_and_times(metrics: dict[str, Any]) -> str:
    base, kept = metrics["base_parameters"], metrics.get("prefix_parameters") or 0
    share = f", kept {kept:,} ({100 * kept / base:.1f} % of the base's {base:,})" if kept else f", base {base:,}"
    if metrics.get("mode") == "bothtune":
        share = f", kept {kept:,} and the base's {base:,}"
    times = f"{metrics.get('train_seconds', 0):.0f} s · {metrics.get('examples_per_second', 0):.1f} examples/s"
    return f"trained {metrics['trainable_parameters']:,} parameters{share} · {times}"
