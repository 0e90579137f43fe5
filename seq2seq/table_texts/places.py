"""Domains of places in town: eatery, museum, bridge."""

from __future__ import annotations

from seq2seq.table_texts.shape import Domain, Field

EATERY = Domain(
    "eatery",
    noun="place",
    names="[The {adj} {noun}|{adj} {noun}|{adj} {noun}|{first}'s {noun}|{coin}]",
    kind=Field(
        "type",
        "[bakery|tearoom|coffee bar|juice bar|sandwich shop|ice cream parlour|pancake house|noodle bar|curry house|"
        "fish restaurant|pizzeria|wine bar|oyster bar|cake shop|soup bar|steak house|vegan cafe|tapas bar]",
    ),
    fields=(
        Field(
            "town",
            "{place}",
            post=("in {}", "in the town of {}"),
            part=("located in {}", "based in {}"),
            verb=("is in {}", "can be found in {}", "is located in {}"),
            lead=("{} is home to {N}", "In {} you will find {N}"),
            clause=("it is located in {}", "the town is {}"),
        ),
        Field(
            "near",
            "{place} [Abbey|Station|Castle|Market|Library|Theatre]",
            post=("near {}", "close to {}"),
            part=("situated near {}",),
            verb=("is near {}", "stands close to {}"),
            lead=("Near {} there is {N}", "Close to {} is {N}"),
            clause=("it is close to {}", "{} is nearby"),
        ),
        Field(
            "seats",
            "{#12-96/2}",
            post=("with {} seats", "with seats for {}"),
            part=("seating {}",),
            verb=("has {} seats", "seats {} guests", "has room for {} guests"),
            lead=("There are {} seats at {N}", "Up to {} guests can sit down at {N}"),
            clause=("there are {} seats", "the number of seats is {}"),
        ),
        Field(
            "owner",
            "{person}",
            post=("owned by {}",),
            part=("owned by {}", "run by its owner {}"),
            verb=("is owned by {}", "belongs to {}", "has {} as its owner"),
            lead=("{} owns {N}", "{} is the owner of {N}", "The owner of {N} is {}"),
            clause=("its owner is {}", "{} owns it"),
        ),
        Field(
            "speciality",
            "[[garlic|onion|pumpkin|lentil|mussel|nettle|leek|beetroot] [soup|tart|stew|broth]|"
            "[plum|walnut|ginger|cherry|almond|honey|fig|poppy seed] [cake|bread|ice cream|pudding]]",
            part=("specialising in {}",),
            verb=("has {} as its speciality", "specialises in {}"),
            lead=("The speciality of {N} is {}", "The speciality at {N} is {}"),
            clause=("its speciality is {}", "the speciality is {}"),
        ),
        Field(
            "opens",
            "{early}",
            part=("open from {}",),
            verb=("opens at {}", "opens its doors at {}", "is open from {}"),
            lead=("From {} onwards, guests can come to {N}", "Opening time at {N} is {}"),
            clause=("it opens at {}", "opening time is {}"),
        ),
        Field(
            "average price",
            "{#4-29} pounds",
            post=("with an average price of {}",),
            verb=("charges {} on average", "has an average price of {}"),
            lead=("On average, guests pay {} at {N}", "The average price at {N} is {}"),
            clause=("the average price is {}", "guests pay {} on average"),
        ),
        Field(
            "dogs welcome",
            "yes",
            adj=("dog-friendly",),
            part=("open to dogs",),
            verb=("welcomes dogs", "allows dogs"),
            lead=("Dogs are welcome at {N}", "Guests may bring a dog to {N}"),
            clause=("dogs are welcome", "it allows dogs"),
        ),
        Field(
            "dogs welcome",
            "no",
            part=("closed to dogs",),
            verb=("does not allow dogs", "turns dogs away"),
            lead=("Dogs are not welcome at {N}", "No dogs are allowed at {N}"),
            clause=("dogs are not welcome", "it does not allow dogs"),
        ),
    ),
    frames=(
        "{=town} has a {adj:?} {type} called {name}, {which} {verb:1-2}.",
        "In {=town}, the {adj:?} {type} {name} {verb:1-3}.",
        "{=owner} owns a {adj:?} {type} {post:0-2} that is called {name}.",
        "Guests who come to the {adj:?} {type} {name} from {=opens} onwards can try its speciality, {=speciality}. "
        "{^it} {verb:1-2}.",
    ),
)

