"""GPT-2's ways to condition: what stands where, and what is trained in front of or inside the frozen base.

    cat, peek    [ prefix | source <eos> | target <eos> ]     PrefixTuning, PrefixEmbTuning
    nopeek       [ prefix | <eos> target <eos> ]              the same; the model never sees the source
    infix        [ source | prefix | <eos> target <eos> ]     PrefixTuning(infix=True)
    adapters     [ source <eos> | target <eos> ]              AdapterTuning: bottlenecks inside the blocks

nopeek is a matter of the data alone; an infix also of the model, which takes the source by itself.

Shapes: B batch, S source length, T target length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seq2seq.adapters import AdapterTuning
from seq2seq.text_forms import Batch, CausalForm, Example, pad_rows

__all__ = ["FORMS", "AdapterTuning", "InfixBatch", "InfixForm", "NoPeekForm"]


class InfixBatch(Batch):
    """A Batch whose input_ids (B, T) are the target, and its sources (B, S), padded on the left."""

    source_ids: torch.Tensor
    source_attention_mask: torch.Tensor


class NoPeekForm(CausalForm):
    """`<eos> target <eos>`: the prefix has to do without the source. Source: the authors' `format_mode` nopeek."""

    name = "nopeek"

    def collate(self, examples: Sequence[Example]) -> Batch:
        """A batch to train on, padded on the right: the target behind an <eos> that carries no loss."""
        return super().collate([{**example, "input_ids": np.array([self.eos])} for example in examples])

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """A batch to generate from: <eos> alone."""
        return super().prompts([{**example, "input_ids": np.array([self.eos])} for example in examples])


class InfixForm(NoPeekForm):
    """` source ` by itself, and `<eos> target <eos>` behind the infix. Source: the authors' `format_mode` infix."""

    name = "infix"

    def collate(self, examples: Sequence[Example]) -> InfixBatch:
        """A batch to train on: targets padded on the right, sources on the left."""
        return {**super().collate(examples), **self._sources(examples)}  # type: ignore[typeddict-item]

    def prompts(self, examples: Sequence[Example]) -> InfixBatch:
        """A batch to generate from: <eos>, and the sources padded on the left."""
        return {**super().prompts(examples), **self._sources(examples)}  # type: ignore[typeddict-item]

    def _sources(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        backwards = [example["input_ids"][:-1][::-1] for example in examples]  # without the source's <eos>
        source_ids = pad_rows(backwards, self.pad).flip(1)
        mask = pad_rows([np.ones(len(row), dtype=np.int64) for row in backwards], 0).flip(1)
        return {"source_ids": source_ids, "source_attention_mask": mask}


FORMS: dict[str, type[CausalForm]] = {
    "cat": CausalForm,
    "peek": CausalForm,
    "nopeek": NoPeekForm,
    "infix": InfixForm,
}
