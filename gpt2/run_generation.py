"""Decode any run, GPT-2's or BART's: a split of its task, a file of sources, or lines as they are typed.

    run directory -> its base with its prefix (or its fine-tuned model) -> batches of similar length -> texts

Texts are kept as they come (partial_outputs.py), so a decoding that was killed goes on where it was.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING

from gpt2.generation_arguments import STANDARD_INPUT, GenerationArguments
from gpt2.run_language_modeling import GPT2
from seq2seq.arguments import OF_THE_TASK, Arguments
from seq2seq.decoding import decode, generate_texts, products_in
from seq2seq.effect import refuse_idle_search
from seq2seq.finetune import BART, chosen_task, say_what_is_replaced
from seq2seq.kept_files import made_folder
from seq2seq.loading import Family, load_run
from seq2seq.partial_outputs import PartialOutputs
from seq2seq.readers import ending, numbered_lines, table_records, texts
from seq2seq.records import Record, first_of_each_part, load_records
from seq2seq.report import Report
from seq2seq.runs import Run, refuse_unwritable
from seq2seq.tasks import Task
from seq2seq.text_forms import TextForm
from seq2seq.training import quiet_libraries
from seq2seq.utils import UserError, device, resolve_precision, say_if_slow, write_atomically

CARRIED_RUN = Path(__file__).parent / "carried" / "sample_tables"


def generate(options: GenerationArguments) -> None:
    """Load the run and decode what the options ask for."""
    quiet_libraries()
    run = Run.open(options.run or CARRIED_RUN, needs=("config.yaml",))
    try:
        arguments = as_arguments(options, run)
        task = chosen_task(arguments)
    except TypeError as error:
        raise UserError(f"{run.config}: a value is of the wrong kind ({error}); correct it") from error
    if options.threads:
        torch.set_num_threads(options.threads)
    say_if_slow(arguments.precision)
    records = None
    if options.input is None:
        records = read_split(task, arguments, options)
    elif options.input != STANDARD_INPUT:
        records = read_sources(Path(options.input))[: options.n_test]
    family = family_of(run)
    output, what = output_file(options, run), options.input or options.split or "test"
    if output is not None:
        refuse_unwritable(output.parent, "--output" if options.output else "--run")
    model, tokenizer = load_run(run, arguments, task, family)
    if options.run and not options.output and not options.input:
        say_what_is_replaced(run, arguments, what, "--output")
    model.eval()
    form = family.form(arguments, tokenizer)
    if records is None:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # whatever the locale
        model.to(device())
        with products_in(arguments.precision, model):
            answer_lines(model, form, task, sys.stdin)
        return
    if output is None:
        decoded = decode(model, form, records, task, replace(arguments, progress=False), what)
        print("\n".join(map(in_a_line, decoded)))
        return
    kept = output.with_name(f"{output.name}.partial")
    with PartialOutputs(kept, follows_from(run, records, task, arguments)) as partial:
        if partial.texts:
            print(f"going on after {len(partial.texts)} of {len(records)} texts", file=sys.stderr)
        decoded = decode(model, form, records, task, arguments, what, partial)
        write_outputs(output, records, decoded)
        shown = Report(task, records, {arguments.mode: decoded}, lead=True) if options.input is None else None
        split = options.split or "test"
        if shown and options.output is None and options.run is not None:  # the run's own file has its scores as well
            run.replace_scores(split, shown.metrics(split))
        partial.remove()
        if shown:
            shown.show(run, split)


def as_arguments(options: GenerationArguments, run: Run) -> Arguments:
    """The run's own options with those of this call in their place."""
    known = {f.name for f in fields(Arguments)}
    own = {name: value for name, value in run.read_config().items() if name in known}
    given = {f.name: getattr(options, f.name) for f in fields(options) if f.name in known}
    changed = {name: value for name, value in given.items() if value is not None and name != "overwrite"}
    if options.split not in (None, "test"):  # how many of the test records were scored says nothing about others
        own.pop("n_test", None)
    if options.task not in (None, own.get("task")):  # another task's data, lengths and search are its own
        own = {name: value for name, value in own.items() if name not in ("task", *OF_THE_TASK)}
    arguments = Arguments(**{**own, **changed, "do_train": False, "prefix_model_path": str(run.directory)})
    refuse_idle_search(changed, arguments)
    return arguments


def family_of(run: Run) -> Family:
    """Whether the run's base is an encoder-decoder or a decoder, from its own files."""
    of_a_base = run.model / "config.json"
    path = next((p for p in (run.prefix_config, run.adapters_config, of_a_base) if p.is_file()), None)
    if path is None:
        raise run.unfinished()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = CONFIG_MAPPING[(config if path == of_a_base else config["base"])["model_type"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error!r}); train the run again, or give another") from error
    return BART if kind().is_encoder_decoder else GPT2


