"""Where models come from: the hub, a `save_pretrained` folder, the package's own base, or a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from seq2seq.adapters import AdapterTuning
from seq2seq.arguments import PREFIX_MODES, Arguments
from seq2seq.generation import FAMILIES
from seq2seq.prefix_computed import ids_of_words
from seq2seq.prefixTuning import DEFAULT_LENGTH, PrefixTuning
from seq2seq.runs import Run
from seq2seq.tasks import CARRIED, Task
from seq2seq.text_forms import TextForm
from seq2seq.utils import UserError, one_line, resolve_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Family:
    """A family of base models and what a run needs to know of it."""

    is_encoder_decoder: bool
    auto_class: Any
    """transformers' AutoModel class that reads such a base."""
    carried_base: Path
    """The base that the package carries."""
    examples: str
    """Bases to name in an error."""
    command: str
    """The command that trains this family."""
    other_command: str
    """The command that trains the other one."""
    module_for: Callable[[str, str], Any]
    """(--mode, kind of task) -> Lightning module."""
    form: Callable[[Arguments, Any], TextForm]
    """(arguments, tokenizer) -> how texts stand in the model's input."""
    objective: Any
    """What --mode pretrain trains on (`pretrain.Objective`)."""


CARRIED_BASES = {
    "bart-mini": CARRIED / "bart-mini",
    "gpt2-mini": CARRIED.parent.parent / "gpt2" / "carried" / "gpt2-mini",
}


def place_of_base(name: str) -> str:
    """The folder of a base that the packages carry, `bart-mini` or `gpt2-mini`; any other name as it is."""
    return str(CARRIED_BASES[name]) if name in CARRIED_BASES and not Path(name).exists() else name


