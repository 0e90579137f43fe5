"""NIST, METEOR, ROUGE-L and CIDEr of tokenised texts, by the definitions of the E2E challenge's `measure_scores.py`.

That script (Dušek, Novikova and Rieser 2020) takes NIST from mteval-v13a, the other three from the COCO caption code.
Each function scores a whole corpus: `hypotheses[i]` are the tokens of text i, `references[i]` those of all its
references, at least one. The order of a record's references has no influence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

Tokens = list[str]
Corpus = Sequence[Tokens]
ReferenceCorpus = Sequence[Sequence[Tokens]]
Ngram = tuple[str, ...]

# METEOR 1.5 for English: the weight of recall, the shape and the size of the penalty for scattered matches.
ALPHA, BETA, GAMMA = 0.85, 0.2, 0.6


def ngram_counts(tokens: Tokens, order: int) -> Counter[Ngram]:
    """How often each n-gram of 1 to `order` tokens occurs."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, order + 1) for i in range(len(tokens) - n + 1))


def nist(hypotheses: Corpus, references: ReferenceCorpus, order: int = 5) -> float:
    """NIST (Doddington 2002, equations 2 and 3), 0 or more, by mteval-v13a: matches clipped over all references.

    nltk's `corpus_nist` takes the one best reference of each record and order instead; with one reference the two are
    equal. The length penalty compares with the records' mean reference length; the challenge's Perl script fills up
    missing references with empty ones before it takes the mean, and so hardly ever penalises.
    """
    seen: Counter[Ngram] = Counter()
    for reference in (tokens for record in references for tokens in record):
        seen.update(ngram_counts(reference, order))
        seen[()] += len(reference)

    gained, total = [0.0] * (order + 1), [0] * (order + 1)
    for hypothesis, record in zip(hypotheses, references, strict=True):
        allowed: Counter[Ngram] = Counter()
        for reference in record:
            allowed |= ngram_counts(reference, order)
        for ngram, count in ngram_counts(hypothesis, order).items():
            total[len(ngram)] += count
            if ngram in allowed:
                gained[len(ngram)] += min(count, allowed[ngram]) * math.log2(seen[ngram[:-1]] / seen[ngram])

    mean_length = math.fsum(sum(map(len, record)) / len(record) for record in references)
    ratio = min(1.0, total[1] / mean_length) if mean_length else 0.0
    # The penalty is 1/2 where the output has 2/3 of the references' length.
    penalty = math.exp(math.log(0.5) * (math.log(ratio) / math.log(1.5)) ** 2) if ratio else 0.0
    return penalty * math.fsum(g / max(t, 1) for g, t in zip(gained, total, strict=True))


