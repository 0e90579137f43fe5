"""--mode pretrain: train a base model on plain text with BART's denoising, from scratch or from a checkpoint.

text files -> tokenizer -> packed windows -> noise (pretraining_data.py) -> PretrainModule -> save_pretrained folder
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

from seq2seq.arguments import Arguments, recipe_of
from seq2seq.lightning_base import BaseTransformer
from seq2seq.loading import load_pretrained
from seq2seq.pretraining_data import (
    UNIT,
    Denoiser,
    DenoisingBatches,
    EpochOrder,
    text_files,
    tokenise_corpus,
    train_tokenizer,
)
from seq2seq.runs import Run
from seq2seq.training import check_resumable, fit
from seq2seq.utils import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class PretrainModule(BaseTransformer):
    """BART's denoising on packed text; validation is bits per byte of held-out text under fixed noise."""

    def __init__(
        self,
        arguments: Arguments,
        model: BartForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        train_tokens: np.ndarray,
        valid_tokens: np.ndarray | None,
    ) -> None:
        super().__init__(arguments, model, tokenizer)
        denoiser = Denoiser(tokenizer, arguments.mask_ratio, arguments.span_mean, arguments.permute_sentences)

        def batches(tokens: np.ndarray, lengths: Any, seed: int, where: str) -> DenoisingBatches:
            pad_id = tokenizer.pad_token_id
            return DenoisingBatches(tokens, denoiser, arguments.tokens_per_batch, lengths, seed, pad_id, where)

        lengths = arguments.window_lengths
        self.train_data = batches(train_tokens, lengths, arguments.seed, f"--data_dir {arguments.data_dir}")
        self.valid_data = None
        if valid_tokens is not None:
            # The schedule's end throughout: the first validation and the last measure the same.
            last = lengths[max(lengths)] if isinstance(lengths, dict) else lengths
            self.valid_data = batches(valid_tokens, last, 0, f"--valid_file {arguments.valid_file}")

    def train_dataloader(self) -> Any:
        order = self.place_order(EpochOrder(len(self.train_data)))
        return torch.utils.data.DataLoader(self.train_data, batch_size=None, sampler=order)

    def val_dataloader(self) -> Any:
        if self.valid_data is None:
            return []
        # A list and no EpochOrder: Lightning would set its epoch, and so another noise in each.
        fixed = [(0, i) for i in range(len(self.valid_data))]
        return torch.utils.data.DataLoader(self.valid_data, batch_size=None, sampler=fixed)

    def on_validation_epoch_start(self) -> None:
        self._nats, self._bytes = 0.0, 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        labels = batch["labels"]
        self._nats += self.loss(batch).item() * int((labels != -100).sum())
        texts = self.tokenizer.batch_decode(
            labels.masked_fill(labels == -100, self.tokenizer.pad_token_id), skip_special_tokens=True
        )
        self._bytes += sum(len(text.encode()) for text in texts)

    def on_validation_epoch_end(self) -> None:
        self.log("val_bits_per_byte", self._nats / math.log(2) / self._bytes)


def load_or_create(arguments: Arguments, files: list[Path], run: Run) -> tuple[Any, Any]:
    """The base and tokenizer to train: --model_name_or_path, or new ones by --base_config.

    Raises UserError for a base or tokenizer that cannot be read, no BART, too few positions, or unknown fields.
    """
    if arguments.model_name_or_path:
        model, tokenizer = load_pretrained(arguments.model_name_or_path, arguments)
        _check_bart(model.config, f"--model_name_or_path {arguments.model_name_or_path}")
        return model, tokenizer
    kept = str(run.tokenizer) if arguments.resume and run.tokenizer.is_dir() else None
    if name := arguments.tokenizer_name_or_path or kept:
        tokenizer = _load_tokenizer(name)
    else:
        tokenizer = train_tokenizer(files, arguments.vocab_size)
    # transformers would take an unknown field without a word, and train a base of another shape than asked
    unknown = arguments.base_config.keys() - BartConfig().to_dict().keys()
    if unknown:
        raise UserError(f"base_config: {', '.join(sorted(unknown))} is no field of transformers' BartConfig")
    try:
        config = BartConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=tokenizer.eos_token_id,
            **arguments.base_config,
        )
        _check_bart(config, "base_config")
        torch.manual_seed(arguments.seed)
        return BartForConditionalGeneration(config), tokenizer
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"base_config: {reason}; see transformers' BartConfig for the fields") from None


def _check_bart(config: Any, where: str) -> None:
    if config.model_type != "bart":
        raise UserError(f"{where}: is a {config.model_type}; BART's denoising trains a BART")
    if config.max_position_embeddings < UNIT + 2:
        table = config.max_position_embeddings
        raise UserError(f"{where}: max_position_embeddings {table} must be at least {UNIT + 2}")


def _load_tokenizer(name: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--tokenizer_name_or_path {name}: no tokenizer that can be read ({reason})") from error
    if tokenizer.mask_token_id is None:
        raise UserError(f"--tokenizer_name_or_path {name}: has no mask token, which BART's denoising needs")
    return tokenizer


def pretrain(arguments: Arguments) -> None:
    """Pretrain, then write the base as a `save_pretrained` folder (bfloat16) into the run directory."""
    files = text_files(arguments.data_dir or "")
    valid_file = Path(arguments.valid_file).expanduser() if arguments.valid_file else None
    if valid_file and not valid_file.is_file():
        raise UserError(f"--valid_file {valid_file}: no such file; give a text file, or leave it out")
    output_dir = arguments.output_dir or "runs/pretrain"
    run = Run.check(output_dir, resume=arguments.resume, overwrite=arguments.overwrite)
    if arguments.resume:
        check_resumable(run, arguments)
    model, tokenizer = load_or_create(arguments, files, run)
    cache = Path(arguments.cache_dir).expanduser()
    train_tokens = tokenise_corpus(files, tokenizer, cache)
    valid_tokens = tokenise_corpus([valid_file], tokenizer, cache) if valid_file else None
    module = PretrainModule(arguments, model, tokenizer, train_tokens, valid_tokens)
    Run.create(output_dir, resume=arguments.resume, overwrite=arguments.overwrite)
    run.write_config(recipe_of(arguments))
    tokenizer.save_pretrained(run.tokenizer)
    monitor = "val_bits_per_byte" if valid_tokens is not None else None
    fit(module, run, arguments, monitor, title="pretraining")
    model.to(torch.bfloat16).save_pretrained(run.model)
    tokenizer.save_pretrained(run.model)
    print(f"base model written to {run.model}")
