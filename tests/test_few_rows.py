"""Products of a few rows as convolutions: the same numbers as oneDNN's product, weights packed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import start
from tiny import base, close, prompts
from torch import Tensor, nn

from seq2seq import decoding, few_rows, generation
from seq2seq.fast_layers import fast_layers
from seq2seq.few_rows import LARGE, MOST, FewRows, Then, fits
from seq2seq.generation import fast_search, generate

INPUTS, OUTPUTS = 512, LARGE // 512
EXACT = torch.backends.cpu.get_cpu_capability() == "AVX2"  # a processor that the form is for
ROWS = (1, 3, 8, 17, 24, 30, 48, 50, 80, MOST, MOST + 1, 300)
WIDE: dict[str, dict[str, Any]] = {
    "bart": {"d_model": 512, "encoder_ffn_dim": OUTPUTS, "decoder_ffn_dim": OUTPUTS, "init_std": 0.05},
    "gpt2": {"n_embd": 512, "n_inner": OUTPUTS, "initializer_range": 0.05},
}


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor as the form is for; what it computes is right on every one."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with the width of every packing of weights."""
    widths: list[int] = []
    pack = few_rows._packed

    def spy(weight: Tensor, width: int) -> Tensor:
        widths.append(width)
        return pack(weight, width)

    monkeypatch.setattr(few_rows, "_packed", spy)
    monkeypatch.setattr(few_rows, "_same", {})
    return widths


def product_of(layer: nn.Linear, states: Tensor, then: Then) -> Tensor:
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
    return torch.ops.mkldnn._linear_pointwise(states, packed, layer.bias, *then)


@pytest.mark.parametrize("then", [("none", [], ""), ("gelu", [], "none"), ("gelu", [], "tanh")])
@torch.no_grad()
def test_any_number_of_rows_is_multiplied_as_by_the_product(then: Then) -> None:
    """Bit for bit where the form is used; elsewhere up to rounding."""
    layer, states = nn.Linear(INPUTS, OUTPUTS), torch.randn(300, INPUTS)
    few = FewRows(layer.weight, layer.bias, then)
    expected = product_of(layer, states, then)
    gelu = {"none": nn.GELU(), "tanh": nn.GELU(approximate="tanh"), "": nn.Identity()}[then[2]]
    close(expected, gelu(layer(states)), 1e-5)
    for count in ROWS:
        got = few(states[:count, None])
        assert got.shape == (count, 1, OUTPUTS)
        close(got[:, 0], expected[:count], 0.0 if EXACT else 1e-5)


@torch.no_grad()
def test_states_that_are_a_part_and_weights_that_are_turned() -> None:
    weight, states = torch.randn(INPUTS, OUTPUTS) / INPUTS**0.5, torch.randn(6, 4, INPUTS)
    few = FewRows(weight.t(), None, ("none", [], ""))
    close(few(states[:, -1:]), states[:, -1:] @ weight, 1e-4)
    many = torch.randn(2, MOST, INPUTS)
    close(few(many), many @ weight, 1e-4)


@torch.no_grad()
def test_states_of_another_precision_as_they_come_within_autocast() -> None:
    layer, states = nn.Linear(INPUTS, OUTPUTS), torch.randn(MOST + 1, INPUTS, dtype=torch.bfloat16)
    few = FewRows(layer.weight, layer.bias, ("none", [], ""))
    for count in (5, MOST + 1):
        close(few(states[:count]), layer(states[:count].float()), 1e-5)


@torch.no_grad()
def test_weights_are_packed_once_whatever_rows_come(packings: list[int]) -> None:
    layer = nn.Linear(INPUTS, OUTPUTS)
    few = FewRows(layer.weight, layer.bias, ("none", [], ""))
    few(torch.randn(MOST + 1, INPUTS))
    assert not packings  # many rows: not needed
    for count in ROWS:
        few(torch.randn(count, INPUTS))
    assert packings.count(MOST) == 1
    asked = len(packings)
    for count in ROWS:
        few(torch.randn(count, INPUTS))
    again = FewRows(torch.randn(OUTPUTS, INPUTS), None, ("none", [], ""))  # of this shape everything is known
    for count in ROWS:
        again(torch.randn(count, INPUTS))
    assert packings[asked:] == [MOST]


@torch.no_grad()
def test_onednn_finds_the_weights_in_the_layout_it_wants(capfd: pytest.CaptureFixture[str]) -> None:
    """It reports what it does: were the layout another, it would reorder the weights in every call.

    Other processors than those that the form is for may want other layouts with a bias or a GELU.
    """
    layer = nn.Linear(INPUTS, OUTPUTS)
    for then in (("none", [], ""), ("gelu", [], "tanh")):
        few = FewRows(layer.weight, layer.bias, then)
        for count in range(1, MOST + 1, 5):
            few(torch.randn(count, INPUTS))
            capfd.readouterr()
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                few(torch.randn(count, INPUTS))
            said = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
            assert any(",convolution," in line for line in said)
            if EXACT:
                assert not [line for line in said if ",reorder," in line and f"{OUTPUTS}x{INPUTS}" in line]


def test_are_for_few_rows_of_large_and_shallow_float32_weights(avx2: None, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.empty(OUTPUTS, INPUTS)
    assert fits(weight, 24)
    assert fits(weight, MOST)
    for rows in (None, 1, MOST + 1):
        assert not fits(weight, rows)
    assert not fits(torch.empty(512, 512), 24)
    assert not fits(torch.empty(1024, 2048), 24)
    assert not fits(weight.bfloat16(), 24)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not fits(weight, 24)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_search_of_few_hypotheses_multiplies_so_and_finds_the_same(
    family: str, avx2: None, packings: list[int]
) -> None:
    model = base(family, dtype=torch.float32, **WIDE[family])
    options: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 6, "do_sample": False}
    with fast_layers(model):
        expected = model.generate(**prompts(family), **options)
    assert not packings
    assert torch.equal(generate(model, **prompts(family), **options), expected)
    assert packings
    del packings[:]
    with fast_search(model, MOST + 1):  # as in a decoding with larger batches
        assert torch.equal(generate(model, **prompts(family), **options), expected)
    assert not packings


def test_rows_are_sources_times_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = base("gpt2"), []
    monkeypatch.setattr(generation, "fast_layers", lambda model, rows: given.append(rows) or torch.no_grad())
    ids = prompts("gpt2")["input_ids"]
    generate(model, ids, num_beams=3, max_new_tokens=2, do_sample=False)
    generate(model, inputs=ids, num_beams=2, max_new_tokens=2, do_sample=False)
    model.generation_config.num_beams = 2
    generate(model, input_ids=ids, max_new_tokens=2, do_sample=False)
    assert given == [3 * len(ids), 2 * len(ids), None]


@pytest.mark.usefixtures("without_curves")
def test_a_decoding_says_how_many_rows_its_batches_have(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int | None] = []
    search = decoding.fast_search

    def spy(model: Any, rows: int | None = None) -> Any:
        given.append(rows)
        return search(model, rows)

    monkeypatch.setattr(decoding, "fast_search", spy)
    start(**{**small, "max_steps": 1, "n_val": 0, "eval_bsz": 3, "num_beams": 2}, output_dir=tmp_path / "run")
    assert set(given) == {6}
    del given[:]
    start(**{**small, "max_steps": 1, "n_val": 0, "eval_bsz": 64, "num_beams": 2}, output_dir=tmp_path / "larger")
    assert set(given) == {2 * 5}  # there are no more records
