"""Domains that training never sees: festival, telescope, lighthouse."""

from __future__ import annotations

from seq2seq.table_texts.shape import Domain, Field

FESTIVAL = Domain(
    "festival",
    noun="event",
    names="[{place} [Days|Nights|Weekend|Fest]|{noun} [by the Lake|on the Hill|in the Park|at Dusk]|{adj} {noun}|"
    "{coin}|{coin} [Fest|Days]|Under the {adj} {noun}]",
    kind=Field(
        "type",
        "[jazz festival|film festival|food fair|kite festival|poetry festival|puppet festival|flower show|"
        "folk festival|light festival|science fair|opera festival|circus festival|harvest fair|dance festival]",
    ),
    fields=(
        Field(
            "town",
            "{place}",
            post=("in {}",),
            part=("held in {}",),
            verb=("takes place in {}", "is held in {}"),
            lead=("{} hosts {N}", "{} is home to {N}", "In {}, people celebrate {N}"),
            clause=("it takes place in {}", "it is held in {}"),
        ),
        Field(
            "opens on",
            "{#2-28} {month}",
            part=("opening on {}",),
            verb=("opens on {}", "starts on {}"),
            lead=("The opening day of {N} is {}", "On {} comes the opening of {N}"),
            clause=("it opens on {}", "the opening day is {}"),
        ),
        Field(
            "duration",
            "{#2-14} days",
            post=("of {}", "lasting {}"),
            part=("lasting {}",),
            verb=("lasts {}", "goes on for {}"),
            lead=("The duration of {N} is {}",),
            clause=("it lasts {}", "it goes on for {}"),
        ),
        Field(
            "first held",
            "{y1921-2019}",
            part=("first held in {}",),
            verb=("was first held in {}", "has existed since {}"),
            lead=("The year {} saw the first edition of {N}", "The first edition of {N} was in {}"),
            clause=("it was first held in {}", "its first edition was in {}"),
        ),
        Field(
            "visitors",
            "{y320-9900}",
            post=("with {} visitors",),
            part=("attracting {} visitors",),
            verb=("attracts {} visitors", "draws {} visitors"),
            lead=("There are {} visitors at {N}", "The number of visitors at {N} is {}"),
            clause=("it draws {} visitors", "the number of visitors is {}"),
        ),
        Field(
            "organiser",
            "{person}",
            post=("organised by {}",),
            part=("organised by {}",),
            verb=("is organised by {}", "has {} as its organiser"),
            lead=("{} organises {N}", "{} is the organiser of {N}", "The organiser of {N} is {}"),
            clause=("its organiser is {}", "{} organises it"),
        ),
        Field(
            "ticket",
            "{#3-95} pounds",
            verb=("charges {} for a ticket", "costs {} to attend"),
            lead=("Visitors pay {} for a ticket to {N}", "A ticket to {N} costs {}"),
            clause=("a ticket costs {}", "tickets cost {}"),
        ),
    ),
    frames=(
        "Every year, {=town} hosts a {type} called {name}, {which} {verb:1-2}.",
        "On {=opens on}, the {type} {name} opens in {=town}. {^it} {verb:1-2}.",
        "{=visitors} visitors come to the {type} {name}, {which} {verb:1-3}.",
        "Organised by {=organiser}, the {type} {name} {verb:1-3}.",
    ),
)

