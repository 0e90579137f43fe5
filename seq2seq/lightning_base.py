"""Lightning modules that every way of tuning shares: load, optimise, log, checkpoint.

    BaseTransformer            a base model and its tokenizer; AdamW; losses; resumable order and randomness
      └─ PrefixTransformer     a prefix (prefixTuning.py) in front of its keys and values

Shapes: B batch, S source length, T target length, N target tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from seq2seq.arguments import Arguments
from seq2seq.callbacks import FrozenWeights, OnException, total_steps
from seq2seq.checkpointing import keep_no_activations
from seq2seq.frozen_products import frozen_products
from seq2seq.kept_files import describe_base
from seq2seq.lean_dropout import lean_dropout
from seq2seq.losses import next_tokens, target_positions
from seq2seq.output_layer import Predictions, output_at
from seq2seq.padding import holds_padding, padding_known
from seq2seq.prefix_attention import attention_can_change, disable_prefix, enable_prefix
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.tuning import Tuned, tune
from seq2seq.unpadded import can_unpad, real_tokens, unpadded
from seq2seq.utils import IGNORE, UserError, at_least_float32, resolve_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What the model's forward does not take of a batch.
NO_INPUTS = ("labels", "index", "positions", "padded", "real_tokens")


class BaseTransformer(pl.LightningModule):
    """Train what --mode trains of a base model (tuning.py): `loss`, AdamW with warm-up and decay, exact resuming.

    Every step's randomness (dropout) is drawn from (seed, epoch, batch, rank) alone and the data's order from (seed,
    epoch), so on a CPU a resumed run repeats an uninterrupted one bit for bit, with the same precision and threads.

    Args:
        arguments: all options; kept in the checkpoint as plain primitives.
        model, tokenizer: the base, already loaded.
    """

    strict_loading = False  # checkpoints hold what is trained, not the frozen base

    def __init__(self, arguments: Arguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.arguments = arguments
        self.model: Any = tune(arguments, model, tokenizer)
        self.tokenizer = tokenizer
        self.teacher: Any = None
        self.examples_seen = 0
        self._resumed: tuple[int, int] = (0, 0)  # epoch, batches of it that are done
        self._was_stock = False
        if arguments.gradient_checkpointing:
            keep_no_activations(self.base)

    @property
    def base(self) -> Any:
        """The base model, without what is put in front of or into it."""
        return self.model.model if isinstance(self.model, Tuned) else self.model

    @property
    def has_frozen_base(self) -> bool:
        """Whether nothing of the base itself is trained."""
        return isinstance(self.model, Tuned) and not any(p.requires_grad for p in self.model.model.parameters())

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What a resumed run must find again, by name: all of the base that stays frozen, and a teacher."""
        teacher = {} if self.teacher is None else {"teacher": describe_base(self.teacher)}
        return {"base": describe_base(self.base, frozen=True), **teacher}

    @property
    def batches_an_epoch(self) -> int:
        """Training batches of an epoch, where one process does them all."""
        raise NotImplementedError

    def measured_by(self, monitor: str) -> dict[str, Any]:
        """What a validation score follows from beside the weights, by name; scores compare where it is the same."""
        return {}

    def forward(self, **batch: Tensor) -> Any:
        """The model's forward; same arguments and output class."""
        return self.model(**batch)

    def loss(self, batch: dict[str, Tensor], label_smoothing: float = 0.0) -> Tensor:
        """The batch's cross-entropy (labels -100 carry none), averaged as `average_loss` says."""
        return self.average_loss(self.predictions(batch), len(batch["labels"]), label_smoothing)

    def average_loss(self, predictions: Predictions, rows: int, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of what is predicted for a batch's target tokens, from `rows` examples, in float32.

        With smoothing ε: (1-ε)·nll + ε/V·Σ_v -log p, mean over tokens.
        """
        return predictions.loss(label_smoothing)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Any]:
        """Find a training batch's targets and padding on the CPU: a look on a GPU would wait for all work before."""
        if not self.trainer.training:
            return batch
        found: dict[str, Any] = {"positions": target_positions(self.targets(batch)), "padded": holds_padding(batch)}
        mask = batch.get("attention_mask")
        if mask is not None and can_unpad(self.base) and (real := real_tokens(mask)) is not None:
            found["real_tokens"] = real
        return {**batch, **found}

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """The token to predict at each position (B, T), -100 where there is none."""
        return batch["labels"] if self.model.config.is_encoder_decoder else next_tokens(batch["labels"])

    def predictions(self, batch: dict[str, Tensor], model: Any = None) -> Predictions:
        """What is predicted for the batch's target tokens.

        model: another than the module's own, for example a teacher.
        """
        return predictions(model or self.model, batch, self.targets(batch))

    def learn_from(self, teacher: PreTrainedModel) -> None:
        """Distil: mix KL(teacher‖student) on the target tokens into the loss, --distill_weight of it.

        Raises UserError for a teacher of another vocabulary.
        """
        theirs, ours = teacher.config.vocab_size, self.model.config.vocab_size
        if theirs != ours:
            raise UserError(
                f"--distill_from: the teacher has {theirs} tokens, the base {ours}; take one of this base's"
            )
        self.teacher = teacher.requires_grad_(False)
        if attention_can_change(teacher):
            enable_prefix(teacher)  # the same, faster

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ours = self.predictions(batch)
        if self.teacher is None:
            loss = self.average_loss(ours, len(batch["labels"]), self.arguments.label_smoothing)
        else:
            with torch.no_grad():
                theirs = self.predictions(batch, self.teacher.eval())
            weight, loss = self.arguments.distill_weight, distillation_loss(ours.logits, theirs.logits)
            if weight < 1:
                own = self.average_loss(ours, len(batch["labels"]), self.arguments.label_smoothing)
                loss = (1 - weight) * own + weight * loss
        size = len(batch["input_ids"])
        self.examples_seen += size
        self.log("train_loss", loss.detach(), batch_size=size)
        return loss

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        options = self.arguments
        optimizer = torch.optim.AdamW(
            self.trained_parameters(),
            lr=options.learning_rate,
            betas=(0.9, options.adam_beta2),
            eps=1e-8,
            weight_decay=options.weight_decay,
            fused=True,  # one pass over memory instead of a dozen
        )
        constant, steps = options.lr_scheduler == "constant", total_steps(self.trainer, options.max_steps)
        if not constant and math.isinf(steps):
            raise UserError("a linear schedule needs an end: give max_epochs or max_steps, or lr_scheduler constant")
        total = None if constant else int(steps)
        share = partial(share_of_rate, warmup=options.warmup_steps, total=total)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients, or by value; Lightning's own way refuses a fused AdamW in mixed precision.

        It does so for float16, whose gradients AdamW has yet to unscale; bfloat16's are never scaled.
        """
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.trained_parameters(), gradient_clip_val)
        elif gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.trained_parameters(), gradient_clip_val)

    def place_order(self, order: Any) -> Any:
        """Put a freshly made batch order where a resumed run stopped; returns it."""
        epoch, done = self._resumed
        order.set_epoch(epoch if done < len(order) else epoch + 1)
        order.start_batch = done if done < len(order) else 0
        return order

    def setup(self, stage: str) -> None:
        """A fit begins at its first batch; where it is given a checkpoint, that is loaded next."""
        if stage == "fit":
            self._resumed, self.examples_seen = (0, 0), 0

    def configure_callbacks(self) -> list[pl.Callback]:
        return [OnException(self.on_fit_end), FrozenWeights()]

    def on_fit_start(self) -> None:
        """Switch on dropout (a loaded base comes in eval mode, Lightning leaves it there) and the fast attention."""
        self.train()
        self._was_stock = attention_can_change(self.base)
        if self._was_stock:
            enable_prefix(self.base)

    def on_fit_end(self) -> None:
        """Give a base that came with stock attention its own back."""
        if self._was_stock:
            disable_prefix(self.base)
        self._was_stock = False

    def on_train_epoch_start(self) -> None:
        order = batch_order(self.trainer.train_dataloader)
        if order is not None:
            order.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Draw this step's randomness from (seed, epoch, batch, rank) alone."""
        key = 0
        for part in (self.arguments.seed, self.current_epoch, batch_idx, self.global_rank):
            key = (key * 1_000_003 + part) % 2**63
        torch.manual_seed(key)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop what is frozen: it is the base model's and stays where it came from."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}
        checkpoint["hyper_parameters"] = asdict(self.arguments)
        checkpoint["origin"] = self.origin
        checkpoint["precision"] = resolve_precision(self.arguments.precision)
        checkpoint["examples_seen"] = self.examples_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember where in which epoch the run stopped."""
        self.examples_seen = checkpoint["examples_seen"]
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        epoch, done = checkpoint["epoch"], batches["current"]["processed"]
        # a Trainer's limit_train_batches ends epochs before the order does
        self._resumed = (epoch + 1, 0) if batches["is_last_batch"] else (epoch, done)


class PrefixTransformer(BaseTransformer):
    """Train a prefix on a frozen base (--mode prefixtune), or with the base (bothtune); args as BaseTransformer's."""

    @property
    def prefix(self) -> PrefixTuning:
        """The base with its prefix."""
        return self.model


def share_of_rate(step: int, warmup: int, total: int | None) -> float:
    """Of the learning rate, in a step: it rises from 0 for `warmup` steps and then falls to 0 at `total`, or stays.

    The formulas are those of transformers' get_linear_schedule_with_warmup and get_constant_schedule_with_warmup, whose
    module imports PEFT where that is installed: half a second of every start.
    """
    if step < warmup:
        return step / warmup
    return 1.0 if total is None else max(0.0, (total - step) / max(1, total - warmup))


def predictions(model: Any, batch: dict[str, Tensor], targets: Tensor) -> Predictions:
    """What a model predicts for a batch's target tokens.

    model: a base, or one with a prefix or adapters. targets: to predict at each position (B, T), -100 where there is
    none. batch: as `on_before_batch_transfer` leaves it, or without what that adds.
    """
    base = model.model if isinstance(model, Tuned) else model
    inputs: dict[str, Any] = {name: batch[name] for name in batch if name not in NO_INPUTS}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = decoder_inputs(base, batch["labels"])
    positions = batch["positions"] if "positions" in batch else target_positions(targets)
    with (
        unpadded(base, batch["input_ids"], batch.get("real_tokens")) as places,
        output_at(base, places(positions)) as output,
        padding_known(batch.get("padded")),  # type: ignore[arg-type]
        lean_dropout(base),
        frozen_products(base),
    ):
        logits = model(**inputs, use_cache=False).logits
    return output.predictions(logits, targets.flatten()[positions])


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher‖student) of the logits (N, V) of target tokens, at least in float32, mean over tokens.

    Source: Hinton, Vinyals and Dean 2015, at temperature 1. The authors' code also counts source and padding.
    """
    theirs, ours = (logits.to(at_least_float32(logits.dtype)).log_softmax(-1) for logits in (teacher, student))
    return torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def decoder_inputs(base: Any, labels: Tensor) -> Tensor:
    """What a base's decoder reads to predict labels (B, T): one to the right, behind what its family starts with.

    That is the start token, or the language's mark of a multilingual base (mBART), which stands last in the labels.
    """
    own = getattr(base, "prepare_decoder_input_ids_from_labels", None)
    if own is not None:
        return own(labels)
    shifted = labels.new_full(labels.shape, base.config.decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE, base.config.pad_token_id)


def batch_order(loader: Any) -> Any:
    """The project's sampler that orders whole batches: a batch sampler, or the sampler where an item is a batch.

    None for what else a user's own Trainer may be given; Lightning sets the epoch of torch's DistributedSampler.
    """
    samplers = (getattr(loader, name, None) for name in ("batch_sampler", "sampler"))
    return next((order for order in samplers if hasattr(order, "start_batch")), None)
