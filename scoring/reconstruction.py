"""Scores of reconstructed features over utterances.
Entry point: mean_and_deviation.
"""

import numpy as np


def mean_and_deviation(scores: np.ndarray, ddof: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over utterances of `scores` (utterances, ...); NaN where one is too few."""
    deviation = scores.std(0, ddof=ddof) if len(scores) > ddof else np.full(scores.shape[1:], np.nan)
    return scores.mean(0), deviation
