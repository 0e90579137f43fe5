"""The E2E challenge's metrics equal independent implementations on the same tokens, and what a person computes."""

import math
from collections import Counter

import nltk
import pytest
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import meteor_score
from nltk.translate.nist_score import corpus_nist
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, TER

from seq2seq import metrics_e2e
from seq2seq.metrics import E2E, score
from seq2seq.metrics_tokens import mteval_tokens, ptb_tokens

HYPOTHESES = [
    "The Copper Kettle is a cheap tea room by the harbour. It's family-friendly.",
    "Lantern House is a Thai restaurant near the old mill with prices of £20-25.",
    "The Copper Kettle is a tea room.",
    "Near the station you find Brook's, a pub with a rating of 3 out of 5 that welcomes children.",
    "Harbour View serves fish (and only fish); it isn't cheap, and it is not for families at all.",
]
REFERENCES = [
    (
        "The Copper Kettle is a cheap, family-friendly tea room by the harbour.",
        "By the harbour there is a cheap tea room, The Copper Kettle. It's good for families.",
        "Families like The Copper Kettle: a cheap tea room at the harbour.",
    ),
    ("Lantern House, near the old mill, is a Thai restaurant. It costs £20-25.",),
    ("The Copper Kettle is a tea room.", "There is a tea room called The Copper Kettle."),
    (
        "Brook's is a child-friendly pub near the station. It's rated 3 out of 5.",
        "Near the station is Brook's, a pub with a rating of 3 out of 5. Children are welcome.",
        "You find the pub Brook's near the station; rating: 3 out of 5, children welcome.",
        "Brook's pub, near the station, welcomes children and is rated 3 out of 5.",
    ),
    ("Harbour View serves fish. It isn't cheap and not family-friendly.", "At Harbour View fish is dear; no children."),
]
ONE_EACH = [record[:1] for record in REFERENCES]


@pytest.fixture(autouse=True)
def without_wordnet(monkeypatch):
    """Whether WordNet's data lies on this machine must not matter."""
    monkeypatch.setattr(metrics_e2e, "wordnet", lambda: None)


def value(metric, hypotheses=HYPOTHESES, references=REFERENCES) -> float:
    return score([metric], hypotheses, references)[metric]["score"]


def tokenised(tokenise, references=REFERENCES):
    return [tokenise(text) for text in HYPOTHESES], [[tokenise(text) for text in record] for record in references]


def coco(scorer, references=REFERENCES) -> float:
    hypotheses, references = tokenised(ptb_tokens, references)
    return scorer.compute_score(
        {i: [" ".join(tokens) for tokens in record] for i, record in enumerate(references)},
        {i: [" ".join(tokens)] for i, tokens in enumerate(hypotheses)},
    )[0]


def mteval_nist(hypotheses, references) -> float:
    """The sums of mteval-v13a.pl (`compute_ngram_info`, `score_segment`, `nist_score`), n-gram for n-gram."""

    def grams(tokens, n):
        return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    everything = Counter(gram for record in references for r in record for n in range(1, 6) for gram in grams(r, n))
    words = sum(len(r) for record in references for r in record)
    result = 0.0
    for n in range(1, 6):
        information, outputs = 0.0, 0
        for hypothesis, record in zip(hypotheses, references, strict=True):
            own = grams(hypothesis, n)
            outputs += len(own)
            for gram in set(own):
                most = max(grams(r, n).count(gram) for r in record)
                if most:
                    before = everything[gram.rpartition(" ")[0]] if n > 1 else words
                    information += min(own.count(gram), most) * -math.log(everything[gram] / before) / math.log(2)
        result += information / max(outputs, 1)
    ratio = sum(map(len, hypotheses)) / sum(sum(map(len, record)) / len(record) for record in references)
    beta = -math.log(0.5) / math.log(1.5) / math.log(1.5)
    return result * (1 if ratio >= 1 else math.exp(-beta * math.log(ratio) ** 2))


def test_bleu_is_nltks_and_sacrebleus_on_the_same_tokens():
    hypotheses, references = tokenised(mteval_tokens)
    assert value("e2e_bleu") == pytest.approx(100 * corpus_bleu(references, hypotheses), abs=1e-6)
    streams = [[" ".join(record[i]) if i < len(record) else None for record in references] for i in range(4)]
    independent = BLEU(tokenize="none", force=True).corpus_score([" ".join(tokens) for tokens in hypotheses], streams)
    assert value("e2e_bleu") == pytest.approx(independent.score, abs=1e-6)


