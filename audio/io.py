"""Read just the wanted part of an audio file as float32 in [-1, 1] at 16 kHz, one channel.
Entry point: AudioFile(path), a context manager with .samples and .read(start, count).
"""

import os
from fractions import Fraction
from functools import lru_cache

import numpy as np
import soundfile

from audio import packed, shards

SAMPLE_RATE = 16000
# Rates a recording can have, in Hz; the filter that resamples from another one would be absurdly long.
LOWEST_RATE, HIGHEST_RATE = 2000, 384000


class AudioFile:
    """An open WAV, FLAC or OGG file seen as `samples` samples at 16 kHz, channels averaged.

    The path may also lie below a folder of packed audio (audio/packed.py) or of shards (audio/shards.py), which then
    stands for the file. Files of
    another rate are resampled by a polyphase filter; a part of such a file equals that part of the resampled whole
    file, since the source is read with the filter's half-length on both sides. `speed` plays the file so many times
    faster.

    Raises:
        ValueError: the file is missing, unreadable or empty (the message names it).
    """

    def __init__(self, path: str, speed: Fraction = Fraction(1)):
        self.path = str(path)
        try:
            self.file = soundfile.SoundFile(self.path)
        except (soundfile.LibsndfileError, OSError, TypeError) as error:
            self.file = packed.find(self.path)
            if self.file is None and not os.path.exists(self.path):
                self.file = shards.find(self.path)
            if self.file is None:
                reason = str(error).split(": ")[-1] if os.path.exists(self.path) else "no such file"
                raise ValueError(f"{self.path}: cannot be read as audio ({reason})") from None
        self.rate, self.channels = self.file.samplerate, self.file.channels
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            self.file.close()
            raise ValueError(
                f"{self.path}: its sampling rate is {self.rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} is read"
            )
        ratio = Fraction(SAMPLE_RATE, self.rate) / speed
        self.up, self.down = ratio.numerator, ratio.denominator
        self.samples = -(-self.file.frames * self.up // self.down)
        if self.samples <= 0:
            self.file.close()
            raise ValueError(f"{self.path}: holds no samples")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return `count` samples (all where None) from `start`, both counted at 16 kHz, float32 (count,)."""
        count = self.samples - start if count is None else min(count, self.samples - start)
        if self.up == self.down:
            return self._source(start, count)
        from scipy.signal import upfirdn  # a second to import, and most files need no resampling

        taps = lowpass(self.up, self.down)
        half = (len(taps) - 1) // 2
        # Output k is centred on source sample k * down / up; begin at a source sample that an output falls on exactly.
        first = (start * self.down - half) // self.up // self.down * self.down
        last = ((start + count - 1) * self.down + half) // self.up + 1
        source = self._source(max(first, 0), min(last, self.file.frames - 1) + 1 - max(first, 0))
        source = np.pad(source, (max(-first, 0), 0))
        skip = start - first * self.up // self.down
        full = upfirdn(np.pad(taps, ((-half) % self.down, 0)), source, self.up, self.down)
        offset = skip + -(-half // self.down)
        wave = full[offset : offset + count].astype(np.float32)
        return np.pad(wave, (0, count - len(wave)))

    def _source(self, start, count):
        if not isinstance(self.file, soundfile.SoundFile):
            return self.file.read(start, count).astype(np.float32) / 32768
        integers = self.file.subtype == "PCM_16"  # read as they are, several times faster, and scaled here
        try:
            self.file.seek(start)
            data = self.file.read(count, dtype="int16" if integers else "float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(f"{self.path}: cannot be decoded at sample {start} ({error})") from None
        except (MemoryError, ValueError):  # numpy raises the second for what no address space could hold
            raise ValueError(f"{self.path}: no memory for the {count} samples its header promises") from None
        if len(data) != count:
            raise ValueError(
                f"{self.path}: ends after {start + len(data)} samples, its header promises {self.file.frames}"
            )
        with np.errstate(all="ignore"):  # what is not finite is told below
            wave = data[:, 0] if self.channels == 1 else data.mean(axis=1, dtype=np.float32)
        if integers:
            return wave * np.float32(1 / 32768)
        if not np.isfinite(wave).all():
            raise ValueError(f"{self.path}: holds samples that are not finite numbers")
        return wave


@lru_cache(maxsize=64)
def lowpass(up: int, down: int) -> np.ndarray:
    """Return the filter of a change of rate by up/down: Kaiser window (beta 5), 10 periods of the lower rate a side."""
    from scipy.signal import firwin

    widest = max(up, down)
    return (up * firwin(2 * 10 * widest + 1, 1.0 / widest, window=("kaiser", 5.0))).astype(np.float32)


def read_audio(path: str, speed: Fraction = Fraction(1)) -> np.ndarray:
    """Read a whole file, float32 (samples,) at 16 kHz."""
    with AudioFile(path, speed) as audio:
        return audio.read()
