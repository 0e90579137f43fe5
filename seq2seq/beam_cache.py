"""The keys and values of a beam search: one pool for each source, which its beams share and never copy.

    pool of a source   [ prompt | step 1: N beams | step 2: N beams | … ]
    beam 1 sees          ● ● ●      ● · · ·           · ● · ·            its own ancestors only
    beam 2 sees          ● ● ●      ● · · ·           ● · · ·            (row n of `visible`)

A short prefix stands in front of the prompt. A new step writes N columns. When beams fork or die only the small table
`visible` changes. Columns that no beam sees any more are squeezed out now and then. An encoder's keys and values are
kept once for each source as well.

Shapes: B sources, N beams, H heads, D head width, C columns in use, C' columns of the pool.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from seq2seq.prefix_attention import LivePrefix, find_sites

COPIED = 320  # columns of a prefix times sources: more are read faster once, in products apart, than in each pool
WHOLE = 32  # columns of a pool are a multiple of it: products and softmax are faster
SPARE_STEPS = 8  # the pool grows by so many; squeezing starts when so many, and half of all columns, might be dead


class SharedLayer(DynamicLayer):
    """The keys and values of one attention, pools (B, H, C', D) read by all beams of a source.

    The first C columns are in use; the few behind them are zeros, which the masks hide: products with the whole pool
    need no copy of a part of it. In memory heads are outermost, for a prefix is one for all sources of a head, and the
    columns of keys innermost, as the product with the queries wants.

    Args:
        beams: N.
    """

    def __init__(self, beams: int) -> None:
        super().__init__()
        self.beams = beams
        self.columns = self.tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.columns = key_states.shape[2]
        self.keys = _turned(_turned(key_states).contiguous())
        self.values = value_states.transpose(0, 1).contiguous().transpose(0, 1)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the prompt (B, H, T, D), or one token of each beam (B·N, H, 1, D); returns the pools.

        `make_room` comes before a token: the step's masks have the pool's width.
        """
        self.tokens += key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return self.keys, self.values  # type: ignore[return-value]
        new = slice(self.columns, self.columns + self.beams)
        for pool, states in ((self.keys, key_states), (self.values, value_states)):
            pool[:, :, new] = states.unflatten(0, (-1, self.beams)).squeeze(3).transpose(1, 2)  # type: ignore[index]
        self.columns = new.stop
        return self.keys, self.values  # type: ignore[return-value]

    @property
    def capacity(self) -> int:
        """C', columns of the pools."""
        return self.keys.shape[2] if self.is_initialized else 0  # type: ignore[union-attr]

    def make_room(self, columns: int) -> None:
        """Let the pools hold at least so many columns."""
        if columns > self.capacity:
            more = -(-(columns + (SPARE_STEPS - 1) * self.beams) // WHOLE) * WHOLE - self.capacity
            keys, values = self._as_in_memory()
            self.keys = _turned(torch.cat((keys, keys.new_zeros(*keys.shape[:3], more)), dim=3))
            zeros = values.new_zeros(*values.shape[:2], more, values.shape[3])
            self.values = torch.cat((values, zeros), dim=2).transpose(0, 1)

    def put_in_front(self, key: Tensor, value: Tensor) -> None:
        """Begin the pool of each source with the same columns (H, P, D)."""
        keys, values = self._as_in_memory()
        sources = keys.shape[1]
        self.keys = _turned(torch.cat((key.transpose(1, 2)[:, None].expand(-1, sources, -1, -1), keys), dim=3))
        self.values = torch.cat((value[:, None].expand(-1, sources, -1, -1), values), dim=2).transpose(0, 1)
        self.columns += key.shape[1]

    def select_sources(self, sources: Tensor) -> None:
        """Keep some sources (their indices), drop the others."""
        keys, values = self._as_in_memory()
        self.keys, self.values = _turned(keys[:, sources]), values[:, sources].transpose(0, 1)

    def select_columns(self, columns: Tensor) -> None:
        """Keep some columns of each source, (B, C) indices, in that order."""
        keys, values = self._as_in_memory()
        heads, _, width, _ = keys.shape
        self.keys = _turned(keys.gather(3, columns[None, :, None].expand(heads, -1, width, -1)))
        rows = columns[None, :, :, None].expand(heads, -1, -1, width)
        self.values = values.gather(2, rows).transpose(0, 1)
        self.columns = columns.shape[1]

    def _as_in_memory(self) -> tuple[Tensor, Tensor]:
        """Keys (H, B, D, C') and values (H, B, C', D)."""
        return _turned(self.keys), self.values.transpose(0, 1)  # type: ignore[arg-type,union-attr]

    def get_seq_length(self) -> int:
        """Tokens that a beam has behind it."""
        return self.tokens


def _turned(keys: Tensor) -> Tensor:
    """Keys (B, H, C, D) as they lie in memory (H, B, D, C), and back."""
    return keys.permute(1, 0, 3, 2)


class BeamCache:
    """The caches of one beam search and which columns each beam sees.

    Args:
        model: its layers are counted.
        beams: N.
        prompt_mask: visible prompt tokens (B, T).
        source_mask: visible source tokens (B, S) of an encoder-decoder.
    """

    def __init__(
        self, model: PreTrainedModel, beams: int, prompt_mask: Tensor, source_mask: Tensor | None = None
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        self.layers = [SharedLayer(beams) for _ in range(config.num_hidden_layers)]
        self.cross_layers = [SharedLayer(beams) for _ in self.layers] if source_mask is not None else []
        self.past_key_values = Cache(layers=self.layers)  # type: ignore[arg-type]
        if self.cross_layers:
            cross = Cache(layers=self.cross_layers)  # type: ignore[arg-type]
            self.past_key_values = EncoderDecoderCache(self.past_key_values, cross)
        self.model, self.beams, self.dtype = model, beams, model.dtype
        self.visible = prompt_mask.bool()[:, None].expand(-1, beams, -1)
        self.source_mask = source_mask
        self.squeeze_at = 0
        self._set_squeeze()

    def take_in(self, prefix: LivePrefix) -> None:
        """Put a short prefix into the pools, in front of the prompt or the source, once they hold these."""
        for name, site in find_sites(self.model).items():
            layers = {"decoder": self.layers, "cross": self.cross_layers}.get(name)
            if layers is None or not all(prefix.is_one(module) for module in site.modules):
                continue
            length = prefix.key_values[site.modules[0]][0].shape[1]
            if length * len(self.visible) > COPIED:
                continue
            for module, layer in zip(site.modules, layers, strict=True):
                layer.put_in_front(*prefix.shared(module, layer.keys.dtype))  # type: ignore[union-attr]
            prefix.put_into(self.past_key_values, site.modules)
            if name == "decoder":
                self.visible = nn.functional.pad(self.visible, (length, 0), value=True)
            else:
                self.source_mask = nn.functional.pad(self.source_mask, (length, 0), value=1)  # type: ignore[arg-type]
        self._set_squeeze()

    def step_masks(self) -> tuple[Tensor, Tensor | None]:
        """What is added to the next token's scores: self-attention (B, 1, N, C'), cross-attention (B, 1, 1, S)."""
        own = torch.eye(self.beams, dtype=torch.bool, device=self.visible.device)
        self.visible = torch.cat((self.visible, own.expand(len(self.visible), -1, -1)), dim=2)
        cross = None if self.source_mask is None else self._added(self.source_mask.bool()[:, None, None])
        for layer in self.layers:
            layer.make_room(self.visible.shape[2])
        unused = self.layers[0].capacity - self.visible.shape[2]
        return self._added(nn.functional.pad(self.visible, (0, unused))[:, None]), cross

    def follow(self, parents: Tensor) -> None:
        """Beam n goes on from beam parents[b, n] (B, N)."""
        self.visible = self.visible.gather(1, parents[:, :, None].expand(-1, -1, self.visible.shape[2]))
        if self.visible.shape[2] >= self.squeeze_at:
            self._squeeze()

    def select_sources(self, sources: Tensor) -> None:
        """Keep some sources (their indices), drop the others."""
        for layer in (*self.layers, *self.cross_layers):
            layer.select_sources(sources)
        self.visible = self.visible[sources]
        self.source_mask = None if self.source_mask is None else self.source_mask[sources]

    def _squeeze(self) -> None:
        alive = self.visible.any(1)
        width = int(alive.sum(1).max())
        columns = alive.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        self.visible = self.visible.gather(2, columns[:, None].expand(-1, self.beams, -1))
        for layer in self.layers:
            layer.select_columns(columns)
        self._set_squeeze()

    def _set_squeeze(self) -> None:
        self.squeeze_at = 2 * self.visible.shape[2] + SPARE_STEPS * self.beams

    def _added(self, visible: Tensor) -> Tensor:
        return torch.zeros(visible.shape, dtype=self.dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
