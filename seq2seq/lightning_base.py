"""Lightning modules that every way of tuning shares: load, optimise, log, checkpoint.

    BaseTransformer            a base model and its tokenizer; AdamW; losses; resumable order and randomness
      └─ PrefixTransformer     the base frozen, a prefix (prefixTuning.py) in front of its keys and values

Shapes: B batch, S source length, T target length, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from seq2seq.arguments import Arguments
from seq2seq.callbacks import total_steps
from seq2seq.prefixTuning import PrefixTuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORE = -100  # label of positions that carry no loss


class BaseTransformer(pl.LightningModule):
    """Train a whole base model: `loss`, AdamW with warm-up and decay, exact resuming.

    Every step's randomness (dropout) is drawn from (seed, epoch, batch, rank) alone and the data's order from (seed,
    epoch), so a resumed run repeats an uninterrupted one bit for bit.

    Args:
        arguments: all options; kept in the checkpoint as plain primitives.
        model, tokenizer: the base, already loaded.
    """

    strict_loading = False  # checkpoints hold what is trained, not the frozen base
    has_frozen_base = False

    def __init__(
        self, arguments: Arguments, model: PreTrainedModel | PrefixTuning, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        self.arguments = arguments
        self.model = model
        self.tokenizer = tokenizer
        self.examples_seen = 0
        self._resumed: tuple[int, int] = (0, 0)  # epoch, batches of it that are done
        if arguments.gradient_checkpointing:
            base = model.model if isinstance(model, PrefixTuning) else model
            base.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, **batch: Tensor) -> Any:
        """The model's forward; same arguments and output class."""
        return self.model(**batch)

    def loss(self, batch: dict[str, Tensor], label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over the batch's target tokens (labels (B, T), -100 carries none), in float32.

        With smoothing ε: (1-ε)·nll + ε/V·Σ_v -log p, mean over tokens.
        """
        labels = batch["labels"]
        logits = self(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=shift_right(labels, self.model.config),
            use_cache=False,
        ).logits
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, label_smoothing=label_smoothing
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch, self.arguments.label_smoothing)
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
        if options.lr_scheduler == "constant":
            schedule = get_constant_schedule_with_warmup(optimizer, options.warmup_steps)
        else:
            total = int(total_steps(self.trainer, options.max_steps))
            schedule = get_linear_schedule_with_warmup(optimizer, options.warmup_steps, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def place_order(self, order: Any) -> Any:
        """Put a freshly made batch order where a resumed run stopped; returns it."""
        epoch, done = self._resumed
        order.set_epoch(epoch if done < len(order) else epoch + 1)
        order.start_batch = done if done < len(order) else 0
        return order

    def on_fit_start(self) -> None:
        """Switch dropout on: a loaded base comes in eval mode, and Lightning leaves it there."""
        self.train()

    def on_train_epoch_start(self) -> None:
        batch_order(self.trainer.train_dataloader).set_epoch(self.current_epoch)

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
        checkpoint["examples_seen"] = self.examples_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember where in which epoch the run stopped."""
        self.examples_seen = checkpoint["examples_seen"]
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        self._resumed = (checkpoint["epoch"], batches["current"]["processed"])


class PrefixTransformer(BaseTransformer):
    """Train a prefix on a frozen base: the base becomes a PrefixTuning, everything else stays as it is.

    Args as BaseTransformer's; further keyword arguments go to the next class (a task's module).
    """

    has_frozen_base = True

    def __init__(
        self, arguments: Arguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **others: Any
    ) -> None:
        torch.manual_seed(arguments.seed)
        prefix = PrefixTuning(
            model,
            preseqlen=arguments.preseqlen,
            mid_dim=arguments.mid_dim,
            deep=arguments.deep,
            sites=arguments.sites,
            dropout=arguments.prefix_dropout,
        )
        super().__init__(arguments, prefix, tokenizer, **others)  # type: ignore[arg-type]


def shift_right(labels: Tensor, config: Any) -> Tensor:
    """Decoder inputs (B, T) of labels (B, T): one to the right, starting with the decoder's start token."""
    shifted = labels.new_full(labels.shape, config.decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE, config.pad_token_id)


def batch_order(loader: Any) -> Any:
    """The sampler that orders whole batches: a batch sampler, or the sampler where an item is a batch."""
    return loader.sampler if loader.batch_size is None and loader.batch_sampler is None else loader.batch_sampler
