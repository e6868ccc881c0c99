"""From embeddings to scores step by step: raw cosine, mean subtracted, projected, PLDA, normalised by a cohort.
Entry points: Tools, score_steps(table, pairs, tools), measures.
"""

from typing import NamedTuple

import numpy as np

from scoring import norms
from scoring.embeddings import Table
from scoring.plda import Backend
from scoring.trials import product_scores


class Tools(NamedTuple):
    """What scores are made with; None and "none" leave a step out.

    mean: (dim,) subtracted from embeddings and cohort. backend: LDA, whitening or PLDA, which centre by a mean of their
    own instead. cohort: (members, dim) raw embeddings. method, top: as in norms.normalise.
    """

    mean: np.ndarray | None = None
    backend: Backend | None = None
    plda: bool = False
    cohort: np.ndarray | None = None
    method: str = "none"
    top: int = 0


def score_steps(
    vectors: np.ndarray, pairs: np.ndarray, tools: Tools
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return {step: scores (trials,)}, each step built on the one before, and the mean cohort score of every file.

    Args:
        vectors: (files, dim) raw embeddings; `pairs` (trials, 2) are rows of it.
    """
    cohort = tools.cohort
    if cohort is not None and cohort.shape[1] != vectors.shape[1]:
        raise ValueError(f"embeddings have {vectors.shape[1]} numbers, those of the cohort {cohort.shape[1]}")
    left = files = norms.unit_length(vectors)
    right = None if cohort is None else norms.unit_length(cohort)
    steps = {"raw": product_scores(files, pairs)}
    if tools.mean is not None:
        if len(tools.mean) != vectors.shape[1]:
            raise ValueError(f"embeddings have {vectors.shape[1]} numbers, the mean to subtract {len(tools.mean)}")
        left = norms.unit_length(norms.centre(vectors, tools.mean))
        right = None if cohort is None else norms.unit_length(norms.centre(cohort, tools.mean))
        steps["mean-subtracted"] = product_scores(left, pairs)
    if tools.backend is not None:
        left = tools.backend.project(vectors)
        right = None if cohort is None else tools.backend.project(cohort)
        steps[tools.backend.meta.get("projection", "projected")] = product_scores(left, pairs)
    if tools.plda:
        steps["plda"] = tools.backend.scores(left, pairs)
        left = tools.backend.factors(left)[0]
        right = None if cohort is None else tools.backend.factors(right)[1]
    if tools.method != "none":
        last = list(steps.values())[-1]
        steps[tools.method] = norms.normalise(last, pairs, left, right, tools.method, tools.top)
    return steps, None if right is None else norms.cohort_statistics(left, right, tools.top)[0]


def measures(wanted: list[str], table: Table, cohort_mean: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the quality measures of files by name: log seconds, log magnitude of the embedding, mean cohort score."""
    made = {
        "seconds": lambda: np.log(np.maximum(table.seconds, 0.01)),
        "magnitude": lambda: np.log(np.maximum(np.linalg.norm(table.vectors.astype(np.float64), axis=1), 1e-12)),
        "cohort": lambda: cohort_mean,
    }
    return {name: made[name]() for name in wanted}
