"""How source and target stand in a model's input, and how examples become a batch.

    encoder-decoder   encoder <s> source </s>          decoder labels <s> target </s>
    decoder           ` source <eos> target <eos>`     loss on the target and its <eos>; prompt: ` source <eos>`

Shapes: B batch, S source length, T target length; tokens everywhere, special tokens counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

from seq2seq.utils import IGNORE, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Example(TypedDict):
    """One row: token ids of source (S,) and target (T,), and the row's number."""

    input_ids: np.ndarray
    labels: np.ndarray
    index: int


class Batch(TypedDict):
    """input_ids, attention_mask (B, S), labels (B, T) with -100 where is no loss, index (B,): rows of the TokenSet.

    In a decoder's batch source and target stand in one row: labels have input_ids' shape.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


class Seq2SeqForm:
    """Encoder-decoders: source and target as the tokenizer itself frames them, padded on the right.

    `source_prefix` is text straight in front of every source.
    Raises UserError for a tokenizer that is no fast one, or without a pad token.
    """

    name = "seq2seq"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source_prefix: str = "") -> None:
        _check_fast(tokenizer)
        if tokenizer.pad_token_id is None:
            raise UserError(f"{type(tokenizer).__name__} has no pad token; set one in tokenizer_config.json")
        self.tokenizer: Any = tokenizer
        self.source_prefix = source_prefix
        self.special = tokenizer.num_special_tokens_to_add()

    def sources(self, texts: list[str], limit: int) -> Iterator[tuple[Sequence[int], bool]]:
        """(token ids, whether the text was cut) of each source, at most `limit` tokens."""
        given = [self.source_prefix + text for text in texts]
        for encoding in self.tokenizer(given, truncation=True, max_length=limit).encodings:
            yield encoding.ids, bool(encoding.overflowing)

    def targets(self, texts: list[str], limit: int) -> Iterator[tuple[Sequence[int], bool]]:
        """(token ids, whether the text was cut) of each target, at most `limit` tokens."""
        for encoding in self.tokenizer(text_target=texts, truncation=True, max_length=limit).encodings:
            yield encoding.ids, bool(encoding.overflowing)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """A batch to train on."""
        sources = [example["input_ids"] for example in examples]
        input_ids_BS = pad_rows(sources, self.tokenizer.pad_token_id)
        return {
            "input_ids": input_ids_BS,
            "attention_mask": right_padded_mask(sources, input_ids_BS.shape[1]),
            "labels": pad_rows([example["labels"] for example in examples], IGNORE),
            "index": torch.tensor([example["index"] for example in examples]),
        }

    prompts = collate
    """A batch to generate from is the same: the decoder starts by itself."""


class CausalForm:
    """Decoders: ` source <eos> target <eos>` in one row, the blanks around <eos> being tokens (the authors' string).

    <eos> is GPT-2's `<|endoftext|>`. A cut source or target keeps its <eos>. `source_prefix` is text straight in front
    of every source, behind the row's first blank.
    Raises UserError for a tokenizer that is no fast one, or without an end-of-text token.
    Source: Li & Liang 2021, their `LineByLineData2TextTextDataset`.
    """

    name = "causal"
    special = 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source_prefix: str = "") -> None:
        _check_fast(tokenizer)
        if tokenizer.eos_token_id is None:
            raise UserError(f"{type(tokenizer).__name__} has no end-of-text token; set eos_token in its configuration")
        self.tokenizer: Any = tokenizer
        self.source_prefix = source_prefix
        self.eos = tokenizer.eos_token_id
        self.pad = self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def sources(self, texts: list[str], limit: int) -> Iterator[tuple[Sequence[int], bool]]:
        """(token ids, whether the text was cut) of each ` source <eos>`, at most `limit` tokens."""
        return self._framed([self.source_prefix + text for text in texts], limit)

    def targets(self, texts: list[str], limit: int) -> Iterator[tuple[Sequence[int], bool]]:
        """(token ids, whether the text was cut) of each ` target <eos>`, at most `limit` tokens."""
        return self._framed(texts, limit)

    def _framed(self, texts: list[str], limit: int) -> Iterator[tuple[Sequence[int], bool]]:
        framed = [f" {text} " for text in texts]
        encoded = self.tokenizer(framed, add_special_tokens=False, truncation=True, max_length=limit - 1)
        for encoding in encoded.encodings:
            yield [*encoding.ids, self.eos], bool(encoding.overflowing)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """A batch to train on: source and target in a row, padded on the right, no loss up to the first <eos>."""
        rows = [np.concatenate((example["input_ids"], example["labels"])) for example in examples]
        labels = [row.copy() for row in rows]
        for row in labels:
            row[: 1 + int((row == self.eos).argmax())] = IGNORE
        input_ids = pad_rows(rows, self.pad)
        return {
            "input_ids": input_ids,
            "attention_mask": right_padded_mask(rows, input_ids.shape[1]),
            "labels": pad_rows(labels, IGNORE),
            "index": torch.tensor([example["index"] for example in examples]),
        }

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """A batch to generate from: ` source <eos>` padded on the left; labels are the targets alone."""
        sources = [example["input_ids"] for example in examples]
        input_ids = pad_rows([source[::-1] for source in sources], self.pad).flip(1)
        return {
            "input_ids": input_ids,
            "attention_mask": right_padded_mask(sources, input_ids.shape[1]).flip(1),
            "labels": pad_rows([example["labels"] for example in examples], IGNORE),
            "index": torch.tensor([example["index"] for example in examples]),
        }


TextForm = Seq2SeqForm | CausalForm


def pad_rows(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Rows of token ids as one int64 tensor (B, T), filled on the right with `value`."""
    padded = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


def right_padded_mask(rows: Sequence[np.ndarray], width: int) -> torch.Tensor:
    """1 for tokens, 0 for padding (B, width); from the lengths, for a pad token may also stand inside a text."""
    return (torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]).long()


def _check_fast(tokenizer: Any) -> None:
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(f"{type(tokenizer).__name__} is not a fast tokenizer; save the model with its tokenizer.json")
