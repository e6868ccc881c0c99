"""Error rates of trial scores: EER, minDCF, actDCF, Cllr and min-Cllr, each from one sort of the scores.
Entry points: eer, min_dcf, cllr, ... on scores and labels; count_accepted and the *_of functions share one sort.

Scores: higher = same speaker; labels: 1 target, 0 impostor; a trial is accepted when score >= threshold.
Rates are fractions, the EER is in percent.
"""

from typing import NamedTuple

import numpy as np

EER_METHODS = ("nearest", "interpolated", "midpoint", "hull")


class Counts(NamedTuple):
    """How much is accepted at every distinct score: three arrays (distinct scores,), the thresholds falling."""

    thresholds: np.ndarray
    targets: np.ndarray  # targets (number or weight) with score >= threshold; the last element is all of them
    impostors: np.ndarray


def check_trials(scores, labels, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return scores (float64), labels (int8) and weights (float64 or None) of trials.

    Raises:
        ValueError: lengths differ, a score or weight is not finite, a label is not 0 or 1, or one class is missing.
    """
    scores, given = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != given.shape:
        raise ValueError(f"scores {scores.shape} and labels {given.shape} must be two lists of the same length")
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"score {scores[index]} of trial {index + 1} of {len(scores)} is not a finite number")
    targets = given == 1
    if not (targets | (given == 0)).all():
        index = int(np.flatnonzero(~(targets | (given == 0)))[0])
        raise ValueError(
            f"label {given[index]} of trial {index + 1} of {len(given)} is neither 1 (target) nor 0 (impostor)"
        )
    if weights is not None:
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != scores.shape:
            raise ValueError(f"{weights.size} weights for {scores.size} trials")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError("weights of trials must be finite and not negative")
    accepted = targets if weights is None else targets[weights > 0]
    if not accepted.any() or accepted.all():
        missing = "impostor" if accepted.any() else "target"
        raise ValueError(f"no {missing} among {accepted.size} trials: error rates need both classes")
    return scores, targets.view(np.int8), weights


def count_accepted(scores, labels, weights=None) -> Counts:
    """Sort the trials once and count what is accepted at every distinct score; tied scores move together.

    A trial of weight w counts as w copies of it; of weight 0, as absent.
    """
    scores, labels, weights = check_trials(scores, labels, weights)
    if weights is not None:
        present = weights > 0
        scores, labels, weights = scores[present], labels[present], weights[present]
    order = np.argsort(scores)[::-1]
    labels = labels[order]
    weights = None if weights is None else weights[order]
    del order  # at ten million trials every array held is 80 MB
    scores = np.sort(scores)[::-1]  # three times faster than taking them by the order
    return count_sorted(scores, labels, group_ends(scores), weights)


def group_ends(falling: np.ndarray) -> np.ndarray:
    """Return the index of the last of each run of equal values."""
    last = np.ones(len(falling), dtype=bool)
    np.not_equal(falling[1:], falling[:-1], out=last[:-1])
    return np.flatnonzero(last)


def count_sorted(falling: np.ndarray, labels: np.ndarray, ends: np.ndarray, weights=None) -> Counts:
    """Count what is accepted at the end of each group of tied scores; groups without weight are left out."""
    if weights is None:
        targets = np.cumsum(labels, dtype=np.int64)[ends]
        return Counts(falling[ends], targets, ends + 1 - targets)
    targets, impostors = np.cumsum(weights * labels)[ends], np.cumsum(weights * (1 - labels))[ends]
    present = np.flatnonzero((np.diff(targets, prepend=0) != 0) | (np.diff(impostors, prepend=0) != 0))
    return Counts(falling[ends[present]], targets[present], impostors[present])


def rates(counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds (+inf first), false positive and false negative rates (points,)."""
    thresholds = np.concatenate([[np.inf], counts.thresholds])
    fpr, fnr = np.zeros_like(thresholds), np.zeros_like(thresholds)
    np.divide(counts.impostors, counts.impostors[-1], out=fpr[1:])
    np.divide(counts.targets, counts.targets[-1], out=fnr[1:])
    return thresholds, fpr, np.subtract(1.0, fnr, out=fnr)


def operating_points(scores, labels, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (thresholds, fpr, fnr) at +inf and at every distinct score, falling: from (0, 1) to (1, 0)."""
    return rates(count_accepted(scores, labels, weights))


def take(counts: Counts, indices) -> Counts:
    """Return the counts at some of the thresholds only."""
    return Counts(*(array[indices] for array in counts))


def corners(counts: Counts) -> Counts:
    """Drop the inner points of straight runs, as the ROC curve of scikit-learn does: equal steps before and after."""
    if len(counts.thresholds) < 3:
        return counts
    bends = (np.diff(counts.targets, 2) != 0) | (np.diff(counts.impostors, 2) != 0)
    return take(counts, np.concatenate([[True], bends, [True]]))


def hull(counts: Counts) -> Counts:
    """Return the points on the convex hull of the ROC curve: the ends of the blocks of pooled adjacent violators."""
    from scipy.optimize import isotonic_regression

    # Neighbours of equal share always end in one block; joining them first leaves less to pool.
    runs = take(counts, group_ends(_target_shares(counts)[0]))
    shares, weights = _target_shares(runs)
    blocks = isotonic_regression(shares, weights=weights, increasing=False).blocks
    return take(runs, blocks[1:] - 1)


def _target_shares(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of targets in each group of tied scores, and the weight of the group."""
    targets = np.diff(counts.targets, prepend=0)
    weights = targets + np.diff(counts.impostors, prepend=0)
    return targets / weights, weights


def eer_of(counts: Counts, method: str = "nearest") -> tuple[float, float]:
    """Return the equal error rate in percent and its threshold; see eer."""
    if method not in EER_METHODS:
        raise ValueError(f"EER method {method!r} is none of {', '.join(EER_METHODS)}")
    if method == "nearest":
        counts = corners(counts)
    elif method == "hull":
        counts = hull(counts)
    thresholds, fpr, fnr = rates(counts)
    difference = fpr - fnr  # never falls along the list
    if method == "nearest":
        i = int(np.argmin(np.abs(difference)))
        value = max(fpr[i], fnr[i])
    elif method == "midpoint":
        distance = np.abs(difference)
        # Equal distances on the two sides may differ in the last digits; of these the lowest threshold counts.
        i = int(np.flatnonzero(distance <= distance.min() + 1e-12)[-1])
        value = (fpr[i] + fnr[i]) / 2
    else:
        i = int(np.searchsorted(difference, 0.0))
        share = -difference[i - 1] / (difference[i] - difference[i - 1])
        value = fpr[i - 1] + share * (fpr[i] - fpr[i - 1])
    return 100.0 * float(value), float(thresholds[i])


def eer(scores, labels, method: str = "nearest", weights=None) -> tuple[float, float]:
    """Return the equal error rate in percent and the threshold that belongs to it.

    nearest: the larger of the two rates at the first point, thresholds falling, where they are nearest (inner points of
    straight runs dropped). interpolated: where the line between the two points around fpr = fnr crosses it. midpoint:
    mean of the two rates where they are nearest. hull: interpolated on the convex hull, never above interpolated.
    Between two points the threshold is the lower one.

    Bruemmer and de Villiers, The BOSARIS Toolkit, arXiv 1304.2865 (hull).
    """
    return eer_of(count_accepted(scores, labels, weights), method)


def check_costs(p_target: float, c_miss: float, c_fa: float) -> None:
    """Raise ValueError unless 0 < p_target < 1 and both costs are positive."""
    if not (0 < p_target < 1 and 0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise ValueError(f"p_target {p_target} must lie between 0 and 1, c_miss {c_miss} and c_fa {c_fa} above 0")


def detection_cost(fpr, fnr, p_target: float, c_miss: float, c_fa: float):
    """Return (c_miss p fnr + c_fa (1 - p) fpr) / min(c_miss p, c_fa (1 - p)).

    1 is what the better of accepting and rejecting everything costs.
    """
    check_costs(p_target, c_miss, c_fa)
    miss, accept = c_miss * p_target, c_fa * (1 - p_target)
    return (miss * fnr + accept * fpr) / min(miss, accept)


def min_dcf_of(counts: Counts, p_target: float = 0.05, c_miss: float = 1, c_fa: float = 1) -> tuple[float, float]:
    """Return the least detection cost over all thresholds, and its threshold; see min_dcf."""
    thresholds, fpr, fnr = rates(counts)
    cost = detection_cost(fpr, fnr, p_target, c_miss, c_fa)
    i = int(np.argmin(cost))
    return float(cost[i]), float(thresholds[i])


def min_dcf(scores, labels, p_target: float = 0.05, c_miss: float = 1, c_fa: float = 1, weights=None):
    """Return the least normalised detection cost and its threshold (+inf where rejecting everything is best)."""
    return min_dcf_of(count_accepted(scores, labels, weights), p_target, c_miss, c_fa)


def raw_min_dcf_of(counts: Counts, p_target: float = 0.05, c_miss: float = 1, c_fa: float = 1) -> float:
    """Return the least of c_miss p miss + c_fa (1 - p) false alarm over all thresholds, not normalised."""
    return min_dcf_of(counts, p_target, c_miss, c_fa)[0] * min(c_miss * p_target, c_fa * (1 - p_target))


def decisions(scores, labels, threshold: float) -> dict[str, float]:
    """Return counts and rates of accepting trials with score >= threshold: TP TN FP FN, FAR, FRR, DER (wrong decisions
    among all), precision, recall, F-score, MCC (0 where a rate has no denominator), as fractions."""
    scores, labels, _ = check_trials(scores, labels)
    accepted, targets = scores >= threshold, labels == 1
    tp, fp = int((accepted & targets).sum()), int((accepted & ~targets).sum())
    fn, tn = int(targets.sum()) - tp, int((~targets).sum()) - fp
    precision, recall = tp / max(tp + fp, 1), tp / (tp + fn)
    spread = float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return {
        "TP": tp, "TN": tn, "FP": fp, "FN": fn, "FAR": fp / (fp + tn), "FRR": fn / (tp + fn),
        "DER": (fp + fn) / len(labels), "threshold": float(threshold), "precision": precision, "recall": recall,
        "F-score": 2 * precision * recall / max(precision + recall, 1e-300),
        "MCC": (tp * tn - fp * fn) / max(spread, 1.0) ** 0.5,
    }  # fmt: skip


def act_dcf(llrs, labels, p_target: float = 0.05, c_miss: float = 1, c_fa: float = 1) -> float:
    """Return the normalised cost of deciding at the Bayes threshold ln(c_fa (1 - p) / (c_miss p)).

    Takes scores as natural log-likelihood ratios; never below min_dcf, 1 for llr = 0 everywhere.
    """
    check_costs(p_target, c_miss, c_fa)
    llrs, labels, _ = check_trials(llrs, labels)
    accepted = llrs >= np.log(c_fa * (1 - p_target) / (c_miss * p_target))
    targets = int(labels.sum())
    hits = int(np.count_nonzero(accepted & (labels == 1)))
    alarms = int(np.count_nonzero(accepted)) - hits
    return float(detection_cost(alarms / (len(labels) - targets), 1 - hits / targets, p_target, c_miss, c_fa))


def cllr(llrs, labels) -> float:
    """Return the cost of log-likelihood ratios (natural log) in bits: 0 perfect, 1 = as good as saying nothing.

    Bruemmer and du Preez, Application-independent evaluation of speaker detection, 2006.
    """
    llrs, labels, _ = check_trials(llrs, labels)
    targets = labels == 1
    # logaddexp(0, x) is ln(1 + e^x) without overflow.
    miss, alarm = np.logaddexp(0, -llrs[targets]).mean(), np.logaddexp(0, llrs[~targets]).mean()
    return float((miss + alarm) / (2 * np.log(2)))


def cllr_of(counts: Counts) -> float:
    """Return Cllr in bits of thresholds that are natural-log likelihood ratios; see cllr."""
    targets, impostors = np.diff(counts.targets, prepend=0), np.diff(counts.impostors, prepend=0)
    miss = np.logaddexp(0, -counts.thresholds) @ targets / counts.targets[-1]
    alarm = np.logaddexp(0, counts.thresholds) @ impostors / counts.impostors[-1]
    return float((miss + alarm) / (2 * np.log(2)))


def min_cllr_of(counts: Counts) -> float:
    """Return the least Cllr in bits that any rising map of the scores can reach; see min_cllr."""
    blocks = hull(counts)
    targets, impostors = np.diff(blocks.targets, prepend=0), np.diff(blocks.impostors, prepend=0)
    odds = blocks.targets[-1] / blocks.impostors[-1]
    # Within a block llr = ln(targets / impostors) - ln(odds); pure blocks have an infinite llr that costs nothing.
    mixed = (targets > 0) & (impostors > 0)
    ratio = impostors[mixed] / targets[mixed] * odds
    miss = np.sum(targets[mixed] * np.log1p(ratio)) / blocks.targets[-1]
    alarm = np.sum(impostors[mixed] * np.log1p(1 / ratio)) / blocks.impostors[-1]
    return float((miss + alarm) / (2 * np.log(2)))


def min_cllr(scores, labels, weights=None) -> float:
    """Return Cllr in bits after the best calibration: pooled adjacent violators, ties pooled first.

    Depends on the order of the scores only; 0 for separated scores.
    """
    return min_cllr_of(count_accepted(scores, labels, weights))
