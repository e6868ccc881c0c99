"""VoxCeleb 1 and 2: where the members of the archives go, AAC converted to WAV, the published lists.
Entry points: place_of, speaker_folders, convert, report, fetch_list.
"""

import errno
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path, PurePosixPath

from corpora.archives import Place
from corpora.disk import CHUNK, Progress, full_disk_named, sum_of
from corpora.download import Access, fetch
from corpora.parts import Archive, List, url_of

SUFFIXES = (".wav", ".m4a")
FOLDERS = {"vox1": "voxceleb1", "vox2": "voxceleb2"}
FAILURES = "convert_failures.txt"
# A WAV file of this many bytes or fewer is a header without sound.
HEADER_BYTES = 100


def place_of(archive: Archive) -> Place:
    """Return where the members of an archive go: below voxceleb1 or voxceleb2, development and test side by side.

    Raises:
        ValueError: the archive's name begins with neither vox1 nor vox2.
    """
    folder = FOLDERS.get(archive.name[:4])
    if folder is None:
        raise ValueError(f"{archive.name}: a VoxCeleb archive's name begins with {' or '.join(FOLDERS)}")
    return partial(place, folder=folder)


def place(name: str, folder: str) -> str | None:
    """Return folder/id/video/file for a member wav/..., aac/..., dev/aac/... of that ending; None for all else."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or not name.endswith(SUFFIXES):
        return None
    return "/".join((folder, *parts[-3:]))


# ---------------------------------------------------------------- conversion


def speaker_folders(folder: Path) -> list[str]:
    """Return the speakers' folders below voxceleb2, sorted: a million files are never listed at once.

    Raises:
        FileNotFoundError: no such folder, or nobody in it.
        RuntimeError: ffmpeg is not installed.
    """
    if shutil.which("ffmpeg") is None:
        raise RuntimeError("ffmpeg is not there: --convert needs it (Debian and Ubuntu: apt-get install ffmpeg)")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: run --extract first")
    found = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    if not found:
        raise FileNotFoundError(f"{folder}: holds no speaker's folder: run --extract first")
    return found


def convert(speaker: str) -> tuple[int, int, list[str]]:
    """Convert the .m4a files of speaker/video/ that have no .wav beside them yet: one channel, 16 kHz, 16 bits.

    Returns how many were converted, how many were there already, and a line for each that failed.

    Raises:
        OSError: the disk is full.
    """
    made, there, failures = 0, 0, []
    for source in sorted(Path(speaker).glob("*/*.m4a")):
        target = source.with_suffix(".wav")
        if target.is_file():
            there += 1
            continue
        reason = _convert_one(source, target)
        if reason:
            failures.append(f"{source}: {reason}")
        else:
            made += 1
    return made, there, failures


def _convert_one(source, target):
    """Convert a file whole or not at all; return what went wrong, or an empty text."""
    temporary = target.with_suffix(".wav.tmp")
    # "file:" since ffmpeg takes a name with a colon for a protocol
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-threads", "1", "-i", f"file:{source}", "-vn"]
    command += ["-ac", "1", "-ar", "16000", "-c:a", "pcm_s16le", "-f", "wav", f"file:{temporary}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode == 0 and temporary.is_file() and temporary.stat().st_size > HEADER_BYTES:
        temporary.replace(target)
        return ""
    temporary.unlink(missing_ok=True)
    lines = done.stderr.strip().splitlines()
    if os.strerror(errno.ENOSPC) in done.stderr:
        with full_disk_named(target):
            raise OSError(errno.ENOSPC, lines[-1])
    return lines[-1] if lines else f"ffmpeg ended with code {done.returncode} and no sound"


def report(save_path: Path, made: int, there: int, failures: list[str]) -> str:
    """Write the failed files to convert_failures.txt, or remove that of an earlier run; return a line of counts.

    Raises:
        RuntimeError: not one file could be converted.
    """
    path = save_path / FAILURES
    path.unlink(missing_ok=True)
    counts = f"{made} files converted, {there} were there, {len(failures)} failed"
    if not failures:
        return counts
    path.write_text("".join(line + "\n" for line in failures), encoding="utf-8")
    if not made + there:
        raise RuntimeError(f"{path}: {counts}; the first: {failures[0]}")
    return f"{counts}: see {path}; the next --convert tries them again"


# ---------------------------------------------------------------- lists


def fetch_list(item: List, folder: Path, prefix: str, access: Access) -> Progress:
    """Fetch a list into `folder`, or check the one that is there: its number of lines, and its sum where one is known.

    The generator's return value is the SHA-256 of the list.

    Raises:
        ValueError: another number of lines or sum; a list that was there is kept. What fetch raises.
    """
    path = folder / item.part.name
    if path.is_file():
        _check_lines(path, item, "move it away to have it fetched, or choose another --save_path")
        yield from fetch(url_of(item.part, prefix), path, item.part.md5, access)
        return (yield from sum_of(path, "SHA-256"))
    fresh = path.with_name(path.name + ".new")
    # Without a sum nothing would tell that two versions had been pieced together.
    for old in (fresh, fresh.with_name(fresh.name + ".part")):
        old.unlink(missing_ok=True)
    yield from fetch(url_of(item.part, prefix), fresh, item.part.md5, access)
    _check_lines(fresh, item, f"look at it, and see {access.prefix_flag}")
    fresh.replace(path)
    return (yield from sum_of(path, "SHA-256"))


def _check_lines(path, item, advice):
    found = 0
    with open(path, "rb") as file:
        while lines := file.readlines(CHUNK):
            found += sum(1 for line in lines if line.strip())
    if found != item.lines:
        raise ValueError(f"{path}: holds {found} lines, {item.name} has {item.lines}: {advice}")
