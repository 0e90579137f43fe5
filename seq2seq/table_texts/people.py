"""Domains of people and what they join: athlete, band, company, course."""

from __future__ import annotations

from seq2seq.table_texts.shape import Domain, Field

ATHLETE = Domain(
    "athlete",
    noun="athlete",
    names="{first} [{surname}|{surname}|{coin}]",
    kind=Field(
        "occupation",
        "[rower|sprinter|long jumper|swimmer|cyclist|fencer|archer|goalkeeper|gymnast|judoka|figure skater|ski jumper|"
        "hurdler|shot putter|pole vaulter|climber|speed skater|weightlifter|triathlete|discus thrower|high diver|"
        "marathon runner|snowboarder|canoeist|wrestler|badminton player|tennis player|handball player]",
    ),
    fields=(
        Field(
            "hometown",
            "{place}",
            post=("from {}",),
            part=("coming from {}",),
            verb=("comes from {}", "is from {}"),
            lead=("{} is the hometown of {N}", "The hometown of {N} is {}"),
            clause=("the hometown is {}", "{} is the hometown"),
        ),
        Field(
            "club",
            "[{place}|{place}|{coin}] [Harriers|Athletic|Sports Club|Rovers|Union|Wanderers]",
            post=("of the club {}",),
            part=("competing for {}",),
            verb=("competes for {}", "is a member of {}", "belongs to the club {}"),
            lead=("{} is the club of {N}", "The club of {N} is {}", "{} has among its members {N}"),
            clause=("the club is {}", "{} is the club"),
        ),
        Field(
            "born",
            "{y1968-1992}",
            post=("born in {}",),
            part=("born in {}",),
            verb=("was born in {}",),
            lead=("The birth year of {N} is {}", "The year of birth of {N} is {}"),
            clause=("the year of birth is {}", "{} is the year of birth"),
        ),
        Field(
            "height",
            "{#154-208} cm",
            part=("standing {} tall",),
            verb=("is {} tall", "measures {}"),
            lead=("The height of {N} is {}",),
            clause=("the height is {}",),
        ),
        Field(
            "coach",
            "{person}",
            post=("coached by {}",),
            part=("coached by {}", "trained by {}"),
            verb=("is coached by {}", "trains with the coach {}", "has {} as a coach"),
            lead=("{} coaches {N}", "{} is the coach of {N}", "The coach of {N} is {}"),
            clause=("the coach is {}", "{} is the coach"),
        ),
        Field(
            "medals",
            "{#2-34}",
            post=("with {} medals",),
            verb=("has won {} medals", "has {} medals"),
            lead=("There are {} medals in the collection of {N}", "The number of medals won by {N} is {}"),
            clause=("the number of medals is {}", "the medals number {}"),
        ),
        Field(
            "debut",
            "{y2008-2023}",
            verb=("made a first appearance in {}", "has competed since {}"),
            lead=("The year {} saw the debut of {N}", "The debut of {N} was in {}"),
            clause=("the debut came in {}", "the year of the debut was {}"),
        ),
    ),
    frames=(
        "{=club} has a {type} called {name}, who {verb:1-2}.",
        "Under the coach {=coach}, the {type} {name} competes for {=club}. {^it} {verb:1-2}.",
        "{name}, who was born in {=born}, is a {type} {post:1-2}.",
        "With {=medals} medals won, the {type} {name} {verb:1-2}.",
        "One {type} who {verb:1-2} is {name}.",
    ),
    person=True,
)

