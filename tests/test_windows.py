"""Windows of recordings, companding, 16-bit files and tones: which samples a waveform network is trained on."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import DATA

from audio.bad_files import BadFiles
from audio.companding import decode, encode, from_pcm, inverse_mu_law, mu_law, to_pcm, write_samples
from audio.io import read_audio
from audio.tones import Tones
from audio.window_data import WindowSampler
from audio.windows import Windows
from DatasetLoader import wave_loader, wave_windows


def rule(seconds, window, spacing, rate):
    """Return the offsets of the windows of one recording, by the words of the rule."""
    total, length, step = int(rate * (seconds - 0.05)), int(rate * window), int(rate * spacing)
    offsets, place = [], 0
    while place + length < total:
        offsets.append(place)
        place += step
    return [0] if length >= total else offsets


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Return a folder of three speakers whose sample i of file k is (100 k + i mod 100) / 32768, in three formats."""
    folder = tmp_path_factory.mktemp("speech")
    for number, name in enumerate(("19/1/a.flac", "103/1/b.wav", "1034/c.flac")):
        (folder / name).parent.mkdir(parents=True)
        samples = (100 * number + np.arange((number + 1) * 16000) % 100).astype(np.int16)
        soundfile.write(folder / name, samples, 16000, subtype="PCM_16")
    return folder


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize("window, spacing, rate", [(4.0, 0.2, 16000), (2.0, 0.5, 16000), (0.7, 0.33, 8000)])
def test_windows_follow_the_rule(window, spacing, rate):
    edges = [0, 0.01, 0.05, 3.99, 4.05, 4.06, 4.25, 4.26, 10]
    seconds = edges + np.random.default_rng(0).uniform(0, 20, 300).round(2).tolist()
    windows = Windows(seconds, window, spacing, rate)
    expected = [rule(s, window, spacing, rate) for s in seconds]
    recording, offsets = windows.locate(np.arange(len(windows)))
    assert offsets.tolist() == sum(expected, [])
    assert recording.tolist() == [i for i, found in enumerate(expected) for _ in found]


def test_ten_seconds_have_thirty_windows_and_no_recording_none():
    assert len(Windows([10.0])) == 30 and len(Windows([])) == 0
    assert Windows([10.0]).locate(29) == (0, 29 * 3200)


@pytest.mark.parametrize("window, spacing", [(0, 0.2), (4, 0), (4, -1), (4, 1e-6)])
def test_windows_and_spacings_of_no_sample_are_errors(window, spacing):
    with pytest.raises(ValueError, match="holds no sample at 16000 Hz: give a longer one"):
        Windows([1.0], window, spacing)


# ---------------------------------------------------------------- the dataset


def test_a_window_holds_the_samples_of_its_place_padded_with_zeros(speech):
    dataset = wave_windows(str(speech), 0.5, 0.25, say=quiet)
    assert dataset.speakers == ["103", "1034", "19"]  # as strings
    assert dataset.labels.tolist() == [0] * 6 + [1] * 10 + [2] * 2
    for index in range(len(dataset)):
        item = dataset[index]
        recording, offset = dataset.windows.locate(index)
        number = {"103": 1, "1034": 2, "19": 0}[dataset.speakers[item["label"]]]
        expected = (100 * number + (offset + np.arange(8000)) % 100) / 32768
        assert item["utterance"] == recording and item["samples"].dtype == torch.float32
        np.testing.assert_array_equal(item["samples"].numpy(), expected.astype(np.float32))
    long = wave_windows(str(speech), 4.0, say=quiet)
    assert len(long) == 3
    for item, samples in zip((long[i] for i in range(3)), (32000, 48000, 16000)):
        assert item["samples"].shape == (64000,) and not item["samples"][samples:].any() and item["samples"][1:99].any()
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_companded_windows_are_the_companded_samples_and_float32(speech):
    linear, companded = (
        wave_windows(str(speech), encoding=name, say=quiet)[1]["samples"] for name in ("linear", "ulaw")
    )
    np.testing.assert_allclose(companded, mu_law(linear), atol=1e-6)
    assert companded.dtype == torch.float32 and not companded[48000:].any()
    with pytest.raises(ValueError, match="encoding 'alaw' is none of linear, ulaw"):
        wave_windows(str(speech), encoding="alaw", say=quiet)


