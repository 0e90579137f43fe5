"""Domains of ways and open air: island, trail, train."""

from __future__ import annotations

from seq2seq.table_texts.shape import Domain, Field

ISLAND = Domain(
    "island",
    noun="island",
    names="[{coin}|{coin}|{coin} Island|Isle of {coin}|[Great|Little|North|South|Outer|Inner] {coin}|{noun} Island|"
    "{surname} Island]",
    kind=Field(
        "type",
        "[volcanic island|coral island|tidal island|rocky island|wooded island|sandy island|mountainous island|"
        "limestone island|artificial island|grassy island|granite island|arctic island|tropical island]",
    ),
    fields=(
        Field(
            "waters",
            "[Sea of {coin}|Gulf of {coin}|Bay of {coin}|{coin} Strait|{coin} Sound|{coin} Lagoon|{coin} Channel]",
            post=("in the {}", "situated in the {}"),
            part=("lying in the {}", "situated in the {}"),
            verb=("lies in the {}", "is located in the {}", "is surrounded by the {}"),
            lead=("In the {} lies {N}", "The {} surrounds {N}"),
            clause=("it lies in the {}", "it is situated in the {}"),
        ),
        Field(
            "area",
            "{#3-980} square kilometres",
            post=("of {}", "with an area of {}"),
            part=("covering {}",),
            verb=("covers {}", "has an area of {}"),
            lead=("The area of {N} is {}", "An area of {} is covered by {N}"),
            clause=("its area is {}", "it covers {}"),
        ),
        Field(
            "population",
            "{y21-9870}",
            post=("with {} inhabitants", "with a population of {}"),
            part=("inhabited by {} people",),
            verb=("has {} inhabitants", "has a population of {}", "is home to {} people"),
            lead=("There are {} people living on {N}", "The population of {N} is {}"),
            clause=("its population is {}", "{} people live there"),
        ),
        Field(
            "highest point",
            "Mount {coin}",
            part=("rising to {} at its highest point",),
            verb=("has {} as its highest point", "reaches its highest point at {}"),
            lead=("{} is the highest point of {N}", "The highest point of {N} is {}"),
            clause=("its highest point is {}", "{} is its highest point"),
        ),
        Field(
            "main village",
            "{place}",
            verb=("has {} as its main village",),
            lead=("{} is the main village of {N}", "{} is the main village on {N}", "The main village of {N} is {}"),
            clause=("its main village is {}", "the main village is called {}"),
        ),
        Field(
            "ferry from",
            "{place}",
            part=("linked by ferry to {}",),
            verb=("can be reached by ferry from {}", "is linked to {} by ferry"),
            lead=("A ferry from {} goes to {N}", "From {} there is a ferry to {N}"),
            clause=("a ferry goes there from {}", "it can be reached by ferry from {}"),
        ),
        Field(
            "known for",
            "[seals|puffins|hot springs|black beaches|wild goats|sea caves|pearl diving|old windmills|lava fields|"
            "rare orchids|salt marshes|giant crabs|basket weaving|sheep cheese|shipwrecks|dark skies]",
            post=("known for {}",),
            part=("known for {}",),
            verb=("is known for {}",),
            lead=("People know {N} for its {}",),
            clause=("it is known for {}", "people know it for its {}"),
        ),
    ),
    frames=(
        "The {=waters} surrounds {name}, a {type} {post:0-2} that {verb:1-2}.",
        "From {=ferry from}, people can take a ferry to {name}, a {type} {post:1-2}.",
        "In the {=waters} lies a {type} called {name}. {^it} {verb:1-3}.",
        "{=population} people live on the {type} {name}. {^it} {verb:1-2}.",
    ),
)

