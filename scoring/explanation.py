"""One comparison of two speakers' codes explained: what every attribute added to the likelihood ratio, and in words.
Entry points: explain_comparison, write_explanation, verbal, ratio_text.
"""

from dataclasses import dataclass

import numpy as np

from scoring.calibration import Calibration
from scoring.likelihood import AttributeModel, Side, partials
from scoring.summary import write_rows

# One convention among several: that of the ENFSI guideline for evaluative reporting in forensic science, 2015. The
# same words hold for ratios above these values and for their inverse.
SCALE = (
    (2, "weak"), (10, "moderate"), (100, "moderately strong"), (1_000, "strong"), (10_000, "very strong"),
    (1_000_000, "extremely strong"),
)  # fmt: skip
SOURCE = "ENFSI Guideline for Evaluative Reporting in Forensic Science, 2015"
PROPOSITIONS = ("the two sides are recordings of different speakers", "both sides are recordings of the same speaker")
OFFSET = "offset"  # name of the row that the calibration adds


def verbal(llr: float) -> str:
    """Return the strength of a natural-log likelihood ratio in words of SCALE."""
    place = np.searchsorted([np.log(least) for least, _ in SCALE], abs(llr), side="right")
    if place == 0:
        return "support for neither proposition over the other"
    return f"{SCALE[place - 1][1]} support for the proposition that {PROPOSITIONS[int(llr > 0)]}"


def ratio_text(llr: float) -> str:
    """Return a likelihood ratio in three digits, as a power of ten where it is very large or small."""
    if np.log(1e-4) < llr < np.log(1e6):
        return f"{float(f'{np.exp(llr):.3g}'):,.10g}".replace(",", " ")
    return f"10^{llr / np.log(10):.1f}"


@dataclass
class Explanation:
    """`rows`: a dict for each attribute, the one that added most first, and with a calibration one for its offset;
    `llr`, and `calibrated` or None, are the sums of their columns llr and llr_calibrated; `labels` of the sides."""

    rows: list[dict]
    llr: float
    calibrated: float | None
    kind: str
    recordings: tuple[int, int]

    @property
    def final(self) -> float:
        """The ratio to report: calibrated where that can be had."""
        return self.llr if self.calibrated is None else self.calibrated

    def attributes(self) -> list[dict]:
        """Return the rows of attributes."""
        return [row for row in self.rows if row["attribute"] != OFFSET]

    def shares(self) -> list[tuple[str, float]]:
        """Return [(attribute or offset, what it adds to `final`)], in the order of the rows."""
        key = "llr" if self.calibrated is None else "llr_calibrated"
        return [(str(row["attribute"]), row[key]) for row in self.rows]


def check_calibration(calibration: Calibration):
    """Refuse a calibration that cannot be shared out over attributes.

    Raises:
        ValueError: it has several inputs.
    """
    if len(calibration.scales) != 1:
        raise ValueError(
            f"the calibration has {len(calibration.scales)} inputs ({', '.join(calibration.inputs)[:200]}): what an "
            "attribute adds is told for one model alone"
        )


def explain_comparison(
    model: AttributeModel, enrol: Side, test: Side, calibration: Calibration | None = None
) -> Explanation:
    """Return what each attribute adds to the ratio of one comparison.

    Args:
        enrol, test: of one row each.

    With a calibration of scale s and offset b an attribute adds s times its term, and b stands in a row of its own.
    """
    if len(enrol.active) != 1 or len(test.active) != 1:
        raise ValueError(f"one comparison has one row a side, not {len(enrol.active)} and {len(test.active)}")
    terms = partials(model, enrol, test)[0]
    counts = [(side.active[0].astype(int).tolist(), int(side.recordings[0])) for side in (enrol, test)]
    (first, enrolled), (second, tested) = counts
    columns = parameter_columns(model)
    rows = []
    for rank, i in enumerate(np.lexsort((np.arange(len(terms)), -np.abs(terms))).tolist(), 1):
        row = {
            "rank": rank, "attribute": i, "case": _case(first[i], second[i], enrolled, tested),
            "active_enrolment": first[i], "recordings_enrolment": enrolled, "active_test": second[i],
            "recordings_test": tested, **{name: float(values[i]) for name, values in columns.items()},
            "used": int(model.used[i]), "llr": float(terms[i]),
        }  # fmt: skip
        rows.append(row)
    calibrated = None
    if calibration is not None:
        check_calibration(calibration)
        scale = calibration.scales[0]
        for row in rows:
            row["llr_calibrated"] = scale * row["llr"]
        empty = dict.fromkeys(rows[0], "")
        rows.append(empty | {"attribute": OFFSET, "llr": 0.0, "llr_calibrated": calibration.offset})
        calibrated = float(scale * terms.sum() + calibration.offset)
    return Explanation(rows, float(terms.sum()), calibrated, model.kind, (enrolled, tested))


def _case(first: int, second: int, enrolled: int, tested: int) -> str:
    """Return the two bits (`11`), or of several recordings how many show the attribute (`3/4 1/2`)."""
    if enrolled == tested == 1:
        return f"{first}{second}"
    return f"{first}/{enrolled} {second}/{tested}"


def parameter_columns(model: AttributeModel) -> dict[str, np.ndarray]:
    """Return the parameters of a model as columns (n,) with names to show."""
    found = {}
    for name, values in model.parameters.items():
        if values.ndim == 1:
            found[name] = values
        else:
            found |= {f"{name}_{part}": values[:, i] for i, part in enumerate(("active", "inactive"))}
    return found


def write_explanation(path, explanation: Explanation):
    """Write the rows as CSV, whole or not at all; bits of single recordings keep a leading zero as text."""
    write_rows(path, explanation.rows, tuple(explanation.rows[0]), ())
