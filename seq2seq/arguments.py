"""Every option of the commands, once: a field with its unit and the reason for its default, checked where it is read.

`train_bart.py` (and GPT-2's `train_e2e.py`) turn this dataclass into flags and YAML keys (parsing.py); nothing else
repeats them.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from seq2seq.utils import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
LARGEST_SEED = 2**63 - 1  # torch's
LONGEST = 10**9  # minutes, 19 centuries; a timedelta holds some more
PREFIX_MODES = ("prefixtune", "bothtune")
ABOUT_THE_CALL = ("resume", "overwrite", "do_train", "prefix_model_path", "output_dir", "progress")
INPUTS = (
    *("model_name_or_path", "distill_from", "tokenizer_name_or_path", "embeddings_from", "prefix_model_path"),
    *("data_dir", "valid_file"),
)
PATHS = (*INPUTS, "output_dir", "cache_dir")
MAY_BE_ON_THE_HUB = ("model_name_or_path", "distill_from", "tokenizer_name_or_path", "embeddings_from")
AT_LEAST = {
    "preseqlen": 1, "mid_dim": 0, "bottleneck": 1, "top_layers": 1, "lowdata": 1, "bsz": 1, "eval_bsz": 1,
    "n_train": 1, "n_val": 0, "n_test": 1, "epoch": 1, "warmup_steps": 0, "weight_decay": 0,
    "max_grad_norm": 0, "gradient_accumulation_steps": 1, "val_every_steps": 1, "save_every_steps": 1,
    "eval_num_beams": 1, "max_steps": -1, "threads": 1, "max_length": 2, "min_length": 0,
    "no_repeat_ngram_size": 0, "tokens_per_batch": 1, "seed": 0, "lowdata_seed": 0, "span_mean": 1,
}  # fmt: skip
AT_MOST = {"seed": LARGEST_SEED, "max_minutes": LONGEST}
SHARES = ("prefix_dropout", "label_smoothing", "mask_ratio", "text_to_text_share", "adam_beta2")


@dataclass
class WhatArguments:
    """What to do and where."""

    mode: Literal["prefixtune", "finetune", "finetune-top", "adaptertune", "bothtune", "pretrain"] = "prefixtune"
    """What is trained: a prefix, everything, the top blocks, adapters, prefix and base, everything on plain text."""
    model_name_or_path: str | None = None
    """Base model: hub name or `save_pretrained` folder; default: the carried bart-mini or gpt2-mini."""
    output_dir: str | None = None
    """Run directory; default: runs/<mode>-<task>, and with --do_train no the run that is decoded."""
    resume: bool = False
    """Go on from checkpoints/last.ckpt of the run directory."""
    overwrite: bool = False
    """Start again in a run directory that already holds a run."""
    do_train: bool = True
    """`no`: only decode and score the run given by --prefix_model_path."""
    prefix_model_path: str | None = None
    """Run directory: --do_train no decodes it; a training starts from its prefix."""


@dataclass
class InputArguments:
    """Which data."""

    task: str | None = None
    """Task by name (`xsum`, `e2e`, …); default: what --data_dir holds, else the carried `sample` or `sample_tables`."""
    data_dir: str | None = None
    """Folder with {train,val,test}.{source,target}, .jsonl(.gz), .parquet, .csv, or a `save_to_disk` folder."""
    source_lang: str | None = None
    """Translation: language code of the source (field or file ending)."""
    target_lang: str | None = None
    """Translation: language code of the target."""


@dataclass
class PrefixArguments:
    """The prefix (Li & Liang 2021, sections 4.2 and 4.3)."""

    prefix_mode: Literal["activation", "embedding"] = "activation"
    """What is learned: keys and values, or input vectors of which the frozen base makes them."""
    format_mode: Literal["cat", "peek", "nopeek", "infix"] = "cat"
    """Decoders: prefix, source, target (cat, peek); without the source (nopeek); source, infix, target."""
    preseqlen: int | None = None
    """Prefix length P in virtual tokens per site; default: the --lowdata_token words' own, else 5."""
    lowdata_token: str | None = None
    """Words whose keys and values in the frozen base the prefix starts with; default: random."""
    mid_dim: int = 512
    """Width of the reparametrising MLP; 0 = flat, no MLP."""
    deep: bool = False
    """One more hidden layer in the MLP."""
    sites: list[Literal["encoder", "decoder", "cross"]] | None = None
    """Attention sites that get a prefix, as `encoder cross` or `[encoder, cross]`; default: all the model has."""
    prefix_dropout: float = 0.0
    """Dropout on the prefix's keys and values (embedding: on its input vectors), per example and site, share."""


