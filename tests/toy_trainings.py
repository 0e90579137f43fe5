"""A Lightning training of two parameters, whose batches, scores and death are given."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seq2seq.callbacks import Checkpoints, RunProgressBar
from seq2seq.curves import read_rows

BATCHES = 5


class Batches:
    """Batches of 4 rows in a fixed order, whose position is saved and restored."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.position %= BATCHES
        while self.position < BATCHES:
            self.position += 1
            x = torch.linspace(-1, 1, 4) + self.position / 10
            yield {"input_ids": x, "labels": (3 + self.position) * x + 1}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Line(pl.LightningModule):
    """y = w·dropout(x) + b; `scores` are what its validations say in turn; `die_at` is where it is killed."""

    def __init__(self, scores: tuple[float, ...] = (), die_at: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.line.weight)
        torch.nn.init.zeros_(self.line.bias)
        self.scores = scores
        self.die_at = die_at
        self.validations: list[int] = []

    def on_train_batch_start(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        torch.manual_seed(1000 * self.current_epoch + batch_idx)  # as BaseTransformer: a step's randomness is its own

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self._die("train")
        return self._loss(batch)

    def val_dataloader(self) -> Any:
        fixed: Any = list(Batches())
        return torch.utils.data.DataLoader(fixed, batch_size=None)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self._die("validate")
        self.log("val_loss", self._loss(batch), batch_size=4)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.validations.append(self.global_step)
            if self.scores:
                self.log("val_rougeL", self.scores[-(-self.global_step // BATCHES) - 1])

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = torch.nn.functional.dropout(batch["input_ids"], 0.2, self.training)
        return torch.nn.functional.mse_loss(self.line(x[:, None])[:, 0], batch["labels"])

    def _die(self, where: str) -> None:
        if self.die_at == (where, self.global_step):
            raise RuntimeError("killed")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 40))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def weights(self) -> list[float]:
        return [self.line.weight.item(), self.line.bias.item()]


class Clocked(Line):
    """Each of its training steps takes two seconds of the clock that the fixture `clock` puts in."""

    now = 0.0

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        Clocked.now += 2.0
        return super().training_step(batch, batch_idx)


def fit(module: Line, callbacks: list[pl.Callback], resume: Path | None = None, **options: Any) -> pl.Trainer:
    keeps = any(isinstance(callback, Checkpoints) for callback in callbacks)
    shows = any(isinstance(callback, RunProgressBar) for callback in callbacks)
    trainer = pl.Trainer(
        **{"max_epochs": 3, **options},
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=keeps,
        enable_progress_bar=shows,
        enable_model_summary=False,
    )
    torch.manual_seed(1 if resume is None else 2)  # what a new process draws must not matter to a resumed training
    trainer.fit(module, Batches(), ckpt_path=resume)
    return trainer


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in read_rows(path)]
