"""How a text becomes sentences and tokens before it is scored: sentences, mteval-13a tokens, Penn Treebank tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tokenize import TreebankWordTokenizer

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

# What the COCO caption code removes from a tokenised text. It means to remove brackets too, but looks for "-LRB-" in
# text that is lower-cased already, so they stay, and they stay here.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
AS_ASCII = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": "..."})
CURRENCY = re.compile(r"(?<=\d)-(?=[£€$])|[£€]")
OPENING_QUOTE = re.compile(r"(?<!\w)'(?!(?:s|re|ve|ll|d|m|t|em)\b)")
FINAL_ABBREVIATION = re.compile(r"(?:\b\w\.){2,}$")


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


def mteval_tokens(text: str) -> list[str]:
    """Tokens of mteval-v13a.pl, lower-cased: the tokenisation of the E2E challenge's BLEU and NIST."""
    return _mteval()(text.lower()).split()


def ptb_tokens(text: str) -> list[str]:
    """Penn Treebank tokens, lower-cased, without punctuation, as the COCO caption code makes them.

    That code calls Stanford's tokenizer, a Java program. This is nltk's tokenizer, sentence by sentence, brought closer
    to Stanford's: currency signs, dashes, opening quotes and a last abbreviation (`U.S.`) are tokens of their own.
    """
    tokens = []
    for sentence in split_sentences(text):
        apart = CURRENCY.sub(r" \g<0> ", sentence.lower().translate(AS_ASCII))
        apart = FINAL_ABBREVIATION.sub(r"\g<0> .", OPENING_QUOTE.sub(" ' ", apart))
        tokens += [token for token in _treebank().tokenize(apart) if token not in PUNCTUATION]
    return tokens


@cache
def _mteval() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


@cache
def _treebank() -> TreebankWordTokenizer:
    from nltk.tokenize import TreebankWordTokenizer

    return TreebankWordTokenizer()
