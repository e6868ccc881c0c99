"""Centring of embeddings and normalisation of scores by a cohort: z-, t-, s-norm, adaptive s-norm 1 and 2.
Entry points: score_and_normalise (embeddings to scores), normalise (scores to scores), post_processed (five variants).

A score is a product of two rows: of unit-length embeddings for the cosine, of longer rows for PLDA (scoring/plda.py).
"""

import numpy as np
import torch

from scoring.trials import exact_products, product_scores

METHODS = ("none", "z-norm", "t-norm", "s-norm", "as-norm", "as-norm2")
# Added to standard deviations of scores, and of embeddings in centring.
SCORE_FLOOR, VECTOR_FLOOR = 1e-9, 1e-12
# Cohort scores held at a time: 12 MB of float32, which the partition reads more than once.
BLOCK_NUMBERS = 3_000_000


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1 (float32); a row of zeros stays one."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def mean_and_deviation(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and unbiased standard deviation (dim,) of rows, those of speakers where the rows are their means."""
    vectors = np.asarray(vectors, dtype=np.float64)
    if len(vectors) < 2:
        raise ValueError(f"{len(vectors)} embedding(s): mean and standard deviation need at least 2")
    return vectors.mean(0), vectors.std(0, ddof=1)


def centre(
    vectors: np.ndarray, mean: np.ndarray, deviation: np.ndarray | None = None, floor: float = VECTOR_FLOOR
) -> np.ndarray:
    """Return rows less `mean`, and where a deviation is given divided by deviation + floor."""
    moved = np.asarray(vectors, dtype=np.float64) - mean
    return (moved if deviation is None else moved / (deviation + floor)).astype(np.float32)


def cohort_size(method: str, wanted: int | None, members: int) -> int:
    """Return how many nearest cohort members a method takes: `wanted`, else 300 for as-norm and all for others.

    0 stands for all, also where there are no more than wanted.
    """
    size = (300 if method in ("as-norm", "as-norm2") else 0) if wanted is None else wanted
    return 0 if size >= members else size


