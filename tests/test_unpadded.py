"""Leaving the padding out of a training step changes nothing in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_fast_training import labelled, step_on_targets
from test_host_waits import batch_of, meta_autocast, module_of, to_meta  # noqa: F401  a fixture
from tiny import base, batch, check_same_step, prefixed, prompts

from seq2seq.prefixTuning import PrefixEmbTuning
from seq2seq.records import Record
from seq2seq.unpadded import RealTokens, can_unpad, real_tokens

UNEQUAL = [Record("a", ("b",)), Record("a man a plan", ("a canal and a boat on it",))]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "options",
    [{}, {"mid_dim": 0}, {"dropout": 0.3}, {"shift_positions": False}, {"kind": PrefixEmbTuning}],
    ids=["MLP", "flat", "dropout", "positions from 0", "input vectors"],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_on_real_tokens_is_the_step_with_padding(
    family: str, options: dict[str, Any], checkpointing: bool
) -> None:
    prefix, inputs = prefixed(family, **options).train(), labelled(family)
    if checkpointing:
        prefix.model.gradient_checkpointing_enable({"use_reentrant": False})
    places = real_tokens(inputs["attention_mask"])
    check_same_step(step_on_targets(prefix, inputs, places), step_on_targets(prefix, inputs))


def test_an_infixs_step_on_real_tokens_is_the_step_with_padding() -> None:
    prefix, inputs = prefixed("gpt2", infix=True).train(), batch("gpt2")
    sources = prompts("gpt2")
    inputs |= {"source_ids": sources["input_ids"], "source_attention_mask": sources["attention_mask"]}
    places = real_tokens(inputs["attention_mask"])
    check_same_step(step_on_targets(prefix, inputs, places), step_on_targets(prefix, inputs))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_layers_see_real_tokens_alone(family: str) -> None:
    prefix, inputs, seen = prefixed(family), labelled(family), []
    layers: Any = prefix.model.base_model
    layers = layers.h if family == "gpt2" else layers.layers
    layers[0].mlp.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[:2])))
    step_on_targets(prefix, inputs, real_tokens(inputs["attention_mask"]))
    assert seen == [(1, int(inputs["attention_mask"].sum()))]


def test_when_padding_is_left_out() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert real_tokens(mask).tolist() == [0, 1, 2, 3]
    assert real_tokens(mask.flip(1)) is None  # on the left
    assert real_tokens(torch.ones(2, 3)) is None
    much = torch.ones(2, 50)
    much[1, 49] = 0
    assert real_tokens(much) is None  # too little to gain
    assert [can_unpad(prefixed(family).model) for family in ("gpt2", "llama", "bart")] == [True, True, False]
    assert not can_unpad(base("gpt2"))  # stock attention cannot take tokens in a row
    assert not can_unpad(prefixed("gpt2", "eager").model)


def test_moving_tokens_and_back() -> None:
    rows = torch.arange(12.0, dtype=torch.float64).view(2, 3, 2).requires_grad_()
    tokens = RealTokens(torch.tensor([0, 1, 2, 3]), 2, 3)
    row = tokens.in_a_row(rows)
    assert row.tolist() == [rows.flatten(0, 1)[:4].tolist()]
    again = tokens.in_rows(row)
    assert again[0].equal(rows[0]) and again[1].tolist() == [rows[1, 0].tolist(), [0, 0], [0, 0]]
    torch.autograd.gradcheck(lambda x: tokens.in_rows(tokens.in_a_row(x)), rows)


@pytest.mark.parametrize("mode", ["prefixtune", "finetune", "adaptertune"])
def test_trainings_leave_padding_out(mode: str, small_gpt2: dict[str, Any]) -> None:
    module = module_of(small_gpt2, UNEQUAL, mode=mode, precision="32")
    inputs = batch_of(module)
    module.eval()  # no dropout, which draws other numbers for another shape
    assert len(inputs["real_tokens"]) == int(inputs["attention_mask"].sum())
    with_padding = {name: x for name, x in inputs.items() if name != "real_tokens"}
    losses = [module.training_step(x, 0).item() for x in (inputs, with_padding)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_teacher_reads_the_same_tokens(small_gpt2: dict[str, Any]) -> None:
    module = module_of(small_gpt2, UNEQUAL, precision="32")
    inputs = batch_of(module)
    teacher = base("gpt2", dtype=torch.float32, vocab_size=module.base.config.vocab_size)
    module.learn_from(teacher)
    assert can_unpad(teacher)
    with_padding = {name: x for name, x in inputs.items() if name != "real_tokens"}
    losses = [module.training_step(x, 0).item() for x in (inputs, with_padding)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.usefixtures("meta_autocast")
def test_a_step_on_real_tokens_looks_at_no_value(small_gpt2: dict[str, Any]) -> None:
    module = module_of(small_gpt2, UNEQUAL)
    inputs = to_meta(batch_of(module))
    assert "real_tokens" in inputs
    module.to("meta")
    module.training_step(inputs, 0).backward()
