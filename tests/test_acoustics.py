"""Acoustic measures on waves whose fundamental, level, spectrum and rhythm are known."""

import time

import numpy as np
import pytest
from conftest import DATA

from audio.acoustics import MEASURES, measure

RATE = 16000
TIME = np.arange(3 * RATE) / RATE


def pulses(f0_hz, seconds=3):
    """Return a band-limited pulse train of peak 0.5."""
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = np.arange(1, int(7900 // f0_hz) + 1)
    return 0.5 * sum(np.cos(2 * np.pi * f0_hz * k * time) for k in harmonics) / len(harmonics)


def noise(seconds=3, seed=0):
    return np.random.default_rng(seed).standard_normal(int(seconds * RATE))


@pytest.mark.parametrize("f0", (75, 98.3, 140, 221.7, 311, 440, 490))
def test_fundamental_of_tones_and_pulses(f0):
    voiced = pulses(f0)
    hiss = 0.1 * voiced.std() * noise()
    for wave in (0.3 * np.sin(2 * np.pi * f0 * TIME), voiced, voiced + hiss):
        found = measure(wave)
        assert found["f0_median_hz"] == pytest.approx(f0, rel=0.01)
        assert found["voiced_share"] > 0.9


def test_spread_and_range_of_a_glide():
    # one octave up in a straight line of semitones
    wave = np.sin(2 * np.pi * np.cumsum(120 * 2 ** (TIME / 3)) / RATE)
    found = measure(wave)
    assert found["f0_median_hz"] == pytest.approx(120 * np.sqrt(2), rel=0.02)
    assert found["f0_range_semitones"] == pytest.approx(0.8 * 12, rel=0.05)
    assert found["f0_spread_semitones"] == pytest.approx(12 / np.sqrt(12), rel=0.05)
    assert measure(pulses(120))["f0_range_semitones"] < 0.1


def test_noise_is_not_voiced():
    for seed in range(3):
        found = measure(0.1 * noise(seed=seed))
        assert found["voiced_share"] < 0.02 and np.isnan(found["f0_median_hz"])
    # a low rumble is no voice either
    assert measure(np.sin(2 * np.pi * 30 * TIME) + 0.01 * noise())["voiced_share"] < 0.05


def test_half_voiced_and_harmonicity_falls_with_noise():
    half = np.concatenate([pulses(150, 1.5), 0.1 * noise(1.5)])
    assert measure(half)["voiced_share"] == pytest.approx(0.5, abs=0.04)
    clean = pulses(150)
    ratios = [measure(clean + 10 ** (-snr / 20) * clean.std() * noise())["harmonicity_db"] for snr in (40, 20, 10)]
    assert ratios[0] > ratios[1] + 5 > ratios[2] + 10


def test_level_is_of_what_is_no_pause():
    tone = 0.5 * np.sin(2 * np.pi * 200 * TIME)
    expected = 20 * np.log10(0.5 / np.sqrt(2))
    assert measure(tone)["level_db"] == pytest.approx(expected, abs=0.05)
    assert measure(tone / 100)["level_db"] == pytest.approx(expected - 40, abs=0.05)
    silence = np.zeros(3 * RATE)
    found = measure(np.concatenate([tone, silence]))
    assert found["level_db"] == pytest.approx(expected, abs=0.1)
    assert found["pause_share"] == pytest.approx(0.5, abs=0.02)
    assert found["level_range_db"] == pytest.approx(expected + 100, abs=0.5)
    gap = np.concatenate([tone, silence[:2000], tone])  # 0.125 s is no long pause
    assert measure(gap)["pause_share"] == 0


def test_slope_of_coloured_noise():
    white = noise(8)
    spectrum = np.fft.rfft(white)
    frequency = np.maximum(np.fft.rfftfreq(len(white), 1 / RATE), 20)
    for slope in (0, -3, -6, -12):
        wave = np.fft.irfft(spectrum * (frequency / 1000) ** (slope / (20 * np.log10(2))))
        assert measure(0.05 * wave)["slope_db_per_octave"] == pytest.approx(slope, abs=0.4)


def test_gain_changes_the_level_only():
    wave = pulses(130) * (1.1 + np.sin(2 * np.pi * 3 * TIME)) + 0.003 * noise()
    loud, soft = measure(wave), measure(0.1 * wave)
    for name in MEASURES:
        change = -20 if name == "level_db" else 0
        assert soft[name] - loud[name] == pytest.approx(change, abs=0.02), name


def test_bands_and_centroid_of_a_tone_and_of_white_noise():
    found = measure(0.3 * np.sin(2 * np.pi * 1500 * TIME))
    assert found["band_900_2300_hz_db"] == pytest.approx(0, abs=0.01)
    assert found["band_3500_5500_hz_db"] < -60
    assert found["centroid_hz"] == pytest.approx(1500, rel=0.01)
    assert found["alpha_ratio_db"] > 40
    found = measure(0.05 * noise())
    shares = {name: 10 ** (value / 10) for name, value in found.items() if name.startswith("band_")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["band_3500_5500_hz_db"] == pytest.approx(2000 / 7800, rel=0.05)
    assert found["centroid_hz"] == pytest.approx(4000, rel=0.03)


def test_syllables_of_a_modulated_voice():
    for rate in (2, 4, 6):
        wave = pulses(120) * (1.03 - np.cos(2 * np.pi * rate * TIME))
        assert measure(wave)["syllable_rate_hz"] == pytest.approx(rate, rel=0.15)
    assert measure(0.1 * noise() * (1.03 - np.cos(2 * np.pi * 4 * TIME)))["syllable_rate_hz"] < 0.4


def test_silence_and_very_short_waves():
    found = measure(np.zeros(RATE))
    assert found["pause_share"] == 1 and found["level_range_db"] == 0
    assert np.isnan(found["level_db"]) and np.isnan(found["centroid_hz"])
    for samples in (0, 1, 639, 640, 900):
        assert list(measure(0.1 * noise()[:samples])) == list(MEASURES)


def test_long_waves_in_parts_equal_one_pass(monkeypatch):
    from audio import acoustics

    wave = pulses(110) + 0.01 * noise()
    whole = measure(wave)
    monkeypatch.setattr(acoustics, "FRAMES_AT_ONCE", 37)
    assert measure(wave) == pytest.approx(whole, rel=1e-4)


def test_five_seconds_take_less_than_50_ms():
    wave = pulses(120, 5) + 0.01 * noise(5)
    measure(wave)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        measure(wave)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.05


def test_real_speech_is_in_the_ranges_of_speech():
    from audio.io import read_audio

    files = sorted((DATA / "so762" / "audio").glob("*/*/*.flac"))[::150]
    if not files:
        pytest.skip("so762/audio is absent below $VOXLAB_DATA")
    found = [measure(read_audio(file)) for file in files]
    assert all(80 < one["f0_median_hz"] < 400 for one in found)
    assert all(0.3 < one["voiced_share"] < 0.98 for one in found)
    assert all(1 < one["syllable_rate_hz"] < 7 for one in found)
    assert all(-10 < one["slope_db_per_octave"] < 0 for one in found)
