"""Models on one base that are used at once: each sees its own prefix alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiny
import torch
from transformers import LogitsProcessorList

from seq2seq.adapters import AdapterTuning
from seq2seq.fast_layers import fast_layers
from seq2seq.generation import generate
from seq2seq.padding import padding_known
from seq2seq.prefix_attention import prefix_attention
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.utils import UserError

OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


WIDE = {"bart": {"d_model": 256, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512}, "gpt2": {"n_embd": 256}}  # is packed


def two_prefixes(family: str, **config: Any) -> tuple[Any, Any, dict[str, Any]]:
    base = tiny.base(family, **config).eval()
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
@pytest.mark.parametrize("beams", [1, 3])
def test_threads_do_not_see_each_other(family: str, beams: int) -> None:
    one, other, inputs = two_prefixes(family, dtype=torch.float32, **WIDE[family])
    expected = [prefix.generate(**inputs, **OPTIONS, num_beams=beams) for prefix in (one, other)]
    assert not torch.equal(*expected)
    start = threading.Barrier(2)

    def generates(which: int) -> list[bool]:
        start.wait()
        texts = [(one, other)[which].generate(**inputs, **OPTIONS, num_beams=beams) for _ in range(4)]
        return [torch.equal(text, expected[which]) for text in texts]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(generates, (0, 1))) == [[True] * 4] * 2
    assert not any("forward" in vars(module) for module in one.modules())


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_thread_trains_while_another_searches(family: str) -> None:
    """The packed layers of the search have no gradient; the step has the layers' own."""
    one, other, inputs = two_prefixes(family, dtype=torch.float32, **WIDE[family])
    expected = gradients(other, inputs)
    found: list[list[torch.Tensor]] = []
    with ThreadPoolExecutor(1) as thread:

        def train_meanwhile(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            assert any("forward" in vars(module) for module in one.modules())
            found.append(thread.submit(gradients, other, inputs).result())
            return scores

        training: Any = LogitsProcessorList([train_meanwhile])
        one.generate(**inputs, **OPTIONS, num_beams=3, logits_processor=training)
    assert len(found) == 6
    assert all(torch.equal(*pair) for step in found for pair in zip(step, expected, strict=True))


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_what_a_step_knows_of_its_padding_is_known_to_its_thread_alone(family: str) -> None:
    one, _, inputs = two_prefixes(family)
    inputs |= _targets(family, inputs)["plain"]
    expected = one(**inputs).logits
    with padding_known(False), ThreadPoolExecutor(1) as thread:
        assert not torch.equal(one(**inputs).logits, expected)  # the batch has padding
        assert torch.equal(thread.submit(one, **inputs).result().logits, expected)


def gradients(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    return list(torch.autograd.grad(loss, list(model.prefix.parameters())))


def test_layers_stay_fast_until_their_last_thread_is_done() -> None:
    layer = torch.nn.Linear(512, 512, bias=False)
    opened, closed = threading.Event(), threading.Event()

    def multiplies(x: torch.Tensor) -> tuple[bool, bool]:
        with fast_layers(layer):
            opened.set()
            closed.wait()
            return "forward" in vars(layer), layer(x).requires_grad

    with ThreadPoolExecutor(1) as thread:
        with fast_layers(layer):
            other = thread.submit(multiplies, torch.ones(1, 512))
            opened.wait()
        assert layer(torch.ones(1, 512)).requires_grad  # here it is the layer's own again
        closed.set()
        assert other.result() == (True, False)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_each_is_in_its_own_mode(family: str) -> None:
    base = tiny.base(family)
    one = PrefixTuning(base, 3, 0, base_dropout=True).eval()
    inputs = tiny.batch(family)

    def loss(model: Any) -> float:
        return model(**inputs).loss.item()

    expected = loss(one)
    other = PrefixTuning(base, 5, 0, base_dropout=True).train()
    assert not one.training and loss(one) == expected == loss(one)
    assert loss(other) != loss(other)  # its base drops out
    one.generate(input_ids=inputs["input_ids"], **OPTIONS)
    assert other.training and loss(other) != loss(other)
    adapters = AdapterTuning(base).train()
    adapters(**inputs)
    adapters.detach()
    assert loss(one) == expected
    one.train()
    one.model.eval()  # by hand: it stays so, while nobody else has the base
    assert loss(one) == loss(one)


def test_shifted_positions_are_those_of_one_call_alone() -> None:
    base = tiny.base("bart").eval()
    inputs = {"input_ids": tiny.batch("bart")["input_ids"], "decoder_input_ids": tiny.batch("bart")["input_ids"]}
    shifted, others = PrefixTuning(base, 6, 0, shift_positions=True), [PrefixTuning(base, 4, 0)]
    others += [PrefixTuning(base, 3, 0, shift_positions=True), base]
    expected = [model(**inputs).logits for model in others]
    found: list[list[torch.Tensor]] = []

    def ask_the_others(*_: Any) -> None:
        if threading.get_ident() == main and not found:
            found.append(thread.submit(lambda: [model(**inputs).logits for model in others]).result())

    main, hook = threading.get_ident(), base.model.encoder.layers[0].register_forward_pre_hook(ask_the_others)
    with ThreadPoolExecutor(1) as thread:
        shifted(**inputs)
    hook.remove()
    assert all(torch.equal(*pair) for pair in zip(found[0], expected, strict=True))


def test_a_base_that_is_not_to_drop_out_does_not_for_a_moment() -> None:
    base = tiny.base("gpt2")
    modes = []
    block = base.transformer.h[0]
    train = block.train
    block.train = lambda mode=True: (modes.append(mode), train(mode))[1]
    PrefixTuning(base, 3, 0, dropout=0.5).train()
    AdapterTuning(base, base_dropout=False).train()
    assert modes and not any(modes)


@pytest.mark.parametrize("outer", [True, False])
def test_a_base_cannot_drop_out_and_not_drop_out_at_once(outer: bool) -> None:
    base, inputs = tiny.base("bart"), tiny.batch("bart")
    one, other = PrefixTuning(base, 3, 0).train(outer), AdapterTuning(base).train(not outer)
    said: list[str] = []

    def ask_the_other(*_: Any) -> None:
        with pytest.raises(UserError, match="one in training mode and one not.*call one after the other"):
            thread.submit(other, **inputs).result()
        said.append("refused")

    with ThreadPoolExecutor(1) as thread:
        hook = base.model.encoder.layers[0].register_forward_pre_hook(ask_the_other)
        one(**inputs)
        hook.remove()
        assert said == ["refused"] and base.training == outer
        thread.submit(other, **inputs).result()
    assert base.training == (not outer)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_another_mode_between_forward_and_backward_changes_no_gradient(family: str) -> None:
    """With gradient checkpointing: the backward pass computes the layers again."""
    base, inputs = tiny.base(family), tiny.batch(family)
    student = PrefixTuning(base, 3, 0, base_dropout=True).train()
    teacher = PrefixTuning(base, 4, 0, base_dropout=True).eval()
    parameters = list(student.prefix.parameters())

    def gradients_with(between: bool) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(4)
        loss = student(**inputs).loss
        if between:
            teacher(**inputs)
        return torch.autograd.grad(loss, parameters)

    expected = gradients_with(False)
    student.gradient_checkpointing_enable()
    for between in (False, True):
        for own, same in zip(gradients_with(between), expected, strict=True):
            tiny.close(own, same)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_searches_of_a_plain_base_at_once(family: str) -> None:
    base = tiny.base(family, **WIDE[family]).eval()
    inputs = {name: x for name, x in tiny.batch(family).items() if name in ("input_ids", "attention_mask")}
    expected = generate(base, **inputs, **OPTIONS, num_beams=4)
    attention = base.config._attn_implementation
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: generate(base, **inputs, **OPTIONS, num_beams=4), range(24)))
    assert all(torch.equal(text, expected) for text in found)
    assert base.config._attn_implementation == attention == "sdpa"
    with prefix_attention(base):
        with prefix_attention(base):
            pass
        assert base.config._attn_implementation == "prefix_sdpa"
    assert base.config._attn_implementation == "sdpa"
