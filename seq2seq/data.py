"""Records -> token batches: tokens cached by content, batches of similar length.

    Records --tokenise--> TokenSet --LengthBuckets--> rows of a batch --TextForm.collate--> tensors

Under Lightning give the batch sampler to the DataLoader and set `Trainer(use_distributed_sampler=False)`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from seq2seq.records import Record
from seq2seq.text_forms import Example, TextForm
from seq2seq.utils import UserError

Encode = Callable[[list[str]], Iterator[tuple[Sequence[int], bool]]]  # texts -> (token ids, whether it was cut) each

CHUNK = 1000  # texts tokenised at once; their offsets and masks take some hundred bytes a token until they are dropped
ARRAYS = ("source_ids", "source_offsets", "target_ids", "target_offsets", "record", "limits")  # of a cache file
CACHE_FORMAT = 2  # part of the cache's name: raise it when what is stored changes


class Truncated(NamedTuple):
    """How many texts were longer than their limit and were cut."""

    source: int
    target: int


class TokenSet(Dataset[Example]):
    """The tokens of one split in flat int32 arrays; row i is a (source, target) pair.

    `record[i]` is the number of the record that row i belongs to; `source_lengths[i]` and `target_lengths[i]` are in
    tokens. Sources are stored once a record, however many targets it has.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.record: np.ndarray = arrays["record"]
        self.source_lengths: np.ndarray = np.diff(arrays["source_offsets"])[self.record].astype(np.int32)
        self.target_lengths: np.ndarray = np.diff(arrays["target_offsets"]).astype(np.int32)
        source_limit, target_limit, source_cut, target_cut = (int(value) for value in arrays["limits"])
        self.limits = (source_limit, target_limit)
        self.truncated = Truncated(source_cut, target_cut)

    def __len__(self) -> int:
        return len(self.record)

    def __getitem__(self, i: int) -> Example:
        record = self.record[i]
        return {
            "input_ids": _slice(self._arrays["source_ids"], self._arrays["source_offsets"], record),
            "labels": _slice(self._arrays["target_ids"], self._arrays["target_offsets"], i),
            "index": i,
        }

    def fingerprint(self) -> str:
        """16 hex digits of all tokens and of what belongs together."""
        return fingerprint(*(self._arrays[name] for name in ARRAYS if name != "limits"))

    def report(self, split: str, kinds: Collection[str] = ("source", "target")) -> list[str]:
        """One line for each kind of text that was cut: `train: 12 sources longer than 256 tokens were cut`."""
        lines = []
        for kind, count, limit in zip(("source", "target"), self.truncated, self.limits, strict=True):
            if count and kind in kinds:
                texts, were = (kind, "was") if count == 1 else (f"{kind}s", "were")
                lines.append(f"{split}: {count} {texts} longer than {limit} tokens {were} cut")
        return lines


def tokenise(
    records: Sequence[Record],
    form: TextForm,
    max_source_length: int,
    max_target_length: int,
    cache_dir: Path | None,
    pairs: Literal["all", "first"] = "all",
) -> TokenSet:
    """The records as tokens in a form, cut to the limits (tokens; special ones stay), from `cache_dir` where they lie.

    `pairs="all"`: one row for each reference (training); `pairs="first"`: one row a record, with its first reference
    (evaluation). The cache is named by the content of texts, tokenizer, form and limits. Raises UserError for limits
    that leave no room, and for a cache folder that cannot be written.
    """

    def make() -> dict[str, np.ndarray]:
        return _token_arrays(records, form, max_source_length, max_target_length, pairs)

    if cache_dir is None:
        return TokenSet(make())
    key = _content_hash(records, form, max_source_length, max_target_length, pairs)
    return TokenSet(_cached(cache_dir / f"tokens-{key}.npz", make))


