"""How good generated speech is by a classifier's features: class score, Frechet score, how sure both are.
Entry points: class_score, frechet; with intervals class_score_measured, frechet_measured; precision_recall.
"""

from typing import NamedTuple

import numpy as np

# halves of a set are drawn so many times for the value at half the number of samples
SPLITS = 2
# fewer samples have no halves with a covariance
LEAST = 4
# replicates times samples drawn at once, which bounds the memory
DRAWN = 1 << 22


def class_score(log_probs) -> float:
    """Return exp(mean_i sum_c p_ic (ln p_ic - ln mean_j p_jc)), from 1 to the number of classes; higher is better.

    A class of probability 0 (log -inf) counts nothing. Salimans et al., arXiv 1606.03498, on one group of all samples.

    Args:
        log_probs: (samples, classes) natural logs of the class probabilities.

    Raises:
        ValueError: another shape, or rows that are no log-probabilities.
    """
    return float(np.exp(divergences(log_probs).mean()))


def divergences(log_probs) -> np.ndarray:
    """Return the divergence of every sample's class distribution from the mean one, (samples,) in nats."""
    log_p = np.asarray(log_probs, np.float64)
    if log_p.ndim != 2 or not log_p.size:
        raise ValueError(f"log-probabilities must be (samples, classes), not {log_p.shape}")
    with np.errstate(over="ignore"):  # told below
        probs = np.exp(log_p)
    sums = probs.sum(1)
    wrong = np.flatnonzero(~(np.abs(sums - 1) < 1e-3))
    if len(wrong):
        raise ValueError(f"row {wrong[0]} of the log-probabilities sums to {sums[wrong[0]]:.6g} instead of 1")
    # what underflows here, or is a log of 0, counts nothing
    mean = probs.mean(0)
    log_mean = np.log(mean, where=mean > 0, out=np.zeros_like(mean))
    terms = np.multiply(probs, log_p - log_mean, where=probs > 0, out=np.zeros_like(probs))
    return terms.sum(1)


def frechet(mean_1, cov_1, mean_2, cov_2) -> float:
    """Return |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2), a squared distance; lower is better.

    The last trace is the sum of the roots of the eigenvalues of R^T S2 R, S1 = R R^T, which are those of S1 S2: exact
    and stable for singular covariances too. Heusel et al., arXiv 1706.08500.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    mean_1, cov_1, mean_2, cov_2 = (np.asarray(a, np.float64) for a in (mean_1, cov_1, mean_2, cov_2))
    size = len(mean_1) if mean_1.ndim == 1 else -1
    if mean_2.shape != (size,) or cov_1.shape != (size, size) or cov_2.shape != (size, size):
        shapes = f"{mean_1.shape}, {cov_1.shape} and {mean_2.shape}, {cov_2.shape}"
        raise ValueError(f"means and covariances of shapes {shapes} cannot be compared")
    if not all(np.isfinite(a).all() for a in (mean_1, cov_1, mean_2, cov_2)):
        raise ValueError("means or covariances hold numbers that are not finite")
    root = _root(cov_1)
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ cov_2 @ root), 0)).sum()
    difference = mean_1 - mean_2
    return float(difference @ difference + np.trace(cov_1) + np.trace(cov_2) - 2 * overlap)


def _root(cov):
    """Return R with cov = R R^T."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.maximum(values, 0))


