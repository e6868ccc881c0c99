"""Tar shards: written for and by the webdataset library, indexed, read by offset, trained from in blocks of shards."""

import gzip
import io
import json
import os
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
import webdataset
from fuzz import fuzz

import dataprep
import DatasetLoader
from audio import shard_index, shards
from audio.io import AudioFile, read_audio
from audio.lists import check_training, read_train_list
from audio.names import Names
from corpora import sharding

# The end of a run draws pictures, which has no part in this.
NO_END = "import trainSpeakerNet; trainSpeakerNet.finish = lambda *a: {}\n"
NOISE = 0.1 * np.random.default_rng(0).standard_normal(9000)


def write_shards(monkeypatch, folder, listed, root, *more):
    """Run dataprep.py --shard with 9 samples a shard on one process."""
    words = ["--shard", listed, "--shard_from", root, "--shard_to", folder, "--samples_per_shard", 9, "--workers", 1]
    monkeypatch.setattr(sys, "argv", ["dataprep.py", *map(str, (*words, *more))])
    dataprep.main()
    return sorted(folder.glob("*.tar"))


@pytest.fixture(scope="module")
def sharded(tiny_corpus, tmp_path_factory):
    """The tiny corpus in four shards of 9, 9, 9 and 5 samples."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("shards")
        write_shards(patch, folder, tiny_corpus / "train.txt", tiny_corpus / "wav")
    return folder


@pytest.fixture
def copied(sharded, tmp_path):
    """A copy of the shards that a test may damage."""
    return shutil.copytree(sharded, tmp_path / "copied")


@pytest.fixture(scope="module")
def written_by_library(tiny_corpus, tmp_path_factory):
    """The tiny corpus as FLAC files with .cls labels, in shards of the library's own ShardWriter."""
    folder = tmp_path_factory.mktemp("library")
    with webdataset.ShardWriter(str(folder / "set-%06d.tar"), maxcount=11, verbose=0) as writer:
        for line in (tiny_corpus / "train.txt").read_text().splitlines():
            speaker, path = line.split()
            wave, rate = soundfile.read(tiny_corpus / "wav" / path)
            audio = io.BytesIO()
            soundfile.write(audio, wave, rate, format="FLAC")
            writer.write({"__key__": f"all/{path[:-4]}", "flac": audio.getvalue(), "cls": int(speaker[3:])})
    return folder


def read_by_library(paths):
    return list(webdataset.WebDataset([str(p) for p in paths], shardshuffle=False))


def samples_of(folder):
    """Return {member name: shard} of what a folder of shards holds."""
    found = shards.Shards(str(folder))
    return {name: found.paths[shard] for name, shard in zip(found.names, found.shard)}


def batches(utterances, args, **options):
    return list(DatasetLoader.train_loader(utterances, args, say=lambda line: None, **options))


# ---------------------------------------------------------------- writing


def test_the_library_reads_what_is_written(sharded, tiny_corpus):
    paths = sorted(sharded.glob("*.tar"))
    assert [p.name for p in paths] == [f"train_shard_{i:06d}.tar" for i in range(4)]
    samples = read_by_library(paths)
    listed = dict(reversed(line.split()) for line in (tiny_corpus / "train.txt").read_text().splitlines())
    assert {f"{s['__key__']}.wav" for s in samples} == set(listed) and len(samples) == 32
    for sample in samples:
        path = tiny_corpus / "wav" / f"{sample['__key__']}.wav"
        assert sample["wav"] == path.read_bytes()
        about = json.loads(sample["json"])
        speaker, recording, utterance = sample["__key__"].split("/")
        assert about == {"speaker_id": speaker, "youtube_id": recording, "utterance_id": utterance,
                         "speaker_id_idx": int(speaker[3:]), "num_frames": 14400, "sampling_rate": 16000}  # fmt: skip
    meta = json.loads((sharded / "meta.json").read_text())
    assert meta["speaker_id_to_idx"] == {f"spk{i}": i for i in range(8)} and meta["num_samples"] == 32
    assert meta["youtube_ids"] == ["s1"] and len(meta["sample_ids_per_speaker"]["spk3"]) == 4
    lines = (sharded / "utterance_list.csv").read_text().splitlines()
    assert lines[0] == "utterance_key;shard_dix;set_name" and len(lines) == 33
    assert Counter(line.split(";")[1] for line in lines[1:]) == {"0": 9, "1": 9, "2": 9, "3": 5}


