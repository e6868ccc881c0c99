"""The HTML page of one comparison: the ratio, what it means, which attributes carried it, the recordings.
Entry points: comparison_page, Development, Recording.
"""

from dataclasses import dataclass

import numpy as np

from scoring import charts, page
from scoring.calibration import Calibration
from scoring.explanation import OFFSET, SCALE, SOURCE, Explanation, ratio_text, verbal

SHOWN_BARS = 12  # attributes of either sign
BINS = 40
MEANING = (
    "The likelihood ratio says how many times as probable these codes are if one person speaks on both sides as if two "
    "people of the population do: here {ratio}. It is not the probability that it is the same person: for that it must "
    "be multiplied with the odds from all other information, and it holds only as far as the recordings resemble those "
    "of the population and of the calibration."
)


@dataclass
class Development:
    """Ratios of trials whose truth is known, on the scale that is reported."""

    llrs: np.ndarray
    labels: np.ndarray  # 1: same speaker
    name: str


@dataclass
class Recording:
    """A recording to play: `sound`, bytes of a file of type `kind`, or None."""

    name: str
    sound: bytes | None = None
    kind: str = "audio/wav"


def comparison_page(
    explained: Explanation,
    sides: tuple[list[Recording], list[Recording]],
    about: dict[str, str],
    calibration: Calibration | None = None,
    development: Development | None = None,
    absent: str = "give --audio_path",
) -> str:
    """Return the page of a comparison.

    Args:
        about: what made it: encoder, population, hashes.
        absent: why recordings cannot be played.
    """
    names = [", ".join(one.name for one in side) for side in sides]
    players = [
        page.player(f"{role}: {one.name}", one.sound, one.kind, absent)
        for role, side in zip(("Enrolment", "Test"), sides)
        for one in side
    ]
    parts = [
        page.section("Result", _result(explained, calibration)),
        page.section("Recordings", players),
        page.section("Attributes that carried it", _carried(explained)),
    ]
    if development is not None:
        parts.append(page.section("Among comparisons whose truth is known", _among(explained, development)))
    parts += [
        page.section("All attributes", [_table(explained)]),
        page.section("What made it", [page.facts(about)]),
    ]
    return page.page(f"{names[0]} against {names[1]}", parts, "Comparison of voices by binary attributes")


def _result(explained: Explanation, calibration: Calibration | None) -> list[str]:
    final = explained.final
    if explained.kind == "cosine" and calibration is None:
        return [
            page.paragraph(f"Cosine score {final:.4f}", "large"),
            page.paragraph("A similarity is no likelihood ratio: calibrate it with --calibration.", "note"),
        ]
    if calibration is None:
        return [
            page.paragraph(f"Sum of the terms {final:+.2f}, not calibrated", "large"),
            page.paragraph(
                "The terms are added as if the attributes were independent, which they are not: the sum can be far too "
                "large, is no likelihood ratio to report and deserves no words. Give --calibration, fitted on other "
                "comparisons of such recordings.",
                "note",
            ),
        ]
    inverse = f" (1 to {ratio_text(-final)})" if final < 0 else ""
    rows = [
        page.paragraph(f"Likelihood ratio {ratio_text(final)}{inverse}", "large"),
        page.paragraph(
            f"LLR {final:+.3f} (natural logarithm; log10 {final / np.log(10):+.2f}), calibrated, before calibration "
            f"{explained.llr:+.3f}."
        ),
        page.paragraph(f"In words: {verbal(final)}."),
        page.paragraph(MEANING.format(ratio=f"{ratio_text(final)} times{inverse}")),
        page.paragraph(_scale_text(), "quiet"),
    ]
    limit = _limit(final, calibration)
    if explained.recordings != (1, 1):
        limit += " A calibration holds for as many recordings a side as the comparisons had that it was fitted on."
    return rows + ([page.paragraph(limit.strip(), "note")] if limit else [])


def _scale_text() -> str:
    steps = ", ".join(f"{word} from {least:,}".replace(",", " ") for least, word in SCALE)
    return f"Words by one convention among several ({SOURCE}): {steps}; the same for inverse ratios."


def _limit(final: float, calibration: Calibration) -> str:
    """Return a warning where a ratio lies beyond what the calibration's trials can vouch for."""
    trials, targets = calibration.fitted_on.get("trials"), calibration.fitted_on.get("targets")
    if not isinstance(trials, int) or not isinstance(targets, int):
        return ""
    # a ratio above x must be rarer than 1 in x among different speakers: N trials show that up to about N
    count, kind = (trials - targets, "different-speaker") if final > 0 else (targets, "same-speaker")
    if abs(final) <= np.log(max(count, 1)):
        return ""
    return (
        f"The calibration was fitted on {count} {kind} comparisons; a ratio beyond {count} (or its inverse) is an "
        "extrapolation that they cannot check."
    )