def test_other_rates_and_channels_become_one_channel_at_16_khz(tmp_path):
    time = np.arange(44100) / 44100
    wave = 0.5 * np.sin(2 * np.pi * 440 * time)
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "x.ogg", np.stack([wave, wave], 1), 44100)
    found = wave_windows(str(tmp_path), 0.5, say=quiet)[2]["samples"].numpy()
    expected = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(8000) + 6400) / 16000)
    assert np.abs(found - expected).max() < 0.02


def test_a_batch_is_its_items_and_processes_change_nothing(speech):
    dataset = wave_windows(str(speech), 0.5, 0.25, say=quiet)
    batch = dataset.__getitems__([17, 0, 5])
    items = [dataset[i] for i in (17, 0, 5)]
    assert batch["bad"] == [] and batch["label"].tolist() == [item["label"] for item in items]
    assert torch.equal(batch["samples"], torch.stack([item["samples"] for item in items]))
    here, there = (list(wave_loader(dataset, 4, seed=3, workers=workers)) for workers in (0, 1))
    assert len(here) == len(there) == 4
    for one, other in zip(here, there):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_a_recording_that_breaks_gives_way_to_another_and_is_noted(speech, tmp_path):
    folder = shutil.copytree(speech, tmp_path / "speech")
    shutil.copy(folder / "19/1/a.flac", folder / "19/1/z.flac")
    dataset = wave_windows(str(folder), 0.5, 0.25, say=quiet)
    whole = (folder / "19/1/a.flac").read_bytes()
    (folder / "19/1/a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="19/1/a.flac"):
        dataset[17]
    with pytest.raises(ValueError, match="19/1/a.flac"):
        list(wave_loader(dataset, 4, shuffle=False))
    lines = []
    bad = BadFiles(tmp_path / "bad_files.txt", 4, 50, lines.append)
    batches = list(wave_loader(dataset, 4, shuffle=False, bad_files=bad))
    label, used = (torch.cat(part) for part in list(zip(*batches))[1:])
    assert len(label) == len(dataset) and label[16:].tolist() == [2] * 4 and used[16:].tolist() == [3] * 4
    assert "19/1/a.flac\t" in (tmp_path / "bad_files.txt").read_text() and len(lines) == 1
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="4 recordings in a row cannot be read, e.g. .*no such file"):
        dataset.__getitems__([0])


def test_a_recording_that_became_shorter_is_told(speech, tmp_path):
    folder = shutil.copytree(speech, tmp_path / "speech")
    dataset = wave_windows(str(folder), 0.5, 0.25, say=quiet)
    soundfile.write(folder / "19/1/a.flac", np.zeros(2000), 16000)
    with pytest.raises(ValueError, match=r"a.flac: has 0.12 s, 1.00 s when its duration was taken: the folder has"):
        dataset[17]


def test_an_epoch_has_every_window_once_over_all_ranks_and_can_be_entered_anywhere():
    samplers = [WindowSampler(103, 5, 7, 2, rank) for rank in range(2)]
    for epoch in (1, 2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        seen = [list(sampler) for sampler in samplers]
        assert [len(batches) for batches in seen] == [10, 10] == [len(sampler) for sampler in samplers]
        flat = sum(sum(seen, []), [])
        assert len(flat) == len(set(flat)) == 100
    whole = WindowSampler(103, 10, 7)
    whole.set_epoch(2)
    assert [a + b for a, b in zip(*seen)] == list(whole)  # two ranks are one with the same global batch
    samplers[0].set_epoch(2, 4)
    assert list(samplers[0]) == seen[0][4:]
    in_order = [list(WindowSampler(11, 3, 0, 2, rank, shuffle=False)) for rank in range(2)]
    assert in_order == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10]]]
    with pytest.raises(ValueError, match="the data has 9 windows, fewer than one batch of 10: give a smaller"):
        WindowSampler(9, 5, 0, 2)


