"""A prefix on disk: our own files, the authors' checkpoints, PEFT's.

    prefix.safetensors + prefix_config.json      ours: the form the prefix is in, and which base it belongs to
    wte, control_trans, wte2, …                  the authors' names
    adapter_model.safetensors + adapter_config.json      PEFT's: keys and values of one decoder self-attention

Shapes: L layers, H key/value heads, P prefix length, D head width.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seq2seq.prefix_attention import Site, find_sites
from seq2seq.prefix_config import checked_options, read_json
from seq2seq.prefix_parameters import Parametrisation, SitePrefix, fit
from seq2seq.runs import write_atomically
from seq2seq.utils import UserError, changes

NAME = "prefix"  # of our files: prefix.safetensors, prefix_config.json
ORIGINAL = {
    "decoder": ("wte", "control_trans"),
    "cross": ("wte2", "control_trans2"),
    "encoder": ("wte_enc", "control_trans_enc"),
    "infix": ("wte2", ""),
}
PEFT_WEIGHTS, PEFT_CONFIG, PEFT_NAME = "adapter_model.safetensors", "adapter_config.json", "prompt_embeddings"


class PrefixFiles:
    """A prefix's files: how PrefixTuning and PrefixEmbTuning are written and read."""

    form: str
    """What is trained: "activation" (keys and values) or "embedding" (input vectors)."""
    model: PreTrainedModel
    prefix: nn.ModuleDict
    sites: dict[str, Site]
    deep: bool
    infix: bool
    shift_positions: bool
    key_values: Any
    _classes: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        PrefixFiles._classes.setdefault(cls.form, cls)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `prefix.safetensors` and `prefix_config.json`, in the form the prefix is in.

        Raises UserError for a folder that cannot be made.
        """
        names = ("preseqlen", "mid_dim", "dropout", "shift_positions", "base_dropout")
        config = {"form": self.form, "sites": list(self.sites), **{name: getattr(self, name) for name in names}}
        if self.form == "activation":
            config |= {"deep": self.deep, "infix": self.infix}
        write_files(directory, self.prefix.state_dict(), config, self.model)

    @classmethod
    def from_pretrained(cls, directory: str | Path, model: PreTrainedModel) -> Any:
        """Read a saved prefix onto `model`, which must be the base it was trained on (its fingerprint is checked).

        What was saved decides the class: keys and values give PrefixTuning, input vectors PrefixEmbTuning. It comes in
        eval mode, as transformers' models do.
        Raises UserError for a missing or damaged file and for another base.
        """
        options, path = read_config(directory, model), _paths(directory, NAME)[1]
        form = options.pop("form", "activation")
        if form not in list(cls._classes):
            raise UserError(f"{path}: form is {form!r:.60}, not {' or '.join(cls._classes)}; save the prefix again")
        kind = cls._classes[form]
        prefix = kind(model, **checked_options(path, options, kind))
        read_weights(directory, prefix.prefix)
        return prefix.eval()

    def load_original(self, checkpoint: Mapping[str, Tensor] | str | Path) -> None:
        """Load the authors' parameters from a state dict, a checkpoint file, or the folder that holds it.

        Their names are `wte` and `control_trans`; `wte2` is cross, or the infix in a decoder; `_enc` is the encoder.
        Sites that this prefix leaves out are not read.
        Raises UserError for a missing name, another shape, and a parameter that this prefix has no place for, naming
        them; then nothing is loaded.
        """
        left_out = find_sites(self.model).keys() - self.sites.keys()
        copy_original(read_original(checkpoint), dict(self.prefix.items()), left_out)  # type: ignore[arg-type]

    def to_peft(self, directory: str | Path) -> None:
        """Write the keys and values for PEFT: CAUSAL_LM, or SEQ_2_SEQ_LM for an encoder-decoder. PEFT keeps no MLP.

        Raises UserError, naming it, for what PEFT cannot hold: another site than the decoder's own attention, an
        infix, unshifted positions; and for a folder that cannot be made.
        """
        lost = [name for name in self.sites if name != "decoder"]
        if lost:
            raise UserError(
                f"to_peft: PEFT has no prefix in {' and '.join(lost)} attention, only in the decoder's own; "
                'train with sites=("decoder",)'
            )
        if self.infix:
            raise UserError("to_peft: PEFT has no infix; train a prefix")
        if not self.shift_positions:
            raise UserError("to_peft: with PEFT real token j has position P + j; train with shift_positions=True")
        write_peft(directory, self.key_values()["decoder"], self.model)

    @classmethod
    def from_peft(cls, directory: str | Path, model: PreTrainedModel) -> Any:
        """Read a folder that PEFT's prefix tuning wrote, as a flat PrefixTuning of the decoder's own attention.

        Raises UserError for a missing or damaged file, another method than prefix tuning, and another shape.
        """
        value = read_peft(directory, find_sites(model)["decoder"], model.config.is_encoder_decoder).to(model.device)
        options = {"mid_dim": 0, "sites": ("decoder",), "shift_positions": True}
        prefix = cls._classes["activation"](model, value.shape[3], **options)
        fit(prefix.trained(), {"decoder": value})
        return prefix.eval()


# -- our own files ----------------------------------------------------------------------------------------------------


def write_files(
    folder: str | Path, weights: Mapping[str, Tensor], config: dict[str, Any], model: PreTrainedModel, name: str = NAME
) -> None:
    """Write weights and configuration, with the fingerprint of the base; what was there before is replaced."""
    from safetensors.torch import save_file

    folder = _made(folder)
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    weights_path, config_path = _paths(folder, name)
    save_file(plain, f"{weights_path}.new")
    Path(f"{weights_path}.new").replace(weights_path)
    write_atomically(config_path, json.dumps({**config, "base": describe_base(model)}, indent=2) + "\n")


def read_config(folder: str | Path, model: PreTrainedModel, name: str = NAME) -> dict[str, Any]:
    """The configuration in a folder, checked against the base it is to be put on.

    Raises UserError for a missing or damaged file and for another base.
    """
    paths = _paths(folder, name)
    for path in paths:
        if not path.is_file():
            raise UserError(f"{folder}: no {path.name}; give a folder written by save_pretrained or a run directory")
    config = read_json(paths[1])
    was, now = config.pop("base", None), describe_base(model)
    if not isinstance(was, dict):
        raise UserError(f"{paths[1]}: damaged (base is {was!r:.60}); save it again")
    if was != now:
        kind = name.removesuffix("s")
        cure = "load that base"
        if model.dtype == torch.float16:  # it rounds otherwise than bfloat16, which the fingerprint is of
            cure = f"load the base in float32 or bfloat16, put the {kind} on it, then call .half()"
        raise UserError(f"{folder}: this {kind} was trained on another base ({changes(was, now)}); {cure}")
    return config


def read_weights(folder: str | Path, module: nn.Module, name: str = NAME) -> None:
    """Fill a module with the weights in a folder, in the precision they were saved in; UserError if damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights_path, config_path = _paths(folder, name)
    try:
        weights = load_file(weights_path)
        module.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    except (SafetensorError, RuntimeError, StopIteration, TypeError) as error:  # without tensors; of whole numbers
        raise UserError(f"{weights_path}: damaged, or not the one that {config_path.name} describes") from error


