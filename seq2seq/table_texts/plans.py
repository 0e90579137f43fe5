"""How the phrases of a record's fields make one or two sentences, the same for every domain.

Slots: `{name}` and `{type}`; `{it}`, `{the}` ("the museum"), `{that}` and `{which}` as fits a thing or a person;
`{post:1-2}` = one to two fields of that form, joined as the form asks (a lone number = exactly so many, "?" = none or
one); `{before}` and `{after}` are the two halves of one field's lead, around the mention of the thing; `{ending}` is a
lead that ends with the mention; `{=key}` is the bare value of that field.
"""

from __future__ import annotations

PLANS = {
    # one sentence, the name first
    "is": "{name} is a {adj:?} {type} {post:1-3}.",
    "is that": "{name} is a {adj:?} {type} {post:0-2} {that} {verb:1-2}.",
    "is, part": "{name} is a {adj:?} {type} {post:0-2}, {part:1-2}.",
    "is, and clause": "{name} is a {adj:?} {type} {post:0-2}, and {clause:1}.",
    "apposition": "{name}, a {adj:?} {type} {post:0-2}, {verb:1-3}.",
    "name part": "{name}, {part:1}, is a {adj:?} {type} {post:1-2}.",
    # one sentence, the noun or a fact first
    "the noun": "The {adj:?} {type} {name} {verb:1-3}.",
    "front": "{part:1-2}, {name} is a {adj:?} {type} {post:0-2}.",
    "front the noun": "{part:1-2}, the {adj:?} {type} {name} {verb:1-2}.",
    "a noun": "A {adj:?} {type} {post:1-2}, {name} {verb:1-3}.",
    "lead which": "{ending} the {adj:?} {type} {name}, {which} {verb:1-2}.",
    "lead apposition": "{before} {name}, a {adj:?} {type} {post:0-2}, {after}.",
    "lead and the noun": "{before} the {adj:?} {type} {name} {after}, and {the} {verb:1}.",
    "noun called": "The {adj:?} {type} {that} {verb:1-2} is called {name}.",
    # two sentences
    "is. it": "{name} is a {adj:?} {type} {post:0-2}. {^it} {verb:1-3}.",
    "is that. it": "{name} is a {adj:?} {type} {that} {verb:1}. {^it} {verb:1-2}.",
    "is. clauses": "{name} is a {adj:?} {type} {post:1-2}. {^clause:1}, and {clause:1}.",
    "the noun. it": "The {adj:?} {type} {name} {verb:1-2}. {^it} {verb:1-2}.",
    "apposition. clause": "{name}, a {adj:?} {type} {post:0-2}, {verb:1-2}. {^clause:1}.",
    "front. it": "{part:1-2}, {name} is a {adj:?} {type} {post:0-1}. {^it} {verb:1-2}.",
    "lead. it": "{before} the {adj:?} {type} {name} {after}. {^the} {verb:1-3}.",
    "lead. clause": "{before} {name}, a {adj:?} {type} {post:0-2}, {after}. {^clause:1}.",
}

# Not for persons, of whom one does not say that there is one.
THING_PLANS = {
    "there is": "There is a {adj:?} {type} called {name} {post:0-1}, {which} {verb:1-2}.",
    "there is. it": "There is a {adj:?} {type} called {name} {post:0-2}. {^it} {verb:1-3}.",
    "with the name": "A {adj:?} {type} {post:1-2} bears the name {name}. {^it} {verb:1-2}.",
}
