"""Decode any run, GPT-2's or BART's: a split of its task, a file of sources, or lines as they are typed.

    run directory -> its base with its prefix (or its fine-tuned model) -> batches of similar length -> texts

Texts are kept as they come (partial_outputs.py), so a decoding that was killed goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING

from gpt2.generation_arguments import STANDARD_INPUT, GenerationArguments
from gpt2.run_language_modeling import GPT2
from seq2seq.arguments import Arguments, SearchArguments
from seq2seq.decoding import decode, generate_texts
from seq2seq.finetune import BART, chosen_task
from seq2seq.loading import Family, load_run
from seq2seq.partial_outputs import PartialOutputs
from seq2seq.records import Record, first_of_each_part, load_records
from seq2seq.report import Report
from seq2seq.runs import Run, write_atomically
from seq2seq.tasks import Search, Task
from seq2seq.text_forms import TextForm
from seq2seq.training import quiet_libraries
from seq2seq.utils import UserError

CARRIED_RUN = Path(__file__).parent / "carried" / "sample_tables"
TASKS_OWN = (
    *("max_source_length", "max_target_length", "val_max_target_length", "test_max_target_length"),
    *(f.name for f in fields(SearchArguments)),
)


def generate(options: GenerationArguments) -> None:
    """Load the run and decode what the options ask for."""
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    run = Run.open(options.run or CARRIED_RUN, needs=("config.yaml",))
    arguments = as_arguments(options, run)
    task = chosen_task(arguments)
    records = None
    if options.input is None:
        records = read_split(task, arguments, options)
    elif options.input != STANDARD_INPUT:
        records = read_sources(Path(options.input))
    family = family_of(run)
    model, tokenizer = load_run(run, arguments, task, family)
    model.eval()
    form = family.form(arguments, tokenizer)
    if records is None:
        answer_lines(model, form, task.search, sys.stdin)
        return
    output = output_file(options, run)
    kept = output or Path(options.input or "").resolve()
    partial = PartialOutputs(kept.with_name(f"{kept.name}.partial"), follows_from(run, records, task, arguments))
    if partial.texts:
        print(f"going on after {len(partial.texts)} of {len(records)} texts", file=sys.stderr)
    progress = replace(arguments, progress=arguments.progress and output is not None)
    texts = decode(model, form, records, task, progress, options.input or options.split, partial)
    if output is None:
        print("\n".join(texts))
    else:
        write_outputs(output, records, texts)
    if options.input is None:
        report(run, task, records, texts, options, arguments.mode)
    partial.remove()


def as_arguments(options: GenerationArguments, run: Run) -> Arguments:
    """The run's own options with those of this call in their place."""
    known = {f.name for f in fields(Arguments)}
    own = {name: value for name, value in run.read_config().items() if name in known}
    given = {f.name: getattr(options, f.name) for f in fields(options) if f.name in known}
    defaults = {f.name: f.default for f in fields(options)}
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    changed.pop("overwrite", None)
    if options.task or options.data_dir:  # another task's lengths and search are its own
        own = {name: value for name, value in own.items() if name not in ("task", "data_dir", *TASKS_OWN)}
    return Arguments(**{**own, **changed, "do_train": False, "prefix_model_path": str(run.directory)})


def family_of(run: Run) -> Family:
    """Whether the run's base is an encoder-decoder or a decoder, from its own files."""
    if run.prefix_config.is_file():
        model_type = json.loads(run.prefix_config.read_text())["base"]["model_type"]
    elif run.adapters_config.is_file():
        model_type = json.loads(run.adapters_config.read_text())["base"]["model_type"]
    elif (run.model / "config.json").is_file():
        model_type = json.loads((run.model / "config.json").read_text())["model_type"]
    else:
        raise UserError(
            f"{run.directory}: holds neither prefix.safetensors nor model/; let the run finish with --resume"
        )
    return BART if CONFIG_MAPPING[model_type]().is_encoder_decoder else GPT2


def read_split(task: Task, arguments: Arguments, options: GenerationArguments) -> list[Record]:
    """The split's records, at most --n_test of each part."""
    records = load_records(task, arguments.data_dir, options.split)
    for line in records.report():
        print(line, file=sys.stderr)
    return records.items if arguments.n_test is None else first_of_each_part(records.items, arguments.n_test)


def read_sources(path: Path) -> list[Record]:
    """A source a line, or the `source` (and `references`) of json lines; a blank line is a mistake, for outputs align.

    Raises UserError with file:line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--input {path}: cannot be read ({reason}); give a text file with a source a line") from error
    records = []
    for number, line in enumerate(lines, start=1):
        source: str = line.strip()
        references: tuple[str, ...] = ()
        if path.suffix == ".jsonl":
            source, references = _json_source(line, f"{path}:{number}")
        if not source.strip():
            raise UserError(f"{path}:{number}: empty source; remove the line")
        records.append(Record(source, references))
    if not records:
        raise UserError(f"--input {path}: holds no source")
    return records


def _json_source(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        row = json.loads(line)
        return str(row["source"]), tuple(row.get("references", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: no JSON object with `source` ({error}); correct the line") from None


def output_file(options: GenerationArguments, run: Run) -> Path | None:
    """Where the texts go; None = the screen."""
    if options.output:
        return Path(options.output)
    if options.input:
        return None
    if options.run is None:
        Path("runs/gen").mkdir(parents=True, exist_ok=True)
        return Path("runs/gen") / f"generations_{options.split}.jsonl"
    return run.generations(options.split)


def write_outputs(path: Path, records: list[Record], texts: list[str]) -> None:
    """Texts a line, or for .jsonl records with source, references and generated; written as a whole."""
    lines: Iterable[str] = texts
    if path.suffix == ".jsonl":
        lines = (
            json.dumps(
                {"source": r.source, "references": list(r.references), "generated": text}
                | ({"part": r.part} if r.part else {}),
                ensure_ascii=False,
            )
            for r, text in zip(records, texts, strict=True)
        )
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def report(
    run: Run, task: Task, records: list[Record], texts: list[str], options: GenerationArguments, mode: str
) -> None:
    """Print the scores of a split; a run's own file of generations has its scores in metrics.json as well."""
    shown = Report(task, records, {mode: texts}, lead=True)
    if options.output is None and options.run is not None:
        run.update_metrics(shown.metrics(options.split), drop=lambda name: shown.is_score(name, options.split))
    shown.show(run, options.split)


def follows_from(run: Run, records: list[Record], task: Task, arguments: Arguments) -> list[Any]:
    """What decides the texts of a decoding, as plain values: another one must not be gone on with."""
    weights = [run.prefix, *sorted(run.model.glob("*.safetensors"))]
    sizes = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights if path.is_file()]
    search = [getattr(task.search, name) for name in Search.__dataclass_fields__]
    limits = [task.max_source_length, arguments.eval_bsz, arguments.precision, arguments.model_name_or_path]
    return [sizes, search, limits, [record.source for record in records]]


def answer_lines(model: Any, form: TextForm, search: Search, lines: Iterable[str]) -> None:
    """Answer each typed source with its text until the input ends; an empty line is passed over."""
    if sys.stdin.isatty():
        print("one source a line; Ctrl+D ends", file=sys.stderr)
    limit = model.config.max_position_embeddings
    for source in _typed(lines):
        ids, _ = next(iter(form.sources([source], limit)))
        example: Any = {"input_ids": np.array(ids), "labels": np.array(ids), "index": 0}
        batch: Any = form.prompts([example])
        print(generate_texts(model, form, batch, search)[0], flush=True)


def _typed(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if line.strip())
