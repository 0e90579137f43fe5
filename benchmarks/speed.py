"""Seconds of a beam search or a training step: this project, PEFT and the plain base, alternating in one run.

    python benchmarks/speed.py --item beam --family bart --precision 32 --runs 5
    python benchmarks/speed.py --item train --family gpt2 --precision bf16 --runs 7 --layers 4

Models have random weights in the shapes of BART-base and GPT-2-small; fewer `--layers` take a share of the vocabulary
with them, so that a quick run keeps the proportions. Each system runs once unmeasured; then all take turns.

Shapes: B sources, S source and T target tokens, N beams, P prefix length.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from seq2seq.utils import UserError, command  # noqa: E402

WIDTH, HEADS = 768, 12
LAYERS = {"bart": 6, "gpt2": 12}  # of one stack
VOCABULARY = {"bart": 50265, "gpt2": 50257}
Run = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """What is measured. 0 = the family's own: BART 4 x 512 to 64 (beam: 60), P = 200; GPT-2 10 (16) x 40 to 40, P = 5.

    Args:
        item: beam search, or a training step (forward, backward, optimiser).
        family: whose shape the model has.
        precision: of the base and everything in it.
        runs: measured ones of each system.
        layers: of one stack; the vocabulary shrinks in proportion.
        threads: of torch.
        batch: sources B.
        source: tokens S of each.
        target: tokens T; in beam search all of them new.
        beams: N; 0 = 6 for BART, 5 for GPT-2.
        preseqlen: P.
        mid_dim: of the MLP in training; in beam search there is none any more.
    """

    item: Literal["beam", "train"] = "beam"
    family: Literal["bart", "gpt2"] = "bart"
    precision: Literal["32", "bf16"] = "32"
    runs: int = 5
    layers: int = 0
    threads: int = 2
    batch: int = 0
    source: int = 0
    target: int = 0
    beams: int = 0
    preseqlen: int = 0
    mid_dim: int = 0

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
        if self.runs < 1:
            raise UserError(f"--runs {self.runs}: give at least 1")


def base_model(setting: Setting) -> Any:
    """A random model of the setting's shape and precision."""
    from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    vocabulary = VOCABULARY[setting.family] * setting.layers // LAYERS[setting.family]
    model: Any
    if setting.family == "bart":
        model = BartForConditionalGeneration(
            BartConfig(
                vocab_size=vocabulary,
                d_model=WIDTH,
                encoder_layers=setting.layers,
                decoder_layers=setting.layers,
                encoder_attention_heads=HEADS,
                decoder_attention_heads=HEADS,
                encoder_ffn_dim=4 * WIDTH,
                decoder_ffn_dim=4 * WIDTH,
            )
        )
    else:
        special: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_layer=setting.layers, **special))
    return model.to(torch.bfloat16 if setting.precision == "bf16" else torch.float32)


