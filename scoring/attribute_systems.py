"""All systems that score_attributes.py test compares: cosines, likelihood-ratio models, their calibration and fusion.
Entry points: raw_scores, fit_calibrations, fit_fusions, all_scores.
"""

import numpy as np

from scoring import calibration, fusion
from scoring.codes import Codes
from scoring.embeddings import Table
from scoring.likelihood import AttributeModel, fingerprint, score_pairs
from scoring.sides import Cells, code_side, embedding_scores

EMBEDDINGS = "cosine of embeddings"


def raw_scores(
    models: dict[str, AttributeModel], enrol_codes: Codes, codes: Codes, cells: Cells, vectors: Table | None
) -> dict[str, np.ndarray]:
    """Return {system: scores (trials,)}: the cosine of embeddings where there are some, of codes, then the LLRs."""
    made = {} if vectors is None else {EMBEDDINGS: embedding_scores(vectors, cells)}
    enrol, test = code_side(enrol_codes, cells.enrolment), code_side(codes, cells.test)
    order = sorted(models, key=lambda kind: kind != "cosine")
    return made | {kind: score_pairs(models[kind], enrol, test, cells.pairs) for kind in order}


def fit_calibrations(
    models: dict[str, AttributeModel], raw: dict[str, np.ndarray], labels: np.ndarray, about: dict,
    strength: float | None,
) -> dict[str, calibration.Calibration]:  # fmt: skip
    """Return an affine calibration of every system, fitted on its scores of other trials; it says of which model."""
    made = {}
    for system, scores in raw.items():
        model = {"model": fingerprint(models[system])} if system in models else {}
        made[system] = calibration.fit(scores, labels, [system], 0.5, about | model, strength)
    return made


def fit_fusions(
    models: dict[str, AttributeModel], kinds: list[str], codes: Codes, cells: Cells, labels, sides,
    strength: float | None, seed: int,
) -> dict[str, fusion.Fusion]:  # fmt: skip
    """Return a fusion of the attributes of each of the kinds, fitted on other trials."""
    if not kinds:
        return {}
    both = [code_side(codes, side) for side in (cells.enrolment, cells.test)]
    return {
        kind: fusion.fit_pairs(models[kind], *both, cells.pairs, labels, sides, strength, seed)
        for kind in dict.fromkeys(kinds)
    }


def all_scores(
    raw: dict[str, np.ndarray], calibrations, fusions, models: dict[str, AttributeModel], enrol_codes: Codes,
    codes: Codes, cells: Cells,
) -> dict[tuple[str, str], np.ndarray]:  # fmt: skip
    """Return {(system, "raw" | "calibrated" | "fused"): scores (trials,)} of a list."""
    made = {}
    for system, scores in raw.items():
        made[system, "raw"] = scores
        if system in calibrations:
            made[system, "calibrated"] = calibrations[system].apply(scores)
    if fusions:
        enrol, test = code_side(enrol_codes, cells.enrolment), code_side(codes, cells.test)
        for kind, found in fusions.items():
            made[f"fusion of {kind}", "fused"] = fusion.apply_pairs(found, models[kind], enrol, test, cells.pairs)
    return made
