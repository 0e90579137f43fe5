"""A frozen MLP by blocks of rows is the stock MLP, with and without dropout, and is never wide as a whole."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config
from transformers.models.bart.modeling_bart import BartEncoderLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from seq2seq import mlp_by_rows as room
from seq2seq.mlp_by_rows import mlp_by_rows
from seq2seq.prefixTuning import PrefixTuning

ROWS, WIDTH = 14, 48  # of the states, and in between


class Largest(TorchDispatchMode):
    """The most floating-point numbers with a last dimension of WIDTH that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        states = isinstance(output, Tensor) and output.is_floating_point() and len(output.shape) and len(output) != 32
        if states and output.shape[-1] == WIDTH:
            self.wide = max(self.wide, output.numel())
        return output


def mlp(family: str, activation_dropout: float = 0.0) -> Any:
    """A layer whose MLP is WIDTH wide, frozen, in training mode."""
    torch.manual_seed(1)
    if family == "gpt2":
        layer: nn.Module = GPT2MLP(WIDTH, GPT2Config(n_embd=32, n_head=4, resid_pdrop=0.1))
    else:
        config = tiny.bart(activation_dropout=activation_dropout, encoder_ffn_dim=WIDTH)
        config._attn_implementation = "eager"
        layer = BartEncoderLayer(config)
    return layer.double().train().requires_grad_(False)


def outputs(layer: Any, split: bool, largest: Largest | None = None) -> tuple[Tensor, Tensor]:
    """What a layer makes of fixed states (2, 7, 32), and the gradient of these."""
    torch.manual_seed(2)
    states = torch.randn(2, 7, 32, dtype=torch.float64, requires_grad=True)
    more = {"attention_mask": None} if isinstance(layer, BartEncoderLayer) else {}

    def run() -> Tensor:
        output = layer(states, **more)
        (output.sin().sum()).backward()
        return output

    if split:
        with mlp_by_rows(layer), largest or Largest():
            output = run()
    else:
        output = run()
    assert states.grad is not None
    return output.detach(), states.grad


@pytest.mark.parametrize("rows", [1, 4, ROWS, 100])
@pytest.mark.parametrize("family, dropout", [("gpt2", 0.0), ("bart", 0.0), ("bart", 0.3)])
def test_outputs_and_gradients_are_the_stock_ones(
    family: str, dropout: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BLOCK", rows * WIDTH)
    layer, largest = mlp(family, dropout), Largest()
    for ours, stock in zip(outputs(layer, True, largest), outputs(layer, False), strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-12, rtol=0)
    assert largest.wide == min(rows, ROWS) * WIDTH
    assert getattr(layer, "activation_dropout", 0.0) == dropout


def test_a_layer_in_eval_mode_drops_nothing_out() -> None:
    layer = mlp("bart", 0.5).eval()
    for ours, stock in zip(outputs(layer, True), outputs(layer, False), strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "change", ["trained", "hooked before", "hooked between", "hooked behind", "replaced", "autocast", "other"]
)
def test_others_stay_as_they_are(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK", 2 * WIDTH)
    layer, largest, seen = mlp("bart", 0.3), Largest(), []
    if change == "trained":
        layer.fc1.bias.requires_grad_(True)
    elif change == "hooked before":
        layer.fc2.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-1]))
    elif change == "hooked between":
        layer.activation_fn.register_forward_hook(lambda module, args, output: seen.append(output.shape[-1]))
    elif change == "hooked behind":
        layer.fc2.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[-1]))
    elif change == "replaced":
        layer.fc1.forward = lambda states: seen.append(WIDTH) or nn.functional.linear(states, layer.fc1.weight)
    elif change == "other":
        layer.activation_fn = nn.Tanh()
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        outputs(layer, True, largest)
    assert largest.wide == ROWS * WIDTH and layer.activation_dropout == 0.3
    assert seen == ([] if change in ("trained", "autocast", "other") else [WIDTH])


@pytest.mark.parametrize("part", ["fc1", "activation_fn", "fc2"])
@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_hook_on_a_gradient_sees_the_wide_one(part: str, kind: str) -> None:
    layer, seen = mlp("bart"), []
    getattr(getattr(layer, part), kind)(lambda module, *gradients: seen.append([g[0].shape[-1] for g in gradients]))
    outputs(layer, True)
    outputs(layer, False)
    assert len(seen) == 2 and seen[0] == seen[1]


def test_threads_that_share_a_layer_drop_out_by_themselves() -> None:
    layer, expected = mlp("bart", 0.3), outputs(mlp("bart", 0.3), False)
    first, second = contextvars.copy_context(), mlp_by_rows(layer)
    first.run(second.__enter__)  # another thread is within it meanwhile
    for ours, stock in zip(outputs(layer, True), expected, strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-12, rtol=0)
    first.run(second.__exit__, None, None, None)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_gradients_of_gradients_are_the_stock_ones(family: str) -> None:
    found = []
    for checkpointed in (False, True):
        prefix = PrefixTuning(tiny.base(family, "eager"), 3, mid_dim=0)  # eager attention alone has second ones
        with torch.no_grad():
            next(iter(prefix.prefix.parameters())).normal_(generator=torch.Generator().manual_seed(1))
        if checkpointed:
            prefix.activation_checkpointing_enable()
        trained = [p for p in prefix.train().parameters() if p.requires_grad]
        torch.manual_seed(3)
        gradients = torch.autograd.grad(prefix(**tiny.batch(family)).loss, trained, create_graph=True)
        torch.stack([(g**2).sum() for g in gradients]).sum().backward()
        found.append([p.grad for p in trained])
    for stock, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_checkpointed_layers_are_never_wide(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width = {"encoder_ffn_dim": WIDTH, "decoder_ffn_dim": WIDTH} if family == "bart" else {"n_inner": WIDTH}
    monkeypatch.setattr(room, "BLOCK", 2 * WIDTH)
    for checkpointed in (False, True):
        prefix = PrefixTuning(tiny.base(family, **width), 3, mid_dim=4).train()
        if checkpointed:
            prefix.activation_checkpointing_enable()
        with Largest() as largest:
            prefix(**tiny.batch(family)).loss.backward()
        assert (largest.wide == 2 * WIDTH) is checkpointed
