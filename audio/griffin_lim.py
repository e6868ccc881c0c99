"""Waves of log-mel features, to be listened to: the phase is guessed, so that it sounds hollow even of originals.
Entry point: wave_of. Griffin and Lim 1984, with the momentum of Perraudin et al. 2013.
"""

import math

import numpy as np
import scipy.signal
import torch

from audio.backend import load_torchaudio
from audio.log_mel import FLOOR, SCALE, LogMel

ITERATIONS = 60  # of Griffin-Lim; more are hardly heard
STEPS = 100  # of the multiplicative updates of the spectrum
LOUDEST_LOG = 30.0  # of a mel: waves of 16 bits stay below 27, and what diverges must not overflow


def spectrum_of(mel: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Return the power (FFT bins, frames), at least 0, whose mel energies are nearest to those of log-mel features.

    Non-negative least squares by multiplicative updates (Lee and Seung 2000), from the energies spread evenly over
    their filters.

    Args:
        mel: (bins, frames), natural logarithm, not normalised; filters: (bins, FFT bins).
    """
    energy = (mel.double().clamp(max=LOUDEST_LOG).exp() - FLOOR).clamp(min=0)
    filters = filters.double()
    tiny = 1e-12
    power = filters.T @ (energy / filters.sum(1, keepdim=True).clamp(min=tiny))
    wanted, product = filters.T @ energy, filters.T @ filters
    for _ in range(STEPS):
        power = power * (wanted / (product @ power).clamp(min=tiny))
    return power.float()


def wave_of(mel: torch.Tensor, front_end: LogMel, iterations: int = ITERATIONS, seed: int = 0) -> np.ndarray:
    """Return a wave (samples,) in [-1, 1], float32, of log-mel features (bins, frames), in step with their source.

    Args:
        mel: not normalised, of `front_end`; seed: of the first phases.
    """
    functional = load_torchaudio().functional
    power = spectrum_of(mel.cpu(), front_end.filters.cpu())
    power = torch.nn.functional.pad(power, (0, 0, 0, 1))  # the front end leaves the highest bin out
    samples = mel.shape[1] * front_end.shift
    late = front_end.frame // 2 - (front_end.frame - front_end.shift) // 2  # the middle of a frame lies there
    power = torch.nn.functional.pad(power, (1, 1), mode="replicate")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wave = functional.griffinlim(
            power, front_end.window[: front_end.frame].cpu(), front_end.n_fft, front_end.shift, front_end.frame,
            power=2.0, n_iter=iterations, momentum=0.99, length=None, rand_init=True,
        )  # fmt: skip
    start = front_end.shift - late
    wave = torch.nn.functional.pad(wave[start : start + samples], (0, max(0, start + samples - len(wave)))).double()
    wave = scipy.signal.lfilter([1.0], [1.0, -front_end.pre_emphasis], wave.numpy()) / SCALE
    peak = np.abs(wave).max(initial=0.0)
    return (wave if peak <= 1 or not math.isfinite(peak) else wave / peak).astype(np.float32)
