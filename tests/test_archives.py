"""Archives of a corpus: joined, checked, unpacked without leaving the folder; MUSAN cut into windows."""

import hashlib
import io
import os
import shutil
import tarfile
import wave
import zipfile

import numpy as np
import pytest

from corpora import archives, musan_rirs, parts, voxceleb


def archive_of(path, pieces=None):
    """Return what a part list would say of an archive that lies at `path`, or is joined from `pieces`."""
    named = [path.name] if pieces is None else [f"{path.name}.part{n}" for n in range(len(pieces))]
    whole = path.read_bytes() if pieces is None else b"".join(pieces)
    for name, piece in zip(named, pieces or ()):
        (path.parent / name).write_bytes(piece)
    return parts.Archive(path.name, hashlib.md5(whole).hexdigest(), [parts.Part(name, name, "") for name in named])


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, body in members.items():
            file.writestr(name, body)
    return path


def make_tar(path, *members, **bodies):
    """Write a .tar.gz of (name, type, link) and of files `name=body`."""
    with tarfile.open(path, "w:gz") as file:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            file.addfile(info)
        for name, body in bodies.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
    return path


def unpack(path, place=lambda name: name):
    """Unpack below the archive's folder."""
    archive = archive_of(path)
    list(archives.unpack(archive, path.parent, place))
    return archive


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- unpacking


@pytest.mark.parametrize("prefix", ["wav/", "./wav/", "dev/aac/", "aac/", "vox/test/wav/", ""])
def test_both_corpora_end_up_as_speaker_video_file_whatever_the_prefix(tmp_path, prefix):
    members = {f"{prefix}id1/vid/1.wav": b"a" * 200, f"{prefix}id1/vid/2.m4a": b"b", f"{prefix}read/me/now.txt": b""}
    for name, folder in (("vox1_dev_wav.zip", "voxceleb1"), ("vox2_test_aac.zip", "voxceleb2")):
        archive = archive_of(make_zip(tmp_path / name, members))
        assert not archives.is_unpacked(archive, tmp_path)
        list(archives.unpack(archive, tmp_path, voxceleb.place_of(archive)))
        assert archives.is_unpacked(archive, tmp_path)
        assert below(tmp_path / folder) == ["id1/vid/1.wav", "id1/vid/2.m4a"]
        assert not archives.is_unpacked(archive._replace(md5="0" * 32), tmp_path), "another version is another archive"
    with pytest.raises(ValueError, match="begins with vox1 or vox2"):
        voxceleb.place_of(archive._replace(name="voice.zip"))


@pytest.mark.parametrize("name", ["../evil.wav", "a/../../evil.wav", "/tmp/evil.wav", "id/video/../../../../evil.wav"])
@pytest.mark.parametrize("make", [make_zip, lambda path, members: make_tar(path, **members)], ids=["zip", "tar"])
def test_members_that_would_be_written_elsewhere_are_refused(tmp_path, make, name):
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in" / "bad", {name: b"evil"})
    with pytest.raises(ValueError, match="would be written elsewhere: the archive cannot be trusted"):
        unpack(path)
    assert below(tmp_path) == ["in/bad"]


LINK, HARD, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
OUTSIDE = [
    ("a/link", LINK, "../../evil"),
    ("link", LINK, "/etc"),
    ("link", HARD, "../evil"),
    ("a/b/link", HARD, "/etc/passwd"),
]


@pytest.mark.parametrize("member", OUTSIDE)
def test_links_that_lead_elsewhere_and_devices_are_refused(tmp_path, member):
    with pytest.raises(ValueError, match="elsewhere: the archive cannot be trusted"):
        unpack(make_tar(tmp_path / "bad.tar.gz", member, **{member[0] + "/x.wav": b"evil"}))
    with pytest.raises(ValueError, match="is a device or the like"):
        unpack(make_tar(tmp_path / "bad.tar.gz", ("null", DEVICE, "")))
    link = zipfile.ZipInfo(member[0])
    link.external_attr = 0o120777 << 16
    if member[1] == LINK:
        with pytest.raises(ValueError, match="elsewhere: the archive cannot be trusted"):
            unpack(make_zip(tmp_path / "bad.zip", {link: member[2]}))
    assert set(below(tmp_path)) <= {"bad.tar.gz", "bad.zip"}


