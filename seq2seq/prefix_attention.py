"""How a prefix enters attention: one softmax over [prefix; own keys], in any model with pluggable attention.

            keys   [ k_1 … k_P | K_1 … K_S ]        P prefix columns, always visible, no position of their own
    query t  ·         ↓ one softmax ↓
           values  [ v_1 … v_P | V_1 … V_S ]

The prefix travels as a keyword argument down to each attention call and is looked up there by module. So it survives
gradient checkpointing (which drops caches but replays arguments), reaches BART's encoder (which never sees a cache),
and is never reordered with the key/value cache, nor copied into it (but a short one once, by a beam search).

Shapes: B batch, H key/value heads, P prefix length, T queries, S own keys, D head width.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from seq2seq.fast_layers import fuse_gelu, unfuse_gelu
from seq2seq.hooks import forward_pre_hooks
from seq2seq.merged_attention import attend_merged, merging_pays
from seq2seq.padding import without_look
from seq2seq.product_attention import attend_by_products, attend_one_token, products_pay
from seq2seq.stacks import layers_of
from seq2seq.unpadded import TOKENS, RealTokens
from seq2seq.utils import UserError, by_name

KEYWORD = "prefix_key_values"  # the keyword argument under which the prefix travels
TWICE = ("diffllama",)  # model types whose attention calls the pluggable function twice, for halves of its values


@dataclass(frozen=True)
class Site:
    """One kind of attention: its modules from the first layer to the last, and their shape."""

    name: str  # "encoder", "decoder" or "cross"
    modules: tuple[nn.Module, ...]
    heads: int  # key/value heads H
    head_dim: int  # D
    width: int  # of the hidden states around it


def find_sites(model: PreTrainedModel) -> dict[str, Site]:
    """The attention sites of a model: encoder, decoder, cross; or decoder alone.

    Raises UserError where the model's layers are not laid out as BART's, GPT-2's or Llama's are.
    """
    if model.config.is_encoder_decoder:
        encoder, decoder = model.get_encoder(), model.get_decoder()
        config = model.config
        found = {
            "encoder": (_attention(encoder, ("self_attn",)), _width(encoder, config)),
            "decoder": (_attention(decoder, ("self_attn",)), _width(decoder, config)),
            "cross": (_attention(decoder, ("encoder_attn", "cross_attn")), _width(decoder, config)),
        }
    else:
        found = {
            "decoder": (_attention(model.base_model, ("attn", "self_attn", "attention")), model.config.hidden_size)
        }
    sites = {}
    for name, (modules, width) in found.items():
        if not modules or not all(hasattr(m, "head_dim") for m in modules) or model.config.model_type in TWICE:
            raise UserError(
                f"{type(model).__name__}: no {name} attention found that a prefix can enter; "
                "use a model of BART's, GPT-2's or Llama's layout"
            )
        kinds = {(type(module), _heads(module, model), int(module.head_dim)) for module in modules}  # type: ignore[arg-type]
        if len(kinds) > 1:
            shown = sorted(f"{kind.__name__} {heads} × {head_dim}" for kind, heads, head_dim in kinds)
            raise UserError(
                f"{type(model).__name__}: its {name} attention differs from layer to layer ({', '.join(shown)}); "
                "use a model whose layers have one kind, heads of one number and width"
            )
        ((_, heads, head_dim),) = kinds
        if heads is None:
            raise UserError(f"{type(model).__name__}: its {name} attention does not say how many heads it has")
        sites[name] = Site(name, tuple(modules), heads, head_dim, width)
    return sites


def _heads(module: Any, model: PreTrainedModel) -> int | None:
    """How many key/value heads an attention has, None where it does not say."""
    config = getattr(module, "config", model.config)
    query_heads, groups = getattr(module, "num_heads", None), getattr(module, "num_key_value_groups", 1) or 1
    given = [getattr(module, key, None) for key in ("num_key_value_heads", "kv_heads")]
    known = (*given, query_heads and query_heads // groups, getattr(config, "num_key_value_heads", None))
    return next((heads for heads in known if heads), None)


def _attention(stack: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [getattr(layer, name) for layer in layers_of(stack) for name in names if hasattr(layer, name)]


def _width(stack: nn.Module, config: Any) -> int:
    return getattr(stack, "config", config).hidden_size


class LivePrefix:
    """The prefix of one forward or one generation: (key, value) per attention module.

    Each is (H, P, D), or (B, H, P, D) where examples differ. Beams of an example stand next to each other.

    Args:
        dropout: share of entries zeroed, drawn anew for each example and module; 0 outside training.
        visible: which of the P columns hold something (B, P); None = all.
        start: position of the first real token, for all or for each example (B, 1).
        record: keep the keys and values (B, H, S, D) that each attention computes by itself, in `recorded`.
    """

    def __init__(
        self,
        key_values: dict[nn.Module, tuple[Tensor, Tensor]],
        dropout: float = 0.0,
        visible: Tensor | None = None,
        start: int | Tensor = 0,
        record: bool = False,
    ) -> None:
        self.key_values, self.dropout, self.visible, self.start = key_values, dropout, visible, start
        self.recorded: dict[nn.Module, tuple[Tensor, Tensor]] | None = {} if record else None
        self.reached: set[nn.Module] = set()
        self._beside: tuple[Any, LivePrefix] | None = None

    def take(self, module: nn.Module, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Key and value for `module`, each (B, H, P, D), or None where it has no prefix."""
        if module not in self.key_values:
            return None
        self.reached.add(module)
        key, value = (for_batch(x.to(dtype), batch) for x in self.key_values[module])
        if self.dropout > 0.0:
            key, value = (torch.nn.functional.dropout(x, self.dropout) for x in (key, value))
        return key, value

    def is_one(self, module: nn.Module) -> bool:
        """Whether `module` has a prefix (H, P, D) that is the same for all rows, every time."""
        known = module in self.key_values and self.key_values[module][0].dim() == 3
        return known and self.dropout == 0.0 and self.visible is None

    def serves_all(self, module: nn.Module, query: Tensor) -> bool:
        """Whether `module` has one prefix for all rows, and this is one new token (R, H, 1, D) for each of them."""
        return query.shape[2] == 1 and self.is_one(module)

    def shared(self, module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Key and value of all rows for `module`, each (H, P, D)."""
        self.reached.add(module)
        key, value = self.key_values[module]
        return key.to(dtype), value.to(dtype)

    @property
    def alike(self) -> bool:
        """Whether all examples have the same prefix."""
        return self.visible is None and all(key.dim() == 3 for key, _ in self.key_values.values())

    def laid_out(self, dtype: torch.dtype) -> LivePrefix:
        """The same for many short steps: in the base's precision, keys with their columns innermost in memory."""
        for module, (key, value) in self.key_values.items():
            turned = key.to(dtype).transpose(-1, -2).contiguous().transpose(-1, -2)
            self.key_values[module] = turned, value.to(dtype).contiguous()
        return self

    def put_into(self, cache: Any, modules: Iterable[nn.Module]) -> None:
        """Own keys and values in `cache` begin with the prefix of some modules from now on; see `beside`."""
        others = copy(self.beside(cache))
        gone = set(modules)
        others.key_values = {module: pair for module, pair in others.key_values.items() if module not in gone}
        self._beside = cache, others

    def beside(self, cache: Any) -> LivePrefix:
        """What of the prefix is not in the cache that a forward is given; all of it where that is another, or none."""
        return self._beside[1] if self._beside is not None and cache is self._beside[0] else self

    def within(self, layer: nn.Module) -> LivePrefix:
        """What of the prefix is for the attention of one layer."""
        part = copy(self)
        part.key_values = {module: pair for module in layer.modules() if (pair := self.key_values.get(module))}
        return part

    def columns(self) -> int:
        """How many columns stand in front of the own keys: P, or S + P with a source."""
        return max(key.shape[-2] for key, _ in self.key_values.values())

    def check_reached(self, sites: Iterable[Site]) -> None:
        """Raise UserError if a whole site never saw its prefix: the model does not hand arguments down to it."""
        for site in sites:
            if site.modules[0] in self.key_values and not self.reached.intersection(site.modules):
                raise UserError(
                    f"the prefix did not reach the {site.name} attention: this model's layers drop keyword arguments; "
                    "give another base, such as a BART, GPT-2 or Llama"
                )


def own_prefix(layer: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """A layer's named arguments with no more of the prefix than its own."""
    live: LivePrefix | None = inputs.get(KEYWORD)
    return inputs if live is None else {**inputs, KEYWORD: live.within(layer)}


def for_batch(prefix: Tensor, batch: int) -> Tensor:
    """A prefix of all (H, P, D) or of each example (B, H, P, D) for a batch of examples or their beams."""
    if prefix.dim() == 3:
        return prefix.unsqueeze(0).expand(batch, -1, -1, -1)
    return prefix if len(prefix) == batch else prefix.repeat_interleave(batch // len(prefix), dim=0)


def _attend_with_prefix(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an attention function: a prefix that came along for this module goes in front of keys, values and mask."""

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        live: LivePrefix | None = kwargs.pop(KEYWORD, None)
        tokens: RealTokens | None = kwargs.pop(TOKENS, None)
        if tokens is not None:  # (1, H, N, D); their mask says nothing
            query, key, value = (tokens.in_rows(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value))
            output, weights = attention(module, query, key, value, None, **{KEYWORD: live}, **kwargs)
            return tokens.in_a_row(output), weights
        if live is not None and live.recorded is not None:
            live.recorded[module] = key, value
        beams_share = len(query) != len(key)
        stock = attend is _sdpa and not _is_unusual(kwargs, attention_mask)
        if beams_share or stock and live is not None and live.serves_all(module, query):
            return _attend_one_token(live, module, query, key, value, attention_mask, **kwargs)
        if stock and live is not None and _is_long(live, module, query, key, **kwargs):
            return _attend_to_long(live, module, query, key, value, attention_mask, **kwargs)
        prefix = live.take(module, key.shape[0], key.dtype) if live is not None else None
        if prefix is None:
            return attend(module, query, key, value, attention_mask, **kwargs)
        if any(ours.shape[1::2] != own.shape[1::2] for ours, own in zip(prefix, (key, value), strict=True)):
            raise UserError(
                f"{type(module).__name__}: its keys and values are {key.shape[1]} × {key.shape[3]} and "
                f"{value.shape[1]} × {value.shape[3]}, the prefix's {prefix[0].shape[1]} × {prefix[0].shape[3]}; "
                "use a model whose keys and values have one shape, such as a BART, GPT-2 or Llama"
            )
        is_causal = kwargs.pop("is_causal", None)
        visible = live.visible if live is not None else None
        if _hides_the_future(module, query, attention_mask, is_causal):
            attention_mask = _causal_mask(query, key)
        if attention_mask is not None and visible is None:
            shown = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = nn.functional.pad(attention_mask, (prefix[0].shape[2], 0), value=shown)
        elif visible is not None:
            attention_mask = _mask_behind(visible, attention_mask, query, key)
        key, value = torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value), dim=2)
        return attend(module, query, key, value, attention_mask, is_causal=False, **kwargs)

    return attention


def _attend_one_token(
    live: LivePrefix | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One new token per row; own keys are those of a source, which all its beams (rows) share."""
    prefix = None
    if live is not None and live.serves_all(module, query):
        prefix = live.shared(module, key.dtype)
    elif live is not None and (taken := live.take(module, key.shape[0], key.dtype)) is not None:
        key, value = torch.cat((taken[0], key), dim=2), torch.cat((taken[1], value), dim=2)
        mask = _added_behind(live.visible, mask, taken[0])  # type: ignore[arg-type]  # where beams share, there is one
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    return attend_one_token(query, key, value, mask, prefix, scaling, dropout), None


def _is_long(
    live: LivePrefix, module: nn.Module, query: Tensor, key: Tensor, dropout: float = 0.0, **kwargs: Any
) -> bool:
    """Whether the prefix of `module` is better not copied in front of the own keys of each example."""
    if not live.is_one(module):
        return False
    return merging_pays(query, key, live.key_values[module][0]) and not products_pay(query, dropout)


def _attend_to_long(
    live: LivePrefix,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    causal = _hides_the_future(module, query, mask, is_causal)
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    return attend_merged(query, key, value, live.shared(module, key.dtype), mask, causal, scaling), None


def _added_behind(visible: Tensor | None, own: Tensor, prefix: Tensor) -> Tensor:
    """What is added to scores (B, 1, N, P + S): of a prefix (B, H, P, D) with visible columns (B, P), of own keys."""
    columns = own.new_zeros(len(prefix), 1, own.shape[2], prefix.shape[2])
    if visible is not None:
        columns = columns.masked_fill(~visible[:, None, None], float("-inf"))
    return torch.cat((columns, own.expand(len(prefix), -1, -1, -1)), dim=3)


def _mask_behind(visible: Tensor, own: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """The mask (B, 1, T, P + S) of a prefix with hidden columns (B, P) in front of own keys with their mask, if any."""
    columns = for_batch(visible[:, None, None, :], len(query)).expand(-1, -1, query.shape[2], -1)
    if own is None:
        own = columns.new_ones(1, 1, query.shape[2], key.shape[2])
    if own.dtype != torch.bool:
        columns = torch.zeros_like(columns, dtype=own.dtype).masked_fill(~columns, torch.finfo(own.dtype).min)
    return torch.cat((columns, own.expand(len(query), -1, -1, -1)), dim=3)


def _sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' sdpa attention, or the same by matrix products where they are faster."""
    options: dict[str, Any] = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
    if _is_unusual(kwargs, attention_mask) or not products_pay(query, dropout):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options, **kwargs)
    if _hides_the_future(module, query, attention_mask, is_causal):
        attention_mask = _causal_mask(query, key)
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    return attend_by_products(query, key, value, attention_mask, scaling, dropout), None


def _is_unusual(options: dict[str, Any], mask: Tensor | None) -> bool:
    """Whether an attention is given what only transformers' own knows, as a mask of each head."""
    of_heads = mask is not None and mask.shape[1] > 1
    return of_heads or any(options.get(name) is not None for name in ("position_bias", "softcap", "cache"))


def _hides_the_future(module: nn.Module, query: Tensor, mask: Tensor | None, is_causal: bool | None) -> bool:
    """Whether an attention is causal without a mask that says so, and has more than one query."""
    return mask is None and bool(module.is_causal if is_causal is None else is_causal) and query.shape[2] > 1


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """Which own keys each query sees (1, 1, T, S)."""
    return torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()[None, None]


def _eager(module: nn.Module, *args: Any, is_causal: bool | None = None, **kwargs: Any) -> Any:
    """The model's own eager attention (each modeling file has one); its additive mask is already causal."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)  # type: ignore[attr-defined]


# The mask function must be registered under the same name: without it transformers builds no mask and padding is seen.
AttentionInterface.register("prefix_sdpa", _attend_with_prefix(_sdpa))
AttentionMaskInterface.register("prefix_sdpa", without_look(sdpa_mask))
AttentionInterface.register("prefix_eager", _attend_with_prefix(_eager))
AttentionMaskInterface.register("prefix_eager", without_look(eager_mask))


def attention_can_change(model: PreTrainedModel) -> bool:
    """Whether the model has stock attention that `enable_prefix` can replace."""
    upcast = getattr(model.config, "reorder_and_upcast_attn", False)
    return model.config._attn_implementation in ("sdpa", "eager") and not upcast


def enable_prefix(model: PreTrainedModel) -> None:
    """Switch a model's attention to the form that looks for a prefix; without one it computes what it always did.

    It computes it faster where product_attention.py pays, and GPT-2's GELU becomes the fused one.

    Raises UserError for attention implementations other than sdpa and eager.
    """
    current = model.config._attn_implementation
    if current in ("prefix_sdpa", "prefix_eager"):
        return
    if current not in ("sdpa", "eager"):
        raise UserError(f"attention implementation {current!r} cannot hold a prefix; load the base with sdpa or eager")
    if getattr(model.config, "reorder_and_upcast_attn", False):
        raise UserError("reorder_and_upcast_attn computes attention outside the pluggable function; set it to False")
    model.set_attn_implementation(f"prefix_{current}")
    fuse_gelu(model)


def disable_prefix(model: PreTrainedModel) -> None:
    """Give the model its stock attention and GELU back."""
    current = model.config._attn_implementation
    if current.startswith("prefix_"):
        model.set_attn_implementation(current.removeprefix("prefix_"))
        unfuse_gelu(model)


_users: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # of bases that are lent the attention
_lending = threading.Lock()


@contextmanager
def prefix_attention(model: PreTrainedModel) -> Iterator[None]:
    """While open, a base with stock attention has the form that looks for a prefix; several threads may have it open.

    The last of them gives the base its own back.
    """
    with _lending:
        lent = model in _users or attention_can_change(model)
        if lent:
            _users[model] = _users.get(model, 0) + 1
            enable_prefix(model)
    try:
        yield
    finally:
        if lent:
            with _lending:
                _users[model] -= 1
                if not _users[model]:
                    del _users[model]
                    disable_prefix(model)


@contextmanager
def inject(model: PreTrainedModel, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """While open, `change` rewrites the keyword arguments of every forward of the model and of its encoder.

    For `generate`, which refuses keyword arguments it does not know and calls the encoder by itself.
    """
    entries = [model] + ([model.get_encoder()] if model.config.is_encoder_decoder else [])
    # some of transformers' own calls give the tokens by place, as for classifier-free guidance
    with forward_pre_hooks(entries, lambda module, args, named: ((), change(by_name(module.forward, args, named)))):
        yield