TRAIL = Domain(
    "trail",
    noun="route",
    names="[{place} [Way|Round|Steps]|The {noun} [Way|Round|Line]|{adj} {noun} [Way|Walk]|{coin} [Way|Traverse]|"
    "{surname}'s [Way|Steps]]",
    kind=Field(
        "type",
        "[coastal path|forest trail|mountain trail|canal path|towpath|bridleway|nature trail|riverside walk|"
        "ridge walk|pilgrim path|hiking trail|heritage trail|upland walk|orchard walk]",
    ),
    fields=(
        Field(
            "length",
            "{#3-96} kilometres",
            post=("of {}", "with a length of {}"),
            part=("stretching over {}",),
            verb=("is {} long", "stretches over {}", "has a length of {}"),
            lead=("The length of {N} is {}", "The distance covered by {N} is {}"),
            clause=("it is {} long", "the distance is {}"),
        ),
        Field(
            "start",
            "{place}",
            post=("from {}",),
            part=("starting in {}", "starting at {}"),
            verb=("starts in {}", "begins in {}", "sets out from {}"),
            lead=("{} is the start of {N}", "{} is the starting point of {N}", "The start of {N} is in {}"),
            clause=("it starts in {}", "the starting point is {}"),
        ),
        Field(
            "end",
            "{place}",
            post=("to {}",),
            part=("ending in {}", "leading to {}"),
            verb=("ends in {}", "leads to {}", "finishes in {}"),
            lead=("{} is the end of {N}", "{} is where walkers reach the end of {N}", "The end of {N} is in {}"),
            clause=("it ends in {}", "the end point is {}"),
        ),
        Field(
            "difficulty",
            "[easy|moderate|demanding|gentle|strenuous|difficult]",
            adj=("{}",),
            part=("graded as {}",),
            verb=("is {}", "is rated as {}"),
            lead=("The difficulty of {N} is {}", "The grade of {N} is {}"),
            clause=("its difficulty is {}", "the grade is {}"),
        ),
        Field(
            "climb",
            "{#40-980/10} metres",
            post=("with a climb of {}",),
            part=("climbing {}",),
            verb=("climbs {}", "has a total climb of {}"),
            lead=("The climb on {N} is {}", "A climb of {} awaits people on {N}"),
            clause=("the climb is {}", "it climbs {}"),
        ),
        Field(
            "walking time",
            "{#2-9} hours",
            verb=("takes {} to walk", "can be walked in {}"),
            lead=("It takes {} to walk {N}", "Walking time on {N} is {}", "Walkers need {} for {N}"),
            clause=("walking time is {}", "walkers need {}"),
        ),
        Field(
            "waymark",
            "[red|yellow|white|blue|green|orange|brown] [arrow|leaf|acorn|circle|stripe|boot|feather|shell|owl|star]",
            part=("marked by a {}", "marked with a {}"),
            verb=("is marked with a {}", "has a {} as its waymark"),
            lead=("A {} marks {N}", "A {} is the waymark of {N}", "The waymark of {N} is a {}"),
            clause=("the waymark is a {}", "a {} marks the way"),
        ),
    ),
    frames=(
        "{name} is a {adj:?} {type} from {=start} to {=end} {that} {verb:1-2}.",
        "The {adj:?} {type} {name} leads from {=start} to {=end} and {verb:1}.",
        "Between {=start} and {=end} runs the {adj:?} {type} {name}. {^it} {verb:1-2}.",
        "Walkers need {=walking time} for {name}, a {adj:?} {type} {post:0-2} that {verb:1-2}.",
    ),
)

TRAIN = Domain(
    "train",
    noun="train",
    names="[[{letter}{letter}|{letter}] {#12-98}|{adj} {noun}|{adj} {noun}|{place} [Arrow|Flyer|Mail]|"
    "{coin} [Star|Arrow]|{coin}]",
    kind=Field(
        "type",
        "[night train|express train|regional train|intercity train|commuter train|steam train|sleeper train|"
        "high-speed train|diesel train|airport train|electric train|mountain train|holiday train]",
    ),
    fields=(
        Field(
            "from",
            "{place}",
            post=("from {}",),
            part=("starting from {}", "coming from {}"),
            verb=("starts in {}", "comes from {}", "sets off from {}"),
            lead=("{} is the starting station of {N}", "{} is the first station of {N}"),
            clause=("the starting station is {}", "it starts in {}"),
        ),
        Field(
            "to",
            "{place}",
            post=("to {}",),
            part=("bound for {}", "going to {}"),
            verb=("goes to {}", "runs to {}", "is bound for {}"),
            lead=("{} is the destination of {N}", "The destination of {N} is {}"),
            clause=("its destination is {}", "it goes to {}"),
        ),
        Field(
            "departs",
            "{clock}",
            part=("departing at {}", "leaving at {}"),
            verb=("departs at {}", "leaves at {}"),
            lead=("At {}, it is time for the departure of {N}", "The departure time of {N} is {}"),
            clause=("its departure is at {}", "it leaves at {}"),
        ),
        Field(
            "platform",
            "{#2-19}",
            post=("on platform {}",),
            verb=("uses platform {}", "can be boarded at platform {}"),
            lead=("Platform {} is the one for {N}", "The platform of {N} is number {}"),
            clause=("the platform is number {}", "passengers board it at platform {}"),
        ),
        Field(
            "operator",
            "[{coin} Rail|{coin} Trains|{surname} Railways|{surname} Lines|{place} Transport]",
            post=("of {}",),
            part=("operated by {}", "run by {}"),
            verb=("is operated by {}", "is run by {}"),
            lead=("{} operates {N}", "{} runs {N}", "The operator of {N} is {}"),
            clause=("the operator is {}", "{} operates it"),
        ),
        Field(
            "stops",
            "{#2-29}",
            post=("with {} stops",),
            part=("making {} stops",),
            verb=("makes {} stops", "stops {} times"),
            lead=("There are {} stops on the route of {N}", "The number of stops of {N} is {}"),
            clause=("there are {} stops", "the number of stops is {}"),
        ),
        Field(
            "travel time",
            "[{#35-98} minutes|{#2-11} hours]",
            post=("with a travel time of {}",),
            part=("taking {}",),
            verb=("takes {}", "has a travel time of {}", "needs {} for the journey"),
            lead=("The travel time of {N} is {}", "The journey on {N} takes {}"),
            clause=("the journey takes {}", "the travel time is {}"),
        ),
    ),
    frames=(
        "{name} is a {type} from {=from} to {=to} {that} {verb:1-2}.",
        "The {type} {name} runs from {=from} to {=to} and {verb:1}.",
        "Passengers who board the {type} {name} in {=from} can travel to {=to}. {^it} {verb:1-2}.",
        "At {=departs}, the {type} {name} leaves {=from}. {^it} {verb:1-2}.",
        "Between {=from} and {=to}, {=operator} operates a {type} called {name}, {which} {verb:1-2}.",
    ),
)

DOMAINS = (ISLAND, TRAIL, TRAIN)
