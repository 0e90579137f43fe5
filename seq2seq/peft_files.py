"""PEFT's files of prefix tuning: keys and values of one decoder self-attention.

    adapter_model.safetensors + adapter_config.json

Shapes: L layers, H key/value heads, P prefix length, D head width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from seq2seq.kept_files import made_folder, read_json
from seq2seq.prefix_attention import Site
from seq2seq.utils import UserError

WEIGHTS, CONFIG, NAME = "adapter_model.safetensors", "adapter_config.json", "prompt_embeddings"


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
    config.save_pretrained(str(made_folder(folder)))
    rows = in_slots.permute(3, 0, 1, 2, 4).reshape(length, -1)  # P × (2·slots·H·D)
    save_file({NAME: rows.cpu().contiguous()}, Path(folder) / WEIGHTS)


def read_peft(folder: str | Path, site: Site, is_encoder_decoder: bool) -> Tensor:
    """Keys and values (L, 2, H, P, D) of a folder that PEFT's prefix tuning wrote.

    A projection's are there too: PEFT drops its MLP when it saves.
    Raises UserError for a missing or damaged file, another method than prefix tuning, and another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}; give a folder written by PEFT's save_pretrained")
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "PREFIX_TUNING":
        raise UserError(f"{folder}: holds {config.get('peft_type')}; only PEFT's PREFIX_TUNING has keys and values")
    try:
        rows = load_file(folder / WEIGHTS).get(NAME)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS}: damaged ({error}); save it again") from error
    if rows is None:
        raise UserError(f"{folder / WEIGHTS}: has no {NAME}; give a folder written by PEFT's save_pretrained")
    if rows.dim() != 2:
        raise UserError(f"{folder / WEIGHTS}: {NAME} is {tuple(rows.shape)}, not P × numbers; save it again")
    layers = len(site.modules)
    slots = config.get("num_layers") or layers
    shape = (slots, 2, site.heads, site.head_dim)
    known = isinstance(slots, int) and slots in (layers, 2 * layers * is_encoder_decoder)
    if not known or rows.shape[1] != torch.Size(shape).numel():
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