def fingerprint(*arrays: np.ndarray) -> str:
    """16 hex digits of the content of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


class LengthBuckets(Sampler[list[int]]):
    """Batch sampler: batches of rows of similar length (source first, then target), so that little is padding.

    Shuffled (training): a random order is cut into pools of `pool_batches` batches (fewer for a small data set), each
    pool is sorted by length and cut into batches, and the batches are shuffled. The order is a pure function of
    (seed, epoch), so a run that was killed goes on exactly: `set_epoch(epoch)`, then `start_batch = k` leaves out the
    first k batches of that epoch.
    Not shuffled (evaluation): sorted, longest first, so that too little memory shows at once.

    With several processes every rank gets whole batches, as many as the others and none twice; some batches are halved
    until their number divides. Raises UserError when there are too few rows for that.
    """

    def __init__(
        self,
        source_lengths: np.ndarray,
        target_lengths: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        pool_batches: int = 64,  # enough to sort by length, few enough to keep most of an epoch's randomness
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"--bsz {batch_size}: at least 1 example a batch")
        self.source_lengths, self.target_lengths = source_lengths, target_lengths
        self.batch_size, self.pool_batches = batch_size, pool_batches
        self.shuffle, self.seed = shuffle, seed
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch = 0
        self.start_batch = 0
        """Batches of the current epoch that are left out, counted on this rank; a new epoch starts at 0 again."""
        if len(self) * num_replicas > len(source_lengths):
            raise UserError(
                f"{len(source_lengths)} examples in batches of {batch_size} cannot be shared evenly by {num_replicas} "
                "processes; use fewer processes or a larger batch size"
            )

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, counted from 0; `start_batch` stays when it is the current one (Lightning calls this too)."""
        if epoch != self.epoch:
            self.epoch, self.start_batch = epoch, 0

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, whatever `start_batch` is."""
        batches = -(-len(self.source_lengths) // self.batch_size)
        return -(-batches // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches()[self.start_batch :])

    def batches(self) -> list[list[int]]:
        """All batches of the current epoch on this rank, in order."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.source_lengths)) if self.shuffle else np.arange(len(self.source_lengths))
        pool_size = max(len(order), 1)
        if self.shuffle:
            # four pools at least: one pool of all rows would put the same rows together in every epoch
            pool_size = self.batch_size * min(self.pool_batches, -(-len(order) // (4 * self.batch_size)))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), pool_size):
            pool = order[start : start + pool_size]
            pool = pool[np.lexsort((-self.target_lengths[pool], -self.source_lengths[pool]))]
            batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        _halve_until(batches, len(self) * self.num_replicas)
        if self.shuffle:
            batches = [batches[at] for at in rng.permutation(len(batches))]
        return [batch.tolist() for batch in batches[self.rank :: self.num_replicas]]


def _halve_until(batches: list[np.ndarray], count: int) -> None:
    """Halve the largest batches in place, those in front first, until there are `count` of them."""
    while len(batches) < count:
        at = max(range(len(batches)), key=lambda i: len(batches[i]))
        half = -(-len(batches[at]) // 2)
        batches[at : at + 1] = [batches[at][:half], batches[at][half:]]


def _slice(flat: np.ndarray, offsets: np.ndarray, i: int) -> np.ndarray:
    return flat[offsets[i] : offsets[i + 1]]


def check_room(form: TextForm, **limits: int) -> None:
    """Raise UserError for the first limit, named by its flag, that leaves no token beside what is always there."""
    for flag, limit in limits.items():
        taken, what = form.special, f"the {form.special} special tokens"
        if form.source_prefix and flag == "max_source_length":
            words = len(form.tokenizer(form.source_prefix, add_special_tokens=False)["input_ids"])
            taken, what = taken + words, f"{what} and the {words} of --source_prefix"
        if limit <= taken:
            raise UserError(f"--{flag} {limit}: no room beside {what}; give at least {taken + 1}")


def _token_arrays(
    records: Sequence[Record],
    form: TextForm,
    max_source_length: int,
    max_target_length: int,
    pairs: Literal["all", "first"],
) -> dict[str, np.ndarray]:
    """What a TokenSet holds and a cache file stores, by the names of ARRAYS."""
    check_room(form, max_source_length=max_source_length, max_target_length=max_target_length)
    count = None if pairs == "all" else 1
    targets = [(number, text) for number, record in enumerate(records) for text in record.references[:count]]
    source_ids, source_offsets, source_cut = _flat_tokens(
        [record.source for record in records],
        lambda texts: form.sources(texts, max_source_length),
    )
    target_ids, target_offsets, target_cut = _flat_tokens(
        [text for _, text in targets],
        lambda texts: form.targets(texts, max_target_length),
    )
    return {
        "source_ids": source_ids,
        "source_offsets": source_offsets,
        "target_ids": target_ids,
        "target_offsets": target_offsets,
        "record": np.array([number for number, _ in targets], dtype=np.int32),
        "limits": np.array([max_source_length, max_target_length, source_cut, target_cut], dtype=np.int64),
    }


def _flat_tokens(texts: list[str], encode: Encode) -> tuple[np.ndarray, np.ndarray, int]:
    """(all token ids one after the other, where each text starts and the last ends, how many texts were cut)."""
    ids: list[np.ndarray] = []
    cut = 0
    for start in range(0, len(texts), CHUNK):
        for tokens, was_cut in encode(texts[start : start + CHUNK]):
            ids.append(np.array(tokens, dtype=np.int32))
            cut += was_cut
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in ids], out=offsets[1:])
    return np.concatenate([*ids, np.zeros(0, dtype=np.int32)]), offsets, cut


def _content_hash(
    records: Sequence[Record],
    form: TextForm,
    max_source_length: int,
    max_target_length: int,
    pairs: str,
) -> str:
    """Hex sha256 of everything that the tokens follow from."""
    tokenizer = form.tokenizer
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # set by each call of the tokenizer, and no property of it
    for state in ("truncation", "padding"):
        backend.pop(state, None)
    own = [getattr(tokenizer, name, None) for name in ("src_lang", "tgt_lang", "truncation_side")]
    how = [form.name, form.source_prefix, getattr(form, "eos", None), backend, own]
    how += [max_source_length, max_target_length, pairs]
    digest = hashlib.sha256(json.dumps([CACHE_FORMAT, *how]).encode())
    for record in records:
        digest.update(json.dumps([record.source, record.references]).encode())
    return digest.hexdigest()[:32]


def _cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a cache file; made and written when the file is not there or is damaged.

    Written beside its name and then renamed, so that no process ever reads half a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in ARRAYS}
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile):
        arrays = make()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise UserError(f"--cache_dir {path.parent}: cannot be written ({error}); give another folder") from error
    return arrays
