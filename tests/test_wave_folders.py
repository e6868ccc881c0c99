"""dataprep.py --download librispeech, --combine and --index, on corpora of a few files."""

import os
import sys
import tarfile

import numpy as np
import pytest
import soundfile
from server import md5

import dataprep
from audio.durations import read_index
from audio.wave_sources import find_recordings
from corpora import librispeech
from engine.log import run_main

PARTS = {"train-clean-100": ("103", "1034", "19"), "dev-clean": ("84",)}


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Return a function that runs dataprep.py in `tmp_path` and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dataprep.py", *map(str, words)])
        dataprep.main()
        return capsys.readouterr().out

    return run


def speech(folder, speakers, seconds=0.5):
    for number, speaker in enumerate(speakers):
        path = folder / speaker / "1" / f"{speaker}-1-0000.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.full(int(16000 * seconds), 0.01 * number), 16000)
    return folder


@pytest.fixture
def host(serve, tmp_path):
    """A server with two parts in small; the flags that lead there."""
    bodies = {}
    for part, speakers in PARTS.items():
        whole = speech(tmp_path / "made" / part, speakers)
        (tmp_path / "made" / "SPEAKERS.TXT").write_text("; of the corpus\n")
        path = tmp_path / "made" / f"{part}.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "made" / "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
            tar.add(tmp_path / "made" / "SPEAKERS.TXT", "elsewhere/x.txt")
            tar.add(whole, f"LibriSpeech/{part}")
        bodies[f"12/{part}.tar.gz"] = path.read_bytes()
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "librispeech.txt").write_text("".join(f"{name} {md5(body)}\n" for name, body in bodies.items()))
    server = serve(bodies)
    return server, ["--parts_path", lists, "--openslr_prefix", server.url, "--retry_seconds", 0.001]


def test_librispeech_is_fetched_checked_and_unpacked_once(host, run_here, tmp_path):
    server, flags = host
    for _ in range(2):
        text = run_here("--download", "librispeech", "--save_path", "data", *flags)
        assert "train-clean-100: 3 utterances of 3 speakers" in text and "dev-clean: 1 utterances" in text
        assert "warning: train-clean-100: 3 speakers with 3 recordings, published are 251 with 28539" in text
    assert [path for path, *_ in server.seen] == [f"/12/{part}.tar.gz" for part in PARTS]
    data = tmp_path / "data"
    assert (data / "LibriSpeech/SPEAKERS.TXT").is_file() and not (data / "elsewhere").exists()
    assert find_recordings(str(data / "LibriSpeech/train-clean-100")).list.speakers == ["103", "1034", "19"]


def test_a_part_alone_is_fetched_and_a_wrong_sum_is_told(host, run_here, tmp_path):
    server, flags = host
    run_here("--download", "librispeech", "--archives", "dev-*", "--save_path", "data", *flags)
    assert [path for path, *_ in server.seen] == ["/12/dev-clean.tar.gz"]
    server.files["/12/train-clean-100.tar.gz"] = b"damaged"
    with pytest.raises(ValueError, match=f"came with MD5 {md5(b'damaged')}, the list says .*; it was deleted"):
        run_here("--download", "librispeech", "--archives", "train-clean-100", "--save_path", "data", *flags)
    assert not (tmp_path / "data/LibriSpeech/train-clean-100").exists()


def test_the_shipped_list_has_all_parts_and_knows_their_size():
    found = librispeech.archives("", "*")
    assert [librispeech.part_of(archive) for archive in found] == list(librispeech.PUBLISHED)
    assert len({archive.md5 for archive in found}) == 7 and all(
        archive.parts[0].source[:3] == "12/" for archive in found
    )
    chosen = librispeech.archives("", "train-clean-*,dev-other.tar.gz")
    assert [librispeech.part_of(archive) for archive in chosen] == ["train-clean-100", "train-clean-360", "dev-other"]
    with pytest.raises(ValueError, match="--archives train-clean: fits none of train-clean-100, train-clean-360, "):
        librispeech.archives("", "dev-clean,train-clean")


@pytest.mark.parametrize("words", [[], ["True"], ["yes"], ["voxceleb"]])
def test_download_alone_still_is_voxceleb(words, run_here):
    with pytest.raises(ValueError, match="--archives gone: fits none of vox1_dev_wav.zip"):
        run_here("--download", *words, "--archives", "gone")


def test_download_of_nothing_or_another_corpus_is_told(run_here, monkeypatch, capsys):
    with pytest.raises(ValueError, match="no stage given"):
        run_here("--download", "False")
    monkeypatch.setattr(sys, "argv", ["dataprep.py", "--download", "timit"])
    with pytest.raises(SystemExit) as ended:
        run_main(dataprep.main)
    assert ended.value.code == 2 and "--download: 'timit' is none of voxceleb, librispeech" in capsys.readouterr().err


def test_several_folders_become_one_list_that_can_lie_anywhere(run_here, tmp_path, monkeypatch):
    one, two = speech(tmp_path / "one", ("b", "a")), speech(tmp_path / "two", ("a", "c"))
    text = run_here("--combine", "one", "two", "--save_path", "lists")
    assert "combined.txt: one + two: 4 utterances of 4 speakers" in text
    lines = [line.split() for line in (tmp_path / "lists" / "combined.txt").read_text().splitlines()]
    assert [speaker for speaker, _ in lines] == ["00_a", "00_b", "01_a", "01_c"]
    assert [os.path.relpath(path, tmp_path) for _, path in lines] == [
        "one/a/1/a-1-0000.flac", "one/b/1/b-1-0000.flac", "two/a/1/a-1-0000.flac", "two/c/1/c-1-0000.flac",
    ]  # fmt: skip
    monkeypatch.chdir("/")
    found = find_recordings(str(tmp_path / "lists" / "combined.txt"))
    assert found.list.labels.tolist() == [0, 1, 2, 3] and not found.bad
    together = find_recordings([str(one), str(two)])
    assert together.list.speakers == found.list.speakers and together.list.labels.tolist() == [0, 1, 2, 3]


def test_an_index_of_a_folder_is_written_for_the_reference(run_here, tmp_path):
    speech(tmp_path / "one", ("19", "103"), 1.234)
    assert "one/index.json: one: 2 utterances of 2 speakers" in run_here("--index", "one")
    assert read_index(tmp_path / "one" / "index.json") == {"103/1/103-1-0000.flac": 1.23, "19/1/19-1-0000.flac": 1.23}
