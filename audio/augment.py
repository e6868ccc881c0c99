"""Noise, music, babble and rooms added to one crop, all in [-1, 1] (MUSAN: Snyder et al. 2015; rooms: Ko et al. 2017).
Entry point: Augmenter(musan_path, rir_path, length, floor), called with a crop and a random generator.

A new kind of augmentation is one method and one line in KINDS.
"""

from collections import OrderedDict
from glob import glob
from pathlib import Path

import numpy as np
from scipy import fft

from audio.crops import train_start, wrap
from audio.io import AudioFile, read_audio

# kind of MUSAN file: (fewest, most files added at once), (lowest, highest signal-to-noise ratio in dB)
ADDITIVE = {"music": ((1, 1), (5, 15)), "speech": ((3, 7), (13, 20)), "noise": ((1, 1), (0, 15))}
# Room responses are kept in memory up to this many samples a process (64 MiB of float32).
ROOM_CACHE_SAMPLES = 16 * 2**20


def mix(clean: np.ndarray, noises, snrs, floor: float) -> np.ndarray:
    """Add each noise to `clean` (..., samples) at its signal-to-noise ratio in dB.

    Powers are 10 log10(mean(x^2) + floor); the floor keeps silence from being amplified without bound.
    """
    mixture = clean.copy()
    clean_db = 10 * np.log10(np.mean(clean**2) + floor)
    for noise, snr in zip(noises, snrs):
        noise_db = 10 * np.log10(np.mean(noise**2) + floor)
        mixture = mixture + noise * np.sqrt(10 ** ((clean_db - noise_db - snr) / 10))
    return mixture


def unit_energy(response: np.ndarray) -> np.ndarray:
    """Return a response (taps,) divided by its Euclidean norm; one of silence becomes NaN."""
    with np.errstate(invalid="ignore"):
        return response / np.sqrt(np.sum(response**2))


def reverberate(clean: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve `clean` (..., samples) with a response (taps,) scaled to unit energy; length and delay stay."""
    response = unit_energy(response)
    samples = clean.shape[-1]
    size = fft.next_fast_len(samples + len(response) - 1, real=True)
    product = fft.rfft(clean, size, axis=-1) * fft.rfft(response, size)
    return fft.irfft(product, size, axis=-1)[..., :samples].astype(clean.dtype)


def read_crop(path: str, length: int, u: float, speed=1, mode: str = "random") -> np.ndarray:
    """Read a training crop of `length` samples at 16 kHz; `u` from [0, 1) and `mode` choose its start."""
    with AudioFile(path, speed) as audio:
        start = train_start(u, audio.samples, length, mode)
        return wrap(audio.read(start, length), length)


class Augmenter:
    """Per crop one of: nothing (with probability 1 - `probability`), room, music, babble, noise, these four alike.

    Args:
        length: samples of a crop.
        floor: power floor of the mixture, see mix().

    Raises:
        ValueError: a folder is missing or holds too few files of a kind (told at the start, not in a worker).
    """

    KINDS = ("room", *ADDITIVE)

    def __init__(self, musan_path: str, rir_path: str, length: int, floor: float, probability: float = 0.8):
        if not 0 <= probability <= 1:
            raise ValueError(f"--augment_prob {probability}: a probability from 0 to 1")
        self.length, self.floor, self.probability = length, floor, probability
        self.files = {}
        for kind, ((_, most), _) in ADDITIVE.items():
            self.files[kind] = find_files(f"{musan_path}/{kind}/*/*/*.wav", "--musan_path", most)
        self.rooms = find_files(f"{rir_path}/*/*/*.wav", "--rir_path", 1)
        self.cache, self.cached_samples = OrderedDict(), 0

    def __call__(self, wave: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Return the augmented crop (samples,) float32."""
        if draw.random() >= self.probability:
            return wave
        kind = self.KINDS[draw.integers(len(self.KINDS))]
        if kind == "room":
            return reverberate(wave, self._room(self.rooms[draw.integers(len(self.rooms))]))
        return self._add(kind, wave, draw)

    def _add(self, kind, wave, draw):
        (fewest, most), (low, high) = ADDITIVE[kind]
        count = int(draw.integers(fewest, most + 1))
        # `choice` without replacement would shuffle all names of a large collection for every crop
        picks = set()
        while len(picks) < count:
            picks.add(int(draw.integers(len(self.files[kind]))))
        noises = [read_crop(self.files[kind][i].decode(), self.length, draw.random()) for i in sorted(picks)]
        return mix(wave, noises, draw.uniform(low, high, count), self.floor).astype(np.float32)

    def _room(self, path):
        if path in self.cache:
            self.cache.move_to_end(path)
            return self.cache[path]
        response = read_audio(path.decode())
        self.cache[path] = response
        self.cached_samples += len(response)
        while self.cached_samples > ROOM_CACHE_SAMPLES and len(self.cache) > 1:
            self.cached_samples -= len(self.cache.popitem(last=False)[1])
        return response


def find_files(pattern, flag, least):
    """Return the files that match `pattern`, sorted, as bytes; ValueError where there are fewer than `least`."""
    files = sorted(glob(pattern))
    if len(files) < least:
        folder = pattern.split("/*")[0]
        while not Path(folder).parent.is_dir() and "/" in folder:
            folder = folder.rpartition("/")[0]  # the uppermost that is missing
        reason = f"holds {len(files)} files {pattern}" if Path(folder).is_dir() else "does not exist"
        raise ValueError(
            f"{flag}: {folder} {reason}; --augment needs at least {least} (dataprep.py --help says how to get them)"
        )
    return np.array([f.encode() for f in files])