MUSEUM = Domain(
    "museum",
    noun="museum",
    names="[{place} [House|Hall|Rooms|Gallery]|The {surname} Collection|{surname} [House|Hall]|"
    "The {adj} [Gate|Stair|Key]|{coin} [House|Hall]]",
    kind=Field(
        "type",
        "[toy museum|clock museum|maritime museum|textile museum|open-air museum|railway museum|art museum|"
        "puppet museum|music museum|natural history museum|farm museum|postal museum|science museum|shoe museum|"
        "glass museum|mining museum|industrial museum|Egyptian museum]",
    ),
    fields=(
        Field(
            "city",
            "{place}",
            post=("in {}", "in the city of {}"),
            part=("located in {}",),
            verb=("is in {}", "stands in {}", "is located in the city of {}"),
            lead=("{} is home to {N}", "Visitors to {} can see {N}"),
            clause=("it is in {}", "the city is {}"),
        ),
        Field(
            "building",
            "[former|disused|converted|restored] [brewery|mill|warehouse|school|monastery|station|prison|chapel|bank]",
            post=("in a {}",),
            part=("housed in a {}", "set in a {}"),
            verb=("is housed in a {}", "occupies a {}"),
            lead=("A {} houses {N}", "A {} is the home of {N}"),
            clause=("it occupies a {}", "the building is a {}"),
        ),
        Field(
            "exhibits",
            "{#120-990/10}",
            post=("with {} exhibits",),
            part=("showing {} exhibits",),
            verb=("has {} exhibits", "shows {} exhibits", "puts {} exhibits on show"),
            lead=("There are {} exhibits in {N}", "Visitors can look at {} exhibits in {N}"),
            clause=("there are {} exhibits", "it has {} exhibits"),
        ),
        Field(
            "founded",
            "{y1791-2015}",
            part=("founded in {}", "established in {}"),
            verb=("was founded in {}", "was established in {}"),
            lead=("The year {} saw the founding of {N}", "The founding of {N} dates back to {}"),
            clause=("it was founded in {}", "the year of its founding is {}"),
        ),
        Field(
            "director",
            "{person}",
            part=("directed by {}", "headed by {}"),
            verb=("is directed by {}", "has {} as its director"),
            lead=("{} directs {N}", "{} is the director of {N}", "The director of {N} is {}"),
            clause=("its director is {}", "{} is the director"),
        ),
        Field(
            "entry",
            "{#2-24} pounds",
            verb=("charges {} for entry", "costs {} to enter"),
            lead=("Entry to {N} costs {}", "Visitors pay {} to enter {N}", "It costs {} to enter {N}"),
            clause=("entry costs {}", "a ticket costs {}"),
        ),
        Field(
            "entry",
            "free",
            post=("with {} entry",),
            verb=("offers {} entry", "is {} to enter"),
            lead=("Entry is {} at {N}", "Entry to {N} is {}"),
            clause=("entry is {}", "visitors enter {} of charge"),
        ),
        Field(
            "closed on",
            "{weekday}",
            part=("closed every {}",),
            verb=("is closed every {}", "stays closed every {}"),
            lead=("Every {}, the doors are closed at {N}", "Except on {}, visitors can go to {N}"),
            clause=("every {} it is closed", "it is closed every {}"),
        ),
    ),
    frames=(
        "In {=city} there is a {adj:?} {type} called {name}, {which} {verb:1-2}.",
        "The city of {=city} has had the {type} {name} since {=founded}. {^it} {verb:1-2}.",
        "{=director} is the director of {name}, a {type} {post:0-2}, which was founded in {=founded}.",
        "The {type} {name}, where visitors can see {=exhibits} exhibits, {verb:1-3}.",
    ),
)

BRIDGE = Domain(
    "bridge",
    noun="bridge",
    names="[{place} [Crossing|Bridge|Span]|{surname} Bridge|{coin} [Bridge|Crossing]|[Old|New|Long|High] {noun} Bridge|"
    "The {adj} [Span|Arch|Crossing]]",
    kind=Field(
        "type",
        "[suspension bridge|footbridge|arch bridge|railway bridge|swing bridge|drawbridge|cable-stayed bridge|"
        "truss bridge|road bridge|covered bridge|cycle bridge|aqueduct|viaduct|toll bridge]",
    ),
    fields=(
        Field(
            "material",
            "[granite|brick|steel|timber|concrete|sandstone|iron|oak|limestone|aluminium]",
            post=("of {}", "made of {}"),
            part=("built of {}", "made of {}"),
            verb=("is made of {}", "is built of {}"),
            lead=("The builders of {N} used {}", "The material of {N} is {}"),
            clause=("it is made of {}", "the material is {}"),
        ),
        Field(
            "crosses",
            "River {coin}",
            post=("over the {}", "across the {}"),
            part=("spanning the {}",),
            verb=("crosses the {}", "spans the {}", "leads over the {}"),
            lead=("The {} is crossed by {N}", "The {} flows under {N}"),
            clause=("it crosses the {}", "the river below is the {}"),
        ),
        Field(
            "near",
            "{place}",
            post=("near {}", "close to {}"),
            part=("situated near {}",),
            verb=("is near {}", "stands near {}"),
            lead=("Near {} stands {N}", "Close to {} there is {N}"),
            clause=("it stands near {}", "the nearest town is {}"),
        ),
        Field(
            "length",
            "{#40-495/5} metres",
            post=("with a length of {}",),
            part=("measuring {} in length",),
            verb=("is {} long", "has a length of {}", "measures {} in length"),
            lead=("The length of {N} is {}", "A length of {} is spanned by {N}"),
            clause=("it is {} long", "the length is {}"),
        ),
        Field(
            "opened",
            "{y1780-2021}",
            part=("opened in {}",),
            verb=("was opened in {}", "opened in {}"),
            lead=("The year {} saw the opening of {N}", "In {} came the opening of {N}"),
            clause=("it was opened in {}", "its opening was in {}"),
        ),
        Field(
            "designer",
            "{person}",
            post=("by {}", "designed by {}"),
            part=("designed by {}",),
            verb=("was designed by {}", "has {} as its designer"),
            lead=("{} designed {N}", "{} was the designer of {N}", "The designer of {N} was {}"),
            clause=("its designer was {}", "{} designed it"),
        ),
        Field(
            "height",
            "{#4-96} metres",
            post=("with a height of {}",),
            part=("rising to a height of {}",),
            verb=("is {} high", "has a height of {}", "rises to {}"),
            lead=("The height of {N} is {}", "A height of {} is reached by {N}"),
            clause=("it is {} high", "the height is {}"),
        ),
    ),
    frames=(
        "Near {=near}, the {=crosses} is crossed by a {type} called {name}. {^it} {verb:1-2}.",
        "The {=crosses} is spanned by {name}, a {type} {post:0-2} that {verb:1-2}.",
        "In {=opened}, the {type} {name} was opened. {^it} {verb:1-3}.",
        "{=designer} designed {name}, a {type} {post:0-2}, which was opened in {=opened}.",
    ),
)

DOMAINS = (EATERY, MUSEUM, BRIDGE)
