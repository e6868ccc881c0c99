"""What a binary attribute goes with: forward stepwise discriminant analysis; dependence between attributes.
Entry points: stepwise_lda, grouped_accuracy, balanced_rows, exchange_groups, dependence.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import entr, fdtrc

ENTRY_LEVEL = 0.01  # a variable enters when the p-value of its partial F lies below
# A variable of which less than this share of its variance is left beside the entered ones repeats them.
LEAST_TOLERANCE = 1e-8
ROWS_AT_ONCE = 16384  # of a bit matrix as float32: 32 MB with 512 attributes


class Entered(NamedTuple):
    """The variables that entered, in order: four arrays (entered,)."""

    order: np.ndarray  # columns
    wilks: np.ndarray  # Wilks' lambda after each entry: 1 tells nothing, 0 parts the classes
    f: np.ndarray  # partial F at entry, 1 and rows - 2 - already entered degrees of freedom
    p: np.ndarray


def stepwise_lda(x: np.ndarray, classes: np.ndarray, entry_level: float = ENTRY_LEVEL) -> Entered:
    """Enter, one by one, the variable that lowers Wilks' lambda of two classes most, until its p-value is too large.

    Args:
        x: (rows, variables), finite.
        classes: (rows,) of 0 and 1.

    lambda = det W / det V, W the pooled covariance within the classes, V the total one. Each entered variable is swept
    out of both matrices, so that what their diagonals hold are the variances left beside the entered ones.
    Rao, Linear Statistical Inference and its Applications, 1973, section 8c.
    """
    x, classes = np.asarray(x, dtype=np.float64), np.asarray(classes)
    rows, total = len(x), x.std(0)
    # Constant columns stay at zero; rounding leaves them a spread of about 1e-16 of their value.
    varies = total > 1e-12 * np.abs(x).max(0, initial=0)
    z = (x - x.mean(0)) / np.where(varies, total, 1) * varies
    parts = [z[classes == value] for value in (0, 1)]
    if not all(map(len, parts)):
        raise ValueError("stepwise analysis: each of the two classes needs a row")
    v = z.T @ z / rows
    w = sum((part - part.mean(0)).T @ (part - part.mean(0)) for part in parts) / rows
    found, wilks, free = [], 1.0, varies.copy()
    while rows - 2 - len(found) > 0:
        left, within = np.diagonal(v), np.diagonal(w)
        free &= left > LEAST_TOLERANCE
        if not free.any():
            break
        ratio = np.ones(len(left))
        np.divide(within, left, out=ratio, where=free)
        best = int(np.argmin(np.where(free, ratio, np.inf)))
        step = max(float(ratio[best]), 0.0)
        freedom = rows - 2 - len(found)
        f = freedom * (1 / step - 1) if step > 0 else np.inf
        p = float(fdtrc(1, freedom, f)) if np.isfinite(f) else 0.0
        if not p < entry_level:
            break
        wilks *= step
        found.append((best, wilks, f, p))
        if step < LEAST_TOLERANCE:  # the classes are parted without rest
            break
        free[best] = False
        v, w = (matrix - np.outer(matrix[:, best], matrix[best]) / matrix[best, best] for matrix in (v, w))
    columns = np.array(found, dtype=np.float64).reshape(-1, 4).T
    return Entered(columns[0].astype(np.int64), *columns[1:])


def balanced_rows(classes: np.ndarray, draw: np.random.Generator, most: int = 1000) -> np.ndarray:
    """Return rows with as many of class 0 as of class 1, drawn without replacement, at most `most` of each, rising."""
    rows = [np.flatnonzero(np.asarray(classes) == value) for value in (0, 1)]
    each = min(len(rows[0]), len(rows[1]), most)
    return np.sort(np.concatenate([draw.permutation(part)[:each] for part in rows]))


def grouped_accuracy(
    x: np.ndarray, classes: np.ndarray, groups: np.ndarray, entry_level: float = ENTRY_LEVEL, folds: int = 5
) -> float:
    """Return the share of rows, 0 to 1, that a discriminant tells rightly whose variables and weights come from other
    groups (speakers); NaN where there are fewer than two groups of each class.

    The variables are chosen anew in every fold; a fold in which none enters counts as half right.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, classes = np.asarray(x, dtype=np.float64), np.asarray(classes)
    names, index = np.unique(groups, return_inverse=True)
    counts = np.bincount(index, minlength=len(names))
    share = np.bincount(index, weights=classes, minlength=len(names)) / counts
    folds = min(folds, np.count_nonzero(share > 0), np.count_nonzero(share < 1))
    if folds < 2:
        return float("nan")
    # dealt out by their share of class 1, so that every fold has its part of both
    fold = np.empty(len(names), dtype=np.int64)
    fold[np.lexsort((counts, share))] = np.arange(len(names)) % folds
    fold = fold[index]
    right = 0.0
    for number in range(folds):
        fit, test = fold != number, fold == number
        chosen = stepwise_lda(x[fit], classes[fit], entry_level).order if len(set(classes[fit])) == 2 else ()
        if not len(chosen):
            right += 0.5 * test.sum()
            continue
        # equal priors: the classes are balanced as a whole, not in every fold
        model = LinearDiscriminantAnalysis(priors=(0.5, 0.5)).fit(x[fit][:, chosen], classes[fit])
        right += np.count_nonzero(model.predict(x[test][:, chosen]) == classes[test])
    return right / len(x)


def exchange_groups(groups: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return rows (rows,) that give every group the rows of another one, repeated or cut to its size.

    A control: what a group's rows have in common stays, what it has to do with the group is gone.
    """
    names, index = np.unique(groups, return_inverse=True)
    order = draw.permutation(len(names))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # one cycle: none keeps its own
    members = [np.flatnonzero(index == i) for i in range(len(names))]
    taken = np.empty(len(index), dtype=np.int64)
    for i, rows in enumerate(members):
        taken[rows] = np.resize(members[other[i]], len(rows))
    return taken


class Dependence(NamedTuple):
    """Dependence of every pair of n attributes, in nats: (n,), and three (n, n)."""

    entropy: np.ndarray
    joint: np.ndarray
    information: np.ndarray  # mutual
    uncertainty: np.ndarray  # symmetric: 2 I / (H + H), 0 independent, 1 the same or opposite


def dependence(bits: np.ndarray) -> Dependence:
    """Return entropies and mutual information of all pairs of columns of `bits` (rows, n) of 0 and 1."""
    rows, n = bits.shape
    both = np.zeros((n, n))
    for start in range(0, rows, ROWS_AT_ONCE):
        part = bits[start : start + ROWS_AT_ONCE].astype(np.float32)
        both += part.T @ part
    # counts are whole numbers, exact in float64, so that empty cells are empty
    ones = np.diagonal(both)
    only_x, only_y = ones[:, None] - both, ones[None, :] - both
    neither = rows - both - only_x - only_y
    joint = entr(both / rows) + entr(neither / rows) + (entr(only_x / rows) + entr(only_y / rows))
    entropy = entr(ones / rows) + entr(1 - ones / rows)
    sums = entropy[:, None] + entropy[None, :]
    information = np.maximum(sums - joint, 0)
    uncertainty = np.zeros_like(sums)
    np.divide(2 * information, sums, out=uncertainty, where=sums > 0)
    return Dependence(entropy, joint, information, uncertainty)
