"""Which samples of a file a crop holds: length, wrap padding, starts for training and evaluation.
Entry points: crop_samples, wrap, train_start, eval_starts, eval_crops.
"""

import numpy as np


def crop_samples(frames: int) -> int:
    """Return the samples of a crop of `frames` 10 ms frames at 16 kHz (200 frames: 32,240)."""
    return frames * 160 + 240


def wrap(wave: np.ndarray, length: int) -> np.ndarray:
    """Extend `wave` (samples,) periodically to `length` samples: sample i is wave[i mod n].

    Raises:
        ValueError: the wave is empty.
    """
    if len(wave) == 0:
        raise ValueError("the file holds no samples")
    return np.resize(wave, length) if len(wave) < length else wave


def padded_samples(samples: int, length: int) -> int:
    """Return the samples a file of `samples` offers to crops of `length`: a short one is wrapped to length + 1."""
    return samples if samples > length else length + 1


def train_start(u: float, samples: int, length: int, mode: str = "random") -> int:
    """Return the first sample of a training crop; `u` is a uniform draw from [0, 1).

    Modes: "random"; "start" and "end" of the file; "random_contiguous": one of those that follow each other from start.
    """
    last = padded_samples(samples, length) - length
    if mode == "random_contiguous":
        return int(u * max(1, samples // length)) * length
    return {"random": int(u * last), "start": 0, "end": max(0, samples - length)}[mode]


def eval_starts(samples: int, length: int, num_eval: int) -> np.ndarray:
    """Return the first samples of `num_eval` evenly spaced crops, (num_eval,) int64."""
    return np.linspace(0, padded_samples(samples, length) - length, num_eval).astype(np.int64)


def eval_crops(wave: np.ndarray, frames: int, num_eval: int, length: int = 0) -> np.ndarray:
    """Cut a whole file (samples,) into (num_eval, crop samples); frames 0 gives the unchanged file, (1, samples).

    `length`: samples of a crop in place of those of `frames`.
    """
    if frames == 0 and not length:
        return wrap(wave, 1)[None]
    length = length or crop_samples(frames)
    starts = eval_starts(len(wave), length, num_eval)
    return np.stack([wrap(wave, length + 1)[start : start + length] for start in starts])
