"""Cards of binary attributes: how often, how stable, whose, with which measures of the recordings, with which others.
Entry points: describe_population, Measures, associate, card_row; scoring/card_pages.py makes the page.
"""

from dataclasses import dataclass, field

import numpy as np

from scoring.population import Population, drop_out, having, population, typicality
from scoring.stepwise import (
    ENTRY_LEVEL,
    Dependence,
    Entered,
    balanced_rows,
    dependence,
    exchange_groups,
    grouped_accuracy,
    stepwise_lda,
)

FEWEST_ROWS = 10  # of either bit, below which nothing is said of what an attribute goes with
MOST_CATEGORIES = 8  # of a column of words; one with more names recordings rather than kinds of them
TOP = 10  # speakers and attributes that a card lists
LEAST_UNCERTAINTY = 0.001  # of an attribute that is listed as one that another depends on
NOTHING = Entered(np.empty(0, np.int64), *np.empty((3, 0)))


@dataclass
class Measures:
    """What is known of the recordings: `names` (variables), `values` (recordings, variables) without gaps, `gaps`
    {name: recordings that lacked it and got its median}, `left_out` {name: why}."""

    names: list[str]
    values: np.ndarray
    gaps: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def make_measures(numbers: dict[str, np.ndarray], texts: dict[str, list[str]]) -> Measures:
    """Return variables from columns of numbers (NaN: unknown) and of text ("": unknown).

    A column of text that holds numbers is one variable, one of words a 0/1 variable for each word (one of two words:
    one variable). Columns with one value, or with too many words, are left out.
    """
    found, gaps, left_out = {}, {}, {}
    for name, column in texts.items():
        known = sorted({text for text in column if text})
        try:
            numbers = {**numbers, name: np.array([float(text) if text else np.nan for text in column])}
        except ValueError:
            if not 2 <= len(known) <= MOST_CATEGORIES:
                left_out[name] = f"{len(known)} different words" if len(known) > 1 else "one value"
                continue
            for word in known[1:] if len(known) == 2 else known:
                flags = [float(text == word) if text else np.nan for text in column]
                numbers = {**numbers, f"{name} = {word}": np.array(flags)}
    for name, column in numbers.items():
        known = np.isfinite(column)
        if not known.any() or np.ptp(column[known]) == 0:
            left_out[name] = "one value" if known.any() else "no value"
            continue
        if not known.all():
            gaps[name] = int((~known).sum())
        found[name] = np.where(known, column, np.median(column[known]))
    values = np.column_stack(list(found.values())) if found else np.empty((0, 0))
    return Measures(list(found), values, gaps, left_out)


# ---------------------------------------------------------------- the attributes of a population


@dataclass
class Description:
    """What holds of all attributes at once, arrays (n,) unless said otherwise."""

    population: Population
    rate: np.ndarray  # share of recordings
    speakers: np.ndarray  # number that have it in a recording
    typicality: np.ndarray
    drop_out: np.ndarray
    agreement: np.ndarray  # two recordings of one speaker have the same bit, share of pairs; NaN without such pairs
    agreement_between: np.ndarray  # the same of two recordings of different speakers
    dependence: Dependence
    effects: np.ndarray  # (n, variables): mean with bit 1 minus mean with bit 0, in pooled standard deviations

    def state(self, i: int) -> str:
        """Return dead (never there), constant (always), private (one speaker's) or shared."""
        if self.rate[i] in (0, 1):
            return "constant" if self.rate[i] else "dead"
        return "private" if self.speakers[i] == 1 else "shared"


def describe_population(bits: np.ndarray, labels: np.ndarray, speakers: list[str], measures: Measures) -> Description:
    """Return rates, stability, dependence and effects of all attributes.

    Args:
        bits: (recordings, n) of 0 and 1; labels: (recordings,) of each its speaker, an index into `speakers`.
    """
    pop = population(bits, labels, speakers)
    total, count = pop.recordings.sum(), pop.active.sum(0)
    # pairs of recordings that agree: both with the bit, or both without
    within = (_pairs(pop.active) + _pairs(pop.recordings[:, None] - pop.active)).sum(0)
    pairs = _pairs(pop.recordings).sum()
    between = _pairs(count) + _pairs(total - count) - within
    return Description(
        pop,
        count / total,
        having(pop),
        typicality(pop) + 0.0,  # no minus zero
        drop_out(pop),
        within / pairs if pairs else np.full(len(count), np.nan),
        between / (_pairs(total) - pairs),
        dependence(bits),
        _effects(bits, measures.values),
    )


def _pairs(count):
    return count * (count - 1) / 2