def inputs_of(setting: Setting, model: Any) -> dict[str, Tensor]:
    """One batch; a decoder's training row holds source and target."""
    torch.manual_seed(1)
    bart, train = setting.family == "bart", setting.item == "train"
    length = setting.source + (setting.target if train and not bart else 0)
    ids = torch.randint(3, model.config.vocab_size, (setting.batch, length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if train and bart:
        inputs["labels"] = torch.randint(3, model.config.vocab_size, (setting.batch, setting.target))
    elif train:
        inputs["labels"] = ids.masked_fill(torch.arange(length) < setting.source, -100)
    return inputs


def beam_runs(setting: Setting) -> dict[str, Run]:
    """One beam search of each system; none stops before its last token."""
    from peft import PrefixTuningConfig, get_peft_model

    from seq2seq.generation import generate
    from seq2seq.prefixTuning import PrefixTuning

    model = base_model(setting).eval()
    length = {"min_new_tokens": setting.target, "max_new_tokens": setting.target}
    options: dict[str, Any] = {**inputs_of(setting, model), **length, "num_beams": setting.beams, "do_sample": False}
    prefix = PrefixTuning(copy.deepcopy(model), setting.preseqlen, mid_dim=0).eval()
    config = PrefixTuningConfig(task_type=task_type(setting), num_virtual_tokens=setting.preseqlen)
    peft = get_peft_model(copy.deepcopy(model), config).to(model.dtype).eval()
    return {
        "ours": lambda: prefix.generate(**options),
        "ours without prefix": lambda: generate(model, **options),
        "peft": lambda: peft.generate(**options),
        "plain": lambda: model.generate(**options),
    }


def train_runs(setting: Setting) -> dict[str, Run]:
    """One training step of each system, with AdamW; "plain" trains the whole base."""
    from peft import PrefixTuningConfig, get_peft_model

    from seq2seq.prefixTuning import PrefixTuning

    model = base_model(setting)
    inputs = inputs_of(setting, model)
    sites = {"ours": None, **({"ours decoder only": ("decoder",)} if setting.family == "bart" else {})}
    ours = {
        name: PrefixTuning(copy.deepcopy(model), setting.preseqlen, setting.mid_dim, sites=which)
        for name, which in sites.items()
    }
    configs = {
        "peft": PrefixTuningConfig(task_type=task_type(setting), num_virtual_tokens=setting.preseqlen),
        "peft with MLP": PrefixTuningConfig(
            task_type=task_type(setting),
            num_virtual_tokens=setting.preseqlen,
            prefix_projection=True,
            encoder_hidden_size=setting.mid_dim,
        ),
    }
    theirs = {name: get_peft_model(copy.deepcopy(model), config).to(model.dtype) for name, config in configs.items()}
    steps: dict[str, Run] = {name: step_on_targets(prefix, inputs) for name, prefix in ours.items()}
    stock = {**theirs, "plain": copy.deepcopy(model)}
    return steps | {name: step_of(other, lambda m: m(**inputs, use_cache=False).loss) for name, other in stock.items()}


def step_on_targets(prefix: Any, inputs: dict[str, Tensor]) -> Run:
    """The step that the project's Lightning modules take."""
    from seq2seq.lightning_base import shift_right
    from seq2seq.losses import logits_at, next_tokens, target_positions

    rest = {name: value for name, value in inputs.items() if name != "labels"}
    targets = inputs["labels"]
    if prefix.config.is_encoder_decoder:
        rest["decoder_input_ids"] = shift_right(targets, prefix.config)
    else:
        targets = next_tokens(targets)

    def loss(prefix: Any) -> Tensor:
        positions = target_positions(targets)
        with logits_at(prefix.model, positions):
            logits = prefix(**rest, use_cache=False).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits.float(), targets.flatten()[positions])

    return step_of(prefix, loss)


def step_of(model: Any, loss: Callable[[Any], Tensor]) -> Run:
    """A training step of what requires a gradient in a model."""
    optimizer = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> None:
        loss(model).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def task_type(setting: Setting) -> str:
    """PEFT's name of the family's task."""
    return "SEQ_2_SEQ_LM" if setting.family == "bart" else "CAUSAL_LM"


def measure(runs: dict[str, Run], number: int) -> dict[str, list[float]]:
    """Seconds of each run, `number` times, all taking turns; one turn before is not measured."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(number + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """A Markdown table: median seconds, their spread, and how often as long as ours, turn by turn."""
    lines = ["| system | seconds | spread | times ours |", "|---|---|---|---|"]
    for name, values in seconds.items():
        ratios = sorted(value / ours for value, ours in zip(values, seconds["ours"], strict=True))
        spread = f"{min(values):.3f}-{max(values):.3f}"
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        lines.append(f"| {name} | {statistics.median(values):.3f} | {spread} | {ratio} |")
    return "\n".join(lines)


def main() -> int:
    """Measure one setting and print its table; returns the exit code."""

    def work() -> None:
        from jsonargparse import auto_cli

        setting = auto_cli(Setting)
        torch.set_num_threads(setting.threads)
        runs = beam_runs(setting) if setting.item == "beam" else train_runs(setting)
        print(setting, table(measure(runs, setting.runs)), sep="\n\n")

    return command(work)


if __name__ == "__main__":
    sys.exit(main())
