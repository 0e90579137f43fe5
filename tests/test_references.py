"""Prefix, infix, words, low-data fit and adapters equal GPT-2 written out in plain PyTorch (naive_gpt2.py), float64."""

from __future__ import annotations

import naive_gpt2 as naive
import pytest
import tiny
import torch
from tiny import close
from torch import Tensor, nn

from seq2seq.adapters import AdapterTuning
from seq2seq.prefix_parameters import SitePrefix, fit
from seq2seq.prefixTuning import PrefixTuning

P, HEADS = 4, 4


def linears(mlp: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(layer.weight, layer.bias) for layer in mlp if isinstance(layer, nn.Linear)]


def check_logits_and_gradients(ours: Tensor, theirs: Tensor, ids: Tensor, parameters: dict[str, Tensor]) -> None:
    """The same logits (T, V), and the same gradients of the next-token loss."""
    close(ours, theirs)
    losses = [nn.functional.cross_entropy(x[:-1], ids[1:]) for x in (ours, theirs)]
    gradients = [torch.autograd.grad(loss, list(parameters.values())) for loss in losses]
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        close(one, other)


@pytest.mark.parametrize("options", [{}, {"deep": True}, {"mid_dim": 0}], ids=["mlp", "deep", "flat"])
def test_a_prefix(options: dict[str, bool]) -> None:
    prefix = tiny.prefixed("gpt2", **options)
    own, ids = prefix.prefix["decoder"], tiny.rows("gpt2")[0]["input_ids"]
    pairs = list(own.key_values) if own.flat else naive.mlp_key_values(own.embedding, linears(own.mlp), HEADS)
    logits, _ = naive.run(prefix.model, naive.words(prefix.model, ids[0]), first=P, before=pairs)
    check_logits_and_gradients(prefix(input_ids=ids).logits[0], logits, ids[0], dict(own.named_parameters()))


@pytest.mark.parametrize("options", [{}, {"deep": True}, {"mid_dim": 0}], ids=["mlp", "deep", "flat"])
def test_an_infix(options: dict[str, bool]) -> None:
    prefix = tiny.prefixed("gpt2", infix=True, **options)
    own, vectors, model = prefix.prefix["decoder"], prefix.prefix["infix"].embedding, prefix.model
    source, target = torch.tensor([[9, 21, 5]]), torch.tensor([[2, 30, 31, 8]])
    pairs = list(own.key_values) if own.flat else naive.mlp_key_values(own.embedding, linears(own.mlp), HEADS)
    # one pass over [source; input vectors]; the learned ones are added to what it makes of the input vectors
    _, computed = naive.run(model, torch.cat((naive.words(model, source[0]), vectors)))
    before = []
    for made, learned in zip(computed, pairs, strict=True):
        before.append(tuple(torch.cat((x[:, :3], x[:, 3:] + y), dim=1) for x, y in zip(made, learned, strict=True)))
    logits, _ = naive.run(model, naive.words(model, target[0]), first=3 + P, before=before)
    ours = prefix(input_ids=target, source_ids=source).logits[0]
    check_logits_and_gradients(ours, logits, target[0], dict(prefix.prefix.named_parameters()))
    for (key, value), expected in zip(prefix.past_key_values(source)["decoder"], before, strict=True):
        close(key[0], expected[0])
        close(value[0], expected[1])


def test_a_flat_prefix_from_words() -> None:
    prefix = PrefixTuning(tiny.base("gpt2"), mid_dim=0).double().eval()
    prefix.init_from_text("", lambda text, add_special_tokens: {"input_ids": [7, 40, 12]})
    _, computed = naive.run(prefix.model, naive.words(prefix.model, [7, 40, 12]))
    for pair, expected in zip(prefix.past_key_values()["decoder"], computed, strict=True):
        close(pair[0].detach(), expected[0])
        close(pair[1].detach(), expected[1])


def test_the_low_data_fit_is_500_adam_steps_on_the_mlp_alone() -> None:
    site = tiny.prefixed("gpt2").sites["decoder"]
    torch.manual_seed(5)
    own = SitePrefix(site, P, 8, deep=False).double()
    target = torch.randn(own.shape, dtype=torch.float64)
    embedding = own.embedding.detach().clone()
    weights = [x.detach().clone().requires_grad_() for pair in linears(own.mlp) for x in pair]
    first, second = [torch.zeros_like(x) for x in weights], [torch.zeros_like(x) for x in weights]
    for step in range(1, 501):
        pairs = naive.mlp_key_values(embedding, [(weights[0], weights[1]), (weights[2], weights[3])], HEADS)
        produced = torch.stack([torch.stack(pair) for pair in pairs])
        gradients = torch.autograd.grad((produced - target).pow(2).mean(), weights)
        with torch.no_grad():
            for x, gradient, m, v in zip(weights, gradients, first, second, strict=True):
                m += (gradient - m) * 0.1
                v += (gradient * gradient - v) * 0.001
                x -= 1e-4 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    left = fit({"decoder": own}, {"decoder": target})
    for ours, theirs in zip(own.mlp.parameters(), weights, strict=True):
        close(ours.detach(), theirs.detach())
    assert torch.equal(own.embedding, embedding)
    assert left == pytest.approx((own() - target).pow(2).mean().item())
    assert all(parameter.grad is None for parameter in own.parameters())


@pytest.mark.parametrize("design", [1, 2])
def test_adapters(design: int) -> None:
    torch.manual_seed(5)
    adapters = AdapterTuning(tiny.base("gpt2"), bottleneck=6, design=design).double().eval()
    for parameter in adapters.adapters.parameters():
        nn.init.normal_(parameter, std=0.5)
    ids = tiny.rows("gpt2")[0]["input_ids"]

    def behind(place: str, layer: int, x: Tensor) -> Tensor:
        if place not in adapters.adapters["decoder"][layer]:
            return x
        own = adapters.adapters["decoder"][layer][place]
        down = (naive.norm(x, own.ln) if design == 1 else x) @ own.project_down.weight.T + own.project_down.bias
        return x + down.clamp(min=0) @ own.project_up.weight.T + own.project_up.bias

    logits, _ = naive.run(
        adapters.model,
        naive.words(adapters.model, ids[0]),
        behind_attention=lambda layer, x: behind("attn", layer, x),
        behind_mlp=lambda layer, x: behind("mlp", layer, x),
        behind_block=lambda layer, x: behind("block", layer, x),
    )
    parameters = dict(adapters.adapters.named_parameters())
    assert len(parameters) == (2 * 6 if design == 1 else 2 * 2 * 4)
    check_logits_and_gradients(adapters(input_ids=ids).logits[0], logits, ids[0], parameters)
