"""Reading, cropping, lists, samplers and augmentation: properties and faults."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from audio import augment, crops, lists
from audio.io import AudioFile, read_audio
from audio.samplers import EpochSampler, speaker_groups


def noise_file(path, rate=16000, samples=20000, channels=1, seed=0, **kwargs):
    wave = 0.1 * np.random.default_rng(seed).standard_normal((samples, channels)).astype(np.float32)
    soundfile.write(path, wave if channels > 1 else wave[:, 0], rate, **kwargs)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_part_is_the_part_of_the_whole(tmp_path, suffix):
    path = noise_file(tmp_path / f"a.{suffix}")
    whole = read_audio(path)
    assert whole.dtype == np.float32 and len(whole) == 20000
    with AudioFile(path) as audio:
        np.testing.assert_allclose(audio.read(7001, 3000), whole[7001:10001], atol=2e-4 if suffix == "ogg" else 0)


def test_pcm16_is_the_integer_over_32768(tmp_path):
    integers = np.array([0, 1, -1, 32767, -32768, 1234], dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", integers, 16000, subtype="PCM_16")
    assert (read_audio(tmp_path / "a.wav") * 32768 == integers).all()


@pytest.mark.parametrize("rate", [8000, 11025, 24000, 44100, 48000, 16000])
@pytest.mark.parametrize("speed", [Fraction(1), Fraction(9, 10), Fraction(11, 10)])
def test_resampling_is_polyphase_and_parts_equal_the_whole(tmp_path, rate, speed):
    path = noise_file(tmp_path / "a.wav", rate, 9001, subtype="FLOAT")
    source, _ = soundfile.read(path, dtype="float32")
    ratio = Fraction(16000, rate) / speed
    expected = resample_poly(source, ratio.numerator, ratio.denominator) if ratio != 1 else source
    whole = read_audio(path, speed)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    draw = np.random.default_rng(1)
    with AudioFile(path, speed) as audio:
        for start in [0, audio.samples - 1, *draw.integers(0, audio.samples, 5)]:
            part = audio.read(int(start), 700)
            np.testing.assert_allclose(part, whole[start : start + 700], atol=1e-7)


def test_speed_changes_pitch(tmp_path):
    time = np.arange(32000) / 16000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), 16000)
    slow = read_audio(tmp_path / "a.wav", Fraction("0.9"))
    assert len(slow) == int(np.ceil(32000 * 10 / 9))
    spectrum = np.abs(np.fft.rfft(slow[:16000] * np.hanning(16000)))
    assert abs(int(spectrum.argmax()) - 900) <= 1


def test_channels_are_averaged(tmp_path):
    path = noise_file(tmp_path / "a.wav", channels=2, subtype="FLOAT")
    stereo, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(read_audio(path), stereo.mean(1), atol=1e-7)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    noise_file(tmp_path / "cut.wav")
    data = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:500])
    for name in ("missing.wav", "text.wav", "empty.wav"):
        with pytest.raises(ValueError, match=name):
            read_audio(tmp_path / name)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="nan.wav"):
        read_audio(tmp_path / "nan.wav")


def test_crops_of_short_and_long_files():
    assert crops.crop_samples(200) == 32240
    assert crops.wrap(np.arange(3), 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert crops.train_start(0.999999, 32240, 32240) == 0
    assert crops.train_start(0.999999, 33240, 32240) == 999
    assert crops.eval_starts(100000, 32240, 10)[[0, -1]].tolist() == [0, 67760]
    assert crops.eval_crops(np.arange(5.0), 0, 10).shape == (1, 5)
    with pytest.raises(ValueError, match="no samples"):
        crops.wrap(np.empty(0), 4)


def test_lists_are_read_and_errors_name_the_line(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("b b/1.wav\n\na a/1.wav\nb b/2.wav\n")
    train = lists.read_train_list(path, "root")
    assert train.speakers == ["a", "b"] and train.labels.tolist() == [1, 0, 1] and train.path(1) == "root/a/1.wav"
    path.write_text("a a/1.wav\na b c\n")
    with pytest.raises(ValueError, match="train.txt, line 2"):
        lists.read_train_list(path)
    trials = tmp_path / "trials.txt"
    trials.write_text("1 b/1 a/1\n0 a/1 c/1\n")
    read = lists.read_trial_list(trials)
    assert (
        read.names == ["a/1", "b/1", "c/1"]
        and read.pairs.tolist() == [[1, 0], [0, 2]]
        and read.labels.tolist() == [1, 0]
    )
    assert read.sides().tolist() == [[1, 0], [0, 2]]
    trials.write_text("b/1 a/1\n")
    assert lists.read_trial_list(trials).labels is None
    for text, line in (("1 a b\na b\n", 2), ("2 a b\n", 1), ("1 a b\n1 a b c\n", 2), ("a\n", 1)):
        trials.write_text(text)
        with pytest.raises(ValueError, match=f"line {line}"):
            lists.read_trial_list(trials)
    trials.write_text("\n \n")
    with pytest.raises(ValueError, match="no trial"):
        lists.read_trial_list(trials)
    trials.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        lists.read_trial_list(trials)


def test_list_checks(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("a a/1.wav\na a/1.wav\nb b/1.wav\n")
    train = lists.read_train_list(path)
    with pytest.raises(ValueError, match="2 speakers but --nClasses is 1"):
        lists.check_training(train, 1, 1, True)
    text = "\n".join(lists.check_training(train, 2, 2, True, {"a", "z"}))
    assert "listed more than once" in text and "1 speakers have fewer than 2" in text and "in train and test" in text
    path.write_text("a x.wav\nb x.wav\n")
    with pytest.raises(ValueError, match="listed for two speakers"):
        lists.check_training(lists.read_train_list(path), 2, 1, True)


def test_file_check_counts_rates(tmp_path):
    paths = [
        noise_file(tmp_path / "a.wav", 8000),
        noise_file(tmp_path / "b.wav", 44100, channels=2),
        noise_file(tmp_path / "c.wav"),
    ]
    (warning,) = lists.check_files("train_list", [str(p) for p in paths])
    assert "2 of 3 files resampled to 16000 Hz (8000 Hz: 1, 44100 Hz: 1), 1 files mixed to one channel" in warning
    with pytest.raises(FileNotFoundError, match="1 of 4 .*gone.wav"):
        lists.check_files("train_list", [*map(str, paths), str(tmp_path / "gone.wav")])


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("each", [1, 2, 3])
def test_sampler_invariants(world, each):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 12, 300)
    groups = speaker_groups(labels, each, 9, 3, seed=1, epoch=4, world_size=world)
    assert groups.shape[1:] == (3 * world, each)
    used = groups.reshape(-1)
    assert len(set(used.tolist())) == len(used)
    assert (labels[groups] == labels[groups[:, :, :1]]).all()
    for batch in labels[groups[:, :, 0]]:
        assert len(set(batch.tolist())) == len(batch)
    assert np.bincount(labels[used]).max() <= 9
    again = speaker_groups(labels, each, 9, 3, seed=1, epoch=4, world_size=world)
    other = speaker_groups(labels, each, 9, 3, seed=1, epoch=5, world_size=world)
    assert (groups == again).all()
    assert groups.shape != other.shape or (groups != other).any()


def test_two_ranks_see_what_one_rank_of_double_batch_sees():
    labels = np.repeat(np.arange(10), 6)
    one = EpochSampler(labels, "speakers", 4, 2, 500, 3, 1, 0)
    two = [EpochSampler(labels, "speakers", 2, 2, 500, 3, 2, rank) for rank in (0, 1)]
    for whole, first, second in zip(one, *two):
        assert [g.tolist() for _, g, _ in whole] == [g.tolist() for _, g, _ in first + second]


def test_sampler_resumes_within_an_epoch_and_refuses_the_impossible():
    labels = np.repeat(np.arange(10), 6)
    sampler = EpochSampler(labels, "speakers", 4, 1, 500, 3, 1, 0, speeds=3)
    sampler.set_epoch(5)
    whole = [[g.tolist() for _, g, _ in batch] for batch in sampler]
    sampler.set_epoch(5, 4)
    assert [[g.tolist() for _, g, _ in batch] for batch in sampler] == whole[4:]
    with pytest.raises(ValueError, match="--batch_size 11"):
        speaker_groups(labels, 1, 500, 11, 0, 1)
    with pytest.raises(ValueError, match="--batch_size 6 x 2"):
        speaker_groups(labels, 1, 500, 6, 0, 1, world_size=2)
    with pytest.raises(ValueError, match="--sampler shuffle"):
        EpochSampler(labels, "shuffle", 4, 2, 500, 3, 1, 0)


def test_shuffle_sampler_covers_everything_once():
    labels = np.repeat(np.arange(10), 6)
    sampler = EpochSampler(labels, "shuffle", 7, 1, 500, 3, 1, 0, keep_last=True)
    sampler.set_epoch(2)
    used = [int(g[0]) for batch in sampler for _, g, _ in batch]
    assert sorted(used) == list(range(60)) and len(sampler) == 9


def test_speed_classes_are_speakers_of_their_own():
    labels = np.repeat(np.arange(6), 30)
    sampler = EpochSampler(labels, "speakers", 6, 2, 500, 0, 1, 0, speeds=3)
    sampler.set_epoch(1)
    shares = np.bincount(sampler.speed_of, minlength=3) / len(labels)
    assert (abs(shares - 1 / 3) < 0.12).all()
    for batch in sampler:
        pairs = [(int(labels[g[0]]), int(s[0])) for _, g, s in batch]
        assert len(set(pairs)) == 6
        assert all(len(set(s.tolist())) == 1 for _, _, s in batch)


@pytest.mark.parametrize("snr", [0.0, 7.5, 20.0])
def test_mixture_has_the_asked_snr(snr):
    draw = np.random.default_rng(0)
    clean, noise = 0.1 * draw.standard_normal(16000), 0.7 * draw.standard_normal(16000)
    added = augment.mix(clean, [noise], [snr], 1e-4 / 32768**2) - clean
    measured = 10 * np.log10(np.mean(clean**2) / np.mean(added**2))
    assert abs(measured - snr) < 1e-3


def test_reverberation_keeps_length_and_unit_impulse():
    wave = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    same = augment.reverberate(wave, np.array([3.0], dtype=np.float32))
    np.testing.assert_allclose(same, wave, atol=1e-5)
    late = augment.reverberate(wave, np.eye(1, 11, 10, dtype=np.float32)[0])
    np.testing.assert_allclose(late[10:], wave[:-10], atol=1e-5)


@pytest.fixture
def banks(tmp_path):
    for kind, count in (("noise", 3), ("music", 2), ("speech", 8)):
        for i in range(count):
            folder = tmp_path / "musan" / kind / "x" / "y"
            folder.mkdir(parents=True, exist_ok=True)
            noise_file(folder / f"{i}.wav", samples=9000 + i, seed=i)
    (tmp_path / "rirs" / "a" / "b").mkdir(parents=True)
    noise_file(tmp_path / "rirs" / "a" / "b" / "r.wav", samples=300)
    return str(tmp_path / "musan"), str(tmp_path / "rirs")


def test_augmenter_draws_all_kinds_and_is_keyed_on_its_generator(banks, monkeypatch):
    augmenter = augment.Augmenter(*banks, 8000, 1e-13)
    wave = 0.1 * np.random.default_rng(5).standard_normal(8000).astype(np.float32)
    seen = []
    monkeypatch.setattr(
        augmenter, "_add", lambda kind, wave, draw, add=augmenter._add: seen.append(kind) or add(kind, wave, draw)
    )
    monkeypatch.setattr(augmenter, "_room", lambda path, room=augmenter._room: seen.append("room") or room(path))
    for seed in range(200):
        before = len(seen)
        out = augmenter(wave, np.random.default_rng(seed))
        assert out.shape == wave.shape and out.dtype == np.float32 and np.isfinite(out).all()
        assert (len(seen) == before) == bool((out == wave).all())
    counts = {kind: seen.count(kind) for kind in augmenter.KINDS}
    counts["none"] = 200 - len(seen)
    assert all(20 <= n <= 62 for n in counts.values()), counts
    twice = [augmenter(wave, np.random.default_rng(3)) for _ in range(2)]
    assert (twice[0] == twice[1]).all()


def test_augmenter_reports_missing_folders(banks, tmp_path):
    with pytest.raises(ValueError, match="--musan_path.*does not exist"):
        augment.Augmenter(str(tmp_path / "nowhere"), banks[1], 8000, 1e-13)
    with pytest.raises(ValueError, match="--rir_path.*holds 0"):
        augment.Augmenter(banks[0], banks[0] + "/noise/x", 8000, 1e-13)
