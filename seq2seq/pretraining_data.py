"""Pretraining data: plain text files -> a tokenizer -> packed token batches -> BART's denoising task (or another form).

    text files --train_tokenizer--> byte-level BPE
    text files --tokenise_corpus--> one long array of token ids on disk (memory-mapped, cached by content)
    array      --WindowBatches--> batch i of epoch e: a pure function of (seed, e, i), so any batch can be resumed

Noise after Lewis et al. 2019, "BART", section 2.2: text infilling (spans of Poisson(3) tokens, 30 % of all tokens,
each span becomes one <mask>) and sentence permutation.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from seq2seq.text_forms import pad_rows, right_padded_mask
from seq2seq.utils import IGNORE, UserError, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0..3 as in facebook/bart-*; <mask> comes last
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS) + 1
LEFT_OUT = {"valid", "validation", "val", "dev", "test", "heldout", "licence", "license"}
UNIT = 512  # tokens; the packed array is shuffled in units of this length


def text_files(data_dir: str | Path) -> list[Path]:
    """All `*.txt(.gz|.xz)` of a folder, sorted, without held-out ones and licences; says which were left out.

    Those are files with such a word (LEFT_OUT) between the dots, dashes, underscores and blanks of their names.
    Raises UserError for a folder that is not there or holds no text.
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"--data_dir {folder}: no such directory; pretraining reads *.txt, *.txt.gz or *.txt.xz from it"
        )
    files = sorted(p for p in folder.iterdir() if p.name.endswith((".txt", ".txt.gz", ".txt.xz")))
    left_out = [p for p in files if LEFT_OUT & set(re.split(r"[._\-\s]+", p.name.lower()))]
    if left_out:
        names = ", ".join(p.name for p in left_out)
        print(f"--data_dir {folder}: not trained on, by their names held out or licences: {names}", file=sys.stderr)
    files = [p for p in files if p not in left_out]
    if not files:
        raise UserError(f"--data_dir {folder}: holds no *.txt, *.txt.gz or *.txt.xz to pretrain on")
    if others := [p.name for p in files if not p.is_file()]:
        raise UserError(f"--data_dir {folder}: {others[0]} is no file; put the texts themselves there, or rename it")
    return files


def read_documents(path: Path) -> Iterator[str]:
    """Stream the documents of one text file (UTF-8, blank line between documents) without holding the file."""
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    lines: list[str] = []
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    lines.append(line.rstrip("\n"))
                elif lines:
                    yield "\n".join(lines)
                    lines = []
    except (UnicodeDecodeError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error}); convert or remove the file") from None
    if lines:
        yield "\n".join(lines)


def train_tokenizer(files: Iterable[Path], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with BART's special tokens; digits stand alone so that numbers can be copied.

    Returns a tokenizer of exactly `vocab_size` entries that adds `<s> … </s>`.
    Raises UserError for a size below the bytes and special tokens, or above what the text yields.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"--vocab_size {vocab_size}: must be at least {SMALLEST_VOCABULARY}, 256 bytes and 5 special tokens"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((document for path in files for document in read_documents(path)), trainer)
    bpe.add_special_tokens(["<mask>"])
    if bpe.get_vocab_size() != vocab_size:
        raise UserError(f"--vocab_size {vocab_size}: the text yields {bpe.get_vocab_size()} entries; give at most that")
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def tokenise_corpus(files: list[Path], tokenizer: PreTrainedTokenizerFast, cache_dir: Path) -> np.ndarray:
    """Token ids of all documents, one after the other with a newline between, as a memory-mapped uint16/uint32 array.

    Cached under `cache_dir` by the tokenizer's vocabulary and the files' names, sizes and times; text is streamed.
    Raises UserError for files without text, and for a cache folder that cannot be written.
    """
    key = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    for path in files:
        stat = path.stat()
        key.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
    name = cache_dir / f"corpus-{key.hexdigest()[:16]}"
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 65536 else np.uint32)
    if not _is_whole(name, dtype):
        try:
            _write_corpus(files, tokenizer, name, dtype)
        except OSError as error:
            raise UserError(f"--cache_dir {cache_dir}: cannot be written ({error}); give another folder") from error
    if name.with_suffix(".bin").stat().st_size == 0:
        raise UserError(f"{', '.join(map(str, files[:4]))}: without any text; give a file with some")
    return np.memmap(name.with_suffix(".bin"), dtype=dtype, mode="r")


