"""What is measured: random models in the shapes of BART-base and GPT-2-small, their batches, one training step.

Knows torch and transformers only: the AdapterHub worker imports it under an older transformers.

Shapes: B sources, S source and T target tokens, N beams, P prefix length.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

HEADS = 12
LAYERS = {"bart": 6, "gpt2": 12}  # of one stack
VOCABULARY = {"bart": 50265, "gpt2": 50257}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
Lengths = tuple[tuple[int, int], ...]  # (source, target) tokens of each row

# Tokens of source and target, both with their <eos>, of the first 100 training lines of E2E in GPT-2's vocabulary,
# in the order of the prefix-tuning authors' file.
E2E_LENGTHS: Lengths = (
    (32, 22), (24, 30), (42, 31), (34, 39), (27, 22), (26, 34), (26, 20), (41, 39), (31, 23), (28, 30),
    (28, 24), (20, 15), (26, 28), (29, 28), (20, 14), (15, 14), (34, 23), (27, 32), (38, 36), (18, 16),
    (30, 30), (34, 32), (30, 32), (40, 35), (22, 16), (31, 34), (34, 31), (27, 27), (29, 20), (29, 28),
    (28, 27), (28, 21), (41, 38), (26, 31), (33, 33), (19, 21), (23, 19), (31, 26), (23, 21), (39, 31),
    (30, 21), (27, 21), (37, 36), (25, 18), (27, 26), (32, 27), (36, 23), (29, 29), (24, 23), (23, 15),
    (16, 11), (29, 24), (45, 43), (34, 18), (37, 34), (34, 30), (26, 15), (29, 20), (26, 31), (34, 27),
    (29, 22), (25, 22), (29, 25), (33, 30), (20, 15), (37, 18), (32, 17), (23, 19), (34, 38), (33, 34),
    (27, 18), (34, 37), (31, 32), (32, 18), (34, 33), (19, 24), (20, 18), (33, 31), (30, 31), (23, 13),
    (31, 38), (27, 21), (40, 20), (34, 28), (29, 22), (21, 16), (27, 17), (33, 27), (38, 37), (21, 21),
    (29, 29), (23, 20), (15, 16), (22, 20), (25, 24), (33, 26), (40, 43), (33, 31), (29, 29), (24, 30),
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One measurement. 0 = the family's own: BART 4 x 512 to 64 (beam: 60), P = 200; GPT-2 10 (16) x 40 to 40, P = 5.

    Args:
        item: beam search, or a training step (forward, backward, optimiser).
        family: whose shape the model has.
        precision: of the base and everything in it.
        layers: of one stack; the vocabulary shrinks in proportion.
        width: of the hidden states, a multiple of 12 heads.
        batch: sources B.
        source: tokens S of each.
        target: tokens T; in beam search all of them new.
        beams: N; 0 = 6 for BART, 5 for GPT-2.
        preseqlen: P.
        mid_dim: of the MLP in training; in beam search there is none any more.
        lengths: of each row, in place of source and target: batch after batch, padded as they come.
    """

    item: Literal["beam", "train"] = "beam"
    family: Literal["bart", "gpt2"] = "bart"
    precision: Literal["32", "bf16"] = "32"
    layers: int = 0
    width: int = 768
    batch: int = 0
    source: int = 0
    target: int = 0
    beams: int = 0
    preseqlen: int = 0
    mid_dim: int = 0
    lengths: Lengths = ()

    def __post_init__(self) -> None:
        bart, beam = self.family == "bart", self.item == "beam"
        own = {
            "layers": LAYERS[self.family],
            "batch": 4 if bart else 16 if beam else 10,
            "source": 512 if bart else 40,
            "target": 60 if beam else 64 if bart else 40,
            "beams": 6 if bart else 5,
            "preseqlen": 200 if bart else 5,
            "mid_dim": 800 if bart else 512,
        }
        for name, value in own.items():
            object.__setattr__(self, name, getattr(self, name) or value)

    @property
    def vocabulary(self) -> int:
        return VOCABULARY[self.family] * self.layers // LAYERS[self.family]

    @property
    def task_type(self) -> str:
        """PEFT's name of the family's task."""
        return "SEQ_2_SEQ_LM" if self.family == "bart" else "CAUSAL_LM"

    def batches(self) -> list[Lengths]:
        """Row lengths of each batch."""
        rows = self.lengths or ((self.source, self.target),) * self.batch
        return [rows[at : at + self.batch] for at in range(0, len(rows), self.batch)]