def test_bleu_ignores_case():
    loud = [text.upper() for text in HYPOTHESES]
    assert value("e2e_bleu", loud) == pytest.approx(value("e2e_bleu"))
    assert value("bleu", loud) < value("bleu")


def test_nist_with_one_reference_is_nltks():
    hypotheses, references = tokenised(mteval_tokens, ONE_EACH)
    assert value("nist", references=ONE_EACH) == pytest.approx(corpus_nist(references, hypotheses), abs=1e-6)
    short = [tokens[:8] for tokens in hypotheses]  # so that the length penalty counts
    assert metrics_e2e.nist(short, references) == pytest.approx(corpus_nist(references, short), abs=1e-6)
    assert sum(map(len, short)) < sum(len(record[0]) for record in references)


def test_nist_with_many_references_is_mtevals():
    hypotheses, references = tokenised(mteval_tokens)
    assert value("nist") == pytest.approx(mteval_nist(hypotheses, references), abs=1e-6)
    short = [tokens[:8] for tokens in hypotheses]
    assert metrics_e2e.nist(short, references) == pytest.approx(mteval_nist(short, references), abs=1e-6)


def test_nist_by_hand():
    # Three different words weigh log2(3) each, the pair after its first word log2(1); 2/3 of the length halves it.
    assert value("nist", ["red green"], [("red green blue",)]) == pytest.approx(math.log2(3) / 2)
    assert value("nist", ["red green blue"], [("red green blue",)]) == pytest.approx(math.log2(3))


def test_rouge_l_is_the_coco_codes():
    assert value("e2e_rougeL") == pytest.approx(100 * coco(Rouge()), abs=1e-6)
    assert value("e2e_rougeL", references=ONE_EACH) == pytest.approx(100 * coco(Rouge(), ONE_EACH), abs=1e-6)


def test_rouge_l_with_beta_1_and_one_reference_is_rouge_scores():
    class Tokenizer:
        tokenize = staticmethod(ptb_tokens)

    scorer = RougeScorer(["rougeL"], tokenizer=Tokenizer())
    f1 = [scorer.score(r, h)["rougeL"].fmeasure for h, (r,) in zip(HYPOTHESES, ONE_EACH, strict=True)]
    assert metrics_e2e.rouge_l(*tokenised(ptb_tokens, ONE_EACH), beta=1.0) == pytest.approx(sum(f1) / len(f1))


def test_rouge_l_takes_precision_and_recall_from_different_references():
    # precision 2/2 from the first, recall 1/1 from the second
    assert value("e2e_rougeL", ["red green"], [("red green blue white", "green")]) == pytest.approx(100)
    # precision 1/2, recall 1/4; F = 2.44 * P * R / (R + 1.44 * P)
    by_hand = 2.44 * 0.5 * 0.25 / (0.25 + 1.44 * 0.5)
    assert value("e2e_rougeL", ["red green"], [("red blue white black",)]) == pytest.approx(100 * by_hand)


def test_cider_is_the_coco_codes():
    assert value("cider") == pytest.approx(coco(Cider()), abs=1e-6)
    assert value("cider", references=ONE_EACH) == pytest.approx(coco(Cider(), ONE_EACH), abs=1e-6)


