"""Features of a wave: the mel front end of the speaker networks, its instance normalisation, and SpecAugment.

Entry points: SpeakerMel (module), power_spectrogram, instance_norm and spec_augment (functions)."""

import torch
import torch.nn.functional as F
from torch import nn

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


def mel_filterbank(n_mels, bins=N_FFT // 2 + 1, low_hz=0.0, high_hz=SAMPLE_RATE / 2):
    """Return triangular filters (bins, n_mels), equally spaced in HTK mel = 2595 log10(1 + f/700), each of peak 1."""

    def to_mel(hz):
        return 2595.0 * torch.log10(1.0 + torch.as_tensor(hz, dtype=torch.float64) / 700.0)

    mel_edges = torch.linspace(float(to_mel(low_hz)), float(to_mel(high_hz)), n_mels + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (mel_edges / 2595.0) - 1.0)
    frequencies = torch.linspace(0.0, SAMPLE_RATE / 2, bins, dtype=torch.float64).unsqueeze(1)
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
        if power.is_cuda:  # TF32, where it is allowed, would leave three digits; this product is cheap in float64
            return (self.fb.T.double() @ power.double()).float()
        return self.fb.T @ power


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


def spec_augment(mel, time_masks, time_mask_frames, freq_masks, freq_mask_bands, probability, generator=None):
    """Return `mel` (batch, bands, frames), normalised, with random stretches of time and of bands set to 0, its mean.

    Every item is masked with `probability`, and then by all its masks: each has an integer width uniform in 0..maximum
    (`time_mask_frames`, at most a fifth of the frames, or `freq_mask_bands`) and a start uniform in 0..size - width.
    `generator` may live on the CPU or on the device of `mel`; without one the global generator of that device draws.
    SpecAugment without time warping (Park et al., Interspeech 2019, arXiv 1904.08779).
    """
    batch, bands, frames = mel.shape
    masks = time_masks + freq_masks
    if masks == 0:
        return mel
    source = mel.device if generator is None else generator.device
    draws = torch.rand(batch, 2 * masks + 1, generator=generator, device=source).to(mel.device)
    width_draw, start_draw, chosen = draws[:, :masks], draws[:, masks:-1], draws[:, -1:] < probability
    hidden = torch.zeros(1, 1, 1, dtype=torch.bool, device=mel.device)
    if time_masks:
        widest = min(time_mask_frames, frames // 5)
        time = _stretches(width_draw[:, :time_masks], start_draw[:, :time_masks], widest, frames)
        hidden = hidden | (time & chosen).unsqueeze(1)
    if freq_masks:
        widest = min(freq_mask_bands, bands)
        freq = _stretches(width_draw[:, time_masks:], start_draw[:, time_masks:], widest, bands)
        hidden = hidden | (freq & chosen).unsqueeze(2)
    return mel.masked_fill(hidden, 0.0)


def _stretches(width_draw, start_draw, widest, size):
    """Turn uniform draws (batch, masks) into a boolean (batch, size), True inside any of the masks."""
    width = (width_draw * (widest + 1)).floor()
    start = (start_draw * (size - width + 1)).floor()
    position = torch.arange(size, device=width.device)
    inside = (position >= start.unsqueeze(2)) & (position < (start + width).unsqueeze(2))
    return inside.any(dim=1)