def _paths(folder: str | Path, name: str) -> tuple[Path, Path]:
    return Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}_config.json"


def _made(folder: str | Path) -> Path:
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made as a folder ({error.strerror}); give another") from error
    return folder


def describe_base(model: PreTrainedModel, frozen: bool = False) -> dict[str, Any]:
    """What identifies a base model: its type, its shape, and a fingerprint of its weights in float32 or bfloat16.

    frozen: of those alone that are not trained.
    """
    config = model.config
    return {
        "model_type": config.model_type,
        **{key: getattr(config, key, None) for key in ("hidden_size", "num_hidden_layers", "vocab_size")},
        "fingerprint": fingerprint(model, frozen),
    }


def fingerprint(model: PreTrainedModel, frozen: bool = False) -> str:
    """16 hex digits of all weights and stored buffers, rounded to bfloat16: a bf16 copy is the same base.

    frozen: without the weights that are trained.
    """
    digest = hashlib.sha256()
    stored = model.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in stored]
    weights = [(name, p) for name, p in model.named_parameters() if not (frozen and p.requires_grad)]
    for name, tensor in sorted([*weights, *buffers]):
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)
        digest.update(name.encode())
        digest.update(rounded.numpy().data)
    return digest.hexdigest()[:16]


# -- the authors' checkpoints -----------------------------------------------------------------------------------------


