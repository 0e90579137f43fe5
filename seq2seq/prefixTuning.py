"""Prefix-tuning (Li & Liang 2021): P learned key and value vectors in front of those of every frozen attention layer.

              h_i = P_θ[i]                 for i in the prefix            (paper, equation 3)
              h_i = LM_φ(z_i, h_<i)        for the real tokens, φ frozen

              reparametrised (equation below 3, section 4.3):  P_θ = MLP(E),   E: P × width

    BART    encoder ──[P|S]──┐                 three independent prefixes: encoder self, decoder self, decoder cross
            decoder ──[P|T]──┴─[P|S]── logits
    GPT-2           ──[P|S+T]───────── logits  one prefix; real token j has position P + j

    E ──Linear──Tanh──(Linear──Tanh, deep)──Linear──► P × (2·L·d) ──► L layers × (key, value) × H × P × D

Shapes: B batch, L layers, H key/value heads, P prefix length, D head width, d = H·D, S source and T target length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seq2seq.prefix_attention import (
    KEYWORD,
    LivePrefix,
    Site,
    checkpoint_in_eval_mode,
    disable_prefix,
    enable_prefix,
    find_sites,
    inject,
)
from seq2seq.utils import UserError

WEIGHTS, CONFIG = "prefix.safetensors", "prefix_config.json"
ORIGINAL = {
    "decoder": ("wte", "control_trans"),
    "cross": ("wte2", "control_trans2"),
    "encoder": ("wte_enc", "control_trans_enc"),
}


class SitePrefix(nn.Module):
    """The learned keys and values of one site: an MLP over P embeddings, or the keys and values themselves (flat).

    Args:
        mid_dim: width of the MLP's hidden layer; 0 = flat.
        deep: one more hidden layer.
    """

    def __init__(self, site: Site, preseqlen: int, mid_dim: int, deep: bool) -> None:
        super().__init__()
        self.shape = (len(site.modules), 2, site.heads, preseqlen, site.head_dim)
        if mid_dim == 0:
            self.key_values = nn.Parameter(torch.randn(self.shape))
            return
        self.embedding = nn.Parameter(torch.randn(preseqlen, site.width))
        middle = [nn.Linear(mid_dim, mid_dim), nn.Tanh()] if deep else []
        outputs = 2 * len(site.modules) * site.heads * site.head_dim
        self.mlp = nn.Sequential(nn.Linear(site.width, mid_dim), nn.Tanh(), *middle, nn.Linear(mid_dim, outputs))

    @property
    def flat(self) -> bool:
        return "key_values" in self._parameters

    def forward(self) -> Tensor:
        """Keys and values of all layers (L, 2, H, P, D)."""
        if self.flat:
            return self.key_values
        layers, two, heads, length, head_dim = self.shape
        with torch.autocast(self.embedding.device.type, enabled=False):  # the prefix stays in its own precision
            features = self.mlp(self.embedding)  # feature (2·layer + kv)·d + head·D + j
        return features.view(length, layers, two, heads, head_dim).permute(1, 2, 3, 0, 4)


class PrefixTuning(nn.Module):
    """A frozen base model with a learned prefix in front of the keys and values of its attention.

    Args:
        model: BART or another encoder-decoder of its layout, GPT-2 or another decoder. It is frozen.
        preseqlen: prefix length P.
        mid_dim: width of the reparametrising MLP; 0 = flat, no MLP.
        deep: one more hidden layer in the MLP.
        sites: of "encoder", "decoder", "cross"; None = all the model has.
        dropout: on the produced keys and values, per example and site, in training.
        shift_positions: real token j gets position P + j; None = as the authors: yes for decoders, no for BART.
        base_dropout: the base's own dropout in training; None = as the authors: off for decoders, on for BART.

    Raises:
        UserError: unknown site, a model whose attention cannot hold a prefix.
    Source: Li & Liang 2021, sections 4.2 and 4.3.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        preseqlen: int = 5,
        mid_dim: int = 512,
        deep: bool = False,
        sites: Sequence[str] | None = None,
        dropout: float = 0.0,
        shift_positions: bool | None = None,
        base_dropout: bool | None = None,
    ) -> None:
        super().__init__()
        if preseqlen < 1:
            raise UserError(f"preseqlen {preseqlen}: a prefix has at least one vector")
        available = find_sites(model)
        unknown = [name for name in sites or () if name not in available]
        if unknown or sites is not None and not sites:
            raise UserError(f"sites {list(sites or ())}: {type(model).__name__} has {', '.join(available)}")
        self.model = model.requires_grad_(False)
        enable_prefix(model)
        self.sites = {name: site for name, site in available.items() if sites is None or name in sites}
        self.preseqlen, self.mid_dim, self.deep, self.dropout = preseqlen, mid_dim, deep, dropout
        is_decoder = not model.config.is_encoder_decoder
        self.shift_positions = is_decoder if shift_positions is None else shift_positions
        self.base_dropout = not is_decoder if base_dropout is None else base_dropout
        if self.shift_positions and not is_decoder:
            raise UserError("shift_positions: an encoder-decoder's positions cannot be shifted; it is for decoders")
        self._check_positions(1)
        self.prefix = nn.ModuleDict({n: SitePrefix(s, preseqlen, mid_dim, deep) for n, s in self.sites.items()})
        self.prefix.to(model.device)

    @property
    def config(self) -> Any:
        """The base model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    # -- the prefix itself ------------------------------------------------------------------------------------------

    def past_key_values(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Per site and layer the prefix's (key, value), each (H, P, D), without dropout."""
        return {name: [(layer[0], layer[1]) for layer in self.prefix[name]()] for name in self.sites}

    def num_prefix_parameters(self) -> int:
        """Numbers that are kept after training: keys and values, the MLP dropped."""
        return sum(torch.Size(module.shape).numel() for module in self._modules_by_site().values())

    def collapse(self) -> PrefixTuning:
        """Drop the MLP and keep its keys and values; forward and generation are unchanged. Returns self."""
        for name, module in self._modules_by_site().items():
            with torch.no_grad():
                kept = module().clone(memory_format=torch.contiguous_format)
            flat = SitePrefix(self.sites[name], self.preseqlen, 0, False).to(kept.device, kept.dtype)
            flat.key_values = nn.Parameter(kept)
            self.prefix[name] = flat
        self.mid_dim, self.deep = 0, False
        return self

    def detach(self) -> PreTrainedModel:
        """Take the prefix off: the base with its stock attention, still frozen."""
        disable_prefix(self.model)
        return self.model

    # -- the model with its prefix ----------------------------------------------------------------------------------

    def forward(self, **inputs: Any) -> Any:
        """The base model's forward with the prefix in place; same arguments and output class.

        `position_ids`, where given, are those of the real tokens; P is added to them in decoders.
        Raises UserError when P + length exceeds the position table.
        """
        enable_prefix(self.model)
        live = self._live()
        labels = None if self.model.config.is_encoder_decoder else inputs.pop("labels", None)
        with checkpoint_in_eval_mode(self.model) if self.training else nullcontext(False) as checkpointed:
            if checkpointed:
                inputs["use_cache"] = False  # a replayed layer would fill it twice
            output = self.model(**self._with_prefix(inputs, live))
        live.check_reached(self._sites_used(inputs))
        if labels is not None:
            output = type(output)(loss=next_token_loss(output.logits, labels), **output)
        return output

    @torch.no_grad()
    def generate(self, *args: Any, **options: Any) -> Any:
        """transformers' `generate` and its options with the prefix in place; returns what it returns."""
        enable_prefix(self.model)
        live = self._live()
        with inject(self.model, lambda inputs: self._with_prefix(inputs, live)):
            output = self.model.generate(*args, **options)  # type: ignore[operator]
        live.check_reached(self._sites_used(options))
        return output

    def train(self, mode: bool = True) -> PrefixTuning:
        super().train(mode)
        if not self.base_dropout:
            self.model.eval()
        return self

    def _sites_used(self, inputs: dict[str, Any]) -> list[Site]:
        encoded = inputs.get("encoder_outputs") is not None  # then the encoder does not run again
        return [site for name, site in self.sites.items() if not (encoded and name == "encoder")]

    def _modules_by_site(self) -> dict[str, SitePrefix]:
        return {name: self.prefix[name] for name in self.sites}  # type: ignore[misc]

    def _live(self) -> LivePrefix:
        key_values = {}
        for name, site in self.sites.items():
            layers = self.prefix[name]().unbind(0)  # the MLP runs once per step, whatever the batch
            key_values.update({m: (kv[0], kv[1]) for m, kv in zip(site.modules, layers, strict=True)})
        return LivePrefix(key_values, self.dropout if self.training else 0.0)

    def _with_prefix(self, inputs: dict[str, Any], live: LivePrefix) -> dict[str, Any]:
        inputs = {**inputs, KEYWORD: live}
        if self.shift_positions:
            inputs["position_ids"] = self._shifted_positions(inputs)
        return inputs

    def _shifted_positions(self, inputs: dict[str, Any]) -> Tensor:
        """Positions (B, T) of the real tokens behind P prefix positions; padding on either side takes none."""
        tokens: Any = inputs.get("input_ids") if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
        batch, length = tokens.shape[:2]
        positions = inputs.get("position_ids")
        if positions is None:
            past, mask = inputs.get("past_key_values"), inputs.get("attention_mask")
            seen = past.get_seq_length() if past is not None else 0
            if mask is not None and mask.dim() == 2:
                positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, seen : seen + length]
            else:
                positions = torch.arange(seen, seen + length, device=tokens.device).expand(batch, -1)
        self._check_positions(int(positions.max()) + 1)
        return positions + self.preseqlen

    def _check_positions(self, length: int) -> None:
        table = getattr(self.model.config, "max_position_embeddings", None)
        if self.shift_positions and table is not None and self.preseqlen + length > table:
            raise UserError(
                f"prefix length {self.preseqlen} + {length} tokens exceed the base's {table} positions; "
                "shorten --preseqlen or the input"
            )

    # -- files ------------------------------------------------------------------------------------------------------

    def load_original(self, state_dict: dict[str, Tensor]) -> None:
        """Load the authors' parameters (`wte`, `control_trans`, with 2 = cross and _enc = encoder), or their flat form.

        Raises UserError for a missing name or another shape, naming both; then nothing is loaded.
        """
        loaded = []
        names = {key.removeprefix("module.").removeprefix("model."): value for key, value in state_dict.items()}
        for site, module in self._modules_by_site().items():
            embedding, mlp = ORIGINAL[site]
            if module.flat:
                source = {"key_values": self._original_flat(names, mlp, module.shape)}
            else:
                layers = [name for name in module.state_dict() if name.startswith("mlp.")]
                source = {name: _named(names, mlp + name.removeprefix("mlp")) for name in layers}
                source["embedding"] = _named(names, f"{embedding}.weight")
            for name, parameter in module.named_parameters():
                theirs, ours = tuple(source[name].shape), tuple(parameter.shape)
                if theirs != ours:
                    raise UserError(f"{site} {name}: the checkpoint has {theirs}, this prefix {ours}")
                loaded.append((parameter, source[name]))
        with torch.no_grad():
            for parameter, value in loaded:
                parameter.copy_(value)

    @staticmethod
    def _original_flat(names: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
        layers, two, heads, length, head_dim = shape
        flat = _named(names, name)
        row, words = (torch.Size(shape).numel(),), (layers * two, 1, heads, length, head_dim)
        if flat.shape == row:  # random: P × 2L × H × D
            return flat.view(length, layers, two, heads, head_dim).permute(1, 2, 3, 0, 4)
        if flat.shape == words:
            return flat.reshape(shape)
        raise UserError(f"{name}: the checkpoint has {tuple(flat.shape)}, this prefix {row} or {words}")

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `prefix.safetensors` and `prefix_config.json`, in the form the prefix is in (MLP or flat)."""
        from safetensors.torch import save_file

        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.prefix.state_dict().items()}
        config = {
            "preseqlen": self.preseqlen,
            "mid_dim": self.mid_dim,
            "deep": self.deep,
            "sites": list(self.sites),
            "dropout": self.dropout,
            "shift_positions": self.shift_positions,
            "base_dropout": self.base_dropout,
            "base": describe_base(self.model),
        }
        save_file(weights, folder / f"{WEIGHTS}.new")
        (folder / f"{WEIGHTS}.new").replace(folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, directory: str | Path, model: PreTrainedModel) -> PrefixTuning:
        """Read a saved prefix onto `model`, which must be the base it was trained on (its fingerprint is checked).

        Raises UserError for a missing or damaged file and for another base.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(directory)
        for name in (WEIGHTS, CONFIG):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: no {name}; give a folder written by save_pretrained or a run directory")
        try:
            config = json.loads((folder / CONFIG).read_text())
            was, now = config.pop("base"), describe_base(model)
        except (ValueError, KeyError) as error:
            raise UserError(f"{folder / CONFIG}: damaged ({error}); save the prefix again") from error
        if was != now:
            differ = "; ".join(
                f"{key} {was.get(key)} there, {now[key]} here" for key in now if was.get(key) != now[key]
            )
            raise UserError(f"{folder}: this prefix was trained on another base ({differ}); load that base")
        prefix = cls(model, **config)
        try:
            weights = load_file(folder / WEIGHTS)
            dtype = next(iter(weights.values())).dtype
            prefix.prefix.to(dtype).load_state_dict(weights)
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder / WEIGHTS}: damaged, or not the one that {CONFIG} describes") from error
        return prefix


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, T, V) at t against labels (B, T) at t + 1, -100 ignored; at least in float32.

    transformers' own loss rounds float64 logits to float32, which hides differences below 1e-7.
    """
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def _named(names: dict[str, Tensor], name: str) -> Tensor:
    if name not in names:
        raise UserError(f"the checkpoint has no {name}; it has {', '.join(sorted(names)[:12])}")
    return names[name]


def describe_base(model: PreTrainedModel) -> dict[str, Any]:
    """What identifies a base model: its type, its shape, and a fingerprint of its weights in any precision."""
    config = model.config
    return {
        "model_type": config.model_type,
        **{key: getattr(config, key, None) for key in ("hidden_size", "num_hidden_layers", "vocab_size")},
        "fingerprint": fingerprint(model),
    }


def fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits of a sample of each weight, rounded to bfloat16: a bf16 copy is the same base."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
