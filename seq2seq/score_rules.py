"""transformers' rules on the next token's scores, without their copies of all scores where one number changes.

Shapes: R rows, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as rules

FORBIDDEN = float("-inf")


def apply_rules(processors: Iterable[Any], tokens: Tensor, scores: Tensor) -> Tensor:
    """Scores (R, V) behind tokens (R, T) after all rules, in their order; the given scores are used up."""
    for rule in processors:
        in_place = IN_PLACE.get(type(rule))
        if in_place is not None:
            scores = in_place(rule, tokens, scores)
        elif type(rule).__module__ == rules.__name__:
            scores = rule(tokens, scores)
        else:  # somebody's own may keep what it is given and what it gives
            scores = rule(tokens, scores.clone()).clone()
    return scores


def _min_length(rule: Any, tokens: Tensor, scores: Tensor) -> Tensor:
    return scores.index_fill_(1, rule.eos_token_id, FORBIDDEN) if tokens.shape[1] < rule.min_length else scores


def _min_new_tokens(rule: Any, tokens: Tensor, scores: Tensor) -> Tensor:
    new = tokens.shape[1] - rule.prompt_length_to_skip
    return scores.index_fill_(1, rule.eos_token_id, FORBIDDEN) if new < rule.min_new_tokens else scores


def _no_repeated_ngram(rule: Any, tokens: Tensor, scores: Tensor) -> Tensor:
    size = rule.ngram_size
    if tokens.shape[1] < size:
        return scores
    started = tokens[:, tokens.shape[1] + 1 - size :]
    ngrams = tokens.unfold(1, size, 1)
    return _forbid(scores, ngrams[..., -1], (ngrams[..., :-1] == started[:, None]).all(-1))


def _no_bad_words(rule: Any, tokens: Tensor, scores: Tensor) -> Tensor:
    if any(len(word) > 1 for word in rule.sequence_bias):
        return rule(tokens, scores)
    for (word,) in rule.sequence_bias:  # one by one: their list as a tensor would wait for a GPU in every step
        scores[:, word] = FORBIDDEN
    return scores


def _suppressed(rule: Any, tokens: Tensor, scores: Tensor) -> Tensor:
    suppressed = rule.suppress_tokens.to(scores.device).expand(len(scores), -1)
    return _forbid(scores, suppressed, torch.ones_like(suppressed, dtype=torch.bool))


def _forbid(scores: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """Scores with -inf for some of the tokens (R, N), those `where` (R, N) says; no wait for a GPU.

    Each of them gets its own score or -inf, and the smaller one stays where two meet. Tokens may be unknown.
    """
    known = tokens.clamp(max=scores.shape[1] - 1)
    own = scores.gather(1, known).masked_fill_(where & (tokens < scores.shape[1]), FORBIDDEN)
    return scores.scatter_reduce_(1, known, own, "amin")


IN_PLACE: dict[type, Callable[[Any, Tensor, Tensor], Tensor]] = {
    rules.MinLengthLogitsProcessor: _min_length,
    rules.MinNewTokensLengthLogitsProcessor: _min_new_tokens,
    rules.NoBadWordsLogitsProcessor: _no_bad_words,
    rules.NoRepeatNGramLogitsProcessor: _no_repeated_ngram,
    rules.SuppressTokensLogitsProcessor: _suppressed,
}
