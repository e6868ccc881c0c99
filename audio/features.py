"""Features of a wave: the front ends of the speaker networks and the normalisations of what they give.

Entry points: SpeakerMel, Filterbank, MFCC, WaveMFCC, KaldiFbank (modules), front_end_of(name), normalisations below."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from audio.companding import inverse_mu_law

SAMPLE_RATE = 16000
N_FFT = 512
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
FLOOR = 1e-6  # added to the mel power before the logarithm
WINDOWS = {"hamming": torch.hamming_window, "hann": torch.hann_window}


def make_window(name):
    """Return the periodic 400-sample window called "hamming" or "hann"; ValueError for another name."""
    if name not in WINDOWS:
        raise ValueError(f"window {name!r} is unknown, choose from {', '.join(WINDOWS)}")
    return WINDOWS[name](WINDOW_SAMPLES, periodic=True)


def mel_edges(n_mels, low_hz, high_hz):
    """Return n_mels + 2 frequencies in Hz, float64, equally spaced in HTK mel = 2595 log10(1 + f/700)."""
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    mel = torch.linspace(low, high, n_mels + 2, dtype=torch.float64)
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def mel_filterbank(n_mels, bins=N_FFT // 2 + 1, low_hz=0.0, high_hz=SAMPLE_RATE / 2, sample_rate=SAMPLE_RATE):
    """Return triangular filters (bins, n_mels), equally spaced in HTK mel, each of peak 1 and linear in Hz."""
    edges = mel_edges(n_mels, low_hz, high_hz)
    frequencies = torch.linspace(0.0, sample_rate / 2, bins, dtype=torch.float64).unsqueeze(1)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_(min=0.0).float()


def power_spectrogram(wave, window, centred=True):
    """Return the squared magnitude (batch, 257, frames) of the 512-point STFT with hop 160 of `wave` (batch, samples).

    `window` (400 values) sits in the middle of the 512 points. Centred: 256 reflected samples on both ends, which
    gives 1 + samples // 160 frames; otherwise the frames lie inside the wave.
    """
    if centred:
        wave = F.pad(wave.unsqueeze(1), (N_FFT // 2, N_FFT // 2), mode="reflect").squeeze(1)
    spectrum = torch.stft(wave, N_FFT, HOP_SAMPLES, len(window), window, center=False, return_complex=True)
    return spectrum.real.square() + spectrum.imag.square()


def instance_norm(mel, epsilon=1e-5):
    """Subtract the mean over time of every band of `mel` (batch, bands, frames), divide by sqrt(variance + epsilon)."""
    variance, mean = torch.var_mean(mel, dim=-1, correction=0, keepdim=True)
    return (mel - mean) * torch.rsqrt(variance + epsilon)


def exact_product(matrix, x):
    """Return matrix @ x in full float32 precision, also where TF32 is allowed, which would leave three digits."""
    if x.is_cuda:  # such products are small enough for float64
        return (matrix.double() @ x.double()).float()
    return matrix @ x


def cosine_transform(coefficients, bands):
    """Return the orthonormal DCT-II (coefficients, bands)."""
    order, band = torch.arange(coefficients, dtype=torch.float64)[:, None], torch.arange(bands) + 0.5
    cosines = (2.0 / bands) ** 0.5 * torch.cos(math.pi / bands * order * band)
    cosines[0] *= 0.5**0.5
    return cosines.float()


class PreEmphasis(nn.Module):
    """y[t] = x[t] - 0.97 x[t-1] with x[-1] := x[1], of waves (batch, samples)."""

    def __init__(self, coefficient=0.97):
        super().__init__()
        self.register_buffer("flipped_filter", torch.tensor([[[-coefficient, 1.0]]]))

    def forward(self, wave):
        previous = torch.cat([wave[:, 1:2], wave[:, :-1]], dim=1)
        return wave * self.flipped_filter[0, 0, 1] + previous * self.flipped_filter[0, 0, 0]


class Spectrogram(nn.Module):
    """power_spectrogram with its window kept as a buffer, under the name that published checkpoints use."""

    def __init__(self, window):
        super().__init__()
        self.register_buffer("window", make_window(window))

    def forward(self, wave):
        return power_spectrogram(wave, self.window)


class MelScale(nn.Module):
    """Sum a power spectrogram (batch, 257, frames) into mel bands (batch, n_mels, frames)."""

    def __init__(self, n_mels):
        super().__init__()
        self.register_buffer("fb", mel_filterbank(n_mels))

    def forward(self, power):
        return exact_product(self.fb.T, power)


class MelSpectrogram(nn.Module):
    """Mel power (batch, n_mels, frames) of a wave (batch, samples)."""

    def __init__(self, window, n_mels):
        super().__init__()
        self.spectrogram = Spectrogram(window)
        self.mel_scale = MelScale(n_mels)

    def forward(self, wave):
        return self.mel_scale(self.spectrogram(wave))


class SpeakerMel(nn.Module):
    """Mel front end of the speaker networks: (log) mel power, normalised per example and band over time.

    The buffers are called `spectrogram.window` and `mel_scale.fb`; with pre-emphasis `0.flipped_filter`,
    `1.spectrogram.window` and `1.mel_scale.fb`, as in published checkpoints. All is float32, without gradient, also
    under autocast.
    """

    LEAST_SAMPLES = 257  # what 256 reflected samples need

    def __init__(self, pre_emphasis=False, window="hamming", n_mels=40, log=True):
        super().__init__()
        self.log = log
        self.pre_emphasis = pre_emphasis
        stages = MelSpectrogram(window, n_mels)
        if pre_emphasis:
            self.add_module("0", PreEmphasis())
            self.add_module("1", stages)
        else:
            self.spectrogram, self.mel_scale = stages.spectrogram, stages.mel_scale

    def mel(self, wave):
        """Return mel power + 1e-6, or its natural logarithm, (batch, n_mels, frames) of `wave` (batch, samples)."""
        with torch.no_grad(), torch.autocast(wave.device.type, enabled=False):
            wave = wave.float()
            if self.pre_emphasis:
                mel = self.get_submodule("1")(self.get_submodule("0")(wave))
            else:
                mel = self.mel_scale(self.spectrogram(wave))
            return (mel + FLOOR).log_() if self.log else mel + FLOOR

    def forward(self, wave):
        """Return the normalised features (batch, n_mels, frames) of `wave` (batch, samples)."""
        with torch.no_grad(), torch.autocast(wave.device.type, enabled=False):
            return instance_norm(self.mel(wave))


# ---- front ends of recognition with limited data: no state in checkpoints, float32, no gradient, also under autocast


def exact(method):
    """Run `method` of a front end without gradient and outside autocast."""

    def run(self, x, *arguments):
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return method(self, x.float(), *arguments)

    return functools.wraps(method)(run)


def centred_power(wave, window, hop, pad_mode):
    """Return the power spectrogram (batch, len(window) // 2 + 1, 1 + samples // hop) of `wave` (batch, samples)."""
    spectrum = torch.stft(wave, len(window), hop, window=window, center=True, pad_mode=pad_mode, return_complex=True)
    return spectrum.real.square() + spectrum.imag.square()


def decibels(power, of_batch=False):
    """Return 10 log10 of `power` (batch, bands, frames), at least 1e-10 and not below its item's maximum - 80 dB.

    With `of_batch` the maximum is that of the whole batch: what a clip gives then depends on its company.
    """
    level = 10.0 * power.clamp(min=1e-10).log10()
    return torch.maximum(level, level.amax(dim=(0, 1, 2) if of_batch else (1, 2), keepdim=True) - 80.0)


def subtract_mean(features, lengths=None):
    """Subtract from each band of `features` (batch, bands, frames) its mean over the first `lengths` (batch) frames."""
    return features - _mean(features, lengths)


def standardise(features, lengths=None, added_to_std=1e-5, added_to_variance=0.0):
    """Subtract the mean of every band and divide by its unbiased standard deviation over the frames that count."""
    mean = _mean(features, lengths)
    if lengths is None:
        variance = features.var(dim=2, keepdim=True)
    else:
        squares = (features - mean).square() * _valid(features, lengths)
        variance = squares.sum(dim=2, keepdim=True) / (lengths.view(-1, 1, 1) - 1)
    return (features - mean) / ((variance + added_to_variance).sqrt() + added_to_std)


def _valid(features, lengths):
    return (torch.arange(features.shape[2], device=features.device) < lengths.unsqueeze(1)).unsqueeze(1)


def _mean(features, lengths):
    if lengths is None:
        return features.mean(dim=2, keepdim=True)
    return (features * _valid(features, lengths)).sum(dim=2, keepdim=True) / lengths.view(-1, 1, 1)


class Filterbank(nn.Module):
    """SpeechBrain's log filterbank in dB: Hamming window of 25 ms, hop 10 ms, 0 to 8000 Hz, then mean subtraction.

    The triangles are symmetric in Hz: both sides of one are as wide as the distance to its lower neighbour.
    """

    def __init__(self, n_mels=80):
        super().__init__()
        edges = mel_edges(n_mels, 0.0, SAMPLE_RATE / 2)
        frequencies = torch.linspace(0.0, SAMPLE_RATE / 2, WINDOW_SAMPLES // 2 + 1, dtype=torch.float64)
        distance = (frequencies - edges[1:-1, None]).abs() / (edges[1:-1] - edges[:-2])[:, None]
        self.register_buffer("filters", (1.0 - distance).clamp_(min=0.0).float(), persistent=False)
        self.register_buffer("window", make_window("hamming"), persistent=False)

    @staticmethod
    def least_samples(frames):
        """Return the samples that give so many frames."""
        return HOP_SAMPLES * (frames - 1)

    @exact
    def forward(self, wave):
        """Return (batch, n_mels, 1 + samples // 160) of `wave` (batch, samples)."""
        power = centred_power(wave, self.window, HOP_SAMPLES, "constant")
        return decibels(exact_product(self.filters, power))

    @exact
    def normalise(self, features, lengths=None):
        """Subtract the mean of every band over the first `lengths` (batch) frames."""
        return subtract_mean(features, lengths)


class MFCC(nn.Module):
    """Cepstral coefficients of torchaudio's defaults: Hann window of n_fft samples, hop half of it, 128 mel bands.

    The floor of 80 dB below the maximum is that of each utterance, which torchaudio takes over the whole batch.
    """

    def __init__(self, n_mfcc=80, n_mels=128, n_fft=400, hop=200, sample_rate=SAMPLE_RATE, added_to_std=1e-5):
        super().__init__()
        self.added_to_std = added_to_std
        if n_mfcc > n_mels:
            raise ValueError(f"n_mels {n_mfcc}: at most {n_mels} coefficients come from {n_mels} mel bands")
        self.hop, self.n_fft = hop, n_fft
        filters = mel_filterbank(n_mels, n_fft // 2 + 1, 0.0, sample_rate / 2, sample_rate)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("cosines", cosine_transform(n_mfcc, n_mels), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft, periodic=True), persistent=False)

    def least_samples(self, frames):
        """Return the samples that give so many frames and that the reflection at the ends needs."""
        return max(self.hop * (frames - 1), self.n_fft // 2 + 1)

    @exact
    def forward(self, wave):
        """Return (batch, n_mfcc, 1 + samples // hop) of `wave` (batch, samples)."""
        power = centred_power(wave, self.window, self.hop, "reflect")
        return exact_product(self.cosines, decibels(exact_product(self.filters, power)))

    @exact
    def normalise(self, features, lengths=None):
        """Bring every coefficient to mean 0 and standard deviation 1 over the first `lengths` (batch) frames."""
        return standardise(features, lengths, self.added_to_std)


class WaveMFCC(nn.Module):
    """13 cepstral coefficients with first and second differences, 39 channels each 10 ms, with gradient to the wave.

    Two versions: 20 ms windows, 40 mel bands and natural logarithm, or 25 ms, 80 bands, power divided by that of the
    window and decibels. The constants lie in checkpoints under torchaudio's names.

    Args:
        companded: the waves are mu-law companded.
    """

    def __init__(self, version=1, companded=False):
        super().__init__()
        n_fft, n_mels = {1: (320, 40), 2: (400, 80)}[version]
        self.version, self.companded = version, companded
        self.floor_of_batch = False  # version 2: the floor under the loudest clip of the batch instead of each clip
        self.least_samples = n_fft // 2 + 1  # what the reflection at the ends needs
        self.register_buffer("dct_mat", cosine_transform(13, n_mels).T.contiguous())
        self.MelSpectrogram = nn.Module()
        self.MelSpectrogram.spectrogram, self.MelSpectrogram.mel_scale = nn.Module(), nn.Module()
        self.MelSpectrogram.spectrogram.register_buffer("window", torch.hann_window(n_fft, periodic=True))
        self.MelSpectrogram.mel_scale.register_buffer("fb", mel_filterbank(n_mels, n_fft // 2 + 1))

    def forward(self, wave):
        """Return (batch, 39, 1 + samples // 160) of `wave` (batch, samples)."""
        with torch.autocast(wave.device.type, enabled=False):
            wave = inverse_mu_law(wave.float()) if self.companded else wave.float()
            window = self.MelSpectrogram.spectrogram.window
            power = centred_power(wave, window, HOP_SAMPLES, "reflect")
            if self.version == 2:
                power = power / window.square().sum()
            mel = exact_product(self.MelSpectrogram.mel_scale.fb.T, power)
            level = (mel + FLOOR).log() if self.version == 1 else decibels(mel, self.floor_of_batch)
            cepstrum = exact_product(self.dct_mat.T, level)
            first = difference(cepstrum)
            return torch.cat([cepstrum, first, difference(first)], 1)


def difference(features):
    """Return (x[t - 1] - x[t + 1]) / 2 over the last dimension of `features`, the ends repeated."""
    padded = torch.cat([features[..., :1], features, features[..., -1:]], -1)
    return (padded[..., :-2] - padded[..., 2:]) / 2


class KaldiFbank(nn.Module):
    """Kaldi's log mel filterbank without dither and energy; only whole frames, the triangles linear in mel.

    Args:
        window: "hamming" or "povey" (Hann ** 0.85).
        normalisation: of the features over time, "mean" or "mean_variance".
    """

    def __init__(
        self, n_mels=80, window="hamming", normalisation="mean", sample_rate=SAMPLE_RATE, frame_length_ms=25,
        frame_shift_ms=10,
    ):  # fmt: skip
        super().__init__()
        if window not in ("hamming", "povey"):
            raise ValueError(f"window {window!r} is unknown, choose from hamming, povey")
        if normalisation not in ("mean", "mean_variance"):
            raise ValueError(f"normalisation {normalisation!r} is unknown, choose from mean, mean_variance")
        self.normalisation = normalisation
        self.samples, self.hop = (int(sample_rate * ms / 1000) for ms in (frame_length_ms, frame_shift_ms))
        self.n_fft = 1 << (self.samples - 1).bit_length()
        hamming = torch.hamming_window(self.samples, periodic=False, dtype=torch.float64)
        povey = torch.hann_window(self.samples, periodic=False, dtype=torch.float64) ** 0.85
        self.register_buffer("window", (hamming if window == "hamming" else povey).float(), persistent=False)
        filters = kaldi_filters(n_mels, self.n_fft, 20.0, sample_rate / 2, sample_rate)
        self.register_buffer("filters", filters, persistent=False)

    def least_samples(self, frames):
        """Return the samples that give so many frames."""
        return self.samples + self.hop * (frames - 1)

    @exact
    def forward(self, wave):
        """Return (batch, n_mels, 1 + (samples - 400) // 160 at 16 kHz) of `wave` (batch, samples)."""
        frames = wave.unfold(1, self.samples, self.hop)
        frames = frames - frames.mean(dim=2, keepdim=True)
        previous = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        spectrum = torch.fft.rfft((frames - 0.97 * previous) * self.window, self.n_fft)[:, :, :-1]
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
        return exact_product(self.filters, power).clamp(min=torch.finfo(torch.float32).eps).log()

    @exact
    def normalise(self, features, lengths=None):
        """Subtract the mean of every band over the first `lengths` (batch) frames, and divide by its deviation."""
        if self.normalisation == "mean":
            return subtract_mean(features, lengths)
        return standardise(features, lengths, added_to_std=0.0, added_to_variance=1e-8)


def kaldi_filters(n_mels, n_fft, low_hz, high_hz, sample_rate=SAMPLE_RATE):
    """Return triangles (n_mels, n_fft // 2) that are linear in mel = 1127 ln(1 + f/700), without the Nyquist bin."""
    low, high = (1127.0 * math.log1p(hz / 700.0) for hz in (low_hz, high_hz))
    edges = torch.linspace(low, high, n_mels + 2, dtype=torch.float64).unsqueeze(1)
    mel = 1127.0 * torch.log1p(torch.arange(n_fft // 2, dtype=torch.float64) * sample_rate / n_fft / 700.0)
    distance = (mel - edges[1:-1]).abs() / (edges[1] - edges[0])
    return (1.0 - distance).clamp_(min=0.0).float()


FRONT_ENDS = {"mfcc": MFCC, "fbank": Filterbank, "kaldi": KaldiFbank}


def front_end_of(name, n_mels):
    """Return the front end called `name` with `n_mels` bands or coefficients; ValueError for another name."""
    if name not in FRONT_ENDS:
        raise ValueError(f"--front_end {name}: one of {', '.join(FRONT_ENDS)}")
    return FRONT_ENDS[name](n_mels)
