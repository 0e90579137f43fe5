"""Sentences end where a reader ends them, and tokens are those of the original scripts."""

import pytest

from seq2seq.metrics_tokens import first_sentence, mteval_tokens, ptb_tokens, split_sentences


@pytest.mark.parametrize(
    "text, first",
    [
        ("The pool opens on Monday. Bring a towel.", "The pool opens on Monday."),
        ("Dr. Ana Reed spoke first. Others followed.", "Dr. Ana Reed spoke first."),
        ("Doors open at 9 a.m. on Friday. Tea is free.", "Doors open at 9 a.m. on Friday."),
        ("Doors open at 9 a.m. Friday. Tea is free.", "Doors open at 9 a.m. Friday."),
        ("Doors open at 9 a.m. Tea is free.", "Doors open at 9 a.m."),
        ("Bus No. 5 is late. Wait here.", "Bus No. 5 is late."),
        ("He said no. We left.", "He said no."),
        ("J. R. Moss won. Who lost?", "J. R. Moss won."),
        ("It is in Mill Street. It is cheap.", "It is in Mill Street."),
        ("It is up the drive. It is cheap.", "It is up the drive."),
        ("So am I. He left.", "So am I."),
        ("Is it plan B? Yes.", "Is it plan B?"),
        ("It cost 3.50 euros! Why?", "It cost 3.50 euros!"),
        ("“Is it open?” she asked. It was.", "“Is it open?”"),
        ("a line without a stop\nthe next line", "a line without a stop"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_the_first_sentence_ends_where_a_reader_ends_it(text, first):
    assert first_sentence(text) == first


def test_sentences_together_are_the_text():
    text = "Mr. Hale came at 5 p.m. Nobody knew why... He left (early). See fig. 2."
    assert split_sentences(text) == [
        "Mr. Hale came at 5 p.m.",
        "Nobody knew why...",
        "He left (early).",
        "See fig. 2.",
    ]


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("It's £5, or 3.50 euros.", "it's £5 , or 3.50 euros ."),
        ("A 1990-style (small) cafe-bar", "a 1990 - style ( small ) cafe-bar"),
        ("fish &amp; chips &lt; 5", "fish & chips < 5"),
        ("", ""),
    ],
)
def test_mteval_tokens_are_those_of_mteval_v13a(text, tokens):
    assert mteval_tokens(text) == tokens.split()


# What Stanford's tokenizer makes of these texts, `£` and brackets (to it `#`, -lrb-, -rrb-) as they are.
@pytest.mark.parametrize(
    "text, tokens",
    [
        ("It's cheap. It isn't far, is it?", "it 's cheap it is n't far is it"),
        ("it 's family - friendly .", "it 's family friendly"),
        ("A child-friendly cafe; prices £20-£25!", "a child-friendly cafe prices £ 20 £ 25"),
        ("It costs €20.", "it costs € 20"),
        ("It costs £3.50 - less than £20-25.", "it costs £ 3.50 less than £ 20-25"),
        ("The 'Old Mill' is \"good\" near St. Mary's.", "the old mill is good near st. mary 's"),
        ("Ann’s “Mill” – a pub… in the U.S.", "ann 's mill a pub in the u.s."),
        ("It is rated 5 out of 5 (high).", "it is rated 5 out of 5 ( high )"),
        ("She can't; they'll go", "she ca n't they 'll go"),
        ("...", ""),
        ("", ""),
    ],
)
def test_ptb_tokens_are_those_of_the_coco_code(text, tokens):
    assert ptb_tokens(text) == tokens.split()