@dataclass
class OtherModesArguments:
    """--mode adaptertune and finetune-top."""

    bottleneck: int = 100
    """Adapters: width between W_down and W_up."""
    adapter_design: Literal[1, 2] = 1
    """Adapters: 1 = LayerNorm, behind every block; 2 = no LayerNorm, behind every attention and MLP."""
    top_layers: int = 2
    """finetune-top: blocks of each stack that are trained, counted from the top."""


@dataclass
class DecodingArguments:
    """What is decoded, and in what batches; a length left out is the task's own."""

    max_source_length: int | None = None
    """Longest source, tokens; longer ones are cut and counted."""
    eval_bsz: int = 16
    """Examples per batch in validation and decoding."""
    n_test: int | None = None
    """Use only the first n test records of each part (`gen.py`: of the split that it decodes)."""
    cache_dir: str = "~/.cache/prefixtuning"
    """Where token caches live, named by content."""


@dataclass
class DataArguments:
    """Training data and validation's; a length left out is the task's own."""

    source_prefix: str | None = None
    """Text straight in front of every source, in training and decoding, as `"summarize: "` with its last blank."""
    max_target_length: int | None = None
    """Longest training target, tokens."""
    val_max_target_length: int | None = None
    """Longest validation target and generation, tokens."""
    test_max_target_length: int | None = None
    """Longest test target, tokens, to put like with like in batches; scores see references whole."""
    bsz: int = 16
    """Examples per training batch."""
    n_train: int | None = None
    """Use only the first n training records, each with all its references."""
    lowdata: int | None = None
    """Use n training pairs (source, reference), drawn at random; a smaller n draws a part of a larger's."""
    lowdata_seed: int = 0
    """Seed of that draw."""
    n_val: int = 100
    """Validation records that are decoded and scored at each validation; loss uses all of them."""


@dataclass
class MachineArguments:
    """How this machine computes."""

    precision: Literal["auto", "32", "bf16"] = "auto"
    """bf16: frozen weights in bfloat16, what is trained in float32 (a base: mixed); auto: where units for it are."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention of the base model."""
    threads: int | None = None
    """CPU threads of torch; default: torch's own choice."""
    progress: bool = True
    """Show the progress bar."""


@dataclass
class OptimisationArguments:
    """AdamW with warm-up and decay (the authors' recipes)."""

    learning_rate: float = 5e-5
    """Peak learning rate; 5e-5 is the paper's for its large bases."""
    lr_scheduler: Literal["linear", "constant"] = "linear"
    """After warm-up: linear to 0 at the last step, or constant."""
    warmup_steps: int = 0
    """Optimiser steps from 0 to the peak learning rate."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    adam_beta2: float = 0.999
    """AdamW's second-moment decay; 0.98 is usual when a base is trained from scratch."""
    max_grad_norm: float | None = None
    """Clip the gradient's norm; 0 = no clipping; default: the authors', 1 in train_e2e.py, none in train_bart.py."""
    gradient_accumulation_steps: int = 1
    """Batches per optimiser step."""
    objective_mode: Literal[0, 1] = 0
    """GPT-2's loss: 0 = mean over the batch's target tokens; 1 = sum over a row's, mean over rows (the authors')."""
    label_smoothing: float = 0.0
    """Share of probability spread over the vocabulary in the training loss."""
    distill_from: str | None = None
    """Teacher for distillation: a fine-tuned model without prefix (a run's model/ folder)."""
    distill_weight: float = 1.0
    """Share of KL(teacher‖student) in the loss, 0 to 1; the rest is the usual loss."""
    epoch: int = 5
    """Passes over the training data."""
    max_steps: int = -1
    """Stop after this many optimiser steps; -1 = by --epoch alone."""
    max_minutes: float | None = None
    """Stop training after this many minutes of wall time."""
    seed: int = 42
    """Seeds initialisation, order, dropout and noise."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """torch.compile the base's forward: the first steps take minutes; pays, if at all, in long trainings."""


@dataclass
class ValidationArguments:
    """Validation, checkpoints, early stopping, the final comparison."""

    val_every_steps: int | None = None
    """Validate every n optimiser steps and at the end; default: at each epoch's end."""
    save_every_steps: int = 200
    """Write checkpoints/last.ckpt every n optimiser steps (and at each validation)."""
    best_metric: str | None = None
    """Score that chooses best.ckpt and stops early; default: the task's (--n_val 0: `loss`, that of validation)."""
    early_stopping_patience: int = -1
    """Validations without a better --best_metric before training stops; -1 = never."""
    eval_num_beams: int = 1
    """Beams of the decoding inside validation; 1 = greedy, quick."""
    baselines: Literal["none", "lead", "all"] = "lead"
    """Score beside the run: the source's first sentence (lead), and the untuned base as well (all)."""
    logger: Literal["none", "tensorboard", "wandb"] = "none"
    """Log to TensorBoard or Weights & Biases as well (the extra of that name must be installed)."""