def read_original(checkpoint: Mapping[str, Tensor] | str | Path) -> dict[str, Tensor]:
    """The authors' parameters by name, of a state dict, a checkpoint file, or the folder that holds it.

    What is no tensor, such as an epoch's number, is left out.
    Raises UserError for a file that is not there or no checkpoint.
    """
    if isinstance(checkpoint, Mapping):
        return _tensors(checkpoint, "the checkpoint")
    path = Path(checkpoint)
    if path.is_dir():
        known = ("pytorch_model.bin", "model.safetensors")
        path = next((path / name for name in known if (path / name).is_file()), path / known[0])
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors have no common error for "not a checkpoint"
        raise UserError(f"{path}: cannot be read as a checkpoint ({' '.join(str(error).split())[:120]})") from error
    return _tensors(loaded, str(path))


def _tensors(state: Any, where: str) -> dict[str, Tensor]:
    """Tensors by name, without what a wrapper puts in front of their names."""
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    items = state.items() if isinstance(state, Mapping) else ()
    found = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not found:
        raise UserError(f"{where}: holds no tensors by name; give a state dict, or the file or folder of one")
    return {re.sub(r"^((module|model)\.)+", "", name): value for name, value in found.items()}


def copy_original(
    names: Mapping[str, Tensor], modules: Mapping[str, Parametrisation], left_out: Collection[str] = ()
) -> None:
    """Copy the authors' parameters into the modules of a prefix: MLP and embedding, table alone, or flat.

    left_out: sites whose parameters may be there though no module takes them.
    Raises UserError for a missing name, another shape, and a parameter that no module takes; then nothing is copied.
    """
    found, taken = [], {head for place in left_out for head in ORIGINAL[place]}
    for place, module in modules.items():
        embedding, mlp = ORIGINAL[place]
        # the MLP first: what a flat checkpoint lacks is best named by it
        for name, parameter in sorted(module.named_parameters(), key=lambda item: item[0] == "embedding"):
            if isinstance(module, SitePrefix) and module.flat:
                theirs_is = mlp
                value = _original_flat(names, mlp, module.shape)
            else:
                theirs_is = f"{embedding}.weight" if name == "embedding" else mlp + name.removeprefix("mlp")
                value = _named(names, theirs_is)
            taken.add(theirs_is)
            theirs, ours = tuple(value.shape), tuple(parameter.shape)
            if theirs != ours:
                raise UserError(f"{place} {name}: the checkpoint has {theirs}, this prefix {ours}")
            found.append((parameter, value))
    heads = {head for place in ORIGINAL.values() for head in place if head}
    over = [name for name in names if name.split(".")[0] in heads and not {name, name.split(".")[0]} & taken]
    if over:
        raise UserError(
            f"the checkpoint has {', '.join(sorted(over))} besides, which this prefix has no place for; make it in the "
            "checkpoint's form (mid_dim, deep, infix, PrefixEmbTuning)"
        )
    with torch.no_grad():
        for parameter, value in found:
            parameter.copy_(value)


