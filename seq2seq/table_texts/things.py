"""Domains of things that are made: app, appliance, film, dish."""

from __future__ import annotations

from seq2seq.table_texts.shape import Domain, Field

APP = Domain(
    "app",
    noun="app",
    names="[{coin}|{coin}|{coin} [Go|Plus|Pocket|Daily]|{adj}{noun}|My {noun}|{noun} {#2-9}]",
    kind=Field(
        "type",
        "[budgeting app|recipe app|language app|running app|sleep app|chess app|map app|diary app|puzzle game|"
        "photo editor|translation app|weather app|meditation app|password manager|calendar app|quiz game|"
        "email program|image viewer|drawing app|typing tutor|astronomy app|shopping app|adventure game]",
    ),
    fields=(
        Field(
            "developer",
            "[{coin}|{surname}|{noun}] [Software|Labs|Studios|Apps|Interactive]",
            post=("by {}", "from {}"),
            part=("developed by {}", "made by {}"),
            verb=("was developed by {}", "comes from {}", "is made by {}"),
            lead=("{} developed {N}", "{} is the developer of {N}", "The developer of {N} is {}"),
            clause=("its developer is {}", "{} developed it"),
        ),
        Field(
            "released",
            "{y2008-2024}",
            post=("from {}",),
            part=("released in {}", "launched in {}"),
            verb=("was released in {}", "came out in {}"),
            lead=("The year {} saw the release of {N}", "The release of {N} was in {}"),
            clause=("it was released in {}", "its release was in {}"),
        ),
        Field(
            "price",
            "{#2-29} pounds [a month|a year]",
            part=("costing {}",),
            verb=("costs {}", "is available for {}"),
            lead=("Users pay {} for {N}", "The price of {N} is {}"),
            clause=("the price is {}", "it costs {}"),
        ),
        Field(
            "price",
            "free",
            adj=("{}",),
            verb=("is {}", "is {} to use"),
            clause=("it is {}", "using it is {}"),
        ),
        Field(
            "users",
            "{#2-98} [million|thousand]",
            post=("with {} users",),
            part=("used by {} people",),
            verb=("has {} users", "is used by {} people"),
            lead=("There are {} users of {N}", "The number of users of {N} is {}"),
            clause=("it has {} users", "the number of users is {}"),
        ),
        Field(
            "languages",
            "{#2-64}",
            post=("in {} languages",),
            part=("available in {} languages",),
            verb=("supports {} languages", "is available in {} languages"),
            lead=("There are {} languages in {N}", "The number of languages in {N} is {}"),
            clause=("it supports {} languages", "{} languages are supported"),
        ),
        Field(
            "size",
            "{#12-980} megabytes",
            post=("with a size of {}",),
            part=("taking up {}",),
            verb=("takes up {}", "has a size of {}", "needs {} of storage"),
            lead=("The size of {N} is {}", "The storage needed for {N} is {}"),
            clause=("its size is {}", "it takes up {}"),
        ),
        Field(
            "works offline",
            "yes",
            part=("usable offline",),
            verb=("works offline", "can be used offline"),
            lead=("Even offline, one can use {N}", "Users who are offline can still use {N}"),
            clause=("it works offline", "it can be used offline"),
        ),
        Field(
            "works offline",
            "no",
            part=("unusable offline",),
            verb=("does not work offline", "cannot be used offline"),
            lead=("Users who are offline cannot use {N}",),
            clause=("it does not work offline", "it cannot be used offline"),
        ),
    ),
    frames=(
        "In {=released}, {=developer} released {name}, a {adj:?} {type} {post:0-2} that {verb:1-2}.",
        "The {adj:?} {type} {name}, {which} came out in {=released}, {verb:1-3}.",
        "Used by {=users} people, {name} is a {adj:?} {type} {post:0-2} {that} {verb:1-2}.",
        "From {=developer} comes the {adj:?} {type} {name}. {^it} {verb:1-3}.",
    ),
)