@dataclass
class SearchArguments:
    """Beam search; what is left out is the task's own."""

    num_beams: int | None = None
    """Beams."""
    min_length: int | None = None
    """Shortest output, tokens."""
    max_length: int | None = None
    """Longest output, tokens."""
    length_penalty: float | None = None
    """Exponent of the length in a beam's score."""
    no_repeat_ngram_size: int | None = None
    """n-grams of this size occur once in an output; 0 = off."""
    early_stopping: bool | None = None
    """Stop a search once num_beams hypotheses are finished."""
    length_norm: Literal["target", "prompt"] | None = None
    """What a length penalty counts and when a search may end: by the output alone, or as the authors' (`prompt`)."""


# What may differ when a run is resumed; anything else would be ignored, or would not be the same training.
MAY_CHANGE = (
    *("epoch", "max_steps", "max_minutes", "val_every_steps", "save_every_steps", "early_stopping_patience"),
    *("best_metric", "n_val", "n_test", "eval_bsz", "val_max_target_length", "test_max_target_length", "valid_file"),
    *("eval_num_beams", "baselines", "cache_dir", "logger", "threads", "gradient_checkpointing"),
    *(f.name for f in fields(SearchArguments)),
)


@dataclass
class PretrainArguments:
    """--mode pretrain only: BART's denoising (Lewis et al. 2019), GPT-2's causal language modelling, on plain text."""

    base_config: dict[str, Any] = field(default_factory=dict)
    """Fields of transformers' BartConfig or GPT2Config for a new base; ignored when --model_name_or_path is given."""
    tokenizer_name_or_path: str | None = None
    """Tokenizer for a new base; default: trained on the text."""
    embeddings_from: str | None = None
    """Model whose token embeddings a new base starts with: it must have the same vocabulary and width."""
    vocab_size: int = 8192
    """Entries of a newly trained byte-level BPE."""
    tokens_per_batch: int = 2048
    """Text tokens per batch, a multiple of 512."""
    window_lengths: list[int] | dict[int, list[int]] = field(default_factory=lambda: [64, 128, 256, 512])
    """Lengths of text windows, tokens; one is drawn per batch. As `{0: [32], 800: [64, 512]}`: from that batch on.

    Short ones are cheap and teach copying first, long ones train the high positions."""
    mask_ratio: float = 0.3
    """Share of tokens hidden by text infilling."""
    span_mean: float = 3.0
    """Mean of the Poisson that draws span lengths, tokens."""
    permute_sentences: bool = True
    """Shuffle the source's sentences."""
    text_to_text_share: float = 0.0
    """GPT-2: share of windows that become text-to-text forms, which teach copying; the others stay plain text."""
    start_copying: bool = False
    """GPT-2: set two layers of the new base as induction heads, so that it copies from the first step on."""
    valid_file: str | None = None
    """Held-out text file for bits per byte."""


