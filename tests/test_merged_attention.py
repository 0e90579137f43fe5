"""A long prefix attended apart from the own keys gives what both in one copy give, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import batch, check_same_step, close, prefixed, prompts, step
from torch import Tensor

from seq2seq import merged_attention, prefix_attention
from seq2seq.merged_attention import LEAST_PREFIX, attend_merged, merging_pays
from seq2seq.prefixTuning import PrefixTuning


@pytest.fixture
def merged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Every prefix counts as long; a list of the shapes of the queries that were attended so."""
    seen: list[tuple[int, ...]] = []

    def counted(query: Tensor, *rest: Any) -> Tensor:
        seen.append(tuple(query.shape))
        return attend_merged(query, *rest)

    monkeypatch.setattr(merged_attention, "LEAST_PREFIX", 1)
    monkeypatch.setattr(prefix_attention, "attend_merged", counted)
    return seen


def heads(*shape: int) -> Tensor:
    """Random (B, T, H, D), laid out as (B, H, T, D)."""
    return torch.randn(*shape, dtype=torch.float64).requires_grad_().transpose(1, 2)


def masks(kind: str) -> Tensor | None:
    visible = torch.rand(2, 1, 5, 5) > 0.4
    visible[0, :, 2] = False  # a row that sees nothing but the prefix
    if kind.startswith("added"):
        lowest = float("-inf") if kind == "added, infinite" else torch.finfo(torch.float64).min
        return torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, lowest)
    return {"boolean": visible, "columns": visible[:, :, :1], "rows alike": visible[:1]}.get(kind)


@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "columns", "rows alike", "added", "added, infinite"])
def test_apart_is_together_forward_and_backward(kind: str) -> None:
    torch.manual_seed(3)
    query, key, value = (heads(2, 5, 3, 4) for _ in range(3))
    prefix = tuple(torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask, causal = masks(kind), kind == "causal"
    ours = attend_merged(query, key, value, prefix, mask, causal, 0.3)  # type: ignore[arg-type]
    seen = torch.ones(5, 5, dtype=torch.bool).tril()[None, None] if causal else mask
    if seen is not None:
        seen = torch.nn.functional.pad(seen, (7, 0), value=True if seen.dtype == torch.bool else 0.0)
    both = (torch.cat((p.expand(2, -1, -1, -1), own), dim=2) for p, own in zip(prefix, (key, value), strict=True))
    theirs = torch.nn.functional.scaled_dot_product_attention(query, *both, attn_mask=seen, scale=0.3).transpose(1, 2)
    close(ours, theirs)
    weight = torch.randn_like(ours)
    inputs = (query, key, value, *prefix)
    pairs = (torch.autograd.grad((output * weight).sum(), inputs) for output in (ours, theirs))
    for one, other in zip(*pairs, strict=True):
        close(one, other)


def test_what_lies_otherwise_in_memory() -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    prefix = tuple(torch.randn(3, 7, 4, dtype=torch.float64) for _ in range(2))
    usual = attend_merged(query, key, value, prefix, None, False, 0.3)  # type: ignore[arg-type]
    turned = [tensor.transpose(-1, -2).contiguous().transpose(-1, -2) for tensor in (query, key, value, *prefix)]
    other = attend_merged(*turned[:3], tuple(turned[3:]), None, False, 0.3)  # type: ignore[arg-type]
    close(other, usual)
    (one,), (two,) = (torch.autograd.grad(x.sum(), query) for x in (usual, other))  # a gradient without strides
    close(one, two)


def steps(prefix: PrefixTuning, family: str, side: str) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(5)
    return step(prefix, **batch(family, side))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("family", "modules"), [("bart", 6), ("gpt2", 2)])
def test_a_training_step(
    family: str, modules: int, side: str, checkpointed: bool, merged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    still = {"attention_dropout": 0.0} if family == "bart" else {"attn_pdrop": 0.0}
    prefix = prefixed(family, changes=still).train()
    if checkpointed:
        prefix.model.gradient_checkpointing_enable({"use_reentrant": False})
    ours = steps(prefix, family, side)
    assert len(merged) == modules * (1 + checkpointed)
    monkeypatch.setattr(merged_attention, "LEAST_PREFIX", 100)
    check_same_step(ours, steps(prefix, family, side))
    assert len(merged) == modules * (1 + checkpointed)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_generation(family: str, num_beams: int, merged: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = prefixed(family)
    options: dict[str, Any] = {**prompts(family), "num_beams": num_beams, "max_new_tokens": 6, "do_sample": False}
    ours = prefix.generate(**options)
    assert merged and all(shape[2] > 1 for shape in merged)
    monkeypatch.setattr(merged_attention, "LEAST_PREFIX", 100)
    assert ours.tolist() == prefix.generate(**options).tolist()


@pytest.mark.parametrize("kind", ["dropout of the prefix", "shared key heads", "eager"])
def test_what_cannot_be_merged_stays_in_one_copy(kind: str, merged: list[Any]) -> None:
    family = "llama" if kind == "shared key heads" else "bart"
    still = {"attention_dropout": 0.0}
    dropout = 0.5 if kind == "dropout of the prefix" else 0.0
    prefix = prefixed(family, "eager" if kind == "eager" else "sdpa", changes=still, dropout=dropout).train()
    steps(prefix, family, "right")
    assert not merged


def test_own_keys_that_need_no_gradient_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Tensor] = []
    query, key, value = torch.randn(3, 2, 3, 5, 4)
    prefix = (torch.randn(3, 7, 4, requires_grad=True), torch.randn(3, 7, 4, requires_grad=True))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):  # type: ignore[func-returns-value]
        output = attend_merged(query, key, value, prefix, None, False, 0.3)
    assert key.data_ptr() not in {tensor.data_ptr() for tensor in kept}
    output.sum().backward()
    assert prefix[0].grad is not None and float(prefix[0].grad.abs().sum()) > 0


def test_when_merging_pays() -> None:
    query, key = torch.zeros(1, 4, 3, 8), torch.zeros(1, 4, 5, 8)
    long = torch.zeros(4, LEAST_PREFIX, 8)
    assert merging_pays(query, key, long) and not merging_pays(query, key, long[:, 1:])
    assert not merging_pays(query, key[:, :2], long) and not merging_pays(query.to("meta"), key, long)
    assert not merging_pays(query.double(), key, long)
    assert not merging_pays(query.bfloat16(), key.bfloat16(), long.bfloat16())