APPLIANCE = Domain(
    "appliance",
    noun="product",
    names="[{coin}|{coin}|{surname}] [{letter}{#10-99}|{letter}{letter}{#10-99}|{#100-990/10}|{noun}|Mini|Compact|Pro]",
    kind=Field(
        "product",
        "[cordless drill|hedge trimmer|electric kettle|angle grinder|bread maker|vacuum cleaner|hair dryer|"
        "rice cooker|lawn mower|sewing machine|toaster|hand mixer|air purifier|espresso machine|"
        "fan heater|orbital sander|juicer|waffle iron|immersion blender|jigsaw|deep fryer|egg boiler]",
    ),
    fields=(
        Field(
            "colour",
            "[red|black|white|orange|green|blue|yellow|purple|ivory|turquoise]",
            adj=("{}",),
            part=("painted {}", "coloured {}"),
            verb=("is {}", "comes in {}"),
            lead=("The colour of {N} is {}", "The colour {} was chosen for {N}"),
            clause=("its colour is {}", "it is {}"),
        ),
        Field(
            "maker",
            "[{coin}|{surname}] [Tools|Electric|Home|Industries|Works|Brothers]",
            post=("by {}", "from {}"),
            part=("made by {}", "manufactured by {}"),
            verb=("is made by {}", "comes from {}"),
            lead=("{} makes {N}", "{} manufactures {N}", "The maker of {N} is {}"),
            clause=("its maker is {}", "{} makes it"),
        ),
        Field(
            "weight",
            "[{#610-980/10} grams|{#2-14} kg|{#1-9}.{#1-9} kg]",
            part=("weighing {}",),
            post=("with a weight of {}",),
            verb=("weighs {}", "has a weight of {}"),
            lead=("The weight of {N} is {}", "A weight of {} is given for {N}"),
            clause=("it weighs {}", "its weight is {}"),
        ),
        Field(
            "power",
            "{#250-990/10} watts",
            post=("of {}", "with {} of power"),
            part=("rated at {}",),
            verb=("has a power of {}", "uses {}"),
            lead=("The power of {N} is {}", "A power of {} is given for {N}"),
            clause=("its power is {}", "it uses {}"),
        ),
        Field(
            "price",
            "{#19-390} pounds",
            post=("for {}",),
            part=("priced at {}", "costing {}"),
            verb=("costs {}", "sells for {}"),
            lead=("The price of {N} is {}", "Buyers pay {} for {N}", "For {}, one can buy {N}"),
            clause=("it costs {}", "the price is {}"),
        ),
        Field(
            "warranty",
            "{#2-12} years",
            post=("with a warranty of {}",),
            part=("guaranteed for {}",),
            verb=("has a warranty of {}", "is guaranteed for {}"),
            lead=("A warranty of {} comes with {N}", "The warranty on {N} lasts {}"),
            clause=("the warranty lasts {}", "the warranty is {}"),
        ),
        Field(
            "noise level",
            "{#31-89} decibels",
            post=("with a noise level of {}",),
            part=("reaching a noise level of {}",),
            verb=("has a noise level of {}", "reaches {}"),
            lead=("The noise level of {N} is {}", "A noise level of {} is given for {N}"),
            clause=("its noise level is {}", "the noise level is {}"),
        ),
    ),
    frames=(
        "{=maker} sells a {adj:?} {type} called {name} {post:0-1}, {which} {verb:1-2}.",
        "For {=price}, buyers get the {adj:?} {type} {name}. {^it} {verb:1-3}.",
        "Weighing {=weight}, the {adj:?} {type} {name} {verb:1-3}.",
        "The {adj:?} {type} {name} is made by {=maker}, and {clause:1}.",
    ),
)

FILM = Domain(
    "film",
    noun="film",
    names="[The {adj} {noun}|The {noun} of {place}|Letters from {place}|{adj} {noun}|{noun} and {noun}|"
    "The {noun} of {first}|[Goodbye|Hello|Remember|Forgive Me], {first}|{weekday} in {place}|The Road to {place}|"
    "No {noun} Tonight|Return to {place}|{coin}]",
    kind=Field(
        "genre",
        "[thriller|comedy|western|documentary|war film|road movie|musical|science fiction film|animated film|"
        "romantic comedy|horror film|silent film|crime drama|adventure film|heist film|family film|ghost story|"
        "spy film|action film]",
    ),
    fields=(
        Field(
            "language",
            "{language}",
            post=("in {}",),
            part=("filmed in {}", "shot in {}"),
            verb=("is in {}", "was shot in {}"),
            lead=("The language of {N} is {}", "The actors speak {} in {N}"),
            clause=("its language is {}", "the language is {}"),
        ),
        Field(
            "director",
            "{person}",
            post=("by {}", "directed by {}"),
            part=("directed by {}",),
            verb=("was directed by {}", "has {} as its director"),
            lead=("{} directed {N}", "{} is the director of {N}", "The director of {N} is {}"),
            clause=("its director is {}", "{} directed it"),
        ),
        Field(
            "year",
            "{y1924-2023}",
            post=("from {}",),
            part=("released in {}",),
            verb=("was released in {}", "came out in {}", "dates from {}"),
            lead=("The year {} saw the release of {N}", "The release of {N} came in {}"),
            clause=("it was released in {}", "the year of its release is {}"),
        ),
        Field(
            "length",
            "{#71-198} minutes",
            post=("of {}", "with a length of {}"),
            part=("running for {}", "lasting {}"),
            verb=("lasts {}", "runs for {}", "is {} long"),
            lead=("It takes {} to watch {N}", "The length of {N} is {}"),
            clause=("it lasts {}", "its length is {}"),
        ),
        Field(
            "star",
            "{person}",
            post=("starring {}", "with {} in the main role"),
            part=("starring {}",),
            verb=("stars {}", "has {} in the main role"),
            lead=("{} stars in {N}", "{} is the star of {N}", "The star of {N} is {}"),
            clause=("its star is {}", "the main role is played by {}"),
        ),
        Field(
            "set in",
            "{place}",
            post=("set in {}",),
            part=("set in {}",),
            verb=("is set in {}", "takes place in {}"),
            lead=("{} is the setting of {N}", "The setting of {N} is {}"),
            clause=("it is set in {}", "its setting is {}"),
        ),
        Field(
            "composer",
            "{person}",
            post=("with music by {}",),
            verb=("has music by {}",),
            lead=("{} composed the music for {N}", "The music for {N} is by {}"),
            clause=("the music is by {}", "{} composed the music"),
        ),
    ),
    frames=(
        "{=director} directed the {type} {name}, {which} stars {=star}. {^it} {verb:1-2}.",
        "In the {type} {name}, the main role is played by {=star}. {^it} {verb:1-3}.",
        "Directed by {=director} and starring {=star}, {name} is a {type} {post:0-2}.",
        "The {=year} {type} {name} {verb:1-3}.",
        "With music by {=composer}, the {type} {name} {verb:1-3}.",
    ),
)

