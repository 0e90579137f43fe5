"""Invented names and drawn values of the carried `sample_tables` data, composed so that few of them come twice."""

from __future__ import annotations

import random

from seq2seq.sample_texts import names
from seq2seq.sample_texts.templates import fill


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, which is shorter to write and read than a tuple of strings."""
    return tuple(text.split())


_STARTS = _words(
    "Bal Brim Cor Dov Drav El Fal Fen Gil Gor Hal Hel Il Jor Kas Kel Kor Lor Lum Mar Mor Nal Nev Nor Ol Or Pel Quel "
    "Ral Ris Sal Sel Skal Sor Sul Tam Tel Tor Tril Ul Val Ver Vol Wel Yar Yol Zan Zel Zim Zor"
)
_VOWELS = _words("a e i o u")
_TAILS = _words("n l x th nd rn st sk lm nt rk") + tuple(
    coda + onset + vowel
    for coda, onsets in {"": "bdgklmnprstvz", "n": "dgkstz", "l": "dktv", "r": "dgkmntv", "s": "kt", "m": "bp"}.items()
    for onset in onsets
    for vowel in "aeio"
)
_KNOWN = _words(
    "Alaska Balsa Corolla Corona Coral Elena Helena Helene Korona Koran Lorena Lorenzo Lumumba Malaga Marina Marine "
    "Marino Melina Mariko Morale Moraine Morena Morelos Nalanda Olive Oliva Orlando Polo Salami Salina Selena Selina "
    "Solano Torino Toronto Ulaanbaatar Valencia Valente Valeria Velvet Verona Volare Yolanda Zelda Zoroaster"
)
"""Compositions that are known words, names or places, left out."""

_ADJECTIVES = _words(
    "Amber Brass Brisk Broken Copper Crimson Crooked Dusty Early Faded Frozen Gentle Gilded Golden Green Grey Hidden "
    "Hollow Humble Idle Iron Ivory Jolly Late Lazy Little Lonely Lucky Merry Misty Narrow Nimble Noisy Painted Pale "
    "Patient Polite Quiet Rusty Salty Scarlet Secret Silent Silver Sleepy Smoky Solemn Speckled Stubborn Sunny Tall "
    "Tangled Thirsty Tin Velvet Violet Wandering White Wooden Yellow"
)
_NOUNS = _words(
    "Acorn Anchor Badger Barrel Beetle Bell Bicycle Button Candle Cedar Comet Compass Cricket Crow Drum Falcon Feather "
    "Fiddle Finch Fox Garden Goose Hare Harp Hat Hedgehog Heron Kettle Key Kite Ladder Lantern Lark Magpie Mirror Moth "
    "Oar Orchard Otter Owl Parrot Pear Pelican Pepper Piano Pigeon Plum Quince Raven River Robin Rook Saddle Sparrow "
    "Spoon Stork Swallow Tern Thimble Thistle Thrush Trumpet Turtle Umbrella Violin Walnut Weasel Whistle Willow"
)
_SUBJECTS = _words(
    "Accounting Astronomy Basketry Beekeeping Bookbinding Botany Calligraphy Carpentry Ceramics Cooking Debating "
    "Drawing Embroidery Fencing Forestry Gardening Geology Glassblowing Harmony Juggling Knitting Lacemaking Law Logic "
    "Marketing Masonry Mending Navigation Origami Painting Photography Poetry Pottery Printing Rhetoric Sailing Sewing "
    "Shorthand Songwriting Statistics Storytelling Tailoring Translation Typography Weaving Welding Woodcarving"
)
_PLAYED = _words(
    "Bandits Beacons Beavers Bridges Caravans Castles Clouds Coins Crowns Dragons Ferries Gardens Goblins Harbours "
    "Kings Lanterns Maps Merchants Mills Monks Moons Orchards Pirates Potions Queens Rails Ravens Riddles Rivers "
    "Scarecrows Sheep Spices Temples Thieves Towers Traders Tulips Turnips Vineyards Whales Witches Wizards"
)
_POOLS = {
    "adj": _ADJECTIVES,
    "noun": _NOUNS,
    "subject": _SUBJECTS,
    "played": _PLAYED,
    "first": names.WOMEN + names.MEN,
    "letter": tuple("BCDFGHJKLMNPRSTVWXZ"),
    "weekday": names.WEEKDAYS,
    "month": _words("January February March April May June July August September October November December"),
    "language": _words(
        "Basque Bulgarian Catalan Croatian Czech Danish Dutch English Estonian Finnish French German Greek Hindi "
        "Hungarian Icelandic Irish Italian Japanese Korean Latvian Lithuanian Norwegian Polish Portuguese Romanian "
        "Slovak Spanish Swahili Swedish Tamil Thai Turkish Welsh"
    ),
    "clock": tuple(
        f"{hour}.{minute:02d} {half}"
        for half, hours in (("am", range(5, 12)), ("pm", range(1, 12)))
        for hour in hours
        for minute in range(5, 60, 5)
    ),
    "early": tuple(f"{hour}{half} am" for hour in range(6, 12) for half in ("", ".15", ".30", ".45")),
}


def _coin(rng: random.Random) -> str:
    """A made-up word of two or three syllables."""
    while (word := rng.choice(_STARTS) + rng.choice(_VOWELS) + rng.choice(_TAILS)) in _KNOWN:
        pass
    return word


def draw(rng: random.Random, template: str) -> str:
    """A value of a template: `[a|b]` is a free choice, `{kind}` a pool above, `coin`, or a kind of `names.fresh`."""

    def value(kind: str) -> str:
        if kind == "coin":
            return _coin(rng)
        return rng.choice(_POOLS[kind]) if kind in _POOLS else names.fresh(rng, kind)

    return fill(rng, template, value)