@pytest.mark.parametrize("size, counts", [(9, [4] * 8), (50, [200, 3, 1, 90]), (7, [1]), (10, [10, 10])])
def test_shards_are_filled_in_rounds_of_all_speakers(size, counts):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    planned = sharding.plan(labels, size, 3)
    assert sorted(np.concatenate(planned).tolist()) == list(range(len(labels)))
    assert all(len(part) == size for part in planned[:-1]) and 0 < len(planned[-1]) <= size
    left = np.bincount(labels)
    for part in planned:
        round_of, has = Counter(), left > 0
        for speaker in labels[part].tolist():
            # who comes again does so after everyone who still had files when the round began
            assert all(round_of[other] > round_of[speaker] or left[other] == 0 or not has[other] for other in
                       range(len(counts)) if other != speaker and round_of[other] < round_of[speaker])  # fmt: skip
            round_of[speaker] += 1
            left[speaker] -= 1
    again, other = sharding.plan(labels, size, 3), sharding.plan(labels, size, 4)
    assert all((a == b).all() for a, b in zip(planned, again))
    assert len(labels) < 9 or any((a != b).any() for a, b in zip(planned, other))


def test_published_sizes_give_the_published_numbers_of_shards():
    for speakers, files, number in ((100, 49400, 10), (5994, 47952, 10), (5994, 22717, 5), (100, 599, 1)):
        assert len(sharding.plan(np.arange(files) % speakers, 5000, 1337)) == number


def test_writing_goes_on_after_a_cut_and_gives_the_same_bytes(copied, sharded, tiny_corpus, monkeypatch, capsys):
    paths = sorted(copied.glob("*.tar"))
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:50000])  # as a copy that stopped
    write_shards(monkeypatch, copied, tiny_corpus / "train.txt", tiny_corpus / "wav", "--shard_gzip")
    assert all(path.read_bytes() == (sharded / path.name).read_bytes() for path in paths)
    assert [a == p.stat().st_mtime_ns for a, p in zip(before, paths)] == [True, False, False, True]
    assert gzip.decompress((copied / "train_shard_000003.tar.gz").read_bytes()) == paths[3].read_bytes()
    assert "32 recordings of 8 speakers in 4 shards" in capsys.readouterr().out
    with pytest.raises(ValueError, match="copied already holds shards of another list, folder, set or seed"):
        write_shards(monkeypatch, copied, tiny_corpus / "train.txt", tiny_corpus / "wav", "--seed", 5)


