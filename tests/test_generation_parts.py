"""The parts of a beam search, each alone: score rules, the best candidates, attention over shared keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import base, close
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from seq2seq import prefix_attention
from seq2seq.beam_state import best_of
from seq2seq.product_attention import attend_one_token
from seq2seq.score_rules import apply_rules


@pytest.mark.parametrize(
    "rule",
    [
        MinLengthLogitsProcessor(7, [2, 5]),
        MinLengthLogitsProcessor(6, 2),
        MinNewTokensLengthLogitsProcessor(2, 5, [2, 5]),
        MinNewTokensLengthLogitsProcessor(2, 4, 2),
        *(NoRepeatNGramLogitsProcessor(size) for size in (1, 2, 3, 7)),
        NoBadWordsLogitsProcessor([[3], [4, 0]], 2),
        NoBadWordsLogitsProcessor([[3], [5]], 2),
        SuppressTokensLogitsProcessor([3, 9, 9]),
        SuppressTokensLogitsProcessor([1, 12]),
    ],
    ids=lambda rule: f"{type(rule).__name__}{vars(rule)}"[:60],
)
def test_rules_give_the_scores_that_transformers_gives(rule: LogitsProcessor) -> None:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 4, (12, 6), generator=generator)
    scores = torch.randn(12, 10, generator=generator)
    theirs = rule(tokens, scores)
    assert torch.equal(apply_rules([rule], tokens, scores.clone()), theirs)


def test_tokens_that_the_output_layer_does_not_have_are_no_ngrams() -> None:
    tokens, scores = torch.tensor([[11, 9, 11]]), torch.zeros(1, 10)
    rule = NoRepeatNGramLogitsProcessor(2)
    assert torch.equal(apply_rules([rule], tokens, scores.clone()), rule(tokens, scores))
    assert apply_rules([rule], torch.tensor([[3, 12, 3]]), scores.clone()).min() == 0.0


@pytest.mark.parametrize("columns", [50, 64 * 100, 64 * 100 + 1, 64 * 100 + 63])
def test_the_best_are_those_of_topk(columns: int) -> None:
    scores = torch.randn(3, columns, generator=torch.Generator().manual_seed(columns))
    scores[1, -1] = 9.0
    for ours, theirs in zip(best_of(scores, 12), scores.topk(12), strict=True):
        assert torch.equal(ours, theirs)


def _laid_out(states: Tensor, heads_outermost: bool) -> Tensor:
    """States (B, H, S, D) with their heads or their sources outermost in memory."""
    return states.transpose(0, 1).contiguous().transpose(0, 1) if heads_outermost else states


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", [None, "boolean", "added", "of each beam"])
@pytest.mark.parametrize("length", [0, 4])
@pytest.mark.parametrize("heads_outermost", [False, True])
def test_one_token_over_shared_keys_is_stock_attention_over_copies(
    heads_outermost: bool, length: int, kind: str | None, groups: int
) -> None:
    torch.manual_seed(1)
    sources, beams, heads, own, width = 2, 3, 2, 5, 4
    query = torch.randn(sources * beams, heads * groups, 1, width, dtype=torch.float64)
    key, value = torch.randn(2, sources, heads, own, width, dtype=torch.float64)
    prefix = torch.randn(2, heads, length, width, dtype=torch.float64)
    visible = torch.rand(sources, 1, beams if kind == "of each beam" else 1, own) > 0.3
    visible[..., 0] = True
    if kind is None:
        visible[:] = True
    added = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, float("-inf"))
    mask = {None: None, "boolean": visible, "added": added, "of each beam": added}[kind]
    key, value = (_laid_out(states, heads_outermost) for states in (key, value))
    ours = attend_one_token(query, key, value, mask, tuple(prefix) if length else None, 0.7)

    def of_rows(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(beams, 0).repeat_interleave(groups, 1)

    in_front = prefix[:, None].expand(-1, sources, -1, -1, -1)
    keys, values = (of_rows(torch.cat(pair, dim=2)) for pair in zip(in_front, (key, value), strict=True))
    rows = visible.expand(-1, -1, beams, -1).reshape(sources * beams, 1, 1, own)
    rows = torch.nn.functional.pad(rows, (length, 0), value=True)
    theirs = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=rows, scale=0.7)
    close(ours, theirs.transpose(1, 2))


def test_an_option_that_transformers_alone_knows_is_not_lost_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def stock(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
        given.update(options, columns=key.shape[2])
        return query.transpose(1, 2), None

    monkeypatch.setattr(prefix_attention, "sdpa_attention_forward", stock)
    module = base("gpt2").transformer.h[0].attn
    prefix = prefix_attention.LivePrefix({module: (torch.ones(4, 3, 8), torch.ones(4, 3, 8))})
    attention = prefix_attention._attend_with_prefix(prefix_attention._sdpa)
    one_token = torch.ones(2, 4, 1, 8)
    attention(module, one_token, one_token, one_token, None, softcap=30.0, prefix_key_values=prefix)
    assert given["softcap"] == 30.0 and given["columns"] == 4
