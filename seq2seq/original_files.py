"""The authors' checkpoints: read, and copied into a prefix.

    wte, control_trans, wte2, …      the authors' names

Shapes: L layers, H key/value heads, P prefix length, D head width.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seq2seq.prefix_parameters import Parametrisation, SitePrefix
from seq2seq.utils import UserError, one_line

ORIGINAL = {
    "decoder": ("wte", "control_trans"),
    "cross": ("wte2", "control_trans2"),
    "encoder": ("wte_enc", "control_trans_enc"),
    "infix": ("wte2", ""),
}


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
        raise UserError(f"{path}: cannot be read as a checkpoint ({one_line(error, 120)})") from error
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
