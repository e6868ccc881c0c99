"""Which windows of recordings are trained on: as many as fit at a fixed spacing, found from the durations alone.
Entry point: Windows(seconds, ...), which tells recording and offset of any window without a table of all of them.
"""

import numpy as np

WINDOW_SECONDS, SPACING_SECONDS = 4.0, 0.2
# durations may be this much too long: the reference's index has them to a hundredth of a second
SLACK_SECONDS = 0.05


class Windows:
    """Windows of `samples` samples every `spacing` samples, recording by recording, each in order of time.

    A recording of d seconds has total = int(rate (d - 0.05)) usable samples; where one window is not shorter than that
    there is one, at 0, which may have to be padded; otherwise there are those at 0, spacing, 2 spacing, ... that end
    before `total`.

    Args:
        seconds: (recordings,) durations.

    Raises:
        ValueError: a window or spacing of no sample.
    """

    def __init__(
        self, seconds, window_seconds: float = WINDOW_SECONDS, spacing_seconds: float = SPACING_SECONDS, rate=16000
    ):
        self.samples, self.spacing = int(rate * window_seconds), int(rate * spacing_seconds)
        for name, value, samples in (
            ("window", window_seconds, self.samples),
            ("spacing of windows", spacing_seconds, self.spacing),
        ):
            if samples < 1:
                raise ValueError(f"a {name} of {value:g} s holds no sample at {rate} Hz: give a longer one")
        total = (rate * (np.asarray(seconds, np.float64) - SLACK_SECONDS)).astype(np.int64)
        self.counts = np.maximum(-((self.samples - total) // self.spacing), 1)
        self.ends = np.cumsum(self.counts)

    def __len__(self):
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Return recording and first sample of windows, two arrays of int64 of the shape of `indices`."""
        indices = np.asarray(indices, np.int64)
        recording = np.searchsorted(self.ends, indices, side="right")
        return recording, (indices - self.ends[recording] + self.counts[recording]) * self.spacing
