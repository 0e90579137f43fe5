"""The Lightning modules of decoders (GPT-2): source and target in one row, loss on the target.

LanguageModelingModule ── SummarizationModule (finetune.py)     --mode finetune, finetune-top, adaptertune
PrefixLanguageModelingModule                                     --mode prefixtune, bothtune: the same with a prefix
"""

from __future__ import annotations

from torch import Tensor

from seq2seq.finetune import SummarizationModule
from seq2seq.lightning_base import PrefixTransformer
from seq2seq.output_layer import Predictions


class LanguageModelingModule(SummarizationModule):
    """A decoder that continues ` source <eos>` with the target; --objective_mode says how its losses are averaged."""

    def average_loss(self, predictions: Predictions, rows: int, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the target tokens in float32: their mean, or in training the mean over rows of row sums.

        Objective 1 is the authors' default in `train_e2e`; validation is always the mean over tokens.
        """
        if self.arguments.objective_mode == 0 or not self.training:
            return super().average_loss(predictions, rows, label_smoothing)
        return predictions.loss(label_smoothing, divisor=rows)


class PrefixLanguageModelingModule(PrefixTransformer, LanguageModelingModule):
    """LanguageModelingModule with a prefix on a frozen base (Li & Liang 2021)."""
