"""What a recording adds to a synthetic voice: room, microphone, noise; and music, for augmentation without downloads.
Entry points: Recording (one session's chain), room_response, coloured_noise, music.

Every function draws from the numpy generator it is given and from nothing else.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve

SAMPLE_RATE = 16000
CURVE_FFT = 1024  # points of a microphone's curve


def room_response(draw: np.random.Generator, reverberation_s: float, direct_db: float) -> np.ndarray:
    """Draw the response (taps,) of a room: direct sound, early reflections, a tail that falls by 60 dB in a given time.

    High frequencies die away first, as air and walls absorb them. `direct_db`: energy of the direct sound over rest.
    """
    taps = int(SAMPLE_RATE * reverberation_s)
    time = np.arange(taps) / SAMPLE_RATE
    low, high = draw.standard_normal((2, taps))
    low[1:] += 0.9 * low[:-1]
    high[1:] -= 0.9 * high[:-1]
    # ln(1000) = 6.91: an amplitude of -60 dB
    decay = np.exp(-6.91 * time / reverberation_s)
    # the diffuse field builds up during the first 20 ms, which belong to single reflections
    tail = (low * decay + 0.6 * high * decay**2) * np.minimum(time / 0.02, 1)
    early = np.zeros(taps)
    delays = draw.uniform(0.0015, 0.04, draw.integers(5, 12))
    np.add.at(
        early, (delays * SAMPLE_RATE).astype(int) % taps, draw.choice([-1, 1], len(delays)) * np.exp(-50 * delays)
    )
    rest = early / np.linalg.norm(early) + draw.uniform(0.6, 1.4) * tail / np.linalg.norm(tail)
    response = rest * 10 ** (-direct_db / 20) / np.linalg.norm(rest)
    response[0] += 1
    return response / np.linalg.norm(response)


def smooth_curve(draw: np.random.Generator, spread_db: float) -> np.ndarray:
    """Draw a smooth gain over frequency (bins,) in dB: a few slow waves over the octaves above 60 Hz."""
    octave = np.log2(np.maximum(np.linspace(0, SAMPLE_RATE / 2, CURVE_FFT // 2 + 1), 60) / 60)
    wave = [draw.normal(0, spread_db / k) * np.cos(np.pi * k * octave / 7 + draw.uniform(0, 6.3)) for k in range(1, 6)]
    return np.sum(wave, axis=0)


def microphone_response(draw: np.random.Generator, spread_db: float) -> np.ndarray:
    """Draw the minimum-phase response (taps,) of a microphone: smooth ups and downs, a tilt, band limits."""
    frequency = np.linspace(0, SAMPLE_RATE / 2, CURVE_FFT // 2 + 1) + 1.0
    gain_db = smooth_curve(draw, spread_db) + draw.uniform(-1, 1) * 0.5 * spread_db * np.log2(frequency / 1000).clip(
        -4, 4
    )
    low, high = draw.uniform(30, 150), draw.uniform(6500, 9000)
    gain_db -= 10 * np.log10(1 + (low / frequency) ** 4) + 10 * np.log10(1 + (frequency / high) ** 12)
    # the cepstrum of a minimum-phase response is that of its magnitude folded to positive times (Oppenheim and Schafer)
    cepstrum = np.fft.irfft(np.maximum(gain_db, -60) * np.log(10) / 20)
    fold = np.zeros(CURVE_FFT)
    fold[[0, CURVE_FFT // 2]], fold[1 : CURVE_FFT // 2] = 1, 2
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum * fold)))[: CURVE_FFT // 2]


def coloured_noise(draw: np.random.Generator, samples: int, curve_db: np.ndarray) -> np.ndarray:
    """Draw stationary noise (samples,) of power 1 whose spectrum follows `curve_db` (bins from 0 to 8 kHz)."""
    spectrum = np.fft.rfft(draw.standard_normal(samples))
    frequency = np.linspace(0, 1, len(spectrum))
    spectrum *= np.interp(frequency, np.linspace(0, 1, len(curve_db)), 10 ** (curve_db / 20))
    wave = np.fft.irfft(spectrum, samples)
    return wave / np.sqrt(np.mean(wave**2))


def noise_curve(draw: np.random.Generator) -> np.ndarray:
    """Draw the spectrum (bins,) of a background in dB: from white to falling by 9 dB an octave, uneven."""
    octave = np.log2(np.maximum(np.linspace(0, SAMPLE_RATE / 2, CURVE_FFT // 2 + 1), 60) / 60)
    return smooth_curve(draw, 4.0) - draw.uniform(0, 9) * octave


def music(draw: np.random.Generator, samples: int) -> np.ndarray:
    """Draw a tune (samples,) of decaying three-part chords, peak 1."""
    wave, beat = np.zeros(samples), int(SAMPLE_RATE * draw.uniform(0.2, 0.5))
    root, fall = draw.uniform(80, 160), draw.uniform(1.5, 6)
    partials, time = np.arange(1, 9)[:, None], np.arange(4 * beat) / SAMPLE_RATE
    envelope = np.exp(-fall * time) * np.minimum(time / 0.01, 1) * np.minimum((time[-1] - time) / 0.02, 1)
    for start in range(0, samples, beat):
        for step in draw.choice([0, 3, 5, 7, 10, 12, 15, 17, 19, 24], 3, replace=False):
            tones = (
                np.sin(2 * np.pi * root * 2 ** (step / 12) * partials * time) * draw.uniform(0, 1, (8, 1)) / partials
            )
            end = min(samples, start + len(time))
            wave[start:end] += (tones.sum(0) * envelope)[: end - start]
    return wave / np.abs(wave).max()


def write_wave(path: Path, wave: np.ndarray):
    """Write `wave` (samples,) in [-1, 1] as 16-bit WAV at 16 kHz, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    soundfile.write(temporary, wave, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    temporary.replace(path)


@dataclass(frozen=True)
class Recording:
    """A session's way from mouth to file: `response` (taps,) of room and microphone, the noise's spectrum and level."""

    response: np.ndarray
    noise_db: np.ndarray
    snr_db: float

    @staticmethod
    def draw(draw: np.random.Generator) -> "Recording":
        """Draw room, microphone and background of a session."""
        room = room_response(draw, draw.uniform(0.08, 0.3), draw.uniform(10, 20))
        response = fftconvolve(room, microphone_response(draw, 4.0))
        return Recording(response, noise_curve(draw), draw.uniform(22, 40))

    def record(self, voice: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Return `voice` (samples,) as recorded, float32 at a random level, its peak never above 0.95."""
        wave = fftconvolve(voice, self.response)[: len(voice)]
        wave /= np.sqrt(np.mean(wave**2)) + 1e-12
        snr_db = self.snr_db + draw.uniform(-2, 2)
        wave += 10 ** (-snr_db / 20) * coloured_noise(draw, len(wave), self.noise_db)
        level = 10 ** (draw.uniform(-30, -18) / 20)
        return (wave * min(level, 0.95 / np.abs(wave).max())).astype(np.float32)
