"""Invented names of people, places, streets and firms, and the days and times of the carried `sample` data."""

from __future__ import annotations

import random
from datetime import date, timedelta


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, which is shorter to write and read than a tuple of strings."""
    return tuple(text.split())


_PLACE_HEADS = _words(
    "Alder Amble Barrow Birk Brack Bram Brin Calder Carn Cold Copper Corn Crane Dray Dun Elm Esk Fallow Fen Fern "
    "Flax Gar Gorse Hallow Harl Hazel Heath Hol Ivel Kel Kest Lang Lark Lin Marl Mere Nether Oak Orme Pen Quill "
    "Raven Rook Sandal Sedge Stav Tarn Thorn Tilling Under Vel Wink Wren Yarrow Ost Trel Gwel Pol Skel Brough"
)
_PLACE_TAILS = _words(
    "beck bourne combe cote dale den field fold gate ham holme hurst low mere mouth ness stead stoke thorpe ton wick "
    "worth well by wold shaw"
)
_REAL = _words(
    "Cornfield Garden Halden Underfield "
    "Barrowby Brackley Bramham Brinton Calderdale Coldham Coldwell Cornwell Dunham Dunholme Dunstead Dunton Dunwell "
    "Elmham Elmstead Elmton Eskdale Fenham Fenton Fenwick Fernham Ferndale Garton Hallowell Harlton Heathfield Holbeck "
    "Holby Holcombe Holden Holgate Holham Holton Holwell Kelby Kelham Kelwell Kelstead Langdale Langden Langfield "
    "Langham Langton Langworth Larkfield Lindale Linby Linden Linfield Linton Linwell Merefield Merewell Netherfield "
    "Netherton Oakdale Oakden Oakfield Oakham Oakton Oakwell Ormesby Penfield Penton Polgate Ravenfield Ravenstoke "
    "Skelton Thornby Thornfield Thornham Thornholme Thornton Tilling Wrenbury Wickham Winkfield Winkton Broughton "
    "Kestwell Sandalwell Stavely Thornwell Fallowfield Hazelwell Hazelbourne Marlfield Marlwick Skelby Trelby"
)
"""Compositions that are known as real places or families, left out."""
PLACES = tuple(
    head + tail
    for head in _PLACE_HEADS
    for tail in _PLACE_TAILS
    if head[-1].lower() != tail[0] and not head.lower().endswith(tail) and head + tail not in _REAL
)

WOMEN = _words(
    "Ada Agnes Alma Amina Anita Asha Beatrix Bridget Carmen Celia Chidi Clara Cora Daphne Delia Dora Edith Elif Elsa "
    "Esme Farah Fiona Freya Gemma Greta Hana Hattie Helga Imogen Ines Ingrid Iris Jana Joan Judith Kavita Keiko Lena "
    "Leonie Lorna Lucia Mabel Magda Maeve Mei Miriam Nadia Nell Noor Odile Olwen Petra Priya Ramona Rosalind Ruth "
    "Saskia Selma Tamsin Thea Ursula Vera Wanda Yasmin Zadie"
)
MEN = _words(
    "Aidan Alban Amir Anton Arlo Arthur Basil Bernard Bruno Cedric Clement Colm Conrad Cyril Dario Dev Desmond Edgar "
    "Elias Emil Ewan Farid Felix Fergus Gareth Gilbert Gordon Hamish Hassan Hector Hugo Idris Ivan Jasper Jonas Jorge "
    "Kenji Kofi Lars Leon Lionel Luca Magnus Marek Milo Nestor Nikhil Ola Oscar Owen Pavel Percy Piers Rafael Ravi "
    "Rufus Samir Silas Stefan Tariq Theo Tobias Umar Victor Wilf Yusuf"
)
SURNAMES = _words(
    "Abara Adeyo Ainsley Aldous Amadi Arkell Ashdown Balogh Banerji Barlowe Beckett Belmont Birtles Blackmore Bonham "
    "Bracewell Brandt Brock Cadwell Calloway Carver Chandra Chowdry Clegg Colville Copley Cotterill Crabbe Creswell "
    "Dabrow Danvers Darby Delaney Denholm Dobson Draycott Duval Eastman Eckhart Eldridge Emerick Fairley Fanshaw "
    "Farrow Fenwick Fielding Finch Forsey Galloway Garland Gethin Gilroy Goodall Grainger Greenhalgh Gupta Haddow "
    "Halloran Hanif Harker Hathway Heald Hibbert Holroyd Hossain Ibarra Idowu Ingleby Ivers Jankow Jessop Kaminski "
    "Kelleher Kershaw Khatri Kinsella Kowal Lacey Larkin Ledbury Lindqvist Lockyer Lomax Maddox Mahmud Marchbank "
    "Mattock Mbeki Meadows Mercer Moffat Molina Mulvey Nakata Nayar Netherby Novak Nunn Oakden Obi Okafor Oldroyd "
    "Ormerod Osei Padgett Parvez Pascoe Penhallow Pickard Pritchett Quayle Quigley Radcliff Rahimi Rastrick Redfern "
    "Ridley Roscoe Rowntree Sadler Salgado Sandhu Scaife Selwyn Shardlow Silva Skelton Somers Sorensen Stanhope "
    "Sugden Tait Tanaka Tarrant Thackray Tindall Tolland Tregear Tully Uddin Underhill Unwin Vance Varga Venn Vickery "
    "Wadham Wainman Warrick Wetherby Whitlock Winslow Wolfe Woodgate Wyatt Yardley Yates Zielin"
)

_STREET_HEADS = _words(
    "Mill Tanner Cooper Bridge Chapel Orchard Weir Kiln Market Station Quarry Priory Dyers Weaver Smithy Canal Ferry "
    "Granary Lantern Saddler Pump Foundry Abbey Beacon Chestnut Willow Sycamore Linden Harbour Castle Well Glebe"
)
_STREET_TAILS = ("Street", "Lane", "Road", "Row", "Hill", "Avenue")

_FIRM_HEADS = _words(
    "Haldane Orvik Brantley Tellmer Corvane Duncastle Elverly Farrand Gantrey Hexworth Ivory Jessamy Kestrine Lumley "
    "Marrick Norvale Oxmere Pellister Quarrow Rendle Sablewood Tressick Umberly Verity Westrow Yelland Zephyrine "
    "Arkwell Bellmont Cranleigh"
)
FIRMS = {
    "firm_tech": ("Instruments", "Systems", "Engineering", "Electrics", "Optics", "Bearings", "Pumps", "Textiles"),
    "firm_food": ("Foods", "Bakeries", "Dairies", "Kitchens", "Larder", "Mills", "Provisions"),
    "firm_toys": ("Toys", "Homeware", "Living", "Nursery", "Gardens", "Outdoors"),
}

_WORDS = _words("zero one two three four five six seven eight nine ten eleven twelve")
_HOLIDAYS = ((1, 1), (12, 24), (12, 25), (12, 26), (12, 31))
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_MONTHS = _words("January February March April May June July August September October November December")
_TIMES = {
    "am": tuple(f"{hour}{half} am" for hour in (8, 9, 10, 11) for half in ("", ".15", ".30")),
    "pm": tuple(f"{hour}{half} pm" for hour in (1, 2, 3, 4) for half in ("", ".15", ".30")),
    "eve": tuple(f"{hour}{half} pm" for hour in (6, 7, 8) for half in ("", ".15", ".30", ".45")),
    "night": ("10.40 pm", "11.15 pm", "1.20 am", "2 am", "2.35 am", "3.10 am", "4 am", "4.25 am"),
}


def person(rng: random.Random) -> tuple[str, str, str]:
    """A first name, a surname and the pronoun that goes with them."""
    pronoun = rng.choice(("she", "he"))
    return rng.choice(WOMEN if pronoun == "she" else MEN), rng.choice(SURNAMES), pronoun


def first_day(rng: random.Random, days: tuple[int, ...]) -> date:
    """A day on one of the weekdays (any, if none is named) on which offices may be open."""
    while True:
        day = date(2023, 1, 1) + timedelta(days=rng.randrange(365))
        if (day.month, day.day) not in _HOLIDAYS and (not days or day.weekday() in days):
            return day


def show_day(day: date, style: int) -> str:
    """The day as this record writes all of its days: with weekday and month, with month, or weekday only."""
    weekday, month = WEEKDAYS[day.weekday()], _MONTHS[day.month - 1]
    return (f"{weekday} {day.day} {month}", f"{day.day} {month}", weekday)[style]


def fresh(rng: random.Random, kind: str) -> str:
    """A new value of a kind: a name, a firm, a time, a number (`#2-9`), a word (`w2-9`) or a year (`y1900-1990`)."""
    if kind == "place":
        return rng.choice(PLACES)
    if kind == "person":
        return " ".join(person(rng)[:2])
    if kind == "surname":
        return rng.choice(SURNAMES)
    if kind == "street":
        return f"{rng.choice(_STREET_HEADS)} {rng.choice(_STREET_TAILS)}"
    if kind in FIRMS:
        return f"{rng.choice(_FIRM_HEADS)} {rng.choice(FIRMS[kind])}"
    if kind in _TIMES:
        return rng.choice(_TIMES[kind])
    if kind[0] in "#wy":
        span, _, step = kind[1:].partition("/")
        low, high = (int(part) for part in span.split("-"))
        value = rng.randrange(low, high + 1, int(step or 1))
        return {"#": f"{value:,}", "y": str(value)}.get(kind[0]) or _WORDS[value]
    raise KeyError(kind)
