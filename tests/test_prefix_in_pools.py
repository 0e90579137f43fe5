"""A short prefix stands in the pools of a beam search, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import base, prefixed, prompts
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import LogitsProcessor

from seq2seq import beam_cache
from seq2seq.generation import generate
from seq2seq.prefixTuning import PrefixTuning

OPTIONS: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}


def check_as_without_a_cache(prefix: PrefixTuning, family: str, **options: Any) -> None:
    with torch.no_grad():
        for vectors in prefix.prefix.parameters():
            vectors.normal_(generator=torch.Generator().manual_seed(5))
    options = {**OPTIONS, **options}
    naive = prefix.generate(**prompts(family), **options, use_cache=False)
    assert prefix.generate(**prompts(family), **options).tolist() == naive.tolist()


@pytest.mark.parametrize("sites", [("encoder",), ("decoder",), ("cross",), ("decoder", "cross")])
@pytest.mark.parametrize("preseqlen", [1, 50, 150])
def test_every_site_and_length(preseqlen: int, sites: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_front = beam_cache.SharedLayer.put_in_front
    pools = []

    def spy(pool: beam_cache.SharedLayer, *prefix: Tensor) -> None:
        pools.append(pool)
        put_in_front(pool, *prefix)

    monkeypatch.setattr(beam_cache, "SPARE_STEPS", 1)
    monkeypatch.setattr(beam_cache.SharedLayer, "put_in_front", spy)
    prefix = prefixed("bart", "eager", preseqlen=preseqlen, sites=sites)
    check_as_without_a_cache(prefix, "bart", num_beams=4, early_stopping=True)
    of_decoder = {"decoder", "cross"} & set(sites)
    assert len(pools) == (2 * len(of_decoder) if preseqlen * 3 <= beam_cache.COPIED else 0)  # of two layers each


def test_in_the_precision_of_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        check_as_without_a_cache(prefixed("gpt2", dtype=torch.float32), "gpt2", num_beams=3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_rules_own_forward_has_the_prefix_too(family: str) -> None:
    """It has a cache of its own, as transformers' for classifier-free guidance, or none."""
    check_as_without_a_cache(prefixed(family), family, num_beams=3, guidance_scale=1.5)


class Keeping(LogitsProcessor):
    """Keeps the scores that it is given, and those that it gives."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.given.append(scores)
        return scores


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_scores_that_a_rule_keeps_stay_as_they_were(family: str) -> None:
    rule = Keeping()
    options = {**OPTIONS, "num_beams": 3, "min_new_tokens": 4, "logits_processor": LogitsProcessorList([rule])}
    prefixed(family).generate(**prompts(family), **options)
    first_to_last = torch.stack([scores.exp().sum(-1) for scores in rule.given[4:]])
    assert len(first_to_last) and torch.allclose(first_to_last, torch.ones_like(first_to_last))
    assert len({scores.data_ptr() for scores in rule.given}) == len(rule.given)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_source_that_is_nothing_but_padding(attention: str) -> None:
    model, inputs = base("bart", attention), prompts("bart")
    inputs["attention_mask"][1] = 0
    theirs = model.generate(**inputs, **OPTIONS, num_beams=3)
    assert generate(model, **inputs, **OPTIONS, num_beams=3).tolist() == theirs.tolist()
