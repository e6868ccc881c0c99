"""Synthetic voices for the demo corpus: glottal pulses and noise through a moving vocal tract, saying random syllables.
Entry points: draw_speaker(seed, index), synthesise(speaker, session, utterance, seconds, seed).

Every draw is keyed on (seed, speaker, session, utterance), so any part of a corpus can be made alone. The source is the
causal-anticausal linear model of glottal flow (Doval, d'Alessandro and Henrich 2003), the tract a cascade of resonances
(Klatt 1980), both evaluated per 5 ms frame on the frequency axis and overlap-added.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, rfft
from scipy.ndimage import gaussian_filter1d

from audio.recording import SAMPLE_RATE, Recording

VERSION = 1  # another number wherever the same seed gives other samples
HOP = 80  # samples of a frame: 5 ms; windows are two hops long
FRAMES_PER_S = SAMPLE_RATE / HOP
FFT = 768
LEAD = 192  # room before a frame for the glottal pulse, which rises backwards in time from its closure: 12 ms

# What a phone asks of the voice. Formants are those of a tract of 17.5 cm; the amplitudes of voice and breath (noise at
# the glottis) are relative to a vowel's; hiss is noise in the mouth, of centre and width in Hz.
F1, F2, F3, VOICE, BREATH, HISS, HISS_HZ, HISS_WIDTH, NASAL = range(9)
# Peterson and Barney 1952, averages of men
VOWELS = np.array([
    (270, 2290, 3010), (530, 1840, 2480), (730, 1090, 2440), (570, 840, 2410), (300, 870, 2240), (490, 1350, 1690),
    (500, 1500, 2500),
])  # fmt: skip
LIPS, TEETH, PALATE = (250, 900, 2300), (280, 1750, 2650), (260, 2050, 2500)
# (seconds, phone) each; where a consonant has no place of its own (None) it takes that of the vowel
CONSONANTS = {
    "s": [(0.10, (*TEETH, 0, 0, 1.0, 5800, 1800, 0))],
    "sh": [(0.10, (*PALATE, 0, 0, 1.0, 3300, 1500, 0))],
    "f": [(0.09, (*LIPS, 0, 0, 0.25, 6500, 5000, 0))],
    "z": [(0.08, (*TEETH, 0.35, 0, 0.5, 5800, 1800, 0))],
    "v": [(0.06, (*LIPS, 0.4, 0, 0.15, 6500, 5000, 0))],
    "h": [(0.06, (None, None, None, 0.05, 1.5, 0, 2000, 2000, 0))],
    "p": [(0.06, (*LIPS, 0, 0, 0, 1000, 1500, 0)), (0.010, (*LIPS, 0, 0.3, 0.6, 1000, 1500, 0)),
          (0.03, (*LIPS, 0, 1.0, 0, 1000, 1500, 0))],
    "t": [(0.06, (*TEETH, 0, 0, 0, 4500, 2500, 0)), (0.012, (*TEETH, 0, 0.2, 1.2, 4500, 2500, 0)),
          (0.03, (*TEETH, 0, 1.0, 0.1, 4500, 2500, 0))],
    "k": [(0.06, (*PALATE, 0, 0, 0, 2000, 900, 0)), (0.016, (*PALATE, 0, 0.2, 1.2, 2000, 900, 0)),
          (0.04, (*PALATE, 0, 1.0, 0.1, 2000, 900, 0))],
    "b": [(0.05, (*LIPS, 0.12, 0, 0, 1000, 1500, 0)), (0.008, (*LIPS, 0.4, 0.1, 0.4, 1000, 1500, 0))],
    "d": [(0.05, (*TEETH, 0.12, 0, 0, 4000, 2500, 0)), (0.010, (*TEETH, 0.4, 0.1, 0.7, 4000, 2500, 0))],
    "g": [(0.05, (*PALATE, 0.12, 0, 0, 2000, 900, 0)), (0.012, (*PALATE, 0.4, 0.1, 0.7, 2000, 900, 0))],
    "m": [(0.07, (*LIPS, 0.45, 0, 0, 2000, 2000, 1))],
    "n": [(0.07, (*TEETH, 0.45, 0, 0, 2000, 2000, 1))],
    "l": [(0.06, (330, 1100, 2800, 0.6, 0, 0, 2000, 2000, 0))],
    "r": [(0.06, (320, 1100, 1450, 0.6, 0, 0, 2000, 2000, 0))],
    "w": [(0.06, (290, 650, 2150, 0.6, 0, 0, 2000, 2000, 0))],
    "y": [(0.06, (270, 2150, 3000, 0.6, 0, 0, 2000, 2000, 0))],
}  # fmt: skip
ONSETS, CODAS = tuple(CONSONANTS), ("s", "sh", "f", "t", "k", "m", "n", "l", "z")
SILENCE = (None, None, None, 0, 0, 0, 2000, 2000, 0)
# upper resonances of the tract and the bandwidths of all eight, Hz
UPPER = np.array((3500.0, 4500.0, 5500.0, 6500.0, 7500.0))
BANDWIDTHS = np.array((70.0, 90.0, 130.0, 190.0, 260.0, 340.0, 420.0, 500.0))


@dataclass(frozen=True)
class Speaker:
    """A voice: what stays the same in all that one speaker says."""

    index: int
    f0_hz: float  # median pitch
    intonation: float  # spread of the pitch, semitones
    formants: np.ndarray  # factors on the eight resonances: length and shape of the tract
    vowels: np.ndarray  # an accent: factors on F1 to F3 of every vowel, (vowels, 3)
    bandwidth: float  # factor on all bandwidths
    hiss: float  # factor on the frequency of fricatives
    nose_hz: float  # resonance of the nose
    glottal: float  # glottal formant over pitch: low for a lax voice
    tilt_hz: float  # the glottal spectrum falls twice as fast from here on
    breath: float  # amplitude of the noise at the glottis
    jitter: float  # spread of the period, share of it
    shimmer: float  # spread of the pulses' amplitude
    creak: float  # every second pulse is so much weaker
    rate: float  # syllables per second
    habits: np.ndarray  # probabilities of the vowels, then of the consonants


def draw_speaker(seed: int, index: int) -> Speaker:
    """Draw speaker number `index` of the population `seed`."""
    draw = np.random.default_rng([seed, 0, index])
    pitch, size = draw.uniform(0, 1, 2)
    # short tracts, of high resonances, tend to go with high voices, with many exceptions
    tract = 0.78 * 1.6 ** (0.3 * pitch + 0.7 * size)
    return Speaker(
        index=index,
        f0_hz=80 * 3.75**pitch,
        intonation=draw.uniform(0.4, 1.6),
        formants=tract * np.exp(draw.normal(0, (0.10, 0.10, 0.10, 0.08, 0.06, 0.04, 0.03, 0.02))),
        vowels=np.exp(draw.normal(0, 0.03, VOWELS.shape)),
        bandwidth=0.6 * 3.0 ** draw.uniform(),
        hiss=np.exp(draw.normal(0, 0.1)),
        nose_hz=draw.uniform(750, 1150),
        glottal=draw.uniform(0.7, 1.6),
        tilt_hz=800 * 5.0 ** draw.uniform(),
        breath=0.03 * 12.0 ** draw.uniform(),
        jitter=0.003 * 5.0 ** draw.uniform(),
        shimmer=draw.uniform(0.02, 0.12),
        creak=max(0.0, draw.uniform(-0.3, 0.3)),
        rate=2.8 * 2.2 ** draw.uniform(),
        habits=np.concatenate([draw.dirichlet(np.full(n, 2.0)) for n in (len(VOWELS), len(CONSONANTS))]),
    )


def synthesise(speaker: Speaker, session: int, utterance: int, seconds: float, seed: int) -> np.ndarray:
    """Return an utterance (samples,), float32 within [-0.95, 0.95] at 16 kHz, as recorded in a session.

    A session has its own room, microphone and noise, and the voice's form of the day: pitch, effort and pace.
    """
    session_draw = np.random.default_rng([seed, 1, speaker.index, session])
    draw = np.random.default_rng([seed, 2, speaker.index, session, utterance])
    recording = Recording.draw(session_draw)
    semitones, effort, pace = session_draw.normal(0, 1, 3)
    wave = speak(speaker, seconds, draw, 2 ** (0.3 * semitones / 12), np.exp(0.1 * effort), np.exp(0.06 * pace))
    return recording.record(wave, draw)


def speak(speaker, seconds, draw, pitch=1.0, effort=1.0, pace=1.0) -> np.ndarray:
    """Return clean speech (samples,); `pitch`, `effort`, `pace` are factors on F0, brightness and rate."""
    samples = round(seconds * SAMPLE_RATE)
    phones, f0 = plan(speaker, samples // HOP + 2, draw, pace)
    pulses, noise = excite(speaker, phones, f0 * pitch, len(phones) * HOP, draw)
    return articulate(speaker, phones, f0 * pitch, effort, pulses, noise)[:samples]


def plan(speaker: Speaker, frames: int, draw: np.random.Generator, pace: float):
    """Draw phrases of syllables; return the phones' demands (frames, 9) and F0 in Hz (frames,), both smooth.

    Pitch falls along a phrase and jumps up and down between syllables.
    """
    rows, lengths, centres, pitches, time = [], [], [], [], 0.0
    end = frames / FRAMES_PER_S
    vowels = VOWELS * speaker.vowels
    often = [np.cumsum(part)[:-1] for part in np.split(speaker.habits, [len(VOWELS)])]

    def say(seconds, phone, place):
        nonlocal time
        rows.append([p if f is None else f for f, p in zip(phone, place)] + list(phone[3:]))
        lengths.append(max(1, round(seconds * FRAMES_PER_S)))
        time += lengths[-1] / FRAMES_PER_S

    say(draw.uniform(0.02, 0.08), SILENCE, vowels[-1])
    while time < end:
        syllables = int(draw.integers(4, 10))
        for number in range(syllables):
            vowel = vowels[np.searchsorted(often[0], draw.random())]
            stretch = 5.0 / (speaker.rate * pace) * np.exp(draw.normal(0, 0.2))
            if draw.random() < 0.85:
                for seconds, phone in CONSONANTS[ONSETS[np.searchsorted(often[1], draw.random())]]:
                    say(seconds * min(stretch, 1.3), phone, vowel)
            centres.append(time + 0.05)
            pitches.append(0.8 - 1.6 * number / syllables + draw.normal(0, 0.8))
            say(0.13 * stretch, (*vowel, 1, 1, 0, 2000, 2000, 0), vowel)
            if draw.random() < 0.3:
                for seconds, phone in CONSONANTS[CODAS[draw.integers(len(CODAS))]]:
                    say(seconds * min(stretch, 1.3), phone, vowel)
        say(draw.uniform(0.08, 0.3), SILENCE, vowel)
    phones = np.repeat(np.array(rows, dtype=float), lengths, axis=0)[:frames]
    # tongue and jaw need about 50 ms, glottis and lips less
    phones[:, :VOICE] = gaussian_filter1d(phones[:, :VOICE], 4.0, axis=0, mode="nearest")
    phones[:, VOICE:] = gaussian_filter1d(phones[:, VOICE:], 1.2, axis=0, mode="nearest")
    semitones = np.interp(np.arange(frames) / FRAMES_PER_S, centres, pitches)
    semitones = speaker.intonation * gaussian_filter1d(semitones, 8.0, mode="nearest")
    return phones, speaker.f0_hz * 2 ** ((semitones - np.median(semitones)) / 12)


def excite(speaker: Speaker, phones, f0, samples: int, draw: np.random.Generator):
    """Return the glottal pulses and the noise, (samples,) each; the pulses are not tied to whole samples."""
    time = np.arange(samples)
    phase = np.cumsum(np.interp(time, np.arange(len(f0)) * HOP, f0 / SAMPLE_RATE))
    number = np.arange(1, int(phase[-1]))
    period = 1 / np.interp(number, phase, np.gradient(phase))
    at = np.interp(number, phase, time) + speaker.jitter * period * draw.standard_normal(len(number))
    size = period * np.interp(at, np.arange(len(f0)) * HOP, phones[:, VOICE])
    size *= (1 + speaker.shimmer * draw.standard_normal(len(number))) * (1 - speaker.creak * (number % 2))
    # a band-limited impulse each: a windowed sinc of 16 samples
    taps = np.arange(-7, 9)
    offset = taps - (at % 1)[:, None]
    kernel = np.sinc(offset) * np.cos(np.pi * offset / 17) ** 2 * size[:, None]
    where = (at.astype(int)[:, None] + taps).clip(0, samples - 1)
    pulses = np.bincount(where.ravel(), kernel.ravel(), samples)
    # the noise breathes with the glottis
    voiced = np.interp(time, np.arange(len(f0)) * HOP, phones[:, VOICE])
    noise = draw.standard_normal(samples) * (1 - 0.6 * voiced * np.cos(np.pi * phase) ** 2)
    return pulses, noise


def resonance(hz, width_hz) -> np.ndarray:
    """Return the polynomial 1 - 2 r cos(w) z^-1 + r^2 z^-2 (frames, 3) of a resonance, scaled to 1 at 0 Hz."""
    radius = np.exp(-np.pi * width_hz / SAMPLE_RATE)
    polynomial = np.stack(np.broadcast_arrays(1.0, -2 * radius * np.cos(2 * np.pi * hz / SAMPLE_RATE), radius**2), -1)
    return polynomial / polynomial.sum(-1, keepdims=True)


def product(polynomials) -> np.ndarray:
    """Multiply polynomials (frames, 3) of one frame with each other: (frames, 2 * count + 1)."""
    total = polynomials[0]
    for factor in polynomials[1:]:
        longer = np.zeros((len(total), total.shape[1] + 2))
        for power in range(3):
            longer[:, power : power + total.shape[1]] += factor[:, power, None] * total
        total = longer
    return total


def curve(polynomial) -> np.ndarray:
    """Return polynomials in z^-1 (frames, terms) at the frequencies of the frames' FFT, (frames, bins)."""
    return rfft(polynomial, FFT).astype(np.complex64)


