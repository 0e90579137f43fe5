"""A prefix goes to PEFT and comes back with the same logits; what PEFT cannot hold is said."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import close
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from benchmarks.peft_search import peft_keeps_its_prefix
from seq2seq.prefixTuning import PrefixEmbTuning, PrefixTuning
from seq2seq.utils import UserError

peft = pytest.importorskip("peft")

FAMILIES = ["gpt2", "llama", "bart", "bart3"]
NEAR = 1e-5


def base(family: str) -> Any:
    """A float32 base; bart3 is a BART with an odd number of layers, which PEFT treats otherwise than an even one."""
    layers = {"encoder_layers": 2, "decoder_layers": 3} if family == "bart3" else {}
    return tiny.base(family.rstrip("3"), dtype=torch.float32, **layers)


def holdable(family: str, **options: Any) -> PrefixTuning:
    """A prefix of the only kind that PEFT has."""
    where = {"sites": ("decoder",), "shift_positions": True} if family.startswith("bart") else {}
    torch.manual_seed(11)
    kind = options.pop("kind", PrefixTuning)
    return kind(base(family), **{"preseqlen": 4, "mid_dim": 8, **where, **options}).eval()


def in_peft(family: str, folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(base(family), folder).eval()


def trained_by_peft(family: str, folder: Path, projection: bool = False) -> Any:
    """A random prefix of PEFT's own, saved into a folder."""
    task, layers = "CAUSAL_LM", None
    if family.startswith("bart"):
        task, layers = "SEQ_2_SEQ_LM", base(family).config.decoder_layers  # PEFT's default is the encoder's
    config = peft.PrefixTuningConfig(
        task_type=task,
        num_virtual_tokens=4,
        prefix_projection=projection,
        encoder_hidden_size=16,
        num_layers=layers,
    )
    torch.manual_seed(3)
    model = peft.get_peft_model(base(family), config).eval()
    model.save_pretrained(folder)
    return model


def compared(family: str) -> tuple[dict[str, Tensor], Tensor]:
    """A batch, and the places where it has labels."""
    inputs = tiny.batch(family.rstrip("3"))
    return inputs, inputs["labels"] != -100


def check_generation(family: str, ours: PrefixTuning, theirs: Any) -> None:
    if not peft_keeps_its_prefix():
        pytest.skip("the logits are the same; this PEFT loses its prefix where it generates on this transformers")
    for num_beams in (1, 3):
        source = tiny.rows_without_labels(family.rstrip("3"))[0]
        search = {"max_new_tokens": 8, "do_sample": False, "num_beams": num_beams}
        assert ours.generate(**source, **search).tolist() == theirs.generate(**source, **search).tolist()


