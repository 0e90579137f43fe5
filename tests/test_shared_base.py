"""Models on one base that are used at once: each sees its own prefix alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import tiny
import torch
from transformers import LogitsProcessorList

from seq2seq.prefixTuning import PrefixTuning

OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def two_prefixes(family: str) -> tuple[Any, Any, dict[str, Any]]:
    base = tiny.base(family).eval()
    torch.manual_seed(5)
    prefixes = [PrefixTuning(base, length, 0).eval() for length in (3, 5)]
    with torch.no_grad():
        for prefix in prefixes:
            for parameter in prefix.prefix.parameters():
                parameter.normal_(std=2.0)
    inputs = {name: x for name, x in tiny.batch(family).items() if name in ("input_ids", "attention_mask")}
    return *prefixes, inputs


@pytest.mark.parametrize("family", ["bart", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_one_is_called_while_another_generates(family: str, beams: int) -> None:
    one, other, inputs = two_prefixes(family)
    expected = [prefix.generate(**inputs, **OPTIONS, num_beams=beams) for prefix in (one, other)]
    logits = {name: other(**inputs, **extra).logits for name, extra in _targets(family, inputs).items()}
    assert not torch.equal(*expected)
    inner: list[Any] = []

    def ask_the_other(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        inner.append(other.generate(**inputs, **OPTIONS, num_beams=beams))
        for name, extra in _targets(family, inputs).items():
            assert torch.equal(other(**inputs, **extra).logits, logits[name])
        return scores

    asking: Any = LogitsProcessorList([ask_the_other])
    outer = one.generate(**inputs, **OPTIONS, num_beams=beams, logits_processor=asking)
    assert torch.equal(outer, expected[0])
    assert len(inner) == 6 and all(torch.equal(text, expected[1]) for text in inner)


def _targets(family: str, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"plain": {"decoder_input_ids": inputs["input_ids"]} if family == "bart" else {}}


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_threads_do_not_see_each_other(family: str) -> None:
    one, other, inputs = two_prefixes(family)
    expected = [prefix.generate(**inputs, **OPTIONS) for prefix in (one, other)]
    found: list[list[bool]] = [[], []]
    start = threading.Barrier(2)

    def work(which: int) -> None:
        start.wait()
        for _ in range(8):
            text = (one, other)[which].generate(**inputs, **OPTIONS)
            found[which].append(torch.equal(text, expected[which]))

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True] * 8, [True] * 8]
