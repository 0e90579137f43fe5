"""The scores equal what a person computes by hand on small texts."""

import math
from collections import Counter
from importlib.metadata import version

import pytest

from seq2seq.metrics import METRICS, score
from seq2seq.utils import UserError


def one(metric: str, hypothesis: str, *references: str) -> float:
    return score([metric], [hypothesis], [references])[metric]["score"]


def test_rouge_n_is_the_f1_of_shared_ngrams():
    # 5 of 6 words and 3 of 5 pairs are shared
    assert one("rouge1", "the cat sat on the mat", "the cat lay on the mat") == pytest.approx(100 * 5 / 6)
    assert one("rouge2", "the cat sat on the mat", "the cat lay on the mat") == pytest.approx(100 * 3 / 5)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # longest common subsequence "the dog the man" of 4 words; precision 4/5, recall 4/6
    assert one("rougeL", "the dog chased the man", "the big dog bit the man") == pytest.approx(100 * 8 / 11)


def test_rouge_stems():
    assert one("rouge1", "dogs were barking", "dog were barks") == pytest.approx(100)


def test_rouge_takes_the_best_reference_of_each_metric():
    references = ("red green blue black", "blue red green white gold")
    # rouge1 is better against the first (3 of 3 and 4), rougeL likewise; rouge2 has one pair in either
    assert one("rouge1", "green red blue", *references) == pytest.approx(100 * 6 / 7)
    assert one("rougeL", "white blue red green", *references) == pytest.approx(100 * 6 / 9)
    assert one("rouge2", "white blue red green", *references) == pytest.approx(100 * 4 / 7)


def test_rouge_of_a_corpus_is_the_mean_over_its_records():
    both = score(["rouge1"], ["a b", "c d"], [("a b",), ("c x", "y z")])["rouge1"]
    assert both["score"] == pytest.approx((100 + 50) / 2)
    assert (both["n"], both["references"]) == (2, 3)


def test_rouge_lsum_matches_sentence_by_sentence():
    hypothesis, reference = "A dog ran. The cat slept.", "The cat slept. A dog ran."
    assert one("rougeLsum", hypothesis, reference) == pytest.approx(100)
    assert one("rougeL", hypothesis, reference) == pytest.approx(50)
    assert one("rougeLsum", hypothesis.replace(". ", ".\n"), reference) == pytest.approx(100)


def bleu_by_hand(hypotheses: list[list[str]], references: list[list[list[str]]]) -> float:
    """Papineni et al. 2002 on tokens: clipped counts over the references, closest reference length."""
    logs, length, closest = 0.0, 0, 0
    for n in range(1, 5):
        matched = total = 0
        for hypothesis, record in zip(hypotheses, references, strict=True):
            grams = Counter(zip(*(hypothesis[i:] for i in range(n)), strict=False))
            allowed: Counter = Counter()
            for reference in record:
                allowed |= Counter(zip(*(reference[i:] for i in range(n)), strict=False))
            matched += sum((grams & allowed).values())
            total += sum(grams.values())
        logs += math.log(matched / total) / 4
    for hypothesis, record in zip(hypotheses, references, strict=True):
        length += len(hypothesis)
        closest += min((abs(len(reference) - len(hypothesis)), len(reference)) for reference in record)[1]
    return 100 * math.exp(logs + min(0.0, 1 - closest / length))


RAGGED_HYPOTHESES = ["the small cat sat on the mat today", "a dog ran across the road"]
RAGGED_REFERENCES = [
    ("the small cat sat on a mat", "a small cat is sitting on the mat today", "the cat sat on the mat today"),
    ("a dog ran over the road quickly",),
]


def test_bleu_with_ragged_references_equals_the_definition():
    by_hand = bleu_by_hand(
        [text.split() for text in RAGGED_HYPOTHESES],
        [[text.split() for text in record] for record in RAGGED_REFERENCES],
    )
    result = score(["bleu"], RAGGED_HYPOTHESES, RAGGED_REFERENCES)["bleu"]
    assert result["score"] == pytest.approx(by_hand)
    assert "nrefs:var" in result["signature"] and "tok:13a" in result["signature"]
    assert (result["n"], result["references"]) == (2, 4)


