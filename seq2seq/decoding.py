"""Decode records with a model: length-sorted batches, beam search, texts in the records' own order."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seq2seq.arguments import Arguments
from seq2seq.data import LengthBuckets, check_room, tokenise
from seq2seq.generation import fast_search, generate
from seq2seq.partial_outputs import PartialOutputs
from seq2seq.records import Record
from seq2seq.tasks import Search, Task
from seq2seq.text_forms import Seq2SeqForm, TextForm
from seq2seq.utils import device, resolve_precision


@torch.no_grad()
def generate_texts(model: Any, form: TextForm, batch: dict[str, Tensor], search: Search) -> list[str]:
    """The best output text of each source in a batch of prompts (input_ids, attention_mask (B, S)), its ends stripped.

    Encoder-decoders: lengths count the start token and </s>. Decoders: lengths are new tokens, newlines are forbidden
    (an output is one line), and the output ends before the first <eos> (the authors' search).
    """
    tokenizer = form.tokenizer
    options: dict[str, Any] = {}
    if search.num_beams > 1:
        options = {"length_penalty": search.length_penalty, "early_stopping": search.early_stopping}
        options |= {"count_prompt": True} if search.length_norm == "prompt" else {}
    if isinstance(form, Seq2SeqForm):
        options |= {"min_length": search.min_length, "max_length": search.max_length}
        options |= {"min_new_tokens": None, "max_new_tokens": None}  # a base's own would win over these lengths
    else:
        options |= {"min_new_tokens": search.min_length, "max_new_tokens": search.max_length}
        options |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": form.pad}
        own = model.generation_config.suppress_tokens or []
        options |= {"suppress_tokens": [*own, *newline_tokens(tokenizer)] or None}
    prompt: dict[str, Any] = {name: value for name, value in batch.items() if name not in ("labels", "index")}
    output = generate(
        model,
        **prompt,
        num_beams=search.num_beams,
        do_sample=False,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        **options,
    )
    if not isinstance(form, Seq2SeqForm):
        output = output[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(output, skip_special_tokens=True)]


def newline_tokens(tokenizer: Any) -> list[int]:
    """The tokens that are nothing but newlines (GPT-2: 198 and 628)."""
    encoded = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", "\n\n"))
    single = {ids[-1] for ids in encoded if tokenizer.decode(ids[-1:]).strip(" ").strip("\n") == ""}
    return sorted(single)


def decode(
    model: Any,
    form: TextForm,
    records: Sequence[Record],
    task: Task,
    arguments: Arguments,
    what: str,
    partial: PartialOutputs | None = None,
) -> list[str]:
    """One text for each record, in order; batches of similar length give the same texts as one by one.

    What had to be cut is said on standard error. The model goes to the device that Lightning trains on.
    partial: where texts are kept as they come; a batch that is there already is not decoded again.
    """
    check_room(form, **task.limits)
    cache = Path(arguments.cache_dir).expanduser()
    wanted = [record if record.references else record._replace(references=("",)) for record in records]
    tokens = tokenise(wanted, form, task.max_source_length, task.test_max_target_length, cache, pairs="first")
    print("".join(f"{line}\n" for line in tokens.report(what, ("source",))), end="", file=sys.stderr)
    model.to(device())
    order = LengthBuckets(tokens.source_lengths, tokens.target_lengths, arguments.eval_bsz, shuffle=False)
    texts = dict(partial.texts) if partial else {}
    left = [batch for batch in order if not texts.keys() >= set(batch)]
    shown = arguments.progress
    rows = max(map(len, left), default=0) * task.search.num_beams
    bar = DecodingProgress(what, len(tokens), done=len(texts), shown=shown)
    with products_in(arguments.precision, model), fast_search(model, rows), bar as progress:
        for batch in DataLoader(tokens, batch_sampler=left, collate_fn=form.prompts):
            on_device = {name: value.to(model.device) for name, value in batch.items()}
            generated = generate_texts(model, form, on_device, task.search)
            new = dict(zip(batch["index"].tolist(), generated, strict=True))
            if partial:
                partial.add(new)
            texts.update(new)
            progress.advance(len(new))
    return [texts[i] for i in range(len(records))]


def products_in(precision: Literal["auto", "32", "bf16"], model: Any) -> torch.autocast:
    """The context in which a model computes as it did in training: with bfloat16 products where that was asked for.

    It changes a base in float32 alone, which was trained itself; a frozen one is in bfloat16 as it is.
    """
    mixed = resolve_precision(precision) == "bf16" and model.dtype == torch.float32
    return torch.autocast(model.device.type, torch.bfloat16, enabled=mixed)


class DecodingProgress:
    """A progress bar on a terminal, else a line every ten seconds: examples done, examples per second."""

    def __init__(self, what: str, total: int, done: int, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.what, self.total, self.done, self.start = what, total, done, done
        self.started = self.printed = time.monotonic()
        self.shown, self.live = shown, shown and Console().is_terminal
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.bar = Progress(*columns, TimeRemainingColumn(), disable=not self.live)

    def __enter__(self) -> DecodingProgress:
        self.bar.start()
        self.task = self.bar.add_task(f"decoding {self.what}", total=self.total, completed=self.done, rate="")
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def advance(self, count: int) -> None:
        """Count examples as done."""
        self.done += count
        now = time.monotonic()
        rate = f"{(self.done - self.start) / (now - self.started):.1f} examples/s"
        self.bar.update(self.task, completed=self.done, rate=rate)
        if self.shown and not self.live and (self.done == self.total or now - self.printed >= 10):
            self.printed = now
            print(f"decoding {self.what}: {self.done}/{self.total} · {rate}", flush=True)