def rouge_l(hypotheses: Corpus, references: ReferenceCorpus, beta: float = 1.2) -> float:
    """Mean ROUGE-L of the COCO caption code, 0..1: F_beta of the best precision and the best recall of any reference.

    Precision and recall are rouge-score's, of the longest common subsequence (Lin 2004).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Blanks())
    scores = []
    for hypothesis, record in zip(hypotheses, references, strict=True):
        each = [scorer.score(" ".join(reference), " ".join(hypothesis))["rougeL"] for reference in record]
        precision, recall = max(s.precision for s in each), max(s.recall for s in each)
        weighted = recall + beta**2 * precision
        scores.append((1 + beta**2) * precision * recall / weighted if weighted else 0.0)
    return math.fsum(scores) / len(scores)


class _Blanks:
    """Splits a text that is tokenised already."""

    def tokenize(self, text: str) -> Tokens:
        return text.split()


def cider(hypotheses: Corpus, references: ReferenceCorpus, order: int = 4, sigma: float = 6.0) -> float:
    """CIDEr-D, 0..10: mean similarity of tf-idf weighted n-grams to each reference (Vedantam et al. 2015).

    The COCO caption code calls it CIDEr. The idf of an n-gram counts the records in whose references it occurs; what
    all records share weighs nothing, so a corpus of one record scores 0.
    """
    counted = [[ngram_counts(reference, order) for reference in record] for record in references]
    records_with = Counter(ngram for record in counted for ngram in set().union(*record))
    scores = []
    for hypothesis, record in zip(hypotheses, counted, strict=True):
        vectors = _tf_idf(ngram_counts(hypothesis, order), records_with, len(counted), order)
        similarities = [
            _similarity(vectors, _tf_idf(counts, records_with, len(counted), order), sigma) for counts in record
        ]
        scores.append(10 * math.fsum(similarities) / len(similarities))
    return math.fsum(scores) / len(scores)


class _Vectors(NamedTuple):
    weights: list[dict[Ngram, float]]
    """Per order, from 1: the weight of each n-gram."""
    norms: list[float]
    pairs: int
    """Number of bigrams, which the COCO code takes for the length."""


def _tf_idf(counts: Counter[Ngram], records_with: Counter[Ngram], records: int, order: int) -> _Vectors:
    weights: list[dict[Ngram, float]] = [{} for _ in range(order)]
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * math.log(records / max(1, records_with[ngram]))
    norms = [math.sqrt(math.fsum(weight**2 for weight in of_order.values())) for of_order in weights]
    return _Vectors(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(hypothesis: _Vectors, reference: _Vectors, sigma: float) -> float:
    """Cosine with the hypothesis' weights clipped to the reference's, the mean over the orders, times the penalty."""
    cosines = []
    for own, other, own_norm, other_norm in zip(
        hypothesis.weights, reference.weights, hypothesis.norms, reference.norms, strict=True
    ):
        product = math.fsum(min(weight, other[ngram]) * other[ngram] for ngram, weight in own.items() if ngram in other)
        cosines.append(product / (own_norm * other_norm) if own_norm and other_norm else 0.0)
    penalty = math.exp(-((hypothesis.pairs - reference.pairs) ** 2) / (2 * sigma**2))
    return penalty * math.fsum(cosines) / len(cosines)


class Thesaurus(Protocol):
    """What METEOR asks of WordNet."""

    def synsets(self, word: str) -> Iterable: ...


class NoThesaurus:
    """Knows no synonyms: METEOR then matches words and stems."""

    def synsets(self, word: str) -> Iterable:
        return ()


def wordnet() -> Any:
    """nltk's WordNet, or None where its data is not installed; nothing is downloaded."""
    from nltk.corpus import wordnet as reader

    try:
        reader.ensure_loaded()
    except LookupError:
        return None
    return reader


class _Match(NamedTuple):
    """Counts of METEOR's alignment, of one text or summed over a corpus."""

    matches: int
    chunks: int
    hypothesis: int
    reference: int

    def score(self) -> float:
        if not self.matches:
            return 0.0
        precision, recall = self.matches / self.hypothesis, self.matches / self.reference
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        return (1 - GAMMA * (self.chunks / self.matches) ** BETA) * mean


def meteor(hypotheses: Corpus, references: ReferenceCorpus, thesaurus: Thesaurus) -> float:
    """METEOR, 0..1: nltk's alignment, the formula and English parameters of METEOR 1.5 (Denkowski & Lavie 2014).

    As there, the counts of each record's best reference are summed over the corpus. METEOR 1.5 itself, a Java program,
    also knows paraphrases and function words, weighs each kind of match and searches for the alignment with the fewest
    chunks: its numbers differ, on E2E texts they are 2 to 4 points of 100 higher.
    """
    best = []
    for hypothesis, record in zip(hypotheses, references, strict=True):
        matches = [_align(hypothesis, reference, thesaurus) for reference in record]
        # Among equal scores the counts decide, so that the references' order does not.
        best.append(max(matches, key=lambda match: (match.score(), match)))
    return _Match(*map(sum, zip(*best, strict=True))).score()


def _align(hypothesis: Tokens, reference: Tokens, thesaurus: Thesaurus) -> _Match:
    from nltk.translate.meteor_score import align_words

    pairs = align_words(hypothesis, reference, wordnet=thesaurus)[0]
    breaks = sum((b[0] - a[0], b[1] - a[1]) != (1, 1) for a, b in pairwise(pairs))
    whole = len(pairs) == len(hypothesis) == len(reference) and not breaks
    # METEOR 1.5 counts no chunk, hence no penalty, for a text that equals its reference.
    return _Match(len(pairs), 0 if whole or not pairs else breaks + 1, len(hypothesis), len(reference))
