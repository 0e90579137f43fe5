"""What each --mode trains: a base made ready for it. What requires a gradient is trained; the rest is frozen.

prefixtune     a prefix in front of the frozen base's keys and values       PrefixTuning, PrefixEmbTuning
finetune       everything
finetune-top   the top blocks of each stack, and the norm behind them
adaptertune    bottlenecks inside the frozen base                           AdapterTuning
bothtune       a prefix, and the base with it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from seq2seq.adapters import AdapterTuning
from seq2seq.arguments import PREFIX_MODES, Arguments
from seq2seq.prefix_parameters import fit
from seq2seq.prefixTuning import PrefixEmbTuning, PrefixTuning
from seq2seq.runs import Run
from seq2seq.stacks import layers_of, stacks_of
from seq2seq.utils import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Tuned = PrefixTuning | AdapterTuning
NORMS = ("ln_f", "norm", "layer_norm")  # behind the last block: GPT-2's, Llama's, mBART's (BART's blocks end in theirs)


def tune(arguments: Arguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel | Tuned:
    """The base made ready for --mode.

    Raises UserError for an option that the mode or the family cannot do.
    """
    torch.manual_seed(arguments.seed)
    if arguments.mode in PREFIX_MODES:
        prefix = with_prefix(arguments, model)
        initialise(prefix, arguments, tokenizer)
        if arguments.mode == "bothtune":
            prefix.model.requires_grad_(True)
        return prefix
    if arguments.mode == "adaptertune":
        return AdapterTuning(model, arguments.bottleneck, arguments.adapter_design)
    if arguments.mode == "finetune-top":
        return unfreeze_top(model, arguments.top_layers)
    return model


def with_prefix(arguments: Arguments, model: PreTrainedModel) -> PrefixTuning:
    """The prefix that --prefix_mode and --format_mode ask for.

    Raises UserError for an infix of input vectors alone (the authors have none either).
    """
    infix = arguments.format_mode == "infix"
    length: Any = {} if arguments.preseqlen is None else {"preseqlen": arguments.preseqlen}
    options: dict[str, Any] = {"mid_dim": arguments.mid_dim, "sites": arguments.sites, **length}
    options["dropout"] = arguments.prefix_dropout
    if arguments.prefix_mode == "activation":
        return PrefixTuning(model, deep=arguments.deep, infix=infix, **options)
    if infix:
        raise UserError("--prefix_mode embedding: an infix has keys and values; take --prefix_mode activation")
    if arguments.deep:
        raise UserError("--deep: is for --prefix_mode activation; input vectors have an MLP of one hidden layer")
    return PrefixEmbTuning(model, **options)


def initialise(prefix: PrefixTuning, arguments: Arguments, tokenizer: PreTrainedTokenizerBase) -> None:
    """Start from words (--lowdata_token) or from another run's prefix (--prefix_model_path), else at random."""
    if arguments.lowdata_token:
        prefix.init_from_text(arguments.lowdata_token, tokenizer)
    elif arguments.prefix_model_path:
        start_from_run(prefix, Run.open(arguments.prefix_model_path))


def start_from_run(prefix: PrefixTuning, run: Run) -> None:
    """Start with the keys and values that another run has kept: exactly when flat, fitted by an MLP.

    Raises UserError for a prefix of another base, length or form.
    """
    kept = PrefixTuning.from_pretrained(run.directory, prefix.model).trained()
    targets = {name: module().detach() for name, module in kept.items()}
    own = {name: module().shape for name, module in prefix.trained().items()}
    theirs = {name: target.shape for name, target in targets.items()}
    if own != theirs:
        shown = [", ".join(f"{n} {tuple(s)}" for n, s in shapes.items()) for shapes in (theirs, own)]
        raise UserError(f"--prefix_model_path {run.directory}: its prefix has {shown[0]}, this one {shown[1]}")
    fit(prefix.trained(), targets)


def unfreeze_top(model: PreTrainedModel, blocks: int) -> PreTrainedModel:
    """Freeze all but the last `blocks` blocks of each stack and the norm behind them; returns the model.

    Raises UserError for more blocks than a stack has.
    """
    model.requires_grad_(False)
    for stack in stacks_of(model).values():
        layers = layers_of(stack)
        if not layers:
            raise UserError(f"--mode finetune-top: {type(model).__name__} has no blocks of BART's, GPT-2's or Llama's")
        if blocks > len(layers):
            raise UserError(f"--top_layers {blocks}: the base has {len(layers)} blocks a stack; give at most that")
        norms = [module for name in NORMS if isinstance(module := getattr(stack, name, None), nn.Module)]
        for module in (*layers[len(layers) - blocks :], *norms):
            module.requires_grad_(True)
    return model