def _original_flat(names: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    layers, two, heads, length, head_dim = shape
    flat = _named(names, name)
    row, words = (torch.Size(shape).numel(),), (layers * two, 1, heads, length, head_dim)
    if flat.shape == row:  # random: P × 2L × H × D
        return flat.view(length, layers, two, heads, head_dim).permute(1, 2, 3, 0, 4)
    if flat.shape == words:
        return flat.reshape(shape)
    raise UserError(f"{name}: the checkpoint has {tuple(flat.shape)}, this prefix {row} or {words}")


def _named(names: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in names:
        raise UserError(f"the checkpoint has no {name}; it has {', '.join(sorted(names)[:12])}")
    return names[name]


# -- PEFT's files -----------------------------------------------------------------------------------------------------


def write_peft(folder: str | Path, key_values: Tensor, model: PreTrainedModel) -> None:
    """Write keys and values (L, 2, H, P, D) of the decoder's self-attention as PEFT's prefix tuning."""
    from safetensors.torch import save_file

    try:
        from peft import PrefixTuningConfig
    except ImportError as error:
        raise UserError("to_peft: PEFT is not installed; pip install peft") from error
    layers, two, heads, length, head_dim = key_values.shape
    is_encoder_decoder = model.config.is_encoder_decoder
    slots = 2 * layers if is_encoder_decoder and layers % 2 == 0 else layers  # so that no two layers share one
    in_slots = key_values.new_zeros(slots, *key_values.shape[1:])
    in_slots[_peft_slots(layers, slots, is_encoder_decoder)] = key_values.detach()
    config = PrefixTuningConfig(
        task_type="SEQ_2_SEQ_LM" if is_encoder_decoder else "CAUSAL_LM",
        base_model_name_or_path=model.name_or_path or None,
        num_virtual_tokens=length,
        num_layers=slots,
        num_attention_heads=heads,
        token_dim=heads * head_dim,
        num_transformer_submodules=2 if is_encoder_decoder else 1,
        encoder_hidden_size=heads * head_dim,
        inference_mode=True,
    )
    config.save_pretrained(str(_made(folder)))
    rows = in_slots.permute(3, 0, 1, 2, 4).reshape(length, -1)  # P × (2·slots·H·D)
    save_file({PEFT_NAME: rows.cpu().contiguous()}, Path(folder) / PEFT_WEIGHTS)


def read_peft(folder: str | Path, site: Site, is_encoder_decoder: bool) -> Tensor:
    """Keys and values (L, 2, H, P, D) of a folder that PEFT's prefix tuning wrote.

    A projection's are there too: PEFT drops its MLP when it saves.
    Raises UserError for a missing or damaged file, another method than prefix tuning, and another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (PEFT_WEIGHTS, PEFT_CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}; give a folder written by PEFT's save_pretrained")
    config = read_json(folder / PEFT_CONFIG)
    if config.get("peft_type") != "PREFIX_TUNING":
        raise UserError(f"{folder}: holds {config.get('peft_type')}; only PEFT's PREFIX_TUNING has keys and values")
    try:
        rows = _named(load_file(folder / PEFT_WEIGHTS), PEFT_NAME)
    except SafetensorError as error:
        raise UserError(f"{folder / PEFT_WEIGHTS}: damaged ({error}); save it again") from error
    if rows.dim() != 2:
        raise UserError(f"{folder / PEFT_WEIGHTS}: {PEFT_NAME} is {tuple(rows.shape)}, not P × numbers; save it again")
    layers = len(site.modules)
    shape = (config.get("num_layers") or layers, 2, site.heads, site.head_dim)
    if shape[0] not in (layers, 2 * layers * is_encoder_decoder) or rows.shape[1] != torch.Size(shape).numel():
        raise UserError(
            f"{folder}: a vector has {rows.shape[1]} numbers, this base's {layers} × 2 × {site.heads} × "
            f"{site.head_dim} (layers, key and value, heads, head width); load the base it was trained on"
        )
    return rows.view(len(rows), *shape).permute(1, 2, 3, 0, 4)[_peft_slots(layers, shape[0], is_encoder_decoder)]


def _peft_slots(layers: int, slots: int, is_encoder_decoder: bool) -> list[int]:
    """Which of the stored keys and values PEFT gives each layer.

    PEFT 0.21 puts an encoder-decoder's twice behind each other, for self- and cross-attention, cuts them into fours
    and drops the cross-attention's: layer l gets slot 2·l modulo their number, so with as many slots as layers, an
    even number, every second is never used and two layers share one.
    """
    return [2 * layer % slots if is_encoder_decoder else layer for layer in range(layers)]