def test_bad_recordings_are_left_out_and_listed(tiny_corpus, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(tiny_corpus / "wav", tmp_path / "wav")
    (root / "spk1/s1/00000.wav").write_bytes(b"RIFF broken")
    soundfile.write(root / "spk2/s1/00000.wav", NOISE, 8000)
    soundfile.write(root / "spk3/s1/00000.wav", np.append(NOISE, np.nan), 16000, subtype="FLOAT")
    (root / "spk4/s1/00000.wav").unlink()
    for _ in range(2):
        paths = write_shards(monkeypatch, tmp_path / "s", tiny_corpus / "train.txt", root, "--drop_last_shard")
        bad = dict(line.split("\t") for line in (tmp_path / "s/bad_files.txt").read_text().splitlines())
        dropped = 5 - (4 - len(bad))
        assert len(paths) == 3 and len(read_by_library(paths)) == 27 - len(bad) and dropped >= 1
    for name, reason in bad.items():
        words = {"1": "cannot be read", "2": "8000 Hz", "3": "not finite", "4": "no such file"}
        assert words[name[3]] in reason
    assert f"{len(bad)} not readable" in capsys.readouterr().out


def test_a_trial_list_and_other_sets_can_be_sharded(tiny_corpus, tmp_path, monkeypatch):
    paths = write_shards(
        monkeypatch, tmp_path / "s", tiny_corpus / "trials.txt", tiny_corpus / "wav", "--shard_set", "test"
    )
    assert paths[0].name == "test_shard_000000.tar" and len(samples_of(tmp_path / "s")) == 32


@pytest.mark.parametrize(
    "line, expected",
    [
        ("a a/v/1.mp4", "a/v/1.mp4: a shard takes .wav"),
        ("a /a/v/1.wav", "give a path below --shard_from"),
        ("a a/../1.wav", "without .."),
        ("a a/v/1.b.wav", "ends a key at the first dot of the name: rename it"),
        ("a a/v/1.wav\na a/v/1.flac", "two recordings have the key a/v/1"),
        ("1 1.wav 2.wav", "1.wav names no speaker"),
    ],
)
def test_paths_that_cannot_be_keys_are_refused_before_the_work_starts(tmp_path, monkeypatch, line, expected):
    (tmp_path / "l.txt").write_text(line + "\n")
    with pytest.raises(ValueError) as error:
        write_shards(monkeypatch, tmp_path / "s", tmp_path / "l.txt", tmp_path)
    assert expected in str(error.value) and not (tmp_path / "s").exists()


# ---------------------------------------------------------------- the index


def test_samples_are_found_by_their_names_and_read_by_offset(sharded, tiny_corpus):
    found = shards.Shards(str(sharded))
    assert len(found.names) == 32 and found.all_int16(np.arange(32)) and isinstance(found.names, Names)
    for name in ("spk0/s1/00000.wav", "spk7/s1/00003.wav"):
        whole = read_audio(tiny_corpus / "wav" / name)
        assert (read_audio(sharded / name) == whole).all()
        with AudioFile(str(sharded / name)) as audio:
            assert (audio.read(500, 77) == whole[500:577]).all() and len(audio.read(14390, 99)) == 10
    with pytest.raises(ValueError, match="gone.wav: not in the shards of"):
        AudioFile(str(sharded / "spk0/gone.wav"))
    with pytest.raises(ValueError, match="no such file"):
        AudioFile(str(sharded.parent / "spk0/gone.wav"))


def test_an_index_is_made_anew_when_the_shard_changes_and_needs_no_place_to_lie(copied, monkeypatch):
    path = sorted(copied.glob("*.tar"))[0]
    first, other = shard_index.read_index(path), sorted(copied.glob("*.tar"))[3]
    made = []
    build = shard_index.build_index
    monkeypatch.setattr(shard_index, "build_index", lambda path: made.append(path) or build(path))
    assert list(shard_index.read_index(path).names) == list(first.names)
    os.utime(path)
    shard_index.read_index(path), shard_index.read_index(path)
    assert len(made) == 1
    shutil.copy(other, path)
    assert list(shard_index.read_index(path).names) == list(shard_index.read_index(other).names)
    beside = copied / f"{path.name}.index.npz"
    for content in (b"", b"PK broken", beside.read_bytes()[:-30]):
        beside.write_bytes(content)
        assert len(shard_index.read_index(path).names) == 5
    beside.unlink()

    def read_only(*a, **k):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(np, "savez", read_only)
    assert len(shard_index.read_index(path).names) == 5 and not list(copied.glob("*.tmp*")) and not beside.exists()


def test_every_way_of_cutting_a_shard_is_noticed(copied):
    path = sorted(copied.glob("*.tar"))[3]
    content = path.read_bytes()
    size = len(content.rstrip(b"\0"))
    cuts = {*range(0, size, 977), *range(512, size, 15360), size - 1, size}
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="000003.tar: a truncated or damaged shard|a truncated shard"):
            shard_index.build_index(path)
    path.write_bytes(content[: 2 * 512] + b"x" * 512 + content[3 * 512 :])
    with pytest.raises(ValueError, match="damaged shard, without the mark of its end at byte 1024"):
        shard_index.build_index(path)


def test_damaged_bytes_are_read_or_refused_in_one_line(copied):
    def read(path):
        shards.open_shards.cache_clear()
        for name in shards.Shards(str(path)).names:
            with AudioFile(f"{path}/{name}") as audio:
                audio.read(0, 100)

    content = sorted(copied.glob("*.tar"))[3].read_bytes()
    fuzz(read, copied / "x0.tar", content, 120)


def test_a_damaged_shard_is_reported_and_skipped(copied, tiny_corpus, tmp_path):
    path = sorted(copied.glob("*.tar"))[1]
    path.write_bytes(path.read_bytes()[:100_000])
    utterances = read_train_list(copied)
    lines = check_training(utterances, 8, 1, True)
    assert any(
        line.startswith("warning: ") and "000001.tar: a truncated" in line and "skipped" in line for line in lines
    )
    assert len(utterances.paths) == 23
    # by a list its samples are missing
    listed = read_train_list(tiny_corpus / "train.txt", str(copied))
    assert any("000001.tar" in note for note in listed.notes)
    with pytest.raises(ValueError, match="not in the shards of .*copied, 1 of the 4 were damaged and skipped"):
        for i in range(32):
            AudioFile(listed.path(i))
    for path in copied.glob("*.tar"):
        path.write_bytes(b"no tar file" * 99)
    shards.open_shards.cache_clear()
    with pytest.raises(ValueError, match="none of 4 shards can be read: "):
        read_train_list(copied)