def moments(features) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (dim,) and covariance (dim, dim), divisor N - 1, of features (samples, dim), float64.

    Raises:
        ValueError: another shape, fewer than two samples, or numbers that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (samples, dim) of at least two samples, not {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features hold numbers that are not finite")
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


# ---------------------------------------------------------------- how sure


class Measured(NamedTuple):
    """A score; `interval` (low, high) or None; `corrected`, the value that more and more samples tend to, or None, with
    its own interval."""

    value: float
    interval: tuple[float, float] | None = None
    corrected: float | None = None
    corrected_interval: tuple[float, float] | None = None


def resampled(contributions: list[np.ndarray], replicates: int, seed: int) -> np.ndarray:
    """Return by how much the sum of the means of `contributions` differs over bootstrap replicates, (replicates,).

    Each array (samples,) is resampled by itself: its samples are drawn with replacement, as many as there are.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(replicates)
    for values in contributions:
        step = max(1, DRAWN // len(values))
        for first in range(0, replicates, step):
            count = min(step, replicates - first)
            drawn = generator.integers(0, len(values), (count, len(values)), dtype=np.int32)
            total[first : first + count] += values[drawn].mean(1) - values.mean()
    return total


def interval_of(value: float, deviations: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the interval around a value from its deviations over bootstrap replicates."""
    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    return value + float(low), value + float(high)


def class_score_measured(log_probs, replicates: int = 1000, seed: int = 0) -> Measured:
    """Return the class score with its 95 % bootstrap interval over samples (none of `replicates` 0 or one sample).

    To first order the logarithm of the score is the mean of the samples' divergences, and these are resampled.
    """
    values = divergences(log_probs)
    log_score = float(values.mean())
    if not replicates or len(values) < 2:
        return Measured(float(np.exp(log_score)))
    low, high = interval_of(log_score, resampled([values], replicates, seed))
    return Measured(float(np.exp(log_score)), (max(1.0, float(np.exp(low))), float(np.exp(high))))


def frechet_measured(one, other, replicates: int = 1000, splits: int = SPLITS, seed: int = 0) -> Measured:
    """Return the Frechet score with its 95 % bootstrap interval over samples and its bias-corrected value.

    The replicates resample the first-order expansion of the score: resampling the samples themselves would cost an
    eigendecomposition each, and repeated samples would add the bias of few samples a second time. What is fixed, a side
    without features, is neither resampled nor halved, and keeps its share of the bias.

    Args:
        one, other: (mean, covariance, features (samples, dim) or None) of each side.
    """
    sides = [
        (np.asarray(mean, np.float64), np.asarray(cov, np.float64), features) for mean, cov, features in (one, other)
    ]
    moments_of = [side[:2] for side in sides]
    value = frechet(*moments_of[0], *moments_of[1])
    given = [number for number, side in enumerate(sides) if side[2] is not None and len(side[2]) >= LEAST]
    interval = corrected = corrected_interval = None
    if given and splits:
        parts = [
            halves(side[2], splits, seed + number) if number in given else [side[:2]] * (2 * splits)
            for number, side in enumerate(sides)
        ]
        corrected = extrapolated(value, [frechet(*first, *second) for first, second in zip(*parts)])
    if given and replicates:
        rates = [influence(sides[n][2], *moments_of[n], *moments_of[1 - n]) for n in given]
        deviations = resampled(rates, replicates, seed)
        low, high = interval_of(value, deviations)
        interval = max(0.0, low), high
        if corrected is not None:
            corrected_interval = interval_of(corrected, deviations)
    return Measured(value, interval, corrected, corrected_interval)


def influence(features, mean, cov, other_mean, other_cov) -> np.ndarray:
    """Return how the Frechet score changes with the weight of each sample, (samples,), up to a constant.

    The derivative of the score with respect to the mean is 2 (m1 - m2), with respect to the covariance 1 - Q with
    Q = S1^(-1/2) (S1^(1/2) S2 S1^(1/2))^(1/2) S1^(-1/2), the map of optimal transport; on the samples' own span where
    the covariance is singular.
    """
    values, vectors = np.linalg.eigh(cov)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root, inverse = vectors[:, kept] * np.sqrt(values[kept]), vectors[:, kept] / np.sqrt(values[kept])
    inner_values, inner_vectors = np.linalg.eigh(root.T @ other_cov @ root)
    half = inverse @ (inner_vectors * np.maximum(inner_values, 0) ** 0.25)  # Q = half half^T
    centred = np.asarray(features, np.float64) - mean
    return 2 * centred @ (mean - other_mean) + (centred**2).sum(1) - ((centred @ half) ** 2).sum(1)


def halves(features: np.ndarray, splits: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the moments of the two halves of features (samples, dim) at each of `splits` random splits, in turn."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(splits):
        order = generator.permutation(len(features))
        found += [moments(part) for part in np.array_split(features[order], 2)]
    return found


def extrapolated(value: float, at_half: list[float]) -> float:
    """Return the score that more and more samples tend to, from that of all and those of halves of the samples.

    The bias of the score falls as 1 / N (Chong and Forsyth, arXiv 1911.07023): its line through N and N / 2 ends there.
    """
    return 2 * value - float(np.mean(at_half))


# ---------------------------------------------------------------- precision and recall


def precision_recall(real, generated, neighbours: int = 3) -> tuple[float, float]:
    """Return the share of generated samples within the manifold of the real ones (precision), and of real ones within
    that of the generated (recall).

    A manifold is the union of balls around its samples, each reaching to its `neighbours`-th neighbour. Kynkaanniemi et
    al., arXiv 1904.06991.

    Args:
        real, generated: (samples, dim) features, more samples than `neighbours`.

    Raises:
        ValueError: too few samples.
    """
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(
            f"precision and recall: {len(real)} and {len(generated)} samples; more than {neighbours} each are needed"
        )
    return _covered(generated, real, neighbours), _covered(real, generated, neighbours)


def _covered(points, centres, neighbours):
    """Return the share of points that lie in a ball of one of the centres."""
    radii = np.concatenate(
        [np.partition(block, neighbours, axis=1)[:, neighbours] for block in _squares(centres, centres)]
    )  # the nearest is the centre itself
    inside = [(block <= radii).any(1) for block in _squares(points, centres)]
    return float(np.concatenate(inside).mean())


def _squares(points, centres):
    """Yield squared distances (some points, centres), a block of points at a time."""
    points, centres = np.asarray(points, np.float64), np.asarray(centres, np.float64)
    lengths = (centres**2).sum(1)
    step = max(1, DRAWN // len(centres))
    for first in range(0, len(points), step):
        block = points[first : first + step]
        yield np.maximum((block**2).sum(1)[:, None] + lengths - 2 * block @ centres.T, 0)
