"""Which options act in which modes, and beside which others.

A flag that would do nothing is refused; a recipe may serve many modes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from seq2seq.arguments import (
    ABOUT_THE_CALL,
    PREFIX_MODES,
    Arguments,
    DecodingArguments,
    InputArguments,
    MachineArguments,
    SearchArguments,
)
from seq2seq.utils import UserError

OF_THE_PREFIX = ("prefix_mode", "preseqlen", "lowdata_token", "mid_dim", "deep", "sites", "prefix_dropout")
OF_PRETRAINING = (
    *("base_config", "tokenizer_name_or_path", "embeddings_from", "vocab_size", "tokens_per_batch", "window_lengths"),
    *("mask_ratio", "span_mean", "permute_sentences", "text_to_text_share", "start_copying", "valid_file"),
)
ONLY_IN = {
    **dict.fromkeys(OF_THE_PREFIX, PREFIX_MODES),
    **dict.fromkeys(OF_PRETRAINING, ("pretrain",)),
    **{"bottleneck": ("adaptertune",), "adapter_design": ("adaptertune",), "top_layers": ("finetune-top",)},
}
# Pretraining reads plain text, decodes nothing, and has bits per byte as its only score.
NOT_IN_PRETRAINING = (
    *("task", "source_lang", "target_lang", "format_mode", "distill_from", "distill_weight"),
    *("bsz", "eval_bsz", "n_train", "n_val", "n_test", "lowdata", "lowdata_seed", "best_metric", "baselines"),
    *("max_source_length", "max_target_length", "val_max_target_length", "test_max_target_length", "eval_num_beams"),
    *("objective_mode", "source_prefix", *(f.name for f in fields(SearchArguments))),
)
# What changes something in --do_train no; all else is as the run that is decoded was trained.
_GROUPS = (InputArguments, SearchArguments, DecodingArguments, MachineArguments)
OF_THE_SEARCH = {f.name for f in fields(SearchArguments)}
IN_DECODING = {
    *(f.name for group in _GROUPS for f in fields(group)),
    *(*ABOUT_THE_CALL, "config", "model_name_or_path", "test_max_target_length", "baselines"),
}


def acts_in(option: str, mode: str) -> bool:
    """Whether an option changes anything in a training of this mode."""
    return mode in ONLY_IN.get(option, (mode,)) and not (mode == "pretrain" and option in NOT_IN_PRETRAINING)


# Options that act only beside another one: whether it is there, and what to say where it is not.
NEEDS: dict[str, tuple[Callable[[Arguments], bool], str]] = {
    **dict.fromkeys(
        ("label_smoothing", "objective_mode"),
        (
            lambda a: not a.distill_from or a.distill_weight < 1.0,
            "where the teacher alone is learnt from; give --distill_weight below 1",
        ),
    ),
    "deep": (lambda a: a.mid_dim > 0 or not a.deep, "without an MLP; give --mid_dim above 0"),
    "distill_weight": (lambda a: bool(a.distill_from), "without a teacher; give --distill_from"),
    "source_prefix": (lambda a: a.format_mode != "nopeek", "where the source is hidden; take another --format_mode"),
    "lowdata_seed": (lambda a: bool(a.lowdata), "where nothing is drawn; give --lowdata"),
    **dict.fromkeys(
        ("length_penalty", "early_stopping", "length_norm"),
        (lambda a: a.num_beams != 1, "with one beam; give --num_beams above 1"),
    ),
    "eval_num_beams": (lambda a: a.n_val > 0, "where validation decodes nothing; give --n_val above 0"),
    **dict.fromkeys(
        ("base_config", "tokenizer_name_or_path", "embeddings_from", "start_copying"),
        (lambda a: not a.model_name_or_path, "to a base that is there; leave --model_name_or_path out"),
    ),
    "vocab_size": (
        lambda a: not (a.model_name_or_path or a.tokenizer_name_or_path),
        "where the tokenizer is there; leave --model_name_or_path and --tokenizer_name_or_path out",
    ),
    "early_stopping_patience": (
        lambda a: a.mode != "pretrain" or bool(a.valid_file) or a.early_stopping_patience < 0,
        "where nothing is validated; give --valid_file",
    ),
}


def refuse_without_effect(options: Iterable[str], arguments: Arguments) -> None:
    """Raise UserError for the first of the options, given as flags, that does nothing in this training."""
    for option in options:
        if why := without_effect(option, arguments):
            raise UserError(f"--{option}: {why}")


def without_effect(option: str, arguments: Arguments) -> str | None:
    """Why an option does nothing in this training, and what to do instead; None where it acts."""
    mode = arguments.mode
    if not acts_in(option, mode):
        where = f"; it is for --mode {' and '.join(ONLY_IN[option])}" if option in ONLY_IN else ""
        return f"does nothing in --mode {mode}{where}; leave it out"
    is_there, why = NEEDS.get(option, (lambda _: True, ""))
    return None if is_there(arguments) else f"does nothing {why}, or leave it out"


def refuse_idle_search(options: Iterable[str], arguments: Arguments) -> None:
    """Raise UserError for the first of the options of a search, given for a decoding, that does nothing in it."""
    refuse_without_effect((name for name in options if name in OF_THE_SEARCH), arguments)


def refuse_in_decoding(options: Iterable[str], arguments: Arguments, run: Mapping[str, Any]) -> None:
    """Raise UserError for the first of the options, given as flags, that a finished run has otherwise.

    run: the options of the run that is decoded.
    """
    for option in options:
        value = getattr(arguments, option, None)
        own = run.get(option, getattr(Arguments, option, value))  # a run of an earlier version has not all options
        if option not in IN_DECODING and value != own:
            raise UserError(
                f"--{option} {value}: changes nothing in the decoding of a run that was trained with {own}; "
                "leave it out"
            )
