"""Simple acoustic measures of a recording: fundamental frequency, level, pauses, spectrum.
Entry points: measure(wave), MEASURES, {name: what it is}.
"""

import functools

import numpy as np
from scipy import fft
from scipy.signal import find_peaks

SAMPLE_RATE = 16000
FRAME, HOP, N_FFT = 640, 160, 1024  # 40 ms every 10 ms; N_FFT >= FRAME + LONGEST, so that no lag wraps around
LOWEST_F0, HIGHEST_F0 = 70.0, 500.0  # Hz, from low men to small children
SHORTEST, LONGEST = int(SAMPLE_RATE / HIGHEST_F0), int(np.ceil(SAMPLE_RATE / LOWEST_F0))  # lags in samples
F0_BAND = (60.0, 2000.0)  # Hz; harmonics above add noise to the autocorrelation
VOICED = 0.5  # least normalised autocorrelation of a voiced frame
OCTAVE_COST = 0.04  # per octave: of almost equally strong periods the shortest counts
FEWEST_VOICED = 5  # frames, below which there is no F0 of the recording
QUIET_DB = 30.0  # below the 95th percentile of the frame levels: pause
LONG_PAUSE = 20  # frames, 0.2 s: longer than the closure of a plosive
FLOOR = 1e-10  # mean square of digital silence, -100 dB
DIP_DB = 2.0  # by which the level falls between two syllables, de Jong and Wempe 2009
BANDS = ((200, 900), (900, 2300), (2300, 3500), (3500, 5500), (5500, 8000))  # Hz: around F1, F2, F3, F4, above
FRAMES_AT_ONCE = 2048  # 20 s, 16 MB of spectra

MEASURES = {
    "f0_median_hz": "median fundamental frequency of the voiced frames",
    "f0_spread_semitones": "standard deviation of the fundamental frequency",
    "f0_range_semitones": "10th to 90th percentile of the fundamental frequency",
    "voiced_share": "voiced frames of those that are no pause, 0 to 1",
    "harmonicity_db": "median ratio of periodic to other energy below 2 kHz in voiced frames",
    "level_db": "level without pauses, re full scale (a sine of amplitude 1: -3 dB)",
    "level_range_db": "10th to 90th percentile of the frame levels",
    "pause_share": "frames in pauses of 0.2 s or more, 0 to 1",
    "syllable_rate_hz": "voiced peaks of the level per second outside pauses",
    "slope_db_per_octave": "regression of the spectral density on octaves, 125 Hz to 6.3 kHz",
    "alpha_ratio_db": "energy of 1 to 5 kHz against 50 Hz to 1 kHz",
    "centroid_hz": "centre of gravity of the power spectrum",
    **{
        f"band_{low}_{high}_hz_db": f"energy of {low} to {high} Hz against {BANDS[0][0]} to {BANDS[-1][1]} Hz"
        for low, high in BANDS
    },
}


def measure(wave: np.ndarray) -> dict[str, float]:
    """Return {name of MEASURES: value} of `wave` (samples,) in [-1, 1] at 16 kHz; NaN where nothing can be measured.

    The fundamental frequency is the autocorrelation of a frame divided by that of its window (Boersma, Accurate
    short-term analysis of the fundamental frequency, 1993), searched a second time between 0.75 times the lower and
    1.5 times the upper quartile of the first search against octave errors (De Looze and Hirst, Speech Prosody 2008).
    """
    wave = np.asarray(wave, dtype=np.float32)
    if len(wave) < FRAME:
        wave = np.pad(wave, (0, FRAME - len(wave)))
    frames = np.lib.stride_tricks.sliding_window_view(wave, FRAME)[::HOP]
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    starts = HOP * np.arange(len(frames))
    power = np.maximum((energy[starts + FRAME] - energy[starts]) / FRAME, FLOOR)
    level = 10 * np.log10(power)
    loud = (level > np.quantile(level, 0.95) - QUIET_DB) & (power > FLOOR)

    spectrum, correlation = _analyse(frames, loud)
    f0, strength = _find_f0(correlation)
    voiced = np.zeros(len(frames), dtype=bool)
    voiced[np.flatnonzero(loud)[f0 > 0]] = True

    low, high = np.quantile(level, [0.1, 0.9])
    found = dict.fromkeys(MEASURES, np.nan)
    found |= {"level_range_db": high - low, "pause_share": _runs(~loud, LONG_PAUSE).mean()}
    if loud.any():
        found["voiced_share"] = voiced.sum() / loud.sum()
        found["level_db"] = 10 * np.log10(power[loud].mean())
        found["syllable_rate_hz"] = _syllables(level, loud & voiced) / (loud.sum() * HOP / SAMPLE_RATE)
        found |= _spectral(spectrum)
    if voiced.sum() >= FEWEST_VOICED:
        pitch, strength = f0[f0 > 0], np.clip(strength[f0 > 0], 1e-6, 1 - 1e-6)
        semitones = 12 * np.log2(pitch)
        low, high = np.quantile(semitones, [0.1, 0.9])
        found |= {"f0_median_hz": np.median(pitch), "f0_spread_semitones": semitones.std()}
        found |= {"f0_range_semitones": high - low}
        found["harmonicity_db"] = np.median(10 * np.log10(strength / (1 - strength)))
    return {name: float(value) for name, value in found.items()}


