"""Log-mel features of the feature autoencoders: exact, in batches of ragged waves, with normalisation and energy VAD.
Entry points: LogMel, sliding_normalisation, energy_vad, frames_of, frame_mask.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from audio.features import exact_product, kaldi_filters

SAMPLE_RATE = 16000
FRAME_SAMPLES, SHIFT_SAMPLES = 400, 160  # 25 ms every 10 ms
SCALE = 32768  # the front end works on the numbers of 16-bit files
FLOOR, ENERGY_FLOOR = 1e-10, 1e-15  # added before logarithms
POLE = 0.999  # of the filter that removes the mean
BLOCK = 2048  # samples summed at once there, over which 1 / POLE grows to 8
CARRIED = 11  # blocks before one that still reach it: POLE ** (11 * 2048) = 2e-10
CACHED_FRAMES = 800  # computed at once on a CPU, whose cache holds what comes in between
GRIDS = ("511", "512")


def frames_of(samples, frame=FRAME_SAMPLES, shift=SHIFT_SAMPLES, snip_edges=False):
    """Return the frames of waves of so many samples, an int or an integer tensor as given.

    samples / shift, a half rounded to the even number; with `snip_edges` the frames that lie within the wave.
    """
    if snip_edges:
        inside = (samples - frame) // shift + 1
        return inside.clamp(min=0) if isinstance(samples, torch.Tensor) else max(inside, 0)
    if isinstance(samples, torch.Tensor):
        return (samples.double() / shift).round().long()
    return round(samples / shift)


def frame_mask(counts, frames):
    """Return (batch, frames), True for the first `counts` (batch,) frames of each row."""
    return torch.arange(frames, device=counts.device) < counts.unsqueeze(1)


# ---------------------------------------------------------------- signal


def reflected(wave, lengths, before, after):
    """Return `wave` (batch, samples) with `before` and `after` samples mirrored at the ends of each row.

    Row b ends after `lengths[b]` samples, and its mirror image follows there. One shorter than what is mirrored is
    mirrored again and again.
    """
    end = (lengths - 1).clamp(min=0).unsqueeze(1)
    position = torch.cat([torch.arange(-before, 0), torch.arange(after)]).to(wave.device).repeat(len(wave), 1)
    position[:, before:] += lengths.unsqueeze(1)
    period = (2 * end).clamp(min=1)
    source = position.remainder(period)
    mirror = wave.gather(1, torch.minimum(source, period - source).clamp(max=wave.shape[1] - 1))
    out = F.pad(wave, (before, after))
    return out.scatter_(1, position + before, mirror)


@functools.lru_cache(maxsize=8)
def _noise(samples):
    # on the CPU, so that the features do not depend on the device
    return torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def dithered(signal, samples, amount):
    """Add normal noise times `amount` to the rows of `signal`, the same to all rows that have as many `samples`."""
    noise = torch.zeros_like(signal)
    counts = samples.cpu()
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().squeeze(1).to(signal.device)
        noise[rows, :count] = _noise(count).to(signal.device)
    return signal.add(noise, alpha=amount)


def remove_dc(signal):
    """Return y[n] = x[n] - x[n-1] + 0.999 y[n-1] of `signal` (batch, samples), from a state of zero in each row.

    That is x[n] - 0.001 s[n-1] with the leaky sum s[n] = x[n] + 0.999 s[n-1], and the factor leaves float32 exact
    enough. Within a block s[n] is 0.999^n times the cumulative sum of x[n] / 0.999^n and of what the blocks before
    left.
    """
    power = (POLE ** torch.arange(BLOCK, dtype=torch.float64)).to(signal)
    fade = (POLE ** (BLOCK * torch.arange(CARRIED - 1, -1, -1, dtype=torch.float64))).to(signal)
    blocks = F.pad(signal, (0, -signal.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK)).mul_(power.reciprocal())
    inside = blocks.cumsum_(2)
    ends = F.pad(inside[:, :-1, -1] * power[-1], (CARRIED, 0))
    before = (ends.unfold(1, CARRIED, 1) * fade).sum(2, keepdim=True)
    summed = inside.add_(before * POLE).mul_(power).flatten(1)
    out = signal.clone()
    out[:, 1:].sub_(summed[:, : signal.shape[1] - 1], alpha=1 - POLE)
    return out


def signal_of(wave, lengths=None, frame=FRAME_SAMPLES, shift=SHIFT_SAMPLES, dither=0.0, snip_edges=False):
    """Return what is cut into frames, (batch, samples') in steps of 16-bit samples: padded, dithered, without mean.

    Args:
        wave: (batch, samples) in [-1, 1]; lengths: (batch,) samples of each row that count.
    """
    wave = wave.float() * SCALE
    if lengths is None:
        lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
    else:
        lengths = lengths.to(wave.device)
        wave.masked_fill_(~frame_mask(lengths, wave.shape[1]), 0.0)
    samples = lengths
    if not snip_edges:
        before = (frame - shift) // 2
        # rounding gives half a shift more at most
        wave = reflected(wave, lengths, before, frame - before - shift + shift // 2 + 1)
        samples = (frames_of(lengths, frame, shift) - 1).clamp(min=0) * shift + frame
    return remove_dc(dithered(wave, samples, dither) if dither else wave)


# ---------------------------------------------------------------- voice activity


def log_energy(signal, frames, frame=FRAME_SAMPLES, shift=SHIFT_SAMPLES):
    """Return ln(sum of squares + 1e-15) of the first `frames` frames of `signal`, (batch, frames)."""
    step = math.gcd(frame, shift)
    parts = signal[:, : ((frames - 1) * shift + frame)].square().unflatten(1, (-1, step)).sum(2)
    return parts.unfold(1, frame // step, shift // step).sum(2).add_(ENERGY_FLOOR).log_()


def speech_frames(energy, counts=None, energy_threshold=5.5, mean_scale=0.5, proportion=0.12, context=2):
    """Decide of each frame of log energies (batch, frames) whether it is speech.

    Loud are frames above energy_threshold + mean_scale times the mean of the row; speech is where more than
    `proportion` of the frames within `context`, as far as there are any, are loud.

    Args:
        counts: (batch,) frames of each row that count; the others are not speech.
    """
    if counts is None:
        counts = torch.full((len(energy),), energy.shape[1], device=energy.device)
    valid = frame_mask(counts, energy.shape[1])
    mean = (energy.double() * valid).sum(1, keepdim=True) / counts.clamp(min=1).unsqueeze(1)
    loud = (energy > energy_threshold + mean_scale * mean) & valid
    sizes = _window_sizes(counts, energy.shape[1], context, context)
    return (_window_sums(loud, context, context) / sizes > proportion) & valid


def energy_vad(wave, lengths=None, dither=1.0, **options):
    """Return (batch, frames), True where `wave` (batch, samples) in [-1, 1] is speech; options of speech_frames."""
    with torch.no_grad():
        signal = signal_of(wave, lengths, dither=dither)
        counts = None if lengths is None else frames_of(lengths.to(wave.device))
        return speech_frames(log_energy(signal, frames_of(wave.shape[1])), counts, **options)


# ---------------------------------------------------------------- normalisation


def _window_sums(x, left, right):
    """Return the sums of `x` (..., frames) over [t - left, t + right], cut at the ends, in float64."""
    frames = x.shape[-1]
    left, right = min(left, frames - 1), min(right, frames - 1)
    sums = x.cumsum(-1, dtype=torch.float64)
    total = torch.cat([sums[..., right:], sums[..., -1:].expand(*sums.shape[:-1], right)], -1)
    total[..., left + 1 :] -= sums[..., : frames - left - 1]
    return total


def _window_sizes(counts, frames, left, right):
    """Return how many of the first counts[b] frames lie in [t - left, t + right], (batch, frames), at least 1."""
    time = torch.arange(frames, device=counts.device)
    last = torch.minimum((time + right + 1).clamp(max=frames), counts.unsqueeze(1))
    return (last - (time - left).clamp(min=0)).clamp(min=1)


def sliding_normalisation(mel, lengths=None, left=150, right=150, variance=False):
    """Subtract the mean over [t - left, t + right] of each bin of `mel` (batch, bins, frames), cut at the ends.

    Of min(left, right) + 1 frames or fewer the mean of all is subtracted. With `variance` the features are divided by
    their deviation over all frames, and then by that over the window, of variances of at least 1e-5.

    Args:
        lengths: (batch,) frames of each row that count; those after them become 0.
    """
    with torch.no_grad(), torch.autocast(mel.device.type, enabled=False):
        counts = torch.full((len(mel),), mel.shape[2], device=mel.device) if lengths is None else lengths.to(mel.device)
        normalise = functools.partial(_normalise, left=left, right=right, variance=variance, ragged=lengths is not None)
        return _in_slices(normalise, mel.shape[2], mel.float(), counts)


def _normalise(mel, counts, left, right, variance, ragged):
    frames, valid = mel.shape[2], frame_mask(counts, mel.shape[2]).unsqueeze(1)
    number = counts.clamp(min=1).view(-1, 1, 1)
    if ragged:
        mel = mel.masked_fill(~valid, 0.0)
    scale = _window_sizes(counts, frames, left, right).unsqueeze(1).double().reciprocal()
    short = number <= min(left, right) + 1
    whole = mel.sum(2, keepdim=True, dtype=torch.float64) / number
    if variance:
        mel = (mel - whole).masked_fill_(~valid, 0.0)
        mel = mel / (mel.square().sum(2, keepdim=True) / number).clamp(min=1e-5).sqrt()
        whole = torch.zeros_like(whole)
    # the mean of the whole need not come off before that of the window
    mean = _window_sums(mel, left, right).mul_(scale)
    out = mel - torch.where(short, whole, mean).to(mel.dtype)
    if variance:
        deviation = (_window_sums(mel.square(), left, right).mul_(scale) - mean.square()).clamp(min=1e-5).sqrt()
        out = torch.where(short, out, out / deviation)
    return (out.masked_fill_(~valid, 0.0) if ragged else out).float()


# ---------------------------------------------------------------- features


class LogMel(nn.Module):
    """Log-mel features of waves in [-1, 1], in float32, without gradient, also under autocast.

    Args:
        grid: where the bins of the FFT stand: "511" places bin j at j / 511 of the rate, as published systems do, "512"
            where it is. (Of another n_fft these are its size less one, and its size.)
        dither: noise added in steps of 16-bit samples, always the same for waves of the same length; 0: none.
    """

    def __init__(
        self, bins=80, low_hz=20.0, high_hz=7600.0, grid="511", dither=1.0, sample_rate=SAMPLE_RATE, frame_ms=25,
        shift_ms=10, n_fft=512, pre_emphasis=0.97, snip_edges=False, periodic=True,
    ):  # fmt: skip
        super().__init__()
        if grid not in GRIDS:
            raise ValueError(f"grid {grid!r} is unknown, choose from {', '.join(GRIDS)}")
        self.frame, self.shift = (int(sample_rate * ms / 1000) for ms in (frame_ms, shift_ms))
        if self.frame > n_fft:
            raise ValueError(f"a frame of {self.frame} samples does not fit into an FFT of {n_fft}")
        self.bins, self.n_fft, self.dither = bins, n_fft, dither
        self.options = {  # by which features are told apart
            "bins": bins, "low_hz": low_hz, "high_hz": high_hz, "grid": grid, "dither": dither, "n_fft": n_fft,
            "frame": self.frame, "shift": self.shift, "pre_emphasis": pre_emphasis, "snip_edges": snip_edges,
            "periodic": periodic, "sample_rate": sample_rate,
        }  # fmt: skip
        self.pre_emphasis, self.snip_edges = pre_emphasis, snip_edges
        stretch = n_fft / (n_fft - 1) if grid == "511" else 1.0
        filters = kaldi_filters(bins, n_fft, low_hz, high_hz, sample_rate * stretch)
        window = torch.hann_window(self.frame, periodic=periodic, dtype=torch.float64) ** 0.85
        self.register_buffer("filters", filters, persistent=False)
        # as long as the FFT, which so need not pad the frames
        self.register_buffer("window", F.pad(window, (0, n_fft - self.frame)).float(), persistent=False)

    def frames(self, samples):
        """Return the frames of waves of so many samples, an int or an integer tensor as given."""
        return frames_of(samples, self.frame, self.shift, self.snip_edges)

    def forward(self, wave, lengths=None):
        """Return the features (batch, bins, frames) of `wave` (batch, samples), of which row b has lengths[b].

        Frames after those of a row are 0.
        """
        return self.with_speech(wave, lengths)[0]

    def with_speech(self, wave, lengths=None, **options):
        """Return the features and the decisions (batch, frames) whether a frame is speech; options of speech_frames.

        Raises:
            ValueError: the waves are too short for a frame.
        """
        if not self.frames(wave.shape[1]):
            raise ValueError(f"{wave.shape[1]} samples are too few for a frame of features")
        run = functools.partial(self._compute, ragged=lengths is not None, options=options)
        if lengths is None:
            lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
        with torch.no_grad(), torch.autocast(wave.device.type, enabled=False):
            return _in_slices(run, self.frames(wave.shape[1]), wave.float(), lengths)

    def _compute(self, wave, lengths, ragged, options):
        counts, frames = self.frames(lengths.to(wave.device)), self.frames(wave.shape[1])
        signal = signal_of(wave, lengths if ragged else None, self.frame, self.shift, self.dither, self.snip_edges)
        speech = speech_frames(log_energy(signal, frames, self.frame, self.shift), counts, **options)
        emphasised = F.pad(signal, (0, self.n_fft - self.frame))
        torch.sub(signal[:, 1:], signal[:, :-1], alpha=self.pre_emphasis, out=emphasised[:, 1 : signal.shape[1]])
        spectrum = torch.fft.rfft(emphasised.unfold(1, self.n_fft, self.shift)[:, :frames] * self.window)
        power = spectrum.real.square().add_(spectrum.imag.square())[:, :, :-1].transpose(1, 2)
        mel = exact_product(self.filters, power).add_(FLOOR).log_()
        return mel.masked_fill_(~frame_mask(counts, frames).unsqueeze(1), 0.0) if ragged else mel, speech


def _in_slices(run, frames, *tensors):
    """Return run(*tensors), on a CPU a few rows at a time; a result is a tensor or several, with a row for each."""
    rows = len(tensors[0])
    if tensors[0].device.type == "cpu":
        rows = max(1, CACHED_FRAMES // max(1, frames))
    parts = [run(*slices) for slices in zip(*(tensor.split(rows) for tensor in tensors))]
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(column) for column in zip(*parts))
