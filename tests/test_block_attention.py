"""Attention in blocks is the stock attention, whatever a block holds, and keeps no weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seq2seq import block_attention
from seq2seq.block_attention import attend_in_blocks

BATCH, HEADS, LENGTH, COLUMNS, WIDTH = 3, 4, 5, 7, 8
OF_A_HEAD = LENGTH * COLUMNS


def tensors(groups: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    query = torch.randn(BATCH, LENGTH, HEADS * groups, WIDTH, dtype=dtype).transpose(1, 2)  # as models lay heads out
    key, value = (torch.randn(BATCH, HEADS, COLUMNS, WIDTH, dtype=dtype) for _ in range(2))
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def mask_of(kind: str) -> Tensor | None:
    examples, rows = {"none": (0, 0), "alike": (1, LENGTH), "each": (BATCH, LENGTH), "padding": (BATCH, 1)}[kind]
    return torch.randn(examples, 1, rows, COLUMNS, dtype=torch.float64) * 3 if examples else None


@pytest.mark.parametrize("kind", ["none", "alike", "each", "padding"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("fitting", [0.5, 1, 3, 4, 11, 100], ids=lambda heads: f"{heads} heads fit")
def test_blocks_are_the_stock_attention(
    fitting: float, groups: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 heads that fit make blocks of two examples and of one; 3 of 4 make blocks of two heads."""
    monkeypatch.setattr(block_attention, "BLOCK", int(fitting * OF_A_HEAD * groups))
    given, mask = tensors(groups), mask_of(kind)
    query, key, value = given
    stock = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=groups > 1
    )
    ours = attend_in_blocks(query, key, value, mask, 0.3)
    torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(stock)
    expected = torch.autograd.grad((stock * weight).sum(), given)
    for one, other in zip(torch.autograd.grad((ours * weight).sum(), given), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("fitting", "sizes"), [(0.5, [1] * 12), (3, [2] * 6), (4, [4] * 3), (7, [4] * 3), (11, [8, 4]), (12, [12])]
)
def test_what_a_block_holds(fitting: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_attention, "BLOCK", int(fitting * OF_A_HEAD))
    blocks = list(block_attention._blocks(BATCH * HEADS, HEADS, OF_A_HEAD))
    assert [block.stop - block.start for block in blocks] == sizes
    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fitting", [2, 12])
def test_scores_that_are_overwritten_are_read_first(
    fitting: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what torch's softmax and its gradient give in memory of their own."""
    monkeypatch.setattr(block_attention, "BLOCK", fitting * OF_A_HEAD)
    given = tensors(dtype=dtype)
    query, key, value = given
    plain = ((query * 0.5) @ key.transpose(2, 3)).softmax(-1) @ value
    ours = attend_in_blocks(query, key, value, None, 0.5)
    assert torch.equal(ours, plain)
    weight = torch.randn_like(plain)
    expected = torch.autograd.grad((plain * weight).sum(), given)
    for one, other in zip(torch.autograd.grad((ours * weight).sum(), given), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("fitting", "kept"), [(4, False), (12, True)])
def test_weights_are_kept_of_a_single_block_alone(fitting: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_attention, "BLOCK", fitting * OF_A_HEAD)
    shapes: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: shapes.append(x.shape) or x, lambda x: x):
        attend_in_blocks(*tensors(), None, 0.5)
    assert ((BATCH * HEADS, LENGTH, COLUMNS) in shapes) == kept


def test_gradients_that_nobody_wants_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors()
    products: list[None] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *args, **named: products.append(None) or bmm(*args, **named))
    output = attend_in_blocks(query.detach(), key, value.detach(), None, 0.5)
    products.clear()
    (of_key,) = torch.autograd.grad(output.sum(), (key,))
    assert of_key.shape == key.shape
    assert len(products) == 2  # of the scores, of the keys
