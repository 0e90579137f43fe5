"""The keys and values of a beam search: one pool for each source, which its beams share and never copy.

    pool of a source   [ prompt | step 1: N beams | step 2: N beams | … ]
    beam 1 sees          ● ● ●      ● · · ·           · ● · ·            its own ancestors only
    beam 2 sees          ● ● ●      ● · · ·           ● · · ·            (row n of `visible`)

A new step writes N columns. When beams fork or die only the small table `visible` changes. Columns that no beam
sees any more are squeezed out now and then. An encoder's keys and values are kept once for each source as well.

Shapes: B sources, N beams, H heads, D head width, C columns in use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

SPARE_STEPS = 8  # squeezing starts when this many steps' columns and half of all might be dead


class SharedLayer(DynamicLayer):
    """The keys and values of one attention, (B, H, C, D), read by all beams of a source.

    Keys lie in memory with the columns innermost, as the product with the queries wants them.

    Args:
        beams: N.
        room: columns after the prompt.
    """

    def __init__(self, beams: int, room: int) -> None:
        super().__init__()
        self.beams, self.room = beams, room
        self.columns = self.tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        sources, heads, prompt, width = key_states.shape
        self.keys = key_states.new_empty(sources, heads, width, prompt + self.room).transpose(2, 3)
        self.values = value_states.new_empty(sources, heads, prompt + self.room, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the prompt (B, H, T, D), or one token of each beam (B·N, H, 1, D); returns all columns in use."""
        self.tokens += key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        else:
            key_states, value_states = (
                x.unflatten(0, (-1, self.beams)).squeeze(3).transpose(1, 2) for x in (key_states, value_states)
            )
        new = slice(self.columns, self.columns + key_states.shape[2])
        self.keys[:, :, new], self.values[:, :, new] = key_states, value_states  # type: ignore[index]
        self.columns = new.stop
        return self.keys[:, :, : new.stop], self.values[:, :, : new.stop]  # type: ignore[index]

    def select_sources(self, sources: Tensor) -> None:
        """Keep some sources (their indices), drop the others."""
        self.keys = self.keys.transpose(2, 3)[sources].transpose(2, 3)  # type: ignore[union-attr]
        self.values = self.values[sources]  # type: ignore[index]

    def select_columns(self, columns: Tensor) -> None:
        """Keep some columns of each source, (B, C) indices, in that order."""
        kept = columns[:, None, :, None]
        for pool in (self.keys, self.values):
            index = kept.expand(-1, pool.shape[1], -1, pool.shape[3])  # type: ignore[union-attr]
            pool[:, :, : columns.shape[1]] = pool.gather(2, index)  # type: ignore[index, union-attr]
        self.columns = columns.shape[1]

    def get_seq_length(self) -> int:
        """Tokens that a beam has behind it."""
        return self.tokens


class BeamCache:
    """The caches of one beam search and which columns each beam sees.

    Args:
        model: its layers are counted.
        beams: N.
        steps: new tokens at most.
        prompt_mask: visible prompt tokens (B, T).
        source_mask: visible source tokens (B, S) of an encoder-decoder.
    """

    def __init__(
        self, model: PreTrainedModel, beams: int, steps: int, prompt_mask: Tensor, source_mask: Tensor | None = None
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        self.layers = [SharedLayer(beams, beams * steps) for _ in range(config.num_hidden_layers)]
        self.cross_layers = [SharedLayer(beams, 0) for _ in self.layers] if source_mask is not None else []
        self.past_key_values = Cache(layers=self.layers)  # type: ignore[arg-type]
        if self.cross_layers:
            cross = Cache(layers=self.cross_layers)  # type: ignore[arg-type]
            self.past_key_values = EncoderDecoderCache(self.past_key_values, cross)
        self.beams, self.dtype = beams, model.dtype
        self.visible = prompt_mask.bool()[:, None].expand(-1, beams, -1)
        self.source_mask = source_mask
        self.squeeze_at = 0
        self._set_squeeze()

    def step_masks(self) -> tuple[Tensor, Tensor | None]:
        """What is added to the next token's scores: self-attention (B, 1, N, C + N), cross-attention (B, 1, 1, S)."""
        own = torch.eye(self.beams, dtype=torch.bool, device=self.visible.device)
        self.visible = torch.cat((self.visible, own.expand(len(self.visible), -1, -1)), dim=2)
        cross = None if self.source_mask is None else self._added(self.source_mask.bool()[:, None, None])
        return self._added(self.visible[:, None]), cross

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
