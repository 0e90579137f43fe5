"""Scores of generated texts, each with the signature that makes it repeatable.

A score is computed once over the whole corpus; means over batches differ from it and are never taken.
What a well-kept library measures is left to it: ROUGE to rouge-score, BLEU, chrF and TER to sacrebleu; what the E2E
challenge defines in its own way is in `metrics_e2e.py`. `python -m seq2seq.metrics GENERATED REFERENCES` scores files.

A further metric is one function of the type `MetricFamily` and its names in `METRICS`.
"""

from __future__ import annotations

import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seq2seq import metrics_e2e
from seq2seq.metrics_files import read_scored, show
from seq2seq.metrics_tokens import mteval_tokens, ptb_tokens, split_sentences
from seq2seq.utils import OneLineParser, UserError, command

References = Sequence[tuple[str, ...]]
Scored = dict[str, tuple[float, str]]
# (names of the family's metrics, hypotheses, references) -> name -> (score, signature)
MetricFamily = Callable[[Sequence[str], list[str], References], Scored]


def score(metrics: Sequence[str], hypotheses: list[str], references: References) -> dict[str, dict]:
    """Score a corpus by each metric: name -> `score`, `signature`, `n` (hypotheses), `references` (all of them).

    Scores lie in 0..100, higher is better, except ter (edits per 100 reference words, lower is better), nist (0 or
    more, near 9 on E2E) and cider (0..10, near 2.5 on E2E). Records may have different numbers of references; an
    empty hypothesis is scored as one that says nothing.
    Raises UserError for an unknown metric, ValueError for an empty corpus, unequal lengths or a record without
    reference, TypeError for a reference that is a bare string.
    """
    _refuse_unknown(metrics)
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

    families: dict[MetricFamily, list[str]] = {}
    for name in dict.fromkeys(metrics):
        families.setdefault(METRICS[name], []).append(name)
    scored: Scored = {}
    for family, names in families.items():
        scored.update(family(names, hypotheses, references))
    sizes = {"n": len(hypotheses), "references": sum(map(len, references))}
    return {name: {"score": scored[name][0], "signature": scored[name][1], **sizes} for name in dict.fromkeys(metrics)}


def _refuse_unknown(metrics: Sequence[str]) -> None:
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {', '.join(map(repr, unknown))}; choose from {', '.join(METRICS)}")


def _rouge(names: Sequence[str], hypotheses: list[str], references: References) -> Scored:
    """ROUGE with stemming: per record the reference of the best F1, over records the mean (Lin 2004)."""
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
    """BLEU, chrF2 and TER at sacrebleu's defaults, with sacrebleu's own signatures (Post 2018).

    e2e_bleu ignores case, as mteval-v13a does unless told otherwise; the rest of mteval's BLEU is sacrebleu's default.
    """
    from sacrebleu.metrics import BLEU, CHRF, TER

    # Stream i holds every record's i-th reference; None stands for "this record has fewer".
    streams = [
        [record[i] if i < len(record) else None for record in references] for i in range(max(map(len, references)))
    ]
    # Table-to-text references often come tokenised, so `force`: sacrebleu need not warn of it.
    metrics: dict[str, Callable[[], Any]] = {
        "bleu": BLEU,
        "chrf": CHRF,
        "ter": TER,
        "e2e_bleu": partial(BLEU, lowercase=True, force=True),
    }
    scored = {}
    for name in names:
        metric = metrics[name]()
        result = metric.corpus_score(hypotheses, streams)
        scored[name] = (float(result.score), f"{result.name}|{metric.get_signature()}")
    return scored


def _nist(names: Sequence[str], hypotheses: list[str], references: References) -> Scored:
    """NIST over n-grams of 1 to 5 of mteval's tokens."""
    value = metrics_e2e.nist(
        [mteval_tokens(hypothesis) for hypothesis in hypotheses],
        [[mteval_tokens(reference) for reference in record] for record in references],
    )
    signature = f"NIST|ngrams:5|case:lc|tok:13a|refs:clip-all,mean-length|sacrebleu:{version('sacrebleu')}"
    return {name: (value, signature) for name in names}