def test_ter_with_ragged_references_counts_edits_to_the_best_reference():
    # record 1: insert nothing, delete "small" against the third; record 2: across -> over, add quickly
    mean_lengths = (7 + 9 + 7) / 3 + 7
    ter = score(["ter"], RAGGED_HYPOTHESES, RAGGED_REFERENCES)["ter"]
    assert ter["score"] == pytest.approx(100 * (1 + 2) / mean_lengths)


@pytest.mark.parametrize("metric", ["bleu", "e2e_bleu", "chrf", "ter", "meteor", "e2e_rougeL", "cider"])
def test_a_missing_reference_is_not_an_empty_one(metric):
    """A ragged corpus scores as the same corpus whose missing references repeat one that is there."""
    filled = [RAGGED_REFERENCES[0], RAGGED_REFERENCES[1] * 3]
    for order in (slice(None), slice(None, None, -1)):  # the record with fewer references last, then first
        ragged = score([metric], RAGGED_HYPOTHESES[order], RAGGED_REFERENCES[order])[metric]["score"]
        assert ragged == pytest.approx(score([metric], RAGGED_HYPOTHESES[order], filled[order])[metric]["score"])


def test_chrf_is_the_f2_of_character_ngrams():
    # "abcd" against "abce": n-grams shared 3/4, 2/3, 1/2, 0/1; orders 5 and 6 do not exist
    mean = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert one("chrf", "abcd", "abce") == pytest.approx(100 * mean)


def test_answers_are_compared_after_normalising():
    assert one("exact_match", "The Eiffel Tower!", "eiffel  tower") == 100
    assert one("exact_match", "in Paris", "Paris") == 0
    assert one("f1", "in Paris", "Paris") == pytest.approx(100 * 2 / 3)
    assert one("f1", "red blue", "red green white", "a blue") == pytest.approx(100 * 2 / 3)
    assert one("exact_match", "an apple", "apple") == 100


@pytest.mark.parametrize("metric", ["exact_match", "f1"])
def test_a_reference_of_which_normalising_leaves_nothing_counts_only_alone(metric):
    assert one(metric, "the", "A", "Paris") == one(metric, "", "?", "Paris") == 0
    assert one(metric, "Paris!", "A", "Paris") == one(metric, "the", "A", "?") == 100


def test_words_of_an_answer_count_as_often_as_they_stand():
    assert one("f1", "new york new york", "new york new york") == 100
    assert one("f1", "new new", "new") == pytest.approx(100 * 2 / 3)
    assert one("f1", "", "the") == 100  # nothing is left of both
    assert one("f1", "x", "the") == 0


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "ter"])
def test_an_empty_hypothesis_scores_nothing(metric):
    assert one(metric, "", "something was said") == 0


def test_an_empty_hypothesis_has_every_word_to_edit():
    assert one("ter", "", "something was said") == 100


def test_signatures_name_tool_version_and_settings():
    scored = score(list(METRICS), ["a b c d."], [("a b c e.",)])
    assert list(scored) == list(METRICS)
    assert scored["rouge1"]["signature"] == f"rouge-score {version('rouge-score')}|stem:yes|refs:max|mean-F1"
    assert "sentences:" in scored["rougeLsum"]["signature"]
    assert scored["bleu"]["signature"].startswith("BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scored["chrf"]["signature"].startswith("chrF2|nrefs:1")
    assert scored["ter"]["signature"].startswith("TER|nrefs:1")
    assert "refs:max" in scored["f1"]["signature"]
    assert scored["e2e_bleu"]["signature"].startswith("BLEU|nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:")
    assert scored["nist"]["signature"].endswith(f"|sacrebleu:{version('sacrebleu')}")
    for name in ("meteor", "e2e_rougeL", "cider"):
        assert scored[name]["signature"].endswith(f"|tok:ptb-no-punctuation|case:lc|nltk:{version('nltk')}")


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="0 hypotheses against references of 0 records"):
        score(["bleu"], [], [])
    with pytest.raises(ValueError, match="2 hypotheses against references of 1 records"):
        score(["bleu"], ["a", "b"], [("a",)])
    with pytest.raises(ValueError, match=r"references\[1\] is empty"):
        score(["bleu"], ["a", "b"], [("a",), ()])
    with pytest.raises(TypeError, match=r"references\[0\] is one string"):
        score(["bleu"], ["a"], ["abc"])
    with pytest.raises(UserError, match="unknown metric 'rogue1'; choose from rouge1, rouge2"):
        score(["rogue1"], ["a"], [("a",)])