def load_base(arguments: Arguments, task: Task, family: Family) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and its tokenizer, ready for the task's languages.

    A base that stays frozen is in bfloat16 under --precision bf16, any other in float32.
    Raises UserError for a base that is not there, of the other family, or with too few positions for the task.
    """
    if not arguments.model_name_or_path and not family.carried_base.is_dir():
        raise UserError(f"--model_name_or_path: name a base such as {family.examples}; the package carries none yet")
    name = arguments.model_name_or_path or str(family.carried_base)
    model, tokenizer = load_pretrained(name, arguments, family)
    if arguments.mode in ("prefixtune", "adaptertune") and resolve_precision(arguments.precision) == "bf16":
        model = model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    check_positions(model, arguments, task, name, _prefix_length(arguments, model, tokenizer))
    _check_length_norm(model, task, name)
    _tell_languages(model, tokenizer, task)
    return model, tokenizer


def load_run(run: Run, arguments: Arguments, task: Task, family: Family) -> tuple[Any, PreTrainedTokenizerBase]:
    """What a run has kept, ready to generate: its prefix on its base, or its fine-tuned model.

    Raises UserError for a run that holds neither, and for a task that needs more positions than the model has.
    """
    if run.model.is_dir():
        model, tokenizer = load_pretrained(str(run.model), arguments, family)
        check_positions(model, arguments, task, str(run.model), _prefix_length(arguments, model, tokenizer))
        _check_length_norm(model, task, str(run.model))
        _tell_languages(model, tokenizer, task)
    elif run.prefix.is_file() or run.adapters.is_file():
        model, tokenizer = load_base(arguments, task, family)
    else:
        raise run.unfinished()
    if run.prefix.is_file():
        return PrefixTuning.from_pretrained(run.directory, model), tokenizer
    if run.adapters.is_file():
        return AdapterTuning.from_pretrained(run.directory, model), tokenizer
    return model, tokenizer


def load_pretrained(
    name: str, arguments: Arguments, family: Family, flag: str = "--model_name_or_path"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base in float32 and its tokenizer, by hub name, folder or a carried base's name; `flag` is where it comes from.

    Raises UserError for a model that is not there, cannot be read or is of the other family.
    """
    name = place_of_base(name)
    try:
        config = AutoConfig.from_pretrained(name)
        if config.is_encoder_decoder != family.is_encoder_decoder:
            such = f"give {family.command} one such as {family.examples}"
            if not config.is_encoder_decoder and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
                raise UserError(f"{flag} {name}: is a {config.model_type}, an encoder, which writes no texts; {such}")
            kind = "an encoder-decoder" if config.is_encoder_decoder else "a decoder"
            raise UserError(f"{flag} {name}: is a {config.model_type}, {kind}; use {family.other_command}, or {such}")
        model = family.auto_class.from_pretrained(
            name, dtype=torch.float32, attn_implementation=arguments.attn_implementation
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
        if tokenizer.pad_token_id is None and not family.is_encoder_decoder:
            tokenizer.pad_token = tokenizer.eos_token  # GPT-2 has none; its attention mask tells padding apart
        return model, tokenizer
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if "scaled_dot_product_attention" in str(error):
            raise UserError(f"{flag} {name}: has no sdpa attention; give --attn_implementation eager") from error
        there = "not found here or on the hub" if isinstance(error, OSError) else "cannot be loaded"
        if Path(name).is_dir() and not isinstance(error, RuntimeError):
            there = "a folder without a model that transformers can read"
        raise UserError(
            f"{flag} {name}: {there} ({one_line(error, 160)}); give a hub name or a save_pretrained folder"
        ) from error


def check_positions(
    model: PreTrainedModel, arguments: Arguments, task: Task, name: str, prefix: int = 0, generates: bool = True
) -> None:
    """Raise UserError where the task's texts do not fit into the model's position table.

    Args:
        name: of the model, for the line that says so.
        prefix: vectors in front of a decoder's source.
        generates: a teacher does not.
    """
    table = getattr(model.config, "max_position_embeddings", None)
    if table is None:
        return
    targets: dict[str, int] = {}
    if arguments.do_train:
        targets |= {"max_target_length": task.max_target_length, "val_max_target_length": task.val_max_target_length}
    if generates:
        targets["max_length"] = task.search.max_length
    sources = {} if arguments.format_mode == "nopeek" else {"max_source_length": task.max_source_length}
    for flag, length in {**sources, **targets}.items():
        if length > table:
            raise UserError(f"--{flag} {length}: {name} has {table} positions; give at most {table}")
    if model.config.is_encoder_decoder:
        return
    source, longest = sum(sources.values()) or 1, max(targets, key=lambda flag: targets[flag])
    whole = prefix + source + targets[longest]
    if whole > table:  # a decoder has prefix, source and target in one row
        most = source - (whole - table)
        flag, length, others = longest, targets[longest], ["the prefix"] * bool(prefix)
        if sources:
            flag, length, others = "max_source_length", source, ["the target", *others]
        lower = f"lower --{longest}{' or --preseqlen' if prefix else ''}"
        raise UserError(
            f"--{flag} {length}: with {' and '.join(others)} a row has up to {whole} tokens, and {name} {table} "
            f"positions; {f'give at most {most}' if most > 0 else lower}"
        )


def _check_length_norm(model: PreTrainedModel, task: Task, name: str) -> None:
    """Before anything is trained: transformers' own beam search, which other families run, has no such length."""
    if task.search.length_norm == "prompt" and task.search.num_beams > 1 and model.config.model_type not in FAMILIES:
        raise UserError(
            f"--length_norm prompt: {name} is a {model.config.model_type}; for {', '.join(FAMILIES)}: leave it out"
        )


def _prefix_length(arguments: Arguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """P of the prefix that the options ask for, 0 in a mode without one."""
    if arguments.mode not in PREFIX_MODES:
        return 0
    if arguments.preseqlen is not None:
        return arguments.preseqlen
    return len(ids_of_words(arguments.lowdata_token, tokenizer, model)) if arguments.lowdata_token else DEFAULT_LENGTH


def _tell_languages(model: PreTrainedModel, tokenizer: Any, task: Task) -> None:
    """Multilingual tokenizers mark the languages; a generation starts with the target's mark, as its training did.

    mBART's mark stands at a text's end and starts the decoder; mBART-50's and NLLB's is the first token.
    """
    if task.languages is None or not hasattr(tokenizer, "src_lang"):
        return
    known = {token.split("_")[0]: token for token in tokenizer.extra_special_tokens}
    for language in task.languages:
        if language not in known:
            raise UserError(f"--source_lang/--target_lang {language}: the tokenizer knows {', '.join(sorted(known))}")
    tokenizer.src_lang, tokenizer.tgt_lang = (known[language] for language in task.languages)
    mark = tokenizer.convert_tokens_to_ids(tokenizer.tgt_lang)
    if tokenizer(text_target="a")["input_ids"][-1] == mark:
        model.generation_config.decoder_start_token_id = mark
    else:
        model.generation_config.forced_bos_token_id = mark