def base_model(setting: Setting, attention: str = "sdpa") -> Any:
    """A random model of the setting's shape, made in its precision.

    GPT-2 has no dropout, so that all systems do the same work: a prefix of the authors' kind switches it off.
    """
    from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[setting.precision])  # made in float32 first, its peak of memory would be too high
    try:
        if setting.family == "bart":
            config: Any = BartConfig(
                vocab_size=setting.vocabulary,
                d_model=setting.width,
                encoder_layers=setting.layers,
                decoder_layers=setting.layers,
                encoder_attention_heads=HEADS,
                decoder_attention_heads=HEADS,
                encoder_ffn_dim=4 * setting.width,
                decoder_ffn_dim=4 * setting.width,
            )
            return BartForConditionalGeneration._from_config(config, attn_implementation=attention)
        dropouts = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
        config = GPT2Config(
            vocab_size=setting.vocabulary,
            n_layer=setting.layers,
            n_head=HEADS,
            n_embd=setting.width,
            **{**SPECIAL, **dropouts},  # type: ignore[arg-type]
        )
        return GPT2LMHeadModel._from_config(config, attn_implementation=attention)
    finally:
        torch.set_default_dtype(usual)


def inputs_of(setting: Setting) -> list[dict[str, Tensor]]:
    """The batches, padded on the right; a decoder's training row holds source and target."""
    generator = torch.Generator().manual_seed(1)
    return [_batch(setting, rows, generator) for rows in setting.batches()]


def _batch(setting: Setting, rows: Lengths, generator: torch.Generator) -> dict[str, Tensor]:
    bart, train = setting.family == "bart", setting.item == "train"
    sources = torch.tensor([source for source, _ in rows])
    targets = torch.tensor([target for _, target in rows])
    lengths = sources + targets if train and not bart else sources

    def words(width: int) -> Tensor:
        return torch.randint(3, setting.vocabulary, (len(rows), width), generator=generator)

    ids = words(int(lengths.max()))
    places = torch.arange(ids.shape[1])
    mask = places < lengths[:, None]
    inputs = {"input_ids": ids.masked_fill(~mask, SPECIAL["pad_token_id"]), "attention_mask": mask.long()}
    if train and bart:
        labels = words(int(targets.max()))
        inputs["labels"] = labels.masked_fill(torch.arange(labels.shape[1]) >= targets[:, None], -100)
    elif train:
        inputs["labels"] = ids.masked_fill(~mask | (places < sources[:, None]), -100)
    return inputs


def search_options(setting: Setting, new_tokens: int = 0) -> dict[str, Any]:
    """What `generate` is given; no search stops before its last token.

    new_tokens: in place of the setting's target.
    """
    count = new_tokens or setting.target
    lengths = {"min_new_tokens": count, "max_new_tokens": count}
    return {**inputs_of(setting)[0], **lengths, "num_beams": setting.beams, "do_sample": False}


def stock_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The loss that a transformers model, or one wrapped by a peer, computes itself."""
    return model(**batch, use_cache=False).loss


def step_of(model: Any, loss: Callable[[Any, dict[str, Tensor]], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    """A training step of what requires a gradient in a model: forward, backward, AdamW."""
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True) if trained else None

    def step(batch: dict[str, Tensor]) -> None:
        loss(model, batch).backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()

    return step


def peak_memory() -> int:
    """The largest resident memory of this process so far, bytes.

    Linux: VmHWM, for getrusage's maximum begins with that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
