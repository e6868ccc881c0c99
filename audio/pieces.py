"""Which pieces of a recording are embedded: the whole, evenly spaced crops, or windows that follow each other.
Entry points: Cut(...).starts(samples) and read_piece(audio, start, count, used).
"""

from dataclasses import dataclass

import numpy as np

from audio.crops import eval_starts, wrap
from audio.io import AudioFile


@dataclass(frozen=True)
class Cut:
    """How recordings are cut, in samples at 16 kHz; 0 switches a way of cutting off.

    least: a shorter recording is repeated up to this. most: only the first so many samples count. crop, crops: so many
    evenly spaced crops. window, hop: recordings longer than a window are cut into windows, the last ends with them.
    """

    least: int = 8000
    most: int = 0
    crop: int = 0
    crops: int = 1
    window: int = 0
    hop: int = 0

    def used(self, samples: int) -> int:
        """Return how many of a recording's samples count."""
        return min(samples, self.most) if self.most else samples

    def starts(self, samples: int) -> tuple[np.ndarray, int]:
        """Return the first samples of all pieces of a recording (pieces,) and their common length."""
        used = self.used(samples)
        if self.crop:
            return eval_starts(used, self.crop, self.crops), self.crop
        if self.window and used > self.window:
            starts = np.arange(0, used - self.window + 1, self.hop or self.window)
            if starts[-1] + self.window < used:
                starts = np.append(starts, used - self.window)
            return starts, self.window
        return np.zeros(1, dtype=np.int64), max(used, self.least)


def read_piece(audio: AudioFile, start: int, count: int, used: int) -> np.ndarray:
    """Read `count` samples from `start` of an open file whose first `used` samples count; it repeats beyond these."""
    if start + count <= used:
        return audio.read(start, count)
    return wrap(audio.read(0, used), start + count)[start : start + count]
