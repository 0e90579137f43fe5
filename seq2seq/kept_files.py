"""What is kept beside a frozen base: weights, and a json file that says what they are of; read back and checked.

    <name>.safetensors + <name>_config.json

The name is `prefix` or `adapters`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seq2seq.utils import UserError, changes, write_atomically

KINDS: dict[str, tuple[type, ...]] = {
    "preseqlen": (int,), "mid_dim": (int,), "bottleneck": (int,), "design": (int,), "dropout": (int, float),
    "deep": (bool,), "infix": (bool,), "shift_positions": (bool,), "base_dropout": (bool,), "sites": (list,),
}  # fmt: skip
"""Option -> its types in json."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file; UserError for a file that holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); save it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged (a JSON {type(content).__name__}, no object); save it again")
    return content


def checked_options(path: Path, options: Mapping[str, Any], made: Any) -> dict[str, Any]:
    """The options of a file, if the class that is made of them takes each, as it is there.

    Raises UserError that names the file and the option.
    """
    takes = {name: parameter.default for name, parameter in inspect.signature(made).parameters.items()}
    for name, value in options.items():
        if name not in KINDS or name not in takes:
            known = ", ".join(option for option in takes if option in KINDS)
            raise UserError(f"{path}: {made.__name__} has no option {name}, only {known}; save it again")
        if type(value) not in KINDS[name] and not (value is None and takes[name] is None):
            wanted = " or ".join(kind.__name__ for kind in KINDS[name])
            raise UserError(f"{path}: {name} is {value!r:.60}, no {wanted}; save it again")
    return dict(options)


def write_files(
    folder: str | Path, weights: Mapping[str, Tensor], config: dict[str, Any], model: PreTrainedModel, name: str
) -> None:
    """Write weights and configuration, with the fingerprint of the base; what was there before is replaced.

    Raises UserError for a folder that cannot be made.
    """
    from safetensors.torch import save_file

    folder = made_folder(folder)
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    weights_path, config_path = paths_of(folder, name)
    save_file(plain, f"{weights_path}.new")
    Path(f"{weights_path}.new").replace(weights_path)
    write_atomically(config_path, json.dumps({**config, "base": describe_base(model)}, indent=2) + "\n")


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer, without what its last call and where it was read from left in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)


def read_config(folder: str | Path, model: PreTrainedModel, name: str) -> dict[str, Any]:
    """The configuration in a folder, checked against the base it is to be put on.

    Raises UserError for a missing or damaged file and for another base.
    """
    paths = paths_of(folder, name)
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


def read_weights(folder: str | Path, module: nn.Module, name: str) -> None:
    """Fill a module with the weights in a folder, in the precision they were saved in; UserError if damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights_path, config_path = paths_of(folder, name)
    try:
        weights = load_file(weights_path)
        module.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    except (SafetensorError, RuntimeError, StopIteration, TypeError) as error:  # without tensors; of whole numbers
        raise UserError(f"{weights_path}: damaged, or not the one that {config_path.name} describes") from error


def paths_of(folder: str | Path, name: str) -> tuple[Path, Path]:
    """The files of what is kept under a name: tensors and configuration."""
    return Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}_config.json"


def made_folder(folder: str | Path) -> Path:
    """The folder, made where it is not there. Raises UserError where it cannot be."""
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
