"""What makes a training step faster changes nothing in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import base, batch, check_same_step, close, exactness, prefixed, prompts, step
from torch import Tensor
from transformers.activations import NewGELUActivation

from seq2seq import losses, output_layer, prefix_attention
from seq2seq.fast_layers import FusedGELU
from seq2seq.losses import next_token_loss, next_tokens, target_loss, target_positions
from seq2seq.output_layer import Predictions, output_at
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.product_attention import attend_by_products, products_pay
from seq2seq.stacks import layers_of
from seq2seq.unpadded import unpadded

FAMILIES = ["bart", "gpt2", "llama", "t5gemma"]


def labelled(family: str) -> dict[str, Tensor]:
    """A batch in which a decoder's labels leave out the sources."""
    inputs = batch(family)
    if family in ("gpt2", "llama"):
        inputs["labels"][:, :2] = -100
    return inputs


def step_on_targets(
    prefix: PrefixTuning, inputs: dict[str, Tensor], places: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients as the Lightning modules compute them, of the real tokens at places alone where given."""
    prefix.zero_grad()
    torch.manual_seed(5)
    inputs = dict(inputs)
    labels, is_decoder = inputs.pop("labels"), not prefix.config.is_encoder_decoder
    if not is_decoder:
        inputs["decoder_input_ids"] = labels.roll(1, 1).clamp(min=2)
    targets = next_tokens(labels) if is_decoder else labels
    positions = target_positions(targets)
    with unpadded(prefix.model, inputs["input_ids"], places) as place, output_at(prefix.model, place(positions)) as out:
        logits = prefix(**inputs).logits
    loss = out.predictions(logits, targets.flatten()[positions]).loss()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in prefix.prefix.named_parameters()}


def step_on_everything(prefix: PrefixTuning, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    prefix.zero_grad()
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    if prefix.config.is_encoder_decoder:
        logits = prefix(**inputs, decoder_input_ids=labels.roll(1, 1).clamp(min=2)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    else:
        loss = next_token_loss(prefix(**inputs).logits, labels)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in prefix.prefix.named_parameters()}


# -- logits of targets alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_on_targets_is_the_loss_on_all_logits(family: str) -> None:
    prefix, inputs = prefixed(family, "eager"), labelled(family)
    check_same_step(step_on_targets(prefix, inputs), step_on_everything(prefix, inputs), exactness(family, "eager"))


def test_what_a_base_adds_to_its_logits_is_in_the_loss() -> None:
    prefix, inputs = prefixed("bart"), labelled("bart")
    stock = step_on_everything(prefix, inputs)
    prefix.model.final_logits_bias.copy_(torch.linspace(-2, 2, prefix.config.vocab_size))
    biased = step_on_everything(prefix, inputs)
    assert abs(biased[0] - stock[0]) > 0.1
    check_same_step(step_on_targets(prefix, inputs), biased)


@pytest.mark.parametrize(("family", "targets"), [("bart", 13), ("gpt2", 9)])
def test_the_output_layer_sees_targets_alone(family: str, targets: int) -> None:
    prefix, seen = prefixed(family), []
    layer = prefix.model.get_output_embeddings()
    layer.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape[:2])))
    step_on_targets(prefix, labelled(family))
    prefix(**labelled(family))
    assert seen == [(1, targets), tuple(labelled(family)["labels"].shape)]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("infix", [False, True])
def test_the_last_mlp_sees_targets_alone(family: str, infix: bool) -> None:
    prefix, inputs, seen = prefixed(family, infix=infix), labelled(family), []
    if infix:
        sources = prompts(family)
        inputs |= {"source_ids": sources["input_ids"], "source_attention_mask": sources["attention_mask"]}
    layers = layers_of(prefix.model.base_model)
    norm = "ln_2" if family == "gpt2" else "post_attention_layernorm"
    inner = "c_fc" if family == "gpt2" else "up_proj"
    for module in (getattr(layers[0], norm), getattr(layers[-1].mlp, inner)):
        module.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[:2])))
    step_on_targets(prefix, inputs)
    targets, whole = int((next_tokens(inputs["labels"]) != -100).sum()), tuple(inputs["labels"].shape)
    of_others = [whole, whole, (3, 4), (3, 4)] if infix else []  # the source's forward and the infix's
    assert seen == [*of_others, whole, (1, targets)]
    assert not layers[-1].mlp._forward_hooks and not prefix.model._forward_pre_hooks


@pytest.mark.parametrize("why", ["dropout", "gradient checkpointing", "hooks of others", "compiled"])
def test_when_the_last_mlp_sees_everything(why: str) -> None:
    prefix, inputs, seen = prefixed("gpt2"), labelled("gpt2"), []
    mlp = layers_of(prefix.model.base_model)[-1].mlp
    if why == "dropout":
        prefix.model.train()
    elif why == "gradient checkpointing":
        prefix.train().model.gradient_checkpointing_enable({"use_reentrant": False})
    elif why == "compiled":
        stack = prefix.model.base_model
        stack.forward = stack.forward  # where --compile puts its own
    else:
        mlp.register_forward_hook(lambda module, args, output: None)
    mlp.c_fc.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[:2])))
    step_on_targets(prefix, inputs)
    assert set(seen) == {tuple(inputs["labels"].shape)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("divisor", [None, 3])
def test_the_loss_in_blocks_is_torchs(smoothing: float, divisor: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "BLOCK", 4 * 50)  # 4 rows, so that the last block is not full
    logits = (8 * torch.randn(11, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).requires_grad_()
    targets = torch.arange(11)
    usual = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    expected = usual / (divisor or 11)
    close(target_loss(logits, targets, smoothing, divisor), expected, 1e-12)
    (wanted,) = torch.autograd.grad(2 * expected, logits)
    (found,) = torch.autograd.grad(2 * target_loss(logits, targets, smoothing, divisor), logits)
    close(found, wanted, 1e-12)


def test_logits_whose_exponentials_no_number_holds() -> None:
    logits = torch.tensor([[900.0, 0.0, 899.0], [-900.0, -901.0, -2000.0]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([2, 0])
    expected = torch.nn.functional.cross_entropy(logits, targets)
    found = target_loss(logits, targets)
    close(found, expected)
    (wanted,), (got,) = (torch.autograd.grad(loss, logits) for loss in (expected, found))
    close(got, wanted)


def test_a_vocabulary_larger_than_a_block_goes_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "BLOCK", 49)
    monkeypatch.setitem(output_layer.BLOCK, "cpu", 49)
    torch.manual_seed(1)
    layer = torch.nn.Linear(6, 50, bias=False, dtype=torch.float64).requires_grad_(False)
    states, tokens = torch.randn(40, 6, dtype=torch.float64), torch.arange(40)
    expected = torch.nn.functional.cross_entropy(layer(states), tokens)
    close(target_loss(layer(states), tokens), expected, 1e-12)
    close(Predictions(tokens, states=states, layer=layer).loss(), expected, 1e-12)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.randn(300, 70, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    targets = torch.arange(300) % 70
    expected = torch.nn.functional.cross_entropy(logits.float(), targets)
    found = target_loss(logits, targets)
    assert found.dtype == torch.float32
    close(found, expected, 1e-6)
    (wanted,), (got,) = (torch.autograd.grad(loss, logits) for loss in (expected, found))
    assert got.dtype == torch.bfloat16
    close(got, wanted, 1e-6)


# -- the loss of a frozen output layer ------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("divisor", [None, 3])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_loss_from_states_is_the_loss_of_logits(
    smoothing: float, divisor: int | None, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_layer, "ROWS", 1)
    monkeypatch.setitem(output_layer.BLOCK, "cpu", 4 * 50)  # 4 rows, so that the last block is not full
    torch.manual_seed(1)
    layer = torch.nn.Linear(6, 50, bias=False, dtype=torch.float64).requires_grad_(False)
    states = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(50, dtype=torch.float64) if with_bias else None
    tokens = torch.arange(11)
    of_logits = Predictions(tokens, states=states, layer=layer, bias=bias)
    assert of_logits.logits.shape == (11, 50)
    wanted = of_logits.loss(smoothing, divisor)
    found = Predictions(tokens, states=states, layer=layer, bias=bias).loss(smoothing, divisor)
    close(found, wanted, 1e-12)
    one, other = (torch.autograd.grad(2 * loss, states)[0] for loss in (wanted, found))
    close(other, one, 1e-12)


def test_a_frozen_output_layer_in_bfloat16() -> None:
    torch.manual_seed(1)
    layer = torch.nn.Linear(16, 70, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    states = torch.randn(300, 16, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.arange(300) % 70
    found = Predictions(tokens, states=states, layer=layer).loss()
    assert found.dtype == torch.float32
    exact = torch.nn.functional.cross_entropy(states.float() @ layer.weight.float().t(), tokens)
    close(found, exact, 1e-3)
    (got,), (wanted,) = (torch.autograd.grad(loss, states) for loss in (found, exact))
    assert got.dtype == torch.bfloat16
    close(got, wanted, 1e-4)


@pytest.mark.parametrize(
    ("family", "frozen", "keeps"), [("gpt2", True, False), ("gpt2", False, True), ("t5gemma", True, True)]
)
def test_which_output_layers_compute_logits(family: str, frozen: bool, keeps: bool) -> None:
    """Those that are trained, and those of families whose logits may be more than the layer's."""
    model = base(family, "eager").requires_grad_(not frozen)
    inputs = {name: x for name, x in batch(family).items() if name != "labels"}
    if family == "t5gemma":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    positions = torch.tensor([0, 2])
    with output_at(model, positions) as output:
        logits = model(**inputs, use_cache=False).logits
    assert (logits.shape[1] == 2) == keeps
    close(output.predictions(logits, positions).logits, model(**inputs).logits.flatten(0, 1)[positions])
    assert "forward" not in vars(model.get_output_embeddings())


def test_the_output_layer_is_itself_again_after_an_error() -> None:
    model = base("gpt2").requires_grad_(False)
    with pytest.raises(ZeroDivisionError), output_at(model, torch.tensor([0])):
        raise ZeroDivisionError
    assert model(**batch("gpt2")).logits.shape[1] == 7


def test_after_an_error_within_a_forward_no_hook_is_left() -> None:
    model, inputs = base("gpt2").requires_grad_(False), batch("gpt2")
    expected = model(**inputs).logits
    mlp = layers_of(model.base_model)[-1].mlp

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    failing = mlp.act.register_forward_hook(fails)
    with pytest.raises(ZeroDivisionError), output_at(model, torch.tensor([0])):
        model(**inputs)
    failing.remove()
    hooks = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooks and torch.equal(model(**inputs).logits, expected)


def test_targets_are_counted_row_by_row() -> None:
    labels = torch.tensor([[-100, 5, 6, -100], [7, -100, -100, 8]])
    assert target_positions(labels).tolist() == [1, 2, 4, 7]
    assert next_tokens(labels).tolist() == [[5, 6, -100, -100], [-100, -100, 8, -100]]


# -- attention by products ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["none", "boolean", "added"])
def test_products_are_the_stock_attention_forward_and_backward(kind: str, groups: int) -> None:
    torch.manual_seed(3)
    query = torch.randn(2, 3 * groups, 5, 4, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(2, 3, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    visible = torch.rand(2, 1, 5, 7) > 0.4
    visible[..., 0] = True
    added = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, torch.finfo(torch.float64).min)
    mask = {"none": None, "boolean": visible, "added": added}[kind]
    ours = attend_by_products(query, key, value, mask, 0.3)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=groups > 1
    ).transpose(1, 2)
    close(ours, theirs)
    weight = torch.randn_like(ours)
    pairs = (torch.autograd.grad((output * weight).sum(), (query, key, value)) for output in (ours, theirs))
    for one, other in zip(*pairs, strict=True):
        close(one, other)


def test_a_token_that_sees_nothing_stays_a_number() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril(-1)
    assert attend_by_products(query, key, value, mask, 1.0).isfinite().all()


def test_dropout_of_the_weights() -> None:
    torch.manual_seed(0)
    weights = attend_by_products(torch.zeros(1, 4, 50, 2), torch.zeros(1, 4, 40, 2), torch.eye(40).expand(1, 4, -1, -1),
                                 None, 1.0, dropout=0.25)  # fmt: skip
    assert set(weights.mul(40).mul(0.75).round(decimals=4).flatten().tolist()) == {0.0, 1.0}
    assert (weights == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_when_products_pay() -> None:
    query = torch.zeros(1, 2, 3, 4)
    assert products_pay(query.bfloat16(), 0.0) and products_pay(query, 0.1)
    assert not products_pay(query, 0.0) and not products_pay(query.to("meta"), 0.1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["bart", "gpt2", "llama"])
def test_a_step_with_products_is_the_step_with_the_stock_kernel(
    family: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = prefixed(family).train()
    prefix.model.eval()
    stock = step(prefix, **batch(family, side))
    calls = count_products(monkeypatch)
    check_same_step(step(prefix, **batch(family, side)), stock)
    assert calls


@pytest.mark.parametrize("family", ["bart", "gpt2", "llama"])
def test_a_site_without_prefix_stays_causal(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are told nothing but the mask."""
    model, inputs = base(family), {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    prefix = PrefixTuning(model, preseqlen=2, mid_dim=0, sites=("cross",) if family == "bart" else None).double()
    stock = prefix(**inputs).logits, model(**inputs).logits
    count_products(monkeypatch)
    close(prefix(**inputs).logits, stock[0])
    close(model(**inputs).logits, stock[1])


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Take products in every precision; a list that grows with every call."""
    calls: list[None] = []

    def spy(*args: Any) -> Tensor:
        calls.append(None)
        return attend_by_products(*args)

    monkeypatch.setattr(prefix_attention, "products_pay", lambda *args: True)
    monkeypatch.setattr(prefix_attention, "attend_by_products", spy)
    return calls


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_bfloat16_gradients_point_where_float32s_do(family: str) -> None:
    exact = step(prefixed(family, dtype=torch.float32), **batch(family))
    rounded = step(prefixed(family, dtype=torch.bfloat16), **batch(family))
    assert rounded[0].item() == pytest.approx(exact[0].item(), rel=0.02)
    one, other = (torch.cat([g.float().flatten() for g in gradients.values()]) for _, gradients in (exact, rounded))
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


# -- GPT-2's GELU ---------------------------------------------------------------------------------------------------


def test_the_fused_gelu_is_gpt2s_and_goes_with_the_prefix() -> None:
    states = torch.linspace(-9, 9, 999, dtype=torch.float64, requires_grad=True)
    ours, theirs = FusedGELU()(states), NewGELUActivation()(states)
    close(ours, theirs)
    close(*(torch.autograd.grad(x.sum(), states)[0] for x in (ours, theirs)))
    prefix = prefixed("gpt2")
    assert {type(block.mlp.act) for block in prefix.model.transformer.h} == {FusedGELU}
    assert {type(block.mlp.act) for block in prefix.detach().transformer.h} == {NewGELUActivation}