def cohort_statistics(files: np.ndarray, cohort: np.ndarray, top: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and unbiased standard deviation (files,) of each file's scores with the cohort.

    Args:
        files, cohort: (files, dim) and (members, dim) float32, whose products are the scores.
        top: only the so many largest scores of each file; 0 for all.
    """
    _check_cohort(files, cohort, top)
    mean, deviation = np.empty((2, len(files)))
    for rows, scores in _cohort_scores(files, cohort):
        if top and top < len(cohort):
            scores.partition(len(cohort) - top, axis=1)
            scores = scores[:, len(cohort) - top :]
        mean[rows], deviation[rows] = scores.mean(1, dtype=np.float64), scores.std(1, ddof=1, dtype=np.float64)
    return mean, deviation


def _check_cohort(files, cohort, top):
    if files.ndim != 2 or cohort.ndim != 2 or files.shape[1] != cohort.shape[1]:
        raise ValueError(f"embeddings {files.shape} and cohort {cohort.shape} must have the same number of columns")
    if len(cohort) < 2 or top == 1 or top < 0:
        used = len(cohort) if len(cohort) < 2 else top
        raise ValueError(f"a cohort of {used}: its mean and standard deviation need at least 2 members")
    for name, rows in (("embeddings", files), ("cohort", cohort)):
        if not np.isfinite(rows).all():
            raise ValueError(f"{name}: row {int(np.flatnonzero(~np.isfinite(rows).all(1))[0])} is not finite")


def _cohort_scores(files, cohort):
    """Yield (slice of files, their scores with the whole cohort), a block at a time in a buffer used again."""
    step = max(1, BLOCK_NUMBERS // len(cohort))
    left, right = torch.as_tensor(files), torch.as_tensor(cohort).T
    buffer = torch.empty(min(step, len(files)), len(cohort))
    with torch.inference_mode(), exact_products():
        for start in range(0, len(files), step):
            part = left[start : start + step]
            torch.mm(part, right, out=buffer[: len(part)])
            yield slice(start, start + len(part)), buffer[: len(part)].numpy()


def normalise(
    scores: np.ndarray, pairs: np.ndarray, files: np.ndarray, cohort: np.ndarray, method: str, top: int = 0
) -> np.ndarray:
    """Return normalised scores (trials,) in float64.

    With mean m and unbiased standard deviation d of the cohort scores of enrolment side e and test side t:
    z-norm (s - m_e) / d_e; t-norm (s - m_t) / d_t; s-norm and as-norm the mean of both (as-norm over the `top` largest
    scores of each side); as-norm2 likewise, each side's scores with the `top` members nearest to the other side.

    Args:
        pairs: (trials, 2), the rows of `files` of each trial, enrolment first.
        files, cohort: as in cohort_statistics.

    Cumani et al., Interspeech 2011 (s-norm); Matejka et al., Interspeech 2017 (as-norm 1 and 2).
    """
    if method not in METHODS:
        raise ValueError(f"score normalisation {method!r} is none of {', '.join(METHODS)}")
    scores, pairs = np.asarray(scores, dtype=np.float64), np.asarray(pairs)
    if method == "none":
        return scores
    files, cohort = np.asarray(files, dtype=np.float32), np.asarray(cohort, dtype=np.float32)
    if method == "as-norm2" and 0 < top < len(cohort):
        sides = _statistics_by_other_side(files, cohort, pairs, top)
    else:
        mean, deviation = cohort_statistics(files, cohort, top)
        sides = [(mean[pairs[:, side]], deviation[pairs[:, side]]) for side in (0, 1)]
    z, t = ((scores - mean) / (deviation + SCORE_FLOOR) for mean, deviation in sides)
    return z if method == "z-norm" else t if method == "t-norm" else (z + t) / 2


def _statistics_by_other_side(files, cohort, pairs, top):
    """Return [(mean, deviation) of the enrolment side, ... of the test side], (trials,) each, for as-norm 2.

    First the nearest members of every file are found. Then, file by file, its scores with the nearest members of all
    its partners are gathered at once; its row of cohort scores stays in the cache meanwhile.
    """
    _check_cohort(files, cohort, top)
    nearest = np.empty((len(files), top), dtype=np.int32)
    for rows, scores in _cohort_scores(files, cohort):
        nearest[rows] = np.argpartition(scores, len(cohort) - top, axis=1)[:, len(cohort) - top :]
    trials = len(pairs)
    own, other = pairs.T.reshape(-1), pairs[:, ::-1].T.reshape(-1)  # the enrolment side of all trials, then the test
    order = np.argsort(own, kind="stable")
    bounds = np.searchsorted(own[order], np.arange(len(files) + 1))
    other = other[order]
    mean, deviation = np.empty((2, 2 * trials))
    # a file with very many partners is done in parts
    most = max(1, BLOCK_NUMBERS // top)
    for rows, scores in _cohort_scores(files, cohort):
        shift = scores.mean(1)
        scores -= shift[:, None]  # keeps digits in the sums of squares
        for i, file in enumerate(range(rows.start, rows.stop)):
            for start in range(bounds[file], bounds[file + 1], most):
                chosen = slice(start, min(start + most, bounds[file + 1]))
                found = scores[i].take(nearest[other[chosen]])
                first, second = found.sum(1, dtype=np.float64), np.einsum("ij,ij->i", found, found)
                mean[chosen] = shift[i] + first / top
                deviation[chosen] = np.sqrt(np.maximum(second - first * first / top, 0) / (top - 1))
    placed = np.empty((2, 2 * trials))
    placed[:, order] = mean, deviation
    return [tuple(placed[:, :trials]), tuple(placed[:, trials:])]


def score_and_normalise(
    vectors: np.ndarray, pairs: np.ndarray, cohort: np.ndarray | None = None, method: str = "none", top: int = 0
) -> np.ndarray:
    """Return cosine scores (trials,) of embeddings, normalised by a cohort of embeddings; see normalise."""
    files = unit_length(vectors)
    scores = product_scores(files, pairs)
    return scores if method == "none" else normalise(scores, pairs, files, unit_length(cohort), method, top)


def post_processed(vectors: np.ndarray, pairs: np.ndarray, cohort: np.ndarray, top: int = 0) -> dict[str, np.ndarray]:
    """Return the cosine scores of five treatments: plain, centered, l_normed, s_normed, all.

    `cohort`: means of the training speakers, which also give mean and deviation for the centring. Of the cosine,
    l_normed (unit length) equals plain; all is centring of both embeddings and cohort, unit length, s-norm.
    """
    statistics = mean_and_deviation(cohort)
    centred, centred_cohort = centre(vectors, *statistics), centre(cohort, *statistics)
    return {
        "plain": score_and_normalise(vectors, pairs),
        "centered": score_and_normalise(centred, pairs),
        "l_normed": score_and_normalise(unit_length(vectors), pairs),
        "s_normed": score_and_normalise(vectors, pairs, cohort, "s-norm", top),
        "all": score_and_normalise(centred, pairs, centred_cohort, "s-norm", top),
    }
