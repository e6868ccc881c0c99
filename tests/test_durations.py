"""Durations from headers and their cache, the reference's index, folders, lists and several of them as one."""

import json
import os
import time

import numpy as np
import pytest
import soundfile

from audio import durations
from audio.durations import CACHE, read_index, write_index
from audio.wave_sources import find_recordings

TREE = {"19/198/b.flac": 1.0, "19/198/a.wav": 0.5, "103/1/x.flac": 2.0, "1034/deep/er/y.ogg": 0.25}


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home_cache"))
    return tmp_path / "home_cache"


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / "speech", TREE)


def made(folder, tree):
    for name, seconds in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, 0.1 * np.ones(int(16000 * seconds)), 16000)
    return folder


@pytest.fixture
def headers(monkeypatch):
    """Return a list to which the path of every header that is read is appended."""
    seen, original = [], durations.measure
    monkeypatch.setattr(durations, "measure", lambda path: (seen.append(path), original(path))[1])
    return seen


def paths(found):
    return [found.list.path(row) for row in range(len(found.list.paths))]


def table(found):
    return dict(zip([found.list.paths[row] for row in range(len(found.seconds))], found.seconds.tolist()))


# ---------------------------------------------------------------- folders and their cache


def test_a_folder_is_found_in_order_with_labels_sorted_as_strings(folder):
    for name in (".hidden.wav", "19/.x/z.wav", "19/notes.txt", "19/._a.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no sound")
    found = find_recordings(str(folder))
    assert list(table(found).items()) == [
        ("103/1/x.flac", 2.0), ("1034/deep/er/y.ogg", 0.25), ("19/198/a.wav", 0.5), ("19/198/b.flac", 1.0)
    ]  # fmt: skip
    assert found.list.speakers == ["103", "1034", "19"] and found.list.labels.tolist() == [0, 1, 2, 2]
    assert found.bad == [] and found.list.notes == []


def test_headers_are_read_once_and_of_what_changed_again(folder, headers):
    first = find_recordings(str(folder))
    assert len(headers) == 4 and (folder / CACHE).is_file()
    headers.clear()
    assert table(find_recordings(str(folder))) == table(first) and headers == []
    # other samples in as many bytes, a longer file, a new one, one that is gone
    soundfile.write(folder / "19/198/a.wav", np.zeros(8000), 16000)
    soundfile.write(folder / "103/1/x.flac", np.zeros(16000), 16000)
    soundfile.write(folder / "103/1/new.wav", np.zeros(1600), 16000)
    (folder / "19/198/b.flac").unlink()
    assert table(find_recordings(str(folder))) == {
        "103/1/new.wav": 0.1, "103/1/x.flac": 1.0, "1034/deep/er/y.ogg": 0.25, "19/198/a.wav": 0.5
    }  # fmt: skip
    assert sorted(os.path.basename(path) for path in headers) == ["a.wav", "new.wav", "x.flac"]
    headers.clear()
    find_recordings(str(folder))
    assert headers == [] and sorted(p.name for p in folder.iterdir()) == [CACHE, "103", "1034", "19"]


def test_a_read_only_folder_is_left_alone_and_cached_elsewhere(folder, headers, cache_home):
    folder.chmod(0o555)
    try:
        before = sorted(os.listdir(folder))
        find_recordings(str(folder))
        assert sorted(os.listdir(folder)) == before and len(list((cache_home / "voxlab").iterdir())) == 1
        headers.clear()
        find_recordings(str(folder))
        assert headers == []
    finally:
        folder.chmod(0o755)


def test_nowhere_to_write_is_no_matter(folder, monkeypatch, headers):
    def refused(path, data):
        raise PermissionError(13, "no")

    monkeypatch.setattr(durations, "_write_whole", refused)
    for _ in range(2):
        assert len(find_recordings(str(folder)).seconds) == 4
    assert len(headers) == 8


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(50)])
def test_a_damaged_cache_is_made_anew(folder, headers, content):
    (folder / CACHE).write_bytes(content)
    find_recordings(str(folder))
    find_recordings(str(folder))
    assert len(headers) == 4


def test_a_cache_with_odd_numbers_is_not_believed(folder):
    good = table(find_recordings(str(folder)))
    with np.load(folder / CACHE) as arrays:
        held = dict(arrays)
    np.savez(folder / "c.npz", **{**held, "seconds": np.full(4, np.nan)})
    os.replace(folder / "c.npz", folder / CACHE)
    assert table(find_recordings(str(folder))) == good
    np.savez(folder / "c.npz", **{**held, "sizes": held["sizes"][:2]})
    os.replace(folder / "c.npz", folder / CACHE)
    assert table(find_recordings(str(folder))) == good


def test_broken_recordings_are_counted_and_keep_their_speaker(folder, headers):
    (folder / "19/198/b.flac").write_bytes(b"no sound")
    (folder / "103/1/x.flac").write_bytes(b"")
    (folder / "1034/link.wav").symlink_to("nowhere.wav")
    for _ in range(2):
        found = find_recordings(str(folder))
        assert [os.path.basename(path) for path, _ in found.bad] == ["x.flac", "link.wav", "b.flac"]
        assert found.list.speakers == ["103", "1034", "19"] and found.list.labels.tolist() == [1, 2]
        (note,) = found.list.notes
        assert "3 of 5 recordings cannot be read and are left out (1 speakers have none left), e.g. " in note
    assert len(headers) == 5 + 3  # broken ones are tried again


