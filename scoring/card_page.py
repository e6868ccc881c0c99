"""The HTML page of attribute cards, with a list of contents.
Entry point: cards_page.
"""

import numpy as np

from scoring import charts, page
from scoring.attribute_cards import Card, Chance, Description, Measures, neighbours, owners
from scoring.stepwise import ENTRY_LEVEL

SHOWN_EFFECTS = 8


def cards_page(
    cards: list[Card],
    described: Description,
    measures: Measures,
    chance: Chance,
    what: dict[str, str],
    about: dict[str, str],
    entry_level: float = ENTRY_LEVEL,
) -> str:
    """Return the page.

    Args:
        what: {variable of the measures: what it is}, for those that need words.
        about: what made the codes and which recordings these are.
    """
    pop = described.population
    parts = [
        page.section("Contents", [page.contents([(f"a{card.attribute}", str(card.attribute)) for card in cards])]),
        page.section("All attributes", [_overview(cards, described)]),
        page.section("How far this can be trusted", _trust(chance, measures, entry_level)),
        *(page.section(f"Attribute {card.attribute}", _card(card, described, measures), f"a{card.attribute}")
          for card in cards),
        page.section("Words used here", [page.facts(_words(measures, what))]),
        page.section("What made it", [page.facts(about)]),
    ]  # fmt: skip
    return page.page(
        "Cards of the voice attributes",
        parts,
        f"{len(cards)} of {len(described.rate)} attributes, {int(pop.recordings.sum())} recordings of "
        f"{len(pop.speakers)} speakers",
    )


def _overview(cards: list[Card], described: Description) -> str:
    rows = [
        [
            card.attribute, described.state(card.attribute), described.rate[card.attribute],
            int(described.speakers[card.attribute]), described.typicality[card.attribute],
            described.drop_out[card.attribute], card.accuracy, len(card.entered.order),
        ]
        for card in cards
    ]  # fmt: skip
    columns = ["attribute", "state", "recordings", "speakers", "typicality", "drop-out", "accuracy", "measures"]
    return page.table(columns, rows, "Recordings and accuracy as shares, speakers and measures that enter as numbers.")


def _trust(chance: Chance, measures: Measures, entry_level: float) -> list[str]:
    if not chance.tests:
        return [page.paragraph("No attribute was set against measures of the recordings.")]
    made = [
        page.paragraph(
            f"{chance.attributes} attributes were each set against {len(measures.names)} measures: {chance.tests} "
            f"tests. At the entry level of {entry_level:g} chance alone gives about {chance.expected:.0f} of them an "
            f"entry; {chance.found} entries were found, in {chance.attributes_found} attributes. "
            f"{chance.corrected} attributes have a first entry that also holds at {entry_level:g} divided by the "
            "number of tests (Bonferroni)."
        ),
        page.paragraph(
            "The test takes recordings as independent, which those of one speaker are not. As a control every speaker "
            f"got the measures of another one: {chance.control} entries in {chance.attributes_control} attributes were "
            "then still found. What counts is therefore the accuracy on speakers who had no part in the choice of "
            "measures; 50 % is chance."
        ),
        page.paragraph(
            "A measure that goes with an attribute is no proof that the attribute hears it: both can follow from a "
            "third thing, such as the microphone or the age of the speakers.",
            "note",
        ),
    ]
    if measures.gaps:
        text = ", ".join(f"{name} in {count}" for name, count in measures.gaps.items())
        made.append(page.paragraph(f"Unknown values were given the median: {text} recordings.", "quiet"))
    if measures.left_out:
        text = ", ".join(f"{name} ({why})" for name, why in measures.left_out.items())
        made.append(page.paragraph(f"Columns left out: {text}.", "quiet"))
    return made


def _card(card: Card, described: Description, measures: Measures) -> list[str]:
    i, pop = card.attribute, described.population
    recordings, speakers = int(pop.recordings.sum()), len(pop.speakers)
    facts = {
        "occurs": f"in {int(pop.active[:, i].sum())} of {recordings} recordings ({100 * described.rate[i]:.1f} %), "
        f"with {int(described.speakers[i])} of {speakers} speakers ({described.state(i)}); typicality "
        f"{described.typicality[i]:.3f}",
        "stable": f"drop-out {described.drop_out[i]:.3f}; two recordings of one speaker agree in "
        f"{_percent(described.agreement[i])}, of two speakers in {_percent(described.agreement_between[i])}",
    }
    has = owners(described, i)
    if has:
        facts["speakers"] = ", ".join(f"{name} {a}/{n}" for name, a, n in has)
    made = [page.facts(facts)]
    if card.reason:
        made.append(page.paragraph(f"Not set against measures: {card.reason}.", "quiet"))
    else:
        made += _associations(card, described, measures)
    near = neighbours(described, i)
    if near:
        text = ", ".join(f"{other} ({value:.3f})" for other, value in near)
        made.append(page.paragraph(f"Depends most on attributes (symmetric uncertainty, 0 to 1): {text}"))
    return made


def _associations(card: Card, described: Description, measures: Measures) -> list[str]:
    effects, entered = described.effects[card.attribute], card.entered
    accuracy = "unknown, too few speakers" if card.accuracy != card.accuracy else f"{100 * card.accuracy:.1f} %"
    text = (
        f"{len(entered.order)} measures enter the stepwise analysis of {card.rows} recordings with the bit 1 and as "
        f"many with 0. They tell the bit of other speakers' recordings with an accuracy of {accuracy} (chance 50 %)."
    )
    if not len(entered.order):
        return [page.paragraph(f"No measure enters the stepwise analysis of {2 * card.rows} recordings.")]
    rows = [
        [measures.names[v], float(effects[v]), float(wilks), f"{f:.1f}", f"{p:.1e}"]
        for v, wilks, f, p in zip(entered.order.tolist(), entered.wilks, entered.f, entered.p)
    ]
    order = np.argsort(-np.abs(effects), kind="stable")[:SHOWN_EFFECTS]
    items = [(measures.names[v], float(effects[v]), f"{effects[v]:+.2f}") for v in order.tolist()]
    return [
        page.paragraph(text),
        page.table(["enters", "d", "Wilks' lambda", "F", "p"], rows, "In the order of entry"),
        page.figure(
            charts.bars(items, f"effect sizes of attribute {card.attribute}"),
            "Largest differences between recordings with and without the attribute, in standard deviations (d); each "
            "measure by itself.",
        ),
    ]


def _percent(share: float) -> str:
    return "(unknown)" if share != share else f"{100 * share:.1f} % of pairs"


def _words(measures: Measures, what: dict[str, str]) -> dict[str, str]:
    """Return what the words of the page mean."""
    return {
        "typicality": "share of pairs of speakers who both have the attribute in a recording",
        "drop-out": "share of the recordings of speakers who have it that lack it",
        "state": "dead: in no recording, constant: in all, private: of one speaker, shared: of several",
        "d": "mean of recordings with the attribute minus mean of those without, in pooled standard deviations",
        "Wilks' lambda": "share of the variation that the measures so far leave within the two kinds of recordings",
        "symmetric uncertainty": "what two attributes tell of each other: 0 nothing, 1 all",
        **{name: what[name] for name in measures.names if name in what},
    }
