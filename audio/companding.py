"""Samples as a network sees them (linear or mu-law companded) and as a 16-bit file holds them.
Entry points: mu_law, inverse_mu_law, encode, decode, to_pcm, from_pcm, write_samples.
"""

import math
import os
from pathlib import Path

import numpy as np
import soundfile
import torch

SAMPLE_RATE = 16000
ENCODINGS = ("linear", "ulaw")
FORMATS = {".wav": "WAV", ".flac": "FLAC"}


def mu_law(x, mu: int = 255):
    """Return sign(x) ln(1 + mu |x|) / ln(1 + mu) of samples in [-1, 1], an array or tensor of the type given."""
    own = torch if isinstance(x, torch.Tensor) else np
    return own.sign(x) * own.log1p(mu * own.abs(x)) / math.log1p(mu)


def inverse_mu_law(y, mu: int = 255):
    """Return sign(y) ((1 + mu)^|y| - 1) / mu, what mu_law takes back; an array or tensor of the type given."""
    own = torch if isinstance(y, torch.Tensor) else np
    return own.sign(y) * own.expm1(math.log1p(mu) * own.abs(y)) / mu


def encode(samples, encoding: str):
    """Return linear samples as a network of this encoding sees them; zero stays zero.

    Raises:
        ValueError: an unknown encoding.
    """
    return mu_law(samples) if _is_ulaw(encoding) else samples


def decode(samples, encoding: str):
    """Return what encode takes back: linear samples."""
    return inverse_mu_law(samples) if _is_ulaw(encoding) else samples


def _is_ulaw(encoding):
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r} is none of {', '.join(ENCODINGS)}")
    return encoding == "ulaw"


def to_pcm(samples: np.ndarray, encoding: str = "linear") -> np.ndarray:
    """Return the 16-bit numbers (as shaped) that a file holds: clipped to [-1, 1], decoded, times 32767, rounded.

    Raises:
        ValueError: an unknown encoding, or samples that are not finite.
    """
    samples = np.asarray(samples)
    if not np.isfinite(samples).all():
        raise ValueError(f"{int((~np.isfinite(samples)).sum())} of {samples.size} samples are not finite numbers")
    return np.rint(decode(np.clip(samples, -1, 1), encoding) * 32767).astype(np.int16)


def from_pcm(integers: np.ndarray, encoding: str = "linear") -> np.ndarray:
    """Return the 16-bit numbers of a file as a network of this encoding sees them, float32."""
    return encode(np.asarray(integers).astype(np.float32) / np.float32(32768), encoding)


def write_samples(path: str | Path, samples: np.ndarray, encoding: str = "linear"):
    """Write `samples` (samples,) of a network as a 16-bit .wav or .flac file at 16 kHz, whole or not at all.

    Raises:
        ValueError: another ending, an unknown encoding, or samples that are not finite.
    """
    path = Path(path)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ValueError(f"{path}: its name must end in {' or '.join(FORMATS)}")
    try:
        integers = to_pcm(samples, encoding)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        soundfile.write(part, integers, SAMPLE_RATE, subtype="PCM_16", format=form)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