def test_links_within_the_folder_are_never_made(tmp_path):
    link = zipfile.ZipInfo("a/link")
    link.external_attr = 0o120777 << 16
    unpack(make_zip(tmp_path / "good.zip", {link: "../b/x", "b/x": b"1"}))
    unpack(make_tar(tmp_path / "good.tar.gz", ("c/link", LINK, "../b/x"), ("c/hard", HARD, "b/x"), **{"c/x": b"1"}))
    assert [name for name in below(tmp_path) if "good" not in name] == ["b/x", "c/x"]


def test_more_than_the_disk_holds_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    bombs = [
        make_zip(tmp_path / "bomb.zip", {"a/b": bytes(3_000_000), "a/c": bytes(3_000_000)}),
        make_tar(tmp_path / "bomb.tar.gz", **{"a/b": bytes(6_000_000)}),
    ]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**7, 5 * 10**6, 5 * 10**6))
    for bomb in bombs:
        with pytest.raises(OSError, match=f"unpacking {bomb.name} needs 0.01 GB"):
            unpack(bomb)
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_one_clear_line(tmp_path):
    path = make_zip(tmp_path / "good.zip", {"a/b": bytes(1_000_000)})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="a/b: the disk is full; what is finished is kept"):
        unpack(path)
    assert not (tmp_path / "a" / "b").exists()


@pytest.mark.parametrize("make", [make_zip, lambda path, members: make_tar(path, **members)], ids=["zip", "tar"])
def test_unpacking_goes_on_where_it_was_cut_off(tmp_path, make):
    archive = archive_of(make(tmp_path / "corpus", {f"a/{n}": bytes([n]) * 50 for n in range(6)}))
    progress = archives.unpack(archive, tmp_path, lambda name: name)
    for _ in range(3):
        next(progress)
    progress.close()
    assert below(tmp_path / "a") == ["0", "1", "2"] and not archives.is_unpacked(archive, tmp_path)
    (tmp_path / "a" / "1").write_bytes(b"cut")
    before = (tmp_path / "a" / "0").stat().st_mtime_ns
    list(archives.unpack(archive, tmp_path, lambda name: name))
    assert archives.is_unpacked(archive, tmp_path) and (tmp_path / "a" / "0").stat().st_mtime_ns == before
    assert all((tmp_path / "a" / str(n)).read_bytes() == bytes([n]) * 50 for n in range(6))


def test_damaged_archives_name_the_file(tmp_path):
    whole = make_zip(tmp_path / "whole.zip", {"a/b": os.urandom(5000)}).read_bytes()
    (tmp_path / "flipped.zip").write_bytes(whole[:2000] + bytes([whole[2000] ^ 255]) + whole[2001:])
    tar = make_tar(tmp_path / "whole.tar.gz", **{"a/b": os.urandom(5000)}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(tar[:3000])
    for name in ("flipped.zip", "cut.tar.gz"):
        with pytest.raises(ValueError, match=rf"{name}: is damaged \(.*\): delete it and run"):
            unpack(tmp_path / name)
        assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "text.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="text.zip: is neither a zip nor a tar file"):
        unpack(tmp_path / "text.zip")


# ---------------------------------------------------------------- joining


def test_parts_are_deleted_only_after_the_sum_of_the_whole_is_right(tmp_path):
    archive = archive_of(tmp_path / "whole.zip", [b"one", b"two"])
    with pytest.raises(ValueError, match="its parts joined have MD5 .*, the list says 0000"):
        list(archives.join(archive._replace(md5="0" * 32), tmp_path))
    assert below(tmp_path) == ["whole.zip.part0", "whole.zip.part1"]
    list(archives.join(archive, tmp_path))
    assert (tmp_path / "whole.zip").read_bytes() == b"onetwo" and below(tmp_path) == ["whole.zip"]
    list(archives.join(archive, tmp_path))
    (tmp_path / "whole.zip").write_bytes(b"other")
    with pytest.raises(ValueError, match="whole.zip: its MD5 is .* delete it and run --download"):
        list(archives.join(archive, tmp_path))


def test_missing_parts_and_too_little_space_are_told(tmp_path, monkeypatch):
    archive = archive_of(tmp_path / "whole.zip", [b"one", b"two"])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(5, 5, 0))
        with pytest.raises(OSError, match="joining whole.zip needs"):
            list(archives.join(archive, tmp_path))
    (tmp_path / "whole.zip.part1").unlink()
    with pytest.raises(FileNotFoundError, match="whole.zip is not there, whole.zip.part1 missing: run --download"):
        list(archives.join(archive, tmp_path))


