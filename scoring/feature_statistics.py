"""The statistics file of a set of recordings under a speaker classifier: what class and Frechet score are taken from.
Entry points: Statistics, gather, write_statistics, read_statistics, check_same_judge, cautions.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scoring.embeddings import made_by, read_meta, read_npz, write_npz
from scoring.frechet import class_score, moments

# of an array's largest number, for what rounding may do to a symmetric matrix and to probabilities
TOLERANCE = 1e-3


@dataclass
class Statistics:
    """`mean` (dim,) and `cov` (dim, dim), divisor N - 1; where known `probs` (N, classes), `features` (N, dim), `count`
    N and `meta` of plain data (checkpoint, sha256 of the classifier, ...)."""

    mean: np.ndarray
    cov: np.ndarray
    probs: np.ndarray | None = None
    features: np.ndarray | None = None
    count: int | None = None
    meta: dict = field(default_factory=dict)
    path: str = ""

    def log_probs(self) -> np.ndarray:
        """Return the logs of the class probabilities, -inf where one is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.probs.astype(np.float64))

    def describe(self) -> str:
        """Return one line: file, samples, features, classes, classifier."""
        samples = f"{self.count} samples" if self.count else "an unknown number of samples"
        classes = f", {self.probs.shape[1]} classes" if self.probs is not None else ""
        judge = f", judged by {made_by(self.meta)}" if self.meta.get("sha256") else ""
        return f"{self.path}: {samples}, {len(self.mean)} features{classes}{judge}"


def gather(features, log_probs, meta: dict | None = None, keep_features: bool = True) -> Statistics:
    """Return the statistics of features (N, dim) and log-probabilities (N, classes) of N samples.

    Raises:
        ValueError: fewer than two samples, sizes that differ, or numbers that are not finite.
    """
    mean, cov = moments(features)
    if len(log_probs) != len(features):
        raise ValueError(f"{len(features)} rows of features and {len(log_probs)} of log-probabilities")
    probs = np.exp(np.asarray(log_probs, np.float64)).astype(np.float32)
    kept = np.asarray(features, np.float32) if keep_features else None
    return Statistics(mean.astype(np.float32), cov, probs, kept, len(features), meta or {})


def write_statistics(path: str | Path, found: Statistics, score: float | None = None):
    """Write a statistics file, whole or not at all: mean, cov, probs, class_score as the reference writes them, and
    count, meta and features beside.

    Args:
        score: the class score, where it was taken from more exact numbers than the float32 probabilities.
    """
    arrays = {"mean": found.mean.astype(np.float32), "cov": np.asarray(found.cov, np.float64)}
    if found.probs is not None:
        score = class_score(found.log_probs()) if score is None else score
        arrays |= {"probs": found.probs.astype(np.float32), "class_score": np.float32(score)}
    if found.count is not None:
        arrays["count"] = np.int64(found.count)
    if found.features is not None:
        arrays["features"] = found.features.astype(np.float32)
    write_npz(path, **arrays, meta=np.array(json.dumps(found.meta)))


def read_statistics(path: str | Path) -> Statistics:
    """Read a statistics file; only mean and cov have to be in it.

    Raises:
        FileNotFoundError, ValueError: missing, no statistics, sizes that do not fit each other, numbers that are not
            finite, a covariance that is none, or probabilities that are none.
    """
    arrays = read_npz(path, {"mean": ("f", 1), "cov": ("f", 2)})
    kinds = {"probs": ("f", 2), "features": ("f", 2), "count": ("iu", 0), "meta": ("U", 0)}
    with np.load(path, allow_pickle=False) as archive:
        held = {name: kind for name, kind in kinds.items() if name in archive.files}
    arrays |= read_npz(path, held)
    mean, cov = arrays["mean"], arrays["cov"].astype(np.float64)
    probs, features = arrays.get("probs"), arrays.get("features")
    if not len(mean) or cov.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: its mean has {len(mean)} numbers, its covariance is {cov.shape}")
    largest = np.abs(cov).max()
    if not np.allclose(cov, cov.T, rtol=0, atol=TOLERANCE * largest):
        raise ValueError(f"{path}: its 'cov' is not symmetric, so no covariance")
    if (np.diag(cov) < -TOLERANCE * largest).any():
        raise ValueError(f"{path}: its 'cov' has negative variances, so it is no covariance")
    if features is not None and features.shape[1] != len(mean):
        raise ValueError(f"{path}: its features have {features.shape[1]} numbers, its mean {len(mean)}")
    if probs is not None and not (
        probs.size and (probs >= 0).all() and np.allclose(probs.sum(1), 1, rtol=0, atol=TOLERANCE)
    ):
        raise ValueError(f"{path}: its 'probs' are no probabilities: rows of numbers from 0 that sum to 1 are expected")
    counts = {name: len(array) for name, array in (("probs", probs), ("features", features)) if array is not None}
    if "count" in arrays:
        counts["count"] = int(arrays["count"])
    if len(set(counts.values())) > 1 or any(count < 1 for count in counts.values()):
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"{path}: it does not say one number of samples ({said})")
    meta = read_meta(path, arrays["meta"]) if "meta" in arrays else {}
    return Statistics(mean, cov, probs, features, next(iter(counts.values()), None), meta, str(path))


def check_same_judge(one: Statistics, other: Statistics, allow_other: bool = False):
    """Refuse to compare statistics of other sizes, or by different classifiers.

    Raises:
        ValueError: which, and what to do.
    """
    if len(one.mean) != len(other.mean):
        raise ValueError(
            f"{one.path} has {len(one.mean)} features, {other.path} {len(other.mean)}: make both with one classifier"
        )
    judges = [found.meta.get("sha256") for found in (one, other)]
    if all(judges) and judges[0] != judges[1] and not allow_other:
        raise ValueError(
            f"{one.path} was judged by {made_by(one.meta)}, {other.path} by {made_by(other.meta)}: make both with one "
            "classifier, or give --allow_other_classifier"
        )


def cautions(one: Statistics, other: Statistics | None = None) -> list[str]:
    """Return warnings on what few samples do to the scores of one or two sets."""
    lines = []
    for found in (one,) if other is None else (one, other):
        size, count = len(found.mean), found.count
        if count is not None and count <= size:
            lines.append(
                f"warning: {found.path}: {count} samples for {size} features: the covariance has rank {count - 1} at "
                "most, and the Frechet score is far too high: take more samples, or the bias-corrected score"
            )
        elif count is not None and count < 10 * size:
            lines.append(
                f"note: {found.path}: {count} samples for {size} features: fewer than {10 * size} make the Frechet "
                "score too high by a part that falls as 1 / samples"
            )
        if found.probs is not None and count < found.probs.shape[1]:
            lines.append(
                f"warning: {found.path}: {count} samples for {found.probs.shape[1]} classes: the class score cannot be "
                f"above {count}"
            )
    if other is not None and one.count and other.count and one.count != other.count:
        lines.append(
            f"note: {one.count} and {other.count} samples: compare scores only with those of equal numbers of samples"
        )
    return lines