BAND = Domain(
    "band",
    noun="band",
    names="[{adj} {noun}|{noun} [and|or] {noun}|{coin}|{coin} [Parade|Club]|The {adj} {noun}|{surname} Road|"
    "{first} and the {noun}]",
    kind=Field(
        "genre",
        "[folk|punk|brass|indie|blues|metal|jazz|rock|ska|country|reggae|swing|electronic|surf|soul|funk|gospel] band",
    ),
    fields=(
        Field(
            "hometown",
            "{place}",
            post=("from {}",),
            part=("coming from {}", "based in {}"),
            verb=("comes from {}", "is based in {}"),
            lead=("{} is the hometown of {N}", "The hometown of {N} is {}"),
            clause=("its hometown is {}", "it comes from {}"),
        ),
        Field(
            "members",
            "{#3-15}",
            post=("with {} members",),
            part=("made up of {} members",),
            verb=("has {} members", "consists of {} people"),
            lead=("There are {} members in {N}", "The number of members in {N} is {}"),
            clause=("there are {} members", "it has {} members"),
        ),
        Field(
            "formed",
            "{y1958-2022}",
            part=("formed in {}", "founded in {}"),
            verb=("was formed in {}", "was founded in {}"),
            lead=("The year {} saw the birth of {N}", "In {}, musicians formed {N}"),
            clause=("it was formed in {}", "the year of its formation was {}"),
        ),
        Field(
            "singer",
            "{person}",
            post=("with the singer {}",),
            part=("fronted by the singer {}",),
            verb=("has {} as its singer", "features the singer {}"),
            lead=("{} sings in {N}", "{} is the singer of {N}", "The singer of {N} is {}"),
            clause=("its singer is {}", "the singer is {}"),
        ),
        Field(
            "album",
            "[{adj} {noun}|Songs for {first}|Letters from {place}|The {noun} Tapes|{weekday} in {place}|On the {noun}]",
            part=("known for the album {}",),
            verb=("recorded the album {}", "made the album {}"),
            lead=("{} is an album by {N}", "The album {} is by {N}"),
            clause=("its album is called {}", "the album {} is by it"),
        ),
        Field(
            "label",
            "[{coin}|{noun}|{surname}] [Records|Sounds|Music|Tapes]",
            post=("on the label {}", "signed to {}"),
            part=("signed to {}",),
            verb=("is signed to {}", "records for {}"),
            lead=("{} is the label of {N}", "The label of {N} is {}", "{} has signed {N}"),
            clause=("its label is {}", "the label is {}"),
        ),
        Field(
            "concerts a year",
            "{#11-190}",
            verb=("plays {} concerts a year", "gives {} concerts a year"),
            lead=("Every year, there are {} concerts by {N}", "Each year brings {} concerts by {N}"),
            clause=("it plays {} concerts a year", "each year it gives {} concerts"),
        ),
    ),
    frames=(
        "{=singer} sings in {name}, a {type} {post:0-2} that {verb:1-2}.",
        "In {=formed}, the {type} {name} was formed. {^it} {verb:1-3}.",
        "{=hometown} is where the {type} {name} comes from. {^it} {verb:1-3}.",
        "With {=singer} as its singer, the {type} {name} {verb:1-3}.",
    ),
)

COMPANY = Domain(
    "company",
    noun="company",
    names="[{coin}|{coin} [Works|Group|Holding]|{surname} and {surname}|{surname} [Brothers|Limited]|{adj} {noun}|"
    "{coin} and {surname}]",
    kind=Field(
        "business",
        "[printing firm|furniture maker|bicycle manufacturer|seed merchant|insurance company|airline|toy maker|"
        "paint manufacturer|publishing house|engineering firm|removal company|software company|watchmaker|"
        "piano maker|clothing company|shipping company|umbrella maker|energy company|tea merchant|glass manufacturer]",
    ),
    fields=(
        Field(
            "headquarters",
            "{place}",
            post=("from {}", "based in {}"),
            part=("headquartered in {}", "based in {}"),
            verb=("has its headquarters in {}", "is based in {}"),
            lead=("{} is home to {N}", "{} is the seat of {N}", "The headquarters of {N} are in {}"),
            clause=("its headquarters are in {}", "it is based in {}"),
        ),
        Field(
            "employees",
            "{y12-9800}",
            post=("with {} employees", "with a staff of {}"),
            part=("employing {} people",),
            verb=("employs {} people", "has {} employees", "has a staff of {}"),
            lead=("There are {} employees at {N}", "The number of employees at {N} is {}"),
            clause=("it employs {} people", "the staff numbers {}"),
        ),
        Field(
            "founder",
            "{person}",
            post=("founded by {}",),
            part=("founded by {}", "started by {}"),
            verb=("was founded by {}", "has {} as its founder"),
            lead=("{} founded {N}", "{} is the founder of {N}", "The founder of {N} is {}"),
            clause=("its founder is {}", "{} founded it"),
        ),
        Field(
            "founded",
            "{y1804-2019}",
            part=("founded in {}", "established in {}"),
            verb=("was founded in {}", "was established in {}"),
            lead=("The year {} saw the founding of {N}", "The founding of {N} dates back to {}"),
            clause=("it was founded in {}", "the founding year is {}"),
        ),
        Field(
            "chief executive",
            "{person}",
            part=("led by its chief executive {}",),
            verb=("has {} as its chief executive", "is led by its chief executive {}"),
            lead=("{} is the chief executive of {N}", "The chief executive of {N} is {}"),
            clause=("its chief executive is {}", "the chief executive is {}"),
        ),
        Field(
            "turnover",
            "{#2-940} million pounds",
            post=("with a turnover of {}",),
            verb=("has a turnover of {}", "turns over {}"),
            lead=("A turnover of {} is reported by {N}", "The turnover of {N} is {}"),
            clause=("its turnover is {}", "it has a turnover of {}"),
        ),
        Field(
            "branches",
            "{#2-88}",
            part=("operating {} branches",),
            verb=("has {} branches", "operates {} branches"),
            lead=("There are {} branches of {N}", "The number of branches of {N} is {}"),
            clause=("there are {} branches", "it has {} branches"),
        ),
    ),
    frames=(
        "In {=founded}, {=founder} founded {name}, a {type} {post:0-2}, {which} {verb:1}.",
        "It was {=founder} who founded the {type} {name}. {^it} {verb:1-3}.",
        "Founded by {=founder} in {=founded}, {name} is a {type} {post:0-2} {that} {verb:1}.",
        "In {=headquarters} there is a {type} called {name}, {which} {verb:1-2}.",
        "{=employees} people work for the {type} {name}, {which} {verb:1-2}.",
    ),
)

