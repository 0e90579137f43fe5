"""The hypotheses of a beam search: the running beams of each source and its best finished ones.

Names, rules and their order are those of transformers' `_beam_search`, whose helpers do the scoring.

Shapes: B sources, N beams, K candidates of a source in a step, V vocabulary, M most tokens, T tokens of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

IMPOSSIBLE = -1.0e9  # the score of a hypothesis that is not there
BLOCK = 64  # candidates whose maximum is looked at first


@dataclass
class Beams:
    """All tensors of a search, sources first."""

    running: Tensor  # tokens (B, N, M)
    running_scores: Tensor  # sums of log-probabilities (B, N)
    running_parents: Tensor  # which beam each new token came from (B, N, M - T), -1 = no token
    sequences: Tensor  # of finished ones, best first (B, N, M)
    scores: Tensor  # with length penalty (B, N)
    parents: Tensor  # (B, N, M - T)
    finished: Tensor  # whether there is a finished one in this place (B, N)
    improvable: Tensor  # whether a running one might still become better than the finished ones (B, 1)
    padding: Tensor  # tokens of the prompt that no length penalty counts (B, 1)

    @classmethod
    def start(cls, prompts: Tensor, config: Any, padding: Tensor) -> Beams:
        """All beams on the prompts (B, T), the first one alone able to go on."""
        (sources, length), number, device = prompts.shape, config.num_beams, prompts.device
        pad, eos = config._pad_token_tensor, config._eos_token_tensor
        fill = int(pad or eos[0]) if eos is not None else -1
        running = torch.full((sources, number, config.max_length), fill, device=device)
        running[:, :, :length] = prompts[:, None]
        parents = torch.full((sources, number, config.max_length - length), -1, dtype=torch.int32, device=device)
        scores = torch.full((sources, number), IMPOSSIBLE, dtype=torch.float32, device=device)
        running_scores = scores.clone()
        running_scores[:, 0] = 0.0
        finished = torch.zeros((sources, number), dtype=torch.bool, device=device)
        improvable = torch.ones((sources, 1), dtype=torch.bool, device=device)
        padding = padding.float()  # powers of lengths would be in torch's default precision if it were integers
        return cls(running, running_scores, parents, running, scores, parents, finished, improvable, padding)

    def select(self, sources: Tensor) -> Beams:
        """The beams of some sources, by index."""
        return Beams(*(getattr(self, field.name)[sources] for field in fields(self)))

    def put(self, places: Tensor, others: Beams) -> Beams:
        """These beams with `others` in some sources' places."""
        pairs = ((getattr(self, field.name), getattr(others, field.name)) for field in fields(self))
        return Beams(*(own.index_copy(0, places, other) for own, other in pairs))

    def done(self, config: GenerationConfig) -> Tensor:
        """Which sources (B,) nothing can change any more."""
        return ~self.improvable[:, 0] | (self.finished.all(1) & (config.early_stopping is True))

    def advance(
        self,
        model: Any,
        log_probs: Tensor,
        prompt: int,
        length: int,
        config: Any,
        criteria: StoppingCriteriaList,
        count_prompt: bool = False,
    ) -> tuple[Beams, Tensor]:
        """One step with the next token's log-probabilities (B·N, V), which are used up; whether the search goes on.

        Args:
            prompt, length: tokens of the prompt, and of the running hypotheses with it.
            count_prompt: lengths are those of transformers before 4.0: with the prompt, without the token that ends.
        """
        number, eos = config.num_beams, config._eos_token_tensor
        width = max(2, 1 + (0 if eos is None else len(eos))) * number  # K: N go on even if each beam could end
        scores = log_probs.unflatten(0, (-1, number)).add_(self.running_scores[:, :, None])
        top, chosen = best_of(scores.flatten(1), width)
        parent = chosen // scores.shape[2]
        tokens, parents = (
            table.gather(1, parent[:, :, None].expand(-1, -1, table.shape[2]))
            for table in (self.running, self.running_parents)
        )
        tokens[:, :, length] = last = chosen % scores.shape[2]
        parents[:, :, length - prompt] = parent.int()
        ended = criteria(tokens[:, :, : length + 1].flatten(0, 1), None).unflatten(0, (-1, width))  # type: ignore[arg-type]
        running, running_scores, running_parents = model._get_running_beams_for_next_iteration(
            topk_log_probs=top,
            topk_running_sequences=tokens,
            topk_running_beam_indices=parents,
            next_token_hits_stopping_criteria=ended,
            num_beams=number,
        )
        hopes = running_scores
        start: int | Tensor = prompt  # what is not counted: of candidates, and of running hypotheses
        ended_start = start
        if count_prompt:
            start = ended_start = self.padding
            if eos is not None:
                ended_start, hopes = start + torch.isin(last, eos), top  # the best candidate, whether it ends or not
        rules = {"early_stopping": config.early_stopping, "length_penalty": config.length_penalty}
        sequences, best, best_parents, finished = model._update_finished_beams(
            sequences=self.sequences,
            topk_running_sequences=tokens,
            beam_scores=self.scores,
            topk_log_probs=top,
            beam_indices=self.parents,
            topk_running_beam_indices=parents,
            is_early_stop_heuristic_unsatisfied=self.improvable,
            is_sent_finished=self.finished,
            next_token_hits_stopping_criteria=ended,
            top_num_beam_mask=torch.arange(width, device=ended.device) < number,
            num_beams=number,
            cur_len=length,
            decoder_prompt_len=ended_start,
            **rules,
        )
        improvable = model._check_early_stop_heuristic(
            is_early_stop_heuristic_unsatisfied=self.improvable,
            running_beam_scores=hopes,
            beam_scores=best,
            is_sent_finished=finished,
            cur_len=length if count_prompt else length + 1,
            max_length=config.max_length,
            decoder_prompt_len=start,
            **rules,
        )
        goes_on = model._beam_search_has_unfinished_sequences(improvable, finished, ended, config.early_stopping)
        after = (running, running_scores, running_parents, sequences, best, best_parents, finished, improvable)
        return Beams(*after, self.padding), goes_on


def best_of(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The best scores of each row (B, K), best first, and their columns: `topk`, several times faster on a CPU.

    The K best lie in the K blocks with the best maxima, or in what is left over behind the last block.
    """
    whole = scores.shape[1] // BLOCK * BLOCK
    if whole <= 4 * number * BLOCK:
        return scores.topk(number)
    blocks = scores[:, :whole].unflatten(1, (-1, BLOCK)).amax(2).topk(number)[1]
    columns = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
    rest = torch.arange(whole, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat((columns, rest), dim=1)
    top, places = scores.gather(1, columns).topk(number)
    return top, columns.gather(1, places)
