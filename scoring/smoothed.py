"""Least Cllr and hull EER with pseudo-trials at both ends of the scores, as some authors report them.
Entry points: optimal_llrs, smoothed_min_cllr, smoothed_hull_eer.

Laplace's rule keeps the LLRs of separated scores finite, at the price of a bias: the least Cllr of 10 + 15 separated
scores is 0.107 and not 0. The unbiased figures are metrics.min_cllr and metrics.eer(method="hull").
"""

import numpy as np
from scipy.optimize import isotonic_regression

from scoring.metrics import check_trials, cllr

PSEUDO_TRIALS = 2  # at each end: one target, one impostor
SLOPE = 1e-6  # added over all trials in nats, so that LLRs of one block still rise


def _pool(scores, labels, pseudo: int):
    """Return the order of the trials (rising, of tied scores the targets first), the labels in it with pseudo-trials
    at both ends, and their isotonic regression."""
    if pseudo < 0 or pseudo % 2:
        raise ValueError(f"{pseudo} pseudo-trials at each end: an even number is needed, half of them targets")
    order = np.lexsort((1 - labels, scores))
    end = np.repeat([1.0, 0.0], pseudo // 2)
    ideal = np.concatenate([end, labels[order], end])
    return order, ideal, isotonic_regression(ideal)


def optimal_llrs(scores, labels, pseudo: int = PSEUDO_TRIALS, slope: float = SLOPE) -> np.ndarray:
    """Return the natural-log LLRs (trials,) of the best rising map of the scores (pooled adjacent violators).

    Without pseudo-trials those of the ends may be infinite.
    """
    scores, labels, _ = check_trials(scores, labels)
    order, ideal, fitted = _pool(scores, labels, pseudo)
    posterior = fitted.x[pseudo : len(ideal) - pseudo]
    targets = int(labels.sum())
    llrs = np.empty(len(labels))
    with np.errstate(divide="ignore"):
        llrs[order] = np.log(posterior) - np.log1p(-posterior) - np.log(targets / (len(labels) - targets))
    llrs[order] += np.arange(len(labels)) * slope / len(labels)
    return llrs


def smoothed_min_cllr(scores, labels, pseudo: int = PSEUDO_TRIALS, slope: float = SLOPE) -> float:
    """Return Cllr in bits after the best rising map with pseudo-trials, an overestimate of metrics.min_cllr."""
    # infinite only without pseudo-trials, on the right side: they cost nothing
    return cllr(np.clip(optimal_llrs(scores, labels, pseudo, slope), -1e300, 1e300), labels)


def smoothed_hull_eer(scores, labels, pseudo: int = PSEUDO_TRIALS) -> float:
    """Return the EER in percent on the convex hull of blocks pooled with pseudo-trials.

    Counted as in published results: pseudo-targets below a threshold are misses, rates are of the real trials, and
    both ends are taken from the false alarms.
    """
    scores, labels, _ = check_trials(scores, labels)
    _, ideal, fitted = _pool(scores, labels, pseudo)
    targets = int(labels.sum())
    impostors = len(labels) - targets
    ends = fitted.blocks[1:]
    below = np.cumsum(ideal)[ends - 1]
    misses = np.concatenate([[0.0], below]) / targets
    alarms = np.concatenate([[impostors], len(labels) - ends - (ideal.sum() - below)]) / impostors
    # where the lines through neighbouring points meet misses = alarms; the curve lies above all of them
    rise, fall = np.diff(misses), -np.diff(alarms)
    lines = (rise > 0) & (fall > 0)
    meet = (alarms[:-1] * misses[1:] - alarms[1:] * misses[:-1])[lines] / (rise + fall)[lines]
    return 100 * float(meet.max(initial=0.0))
