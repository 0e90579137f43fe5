"""Texts from templates: draw the choices, fill the slots, set articles and capitals."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\^?)([^{}]+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=(?!one\b|uni|use|usu|eu)[aeiou]|(?!Uni|Eu)[AEIOU]|8\b|8\d\b|11\b|18\b)")


def fill(rng: random.Random, text: str, value: Callable[[str], str]) -> str:
    """Draw every choice `[a|b]` of a template, then put `value("slot")` for `{slot}`, with a capital for `{^slot}`."""
    while found := _CHOICE.search(text):
        text = text[: found.start()] + rng.choice(found[1].split("|")) + text[found.end() :]

    def slot(found: re.Match[str]) -> str:
        held = value(found[2])
        return held[:1].upper() + held[1:] if found[1] else held

    return _SLOT.sub(slot, text)


def polish(text: str) -> str:
    """The text with single blanks, "an" before vowels and a capital at its start, also behind an opening quote."""
    text = _ARTICLE.sub(r"\1n ", re.sub(" +", " ", text)).strip()
    start = 1 if text.startswith('"') else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]
