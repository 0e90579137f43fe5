"""One step of a beam search, by hand: two beams behind four tokens, a vocabulary of eight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import base
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria

from seq2seq.beam_state import Beams

PROMPT, LENGTH, VOCABULARY = 2, 4, 8
UNLIKELY = -60.0


def advance(candidates: dict[int, float], eos: list[int], finished: list[float] | None = None, **changes: Any) -> Beams:
    """The step of a source whose first beam (score 0) may go on with these tokens; its second is far behind.

    finished: scores of two finished hypotheses, if there are any.
    changes: of `Beams` fields, and `count_prompt`.
    """
    config: Any = GenerationConfig(num_beams=2, max_length=12, length_penalty=1.0, early_stopping=False)
    config._eos_token_tensor, config._pad_token_tensor = torch.tensor(eos), torch.tensor(0)
    beams = Beams.start(torch.tensor([[3, 4]]), config, torch.zeros(1, 1))
    beams.running_scores = torch.tensor([[0.0, -40.0]])
    if finished is not None:
        beams.scores, beams.finished = torch.tensor([finished]), torch.ones(1, 2, dtype=torch.bool)
    count_prompt = changes.pop("count_prompt", False)
    for name, value in changes.items():
        setattr(beams, name, value)
    log_probs = torch.full((2, VOCABULARY), UNLIKELY)
    for token, score in candidates.items():
        log_probs[0, token] = score
    criteria = StoppingCriteriaList([EosTokenCriteria(torch.tensor(eos))])
    return beams.advance(base("gpt2"), log_probs, PROMPT, LENGTH, config, criteria, count_prompt)[0]


@pytest.mark.parametrize(("worst", "improvable"), [(-0.9, False), (-1.1, True)])
def test_a_counted_prompt_ends_a_search_by_the_lengths_that_are(worst: float, improvable: bool) -> None:
    """The best running one, -4 over its four tokens, is no hope against -0.9; over five it would be."""
    beams = advance({3: -4.0, 4: -5.0}, [2], [-0.5, worst], count_prompt=True)
    assert beams.improvable.item() is improvable


def test_a_counted_prompt_hopes_for_the_best_candidate_though_it_ends() -> None:
    beams = advance({2: -3.0, 3: -4.0}, [2], [-0.8, -0.9], count_prompt=True)
    assert beams.scores.tolist() == [[pytest.approx(-0.75), pytest.approx(-0.8)]]
    assert beams.improvable.item() is True  # -3 over four tokens is better than -0.8, -4 is not


@pytest.mark.parametrize("last", [2, 5])
def test_no_counted_length_has_the_token_that_ends(last: int) -> None:
    beams = advance({last: -3.0, 3: -4.0}, [2, 5], count_prompt=True)
    assert beams.scores[0, 0].item() == pytest.approx(-3.0 / 4)
    assert beams.sequences[0, 0, LENGTH].item() == last


def test_two_beams_go_on_however_many_tokens_end() -> None:
    beams = advance({2: -1.0, 5: -1.5, 6: -2.0, 3: -3.0, 4: -3.5}, [2, 5, 6])
    assert beams.running_scores.tolist() == [[-3.0, -3.5]]


def test_a_source_that_is_done_stays_so() -> None:
    done = torch.zeros(1, 1, dtype=torch.bool)
    assert advance({3: -4.0}, [2], [-5.0, -6.0], improvable=done).improvable.item() is False
    assert advance({3: -4.0}, [2], [-5.0, -6.0]).improvable.item() is True
