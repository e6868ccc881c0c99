"""Random numbers keyed on what they are for, so that no order of work, worker or rank changes them.
Entry point: uniform(seed, epoch, items, count).
"""

import numpy as np

STEP = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, epoch: int, items: np.ndarray, count: int = 1) -> np.ndarray:
    """Return `count` numbers from [0, 1) per item, (items, count) float64: a function of (seed, epoch, item) alone.

    The counter is hashed by SplitMix64 (Steele, Lea and Flood 2014); all items are drawn at once.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.asarray(seed % 2**64, np.uint64) + STEP)
        key = _mix(key + np.uint64(epoch) * STEP)
        keys = _mix(key + np.asarray(items).astype(np.uint64) * STEP)
        words = _mix(keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * STEP)
    return (words >> np.uint64(11)) * 2.0**-53


def _mix(word):
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