DISH = Domain(
    "dish",
    noun="dish",
    names="[{coin}|{coin}|{coin} {coin}|{first}'s [Delight|Dream|Secret|Comfort|Surprise]|[Poor|Proud|Happy|Sleepy] "
    "[Miller|Fisherman|Bishop|Shepherd|Tailor|Widow|Sailor|Baker]|{place} [Delight|Treasure|Gold|Surprise]]",
    kind=Field(
        "type",
        "[soup|stew|pie|salad|pudding|flatbread|casserole|pancake|sauce|dessert|porridge|omelette|dumpling|"
        "salad dressing|side dish|appetiser|open sandwich|pastry|broth]",
    ),
    fields=(
        Field(
            "region",
            "{place}",
            post=("from {}",),
            part=("originating from {}",),
            verb=("comes from {}", "originates from {}"),
            lead=("{} is the home of {N}", "The region where people first made {N} is {}"),
            clause=("its home is {}", "it comes from {}"),
        ),
        Field(
            "main ingredient",
            "[barley|smoked eel|spinach|red cabbage|buckwheat|rhubarb|goat cheese|celery|fennel|coconut|beetroot|quail|"
            "sorrel|rye|millet|kale|pumpkin|trout|lamb|rice|semolina|crab meat|horseradish|watercress|venison]",
            part=("made mainly from {}", "made mostly with {}"),
            verb=("is made mainly from {}", "has {} as its main ingredient"),
            lead=("The main ingredient of {N} is {}", "Cooks use {} as the main ingredient of {N}"),
            clause=("its main ingredient is {}", "the main ingredient is {}"),
        ),
        Field(
            "served",
            "[hot|cold|warm|lukewarm|chilled]",
            part=("served {}", "eaten {}"),
            verb=("is served {}", "is eaten {}"),
            clause=("it is served {}", "it is eaten {}"),
        ),
        Field(
            "eaten at",
            "[breakfast|lunch|dinner|supper|weddings|harvest time|Easter|Christmas|midsummer|New Year|funerals]",
            part=("eaten at {}", "served at {}"),
            verb=("is eaten at {}", "is served at {}"),
            lead=("At {}, people eat {N}", "At {}, families serve {N}"),
            clause=("people eat it at {}", "it is eaten at {}"),
        ),
        Field(
            "cooking time",
            "{#10-180/5} minutes",
            post=("with a cooking time of {}",),
            part=("ready in {}",),
            verb=("takes {} to cook", "cooks in {}"),
            lead=("It takes {} to cook {N}", "The cooking time of {N} is {}"),
            clause=("cooking takes {}", "the cooking time is {}"),
        ),
        Field(
            "calories",
            "{#90-890/10}",
            post=("with {} calories",),
            part=("containing {} calories",),
            verb=("has {} calories", "contains {} calories"),
            lead=("There are {} calories in {N}", "A portion of {N} contains {} calories"),
            clause=("it has {} calories", "there are {} calories"),
        ),
        Field(
            "inventor",
            "{person}",
            post=("by {}", "invented by {}"),
            part=("invented by {}", "created by {}"),
            verb=("was invented by {}", "was created by {}"),
            lead=("{} invented {N}", "{} created {N}", "The inventor of {N} is {}"),
            clause=("its inventor is {}", "{} invented it"),
        ),
    ),
    frames=(
        "In {=region}, there is a {type} called {name}, {which} {verb:1-2}.",
        "{=inventor} invented {name}, a {type} made mainly from {=main ingredient}, {which} {verb:1}.",
        "With {=main ingredient} as its main ingredient, the {type} {name} {verb:1-3}.",
        "At {=eaten at}, people in {=region} eat a {type} called {name}. {^it} {verb:1-2}.",
    ),
)

DOMAINS = (APP, APPLIANCE, FILM, DISH)
