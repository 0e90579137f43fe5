"""Bottleneck adapters in a frozen base (Houlsby et al. 2019; Lin et al. 2020): x + W_up · ReLU(W_down · x).

    design 1    block ──┬─ LayerNorm ─ W_down ─ ReLU ─ W_up ─(+)──►                       behind every block
                        └────────────────────────────────────┘
    design 2    attention, MLP ──┬─ W_down ─ ReLU ─ W_up ─(+)──► the block's residual     behind each of them
                                 └────────────────────────┘

The adapters are forward hooks on the stock model; `detach` takes them off. In a forward or a generation of theirs no
others act, though other threads generate with the same base; what calls the base within it, such as a logits processor,
has them too.

Shapes: x is (B, T, width).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seq2seq.checkpointing import checkpoint_all
from seq2seq.generation import generate
from seq2seq.hooks import registering
from seq2seq.kept_files import checked_options, read_config, read_weights, write_files
from seq2seq.original_files import read_original
from seq2seq.stacks import layers_of, stacks_of
from seq2seq.utils import UserError, at_least_float32, by_name
from seq2seq.wrapped_model import WrappedModel, in_own_mode, refuse_wrapped

NAME = "adapters"  # of the files: adapters.safetensors, adapters_config.json
_call: ContextVar[object | None] = ContextVar("adapters", default=None)  # whose adapters are in the base here
ATTENTIONS, MLPS = ("attn", "self_attn", "encoder_attn", "cross_attn"), ("mlp", "fc2")


class Adapter(nn.Module):
    """x + W_up · ReLU(W_down · x), with a LayerNorm of its own in front of W_down or without.

    Weights start from N(0, std²), biases from 0, as the authors' do.
    """

    def __init__(self, width: int, bottleneck: int, norm: bool, std: float, eps: float) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width, eps=eps) if norm else nn.Identity()
        self.project_down, self.project_up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        for layer in (self.project_down, self.project_up):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        own = x.to(self.project_down.weight.dtype)  # a bf16 base may carry float32 adapters
        return x + self.project_up(torch.relu(self.project_down(self.ln(own)))).to(x.dtype)


class AdapterTuning(WrappedModel):
    """A frozen base model with trained bottleneck adapters.

    It starts in the base's mode: on a base in eval mode, as `from_pretrained` gives it, call `train()` before training.

    Args:
        model: GPT-2, Llama, BART, or another of their layouts. It is frozen.
        bottleneck: width between W_down and W_up.
        design: 1 = LayerNorm first, behind every block; 2 = no LayerNorm, behind every attention and MLP.
        base_dropout: the base's own dropout in training, on as in the authors' trainer.

    Raises:
        UserError: another design, a bottleneck below 1, layers of another layout.
    Source: Li & Liang 2021, section 5.2, the baseline; design 1: Lin et al. 2020; design 2: Houlsby et al. 2019.
    """

    def __init__(
        self, model: PreTrainedModel, bottleneck: int = 100, design: Literal[1, 2] = 1, base_dropout: bool = True
    ) -> None:
        super().__init__()
        refuse_wrapped(model)
        if design not in (1, 2):
            raise UserError(f"design {design}: adapters have design 1 (behind blocks) or 2 (behind attention and MLP)")
        if bottleneck < 1:
            raise UserError(f"bottleneck {bottleneck}: an adapter's is at least 1 wide")
        self.model = model.requires_grad_(False)
        self.bottleneck, self.design, self.base_dropout = bottleneck, design, base_dropout
        std, eps = _scales(model.config)
        self._by_layer = {
            stack: [
                {place: Adapter(width, bottleneck, design == 1, std, eps) for place in _places(layer, design)}
                for layer in layers
            ]
            for stack, (layers, width) in _stacks(model).items()
        }
        registered = {name: nn.ModuleList(map(nn.ModuleDict, layers)) for name, layers in self._by_layer.items()}
        self.adapters = nn.ModuleDict(registered).to(model.device, at_least_float32(model.dtype))
        self.train(model.training)
        self._hooks: list[Any] = []
        self.attach()

    def num_adapter_parameters(self) -> int:
        """Numbers that are kept after training."""
        return sum(parameter.numel() for parameter in self.adapters.parameters())

    def attach(self) -> None:
        """Put the adapters into the base, in the place of others that are there, also where it is called by itself.

        A prefix on the same base acts together with them until `detach`.
        """
        if self._hooks:
            return
        if (other := self._attached()) is not None:
            other.detach()
        self._hooks = self._hooked(None)

    def detach(self) -> PreTrainedModel:
        """Take the adapters out: the stock base, still frozen."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        return self.model

    def _attached(self) -> AdapterTuning | None:
        """Whose adapters act where the base is called by itself."""
        there = (hook for module in self.model.modules() for hook in module._forward_hooks.values())
        return next((hook.owner for hook in there if isinstance(hook, _Behind) and hook.call is None), None)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """While open, these adapters and no others are in the base, in this thread."""
        if torch.compiler.is_compiling():  # a compiler follows no hooks that come and go
            self.attach()
            yield
            return
        call = object()
        token, hooks = _call.set(call), self._hooked(call)
        try:
            yield
        finally:
            _call.reset(token)
            with registering:
                for hook in hooks:
                    hook.remove()

    def _hooked(self, call: object | None) -> list[Any]:
        with registering:
            return [module.register_forward_hook(_Behind(self, adapter, call)) for module, adapter in self._placed()]

    @in_own_mode
    def forward(self, *args: Any, labels: Tensor | None = None, **inputs: Any) -> Any:
        """The base model's forward with the adapters in place; same arguments and output class."""
        if labels is not None:
            inputs["labels"] = labels
        inputs = by_name(self.model.forward, args, inputs)
        wanted = self._wanted_loss(inputs)
        with self._in_place(), checkpoint_all(self.model, self.training, self._in_place) as checkpointed:
            if checkpointed:
                inputs["use_cache"] = False  # a replayed layer would fill it twice
            output = self.model(**inputs)
        return output if wanted is None else wanted.added_to(output)

    @in_own_mode
    @torch.no_grad()
    def generate(self, *args: Any, **options: Any) -> Any:
        """transformers' `generate` and its options with the adapters in place; returns what it returns."""
        with self._in_place():
            return generate(self.model, *args, **options)

    def _placed(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """(module of the base, adapter behind it)."""
        for name, (layers, _) in _stacks(self.model).items():
            for layer, adapters in zip(layers, self._by_layer[name], strict=True):
                for place, adapter in adapters.items():
                    yield (layer if place == "block" else getattr(layer, place)), adapter

    # -- files ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `adapters.safetensors` and `adapters_config.json`; UserError for a folder that cannot be made."""
        config = {name: getattr(self, name) for name in ("bottleneck", "design", "base_dropout")}
        write_files(directory, self.adapters.state_dict(), config, self.model, NAME)

    @classmethod
    def from_pretrained(cls, directory: str | Path, model: PreTrainedModel) -> AdapterTuning:
        """Read saved adapters onto `model`, which must be the base they were trained on (its fingerprint is checked).

        They come in eval mode, as transformers' models do.
        Raises UserError for a missing or damaged file and for another base.
        """
        path = Path(directory) / f"{NAME}_config.json"
        adapters = cls(model, **checked_options(path, read_config(directory, model, NAME), cls))
        read_weights(directory, adapters.adapters, NAME)
        return adapters.eval()

    def load_original(self, checkpoint: Mapping[str, Tensor] | str | Path) -> None:
        """Load the authors' adapters of GPT-2 from a state dict, a checkpoint file, or the folder that holds it.

        Their parameters have `adapter_block` in their names, the layer's number, and `ln`, `project_down` or
        `project_up`; of two in a layer, the attention's comes first by name, unless the names say which is which.
        Raises UserError for another number of adapters, a missing name or another shape; then nothing is loaded.
        """
        if self.model.config.is_encoder_decoder:
            raise UserError("load_original: the authors' adapters are GPT-2's; train those of an encoder-decoder here")
        theirs = _original_adapters(read_original(checkpoint))
        ours = [adapter for layer in self._by_layer["decoder"] for adapter in layer.values()]
        if len(theirs) != len(ours):
            raise UserError(
                f"the checkpoint has {len(theirs)} adapters, design {self.design} has {len(ours)} on this base; "
                "give the other design, or load the base they were trained on"
            )
        found = []
        for (place, values), adapter in zip(theirs, ours, strict=True):
            for name, parameter in adapter.named_parameters():
                shape = tuple(values[name].shape) if name in values else "none"
                if shape != tuple(parameter.shape):
                    raise UserError(
                        f"{place}.{name}: the checkpoint has {shape}, this adapter {tuple(parameter.shape)}"
                    )
                found.append((parameter, values[name]))
        with torch.no_grad():
            for parameter, value in found:
                parameter.copy_(value)


class _Behind:
    """A forward hook: the adapter reads what its module puts out (of several, the first).

    Args:
        call: of `_in_place`, in which alone it acts; None = it acts outside of all those.
    """

    reads_outputs_alone = True  # so that what its module computes may come about in another way

    def __init__(self, owner: AdapterTuning, adapter: nn.Module, call: object | None) -> None:
        self.owner, self.adapter, self.call = owner, adapter, call

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self._acts():
            return output
        if isinstance(output, tuple):
            return (self.adapter(output[0]), *output[1:])
        return self.adapter(output)

    def _acts(self) -> bool:
        if torch.compiler.is_compiling():  # which reads no ContextVar; one set acts, the attached one if there is one
            return self.call is None or not self.owner._hooks
        return _call.get() is self.call


def _stacks(model: PreTrainedModel) -> dict[str, tuple[list[nn.Module], int]]:
    """The layers of each stack, and the width of their output."""
    found = {}
    for name, stack in stacks_of(model).items():
        layers = layers_of(stack)
        if not all(any(hasattr(x, a) for a in ATTENTIONS) and any(hasattr(x, m) for m in MLPS) for x in layers):
            layers = []
        if not layers:
            raise UserError(f"{type(model).__name__}: its {name} has no layers of GPT-2's, Llama's or BART's layout")
        found[name] = (layers, getattr(stack, "config", model.config).hidden_size)
    return found


def _places(layer: nn.Module, design: int) -> list[str]:
    return ["block"] if design == 1 else [name for name in ATTENTIONS + MLPS if hasattr(layer, name)]


def _scales(config: Any) -> tuple[float, float]:
    """Standard deviation of new weights, epsilon of a LayerNorm: the base's own."""
    std = getattr(config, "initializer_range", None) or getattr(config, "init_std", None)
    return 0.02 if std is None else std, getattr(config, "layer_norm_epsilon", 1e-5)


def _original_adapters(names: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Tensor]]]:
    """The authors' adapters in the order of the layers, attention before MLP: (their name, {our parameter: value})."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in names.items():
        match = re.fullmatch(r"(.*adapter_block.*)\.(ln|project_down|project_up)\.(weight|bias)", name)
        if match:
            found.setdefault(match[1], {})[f"{match[2]}.{match[3]}"] = value
    return sorted(found.items(), key=lambda item: _place_in_order(item[0]))


def _place_in_order(name: str) -> tuple[int, int, str]:
    layer = re.search(r"(?<![^.])\d+(?![^.])", name)  # a part by itself: `adapter_blocks2.0` is layer 0's
    of_attention, of_mlp = "att" in name, bool(re.search("mlp|ff|feed", name))
    return int(layer[0]) if layer else 0, of_mlp - of_attention, name
