"""Scores of generated texts, each with the signature that makes it repeatable.

A score is computed once over the whole corpus; means over batches differ from it and are never taken.
What a well-kept library measures is left to it: ROUGE to rouge-score, BLEU, chrF and TER to sacrebleu.

A further metric is one function of the type `Family` and its names in `METRICS`.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from seq2seq.utils import UserError

References = Sequence[tuple[str, ...]]
Scored = dict[str, tuple[float, str]]
# (names of the family's metrics, hypotheses, references) -> name -> (score, signature)
Family = Callable[[Sequence[str], list[str], References], Scored]

# After these a full stop never ends a sentence ...
TITLE = re.compile(r"dr|mr|mrs|ms|prof|st|mt|rev|gen|sgt|capt|lt|col|hon|fig|vs|cf|approx|e\.g|i\.e", re.I)
# ... after these it does when a capital follows, unless that capital is a day's or a month's: "at 9 a.m. Monday".
MAY_END = re.compile(
    r"[ap]\.m|etc|inc|ltd|co|corp|jr|sr|u\.s|u\.k|ph\.d|jan|feb|mar|apr|aug|sept?|oct|nov|dec|no|nos", re.I
)
DAY_OR_MONTH = re.compile(
    r"((Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|January|February|March|April|May|June|July|August"
    r"|(Septem|Octo|Novem|Decem)ber)\b"
)
SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*\s+")


def score(metrics: Sequence[str], hypotheses: list[str], references: References) -> dict[str, dict]:
    """Score a corpus by each metric: name -> `score`, `signature`, `n` (hypotheses), `references` (all of them).

    Scores lie in 0..100, higher is better, except ter (edits per 100 reference words, lower is better).
    Records may have different numbers of references; an empty hypothesis is scored as one that says nothing.
    Raises UserError for an unknown metric, ValueError for an empty corpus, unequal lengths or a record without
    reference, TypeError for a reference that is a bare string.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {', '.join(map(repr, unknown))}; choose from {', '.join(METRICS)}")
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            f"cannot score {len(hypotheses)} hypotheses against references of {len(references)} records: "
            "the numbers must be equal and above 0"
        )
    for index, record in enumerate(references):
        if isinstance(record, str):
            raise TypeError(f"references[{index}] is one string; give a tuple of strings")
        if not record:
            raise ValueError(f"references[{index}] is empty; a record needs at least one reference")

    families: dict[Family, list[str]] = {}
    for name in dict.fromkeys(metrics):
        families.setdefault(METRICS[name], []).append(name)
    scored: Scored = {}
    for family, names in families.items():
        scored.update(family(names, hypotheses, references))
    sizes = {"n": len(hypotheses), "references": sum(map(len, references))}
    return {name: {"score": scored[name][0], "signature": scored[name][1], **sizes} for name in dict.fromkeys(metrics)}


def split_sentences(text: str) -> list[str]:
    """Split English text into sentences: at newlines, and at `.`, `!` or `?` before a blank.

    A full stop is no end after a title or an initial (`Dr.`), nor after `a.m.`, `No.` and the like before a small
    letter, a digit or a day's name.
    """
    sentences = []
    for line in text.splitlines():
        start = 0
        for match in SENTENCE_END.finditer(line):
            if _ends_sentence(line[start : match.start()], match.group().strip(), line[match.end() :]):
                sentences.append(line[start : match.end()])
                start = match.end()
        sentences.append(line[start:])
    return [sentence.strip() for sentence in sentences if sentence.strip()]


def _ends_sentence(before: str, mark: str, after: str) -> bool:
    if mark != ".":
        return True
    words = before.split()
    word = words[-1].lstrip("\"'“‘([") if words else ""
    if TITLE.fullmatch(word) or (len(word) == 1 and word.isupper() and word != "I"):
        return False
    if MAY_END.fullmatch(word):
        return after[:1].isupper() and not DAY_OR_MONTH.match(after)
    return True


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, the lead baseline of summarisation; an empty text gives an empty one."""
    return next(iter(split_sentences(text)), "")


def _rouge(names: Sequence[str], hypotheses: list[str], references: References) -> Scored:
    """ROUGE with stemming: per record the reference of the best F1, over records the mean (Lin 2004)."""
    from importlib.metadata import version

    from rouge_score.rouge_scorer import RougeScorer

    # rougeLsum reads a newline as a sentence's end; to the other three it is a blank.
    def lines(text: str) -> str:
        return "\n".join(split_sentences(text))

    scorer = RougeScorer(list(names), use_stemmer=True)
    f1: dict[str, list[float]] = {name: [] for name in names}
    for hypothesis, record in zip(hypotheses, references, strict=True):
        best = scorer.score_multi([lines(reference) for reference in record], lines(hypothesis))
        for name in names:
            f1[name].append(best[name].fmeasure)
    base = f"rouge-score {version('rouge-score')}|stem:yes|refs:max"
    split = {"rougeLsum": "|sentences:newline,[.!?]+blank,abbreviations-kept"}
    return {name: (_mean_percent(f1[name]), f"{base}{split.get(name, '')}|mean-F1") for name in names}


def _sacrebleu(names: Sequence[str], hypotheses: list[str], references: References) -> Scored:
    """BLEU, chrF2 and TER at sacrebleu's defaults, with sacrebleu's own signatures (Post 2018)."""
    from sacrebleu.metrics import BLEU, CHRF, TER

    # Stream i holds every record's i-th reference; None stands for "this record has fewer".
    streams = [
        [record[i] if i < len(record) else None for record in references] for i in range(max(map(len, references)))
    ]
    scored = {}
    for name in names:
        metric = {"bleu": BLEU, "chrf": CHRF, "ter": TER}[name]()
        result = metric.corpus_score(hypotheses, streams)
        scored[name] = (float(result.score), f"{result.name}|{metric.get_signature()}")
    return scored


def _answers(names: Sequence[str], hypotheses: list[str], references: References) -> Scored:
    """Exact match and token F1 of normalised answers, the best over the references (SQuAD 2.0's definition)."""
    measures = {"exact_match": lambda answer, truth: float(answer == truth), "f1": _token_f1}
    scored = {}
    for name in names:
        best = [
            max(measures[name](_normalise(hypothesis), _normalise(reference)) for reference in record)
            for hypothesis, record in zip(hypotheses, references, strict=True)
        ]
        scored[name] = (_mean_percent(best), f"squad-2.0|norm:case,punctuation,articles,blanks|refs:max|mean-{name}")
    return scored


def _normalise(answer: str) -> list[str]:
    kept = "".join(character for character in answer.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def _token_f1(answer: list[str], truth: list[str]) -> float:
    if not answer or not truth:
        return float(answer == truth)
    return 2 * (Counter(answer) & Counter(truth)).total() / (len(answer) + len(truth))


def _mean_percent(values: list[float]) -> float:
    return 100 * math.fsum(values) / len(values)


METRICS: dict[str, Family] = {
    "rouge1": _rouge,
    "rouge2": _rouge,
    "rougeL": _rouge,
    "rougeLsum": _rouge,
    "bleu": _sacrebleu,
    "chrf": _sacrebleu,
    "ter": _sacrebleu,
    "exact_match": _answers,
    "f1": _answers,
}