@pytest.mark.parametrize("options", [{}, {"deep": True}, {"mid_dim": 0}], ids=["mlp", "deep", "flat"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_of_ours_gives_the_same_in_peft(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    prefix, (inputs, real) = holdable(family, **options), compared(family)
    prefix.to_peft(tmp_path)
    theirs = in_peft(family, tmp_path)
    close(prefix(**inputs).logits[real], theirs(**inputs).logits[real], NEAR)
    check_generation(family, prefix, theirs)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_of_pefts_gives_the_same_here(family: str, projection: bool, tmp_path: Path) -> None:
    theirs, (inputs, real) = trained_by_peft(family, tmp_path, projection), compared(family)
    prefix = PrefixTuning.from_peft(tmp_path, base(family)).eval()
    assert (set(prefix.sites), prefix.preseqlen, prefix.mid_dim) == ({"decoder"}, 4, 0)
    close(prefix(**inputs).logits[real], theirs(**inputs).logits[real], NEAR)
    check_generation(family, prefix, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_is_bit_for_bit(family: str, tmp_path: Path) -> None:
    trained_by_peft(family, tmp_path / "theirs")
    first = PrefixTuning.from_peft(tmp_path / "theirs", base(family))
    first.to_peft(tmp_path / "ours")
    second = PrefixTuning.from_peft(tmp_path / "ours", base(family))
    assert torch.equal(first.prefix["decoder"].key_values, second.prefix["decoder"].key_values)
    theirs, ours = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    if family != "bart":
        assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_peft_itself_gives_two_layers_of_an_even_number_the_same(tmp_path: Path) -> None:
    trained_by_peft("bart", tmp_path)
    lower, upper = PrefixTuning.from_peft(tmp_path, base("bart")).past_key_values()["decoder"]
    assert torch.equal(lower[0], upper[0])
    assert torch.equal(lower[1], upper[1])


def test_input_vectors_go_to_peft_as_the_keys_and_values_they_give(tmp_path: Path) -> None:
    prefix, (inputs, real) = holdable("gpt2", kind=PrefixEmbTuning), compared("gpt2")
    prefix.to_peft(tmp_path)
    close(prefix(**inputs).logits[real], in_peft("gpt2", tmp_path)(**inputs).logits[real], NEAR)


@pytest.mark.parametrize(
    ("family", "options", "named"),
    [
        ("bart", {}, "no prefix in encoder and cross attention"),
        ("bart", {"sites": ("cross", "decoder"), "shift_positions": True}, "no prefix in cross attention"),
        ("bart", {"sites": ("decoder",)}, "shift_positions=True"),
        ("gpt2", {"shift_positions": False}, "shift_positions=True"),
        ("gpt2", {"infix": True}, "no infix"),
    ],
)
def test_what_peft_cannot_hold_is_named(family: str, options: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"to_peft: .*{named}"):
        tiny.prefixed(family, **options).to_peft(tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_without_peft_it_is_told_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="to_peft: PEFT is not installed; pip install peft"):
        holdable("gpt2").to_peft(tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_configuration_says_what_pefts_own_does(family: str, tmp_path: Path) -> None:
    trained_by_peft(family, tmp_path / "theirs")
    prefix = holdable(family)
    prefix.model.name_or_path = "my/base"
    prefix.to_peft(tmp_path / "ours")
    theirs, ours = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("theirs", "ours"))
    assert ours.pop("base_model_name_or_path") == "my/base"
    free = {"encoder_hidden_size", "base_model_name_or_path"} | ({"num_layers"} if family == "bart" else set())
    assert {name for name in theirs if name not in free and theirs[name] != ours[name]} == set()


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_what_is_read_is_in_eval_mode_whatever_the_base_was_in(family: str, tmp_path: Path) -> None:
    trained_by_peft(family, tmp_path)
    back = PrefixTuning.from_peft(tmp_path, base(family).train())
    assert not any(module.training for module in back.modules())


def test_a_configuration_without_a_number_of_layers_has_the_bases(tmp_path: Path) -> None:
    trained_by_peft("gpt2", tmp_path)
    whole = PrefixTuning.from_peft(tmp_path, base("gpt2")).key_values()["decoder"]
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    for without in (config | {"num_layers": None}, {name: config[name] for name in config if name != "num_layers"}):
        path.write_text(json.dumps(without))
        assert torch.equal(PrefixTuning.from_peft(tmp_path, base("gpt2")).key_values()["decoder"], whole)


@pytest.mark.parametrize("changes", [{"n_layer": 4}, {"n_embd": 16}, {"n_embd": 48, "n_head": 6}])
def test_a_prefix_for_a_base_of_another_shape_is_an_error(changes: dict[str, int], tmp_path: Path) -> None:
    PrefixTuning(tiny.base("gpt2", **changes), 4, mid_dim=0).to_peft(tmp_path)
    with pytest.raises(UserError, match=r"numbers, this base's 2 × 2 × 4 × 8 .*; load the base it was trained on"):
        PrefixTuning.from_peft(tmp_path, base("gpt2"))


def test_a_folder_that_is_no_prefix_of_pefts_for_this_base_is_an_error(tmp_path: Path) -> None:
    model = base("gpt2")
    with pytest.raises(UserError, match="no adapter_model.safetensors"):
        PrefixTuning.from_peft(tmp_path, model)
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match="no adapter_config.json; give a folder written by PEFT's save_pretrained"):
        PrefixTuning.from_peft(tmp_path, model)
    trained_by_peft("gpt2", tmp_path)
    with pytest.raises(UserError, match=r"has 128 numbers, this base's 3 × 2 × 4 × 8"):
        PrefixTuning.from_peft(tmp_path, tiny.base("gpt2", n_layer=3))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "PROMPT_TUNING"}))
    with pytest.raises(UserError, match="holds PROMPT_TUNING"):
        PrefixTuning.from_peft(tmp_path, model)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"lora": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="no prompt_embeddings"):
        PrefixTuning.from_peft(tmp_path, model)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_config.json", "{", r"adapter_config\.json: damaged"),
        ("adapter_config.json", "[]", r"adapter_config\.json: damaged \(a JSON list, no object\)"),
        ("adapter_model.safetensors", "cut", r"adapter_model\.safetensors: damaged"),
        ("adapter_model.safetensors", torch.zeros(128), r"prompt_embeddings is \(128,\), not P × numbers; save"),
    ],
)
def test_a_damaged_file_of_pefts_is_named(name: str, content: Any, said: str, tmp_path: Path) -> None:
    trained_by_peft("gpt2", tmp_path)
    if isinstance(content, Tensor):
        save_file({"prompt_embeddings": content}, tmp_path / name)
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        PrefixTuning.from_peft(tmp_path, base("gpt2"))


@pytest.mark.parametrize("slots", ["2", 0.5, 2.0, 7])
def test_another_number_of_pefts_layers_is_an_error(slots: Any, tmp_path: Path) -> None:
    trained_by_peft("gpt2", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": slots}))
    with pytest.raises(UserError, match="load the base it was trained on"):
        PrefixTuning.from_peft(tmp_path, base("gpt2"))


def test_a_file_in_the_place_of_pefts_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "peft").write_text("mine")
    with pytest.raises(UserError, match=r"peft: cannot be made as a folder \(File exists\); give another"):
        holdable("gpt2").to_peft(tmp_path / "peft")
    assert (tmp_path / "peft").read_text() == "mine"


def test_a_base_with_a_window_is_warned_of(tmp_path: Path) -> None:
    """As long as a text is within it the two are equal; behind it PEFT's prefix is out of sight."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(**sizes, num_hidden_layers=2, vocab_size=60, initializer_range=0.3, sliding_window=12)
    torch.manual_seed(7)
    model = MistralForCausalLM(config).eval()
    ours = PrefixTuning(deepcopy(model), 4, 0).eval()
    with pytest.warns(UserWarning, match="to_peft: layers of this base see 12 tokens back"):
        ours.to_peft(tmp_path)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    ids = torch.arange(3, 23)[None]
    mine, other = (x(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for x in (ours, theirs))
    close(mine[:, :8], other[:, :8], NEAR)
    assert not torch.allclose(mine[:, 8:], other[:, 8:], atol=1e-2)
