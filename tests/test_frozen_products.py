"""Products with frozen weights by oneDNN: the same numbers up to rounding, and only where they pay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import base, batch, close
from torch import Tensor

from seq2seq import frozen_products as room
from seq2seq.frozen_products import frozen_product, frozen_products, multiplies_faster
from seq2seq.lightning_base import predictions
from seq2seq.prefixTuning import PrefixTuning

WIDE = {
    "bart": {"d_model": 256, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512, "init_std": 0.05},
    "gpt2": {"n_embd": 256, "initializer_range": 0.05, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}
LAYERS = {"bart": 2 * (4 + 2) + 2 * (8 + 2), "gpt2": 2 * 4}  # linear ones in the stacks


@pytest.fixture(autouse=True)
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every processor, and the vocabulary of the tiny models is large enough."""
    monkeypatch.setattr(room, "onednn_pays", lambda: True)
    monkeypatch.setattr(room, "SMALL", 1)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of the weights of each product, as they are multiplied."""
    seen: list[tuple[int, ...]] = []
    stock = room.multiply

    def counted(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(tuple(weight.shape))
        return stock(states, weight, bias)

    monkeypatch.setattr(room, "multiply", counted)
    monkeypatch.setattr("seq2seq.output_layer.multiply", counted)
    return seen


def trained_step(model: Any, family: str, fast: bool) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a batch as the Lightning modules compute them."""
    inputs = batch(family)
    if not fast:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, "onednn_pays", lambda: False)
            return trained_step(model, family, fast=True)
    model.zero_grad()
    torch.manual_seed(3)
    labels = inputs["labels"]
    targets = labels if family == "bart" else torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    loss = predictions(model, inputs, targets).loss()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def prefixed(family: str, **changes: Any) -> PrefixTuning:
    return PrefixTuning(base(family, dtype=torch.float32, **WIDE[family], **changes), 3, mid_dim=16).train()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(300,), (5, 300), (2, 7, 300), (0, 300)])
def test_a_product_and_its_gradient(shape: tuple[int, ...], turned: bool) -> None:
    torch.manual_seed(1)
    weight = torch.randn(300, 400).t() if turned else torch.randn(400, 300)
    bias = torch.randn(400)
    states = torch.randn(shape, requires_grad=True)
    exact = states.detach().double().requires_grad_()
    ours = frozen_product(states, weight, bias)
    theirs = torch.nn.functional.linear(exact, weight.double(), bias.double())
    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    theirs.backward(upstream.double())
    close(ours.double(), theirs.detach(), 2e-4)
    assert states.grad is not None and exact.grad is not None
    close(states.grad.double(), exact.grad, 2e-4)


def test_states_that_lie_apart_in_memory() -> None:
    states, weight = torch.randn(4, 6, 600)[..., :300].transpose(0, 1), torch.randn(400, 300)
    close(frozen_product(states, weight), states @ weight.t(), 2e-4)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_step_is_the_same_up_to_rounding(family: str, products: list[tuple[int, ...]]) -> None:
    model = prefixed(family)
    stock = trained_step(model, family, fast=False)
    assert not products
    ours = trained_step(model, family, fast=True)
    forward = LAYERS[family] + 1  # and the output layer
    backward = len(products) - forward
    assert forward // 2 < backward <= forward  # not those of states that no prefix has touched
    close(ours[0], stock[0], 1e-5)
    for one, other in zip(ours[1], stock[1], strict=True):
        close(one, other, 1e-5)
    assert not any("forward" in vars(module) for module in model.modules())


def fine_tuned(model: Any) -> None:
    model.model.requires_grad_(True)


def checkpointed(model: Any) -> None:
    model.activation_checkpointing_enable()


def compiled(model: Any) -> None:
    stack = model.model.base_model
    stack.forward = stack.forward  # where --compile puts its own


def in_double(model: Any) -> None:
    model.double()


def biases_trained(model: Any) -> None:
    for name, parameter in model.model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))


@pytest.mark.parametrize("change", [fine_tuned, checkpointed, compiled, in_double, biases_trained])
def test_where_layers_keep_torchs_own(change: Any, products: list[tuple[int, ...]]) -> None:
    model = prefixed("bart")
    change(model)
    with frozen_products(model.model):
        assert not any("forward" in vars(m) for m in model.modules() if isinstance(m, torch.nn.Linear))
    trained_step(model, "bart", fast=True)
    assert len(products) <= 2  # of the output layer, which is not computed again and not compiled


@pytest.mark.parametrize(
    "weight, expected",
    [
        (torch.zeros(300, 300), True),
        (torch.zeros(300, 300, dtype=torch.bfloat16), False),
        (torch.zeros(300, 300, device="meta"), False),
        (torch.zeros(300, 300, requires_grad=True), False),
    ],
)
def test_which_weights(weight: Tensor, expected: bool) -> None:
    assert multiplies_faster(weight) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert not multiplies_faster(weight)


def test_small_matrices_stay_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SMALL", 256 * 256)
    assert multiplies_faster(torch.zeros(256, 256)) and not multiplies_faster(torch.zeros(255, 256))


def test_on_which_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.undo()
    described = tmp_path / "cpuinfo"
    monkeypatch.setattr(room, "Path", lambda name: described)

    def answer(vendor: str, capability: str) -> bool:
        described.write_text(f"vendor_id\t: {vendor}\n")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        return room.onednn_pays.__wrapped__()

    assert answer("AuthenticAMD", "AVX512") == torch.backends.mkldnn.is_available()
    assert not answer("GenuineIntel", "AVX512")
    assert not answer("AuthenticAMD", "AVX2")
    described.unlink()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not room.onednn_pays.__wrapped__()
