"""Bootstrap intervals of error rates: speakers are drawn with replacement, not trials.
Entry point: bootstrap_interval(scores, labels, sides).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scoring.metrics import Counts, check_trials, count_sorted, eer_of, group_ends, min_dcf_of

METRICS = {"eer": lambda counts: eer_of(counts)[0], "min_dcf": lambda counts: min_dcf_of(counts)[0]}


class Interval(NamedTuple):
    """A percentile interval: two numbers, or two arrays where the metric gives several values at once."""

    low: float | np.ndarray
    high: float | np.ndarray
    replicates: int
    redrawn: int  # replicates drawn again because they held no target or no impostor
    unit: str  # what was resampled: "speakers" or "trials"

    def __str__(self) -> str:
        again = f", {self.redrawn} redrawn" if self.redrawn else ""
        why = " (speakers unknown)" if self.unit == "trials" else ""
        return f"{self.replicates} bootstrap replicates over {self.unit}{why}{again}"


def bootstrap_interval(
    scores,
    labels,
    sides=None,
    metric: str | Callable[[Counts], float | np.ndarray] = "eer",
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the percentile interval of a metric over resampled speakers.

    Of the S speakers of the list S are drawn with replacement, speaker a c_a times; a trial of speakers a and b then
    weighs c_a c_b, one with both sides of speaker a weighs c_a. A replicate without targets or without impostors is
    drawn again (a target and an impostor trial need four speakers at most, so that this ends soon). The trials are
    sorted once; a replicate costs a few passes over them.

    Args:
        sides: (trials, 2) integers, the speakers of the two files; None resamples trials, which is too optimistic
            because trials of one speaker are alike.
        metric: "eer" (percent), "min_dcf" (p_target 0.05), or a function of Counts that returns a number or an array.

    Raises:
        ValueError: bad trials (see check_trials), sides of another shape, an unknown metric.
    """
    if replicates < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap: replicates {replicates} must be at least 1, level {level} between 0 and 1")
    if isinstance(metric, str) and metric not in METRICS:
        raise ValueError(f"bootstrap metric {metric!r} is none of {', '.join(METRICS)}")
    measure = METRICS[metric] if isinstance(metric, str) else metric
    scores, labels, _ = check_trials(scores, labels)
    order = np.argsort(scores)[::-1]
    draw = _trial_weights(len(scores)) if sides is None else _speaker_weights(sides, order)
    scores, labels = scores[order], labels[order]
    ends = group_ends(scores)

    generator = np.random.default_rng(seed)
    values, redrawn = [], 0
    while len(values) < replicates:
        counts = count_sorted(scores, labels, ends, draw(generator))
        if counts.thresholds.size and counts.targets[-1] > 0 and counts.impostors[-1] > 0:
            values.append(measure(counts))
            continue
        redrawn += 1
    low, high = np.quantile(np.array(values), [(1 - level) / 2, (1 + level) / 2], axis=0)
    # [()] makes a number of an array without axes.
    return Interval(low[()], high[()], replicates, redrawn, "trials" if sides is None else "speakers")


def _speaker_weights(sides, order: np.ndarray) -> Callable[[np.random.Generator], np.ndarray]:
    """Return a function that draws speakers and gives the weight of every trial, in the given order of trials."""
    sides = np.asarray(sides)
    if sides.shape != (len(order), 2) or sides.dtype.kind not in "iu":
        raise ValueError(f"sides must be integers of shape ({len(order)}, 2), not {sides.dtype} {sides.shape}")
    names, index = np.unique(sides, return_inverse=True)
    speakers = len(names)
    index = index.reshape(-1, 2)[order]
    first = index[:, 0].copy()
    # The second factor of a trial of one speaker is 1: the extra element at the end of the counts.
    second = np.where(index[:, 0] == index[:, 1], speakers, index[:, 1])

    def draw(generator: np.random.Generator) -> np.ndarray:
        counts = np.bincount(generator.integers(0, speakers, speakers), minlength=speakers + 1)
        counts[speakers] = 1
        return counts[first] * counts[second]

    return draw


def _trial_weights(trials: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Return a function that draws trials and gives how often each was drawn."""
    return lambda generator: np.bincount(generator.integers(0, trials, trials), minlength=trials)