COURSE = Domain(
    "course",
    noun="course",
    names="[{subject} [in Practice|for Pleasure|by Hand|Step by Step|Made Simple|Today|at Home|for All|{#2-9}]|"
    "[Understanding|Discovering|Enjoying|Everyday|Practical|Modern|Traditional|Creative] {subject}|"
    "[The Art of|The Joy of|Adventures in|Secrets of|Paths to|All about|More than] {subject}]",
    kind=Field(
        "type",
        "[evening class|online course|seminar|lecture series|night class|workshop|training course|elective|"
        "practical course|distance course|adult class|intensive course|refresher course]",
    ),
    fields=(
        Field(
            "level",
            "[beginner|intermediate|advanced|elementary|expert]",
            adj=("{}-level",),
            post=("at {} level",),
            verb=("is held at {} level", "is meant for the {} level"),
            lead=("The level of {N} is {}",),
            clause=("the level is {}",),
        ),
        Field(
            "teacher",
            "{person}",
            post=("with {}", "taught by {}"),
            part=("taught by {}", "led by {}"),
            verb=("is taught by {}", "has {} as its teacher"),
            lead=("{} teaches {N}", "{} is the teacher of {N}", "The teacher of {N} is {}"),
            clause=("the teacher is {}", "{} teaches it"),
        ),
        Field(
            "starts",
            "{#2-28} {month}",
            post=("from {}",),
            part=("starting on {}", "beginning on {}"),
            verb=("starts on {}", "begins on {}"),
            lead=("The starting date of {N} is {}", "On {} comes the start of {N}"),
            clause=("it starts on {}", "the starting date is {}"),
        ),
        Field(
            "length",
            "{#2-38} weeks",
            post=("of {}", "over {}"),
            part=("lasting {}", "running for {}"),
            verb=("lasts {}", "runs for {}", "takes {}"),
            lead=("The length of {N} is {}", "It takes {} to complete {N}"),
            clause=("it lasts {}", "the length is {}"),
        ),
        Field(
            "fee",
            "{#25-480/5} pounds",
            post=("for a fee of {}",),
            part=("costing {}",),
            verb=("costs {}", "has a fee of {}"),
            lead=("The fee for {N} is {}", "Students pay {} for {N}"),
            clause=("the fee is {}", "it costs {}"),
        ),
        Field(
            "room",
            "[room {#12-398}|the {surname} Hall|the {noun} Room|studio {#2-29}]",
            post=("in {}",),
            part=("held in {}",),
            verb=("is held in {}", "takes place in {}"),
            lead=("In {} there is space for {N}", "The place for {N} is {}"),
            clause=("the place is {}", "it takes place in {}"),
        ),
        Field(
            "meets on",
            "{weekday}",
            part=("held every {}",),
            verb=("meets every {}", "takes place every {}"),
            lead=("Every {}, students meet for {N}", "The meeting day of {N} is {}"),
            clause=("it meets every {}", "the meeting day is {}"),
        ),
        Field(
            "places",
            "{#6-80}",
            post=("with {} places", "for {} people"),
            verb=("has {} places", "has room for {} people"),
            lead=("There are {} places on {N}", "Up to {} people can attend {N}"),
            clause=("there are {} places", "the number of places is {}"),
        ),
    ),
    frames=(
        "{=teacher} teaches {name}, a {adj:?} {type} {post:0-2} {that} {verb:1-2}.",
        "Students who pay {=fee} can attend the {adj:?} {type} {name}, {which} {verb:1-2}.",
        "On {=starts}, the {adj:?} {type} {name} begins. {^it} {verb:1-3}.",
        "For {=length}, {=teacher} teaches the {adj:?} {type} {name}. {^it} {verb:1-2}.",
    ),
)

DOMAINS = (ATHLETE, BAND, COMPANY, COURSE)