def _is_whole(name: Path, dtype: np.dtype) -> bool:
    """Whether the token ids are there, as many as are said to be."""
    try:
        count = json.loads(name.with_suffix(".json").read_text())["tokens"]
        return name.with_suffix(".bin").stat().st_size == count * dtype.itemsize
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_corpus(files: list[Path], tokenizer: PreTrainedTokenizerFast, name: Path, dtype: np.dtype) -> None:
    """Write the token ids, and beside them how many they are.

    Written beside their name and then renamed: another process may read them, or write them as well.
    """
    name.parent.mkdir(parents=True, exist_ok=True)
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    count = 0
    partial = name.with_suffix(f".{os.getpid()}.tmp")
    try:
        with partial.open("wb") as out:
            for ids in _encode_in_batches((d for path in files for d in read_documents(path)), tokenizer):
                count += len(ids) + len(newline)
                out.write(np.asarray(ids + newline, dtype=dtype).tobytes())
        os.replace(partial, name.with_suffix(".bin"))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    write_atomically(name.with_suffix(".json"), json.dumps({"tokens": count, "files": [p.name for p in files]}))


def _encode_in_batches(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, size: int = 512
) -> Iterator[list[int]]:
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield from tokenizer(batch, add_special_tokens=False, return_attention_mask=False)["input_ids"]
            batch = []
    if batch:
        yield from tokenizer(batch, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def bytes_of_tokens(tokenizer: Any) -> torch.Tensor:
    """How many bytes of text each token stands for (V,), 0 for special ones; by the way in which they are written."""
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    added = tokenizer.added_tokens_decoder

    def size(i: int, token: str) -> int:
        if i in added:
            return len(added[i].content.encode())
        if "ByteLevel" in decoder:  # a character for each byte
            return len(token)
        if "ByteFallback" in decoder and re.fullmatch("<0x[0-9A-F]{2}>", token):
            return 1
        if "WordPiece" in decoder:  # a word's first piece has its blank in front
            return len(token.removeprefix("##").encode()) + (not token.startswith("##"))
        return len(token.replace("▁", " ").encode())

    sizes = [size(i, token) for i, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))]
    return torch.tensor(sizes).index_fill_(0, torch.tensor(tokenizer.all_special_ids), 0)