# ---------------------------------------------------------------- MUSAN


def write_wave(path, samples, rate):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.mark.parametrize(
    "samples, starts", [(100, []), (40000, [0]), (63999, [0]), (64000, [0, 3]), (88000, [0, 3, 6])]
)
def test_windows_begin_every_3_s_and_the_last_full_one_counts(tmp_path, samples, starts):
    sound = np.random.default_rng(0).integers(-30000, 30000, samples)
    write_wave(tmp_path / "musan" / "noise" / "free" / "a-1.wav", sound, 8000)
    (file,) = musan_rirs.musan_files(tmp_path)
    for _ in range(2):
        assert musan_rirs.split(file) == len(starts)
    folder = tmp_path / "musan_split" / "noise" / "free" / "a-1"
    assert below(tmp_path / "musan_split") == [f"noise/free/a-1/{start:05d}.wav" for start in starts]
    for start in starts:
        with wave.open(str(folder / f"{start:05d}.wav"), "rb") as window:
            assert window.getframerate() == 8000 and window.getnframes() == 40000
            read = np.frombuffer(window.readframes(40000), "<i2")
        assert np.array_equal(read, sound[start * 8000 : start * 8000 + 40000])


def test_a_second_split_writes_only_what_is_missing(tmp_path):
    path = tmp_path / "musan" / "music" / "fma" / "b.wav"
    write_wave(path, np.arange(64000) % 100, 8000)
    musan_rirs.split(path)
    first, second = sorted((tmp_path / "musan_split" / "music" / "fma" / "b").iterdir())
    before = first.stat().st_mtime_ns
    second.unlink()
    musan_rirs.split(path)
    assert second.is_file() and first.stat().st_mtime_ns == before


def test_files_that_are_no_wave_files_are_named(tmp_path):
    path = tmp_path / "musan" / "music" / "fma" / "c.wav"
    with pytest.raises(FileNotFoundError, match="musan: holds no"):
        musan_rirs.musan_files(tmp_path)
    write_wave(path, np.zeros(64000), 8000)
    path.write_bytes(path.read_bytes()[:50000])
    with pytest.raises(ValueError, match="c.wav: cannot be read as a PCM WAV file"):
        musan_rirs.split(path)
    path.write_bytes(b"ID3")
    with pytest.raises(ValueError, match="c.wav: cannot be read as a PCM WAV file"):
        musan_rirs.split(path)


def test_of_the_rooms_only_the_smaller_simulated_ones_are_wanted():
    wanted = "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav"
    assert musan_rirs.place(wanted) == musan_rirs.place("./" + wanted) == wanted
    assert musan_rirs.place(wanted.replace("small", "large")) is None
    assert musan_rirs.place("RIRS_NOISES/pointsource_noises/a.wav") is None
    assert musan_rirs.place("musan/music/fma/a.wav") == "musan/music/fma/a.wav"
