"""The drop-in of the DNA and Speech models, chosen on development trials.
Entry points: search_drop_in, describe, write_search.
"""

from pathlib import Path

import numpy as np

from scoring import calibration, metrics
from scoring.likelihood import AttributeModel, Side, published_model, score_pairs
from scoring.summary import write_rows

GRID = (0.001, 0.002, 0.005, 0.01, *np.round(np.arange(0.02, 1.0, 0.02), 2).tolist())
# What is least at the best value: Cllr in bits of the ratios as they are, or after an affine calibration.
CRITERIA = ("cllr", "calibrated")


def search_drop_in(
    model: AttributeModel, enrol: Side, test: Side, pairs: np.ndarray, labels: np.ndarray, criterion: str = "cllr",
    grid=GRID,
) -> tuple[float, list[dict]]:  # fmt: skip
    """Return the drop-in of the least cost on trials, and a row {drop_in, cllr, calibrated, min_cllr, eer} for each.

    "cllr" is what the authors of the models minimise. The ratios are not calibrated (two recordings that both lack a
    rare attribute speak for one speaker), so that it also rewards a drop-in that makes all ratios small; where they are
    calibrated afterwards, "calibrated" tells which drop-in separates speakers.
    """
    rows = []
    for drop_in in grid:
        parts = model.parameters["typicality"], model.parameters["drop_out"]
        tried = published_model(model.kind, *parts, drop_in)
        tried.used = model.used
        scores = score_pairs(tried, enrol, test, pairs)
        counts = metrics.count_accepted(scores, labels)
        fitted = calibration.fit(scores, labels, [model.kind])
        rows.append(
            {
                "drop_in": drop_in, "cllr": metrics.cllr_of(counts), "calibrated": fitted.fitted_on["cllr"],
                "min_cllr": metrics.min_cllr_of(counts), "eer": metrics.eer_of(counts)[0],
            }
        )  # fmt: skip
    return min(rows, key=lambda row: row[criterion])["drop_in"], rows


def describe(kind: str, rows: list[dict], criterion: str, name: str) -> str:
    """Return one line: the best drop-in of a search on the trials `name`, and its costs."""
    best = min(rows, key=lambda row: row[criterion])
    end = ", the end of what was tried" if best["drop_in"] in (rows[0]["drop_in"], rows[-1]["drop_in"]) else ""
    return (
        f"{kind}: drop-in {best['drop_in']:g} has the least {criterion} of {len(rows)} on {name}: "
        f"Cllr {best['cllr']:.3f}, calibrated {best['calibrated']:.3f}, least {best['min_cllr']:.3f}{end}"
    )


def write_search(path: str | Path, rows: list[dict]):
    """Write the rows of a search as CSV, whole or not at all."""
    write_rows(path, rows, tuple(rows[0]), ())