def peak_one(curves) -> np.ndarray:
    """Scale curves (frames, bins) to a largest magnitude of 1 each."""
    return curves / np.sqrt((curves.real**2 + curves.imag**2).max(axis=1, keepdims=True))


def articulate(speaker: Speaker, phones, f0, effort: float, pulses, noise) -> np.ndarray:
    """Filter the sources (samples,) with a tract that moves from frame to frame, and return the wave (samples,)."""
    frames = len(phones)
    hz = np.concatenate([phones[:, :VOICE], np.broadcast_to(UPPER, (frames, 5))], axis=1) * speaker.formants
    # a short tract has fewer resonances in the band
    hz = hz[:, hz[0] < 7700]
    # the nose is a side branch: resonances widen, and a zero moves away from the nose's pole, which it else cancels
    nasal = phones[:, NASAL]
    width = BANDWIDTHS[: hz.shape[1]] * speaker.bandwidth * (1 + nasal[:, None])
    nose = np.full(frames, speaker.nose_hz)
    poles = [resonance(hz[:, i], width[:, i]) for i in range(hz.shape[1])] + [resonance(nose, 120.0)]
    tract = curve(resonance(nose * (1 + 0.5 * nasal), 120.0)) / curve(product(poles))

    delay = delay_by(1)
    # the pulse rises as a resonance run backwards in time and closes as a first-order low-pass
    centre = f0 * speaker.glottal
    corner = np.float32(np.exp(-2 * np.pi * speaker.tilt_hz * effort / SAMPLE_RATE))
    glottis = peak_one(np.conj((1 - delay) / curve(resonance(centre, centre)))) * ((1 - corner) / (1 - corner * delay))
    breath = speaker.breath * phones[:, BREATH, None].astype(np.float32) * (1 - np.float32(0.3) * delay)
    centre = np.minimum(phones[:, HISS_HZ] * speaker.hiss, 7500)
    mouth = peak_one((1 - delay) ** 2 / curve(resonance(centre, phones[:, HISS_WIDTH])))
    mouth *= 0.5 * phones[:, HISS, None].astype(np.float32)

    window = np.hanning(2 * HOP + 1)[:-1].astype(np.float32)
    sources = np.pad(np.stack([pulses, noise]).astype(np.float32), ((0, 0), (HOP, HOP)))
    blocks = np.lib.stride_tricks.sliding_window_view(sources, 2 * HOP, axis=1)[:, ::HOP]
    voice, hiss = rfft(blocks[:, :frames] * window, FFT)
    # the start of a frame lies LEAD samples into its stretch of sound
    spectrum = (tract * (glottis * voice + breath * hiss) + mouth * hiss) * delay_by(LEAD)
    return overlap_add(irfft(spectrum, FFT), HOP)[LEAD + HOP :][: frames * HOP]


def delay_by(samples: int) -> np.ndarray:
    """Return the factors (bins,) that delay a spectrum of FFT points."""
    return np.exp(-2j * np.pi * samples * np.arange(FFT // 2 + 1) / FFT).astype(np.complex64)


def overlap_add(frames: np.ndarray, hop: int) -> np.ndarray:
    """Add `frames` (frames, length) that start `hop` samples apart; return the wave."""
    count, length = frames.shape
    pieces = -(-length // hop)
    padded = np.pad(frames, ((0, 0), (0, pieces * hop - length))).reshape(count, pieces, hop)
    wave = np.zeros((count + pieces, hop), frames.dtype)
    for piece in range(pieces):
        wave[piece : piece + count] += padded[:, piece]
    return wave.ravel()