@functools.cache
def _window() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Hann window, the bins of the F0 band, and the window's normalised autocorrelation at all lags."""
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    frequencies = np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT
    band = (frequencies >= F0_BAND[0]) & (frequencies <= F0_BAND[1])
    own = fft.irfft(np.abs(fft.rfft(window.astype(np.float64), N_FFT)) ** 2)[: LONGEST + 2]
    return window, band, (own / own[0]).astype(np.float32)


def _analyse(frames, loud):
    """Return the mean power spectrum (513,) of the loud frames and their normalised autocorrelation (loud, lags)."""
    window, band, own = _window()
    rows = np.flatnonzero(loud)
    spectrum, correlation = np.zeros(N_FFT // 2 + 1), np.empty((len(rows), LONGEST + 2), dtype=np.float32)
    for start in range(0, len(rows), FRAMES_AT_ONCE):
        part = rows[start : start + FRAMES_AT_ONCE]
        cut = frames[part]
        values = fft.rfft((cut - cut.mean(1, keepdims=True)) * window, N_FFT)
        power = np.square(values.real) + np.square(values.imag)
        spectrum += power.sum(0, dtype=np.float64)
        lags = fft.irfft(power * band)[:, : LONGEST + 2]
        correlation[start : start + len(part)] = lags / np.maximum(lags[:, :1], 1e-20) / own
    return spectrum / max(len(rows), 1), correlation


def _find_f0(correlation):
    """Return F0 in Hz (frames,), 0 where a frame is not voiced, and its normalised autocorrelation."""
    f0, strength = _pick(correlation, SHORTEST, LONGEST)
    if np.count_nonzero(f0) < FEWEST_VOICED:
        return f0, strength
    low, high = np.quantile(f0[f0 > 0], [0.25, 0.75])
    shortest = max(SHORTEST, int(SAMPLE_RATE / (1.5 * high)))
    return _pick(correlation, shortest, min(LONGEST, int(np.ceil(SAMPLE_RATE / (0.75 * low)))))


def _pick(correlation, shortest, longest):
    """Return the strongest peak of the autocorrelation between two lags as F0 in Hz and its height; see _find_f0."""
    lags = np.arange(shortest, longest + 1)
    at, before, after = (correlation[:, shortest + shift : longest + 1 + shift] for shift in (0, -1, 1))
    # only local maxima, each at the top of a parabola through its three values: sampled ones favour whole lags
    frame, place = np.nonzero((at >= VOICED / 2) & (at > before) & (at >= after))
    at, before, after = (array[frame, place] for array in (at, before, after))
    shift = 0.5 * (before - after) / (before - 2 * at + after)
    at = at - 0.25 * (before - after) * shift
    # values above 1 come from dividing by the window and are as far from a period as their inverse
    weighed = np.full((len(correlation), len(lags)), -np.inf, dtype=np.float32)
    weighed[frame, place] = np.where(at > 1, 1 / at, at) - OCTAVE_COST * np.log2(lags[place] / longest)
    best = weighed.argmax(1)
    height, period = np.zeros(weighed.shape, dtype=np.float32), np.ones(weighed.shape, dtype=np.float32)
    height[frame, place], period[frame, place] = at, lags[place] + shift
    height, period = (array[np.arange(len(best)), best] for array in (height, period))
    return np.where(height >= VOICED, SAMPLE_RATE / period, 0), height


def _runs(flags, least):
    """Return `flags` (frames,) without runs of fewer than `least`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    kept = np.zeros(len(flags), dtype=bool)
    for start, end in edges.reshape(-1, 2).tolist():
        kept[start:end] = end - start >= least
    return kept


def _syllables(level, voiced):
    """Return the number of peaks of the smoothed level that stand out and are voiced."""
    smooth = np.convolve(np.pad(level, 3, mode="edge"), np.hanning(9)[1:-1] / 4, mode="valid")
    # a fall on both ends, so that a peak at the very start or end counts
    peaks, _ = find_peaks(np.pad(smooth, 1, constant_values=smooth.min() - 2 * DIP_DB), prominence=DIP_DB)
    return np.count_nonzero(voiced[peaks - 1])


def _spectral(power):
    """Return the measures of a mean power spectrum (513,)."""
    frequencies = np.arange(len(power)) * SAMPLE_RATE / N_FFT
    power = np.where(frequencies >= 50, power, 0)  # below: hum and handling

    def energy(low, high):
        return max(float(power[(frequencies >= low) & (frequencies < high)].sum()), 1e-20)

    centres = 1000 * 2 ** (np.arange(-9, 9) / 3)  # third octaves, 125 Hz to 6.35 kHz
    # the mean density over a band, so that white noise is flat
    density = []
    for centre in centres:
        inside = (frequencies >= centre * 2 ** (-1 / 6)) & (frequencies < centre * 2 ** (1 / 6))
        density.append(10 * np.log10(max(float(power[inside].mean()), 1e-20)))
    whole = energy(BANDS[0][0], BANDS[-1][1])
    return {
        "slope_db_per_octave": np.polyfit(np.log2(centres), density, 1)[0],
        "alpha_ratio_db": 10 * np.log10(energy(1000, 5000) / energy(50, 1000)),
        "centroid_hz": float(frequencies @ power) / max(float(power.sum()), 1e-20),
        **{f"band_{low}_{high}_hz_db": 10 * np.log10(energy(low, high) / whole) for low, high in BANDS},
    }
