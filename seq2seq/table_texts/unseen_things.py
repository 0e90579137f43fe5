"""Domains that training never sees: ship, board game."""

from __future__ import annotations

from seq2seq.table_texts.shape import Domain, Field

SHIP = Domain(
    "ship",
    noun="ship",
    names="[{adj} {noun}|[Duchess|Spirit|Pride|Maid|Lady|Star] of {place}|{first} {surname}|{coin}|"
    "{coin} [Wind|Tide|Wave]|[Saint|Captain|Old] {first}]",
    kind=Field(
        "type",
        "[cargo ship|passenger ferry|icebreaker|oil tanker|research vessel|fishing trawler|cruise ship|tugboat|"
        "hospital ship|container ship|training ship|paddle steamer|dredger|cable layer|schooner|lifeboat]",
    ),
    fields=(
        Field(
            "home port",
            "{place}",
            post=("from {}",),
            part=("based in {}",),
            verb=("is based in {}", "has {} as its home port"),
            lead=("{} is the home port of {N}", "The home port of {N} is {}"),
            clause=("its home port is {}", "the home port is {}"),
        ),
        Field(
            "length",
            "{#14-390} metres",
            post=("with a length of {}",),
            part=("measuring {} in length",),
            verb=("is {} long", "measures {} in length"),
            lead=("The length of {N} is {}", "A length of {} is given for {N}"),
            clause=("it is {} long", "its length is {}"),
        ),
        Field(
            "crew",
            "{#3-180}",
            post=("with a crew of {}",),
            part=("manned by a crew of {}",),
            verb=("has a crew of {}", "needs a crew of {}"),
            lead=("A crew of {} works on board {N}", "There are {} people in the crew of {N}"),
            clause=("the crew numbers {}", "it has a crew of {}"),
        ),
        Field(
            "captain",
            "{person}",
            part=("sailing under its captain {}",),
            verb=("has {} as its captain", "sails under its captain {}"),
            lead=("{} is the captain of {N}", "The captain of {N} is {}"),
            clause=("its captain is {}", "the captain is {}"),
        ),
        Field(
            "launched",
            "{y1881-2021}",
            part=("launched in {}",),
            verb=("was launched in {}",),
            lead=("The year {} saw the launch of {N}", "The launch of {N} was in {}"),
            clause=("it was launched in {}", "its launch was in {}"),
        ),
        Field(
            "built by",
            "[{surname} Shipyard|{coin} Shipyard|{coin} Marine|{place} Docks|{surname} and Sons]",
            post=("built by {}",),
            part=("built by {}",),
            verb=("was built by {}",),
            lead=("{} built {N}", "{} is the builder of {N}", "The builder of {N} was {}"),
            clause=("its builder was {}", "{} built it"),
        ),
        Field(
            "top speed",
            "{#7-38} knots",
            post=("with a top speed of {}",),
            part=("reaching {} at top speed",),
            verb=("has a top speed of {}", "reaches {} at top speed"),
            lead=("The top speed of {N} is {}", "A top speed of {} is reached by {N}"),
            clause=("its top speed is {}", "the top speed is {}"),
        ),
    ),
    frames=(
        "In {=launched}, {=built by} launched {name}, a {type} {post:1-2}.",
        "Under its captain, {=captain}, the {type} {name} sails from its home port, {=home port}. {^it} {verb:1-2}.",
        "On board the {type} {name} there is a crew of {=crew}. {^it} {verb:1-3}.",
    ),
)

GAME = Domain(
    "board game",
    noun="game",
    names="[{played} and {played}|{played} of {place}|{adj} {played}|{coin}|The {played} of {coin}|{coin} {played}]",
    kind=Field(
        "type",
        "[board game|dice game|card game|tile game|strategy game|word game|party game|cooperative game|memory game|"
        "bluffing game|trading game|racing game|economic game|auction game|deduction game]",
    ),
    fields=(
        Field(
            "designer",
            "{person}",
            post=("by {}", "designed by {}"),
            part=("designed by {}", "invented by {}"),
            verb=("was designed by {}", "was invented by {}"),
            lead=("{} designed {N}", "{} invented {N}", "The designer of {N} is {}"),
            clause=("its designer is {}", "{} designed it"),
        ),
        Field(
            "publisher",
            "[{surname}|{coin}|{noun}] [Games|Press|Play|Editions]",
            post=("from {}",),
            part=("issued by {}",),
            verb=("is issued by {}", "comes from the publisher {}"),
            lead=("{} publishes {N}", "{} is the publisher of {N}", "The publisher of {N} is {}"),
            clause=("its publisher is {}", "{} publishes it"),
        ),
        Field(
            "players",
            "[2|3] to [4|5|6|7|8]",
            post=("for {} players",),
            part=("meant for {} players",),
            verb=("is for {} players", "can be played by {} people"),
            lead=("It takes {} players to play {N}", "The number of players in {N} is {}"),
            clause=("it is for {} players", "the number of players is {}"),
        ),
        Field(
            "playing time",
            "{#15-180/5} minutes",
            post=("with a playing time of {}",),
            part=("lasting {}",),
            verb=("takes {} to play", "lasts {}"),
            lead=("It takes {} to play {N}", "The playing time of {N} is {}"),
            clause=("it lasts {}", "the playing time is {}"),
        ),
        Field(
            "minimum age",
            "{#6-16}",
            post=("for ages {} and up",),
            part=("suitable from the age of {}",),
            verb=("is suitable from the age of {}", "is for ages {} and up"),
            lead=("Players must be at least {} for {N}", "The minimum age for {N} is {}"),
            clause=("players must be at least {}", "the minimum age is {}"),
        ),
        Field(
            "published",
            "{y1951-2023}",
            part=("published in {}",),
            verb=("was published in {}", "came out in {}"),
            lead=("The year {} saw the publication of {N}", "The publication of {N} was in {}"),
            clause=("it was published in {}", "it came out in {}"),
        ),
        Field(
            "cards",
            "{#18-240/2}",
            post=("with {} cards",),
            part=("containing {} cards",),
            verb=("contains {} cards", "has {} cards"),
            lead=("There are {} cards in {N}", "In the box of {N} are {} cards"),
            clause=("it contains {} cards", "there are {} cards"),
        ),
    ),
    frames=(
        "In {=published}, {=publisher} published {name}, a {type} {post:0-2} {that} {verb:1-2}.",
        "{=players} people can play the {type} {name}, {which} {verb:1-2}.",
        "Designed by {=designer}, the {type} {name} {verb:1-3}.",
        "{=designer} is the designer of {name}, a {type} {post:1-2}.",
    ),
)

DOMAINS = (SHIP, GAME)
