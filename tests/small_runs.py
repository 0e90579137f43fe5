"""Runs that take seconds: random bases of 20,000 weights, a few sentences as records, and the commands in-process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from conftest import SENTENCES
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from gpt2.pretraining_forms import CausalLanguageModelling
from gpt2.run_language_modeling import GPT2
from seq2seq.effect import acts_in
from seq2seq.finetune import BART, run
from seq2seq.parsing import parse

# base dropout above 0: a resumed training must repeat it
SIZES: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64,
    "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "init_std": 0.3,
}  # fmt: skip

PRETRAINING: dict[str, Any] = {
    "mode": "pretrain", "base_config": json.dumps({**SIZES, "max_position_embeddings": 514}), "vocab_size": 300,
    "tokens_per_batch": 1024, "window_lengths": "[32, 64]", "epoch": 2, "learning_rate": 0.01, "precision": "32",
    "progress": "no", "threads": 1,
}  # fmt: skip

FLAGS: dict[str, Any] = {
    "preseqlen": 3, "mid_dim": 8, "learning_rate": 0.02, "bsz": 4, "eval_bsz": 4, "epoch": 2, "n_val": 2,
    "max_source_length": 56, "max_target_length": 16, "val_max_target_length": 16, "test_max_target_length": 16,
    "max_length": 12, "num_beams": 2, "warmup_steps": 0, "precision": "32", "progress": "no", "threads": 1,
}  # fmt: skip


def write_base(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0, **sizes: Any) -> Path:
    """A random BART with its tokenizer, as `save_pretrained` writes them."""
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=len(tokenizer), bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=2, **{**SIZES, **sizes},
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_gpt2_base(folder: Path, tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> Path:
    """A random GPT-2 with its tokenizer, as `save_pretrained` writes them."""
    torch.manual_seed(0)
    tokenizer = CausalLanguageModelling.tokenizer(tokenizer)
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 128, "initializer_range": 0.3, **sizes}
    config = GPT2Config(vocab_size=len(tokenizer), **CausalLanguageModelling.config_fields(tokenizer), **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def records(count: int) -> list[dict[str, Any]]:
    """Two sentences as source, the first one's end as target."""
    pairs = [(SENTENCES[i % 5], SENTENCES[(i // 5 + i + 1) % 5]) for i in range(count)]
    return [{"source": f"{a} {b}", "target": " ".join(a.split()[-4:])} for a, b in pairs]


def write_data(folder: Path) -> Path:
    """20 training, 5 validation and 3 + 2 test records; the test split has two parts."""
    folder.mkdir(parents=True)
    test = [{**row, "part": part} for row, part in zip(records(5), ["easy"] * 3 + ["hard"] * 2, strict=True)]
    splits = {"train": records(20), "val": records(5), "test": test}
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_text(folder: Path, documents: int = 80) -> Path:
    """Plain text to pretrain on: documents of five sentences in varying order."""
    folder.mkdir(parents=True)
    turns = [SENTENCES[i % 5 :] + SENTENCES[: i % 5] for i in range(documents)]
    (folder / "text.txt").write_text("\n\n".join(f"Day {i}. " + " ".join(turn) for i, turn in enumerate(turns)))
    return folder


def flags(**options: Any) -> list[str]:
    """Options as the command line has them, those of other modes left out; None leaves an option out."""
    mode = options.get("mode", "prefixtune")
    return [f"--{name}={value}" for name, value in options.items() if value is not None and acts_in(name, mode)]


def start(program: str = "train_bart.py", **options: Any) -> Path | None:
    """The command in this process; returns the run directory."""
    threads = torch.get_num_threads()
    try:
        run(parse(flags(**options), program), GPT2 if program == "train_e2e.py" else BART)
    finally:
        torch.set_num_threads(threads)
    directory = options.get("output_dir") or options.get("prefix_model_path")
    return Path(directory) if directory else None
