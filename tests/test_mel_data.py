"""Tests of chunks of features: lists, sampler, seek reads, noisy versions, the cache of features, loaders."""

import numpy as np
import pytest
import soundfile
import torch

from audio import log_mel, mel_cache
from audio.bad_files import BadFiles
from audio.io import read_audio
from audio.log_mel import LogMel, frames_of, sliding_normalisation
from audio.mel_cache import MelCache, write_cache
from audio.mel_data import least_frames, mel_chunks, mel_loader
from audio.mel_sampler import ChunkSampler, FixedSampler, split_by_speaker, usable
from audio.noisy_versions import KINDS, SNR_DB, NoisyVersions, find_rooms
from corpora import mel_features

CHUNK = 60


def voice(draw, samples):
    """Return modulated noise with silence in the middle, (samples,)."""
    time = np.arange(samples) / 16000
    wave = 0.1 * draw.standard_normal(samples) * np.abs(np.sin(7 * time))
    wave[samples // 3 : samples // 2] *= 1e-3
    return wave


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four speakers of ten utterances of 2 to 6 s, of which two of the first are too short."""
    folder = tmp_path_factory.mktemp("voices")
    draw, lines = np.random.default_rng(5), []
    for speaker in range(4):
        for number in range(10):
            samples = 5000 if speaker == 0 and number < 2 else int(draw.integers(32000, 96000))
            (folder / f"s{speaker}").mkdir(exist_ok=True)
            soundfile.write(folder / f"s{speaker}/{number}.wav", voice(draw, samples), 16000, subtype="PCM_16")
            lines.append(f"s{speaker} s{speaker}/{number}.wav")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """Noise, music, speech and rooms: tones of their own, rooms a click after 100 and 900 samples."""
    folder = tmp_path_factory.mktemp("noises")
    time = np.arange(8000) / 16000
    for number, kind in enumerate(("noise", "music", "speech")):
        for file in range(8):
            path = folder / f"musan/{kind}/set/{file}/00000.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, 0.3 * np.sin(2 * np.pi * (500 + 1000 * number + 20 * file) * time), 16000)
    for name, delay in (("smallroom/a/1", 100), ("mediumroom/a/1", 900), ("largeroom/a/1", 0), ("real_a", 30)):
        response = np.zeros(2000)
        response[delay], response[delay + 300] = 0.8, 0.1
        path = folder / f"rirs/{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, response, 16000)
    soundfile.write(folder / "rirs/real_noise.wav", response, 16000)
    return folder


def chunks(corpus, **options):
    options = {"longer_than": CHUNK, "share": 0.8, "seed": 3, "prefix": str(corpus), "say": lambda line: None} | options
    return mel_chunks(str(corpus / "list.txt"), **options)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- lists and sampler


def test_flags_of_the_cache_know_its_choices():
    assert (mel_features.TYPES, mel_features.GRIDS) == (mel_cache.TYPES, log_mel.GRIDS)


def test_short_utterances_go_before_speakers_with_few():
    labels, frames = np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.array([400, 401, 500, 900, 400, 10, 999, 999])
    kept, lines = usable(labels, frames, 400, 2)
    assert kept.tolist() == [1, 2, 6, 7]
    assert lines == [
        "dropped: 3 of 8 utterances with at most 400 frames, and 1 speakers with "
        "fewer than 2 longer ones (1 utterances)"
    ]
    assert usable(labels, frames, 5, 2) == (pytest.approx(np.arange(8)), [])
    with pytest.raises(ValueError, match="no utterance is left to train on; dropped: 3 of 8"):
        usable(labels, frames, 400, 9)


def test_the_split_is_that_of_every_speaker():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), [8, 20, 31, 100, 11]))
    train, validation = split_by_speaker(labels, 7)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    assert np.bincount(labels[train]).tolist() == [8, 19, 29, 95, 10]
    assert np.array_equal(train, split_by_speaker(labels, 7)[0])
    assert not np.array_equal(train, split_by_speaker(labels, 8)[0])
    with pytest.raises(ValueError, match="none to validate on: choose another share"):
        split_by_speaker(np.repeat(np.arange(3), 8), 0)


def test_batches_follow_the_rules_of_the_draw():
    labels = np.repeat(np.arange(4), [4, 40, 4, 4])
    frames = np.tile([100, 150, 200, 120], 13)
    frames[labels == 3] = 90
    sampler = ChunkSampler(labels, frames, 8, 1, 120, 160, iters_per_epoch=20)
    assert len(sampler) == 20 * 52 / 8
    items = [batch for batch in sampler]
    lengths = np.array([[item[3] for item in batch] for batch in items])
    assert (lengths == lengths[:, :1]).all() and (lengths.min(), lengths.max()) == (120, 160)
    flat = [item for batch in items for item in batch]
    drawn = np.array([item[2] for item in flat])
    assert (frames[drawn] >= lengths.reshape(-1)).all() and [item[1] for item in flat] == list(range(len(flat)))
    # speakers alike, whatever their utterances; the one whose utterances are all short never
    shares = np.bincount(labels[drawn], minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 1 / 3, 0], atol=0.05)
    weighted = ChunkSampler(labels, frames, 8, 1, 120, iters_per_epoch=20, weights=[0, 3, 1, 5])
    shares = np.bincount(labels[[item[2] for batch in weighted for item in batch]], minlength=4)
    np.testing.assert_allclose(shares / shares.sum(), [0, 3 / 4, 1 / 4, 0], atol=0.05)
    with pytest.raises(ValueError, match="no utterance has 300 frames, the longest has 200"):
        ChunkSampler(labels, frames, 8, 1, 300)


def test_ranks_share_the_batches_of_one_and_epochs_go_on():
    labels, frames = np.repeat(np.arange(4), 10), np.full(40, 100)
    one = ChunkSampler(labels, frames, 6, 1, 50, 90)
    ranks = [ChunkSampler(labels, frames, 3, 1, 50, 90, 1.0, 2, rank) for rank in (0, 1)]
    assert len(one) == len(ranks[0]) == 7
    whole = list(one)
    assert [a + b for a, b in zip(*ranks)] == whole
    one.set_epoch(1, first_batch=4)
    assert list(one) == whole[4:]
    one.set_epoch(2)
    assert all(a != b for a, b in zip(one, whole))


def test_validation_is_the_same_every_time():
    frames = np.array([50, 100, 49, 80, 70, 90])
    sampler = FixedSampler(frames, 2, 1, 50)
    first = list(sampler)
    sampler.set_epoch(9)
    assert list(sampler) == first and [item[2] for batch in first for item in batch] == [0, 1, 3, 4, 5]
    assert [list(FixedSampler(frames, 2, 1, 50, 2, rank)) for rank in (0, 1)] == [first[::2], first[1::2]]


# ---------------------------------------------------------------- chunks on the fly


def test_a_chunk_is_that_of_the_whole_utterance(corpus):
    train, validation = chunks(corpus, least_utterances=9)
    assert len(train.rows) == 24 and len(validation.rows) == 6 and (train.labels > 0).all(), "s0 has only 8 long ones"
    front_end = LogMel(dither=0)
    loader = mel_loader(train, front_end, 16, CHUNK, 100)
    worst, silent = [], 0
    for number, batch in enumerate(loader):
        items = list(loader.batch_sampler)[number]
        for row, (_, _, utterance, frames, u) in enumerate(items):
            assert batch.utterance[row] == utterance and batch.label[row] == train.labels[utterance]
            wave = torch.from_numpy(read_audio(train.recordings.list.path(int(train.rows[utterance]))))
            first = int(u * (frames_of(len(wave)) - frames + 1))
            mel, speech = front_end.with_speech(wave[None])
            expected = sliding_normalisation(mel)[0, :, first : first + frames]
            worst.append((batch.x[row] - expected).abs().max())
            # what counts as loud is measured on the piece
            assert (batch.mask[row] == speech[0, first : first + frames]).float().mean() > 0.9
        assert batch.x.shape == batch.target.shape == (16, 80, batch.mask.shape[1]) and (batch.noise == -1).all()
        silent += int((~batch.mask).sum())
    # the filter has forgotten all before the piece 150 frames later, and the sliding mean has all its frames
    assert max(worst) < 0.02 and silent


def test_batches_depend_on_no_worker_and_a_run_goes_on_within_an_epoch(corpus, noises):
    noisy = NoisyVersions(str(noises / "musan"), str(noises / "rirs"))
    train, validation = chunks(corpus, noisy=noisy)
    whole = list(mel_loader(train, LogMel(), 8, CHUNK))
    again = mel_loader(train, LogMel(), 8, CHUNK, workers=2)
    again.batch_sampler.set_epoch(1, first_batch=2)
    assert all(equal(a, b) for a, b in zip(again, whole[2:], strict=True))
    ranks = [mel_loader(train, LogMel(), 4, CHUNK, world_size=2, rank=rank) for rank in (0, 1)]
    for parts, batch in zip(zip(*ranks, strict=True), whole, strict=True):
        for together, expected in zip((torch.cat(part) for part in zip(*parts)), batch, strict=True):
            torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-4)
    fixed = [list(mel_loader(validation, LogMel(), 8, CHUNK, train=False)) for _ in range(2)]
    assert all(equal(a, b) for a, b in zip(*fixed)) and sum(len(b.x) for b in fixed[0]) == len(validation)


def test_a_recording_that_cannot_be_read_gives_way_to_the_next(corpus, tmp_path):
    train, _ = chunks(corpus)
    broken = train.recordings.list.path(int(train.rows[3]))
    train.recordings.list.root = str(tmp_path)
    for row in train.rows.tolist():
        path = tmp_path / train.recordings.list.paths[row]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"" if row == train.rows[3] else (corpus / train.recordings.list.paths[row]).read_bytes())
    with pytest.raises(ValueError, match=f"{train.recordings.list.paths[int(train.rows[3])]}: cannot be read"):
        list(mel_loader(train, LogMel(), 16, CHUNK, iters_per_epoch=4))
    told = BadFiles(tmp_path / "bad_files.txt", len(train), 50, lambda line: None)
    batches = list(mel_loader(train, LogMel(), 16, CHUNK, iters_per_epoch=4, bad_files=told))
    assert not any((batch.utterance == 3).any() for batch in batches) and broken.split("/")[-1] in (
        (tmp_path / "bad_files.txt").read_text()
    )


def test_durations_in_hundredths_promise_no_frame_too_many():
    samples = np.arange(16000, 17000, 7)
    assert (least_frames(np.round(samples / 16000, 2)) <= [frames_of(int(n)) for n in samples]).all()
    assert (least_frames(np.round(samples / 16000, 2)) >= [frames_of(int(n)) - 2 for n in samples]).all()


# ---------------------------------------------------------------- noisy versions


def ratio_db(clean, noisy):
    return 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))


def test_noisy_versions_have_their_ratios_and_shares(noises):
    clean = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    for kind in ("noise", "music"):
        make = NoisyVersions(str(noises / "musan"), str(noises / "rirs"), kinds=[kind], clean_share=0)
        ratios = [ratio_db(clean, make(clean, 1, number)[0]) for number in range(60)]
        if kind == "music":  # one after the other, a noise lies on a third of the time only
            assert {round(ratio, 1) for ratio in ratios} == set(map(float, SNR_DB["music"]))
        else:
            assert min(ratios) > min(SNR_DB["noise"]) and max(ratios) < max(SNR_DB["noise"]) + 10
            gaps = np.abs(make(clean, 1, 0)[0] - clean) == 0
            assert 0.3 < gaps.mean() < 0.9
    babble = NoisyVersions(str(noises / "musan"), str(noises / "rirs"), kinds=["speech"], clean_share=0)
    added = np.abs(np.fft.rfft([babble(clean, 1, n)[0] - clean for n in range(40)])).max(0)
    tones = {round(hz) for hz in np.flatnonzero(added > 20) / 3}
    assert {2500 + 20 * file for file in range(8)} <= tones
    make = NoisyVersions(str(noises / "musan"), str(noises / "rirs"))
    kinds = np.array([make(clean[:1000], epoch, number)[1] for epoch in (1, 2) for number in range(300)])
    np.testing.assert_allclose(np.bincount(kinds + 1) / len(kinds), [1 / 6] + [5 / 42] * 7, atol=0.05)
    one, other = (NoisyVersions(str(noises / "musan"), str(noises / "rirs"), 4) for _ in range(2))
    for number in range(12):
        assert np.array_equal(one(clean, 3, number)[0], other(clean, 3, number)[0])


def test_reverberation_stays_aligned_with_the_speech(noises):
    rooms = find_rooms(str(noises / "rirs"))
    assert {size: len(paths) for size, paths in rooms.items()} == {"real": 1, "small": 1, "medium": 1}
    make = NoisyVersions(str(noises / "musan"), str(noises / "rirs"), kinds=["reverb"], clean_share=0)
    draw, used = np.random.default_rng(2), []
    clean = draw.standard_normal(16000).astype(np.float32)
    for number in range(150):
        noisy, kind = make(clean, 1, number)
        assert kind == 0 and len(noisy) == len(clean) and noisy.dtype == np.float32
        assert np.corrcoef(noisy, clean)[0, 1] > 0.95
        used.append(next(reversed(make.responses)))
    counts = [sum(f"/{name}" in path for path in used) for name in ("real", "smallroom", "mediumroom")]
    np.testing.assert_allclose(np.array(counts) / 150, [0.2, 0.4, 0.4], atol=0.12)


def test_what_noisy_versions_lack_is_told_before_the_work(noises, tmp_path):
    with pytest.raises(ValueError, match="--rir_path: .*no_such does not exist"):
        NoisyVersions(str(noises / "musan"), str(tmp_path / "no_such"))
    with pytest.raises(ValueError, match="--musan_path: .*no_such does not exist"):
        NoisyVersions(str(tmp_path / "no_such"), str(noises / "rirs"))
    with pytest.raises(ValueError, match="kind of noise hum: choose from reverb, noise"):
        NoisyVersions("", "", kinds=["hum"])
    assert len(KINDS) == 7


# ---------------------------------------------------------------- cache


def fill(corpus, folder, **options):
    train, _ = chunks(corpus)
    listed, said = train.recordings.list, []
    for _ in write_cache(
        folder, listed, LogMel(dither=0), seconds=train.recordings.seconds, say=said.append, **options
    ):
        pass
    return listed, said


def test_the_cache_gives_back_features_and_chunks_of_speech(corpus, tmp_path):
    listed, said = fill(corpus, tmp_path, dtype="float32")
    cache = MelCache(tmp_path)
    assert (
        len(cache) == 40
        and "40 utterances" in said[-1]
        and sorted(cache.names) == sorted(listed.paths[row] for row in range(40))
    )
    row = 17
    wave = torch.from_numpy(read_audio(f"{corpus}/{cache.names[row]}"))
    mel, speech = LogMel(dither=0).with_speech(wave[None])
    mel, is_speech = sliding_normalisation(mel)[0].numpy(), speech[0].numpy()
    got = cache.read(row)
    np.testing.assert_allclose(got[0], mel, atol=2e-4)
    assert np.array_equal(got[1], is_speech) and 0 < is_speech.mean() < 1
    assert cache.speakers[cache.labels[row]] == cache.names[row].split("/")[0]
    speech_only = got[0][:, is_speech]
    for u in (0, 0.5, 0.999999):
        first = int(u * (speech_only.shape[1] - CHUNK + 1))
        assert np.array_equal(cache.chunk(row, CHUNK, u), speech_only[:, first : first + CHUNK])
    train, validation = mel_chunks("", CHUNK, 2, cache=str(tmp_path), share=0.8, say=lambda line: None)
    loader = mel_loader(train, LogMel(dither=0), 8, CHUNK)
    batch = next(iter(loader))
    assert batch.x.shape == (8, 80, CHUNK) and batch.mask.all() and equal(batch, next(iter(loader)))
    assert len(list(mel_loader(validation, LogMel(dither=0), 8, CHUNK, train=False)))
    with pytest.raises(ValueError, match="made with .*'grid': '511'.* but .*'grid': '512'"):
        mel_loader(train, LogMel(dither=0, grid="512"), 8, CHUNK)


def test_a_cache_that_is_not_whole_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="holds no cache of features"):
        MelCache(tmp_path)
    writing = write_cache(tmp_path, chunks(corpus)[0].recordings.list, LogMel())
    next(writing)
    writing.close()
    with pytest.raises(ValueError, match="holds no cache of features"):
        MelCache(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is left of a run that was stopped"
    fill(corpus, tmp_path)
    half = np.dtype(MelCache(tmp_path).type)
    assert half == np.float16
    with open(tmp_path / "frames.bin", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="frames.bin: has 1000 bytes, the index promises"):
        MelCache(tmp_path)
    with pytest.raises(ValueError, match="noisy versions are made of waves"):
        mel_chunks("", cache=str(tmp_path), noisy=object())
