"""--mode pretrain: train a base model on plain text, from scratch or from a checkpoint.

text files -> tokenizer -> packed windows -> their form (BART: noise) -> PretrainModule -> save_pretrained folder
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BartConfig, BartForConditionalGeneration

from seq2seq.arguments import Arguments, place_of, recipe_of
from seq2seq.data import fingerprint
from seq2seq.kept_files import save_tokenizer
from seq2seq.lightning_base import BaseTransformer
from seq2seq.loading import Family, load_pretrained, place_of_base
from seq2seq.pretraining_data import (
    UNIT,
    Denoiser,
    EpochOrder,
    WindowBatches,
    WindowForm,
    bytes_of_tokens,
    text_files,
    tokenise_corpus,
    train_tokenizer,
)
from seq2seq.resuming import check_origin, check_resumable
from seq2seq.runs import Run
from seq2seq.training import check_rhythm, check_tools, fit, restore_best
from seq2seq.utils import IGNORE, UserError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Objective(Protocol):
    """What a family of models is pretrained on."""

    config_class: Any
    model_class: Any
    positions: int
    """The shortest position table that holds a window."""

    @staticmethod
    def tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        """A tokenizer in the family's form."""

    @staticmethod
    def config_fields(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """Fields of the configuration that follow from the tokenizer."""

    @staticmethod
    def form(tokenizer: PreTrainedTokenizerFast, arguments: Arguments, held_out: bool) -> WindowForm:
        """What a window of text becomes, in training and in validation."""

    @staticmethod
    def start_copying(model: Any, seed: int) -> None:
        """Give a new model heads that copy (--start_copying)."""


class Denoising:
    """BART's denoising (Lewis et al. 2019): text infilling and sentence permutation."""

    config_class, model_class = BartConfig, BartForConditionalGeneration
    positions = UNIT + 2  # <s> and </s>

    @staticmethod
    def tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        return tokenizer

    @staticmethod
    def config_fields(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        end = tokenizer.eos_token_id
        ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": end}
        return {**ids, "decoder_start_token_id": end, "forced_eos_token_id": end}

    @staticmethod
    def form(tokenizer: PreTrainedTokenizerFast, arguments: Arguments, held_out: bool) -> Denoiser:
        if arguments.text_to_text_share:
            raise UserError("--text_to_text_share: is for GPT-2's pretraining; BART's denoising is text-to-text itself")
        return Denoiser(tokenizer, arguments.mask_ratio, arguments.span_mean, arguments.permute_sentences)

    @staticmethod
    def start_copying(model: Any, seed: int) -> None:
        raise UserError("--start_copying: is for GPT-2's pretraining; BART's cross-attention learns to copy by itself")


class PretrainModule(BaseTransformer):
    """An objective on packed text; validation is bits per byte of held-out text under fixed noise."""

    def __init__(
        self,
        arguments: Arguments,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        objective: type[Objective],
        train_tokens: np.ndarray,
        valid_tokens: np.ndarray | None,
    ) -> None:
        super().__init__(arguments, model, tokenizer)
        lengths, size = arguments.window_lengths, arguments.tokens_per_batch
        form = objective.form(tokenizer, arguments, held_out=False)
        where = f"--data_dir {arguments.data_dir}"
        self.train_data = WindowBatches(train_tokens, form, size, lengths, arguments.seed, where)
        self.valid_data = None
        if valid_tokens is not None:
            # The schedule's end throughout: the first validation and the last measure the same.
            last = lengths[max(lengths)] if isinstance(lengths, dict) else lengths
            form = objective.form(tokenizer, arguments, held_out=True)
            where = f"--valid_file {arguments.valid_file}"
            self.valid_data = WindowBatches(valid_tokens, form, size, last, 0, where)

    @cached_property
    def origin(self) -> dict[str, Any]:
        return {**super().origin, "training data": fingerprint(self.train_data.tokens)}

    @property
    def batches_an_epoch(self) -> int:
        return len(self.train_data)

    def train_dataloader(self) -> Any:
        order = self.place_order(EpochOrder(len(self.train_data)))
        return torch.utils.data.DataLoader(self.train_data, batch_size=None, sampler=order)

    def val_dataloader(self) -> Any:
        if self.valid_data is None:
            return []
        # A list and no EpochOrder: Lightning would set its epoch, and so another noise in each.
        fixed = [(0, i) for i in range(len(self.valid_data))]
        return torch.utils.data.DataLoader(self.valid_data, batch_size=None, sampler=fixed)

    def measured_by(self, monitor: str) -> dict[str, Any]:
        return {"validation text": fingerprint(self.valid_data.tokens)} if self.valid_data else {}

    def on_validation_epoch_start(self) -> None:
        self._nats, self._bytes = 0.0, 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        labels = batch["labels"]
        targets = labels[labels != IGNORE]
        self._nats += self.loss(batch).item() * len(targets)
        self._bytes += int(self.token_bytes[targets.cpu()].sum())

    @cached_property
    def token_bytes(self) -> Tensor:
        """How many bytes of text each token stands for (V,); special ones for none."""
        return bytes_of_tokens(self.tokenizer)

    def on_validation_epoch_end(self) -> None:
        self.log("val_bits_per_byte", self._nats / math.log(2) / self._bytes)


def load_or_create(arguments: Arguments, family: Family, files: list[Path], run: Run) -> tuple[Any, Any]:
    """The base and tokenizer to train: --model_name_or_path, or new ones by --base_config.

    Raises UserError for a base or tokenizer that cannot be read, another family, too few positions, unknown fields.
    """
    objective: type[Objective] = family.objective
    if arguments.model_name_or_path:
        model, tokenizer = load_pretrained(arguments.model_name_or_path, arguments, family)
        _check_family(model.config, objective, f"--model_name_or_path {arguments.model_name_or_path}")
        return model, tokenizer
    kept = str(run.tokenizer) if arguments.resume and run.tokenizer.is_dir() else None
    if name := arguments.tokenizer_name_or_path or kept:
        tokenizer = _load_tokenizer(name)
    else:
        tokenizer = train_tokenizer(files, arguments.vocab_size)
    tokenizer = objective.tokenizer(tokenizer)
    kind = objective.config_class.__name__
    # transformers would take an unknown field without a word, and train a base of another shape than asked
    unknown = arguments.base_config.keys() - objective.config_class().to_dict().keys()
    if unknown:
        raise UserError(f"base_config: {', '.join(sorted(unknown))} is no field of transformers' {kind}")
    try:
        config = objective.config_class(
            vocab_size=len(tokenizer), **objective.config_fields(tokenizer), **arguments.base_config
        )
        _check_family(config, objective, "base_config")
        torch.manual_seed(arguments.seed)
        model = objective.model_class._from_config(
            config, dtype=torch.float32, attn_implementation=arguments.attn_implementation
        )
    except (TypeError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        reason = one_line(error)
        raise UserError(f"base_config: {reason}; see transformers' {kind} for the fields") from None
    if arguments.embeddings_from:
        _start_embeddings(model, arguments.embeddings_from)
    if arguments.start_copying:
        objective.start_copying(model, arguments.seed)
    return model, tokenizer


def _start_embeddings(model: Any, name: str) -> None:
    """Give a new base another model's token embeddings; a trained table is the slowest part to learn anew."""
    try:
        table = AutoModel.from_pretrained(place_of_base(name), dtype=torch.float32).get_input_embeddings().weight
    except (OSError, ValueError) as error:
        raise UserError(f"--embeddings_from {name}: no model that can be read ({one_line(error, 160)})") from error
    own = model.get_input_embeddings().weight
    if table.shape != own.shape:
        theirs, ours = tuple(table.shape), tuple(own.shape)
        raise UserError(f"--embeddings_from {name}: has embeddings of shape {theirs}, the new base {ours}")
    with torch.no_grad():
        own.copy_(table)


def _check_family(config: Any, objective: type[Objective], where: str) -> None:
    wanted = objective.config_class.model_type
    if config.model_type != wanted:
        raise UserError(f"{where}: is a {config.model_type}; this command pretrains a {wanted}")
    table = config.max_position_embeddings
    if table < objective.positions:
        raise UserError(f"{where}: max_position_embeddings {table} must be at least {objective.positions}")


def _load_tokenizer(name: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(place_of_base(name))
    except (OSError, ValueError) as error:
        reason = one_line(error, 160)
        raise UserError(f"--tokenizer_name_or_path {name}: no tokenizer that can be read ({reason})") from error
    for token in ("mask", "pad"):
        if getattr(tokenizer, f"{token}_token_id") is None:
            raise UserError(f"--tokenizer_name_or_path {name}: has no {token} token, which pretraining needs")
    return tokenizer


def pretrain(arguments: Arguments, family: Family) -> None:
    """Pretrain, then write the base as a `save_pretrained` folder (bfloat16) into the run directory."""
    files = text_files(arguments.data_dir or "")
    valid_file = Path(arguments.valid_file).expanduser() if arguments.valid_file else None
    if valid_file and not valid_file.is_file():
        raise UserError(f"--valid_file {valid_file}: no such file; give a text file, or leave it out")
    output_dir = arguments.output_dir or "runs/pretrain"
    run = Run.check(output_dir, **place_of(arguments))
    check_tools(arguments)
    if arguments.resume:
        check_resumable(run, arguments)
    model, tokenizer = load_or_create(arguments, family, files, run)
    cache = Path(arguments.cache_dir).expanduser()
    train_tokens = tokenise_corpus(files, tokenizer, cache)
    valid_tokens = tokenise_corpus([valid_file], tokenizer, cache) if valid_file else None
    module = PretrainModule(arguments, model, tokenizer, family.objective, train_tokens, valid_tokens)
    check_rhythm(module, arguments)
    if arguments.resume:
        check_origin(run, module)
    with run.locked():
        Run.create(output_dir, **place_of(arguments))
        run.write_config(recipe_of(arguments))
        save_tokenizer(tokenizer, run.tokenizer)
        monitor = "val_bits_per_byte" if valid_tokens is not None else None
        fit(module, run, arguments, monitor, title="pretraining")
        if monitor:
            restore_best(module, run)
        model.to(torch.bfloat16).save_pretrained(run.model)
        save_tokenizer(tokenizer, run.model)
    print(f"base model written to {run.model}")
