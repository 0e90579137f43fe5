"""The run of decoders: the same as BART's (finetune.py) with GPT-2's bases, modules and pretraining."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM

from gpt2.pretraining_forms import CausalLanguageModelling
from gpt2.train_control import FORMS
from gpt2.trainer_prefix import LanguageModelingModule, PrefixLanguageModelingModule
from seq2seq import finetune
from seq2seq.arguments import Arguments
from seq2seq.loading import Family


def module_for(mode: str, kind: str) -> type[LanguageModelingModule]:
    """The module of --mode; all kinds of task are language modelling to a decoder."""
    return PrefixLanguageModelingModule if mode in finetune.PREFIX_MODES else LanguageModelingModule


GPT2 = Family(
    is_encoder_decoder=False,
    auto_class=AutoModelForCausalLM,
    carried_base=Path(__file__).parent / "carried" / "gpt2-mini",
    examples="gpt2-medium",
    command="train_e2e.py",
    other_command="train_bart.py",
    module_for=module_for,
    form=lambda arguments, tokenizer: FORMS[arguments.format_mode](tokenizer, arguments.source_prefix or ""),
    objective=CausalLanguageModelling,
)


def run(arguments: Arguments) -> None:
    """Do what the arguments say with a decoder: train and evaluate, evaluate a run, or pretrain."""
    finetune.run(arguments, GPT2)


if __name__ == "__main__":  # by the name that the authors' script has
    from gpt2.train_e2e import main

    sys.exit(main())