def test_real_speech_is_read_as_it_is_in_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = sorted((DATA / "so762").rglob("*.flac"))[:20]
    if not found:
        pytest.skip("so762 is absent below $VOXLAB_DATA")
    (tmp_path / "list.txt").write_text("".join(f"{path.stem[:5]} {path}\n" for path in found))
    dataset = wave_windows(str(tmp_path / "list.txt"), 1.0, 0.3, say=quiet)
    for index in (0, len(dataset) // 2, len(dataset) - 1):
        recording, offset = (int(number) for number in dataset.windows.locate(index))
        part = read_audio(dataset.recordings.list.path(recording))[offset : offset + 16000]
        np.testing.assert_array_equal(dataset[index]["samples"][: len(part)], part)


# ---------------------------------------------------------------- companding and files


@pytest.mark.parametrize("own", [np.asarray, torch.as_tensor], ids=["array", "tensor"])
def test_companding_goes_back_and_keeps_type_and_signs(own):
    x = own(np.linspace(-1, 1, 2001).astype(np.float32))
    companded = mu_law(x)
    assert companded.dtype == x.dtype and companded[1000] == 0 and companded[-1] == 1 and companded[0] == -1
    assert (companded[1:] > companded[:-1]).all()
    np.testing.assert_allclose(inverse_mu_law(companded), x, atol=2e-7)
    assert encode(x, "linear") is x and decode(x, "linear") is x


def test_sixteen_bit_numbers_are_rounded_clipped_and_never_not_finite():
    x = np.array([0, 1, -1, 1.7, -3, 0.6 / 32767, 1.4 / 32767, -0.6 / 32767])
    assert to_pcm(x).tolist() == [0, 32767, -32767, 32767, -32767, 1, 1, -1]
    assert from_pcm(np.array([-32768, 16384], np.int16)).tolist() == [-1, 0.5]
    with pytest.raises(ValueError, match="2 of 3 samples are not finite"):
        to_pcm(np.array([np.nan, 0, np.inf]))


@pytest.mark.parametrize("name", ["x.wav", "x.flac"])
@pytest.mark.parametrize("encoding", ["linear", "ulaw"])
def test_written_samples_come_back(tmp_path, name, encoding):
    x = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    write_samples(tmp_path / "new" / name, x, encoding)
    back = encode(read_audio(tmp_path / "new" / name), encoding)
    assert soundfile.info(tmp_path / "new" / name).subtype == "PCM_16" and len(list((tmp_path / "new").iterdir())) == 1
    np.testing.assert_allclose(back, x, atol=7e-5 if encoding == "linear" else 2e-3)


def test_nothing_is_written_of_samples_that_are_wrong(tmp_path):
    with pytest.raises(ValueError, match="x.mp3: its name must end in .wav or .flac"):
        write_samples(tmp_path / "x.mp3", np.zeros(3))
    with pytest.raises(ValueError, match="x.wav: 1 of 3 samples are not finite"):
        write_samples(tmp_path / "x.wav", np.array([0, np.nan, 0]))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- tones


def test_tones_have_three_pitches_and_differ_in_their_phase():
    dataset = wave_windows("tones")
    assert len(dataset) == 30 and dataset.labels.tolist() == [0, 1, 2] * 10 and isinstance(dataset, Tones)
    for index in range(30):
        item = dataset[index]
        spectrum = np.abs(np.fft.rfft(item["samples"].numpy()))
        assert int(spectrum.argmax()) / 4 == (300, 500, 1000)[item["label"]] and item["samples"].shape == (64000,)
    starts = [round(float(dataset[3 * i + 1]["samples"][0]), 4) for i in range(10)]
    assert starts[0] == 0 and len(set(starts)) == 10
    assert torch.equal(dataset[7]["samples"], Tones()[7]["samples"])
    samples, label, utterance = next(iter(wave_loader(wave_windows("tones", 0.5, encoding="ulaw"), 8)))
    assert samples.shape == (8, 8000) and (label == utterance % 3).all()
