"""A training step never looks at a value, so on a GPU it never waits; attention gets a mask only where one is needed.

On the meta device tensors have no values: whatever looks at one (`.item()`, `bool()`, `nonzero`, `.tolist()`, a boolean
index) raises there.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import SENTENCES
from small_runs import flags
from tiny import base, batch, close
from torch import Tensor

from gpt2.run_language_modeling import GPT2
from seq2seq import prefix_attention
from seq2seq.finetune import BART, chosen_task
from seq2seq.lightning_base import BaseTransformer
from seq2seq.loading import load_base
from seq2seq.padding import holds_padding, padding_known
from seq2seq.parsing import parse
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.records import Record

ALIKE = [Record(SENTENCES[0], (SENTENCES[1],))] * 3
DIFFERENT = [Record(SENTENCES[i], (SENTENCES[i + 1],)) for i in range(3)]


class Trainer:
    """What the module asks its trainer."""

    training = True


def module_of(small: dict[str, Any], records: list[Record], **options: Any) -> BaseTransformer:
    """The Lightning module of a command's options, in training mode."""
    program = small.get("program", "train_bart.py")
    family = GPT2 if program == "train_e2e.py" else BART
    given = {name: value for name, value in small.items() if name not in ("program", "output_dir")}
    arguments = parse(flags(**{**given, **options}), program)
    task = chosen_task(arguments)
    model, tokenizer = load_base(arguments, task, family)
    kind = family.module_for(arguments.mode, task.kind)
    module = kind(arguments, model, tokenizer, family.form(arguments, tokenizer), task, records, records)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    module._trainer = Trainer()
    module.on_fit_start()
    return module


def batch_of(module: Any) -> dict[str, Any]:
    """The first training batch, as it leaves for the device."""
    rows = [module.train_tokens[i] for i in range(len(module.train_tokens))]
    return module.on_before_batch_transfer(module.form.collate(rows), 0)


@pytest.fixture
def meta_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no autocast for the meta device."""
    stock = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **o: nullcontext() if kind == "meta" else stock(kind, **o))


def to_meta(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: x.to("meta") if isinstance(x, Tensor) else x for name, x in batch.items()}


@pytest.mark.usefixtures("meta_autocast")
@pytest.mark.parametrize("records", [ALIKE, DIFFERENT], ids=["no padding", "padding"])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("bart", {}),
        ("bart", {"gradient_checkpointing": "yes", "prefix_dropout": 0.1}),
        ("bart", {"mode": "finetune", "label_smoothing": 0.1}),
        ("gpt2", {}),
        ("gpt2", {"gradient_checkpointing": "yes", "objective_mode": 1}),
        ("gpt2", {"format_mode": "infix"}),
        ("gpt2", {"prefix_mode": "embedding"}),
    ],
    ids=str,
)
def test_a_training_step_looks_at_no_value(
    family: str, options: dict[str, Any], records: list[Record], small: dict[str, Any], small_gpt2: dict[str, Any]
) -> None:
    module = module_of(small if family == "bart" else small_gpt2, records, **options)
    inputs = batch_of(module)
    assert inputs["padded"] == (records is DIFFERENT)
    module.to("meta")
    module.training_step(to_meta(inputs), 0).backward()
    got = [p.grad is not None for p in module.trained_parameters()]
    assert all(got) if module.has_frozen_base else any(got)  # the move to meta unties a base's embeddings


@pytest.mark.usefixtures("meta_autocast")
def test_the_meta_device_tells_of_a_look(small: dict[str, Any]) -> None:
    module = module_of(small, DIFFERENT)
    inputs = to_meta(batch_of(module))
    module.to("meta")
    del inputs["padded"]  # then transformers looks
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        module.training_step(inputs, 0)


def masks_given(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], bool]:
    """(queries, keys) of every call of the stock attention: whether it came with a mask; filled as calls are made."""
    seen: dict[tuple[int, int], bool] = {}
    stock = prefix_attention.sdpa_attention_forward

    def spy(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Any:
        seen[query.shape[2], key.shape[2]] = mask is not None
        return stock(module, query, key, value, mask, **rest)

    monkeypatch.setattr(prefix_attention, "sdpa_attention_forward", spy)
    return seen


@pytest.mark.parametrize("padded", [False, True])
def test_only_what_hides_something_comes_with_a_mask(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = PrefixTuning(base("bart"), preseqlen=4, mid_dim=0).double()
    ids = torch.arange(3, 17).view(2, 7)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0 if padded else 1
    seen = masks_given(monkeypatch)
    with padding_known(padded):
        prefix(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :3])
    # encoder self, decoder cross, decoder self: causal behind a prefix, which no flag of the kernels says
    assert seen == {(7, 11): padded, (3, 11): padded, (3, 7): True}


@pytest.mark.parametrize("family", ["bart", "gpt2", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [1, 3])
def test_what_is_known_of_padding_changes_nothing(family: str, attention: str, rows: int) -> None:
    prefix = PrefixTuning(base(family, attention), preseqlen=4, mid_dim=0).double()
    inputs = {name: x[:rows] for name, x in batch(family).items() if name != "labels"}
    padded = holds_padding(inputs)
    assert padded == (rows == 3)
    looked = prefix(**inputs).logits
    with padding_known(padded):
        close(prefix(**inputs).logits, looked)
    with padding_known(True):
        close(prefix(**inputs).logits, looked)