def _carried(explained: Explanation) -> list[str]:
    shares = [(name, value) for name, value in explained.shares() if name != OFFSET]
    offset = [value for name, value in explained.shares() if name == OFFSET]
    cases = {str(row["attribute"]): row["case"] for row in explained.rows}
    single = explained.recordings == (1, 1)
    meaning = (
        "11: both recordings have the attribute, 00: neither, 10 and 01: the enrolment or the test alone."
        if single
        else "In brackets: recordings that have the attribute, enrolment then test."
    )
    sides = [[(name, value) for name, value in shares if sign * value > 0] for sign in (1, -1)]
    totals = [sum(value for _, value in side) for side in sides]
    strongest = [
        (f"{name} ({cases[name]})", value, f"{value:+.2f}") for side in sides for name, value in side[:SHOWN_BARS]
    ]
    words = f"for ({len(sides[0])})", f"against ({len(sides[1])})"
    summed = [(name, value, f"{value:+.2f}") for name, value in zip(words, totals)]
    summed += [("calibration", value, f"{value:+.2f}") for value in offset]
    summed.append(("together", explained.final, f"{explained.final:+.2f}"))
    sums = np.cumsum([*(offset or [0.0]), *(value for _, value in shares)])
    made = [
        page.paragraph(f"What each adds to the LLR (natural logarithm). {meaning}"),
        page.figure(
            charts.bars(strongest, "what the strongest attributes add to the LLR"),
            f"The strongest attributes for the same speaker and against, at most {SHOWN_BARS} of each.",
        ),
        page.figure(charts.bars(summed, "sums of the LLR"), "All attributes for the same speaker and against."),
        page.figure(
            charts.lines(
                [("sum", list(range(len(sums))), sums.tolist())], "attributes, the strongest first", "sum of LLR",
                f"the sum of the terms runs from {sums[0]:+.2f} to {sums[-1]:+.2f} over {len(shares)} attributes",
                levels=[(0.0, ""), (explained.final, f"{explained.final:+.2f}")],
            ),
            "The sum as attributes are added"
            + (" to the calibration's offset" if offset else "")
            + ": a curve that settles early rests on few of them.",
        ),
    ]  # fmt: skip
    return [*made, _by_case(explained)] if single else made


def _by_case(explained: Explanation) -> str:
    key = "llr" if explained.calibrated is None else "llr_calibrated"
    rows = []
    for case, words in (("11", "both"), ("00", "neither"), ("10", "enrolment alone"), ("01", "test alone")):
        values = [row[key] for row in explained.attributes() if row["case"] == case]
        rows.append([case, words, len(values), float(sum(values))])
    return page.table(["case", "who has it", "attributes", "sum of LLR"], rows, "By case")


def _among(explained: Explanation, development: Development) -> list[str]:
    final = explained.final
    same, other = (development.llrs[development.labels == value] for value in (1, 0))
    low, high = np.quantile(np.concatenate([same, other]), [0.001, 0.999])
    edges = np.linspace(min(low, final), max(high, final) + 1e-9, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    series = []
    for name, values in (("same speaker", same), ("different speakers", other)):
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        series.append((f"{name} ({len(values)})", centres.tolist(), shares.tolist()))
    below, above = int((same <= final).sum()), int((other >= final).sum())
    text = (
        f"Of {len(same)} comparisons of one speaker in {development.name}, {below} ({100 * below / len(same):.3g} %) "
        f"have a ratio as low as this or lower; of {len(other)} of different speakers, {above} "
        f"({100 * above / len(other):.3g} %) have one as high or higher."
    )
    drawing = charts.lines(
        series, "LLR (natural logarithm)", "share of comparisons (%)", text, marks=[(final, f"this: {final:+.2f}")]
    )
    return [page.paragraph(text), page.figure(drawing, f"In intervals of {edges[1] - edges[0]:.2g}.")]


def _table(explained: Explanation) -> str:
    hidden = ("recordings_enrolment", "recordings_test", "active_enrolment", "active_test")
    columns = [name for name in explained.rows[0] if name not in hidden]
    shown = {"llr": "LLR", "llr_calibrated": "calibrated"}
    rows = [[None if row[name] == "" else row[name] for name in columns] for row in explained.rows]
    return page.table(
        [shown.get(name, name.replace("_", " ")) for name in columns], rows,
        "The strongest first; the same and more in the CSV file.",
    )  # fmt: skip
