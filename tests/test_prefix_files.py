"""A prefix on disk comes back as it was, onto the base it was trained on; the authors' checkpoints are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seq2seq.kept_files import fingerprint
from seq2seq.original_files import ORIGINAL
from seq2seq.prefixTuning import PrefixEmbTuning, PrefixTuning
from seq2seq.utils import UserError

FORMS = {"mlp": {}, "deep": {"deep": True}, "flat": {"mid_dim": 0}, "collapsed": {"deep": True}}
P = 4


def saved(folder: Path, family: str = "bart", form: str = "mlp") -> PrefixTuning:
    """A prefix that was saved into a folder."""
    prefix = tiny.prefixed(family, **FORMS[form])
    if form == "collapsed":
        prefix.collapse()
    prefix.save_pretrained(folder)
    return prefix


# -- save_pretrained, from_pretrained ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["bart", "gpt2", "llama"])
def test_a_prefix_comes_back_bit_for_bit(family: str, form: str, tmp_path: Path) -> None:
    prefix = saved(tmp_path, family, form)
    back = PrefixTuning.from_pretrained(tmp_path, tiny.base(family)).eval()
    assert back.prefix.state_dict().keys() == prefix.prefix.state_dict().keys()
    assert (back.mid_dim, back.deep, back.preseqlen) == (prefix.mid_dim, prefix.deep, P)
    assert torch.equal(back(**tiny.batch(family)).logits, prefix(**tiny.batch(family)).logits)


def test_every_option_comes_back(tmp_path: Path) -> None:
    options = {"sites": ("cross", "encoder"), "dropout": 0.25, "base_dropout": False, "mid_dim": 6, "deep": True}
    tiny.prefixed("bart", **options).save_pretrained(tmp_path / "bart")
    back = PrefixTuning.from_pretrained(tmp_path / "bart", tiny.base("bart"))
    assert [getattr(back, name) for name in ("dropout", "base_dropout", "mid_dim", "deep")] == [0.25, False, 6, True]
    assert set(back.sites) == {"cross", "encoder"}
    tiny.prefixed("gpt2", shift_positions=False).save_pretrained(tmp_path / "gpt2")
    assert not PrefixTuning.from_pretrained(tmp_path / "gpt2", tiny.base("gpt2")).shift_positions


def test_the_file_holds_the_prefix_alone_and_collapsed_only_keys_and_values(tmp_path: Path) -> None:
    prefix = saved(tmp_path, form="collapsed")
    weights = load_file(tmp_path / "prefix.safetensors")
    assert weights.keys() == {f"{site}.key_values" for site in ("encoder", "decoder", "cross")}
    assert sum(value.numel() for value in weights.values()) == prefix.num_prefix_parameters()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prefix.safetensors", "prefix_config.json"]


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    prefix = saved(tmp_path)
    logits = prefix(**tiny.batch("bart")).logits
    prefix.collapse().save_pretrained(tmp_path)
    back = PrefixTuning.from_pretrained(tmp_path, tiny.base("bart")).eval()
    assert back.mid_dim == 0
    assert torch.equal(back(**tiny.batch("bart")).logits, logits)


@pytest.mark.parametrize("failing", ["safetensors.torch.save_file", "pathlib.Path.write_bytes"])
def test_a_write_that_ends_half_way_leaves_the_old_files(failing: str, tmp_path: Path, monkeypatch: Any) -> None:
    prefix = saved(tmp_path)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def half(*args: Any, **_: Any) -> None:
        next(Path(arg) for arg in args if isinstance(arg, (str, Path))).write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(failing, half)
    with pytest.raises(OSError, match="no space left"):
        prefix.save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in old} == old


def test_folders_that_are_not_there_are_made(tmp_path: Path) -> None:
    saved(tmp_path / "runs" / "mine")
    assert PrefixTuning.from_pretrained(tmp_path / "runs" / "mine", tiny.base("bart")).preseqlen == P


def test_a_prefix_comes_back_in_the_precision_it_was_saved_in(tmp_path: Path) -> None:
    prefix = tiny.prefixed("gpt2", dtype=torch.float32).bfloat16()
    prefix.save_pretrained(tmp_path)
    back = PrefixTuning.from_pretrained(tmp_path, tiny.base("gpt2", dtype=torch.float32))
    assert {value.dtype for value in back.prefix.state_dict().values()} == {torch.bfloat16}


def test_a_buffer_that_no_file_holds_and_the_order_in_memory_make_no_other_base(tmp_path: Path) -> None:
    saved(tmp_path)
    model = tiny.base("bart")
    model.register_buffer("seen", torch.arange(3), persistent=False)
    weight = model.model.decoder.layers[0].fc1.weight
    weight.data = weight.data.t().contiguous().t()
    PrefixTuning.from_pretrained(tmp_path, model)


def test_a_bf16_copy_is_the_same_base(tmp_path: Path) -> None:
    prefix = tiny.prefixed("bart", dtype=torch.float32)
    prefix.save_pretrained(tmp_path)
    back = PrefixTuning.from_pretrained(tmp_path, tiny.base("bart", dtype=torch.bfloat16)).eval()
    assert {p.dtype for p in back.prefix.parameters()} == {torch.float32}
    rough, exact = (p(**tiny.batch("bart")).logits.float() for p in (back, prefix))
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_weights_that_do_not_lie_in_a_row_are_written(tmp_path: Path) -> None:
    prefix = tiny.prefixed("bart")
    weight = prefix.prefix["cross"].embedding
    weight.data = weight.data.t().contiguous().t()
    prefix.save_pretrained(tmp_path)
    assert torch.equal(load_file(tmp_path / "prefix.safetensors")["cross.embedding"], weight)


def test_the_fingerprint_of_weights_stays_what_it_is() -> None:
    """Kept prefixes are refused where it changes."""
    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": torch.tensor([[1.0, -2.0]]), "bias": torch.tensor([0.5])})
    numbers = hashlib.sha256(b"bias\x00\x3fweight\x80\x3f\x00\xc0")  # bfloat16: 0x3f00, 0x3f80 and 0xc000
    assert fingerprint(layer) == numbers.hexdigest()[:16]  # type: ignore[arg-type]


def other_weights(model: nn.Module) -> None:
    model.model.decoder.layers[0].fc1.weight.data.mul_(1.5)


def one_other_weight(model: nn.Module) -> None:
    model.model.decoder.layers[0].fc1.weight.data[17, 3] += 1


def another_buffer(model: nn.Module) -> None:
    model.final_logits_bias[0, 3] += 1


@pytest.mark.parametrize(
    ("changes", "edit", "named"),
    [
        ({"encoder_layers": 3}, None, "num_hidden_layers 2 there, 3 here"),
        ({"d_model": 16}, None, "hidden_size 32 there, 16 here"),
        ({"vocab_size": 61}, None, "vocab_size 60 there, 61 here"),
        ({}, other_weights, "fingerprint [0-9a-f]{16} there, [0-9a-f]{16} here"),
        ({}, one_other_weight, "fingerprint"),
        ({}, another_buffer, "fingerprint"),
    ],
)
def test_another_base_is_an_error_that_names_the_difference(
    changes: dict[str, int], edit: Callable[[nn.Module], None] | None, named: str, tmp_path: Path
) -> None:
    saved(tmp_path)
    other = tiny.base("bart", **changes)
    if edit is not None:
        edit(other)
    with pytest.raises(UserError, match=f"another base .*{named}"):
        PrefixTuning.from_pretrained(tmp_path, other)


def test_a_prefix_of_another_family_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    with pytest.raises(UserError, match="model_type gpt2 there, bart here"):
        PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))


@pytest.mark.parametrize("name", ["prefix.safetensors", "prefix_config.json"])
def test_a_missing_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"no {name}"):
        PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))
    with pytest.raises(UserError, match="nowhere: no prefix"):
        PrefixTuning.from_pretrained(tmp_path / "nowhere", tiny.base("bart"))


@pytest.mark.parametrize("name", ["prefix.safetensors", "prefix_config.json"])
def test_a_damaged_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name):
        PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))


def test_weights_and_configuration_that_do_not_belong_together_are_an_error(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "prefix_config.json").read_text())
    (tmp_path / "prefix_config.json").write_text(json.dumps({**config, "preseqlen": 5}))
    with pytest.raises(UserError, match="prefix.safetensors"):
        PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("[]", r"damaged \(a JSON list, no object\); save it again"),
        ("[" * 100_000, r"damaged \(.*recursion"),
        ({"base": 3}, r"damaged \(base is 3\)"),
        ({"form": "suffix"}, r"form is 'suffix', not activation or embedding"),
        ({"form": ["activation"]}, r"form is \['activation'\]"),
        ({"form": "embedding"}, r"PrefixEmbTuning has no option deep, only preseqlen, mid_dim, sites"),
        ({"lr": 1}, r"PrefixTuning has no option lr, only preseqlen"),
        ({"model": 1}, r"PrefixTuning has no option model"),
        ({"preseqlen": "4"}, r"preseqlen is '4', no int; save it again"),
        ({"preseqlen": None}, r"preseqlen is None, no int"),
        ({"mid_dim": True}, r"mid_dim is True, no int"),
        ({"deep": 1}, r"deep is 1, no bool"),
        ({"dropout": "no"}, r"dropout is 'no', no int or float"),
        ({"sites": "decoder"}, r"sites is 'decoder', no list"),
    ],
)
def test_a_configuration_that_is_none_is_an_error_that_names_it(change: Any, said: str, tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "prefix_config.json"
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"prefix_config\.json: {said}") as error:
        PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))
    assert "\n" not in str(error.value)


def test_a_configuration_without_a_form_or_with_null_for_all_sites_is_read(tmp_path: Path) -> None:
    prefix = saved(tmp_path)
    path = tmp_path / "prefix_config.json"
    options = json.loads(path.read_text()) | {"sites": None}
    del options["form"]
    path.write_text(json.dumps(options))
    back = PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))
    assert type(back) is PrefixTuning and set(back.sites) == set(prefix.sites)


def test_a_class_of_the_users_own_takes_the_place_of_none(tmp_path: Path) -> None:
    class Own(PrefixTuning):
        pass

    saved(tmp_path)
    assert type(Own.from_pretrained(tmp_path, tiny.base("bart"))) is PrefixTuning


def test_a_site_that_is_no_name_is_unknown(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "prefix_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sites": [["decoder"]]}))
    with pytest.raises(UserError, match=r"sites \[\['decoder'\]\]: BartFor.* has encoder, decoder, cross"):
        PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))


@pytest.mark.parametrize(
    "weights",
    [{}, {"decoder.embedding": torch.zeros(P, 32, dtype=torch.int64)}, {"decoder.embedding": torch.zeros(P, 32)}],
)
def test_weights_that_are_none_or_not_all_are_an_error_that_names_them(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    saved(tmp_path)
    save_file(weights, tmp_path / "prefix.safetensors")
    with pytest.raises(UserError, match=r"prefix\.safetensors: damaged"):
        PrefixTuning.from_pretrained(tmp_path, tiny.base("bart"))


@pytest.mark.parametrize("at", ["run", "run/prefix"])
def test_a_file_in_the_folders_place_is_an_error_and_stays(at: str, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match=rf"{at}: cannot be made as a folder \(.*\); give another"):
        tiny.prefixed("bart").save_pretrained(tmp_path / at)
    assert (tmp_path / "run").read_text() == "mine"


# -- load_original ----------------------------------------------------------------------------------------------------


def original(prefix: PrefixTuning, deep: bool = False) -> dict[str, Tensor]:
    """A checkpoint of the authors' form: an embedding and an MLP for each of the prefix's sites."""
    state = {}
    for name, site in prefix.sites.items():
        embedding, mlp = ORIGINAL[name]
        middle = [nn.Linear(8, 8), nn.Tanh()] if deep else []
        layers = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), *middle, nn.Linear(8, 2 * len(site.modules) * 32))
        state[f"{embedding}.weight"] = torch.randn(P, 32, dtype=torch.float64)
        state.update({f"{mlp}.{key}": value.detach().double() for key, value in layers.state_dict().items()})
    return state


def authors_keys_and_values(numbers: Tensor, layers: int, heads: int) -> list[tuple[Tensor, Tensor]]:
    """The authors' own reading of P × 2L·H·D numbers as each layer's (key, value), each (H, P, D)."""
    past = numbers.view(1, P, 2 * layers, heads, 32 // heads).permute([2, 0, 3, 1, 4]).split(2)
    return [(pair[0, 0], pair[1, 0]) for pair in past]


def check_equal(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> None:
    assert len(ours) == len(theirs)
    for our_pair, their_pair in zip(ours, theirs, strict=True):
        for our, their in zip(our_pair, their_pair, strict=True):
            torch.testing.assert_close(our, their, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("start", ["", "model.", "module.model.", "model.module."])
def test_the_authors_mlp_gives_the_authors_keys_and_values(start: str, deep: bool) -> None:
    prefix = tiny.prefixed("bart", deep=deep)
    state = original(prefix, deep)
    prefix.load_original({start + name: value for name, value in state.items()})
    for name, site in prefix.sites.items():
        embedding, mlp = ORIGINAL[name]
        hidden = state[f"{embedding}.weight"]
        steps = ("0", "2", "4") if deep else ("0", "2")
        for number in steps:
            hidden = hidden @ state[f"{mlp}.{number}.weight"].T + state[f"{mlp}.{number}.bias"]
            hidden = hidden if number == steps[-1] else hidden.tanh()
        expected = authors_keys_and_values(hidden, len(site.modules), site.heads)
        check_equal(prefix.past_key_values()[name], expected)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "epoch=3.ckpt"])
def test_the_authors_files_and_folders_are_read(name: str, tmp_path: Path) -> None:
    prefix = tiny.prefixed("bart")
    state = {f"model.{key}": value for key, value in original(prefix).items()}
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state, "epoch": 3} if name.endswith("ckpt") else state, tmp_path / name)
    for path in (tmp_path / name, tmp_path if not name.endswith("ckpt") else str(tmp_path / name)):
        prefix = tiny.prefixed("bart")
        prefix.load_original(path)
        assert torch.equal(prefix.prefix["cross"].embedding, state["model.wte2.weight"])


def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pytorch_model\.bin: cannot be read as a checkpoint"):
        tiny.prefixed("bart").load_original(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("no checkpoint")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: cannot be read as a checkpoint"):
        tiny.prefixed("bart").load_original(tmp_path)


class Written:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "run")


def test_the_code_in_a_checkpoint_is_not_run_and_the_refusal_is_one_line(tmp_path: Path) -> None:
    torch.save({"wte.weight": Written(tmp_path / "made")}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be read as a checkpoint") as error:
        tiny.prefixed("bart").load_original(tmp_path / "last.ckpt")
    assert not (tmp_path / "made").exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [[1, 2], 3, {"state_dict": 3}, {"state_dict": {"wte.weight": 3}}, {3: "x"}, {3: torch.zeros(1)}, {}],
)
def test_a_checkpoint_without_tensors_is_an_error(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt: holds no tensors by name; give a state dict"):
        tiny.prefixed("bart").load_original(tmp_path / "last.ckpt")
    if isinstance(content, dict):
        with pytest.raises(UserError, match="the checkpoint: holds no tensors by name"):
            tiny.prefixed("bart").load_original(content)


def test_a_value_that_is_no_tensor_is_not_taken_for_one() -> None:
    prefix = tiny.prefixed("bart")
    prefix.load_original({**original(prefix), "epoch": 3})
    with pytest.raises(UserError, match=r"the checkpoint has no wte\.weight"):
        prefix.load_original({**original(prefix), "wte.weight": [[0.0]]})


def test_the_authors_flat_prefix_in_one_row() -> None:
    prefix = tiny.prefixed("gpt2", mid_dim=0)
    numbers = torch.randn(P * 2 * 2 * 32, dtype=torch.float64)
    prefix.load_original({"control_trans": numbers})
    check_equal(prefix.past_key_values()["decoder"], authors_keys_and_values(numbers, layers=2, heads=4))


def test_the_authors_flat_prefix_from_words() -> None:
    prefix = tiny.prefixed("gpt2", mid_dim=0)
    computed = [torch.randn(2, 1, 4, P, 8, dtype=torch.float64) for _ in range(2)]  # (key, value) of each layer
    prefix.load_original({"control_trans": torch.cat(computed)})
    check_equal(prefix.past_key_values()["decoder"], [(pair[0, 0], pair[1, 0]) for pair in computed])


@pytest.mark.parametrize("missing", ["wte_enc.weight", "control_trans2.2.bias"])
def test_a_missing_name_is_an_error_and_nothing_is_loaded(missing: str) -> None:
    prefix = tiny.prefixed("bart")
    before = {name: value.clone() for name, value in prefix.prefix.state_dict().items()}
    state = original(prefix)
    del state[missing]
    with pytest.raises(UserError, match=f"no {missing}"):
        prefix.load_original(state)
    assert all(torch.equal(value, before[name]) for name, value in prefix.prefix.state_dict().items())


def test_another_shape_is_an_error_that_names_both_and_nothing_is_loaded() -> None:
    prefix = tiny.prefixed("bart")
    before = {name: value.clone() for name, value in prefix.prefix.state_dict().items()}
    state = original(prefix)
    for shape in ((7, 32), (32, 4)):
        state["wte2.weight"] = torch.zeros(shape)
        with pytest.raises(UserError, match=rf"cross embedding.*\({shape[0]}, {shape[1]}\).*\(4, 32\)"):
            prefix.load_original(state)
    assert all(torch.equal(value, before[name]) for name, value in prefix.prefix.state_dict().items())
    with pytest.raises(UserError, match=r"mlp\.2\.weight.*\(8, 8\).*\(128, 8\)"):
        prefix.load_original(original(prefix, deep=True))


@pytest.mark.parametrize(
    ("family", "kind", "options", "lost"),
    [
        ("gpt2", PrefixTuning, {}, "wte2.weight"),  # an infix's
        ("gpt2", PrefixEmbTuning, {"mid_dim": 0}, "control_trans.0.bias, control_trans.0.weight"),
        ("gpt2", PrefixTuning, {}, "control_trans.4.weight"),  # a deep one's
        ("bart", PrefixTuning, {}, "control_trans2.4.bias"),
    ],
)
def test_a_parameter_without_a_place_is_an_error_that_names_it_and_nothing_is_loaded(
    family: str, kind: Any, options: dict[str, Any], lost: str
) -> None:
    prefix = tiny.prefixed(family, kind=kind, **options)
    state = original(tiny.prefixed(family)) if kind is PrefixTuning else {"wte.weight": torch.zeros(P, 32)}
    state |= {name: torch.zeros(1) for name in lost.split(", ")} | {"input_tokens": torch.arange(P)}
    before = {name: value.clone() for name, value in prefix.prefix.state_dict().items()}
    with pytest.raises(UserError, match=f"has {lost} besides"):
        prefix.load_original(state)
    assert all(torch.equal(value, before[name]) for name, value in prefix.prefix.state_dict().items())


def test_the_sites_that_a_prefix_leaves_out_are_not_read() -> None:
    whole, part = tiny.prefixed("bart"), tiny.prefixed("bart", sites=["cross"])
    state = original(whole)
    part.load_original(state)
    assert torch.equal(part.prefix["cross"].embedding, state["wte2.weight"])


@pytest.mark.parametrize("shape", [(99,), (4, 1, 4, 5, 8), (4, 1, P, 8, 4), (2, 1, 4, P, 16)])
def test_a_flat_prefix_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="control_trans.*checkpoint"):
        tiny.prefixed("gpt2", mid_dim=0).load_original({"control_trans": torch.zeros(shape)})


def test_a_flat_checkpoint_for_an_mlp_prefix_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no control_trans\.0\.weight"):
        tiny.prefixed("gpt2").load_original({"control_trans": torch.zeros(P * 2 * 2 * 32)})