def read_split(task: Task, arguments: Arguments, options: GenerationArguments) -> list[Record]:
    """The split's records, at most --n_test of each part."""
    records = load_records(task, arguments.data_dir, options.split or "test")
    for line in records.report():
        print(line, file=sys.stderr)
    return records.items if arguments.n_test is None else first_of_each_part(records.items, arguments.n_test)


def read_sources(path: Path) -> list[Record]:
    """A source a line as it stands, or the `source` (and `references`) of json lines, csv or parquet records.

    A blank line is a mistake, for outputs align. Raises UserError with file:line.
    """
    if not path.exists() or path.is_dir():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"--input {path}: {what}; give a text file with a source a line")
    rows: Iterable[tuple[str, str, list[str]]]
    if ending(path) in (".jsonl", ".json", ".csv", ".parquet"):
        rows = ((place, *_source_of(row, place)) for place, row in table_records(path))
    else:
        rows = ((f"{path}:{number}", line, []) for number, line in numbered_lines(path))
    records = []
    for place, source, references in rows:
        if not source.strip():
            raise UserError(f"{place}: empty source; remove the line")
        records.append(Record(source, tuple(references)))
    if not records:
        raise UserError(f"--input {path}: holds no source")
    return records


def _source_of(row: Mapping[str, object], place: str) -> tuple[str, list[str]]:
    if "source" not in row:
        raise UserError(f"{place}: no `source`; it has {', '.join(map(str, row)) or 'none'}: rename the field")
    return " ".join(texts(row["source"], place, "source")), texts(row.get("references"), place, "references")


def output_file(options: GenerationArguments, run: Run) -> Path | None:
    """Where the texts go; None = the screen. Raises UserError for a file that the run needs, or of another form."""
    if options.output:
        if run.owns(Path(options.output)):
            raise UserError(f"--output {options.output}: is a file of the run; give another")
        if Path(options.output).suffix in (".gz", ".json", ".csv", ".parquet"):
            raise UserError(f"--output {options.output}: is written as .jsonl, or a text a line as .txt; name it so")
        if Path(options.output).exists() and not Path(options.output).is_file():
            raise UserError(f"--output {options.output}: is no file; give another, or leave it out for the screen")
        return Path(options.output)
    if options.input:
        return None
    if options.run is None:
        return made_folder("runs/gen") / f"generations_{options.split or 'test'}.jsonl"
    return run.generations(options.split or "test")


def in_a_line(text: str) -> str:
    """A text without its line breaks, so that line i belongs to source i."""
    return " ".join(text.splitlines())


def write_outputs(path: Path, records: list[Record], decoded: list[str]) -> None:
    """Texts a line, or for .jsonl records with source, references and generated; written as a whole."""
    lines: Iterable[str] = map(in_a_line, decoded)
    if path.suffix == ".jsonl":
        pairs = zip(records, decoded, strict=True)
        lines = (json.dumps(record.with_text(text), ensure_ascii=False) for record, text in pairs)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def follows_from(run: Run, records: list[Record], task: Task, arguments: Arguments) -> list[Any]:
    """What decides the texts of a decoding, as plain values: another one must not be gone on with."""
    weights = [run.prefix, run.adapters, *sorted(run.model.glob("*.safetensors"))]
    sizes = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in weights if p.is_file()]
    base = [resolve_precision(arguments.precision), arguments.attn_implementation, arguments.model_name_or_path]
    limits = [task.max_source_length, arguments.eval_bsz, arguments.format_mode, task.languages]
    return [sizes, asdict(task.search), base, limits, [record.source for record in records]]


def answer_lines(model: Any, form: TextForm, task: Task, lines: Iterable[str]) -> None:
    """Answer each typed source with its text until the input ends; an empty line is passed over.

    Raises UserError for a line that is not UTF-8.
    """
    if sys.stdin.isatty():
        print("one source a line; Ctrl+D ends", file=sys.stderr)
    for source in _typed(lines):
        ids, cut = next(iter(form.sources([source], task.max_source_length)))
        if cut:
            print(f"the source is longer than {task.max_source_length} tokens and was cut", file=sys.stderr)
        example: Any = {"input_ids": np.array(ids), "labels": np.array(ids), "index": 0}
        batch = {name: value.to(model.device) for name, value in form.prompts([example]).items()}  # type: ignore[attr-defined]
        print(in_a_line(generate_texts(model, form, batch, task.search)[0]), flush=True)


def _typed(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from (line.rstrip("\r\n") for line in lines if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"--input -: a line is not UTF-8 ({error.reason}); convert it") from error


if __name__ == "__main__":  # by the name that the authors' script has
    from gpt2.gen import main

    sys.exit(main())
