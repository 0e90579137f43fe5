"""The loss that a decoder's forward gives beside its logits."""

from __future__ import annotations

import torch
from tiny import batch, prefixed

from seq2seq.losses import next_token_loss


def test_it_is_in_float32_where_logits_are_less() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 9, generator=generator).bfloat16()
    labels = torch.randint(0, 9, (2, 5), generator=generator)
    loss = next_token_loss(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, next_token_loss(logits.float(), labels))


def test_it_stands_in_front_of_a_tuple_too() -> None:
    prefix, inputs = prefixed("gpt2"), batch("gpt2")
    with torch.no_grad():
        as_object, as_tuple = prefix(**inputs), prefix(**inputs, return_dict=False)
    assert torch.equal(as_tuple[0], as_object.loss)
    assert torch.equal(as_tuple[1], as_object.logits)