def test_what_cannot_be_a_data_set_is_one_clear_error(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: no such folder or list"):
        find_recordings(str(tmp_path / "gone"))
    (tmp_path / "m4a" / "a").mkdir(parents=True)
    (tmp_path / "m4a" / "a" / "x.m4a").touch()
    with pytest.raises(FileNotFoundError, match="holds no .wav, .flac.* file; 1 .m4a cannot be read: convert them"):
        find_recordings(str(tmp_path / "m4a"))
    (folder / "loose.wav").write_bytes((folder / "19/198/a.wav").read_bytes())
    with pytest.raises(ValueError, match="loose.wav: lies beside the folders of speakers .of 1 such files.: move it"):
        find_recordings(str(folder))
    with pytest.raises(ValueError, match="none of 1 recordings can be read, e.g. .*x.wav"):
        made(tmp_path / "bad", {"a/x.wav": 0.1})
        (tmp_path / "bad/a/x.wav").write_bytes(b"no sound")
        find_recordings(str(tmp_path / "bad"))
    with pytest.raises(ValueError, match="no data: give a folder"):
        find_recordings([])


def test_a_flat_folder_is_one_speaker_and_links_are_followed_but_not_in_circles(tmp_path):
    flat = made(tmp_path / "flat", {"b.wav": 0.1, "a.wav": 0.2})
    found = find_recordings(str(flat))
    assert found.list.speakers == ["."] and table(found) == {"a.wav": 0.2, "b.wav": 0.1}
    linked = tmp_path / "linked"
    (linked / "me").mkdir(parents=True)
    (linked / "other").symlink_to(flat)
    (linked / "me" / "self").symlink_to(linked)
    (linked / "me" / "x.wav").symlink_to(flat / "a.wav")
    assert table(find_recordings(str(linked))) == {"me/x.wav": 0.2, "other/a.wav": 0.2, "other/b.wav": 0.1}


def test_many_headers_are_read_at_once_where_storage_is_slow(tmp_path, monkeypatch):
    found = [f"{i}" for i in range(40)]
    monkeypatch.setattr(durations, "FIRST", 4)
    monkeypatch.setattr(durations, "measure", lambda path: (time.sleep(0.01), float(path))[1])
    began = time.perf_counter()
    assert durations.measure_all(found) == [float(i) for i in range(40)]
    assert time.perf_counter() - began < 0.3  # one after the other 0.4


def test_durations_are_to_a_hundredth_at_any_rate(tmp_path):
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "x.wav", np.zeros(54321), 44100)
    assert table(find_recordings(str(tmp_path))) == {"a/x.wav": 1.23}


# ---------------------------------------------------------------- lists, and several sources


def test_lists_have_a_prefix_and_a_cache_outside(folder, tmp_path, headers, cache_home):
    listed = tmp_path / "list.txt"
    listed.write_text("zoe 19/198/a.wav\nann 103/1/x.flac\nzoe 19/198/b.flac\nzoe 19/198/gone.wav\n")
    for _ in range(2):
        found = find_recordings(str(listed), str(folder))
        assert found.list.speakers == ["ann", "zoe"] and found.list.labels.tolist() == [1, 0, 1]
        assert found.seconds.tolist() == [0.5, 2.0, 1.0] and len(found.bad) == 1
    assert len(headers) == 4 + 1 and not (folder / CACHE).exists() and len(list(cache_home.rglob("*.npz"))) == 1


def test_several_sources_keep_the_labels_of_the_first(folder, tmp_path, monkeypatch):
    other = made(tmp_path / "other", {"103/q.wav": 0.3, "7/p.wav": 0.4})
    alone = find_recordings(str(folder))
    monkeypatch.chdir(tmp_path)
    found = find_recordings(["speech", "other"])
    assert found.list.speakers == ["00_103", "00_1034", "00_19", "01_103", "01_7"]
    assert found.list.labels.tolist() == [*alone.list.labels.tolist(), 3, 4] == [0, 1, 2, 2, 3, 4]
    assert all(os.path.exists(path) for path in paths(found)) and found.seconds[-2:].tolist() == [0.3, 0.4]
    assert find_recordings(str(other)).list.hash != found.list.hash


# ---------------------------------------------------------------- the reference's index


def test_an_index_is_written_and_read_as_the_reference_does(tmp_path):
    names, seconds = ["19/198/b.flac", "19/198/a.wav", "103/x.flac"], [1.25, 0.5, 3]
    write_index(tmp_path / "index.json", names, seconds)
    assert json.loads((tmp_path / "index.json").read_text()) == {
        "19": {"198": {"b.flac": 1.25, "a.wav": 0.5}}, "103": {"x.flac": 3.0}
    }  # fmt: skip
    assert list(read_index(tmp_path / "index.json").items()) == list(zip(names, seconds))


def test_an_index_is_believed_of_what_is_not_newer(folder, headers):
    index = dict.fromkeys(TREE, 7.0) | {"19/gone.flac": 1.0}
    write_index(folder / "index.json", list(index), list(index.values()))
    later = os.stat(folder / "index.json").st_mtime + 10
    os.utime(folder / "19/198/a.wav", (later, later))
    found = find_recordings(str(folder))
    assert table(found) == {name: 0.5 if name == "19/198/a.wav" else 7.0 for name in sorted(TREE)}
    assert [os.path.basename(path) for path in headers] == ["a.wav"]
    assert (
        "is old: 1 recordings are newer or not in it (their headers are read), 1 of it are gone" in found.list.notes[0]
    )


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": "x"}', '{"a": {"b.wav": true}}', '{"a": {"b.wav": NaN}}', '{"a": -1}', "{" * 5000]
)
def test_an_index_of_another_kind_is_told_and_not_used(folder, text):
    (folder / "index.json").write_text(text)
    with pytest.raises(ValueError, match="index.json: no index of durations"):
        read_index(folder / "index.json")
    found = find_recordings(str(folder))
    assert len(found.seconds) == 4 and "it is not used" in found.list.notes[0]
