"""Where models come from: the hub, a `save_pretrained` folder, the carried bart-mini, or a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from seq2seq.arguments import Arguments
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.runs import Run
from seq2seq.tasks import CARRIED, Task
from seq2seq.utils import UserError, resolve_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BART_MINI = CARRIED / "bart-mini"


def load_base(arguments: Arguments, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and its tokenizer, ready for the task's languages.

    A base that stays frozen is in bfloat16 under --precision bf16, any other in float32.
    Raises UserError for a base that is not there, is no encoder-decoder, or has too few positions for the task.
    """
    name = arguments.model_name_or_path or str(BART_MINI)
    model, tokenizer = load_pretrained(name, arguments)
    if arguments.mode == "prefixtune" and resolve_precision(arguments.precision) == "bf16":
        model = model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    _check_positions(model, task, name)
    _tell_languages(model, tokenizer, task)
    return model, tokenizer


def load_run(run: Run, arguments: Arguments, task: Task) -> tuple[Any, PreTrainedTokenizerBase]:
    """What a run has kept, ready to generate: its prefix on its base, or its fine-tuned model.

    Raises UserError for a run that holds neither.
    """
    if run.prefix.is_file():
        base, tokenizer = load_base(arguments, task)
        return PrefixTuning.from_pretrained(run.directory, base), tokenizer
    if not run.model.is_dir():
        raise UserError(
            f"{run.directory}: holds neither prefix.safetensors nor model/; let the run finish with --resume"
        )
    model, tokenizer = load_pretrained(str(run.model), arguments)
    _tell_languages(model, tokenizer, task)
    return model, tokenizer


def load_pretrained(name: str, arguments: Arguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder-decoder in float32 and its tokenizer, by hub name or folder.

    Raises UserError for a model that is not there, cannot be read or is no encoder-decoder.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        if not config.is_encoder_decoder:
            raise UserError(
                f"--model_name_or_path {name}: is a {config.model_type}, a decoder; this command takes "
                "encoder-decoders such as facebook/bart-large"
            )
        model = AutoModelForSeq2SeqLM.from_pretrained(
            name, dtype=torch.float32, attn_implementation=arguments.attn_implementation
        )
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        there = (
            "a folder without a model that transformers can read"
            if Path(name).is_dir()
            else "not found here or on the hub"
        )
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"--model_name_or_path {name}: {there} ({reason}); give a hub name or a save_pretrained folder"
        ) from error


def _check_positions(model: PreTrainedModel, task: Task, name: str) -> None:
    table = getattr(model.config, "max_position_embeddings", None)
    lengths = {
        "max_source_length": task.max_source_length,
        "max_target_length": task.max_target_length,
        "val_max_target_length": task.val_max_target_length,
        "max_length": task.search.max_length,
    }
    for flag, length in lengths.items():
        if table is not None and length > table:
            raise UserError(f"--{flag} {length}: {name} has {table} positions; give at most {table}")


def _tell_languages(model: PreTrainedModel, tokenizer: Any, task: Task) -> None:
    """Multilingual tokenizers mark the languages, and generation starts with the target's mark."""
    if task.languages is None or not hasattr(tokenizer, "src_lang"):
        return
    known = {token.split("_")[0]: token for token in getattr(tokenizer, "additional_special_tokens", [])}
    for language in task.languages:
        if language not in known:
            raise UserError(f"--source_lang/--target_lang {language}: the tokenizer knows {', '.join(sorted(known))}")
    source, target = (known[language] for language in task.languages)
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    model.generation_config.forced_bos_token_id = tokenizer.convert_tokens_to_ids(target)
