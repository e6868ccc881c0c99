"""LibriSpeech (Panayotov et al., ICASSP 2015; OpenSLR 12): its archives by part, where members go, what came out.
Entry points: archives, place, summary.
"""

from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from audio.wave_sources import find_recordings
from corpora.parts import LISTS, Archive, read_archives

FOLDER, SUFFIX = "LibriSpeech", ".tar.gz"
# speakers and utterances of the parts as published
PUBLISHED = {
    "train-clean-100": (251, 28539), "train-clean-360": (921, 104014), "train-other-500": (1166, 148688),
    "dev-clean": (40, 2703), "dev-other": (33, 2864), "test-clean": (40, 2620), "test-other": (33, 2939),
}  # fmt: skip


def archives(folder: str, patterns: str) -> list[Archive]:
    """Return the archives of the parts whose names fit one of the comma-separated patterns ("train-*,dev-clean").

    Args:
        folder: of the part lists, "" for lists/ of voxlab.

    Raises:
        FileNotFoundError, ValueError: no part list, or a pattern fits none; the message has the parts there are.
    """
    known = read_archives(Path(folder or LISTS) / "librispeech.txt")
    chosen = set()
    for pattern in (pattern.strip() for pattern in patterns.split(",")):
        fits = {a.name for a in known if fnmatchcase(a.name, pattern) or fnmatchcase(part_of(a), pattern)}
        if not fits:
            raise ValueError(f"--archives {pattern}: fits none of {', '.join(part_of(archive) for archive in known)}")
        chosen |= fits
    return [archive for archive in known if archive.name in chosen]


def part_of(archive: Archive) -> str:
    """Return the part an archive holds: train-clean-100 and so on."""
    return archive.name.removesuffix(SUFFIX)


def place(name: str) -> str | None:
    """Return where a member goes: its own path below LibriSpeech/, None for all else."""
    path = PurePosixPath(name)
    return path.as_posix() if path.parts[:1] == (FOLDER,) else None


def summary(archive: Archive, save_path: Path) -> list[str]:
    """Return lines on an unpacked part: what it holds, and a warning where that is not as published."""
    part = part_of(archive)
    found = find_recordings(str(save_path / FOLDER / part))
    counts = len(found.list.speakers), len(found.seconds)
    lines = [f"{found.describe()}: give this folder as the data of the waveform scripts", *found.list.notes]
    if counts != PUBLISHED.get(part, counts):
        lines.append(
            f"warning: {part}: {counts[0]} speakers with {counts[1]} recordings, published are "
            f"{PUBLISHED[part][0]} with {PUBLISHED[part][1]}: delete {save_path / archive.name}.unpacked and run again"
        )
    return lines