def test_cider_by_hand():
    # Each record has its own words, so all weights are equal: cosine 1 for orders 1 and 2, none for 3 and 4.
    hypotheses, references = ["red green", "tall short"], [("red green",), ("tall short",)]
    assert value("cider", hypotheses, references) == pytest.approx(10 * 2 / 4)
    # "white" has no match: cosine 1/2 for words, 0 for pairs in the first record
    hypotheses[0] = "red white"
    assert value("cider", hypotheses, references) == pytest.approx(10 * (0.5 / 4 + 2 / 4) / 2)
    # three words against two: one pair more, penalty exp(-1/72); clipped cosines 2/sqrt(3*2) and 1/sqrt(2*1)
    hypotheses[0] = "red green white"
    first = (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    assert value("cider", hypotheses, references) == pytest.approx(10 * (first + 2 / 4) / 2)


def test_cider_of_one_record_is_0():
    assert value("cider", HYPOTHESES[:1], REFERENCES[:1]) == 0


@pytest.mark.parametrize("i", [0, 1, 3, 4])
def test_meteor_of_one_record_is_nltks_with_the_parameters_of_meteor_1_5(i):
    references = [ptb_tokens(text) for text in REFERENCES[i]]
    independent = meteor_score(
        references,
        ptb_tokens(HYPOTHESES[i]),
        wordnet=metrics_e2e.NoThesaurus(),
        alpha=0.85,
        beta=0.2,
        gamma=0.6,
    )
    assert value("meteor", [HYPOTHESES[i]], [REFERENCES[i]]) == pytest.approx(100 * independent)


def test_meteor_pools_the_counts_of_the_corpus():
    # 3 of 4 words of 3, in 2 chunks; 2 of 2 words of 3, in 1 chunk: together 5 matches of 6 and 6 words in 3 chunks.
    hypotheses, references = ["red green white blue", "tall walls"], [("red green blue",), ("two tall wall",)]
    precision = recall = 5 / 6
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert value("meteor", hypotheses, references) == pytest.approx(100 * mean * (1 - 0.6 * (3 / 5) ** 0.2))


def test_meteor_matches_synonyms_where_wordnet_is_there(monkeypatch):
    class Lemma:
        name = staticmethod(lambda: "bar")

    class Synset:
        lemmas = staticmethod(lambda: [Lemma])

    class WordNet:
        get_version = staticmethod(lambda: "3.0")
        synsets = staticmethod(lambda word: [Synset] if word == "pub" else [])

    texts = ["a very cheap pub"], [("a very cheap bar",)]
    without = score(["meteor"], *texts)["meteor"]
    monkeypatch.setattr(metrics_e2e, "wordnet", lambda: WordNet)
    with_it = score(["meteor"], *texts)["meteor"]
    assert without["score"] < with_it["score"] == pytest.approx(100)
    assert "|match:exact,stem,no-wordnet|" in without["signature"]
    assert "|match:exact,stem,wordnet-3.0|" in with_it["signature"]


def test_without_its_data_there_is_no_wordnet(monkeypatch):
    monkeypatch.undo()  # the fixture that hides WordNet
    fresh = nltk.corpus.util.LazyCorpusLoader("wordnet", nltk.corpus.WordNetCorpusReader, None)
    monkeypatch.setattr(nltk.corpus, "wordnet", fresh)
    monkeypatch.setattr(nltk.data, "path", [])
    assert metrics_e2e.wordnet() is None


def test_ter_is_sacrebleus_of_each_record_put_together():
    """Edits to the nearest reference, over the mean length of the record's references."""
    edits = lengths = 0.0
    for hypothesis, record in zip(HYPOTHESES, REFERENCES, strict=True):
        words = [len(reference.split()) for reference in record]
        single = [TER().sentence_score(hypothesis, [reference]).score for reference in record]
        edits += min(ter / 100 * n for ter, n in zip(single, words, strict=True))
        lengths += sum(words) / len(words)
    assert value("ter") == pytest.approx(100 * edits / lengths)


@pytest.mark.parametrize("metric", [*E2E, "bleu", "chrf", "ter"])
def test_the_order_of_references_and_of_records_does_not_matter(metric):
    turned = [record[::-1] for record in REFERENCES]
    assert value(metric, references=turned) == pytest.approx(value(metric))
    assert value(metric, HYPOTHESES[::-1], REFERENCES[::-1]) == pytest.approx(value(metric))


@pytest.mark.parametrize("position", [0, -1])
def test_a_perfect_output_scores_all(position):
    perfect = [record[position] for record in REFERENCES]
    for metric in ("e2e_bleu", "meteor", "e2e_rougeL"):
        assert value(metric, perfect) == pytest.approx(100)
    for metric in ("nist", "cider"):
        assert value(metric, perfect) > value(metric) > 0


def test_one_record_can_be_scored():
    scored = score(E2E, HYPOTHESES[:1], REFERENCES[:1])
    assert [scored[name]["n"] for name in E2E] == [1] * 5
    assert all(scored[name]["score"] > 0 for name in E2E if name != "cider")


def test_a_text_of_punctuation_only_is_an_empty_one():
    for name in ("meteor", "e2e_rougeL", "cider"):
        assert value(name, ["...", "a pub"], [("a pub",), ("!",)]) == 0
