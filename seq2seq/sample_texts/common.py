"""Openings and sentences that do not matter and fit every domain of the carried `sample` data."""

from __future__ import annotations

LEADS = (
    "It has been a [quiet|busy|mixed|long] week [for|in] {town}.",
    "[Good morning|Greetings|A warm welcome] to all [our readers|who read this page] in {town}.",
    "[Dear readers|Dear neighbours], here is the latest [word|news] from {town}.",
    "{town} has changed a [good deal|great deal|little] since the old railway closed.",
    "[Few|Not many] people outside the county could find {town} on a map.",
    "The weather in {town} has been [kind|poor|changeable] lately.",
    "Visitors to {town} often [speak of|remark on] its [narrow streets|old clock tower|friendly shops|fine views].",
    "There was [plenty|much|a lot] to talk about in {town} [this week|in recent days].",
    "{town} was [once|long] known for its [wool|salt|pottery|rope|apples|boats].",
    "The clock above {street} in {town} is working again after [two|three|four] years.",
    "[Our|The] regular [column|bulletin] from {town} is [shorter|longer] than usual this week.",
    "Thanks go to {person} for the kind words about last week's page.",
    "[The|A] [crossword|quiz] from the last issue was won by {person}.",
    "[People|Residents] of {town} are used to being [overlooked|left out of the news].",
    "A correction first: last week's photograph showed {street}, not {street2}.",
    "About {#2-19},{#100-900/100} people live in [and around|or near] {town}, according to the last count.",
)

FILLERS = (
    "{person} took the photograph [that goes with this report|on this page].",
    "[Letters|Comments] to this page [may|can] be left at the [post office|newsagent's|town hall] in {street}.",
    "A [fuller|longer] [account|version] will [appear|be printed] in the [next|monthly] issue.",
    "[The subject|This] also came up at the [last|latest] meeting of the residents' association.",
    "The [town's|local] [website|noticeboard] carries the same [news|information].",
    "[Some|Several|A few] readers had already [written|called] to ask about it.",
    "[Similar|Much the same] [news|reports] came from {place2} [last year|a year ago|some years ago].",
    "The [local radio station|county paper] [also mentioned it|carried the news as well].",
    "{place2}, [the next town along the river|a few miles away|just over the hill], has had [no such news|a quiet "
    "month].",
    "[Neighbours|People] in {street} [had been talking about it|spoke of little else] for days.",
    "[Anyone|Readers] with [old pictures of {town}|memories of {street}] may send them to {person}.",
    "[Nobody|No one] from {place2} [was available|wished] to comment.",
    "[A spokesman for the county|The county's press office] had [nothing to add|no further details].",
    "The [corner|market|station] cafe was [livelier|busier] than usual [that day|all week].",
    '"[It is the talk of the town|Everybody has an opinion about it|Word travels fast here]," said {person}, '
    "[a neighbour|who runs the post office|a retired teacher|who lives in {street}].",
    "The [editor|editor of this page], {person}, thanks everyone who [helped with|contributed to] this [report|item].",
    "[Readers|Those] with questions [can|may] ring {person} on weekday [mornings|afternoons].",
    "[The sun shone|A light rain fell|A cold wind blew] while these lines were being [written|typed].",
)