TELESCOPE = Domain(
    "telescope",
    noun="telescope",
    names="[{surname} [Array|Eye|Mirror|Reflector]|{coin} [Array|Eye|Observer]|{coin}|The {adj} Eye|"
    "[North|South|East|West] {noun}|[Deep|Wide|Far] {noun}]",
    kind=Field(
        "type",
        "[radio telescope|infrared telescope|solar telescope|optical telescope|survey telescope|ultraviolet telescope|"
        "reflecting telescope|robotic telescope|neutrino telescope|training telescope]",
    ),
    fields=(
        Field(
            "operator",
            "[University of {place}|{coin} Institute|{surname} Observatory|{place} Observatory]",
            post=("of the {}", "run by the {}"),
            part=("operated by the {}", "run by the {}"),
            verb=("is operated by the {}", "is run by the {}"),
            lead=("The {} operates {N}", "The {} runs {N}"),
            clause=("its operator is the {}", "the {} operates it"),
        ),
        Field(
            "site",
            "Mount {coin}",
            post=("on {}", "located on {}"),
            part=("located on {}",),
            verb=("stands on {}", "is located on {}"),
            lead=("{} is the site of {N}", "On {} stands {N}"),
            clause=("it stands on {}", "its site is {}"),
        ),
        Field(
            "mirror",
            "[{#2-39} metres|{#1-9}.{#1-9} metres]",
            post=("with a mirror of {}",),
            part=("equipped with a mirror of {}",),
            verb=("has a mirror of {}", "uses a mirror of {}"),
            lead=("A mirror of {} is the heart of {N}", "The mirror of {N} measures {}"),
            clause=("its mirror measures {}", "the mirror has a size of {}"),
        ),
        Field(
            "altitude",
            "{y610-5200} metres",
            post=("at an altitude of {}",),
            part=("situated at an altitude of {}",),
            verb=("is at an altitude of {}",),
            lead=("The altitude of {N} is {}", "An altitude of {} was chosen for {N}"),
            clause=("its altitude is {}", "the altitude is {}"),
        ),
        Field(
            "first light",
            "{y1931-2024}",
            verb=("saw first light in {}", "had its first light in {}"),
            lead=("The year {} brought first light for {N}", "First light came for {N} in {}"),
            clause=("first light came in {}", "its first light was in {}"),
        ),
        Field(
            "cost",
            "{#2-940} million pounds",
            post=("at a cost of {}",),
            part=("built at a cost of {}",),
            verb=("cost {}", "cost {} to build"),
            lead=("The cost of {N} was {}", "It cost {} to build {N}"),
            clause=("its cost was {}", "it cost {}"),
        ),
        Field(
            "designer",
            "{person}",
            post=("designed by {}",),
            part=("designed by {}",),
            verb=("was designed by {}",),
            lead=("{} designed {N}", "{} is the designer of {N}", "The designer of {N} was {}"),
            clause=("its designer was {}", "{} designed it"),
        ),
    ),
    frames=(
        "On {=site}, the {=operator} runs a {type} called {name}, {which} {verb:1-2}.",
        "With a mirror of {=mirror}, the {type} {name} {verb:1-3}.",
        "In {=first light}, the {type} {name} saw first light. {^it} {verb:1-3}.",
        "{=designer} designed {name}, a {type} {post:0-2} {that} {verb:1-2}.",
    ),
)

LIGHTHOUSE = Domain(
    "lighthouse",
    noun="tower",
    names="[{place} [Light|Tower|Beacon]|{noun} [Rock|Point|Light]|{coin} [Light|Head|Tower]|"
    "[Old|New|North|South] {noun}|{surname}'s [Rock|Lamp]]",
    kind=Field(
        "type",
        "[lighthouse|harbour light|brick lighthouse|stone lighthouse|wooden lighthouse|iron lighthouse|octagonal tower|"
        "light tower|island lighthouse|offshore lighthouse]",
    ),
    fields=(
        Field(
            "location",
            "[Cape|Point] {coin}",
            post=("on {}", "at {}"),
            part=("located on {}",),
            verb=("stands on {}", "is located at {}"),
            lead=("{} is the location of {N}", "On {} stands {N}"),
            clause=("it stands on {}", "its location is {}"),
        ),
        Field(
            "height",
            "{#9-78} metres",
            post=("with a height of {}",),
            part=("rising to {}",),
            verb=("is {} high", "has a height of {}"),
            lead=("The height of {N} is {}", "A height of {} is reached by {N}"),
            clause=("it is {} high", "its height is {}"),
        ),
        Field(
            "built",
            "{y1740-1968}",
            part=("built in {}",),
            verb=("was built in {}", "dates from {}"),
            lead=("The year {} saw the building of {N}", "In {}, workers built {N}"),
            clause=("it was built in {}", "the year of building was {}"),
        ),
        Field(
            "range",
            "{#8-29} sea miles",
            post=("with a range of {}",),
            verb=("has a range of {}", "can be seen over {}"),
            lead=("The range of {N} is {}", "From {} away, sailors see {N}"),
            clause=("its range is {}", "the range is {}"),
        ),
        Field(
            "steps",
            "{#41-398}",
            post=("with {} steps",),
            part=("containing {} steps",),
            verb=("has {} steps", "contains {} steps"),
            lead=("There are {} steps in {N}", "Visitors climb {} steps in {N}"),
            clause=("there are {} steps", "it has {} steps"),
        ),
        Field(
            "flashes every",
            "{#3-30} seconds",
            part=("flashing every {}",),
            verb=("flashes every {}", "sends a flash every {}"),
            lead=("Every {}, there is a flash from {N}", "A flash comes every {} from {N}"),
            clause=("it flashes every {}", "there is a flash every {}"),
        ),
        Field(
            "keeper",
            "{person}",
            part=("looked after by the keeper {}", "kept by {}"),
            verb=("is looked after by the keeper {}", "has {} as its keeper"),
            lead=("{} is the keeper of {N}", "{} looks after {N}", "The keeper of {N} is {}"),
            clause=("its keeper is {}", "the keeper is {}"),
        ),
    ),
    frames=(
        "Built in {=built}, {name} is a {type} {post:0-2} that {verb:1-2}.",
        "On {=location} there is a {type} called {name}, {which} {verb:1-2}.",
        "Its keeper, {=keeper}, looks after the {type} {name}. {^it} {verb:1-3}.",
        "The {=steps} steps of {name} lead up a {type} {that} {verb:1-2}.",
    ),
)

DOMAINS = (FESTIVAL, TELESCOPE, LIGHTHOUSE)
