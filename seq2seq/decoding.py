"""Decode records with a model: length-sorted batches, beam search, texts in the records' own order."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seq2seq.arguments import Arguments
from seq2seq.data import LengthBuckets, Seq2SeqCollator, tokenise
from seq2seq.tasks import Record, Search, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def generate_texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor], search: Search
) -> list[str]:
    """The best output text of each source in a batch (input_ids, attention_mask (B, S)), its ends stripped."""
    beams: dict[str, Any] = {}
    if search.num_beams > 1:
        beams = {"length_penalty": search.length_penalty, "early_stopping": search.early_stopping}
    output = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        num_beams=search.num_beams,
        do_sample=False,
        min_length=search.min_length,
        max_length=search.max_length,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        **beams,
    )
    return [text.strip() for text in tokenizer.batch_decode(output, skip_special_tokens=True)]


def decode(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    task: Task,
    arguments: Arguments,
    what: str,
) -> list[str]:
    """One text for each record, in order; batches of similar length give the same texts as one by one."""
    tokens = tokenise(
        records,
        tokenizer,
        task.max_source_length,
        task.test_max_target_length,
        Path(arguments.cache_dir).expanduser(),
        pairs="first",
    )
    order = LengthBuckets(tokens.source_lengths, tokens.target_lengths, arguments.eval_bsz, shuffle=False)
    texts: dict[int, str] = {}
    started = printed = time.monotonic()
    for batch in DataLoader(tokens, batch_sampler=order, collate_fn=Seq2SeqCollator(tokenizer)):
        on_device = {name: value.to(model.device) for name, value in batch.items()}
        texts.update(
            zip(batch["index"].tolist(), generate_texts(model, tokenizer, on_device, task.search), strict=True)
        )
        if arguments.progress and (len(texts) == len(tokens) or time.monotonic() - printed >= 10):
            printed = time.monotonic()
            rate = len(texts) / (printed - started)
            print(f"decoding {what}: {len(texts)}/{len(tokens)} · {rate:.1f} examples/s", file=sys.stdout, flush=True)
    return [texts[i] for i in range(len(records))]
