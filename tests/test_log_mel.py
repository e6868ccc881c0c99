"""Tests of log-mel features: each step against its definition in numpy, ragged batches, normalisation, energy VAD."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from audio.log_mel import (
    LogMel,
    energy_vad,
    frame_mask,
    frames_of,
    remove_dc,
    sliding_normalisation,
    speech_frames,
)


def waves(*samples, seed=0, level=0.1):
    """Return a ragged batch of modulated noise with an offset, and the samples of each row."""
    draw = np.random.default_rng(seed)
    batch = torch.full((len(samples), max(samples)), 0.5)  # what lies after the end of a row must not be seen
    for row, count in zip(batch, samples):
        time = np.arange(count) / 16000
        wave = level * draw.standard_normal(count) * np.abs(np.sin(9 * time)) + 0.02
        row[:count] = torch.from_numpy((np.rint(32768 * wave) / 32768).astype(np.float32))
    return batch, torch.tensor(samples)


def definition(
    wave, frame=400, shift=160, n_fft=512, rate=16000, grid=511, snip=False, periodic=True, low=20, high=7600
):
    """Return log-mel (frames, 80) and log energies (frames,) of one wave, in float64 and as it is defined."""
    x = 32768 * wave.double().numpy()
    count = 1 + (len(x) - frame) // shift if snip else round(len(x) / shift)
    if not snip:
        before = (frame - shift) // 2
        x = np.pad(x, (before, (count - 1) * shift + frame - len(x) - before), mode="reflect")
    x = lfilter([1, -1], [1, -0.999], x)
    y = lfilter([1, -0.97], [1], x)
    starts = shift * np.arange(count)[:, None] + np.arange(frame)
    n = np.arange(frame)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * n / (frame if periodic else frame - 1))) ** 0.85
    power = np.abs(np.fft.rfft(y[starts] * window, n_fft)) ** 2
    mel = lambda hz: 1127 * np.log(1 + np.asarray(hz) / 700)  # noqa: E731
    centres = np.linspace(mel(low), mel(high), 82)
    place = mel(np.arange(n_fft // 2) * rate / grid)[:, None]
    filters = np.maximum(1 - np.abs(place - centres[1:-1]) / (centres[1] - centres[0]), 0)
    return np.log(power[:, :-1] @ filters + 1e-10), np.log((x[starts] ** 2).sum(1) + 1e-15)


def windowed(x, left, right, variance):
    """Return the normalised (frames, bins) of one utterance, frame by frame."""
    x = x - x.mean(0)
    if variance:
        x = x / np.sqrt(np.maximum(x.var(0), 1e-5))
    if len(x) <= min(left, right) + 1:
        return x
    out = np.empty_like(x)
    for t in range(len(x)):
        part = x[max(t - left, 0) : t + right + 1]
        out[t] = x[t] - part.mean(0)
        if variance:
            out[t] /= np.sqrt(np.maximum(part.var(0), 1e-5))
    return out


# ---------------------------------------------------------------- frames and signal


def test_half_a_frame_is_rounded_to_the_even_number():
    samples = [1, 80, 81, 240, 241, 400, 560, 16080, 16240]
    frames = [0, 0, 1, 2, 2, 2, 4, 100, 102]
    assert [frames_of(n) for n in samples] == frames == frames_of(torch.tensor(samples)).tolist()
    assert frames_of(399, snip_edges=True) == 0 and frames_of(560, snip_edges=True) == 2
    assert frames_of(torch.tensor([399, 560]), snip_edges=True).tolist() == [0, 2]
    assert frame_mask(torch.tensor([0, 2]), 3).tolist() == [[False] * 3, [True, True, False]]


@pytest.mark.parametrize("samples", [1, 2, 2047, 2048, 2049, 60000])
def test_mean_removal_is_the_recursive_filter_in_every_row(samples):
    draw = np.random.default_rng(samples)
    x = np.rint(3000 * draw.standard_normal((3, samples)) + [[0], [20000], [-9000]])
    y = remove_dc(torch.from_numpy(x).float())
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y, lfilter([1, -1], [1, -0.999], x), rtol=1e-5, atol=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"grid": "512"}, {"snip_edges": True}, {"periodic": False}, {"low_hz": 100.0, "high_hz": 5000.0},
        {"sample_rate": 8000, "n_fft": 256, "high_hz": 3800.0}, {"frame_ms": 20, "shift_ms": 5, "n_fft": 1024},
    ],
    ids=str,
)  # fmt: skip
def test_ragged_batches_are_as_each_wave_is_defined(options):
    batch, lengths = waves(7003, 16400, 411, 12240)
    module = LogMel(dither=0, **options)
    mel, speech = module.with_speech(batch, lengths)
    n_fft = options.get("n_fft", 512)
    settings = {
        "frame": module.frame, "shift": module.shift, "n_fft": n_fft, "rate": options.get("sample_rate", 16000),
        "grid": n_fft if options.get("grid") == "512" else n_fft - 1, "snip": module.snip_edges,
        "periodic": options.get("periodic", True), "low": options.get("low_hz", 20),
        "high": options.get("high_hz", 7600),
    }  # fmt: skip
    for row, count in enumerate(module.frames(lengths).tolist()):
        expected, energy = definition(batch[row, : lengths[row]], **settings)
        assert len(expected) == count
        np.testing.assert_allclose(mel[row, :, :count].T, expected, atol=2e-3)
        assert not mel[row, :, count:].any() and not speech[row, count:].any()
        loud = energy > 5.5 + 0.5 * energy.mean()
        wanted = [loud[max(t - 2, 0) : t + 3].mean() > 0.12 for t in range(count)]
        assert speech[row, :count].tolist() == wanted


def test_a_row_does_not_depend_on_its_company():
    batch, lengths = waves(5000, 20000, 31000, 9000, 12345)
    for dither in (0.0, 1.0):
        module = LogMel(dither=dither)
        mel, speech = module.with_speech(batch, lengths)
        for row, count in enumerate(module.frames(lengths).tolist()):
            alone, decided = module.with_speech(batch[row : row + 1, : lengths[row]])
            torch.testing.assert_close(mel[row, :, :count], alone[0], rtol=1e-5, atol=1e-4)
            assert torch.equal(speech[row, :count], decided[0])
        assert torch.equal(energy_vad(batch, lengths, dither=dither), speech)


def test_dither_is_the_same_for_waves_of_one_length():
    silence = torch.zeros(2, 8000)
    mel = LogMel()(silence)
    assert torch.equal(mel, LogMel()(silence)) and torch.equal(mel[0], mel[1])
    assert not torch.equal(mel[0], LogMel()(torch.zeros(1, 8200))[0, :, :50])
    assert (mel[:, 40:] > 0).all() and (LogMel(dither=0)(silence) == np.float32(np.log(1e-10))).all()
    # white noise of one step of 16 bits: the power of the window times the width of a filter
    assert LogMel(dither=2.0)(silence).sub(mel).sub(2 * np.log(2)).abs().max() < 1e-3


def test_features_are_float32_without_gradient_also_under_autocast():
    batch, lengths = waves(9000, 8000)
    module = LogMel()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = module(batch.requires_grad_(), lengths)
        normalised = sliding_normalisation(mel, module.frames(lengths))
    assert mel.dtype == normalised.dtype == torch.float32 and not mel.requires_grad
    assert torch.equal(mel, module(batch, lengths)) and not module.state_dict()


def test_what_cannot_be_done_is_told():
    with pytest.raises(ValueError, match="grid '513' is unknown, choose from 511, 512"):
        LogMel(grid="513")
    with pytest.raises(ValueError, match="80 samples are too few for a frame"):
        LogMel()(torch.zeros(1, 80))
    with pytest.raises(ValueError, match="does not fit into an FFT of 256"):
        LogMel(n_fft=256)
    assert LogMel()(torch.randn(1, 81)).isfinite().all(), "shorter than what is mirrored at its ends"


# ---------------------------------------------------------------- normalisation and VAD


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("left, right", [(150, 150), (10, 4), (3, 12), (0, 0)])
def test_normalisation_is_that_of_each_window(left, right, variance):
    lengths = torch.tensor([1, 2, 5, 6, 150, 151, 152, 301, 302, 420])
    draw = torch.Generator().manual_seed(1)
    mel = 12 + 3 * torch.randn(len(lengths), 4, 420, generator=draw) + torch.linspace(0, 5, 420)
    out = sliding_normalisation(mel, lengths, left, right, variance)
    for row, count in enumerate(lengths.tolist()):
        expected = windowed(mel[row, :, :count].T.double().numpy(), left, right, variance)
        np.testing.assert_allclose(out[row, :, :count].T, expected, atol=2e-3 if variance else 1e-4)
        assert not out[row, :, count:].any()
    torch.testing.assert_close(sliding_normalisation(mel, None, left, right, variance)[-1], out[-1])


def test_speech_is_decided_within_the_frames_there_are():
    draw = np.random.default_rng(3)
    counts = torch.tensor([0, 1, 2, 3, 4, 5, 40])
    energy = torch.from_numpy(draw.normal(12, 6, (len(counts), 40)))
    for context, proportion in ((2, 0.12), (2, 0.4), (0, 0.5), (7, 0.3)):
        speech = speech_frames(energy, counts, context=context, proportion=proportion)
        for row, count in enumerate(counts.tolist()):
            values = energy[row, :count].numpy()
            loud = values > 5.5 + 0.5 * values.mean() if count else values > 0
            wanted = [loud[max(t - context, 0) : t + context + 1].mean() > proportion for t in range(count)]
            assert speech[row].tolist() == wanted + [False] * (40 - count)