def _coco(names: Sequence[str], hypotheses: list[str], references: References) -> Scored:
    """METEOR, ROUGE-L and CIDEr on the Penn Treebank tokens of the COCO caption code."""
    tokens = [ptb_tokens(hypothesis) for hypothesis in hypotheses]
    reference_tokens = [[ptb_tokens(reference) for reference in record] for record in references]
    tool = f"tok:ptb-no-punctuation|case:lc|nltk:{version('nltk')}"
    scored = {}
    for name in names:
        if name == "meteor":
            wordnet = metrics_e2e.wordnet()
            value = 100 * metrics_e2e.meteor(tokens, reference_tokens, wordnet or metrics_e2e.NoThesaurus())
            match = f"exact,stem,wordnet-{wordnet.get_version()}" if wordnet else "exact,stem,no-wordnet"
            parameters = f"alpha:{metrics_e2e.ALPHA}|beta:{metrics_e2e.BETA}|gamma:{metrics_e2e.GAMMA}"
            settings = f"METEOR|match:{match}|{parameters}|refs:best|pooled"
        elif name == "e2e_rougeL":
            value = 100 * metrics_e2e.rouge_l(tokens, reference_tokens)
            settings = f"ROUGE-L|beta:1.2|refs:max-P,max-R|mean-F|rouge-score:{version('rouge-score')}"
        else:
            value = metrics_e2e.cider(tokens, reference_tokens)
            settings = "CIDEr-D|ngrams:4|sigma:6|df:references|refs:mean|mean"
        scored[name] = (value, f"{settings}|{tool}")
    return scored


def _answers(names: Sequence[str], hypotheses: list[str], references: References) -> Scored:
    """Exact match and token F1 of normalised answers, the best over the references (SQuAD 2.0's definition)."""
    measures = {"exact_match": lambda answer, truth: float(answer == truth), "f1": _token_f1}
    answers = [_normalise(hypothesis) for hypothesis in hypotheses]
    # a reference that is nothing but an article or punctuation counts only where a question has no other
    truths = [[kept for text in record if (kept := _normalise(text))] or [[]] for record in references]
    scored = {}
    for name in names:
        best = [
            max(measures[name](answer, truth) for truth in record)
            for answer, record in zip(answers, truths, strict=True)
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


METRICS: dict[str, MetricFamily] = {
    "rouge1": _rouge,
    "rouge2": _rouge,
    "rougeL": _rouge,
    "rougeLsum": _rouge,
    "bleu": _sacrebleu,
    "chrf": _sacrebleu,
    "ter": _sacrebleu,
    "e2e_bleu": _sacrebleu,
    "nist": _nist,
    "meteor": _coco,
    "e2e_rougeL": _coco,
    "cider": _coco,
    "exact_match": _answers,
    "f1": _answers,
}
E2E = ("e2e_bleu", "nist", "meteor", "e2e_rougeL", "cider")


def main(argv: list[str] | None = None) -> int:
    """Score files and print a table and the signatures; returns the exit code, 2 for a user's mistake."""
    parser = OneLineParser(
        prog="python -m seq2seq.metrics",
        description="Score generated texts against all their references, by default as the E2E challenge does.",
    )
    parser.add_argument("generated", type=Path, help="one text a line, or generations_<split>.jsonl of a run")
    parser.add_argument(
        "references",
        type=Path,
        nargs="?",
        help="the references of each text, one a line, blank lines between texts; not for a .jsonl",
    )
    parser.add_argument(
        "--metrics",
        default=",".join(E2E),
        help=f"names with commas between, of {', '.join(METRICS)}; default: %(default)s",
    )

    def work() -> None:
        arguments = parser.parse_args(argv)
        names = [name.strip() for name in arguments.metrics.split(",")]
        _refuse_unknown(names)
        parts = read_scored(arguments.generated, arguments.references)
        show({part: score(names, *texts) for part, texts in parts.items()})

    return command(work, interrupted="interrupted")


if __name__ == "__main__":
    sys.exit(main())