def _effects(bits: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return Cohen's d (n, variables), 0 where the bit is constant."""
    n, variables = bits.shape[1], values.shape[1]
    if not variables:
        return np.zeros((n, 0))
    z = (values - values.mean(0)) / values.std(0)
    ones = bits.astype(np.float64)
    count = np.stack([len(bits) - ones.sum(0), ones.sum(0)])[:, :, None]  # (bit, n, 1)
    sums = np.stack([-(ones.T @ z), ones.T @ z])  # z adds up to 0
    squares = ones.T @ z**2
    squares = np.stack([len(bits) - squares, squares])
    live = (count > 0).all(0)
    means = np.divide(sums, count, out=np.zeros_like(sums), where=np.broadcast_to(live, sums.shape))
    variance = np.maximum(squares - count * means**2, 0).sum(0) / max(len(bits) - 2, 1)
    shift = means[1] - means[0]
    return np.divide(shift, np.sqrt(variance), out=np.zeros_like(shift), where=live & (variance > 1e-12))


# ---------------------------------------------------------------- one attribute


@dataclass
class Card:
    """An attribute: `entered`, the variables it goes with, columns of Measures; `accuracy` (0 to 1; chance 0.5) with
    which they tell its bit for other speakers; `rows` balanced recordings of each bit; `control`, how many variables
    enter after the speakers' measures were exchanged; `reason` why there is none of these."""

    attribute: int
    entered: Entered = NOTHING
    accuracy: float = float("nan")
    rows: int = 0
    control: int = 0
    reason: str = ""


def associate(
    attribute: int, bits: np.ndarray, labels: np.ndarray, measures: Measures, entry_level=ENTRY_LEVEL, seed: int = 0
) -> Card:
    """Return with which measures an attribute goes, on as many recordings with its bit as without.

    Accuracy is that of speakers who had no part in choosing or weighing the measures.
    """
    if not measures.names:
        return Card(attribute, reason="no measures of the recordings are known")
    draw = np.random.default_rng([seed, attribute])
    column = bits[:, attribute]
    rows = balanced_rows(column, draw)
    if len(rows) < 2 * FEWEST_ROWS:
        fewer = "with" if column.mean() < 0.5 else "without"
        return Card(attribute, rows=len(rows) // 2, reason=f"only {len(rows) // 2} recordings {fewer} it")
    x, classes, groups = measures.values[rows], column[rows].astype(np.int64), labels[rows]
    entered = stepwise_lda(x, classes, entry_level)
    accuracy = grouped_accuracy(x, classes, groups, entry_level)
    control = 0
    if len(np.unique(groups)) > 1:
        control = len(stepwise_lda(x[exchange_groups(groups, draw)], classes, entry_level).order)
    return Card(attribute, entered, accuracy, len(rows) // 2, control)


def owners(described: Description, attribute: int, most: int = TOP) -> list[tuple[str, int, int]]:
    """Return [(speaker, recordings with it, recordings)] of speakers who have it, those with the surest share first."""
    active, recordings = described.population.active[:, attribute], described.population.recordings
    # one of one recording says less than nine of ten: ranked by the share after one recording more with and without
    share = (active + 1) / (recordings + 2)
    order = np.argsort(-share, kind="stable")
    names = described.population.speakers
    return [(names[k], int(active[k]), int(recordings[k])) for k in order[:most].tolist() if active[k]]


def neighbours(described: Description, attribute: int, most: int = TOP) -> list[tuple[int, float]]:
    """Return [(attribute, symmetric uncertainty)] of the others that it depends on most."""
    row = described.dependence.uncertainty[attribute].copy()
    row[attribute] = -1
    order = np.argsort(-row, kind="stable")[:most]
    return [(int(i), float(row[i])) for i in order if row[i] >= LEAST_UNCERTAINTY]


def card_row(card: Card, described: Description, measures: Measures) -> dict:
    """Return a card as one row of a table; lists are text with semicolons."""
    i, entered, pop = card.attribute, card.entered, described.population
    row = {
        "attribute": i, "state": described.state(i), "rate": described.rate[i], "speakers": int(described.speakers[i]),
        "speakers_share": described.speakers[i] / len(pop.speakers), "typicality": described.typicality[i],
        "drop_out": described.drop_out[i], "agreement_within": described.agreement[i],
        "agreement_between": described.agreement_between[i], "balanced_rows": card.rows, "accuracy": card.accuracy,
        "goes_with": "; ".join(measures.names[v] for v in entered.order), "wilks": min(entered.wilks, default=1.0),
        "p_first": min(entered.p[:1], default=float("nan")), "entered": len(entered.order),
        "entered_control": card.control, "reason": card.reason,
        "owners": "; ".join(f"{name} {a}/{n}" for name, a, n in owners(described, i)),
        "depends_on": "; ".join(f"{other} {value:.3f}" for other, value in neighbours(described, i)),
    }  # fmt: skip
    row |= {f"d {name}": float(value) for name, value in zip(measures.names, described.effects[i])}
    return {name: "" if value != value else value for name, value in row.items()}


@dataclass
class Chance:
    """How much of what was found chance alone would give: `tests` attributes x variables; `expected` entries of that
    many independent tests at the level; `found` and `control` entries; the number of attributes with an entry of
    each; `corrected` attributes whose first p-value lies below the level divided by the tests."""

    tests: int
    expected: float
    found: int
    control: int
    attributes: int
    attributes_found: int
    attributes_control: int
    corrected: int


def chance_of(cards: list[Card], measures: Measures, entry_level=ENTRY_LEVEL) -> Chance:
    """Return what chance has to do with the associations of all cards."""
    tried = [card for card in cards if not card.reason]
    tests = len(tried) * len(measures.names)
    sizes = np.array([(len(card.entered.order), card.control) for card in tried]).reshape(-1, 2)
    firm = [card for card in tried if len(card.entered.p) and card.entered.p[0] < entry_level / tests]
    found, control = sizes.sum(0).tolist()
    return Chance(tests, entry_level * tests, found, control, len(tried), *(sizes > 0).sum(0).tolist(), len(firm))