@dataclass
class Arguments(
    PretrainArguments,
    SearchArguments,
    DecodingArguments,
    MachineArguments,
    ValidationArguments,
    OptimisationArguments,
    DataArguments,
    OtherModesArguments,
    PrefixArguments,
    InputArguments,
    WhatArguments,
):
    """All options of `train_bart.py` and `train_e2e.py`."""

    def __post_init__(self) -> None:
        self._check_values()
        self._check_learning()
        self._check_run()

    def _check_values(self) -> None:
        """Each option by itself."""
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{name} {value}: must be a finite number")
            if value == "":
                raise UserError(f"--{name}: is empty; give a value, or leave it out")
            if isinstance(value, str) and "\0" in value:
                raise UserError(f"--{name}: holds a character of number 0, which no name has; take it out")
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name, low in AT_LEAST.items():
            if given.get(name, low) < low:
                raise UserError(f"--{name} {given[name]}: must be at least {low}")
        for name, high in AT_MOST.items():
            if given.get(name, high) > high:
                raise UserError(f"--{name} {given[name]}: must be at most {high}")
        for name in ("learning_rate", "max_minutes"):
            if given.get(name, 1) <= 0:
                raise UserError(f"--{name} {given[name]}: must be above 0")
        for name in SHARES:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"--{name} {getattr(self, name)}: is a share, at least 0 and below 1")
        if not 0.0 < self.distill_weight <= 1.0:
            raise UserError(f"--distill_weight {self.distill_weight}: is a share, above 0 and at most 1")
        if self.max_steps == 0:
            raise UserError("--max_steps 0: trains nothing; give at least 1, or -1 to go by --epoch")

    def _check_learning(self) -> None:
        """Options of what is learned, beside each other."""
        if self.format_mode == "infix" and self.mode not in PREFIX_MODES:
            raise UserError(f"--format_mode infix: --mode {self.mode} has no infix; leave it out, or take prefixtune")
        if self.lowdata and self.n_train:
            raise UserError("--lowdata draws from all training pairs; leave --n_train out, or give --n_train null")
        if self.distill_from and self.format_mode not in ("cat", "peek"):
            how = "hides it" if self.format_mode == "nopeek" else "gives it apart from the target"
            raise UserError(f"--distill_from: the teacher reads the source; --format_mode {self.format_mode} {how}")
        others = {f"--mode {self.mode}": self.mode not in ("prefixtune", "finetune"),
                  f"--prefix_mode {self.prefix_mode}": self.prefix_mode == "embedding",
                  f"--format_mode {self.format_mode}": self.format_mode == "infix",
                  "--gradient_checkpointing": self.gradient_checkpointing}  # fmt: skip
        if self.compile and any(others.values()):
            other = next(name for name, given in others.items() if given)
            raise UserError(f"--compile: does not go with {other}; leave one of them out")
        if self.do_train and self.prefix_model_path and self.mode not in PREFIX_MODES:
            raise UserError(f"--prefix_model_path: --mode {self.mode} has no prefix to start; leave it out")
        if self.lowdata_token and self.prefix_model_path and self.do_train:
            raise UserError("--lowdata_token and --prefix_model_path both start the prefix; give one of them")

    def _check_run(self) -> None:
        """Options of the call: train or decode, go on or start again."""
        if not self.do_train and not self.prefix_model_path:
            raise UserError("--do_train no: say which run to decode with --prefix_model_path RUN")
        if self.resume and not self.do_train:
            raise UserError("--resume: goes on with a training, and --do_train no has none; leave one of them out")
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other: go on, or start again")
        if self.mode == "pretrain" and not self.do_train:
            raise UserError(
                "--do_train no: a pretraining has nothing to decode; train on its model/ folder with "
                "--model_name_or_path RUN/model"
            )
        if self.mode == "pretrain" and not self.data_dir:
            raise UserError("--mode pretrain: say where the text is with --data_dir DIR (*.txt, *.txt.gz, *.txt.xz)")


# What a run decodes as its own task says: another task has its own data, lengths and search.
OF_THE_TASK = (
    *("data_dir", "source_lang", "target_lang"),
    *("max_source_length", "max_target_length", "val_max_target_length", "test_max_target_length"),
    *(f.name for f in fields(SearchArguments)),
)


def recipe_of(arguments: Arguments) -> dict[str, Any]:
    """What a run's config.yaml keeps: all that decides its result, not how this call was made.

    Also the run whose prefix a training starts from; of a decoding, that it is one, and of which run. What it reads is
    named as `located` does.
    """
    kept = {name: value for name, value in asdict(arguments).items() if name not in ABOUT_THE_CALL}
    if arguments.prefix_model_path:
        kept["prefix_model_path"] = arguments.prefix_model_path
    return located(kept if arguments.do_train else {**kept, "do_train": False})


def located(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the files and folders that a run reads by their whole path, so that it does from anywhere.

    A name that is none of this machine's files stays: a model may be on the hub.
    """
    given = {name: Path(options[name]).expanduser() for name in INPUTS if options.get(name)}
    there = {name: path for name, path in given.items() if path.exists()}
    for name in there.keys() & set(MAY_BE_ON_THE_HUB):
        if there[name].is_dir() and not any(there[name].glob("*.json")):  # a folder that happens to be called so
            del there[name]
    return {**options, **{name: os.path.abspath(path) for name, path in there.items()}}


def inputs_of(arguments: Arguments) -> dict[str, str | None]:
    """What a run reads: option -> file, folder or hub name, None where it is left out."""
    return {name: getattr(arguments, name) for name in INPUTS}


def place_of(arguments: Arguments) -> dict[str, Any]:
    """How a run takes its directory: what `Run.check` and `Run.create` ask beside its name."""
    return {"resume": arguments.resume, "overwrite": arguments.overwrite, "inputs": inputs_of(arguments)}
