"""Synthetic voices: the same from the same seed, alone or together; in range; like the speaker and like the session."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.signal import argrelmax, welch

from audio.recording import Recording, coloured_noise, microphone_response, music, noise_curve, room_response
from audio.synth import SAMPLE_RATE, articulate, draw_speaker, overlap_add, speak, synthesise


def pitch_hz(wave):
    """Return the median pitch of voiced 50 ms pieces, from the highest peak of the autocorrelation at 60 to 400 Hz."""
    length = 800
    pieces = wave[: len(wave) // length * length].reshape(-1, length)
    pieces = pieces[(pieces**2).mean(1) > 0.3 * (wave**2).mean()]
    pieces = pieces - pieces.mean(1, keepdims=True)
    spectrum = np.fft.rfft(pieces * np.hanning(length), 2 * length)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :length]
    lags = np.arange(SAMPLE_RATE // 400, SAMPLE_RATE // 60)
    # the window's own decay is divided out, so that no lag is preferred
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(length), 2 * length)) ** 2)[lags]
    return SAMPLE_RATE / np.median(lags[(correlation[:, lags] / window).argmax(1)])


def spectrum_db(wave):
    return 10 * np.log10(welch(wave, SAMPLE_RATE, nperseg=512)[1][4:200] + 1e-14)


def test_the_same_seed_gives_the_same_samples_and_another_number_other_ones():
    first = synthesise(draw_speaker(3, 1), 0, 0, 1.0, seed=3)
    synthesise(draw_speaker(3, 0), 1, 4, 0.7, seed=3)  # what else is made does not matter
    assert np.array_equal(first, synthesise(draw_speaker(3, 1), 0, 0, 1.0, seed=3))
    others = [
        synthesise(draw_speaker(3, 2), 0, 0, 1.0, seed=3), synthesise(draw_speaker(3, 1), 1, 0, 1.0, seed=3),
        synthesise(draw_speaker(3, 1), 0, 1, 1.0, seed=3), synthesise(draw_speaker(4, 1), 0, 0, 1.0, seed=4),
    ]  # fmt: skip
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.3


def test_draws_leave_the_global_generator_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    synthesise(draw_speaker(1, 0), 0, 0, 0.5, seed=1)
    assert np.random.random() == expected


@pytest.mark.parametrize("seconds", [0.5, 1.2345, 3.0])
def test_waves_are_finite_float32_of_the_length_asked_for_and_do_not_clip(seconds):
    for index in range(8):
        wave = synthesise(draw_speaker(5, index), index, 0, seconds, seed=5)
        assert wave.dtype == np.float32 and wave.shape == (round(seconds * SAMPLE_RATE),)
        assert np.isfinite(wave).all() and np.abs(wave).max() <= 0.951
        assert -33 < 10 * np.log10(np.mean(wave**2)) < -15


def test_pitch_is_the_speakers():
    for index in range(6):
        # where every second pulse is weaker the pitch is truly ambiguous
        speaker = replace(draw_speaker(7, index), creak=0.0)
        found = pitch_hz(speak(speaker, 4.0, np.random.default_rng(index)))
        assert abs(np.log2(found / speaker.f0_hz)) < 0.25, (found, speaker)


def test_recorded_pitch_stays_near_in_all_sessions():
    speaker = replace(draw_speaker(7, 1), creak=0.0)
    found = [pitch_hz(synthesise(speaker, session, 0, 4.0, seed=7)) for session in range(4)]
    assert np.abs(np.log2(np.array(found) / speaker.f0_hz)).max() < 0.35


def test_resonances_are_those_of_the_tract():
    speaker = draw_speaker(7, 2)
    vowel = np.array([660, 1720, 2410, 1, 0, 0, 2000, 2000, 0.0])
    pulse = np.zeros(8000)
    pulse[4000] = 1
    wave = articulate(speaker, np.tile(vowel, (100, 1)), np.full(100, 120.0), 1.0, pulse, np.zeros(8000))
    power = np.abs(np.fft.rfft(wave, 16000)) ** 2  # bins of 1 Hz
    peaks = argrelmax(gaussian_filter1d(power, 10))[0]
    for expected in vowel[:3] * speaker.formants[:3]:
        assert np.abs(peaks - expected).min() < 40
    # the wave lies around its pulse: nothing long before, and a decay within 30 ms
    assert (wave[3800:4500] ** 2).sum() > 0.999 * (wave**2).sum()


def test_sessions_colour_the_same_words_differently():
    voice = speak(draw_speaker(9, 0), 4.0, np.random.default_rng(0))
    one, other = (Recording.draw(np.random.default_rng(seed)) for seed in (1, 2))
    first, again, elsewhere = (
        spectrum_db(recording.record(voice, np.random.default_rng(seed)))
        for recording, seed in ((one, 3), (one, 4), (other, 3))
    )
    assert np.std(first - elsewhere) > 1.5 > 3 * np.std(first - again)


def test_there_is_no_click_where_frames_meet():
    # a steady source through a steady tract must come out steady: overlapping windows add up to one
    window = np.hanning(161)[:-1]
    ones = overlap_add(np.tile(window, (20, 1)), 80)
    np.testing.assert_allclose(ones[80:1600], 1, atol=1e-12)


def test_speech_has_syllables_and_pauses():
    wave = speak(draw_speaker(7, 3), 6.0, np.random.default_rng(3))
    level = 10 * np.log10((wave[: len(wave) // 320 * 320].reshape(-1, 320) ** 2).mean(1) + 1e-12)
    loud = level > level.max() - 20
    onsets = np.count_nonzero(loud[1:] & ~loud[:-1])
    assert 0.2 < loud.mean() < 0.95 and 5 < onsets < 60


def test_room_decays_as_long_as_it_says_after_its_direct_sound():
    for seed in range(4):
        room = room_response(np.random.default_rng(seed), 0.4, direct_db=0)
        assert room.argmax() == 0 and np.isclose((room**2).sum(), 1)
        assert np.isclose(room[0] ** 2, 0.5, atol=0.01)
        # Schroeder integration, slope between 50 and 250 ms
        energy = 10 * np.log10(np.cumsum(room[::-1] ** 2)[::-1])
        assert 0.25 < 0.2 / (energy[800] - energy[4000]) * 60 < 0.5


def test_microphone_responses_begin_at_once_and_differ():
    responses = [microphone_response(np.random.default_rng(seed), 4.0) for seed in range(4)]
    for response in responses:
        energy = np.cumsum(response**2)
        assert energy[40] > 0.9 * energy[-1]
    gains = 20 * np.log10(np.abs(np.fft.rfft(responses, axis=1))[:, 10:300])
    assert np.std(gains - gains.mean(0), axis=0).mean() > 1


def test_noise_follows_its_curve():
    draw = np.random.default_rng(0)
    curve = noise_curve(draw)
    wave = coloured_noise(draw, 320000, curve)
    assert np.isclose(np.mean(wave**2), 1)
    frequency, power = welch(wave, SAMPLE_RATE, nperseg=1024)
    differences = (10 * np.log10(power) - curve)[20:500]
    assert np.std(differences) < 0.6


def test_recording_keeps_its_signal_to_noise_ratio():
    draw = np.random.default_rng(2)
    recording = Recording(np.array([1.0]), np.zeros(513), 10.0)
    voice = np.sin(2 * np.pi * 1000 * np.arange(32000) / SAMPLE_RATE)
    wave = recording.record(voice, draw)
    tone = 2 * np.abs(np.mean(wave * np.exp(-2j * np.pi * 1000 * np.arange(32000) / SAMPLE_RATE))) ** 2
    assert abs(10 * np.log10(tone / (np.mean(wave**2) - tone)) - 10) < 2.5


def test_music_is_in_range_and_silence_is_recorded_without_a_nan():
    wave = music(np.random.default_rng(1), 32000)
    assert np.isfinite(wave).all() and np.isclose(np.abs(wave).max(), 1)
    quiet = Recording.draw(np.random.default_rng(0)).record(np.zeros(8000), np.random.default_rng(1))
    assert np.isfinite(quiet).all()