def test_a_shard_that_shrinks_while_it_is_open_is_an_error_and_no_crash(copied):
    found = shards.Shards(str(copied))
    with open(found.paths[0], "r+b") as file:
        file.truncate(2000)
    with pytest.raises(ValueError, match="has changed since it was indexed"):
        found.open(0).read(0, 14400)


def test_compressed_shards_say_how_to_unpack_them(copied, tmp_path):
    for path in list(copied.glob("*.tar")):
        (copied / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.rename(tmp_path / path.name)
    for spec in (copied, copied / "*.tar", copied / "train_shard_000000.tar.gz"):
        with pytest.raises(ValueError, match="compressed shards.*gunzip "):
            read_train_list(spec)
    shutil.copy(copied / "train_shard_000000.tar.gz", copied / "x0.tar")
    with pytest.raises(ValueError, match="x0.tar: compressed"):
        read_train_list(copied / "x0.tar")
    with pytest.raises(ValueError, match="no such shards"):
        read_train_list(tmp_path / "gone*.tar")


# ---------------------------------------------------------------- shards of others


def wav(rate=16000, channels=1, **options):
    data = io.BytesIO()
    wave = np.stack([NOISE] * channels, 1)
    soundfile.write(data, wave, rate, format="WAV", **options)
    return data.getvalue()


@pytest.mark.parametrize("form", ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"])
def test_keys_labels_and_kinds_of_audio_of_other_writers(tmp_path, form):
    long = "x" * 90 + "/" + "y" * 60
    flac = io.BytesIO()
    soundfile.write(flac, NOISE, 16000, format="FLAC")
    with webdataset.ShardWriter(str(tmp_path / "a-%03d.tar"), maxcount=4, verbose=0, format=form) as writer:
        for sample in (
            {"__key__": "000.1", "wav": wav(), "cls": 3},
            {"__key__": "a/b.c/utt", "wav": wav(rate=8000), "json": {"speaker_id": "ann", "text": "hello"}},
            {"__key__": "utt4", "flac": flac.getvalue(), "spk": b"bob"},
            {"__key__": "eve/1", "txt": "words of a sentence", "wav": wav(subtype="FLOAT")},
            {"__key__": long, "wav": wav(channels=2), "jpg": b"", "json": {"age": 3}},
            {"__key__": "utt6", "txt": "kim", "wav": wav(subtype="PCM_24")},
            {"__key__": "only/text", "txt": "no audio"},
        ):
            writer.write(sample)
    utterances = read_train_list(tmp_path)
    found = {path: utterances.speakers[label] for path, label in zip(utterances.paths, utterances.labels)}
    assert found == {"000.1.wav": "3", "a/b.c/utt.wav": "ann", "utt4.flac": "bob", "eve/1.wav": "eve",
                     f"{long}.wav": "x" * 90, "utt6.wav": "kim"}  # fmt: skip
    for i, path in enumerate(utterances.paths):
        wave = read_audio(utterances.path(i))
        assert len(wave) == (18000 if "b.c" in path else 9000)
        assert "b.c" in path or np.abs(wave - NOISE).max() < 1e-4
    assert read_train_list(tmp_path / "a-*.tar").hash == utterances.hash


def test_samples_without_speaker_and_keys_that_come_twice_are_errors(tmp_path):
    for name in ("a0", "b0"):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as writer:
            writer.write({"__key__": "1", "wav": wav()})
    with pytest.raises(ValueError, match=r"a0.tar: sample 1.wav has neither a label"):
        read_train_list(tmp_path / "a0.tar")
    with pytest.raises(ValueError, match="a0.tar and .*b0.tar: both hold a sample 1.wav"):
        read_train_list(tmp_path)
    with webdataset.TarWriter(str(tmp_path / "c0.tar")) as writer:
        writer.write({"__key__": "1", "txt": "a"})
    with pytest.raises(ValueError, match="its 1 shards hold no audio"):
        read_train_list(tmp_path / "c0.tar")
