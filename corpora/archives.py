"""Join split archives and unpack zip and tar files without trusting them; both go on where they were cut off.
Entry points: join, unpack (which leaves a marker), is_unpacked.
"""

import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from corpora.disk import CHUNK, Progress, full_disk_named, require_space, sum_of
from corpora.parts import Archive

# A link of a zip file has its target as contents; no path is longer.
LONGEST_LINK = 4096

Place = Callable[[str], str | None]


def is_unpacked(archive: Archive, folder: Path) -> bool:
    """Tell whether the marker of a finished archive lies in `folder`."""
    marker = _marker(archive, folder)
    return marker.is_file() and marker.read_text(encoding="utf-8").strip() == archive.md5


def _marker(archive, folder):
    return folder / f"{archive.name}.unpacked"


def join(archive: Archive, folder: Path) -> Progress:
    """Write the parts one after another as `archive.name`, check the sum, and only then delete them.

    Raises:
        FileNotFoundError: parts are missing.
        ValueError: the sum is another one; the parts are kept.
        OSError: too little space.
    """
    target, paths = folder / archive.name, [folder / part.name for part in archive.parts]
    if not target.is_file():
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder}: {archive.name} is not there, {', '.join(missing)} missing: run --download, or put copies "
                "there, or choose others with --archives"
            )
        total, done = sum(path.stat().st_size for path in paths), 0
        require_space(folder, total, f"joining {archive.name}")
        temporary, digest = folder / f"{archive.name}.tmp", hashlib.md5(usedforsecurity=False)
        with full_disk_named(target), open(temporary, "wb") as whole:
            for path in paths:
                with open(path, "rb") as file:
                    while data := file.read(CHUNK):
                        whole.write(data)
                        digest.update(data)
                        done += len(data)
                        yield "joining", done, total
            whole.flush()
            os.fsync(whole.fileno())
        if digest.hexdigest() != archive.md5:
            temporary.unlink()
            raise ValueError(
                f"{target}: its parts joined have MD5 {digest.hexdigest()}, the list says {archive.md5}: run "
                "--download again, which checks each part"
            )
        temporary.replace(target)
    elif (found := (yield from sum_of(target))) != archive.md5:
        raise ValueError(
            f"{target}: its MD5 is {found}, the list says {archive.md5}: delete it and run --download again"
        )
    for path in paths:
        if path != target:
            path.unlink(missing_ok=True)


def unpack(archive: Archive, folder: Path, place: Place) -> Progress:
    """Unpack `folder`/`archive.name` below `folder`, and leave a marker for is_unpacked.

    `place` returns where a member goes, below `folder`, or None for one that is not wanted. A file that is there with
    the right length is left alone. Links are never made.

    Raises:
        ValueError: damaged, or a member that would leave `folder`.
        OSError: more files than the disk has space for.
    """
    path = folder / archive.name
    with _damage_named(path):
        if zipfile.is_zipfile(path):
            yield from _unpack_zip(path, folder, place)
        elif tarfile.is_tarfile(path):
            yield from _unpack_tar(path, folder, place)
        else:
            raise ValueError(f"{path}: is neither a zip nor a tar file")
    # Not before its files are on the disk may the marker be: after a power cut it would hide empty ones.
    os.sync()
    _marker(archive, folder).write_text(archive.md5 + "\n", encoding="utf-8")


def _unpack_zip(path, folder, place):
    with zipfile.ZipFile(path) as file:
        wanted = []
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if stat.S_ISLNK(kind):
                with file.open(member) as content:
                    _check(path, member.filename, content.read(LONGEST_LINK).decode(errors="replace"))
                continue
            _check(path, member.filename, special=kind not in (0, stat.S_IFREG, stat.S_IFDIR))
            if not member.is_dir() and place(member.filename) is not None:
                wanted.append(member)
        total, done = sum(member.file_size for member in wanted), 0
        missing = (m.file_size for m in wanted if not _is_there(folder / place(m.filename), m.file_size))
        require_space(folder, sum(missing), f"unpacking {path.name}")
        for member in wanted:
            target = folder / place(member.filename)
            if not _is_there(target, member.file_size):
                with file.open(member) as content:
                    _write(content, target)
            done += member.file_size
            yield "unpacking", done, total


def _unpack_tar(path, folder, place):
    done = 0
    with tarfile.open(path, "r|*") as file:
        for member in file:
            link = member.linkname if member.issym() or member.islnk() else None
            special = not (member.isfile() or member.isdir() or link is not None)
            # the target of a hard link counts from the archive's root, that of a symbolic one from its own folder
            _check(path, member.name, link, special, from_root=member.islnk())
            if not member.isfile() or (where := place(member.name)) is None:
                continue
            if not _is_there(folder / where, member.size):
                # a tar file has no table of contents: its whole size is known only at its end
                require_space(folder, member.size, f"unpacking {path.name}")
                _write(file.extractfile(member), folder / where)
            done += member.size
            yield "unpacking", done, None


def _check(path, name, link=None, special=False, from_root=False):
    """Raise ValueError for a member that is a device, or would be written or point outside the folder unpacked to."""
    if special:
        raise ValueError(f"{path}: member {name!r} is a device or the like: the archive cannot be trusted")
    if _leaves(name):
        raise ValueError(f"{path}: member {name!r} would be written elsewhere: the archive cannot be trusted")
    if link is not None and _leaves(link, "" if from_root else os.path.dirname(name)):
        raise ValueError(f"{path}: member {name!r} links to {link!r}, elsewhere: the archive cannot be trusted")


def _leaves(name, folder=""):
    """Tell whether a path is absolute or leads above the folder that an archive is unpacked to."""
    path = os.path.normpath(os.path.join(folder, name))
    up = not folder and ".." in PurePosixPath(name).parts
    return up or name.startswith("/") or path == ".." or path.startswith("../")


def _is_there(target, size):
    return target.is_file() and target.stat().st_size == size


def _write(content, target):
    """Write a member whole or not at all."""
    temporary = target.with_name(target.name + ".tmp")
    with full_disk_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            shutil.copyfileobj(content, file, CHUNK)
    temporary.replace(target)


@contextmanager
def _damage_named(path):
    """Turn what zipfile, tarfile and the decompressors raise for damaged data into a ValueError that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: is damaged ({error}): delete it and run --download again") from None