class WindowForm(Protocol):
    """What a window of text becomes: a (source, target) pair, and pairs a batch."""

    def from_window(self, window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of a window (n,) -> source and target token ids."""

    def collate(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Pairs -> input_ids, attention_mask (B, S) and labels (B, T), int64."""


class Denoiser:
    """Text infilling and sentence permutation on token ids (Lewis et al. 2019, section 2.2).

    mask_ratio: share of tokens to hide; span_mean: Poisson mean of a span's length in tokens;
    permute: shuffle the order of sentences in the source.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, mask_ratio: float, span_mean: float, permute: bool) -> None:
        self.mask_ratio, self.span_mean, self.permute = mask_ratio, span_mean, permute
        self.bos, self.eos, self.mask = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id
        self.pad = tokenizer.pad_token_id
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        ends = (".", "!", "?", '."', '!"', '?"', "Ċ")
        self.ends_sentence = np.array([token in ends or token.lstrip("Ġ") in ends for token in tokens])

    def whole_sentences(self, ids: np.ndarray) -> np.ndarray:
        """Trim a window to whole sentences where its first and last quarter allow it."""
        stops = np.flatnonzero(self.ends_sentence[ids]) + 1
        quarter = len(ids) // 4
        first = stops[stops <= quarter]
        last = stops[stops >= len(ids) - quarter]
        return ids[first[0] if len(first) else 0 : last[-1] if len(last) else len(ids)]

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`ids` (n,) -> noisy source `<s> … </s>` and target `<s> ids </s>`."""
        wrap = lambda body: np.concatenate(([self.bos], body, [self.eos])).astype(np.int64)  # noqa: E731
        return wrap(self.noise(ids, rng)), wrap(ids)

    def from_window(self, window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The pair of a window's whole sentences."""
        return self(self.whole_sentences(window), rng)

    def noise(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`ids` (n,) with sentences shuffled and spans hidden."""
        return self._infill(self._permute_sentences(ids, rng) if self.permute else ids, rng)

    def collate(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Sources and targets padded on the right: input_ids, attention_mask (B, S) and labels (B, T)."""
        sources, targets = zip(*pairs, strict=True)
        input_ids = pad_rows(sources, self.pad)
        return {
            "input_ids": input_ids,
            "attention_mask": right_padded_mask(sources, input_ids.shape[1]),
            "labels": pad_rows(targets, IGNORE),
        }

    def _permute_sentences(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        cuts = np.flatnonzero(self.ends_sentence[ids]) + 1
        sentences = [part for part in np.split(ids, cuts) if len(part)]
        return np.concatenate([sentences[i] for i in rng.permutation(len(sentences))]) if sentences else ids

    def _infill(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n = len(ids)
        budget = round(n * self.mask_ratio)
        if budget == 0:
            return ids
        lengths = rng.poisson(self.span_mean, size=2 * budget + 8)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), budget)) + 1]
        lengths = lengths[:budget]  # more spans than hidden tokens would make the source longer than the text
        lengths[-1] -= lengths.sum() - budget
        # Spans and kept tokens in random order: each kept token or span is one slot, so spans never overlap.
        slots = np.concatenate((np.full(len(lengths), True), np.full(n - budget, False)))
        rng.shuffle(slots)
        out, position, span = [], 0, 0
        for hide in slots:
            if hide:
                position += lengths[span]
                span += 1
                out.append(self.mask)
            else:
                out.append(ids[position])
                position += 1
        return np.asarray(out)


class WindowBatches(torch.utils.data.Dataset):
    """Batches of text windows; item (epoch, i) depends on (seed, epoch, i) alone, so training resumes anywhere.

    A batch takes `tokens_per_batch / UNIT` random units of the array, cuts them into equal windows whose length is
    drawn from `lengths`, and gives each window its form (BART's: noisy and clean text). `lengths` may be a schedule:
    first batch -> lengths from there on, batches counted over all epochs.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        form: WindowForm,
        tokens_per_batch: int,
        lengths: Sequence[int] | Mapping[int, Sequence[int]],
        seed: int,
        where: str = "the text",
    ) -> None:
        if tokens_per_batch < 1 or tokens_per_batch % UNIT:
            raise UserError(f"--tokens_per_batch {tokens_per_batch}: must be a multiple of {UNIT}")
        self.schedule = dict(lengths) if isinstance(lengths, Mapping) else {0: lengths}
        if 0 not in self.schedule:
            raise UserError(f"--window_lengths {self.schedule}: says nothing of batch 0, with which training starts")
        for some in self.schedule.values():
            if not some or any(length < 1 or UNIT % length for length in some):
                raise UserError(f"--window_lengths {list(some)}: each must divide {UNIT}")
        self.tokens, self.form = tokens, form
        self.units_per_batch, self.seed = tokens_per_batch // UNIT, seed
        if len(self) == 0:
            raise UserError(f"{where}: holds {len(tokens)} tokens, less than one batch of {tokens_per_batch}; add text")

    def __len__(self) -> int:
        return len(self.tokens) // UNIT // self.units_per_batch

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Batch `i` of `epoch`: input_ids, attention_mask (B, S) and labels (B, T), int64."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        start = max(first for first in self.schedule if first <= epoch * len(self) + index)
        length = int(rng.choice(self.schedule[start]))
        order = _unit_order(self.seed, epoch, len(self.tokens) // UNIT)
        pairs = []
        for unit in order[index * self.units_per_batch : (index + 1) * self.units_per_batch]:
            text = np.asarray(self.tokens[unit * UNIT : (unit + 1) * UNIT], dtype=np.int64)
            pairs += [self.form.from_window(window, rng) for window in text.reshape(-1, length)]
        return self.form.collate(pairs)


@lru_cache(maxsize=2)
def _unit_order(seed: int, epoch: int, units: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(units)


class EpochOrder(torch.utils.data.Sampler):
    """The keys (epoch, 0), (epoch, 1), … of a `WindowBatches`; `start_batch` skips the head of the resumed epoch."""

    def __init__(self, batches: int) -> None:
        self.batches, self.epoch, self.start_batch = batches, 0, 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start_batch = epoch, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, i) for i in range(self.start_batch, self.batches))
