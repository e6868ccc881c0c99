"""The recordings that a command is given: a list, a CSV file, a folder or one audio file.
Entry point: read_inputs.
"""

from collections import Counter
from pathlib import Path

from audio import lists
from audio.metadata import CSV_SUFFIXES, Metadata, read_metadata

READABLE = (".wav", ".flac", ".ogg", ".opus", ".mp3")  # what a folder is searched for
UNREADABLE = (".m4a", ".aac", ".wma", ".mp4")
ADVICE = "cannot be read: convert them first, `ffmpeg -i x.m4a x.wav` or for VoxCeleb2 `python dataprep.py --convert`"


def read_inputs(listed: str, folder: str, prefix: str) -> tuple[Metadata, str, list[str]]:
    """Return the recordings sorted by id, the prefix that makes their `audio` paths, and lines worth printing.

    Ids are the paths as listed; of a CSV file its column id; of a folder the paths below it; of one audio file its
    stem. The paths of a CSV file begin at its own folder where no prefix is given.

    Args:
        listed, folder: one of them is given, the other is "".

    Raises:
        FileNotFoundError, ValueError: no such file or folder, nothing in it, malformed (with the line's number), a
            recording without audio, or formats that are not read.
    """
    notes = []
    if folder:
        found, notes = _of_folder(Path(folder))
        prefix = folder
    elif listed.lower().endswith(READABLE + UNREADABLE):
        if not Path(listed).is_file():
            raise FileNotFoundError(f"{listed}: no such file")
        found, prefix = Metadata(listed, "", [Path(listed).stem], [listed]), ""
    elif listed.lower().endswith(CSV_SUFFIXES):
        found = read_metadata(listed)
        if "" in found.audio:
            raise ValueError(f"{listed}: no audio of {found.ids[found.audio.index('')]} (column audio or path)")
        prefix = prefix or str(Path(listed).parent)
    else:
        names, speakers = lists.read_files(listed)
        found = Metadata(listed, "", names, names, speakers)
    unread = [path for path in found.audio if path.lower().endswith(UNREADABLE)]
    if unread:
        raise ValueError(f"{found.name}: {len(unread)} of {len(found.ids)} files, e.g. {unread[0]}, {ADVICE}")
    return found.take(sorted(range(len(found.ids)), key=found.ids.__getitem__)), prefix, notes


def _of_folder(root):
    if root.is_file():
        raise ValueError(f"--folder {root}: is a file; give it as --list")
    if not root.is_dir():
        raise FileNotFoundError(f"--folder {root}: no such folder")
    found = [str(p.relative_to(root)) for p in root.rglob("*") if p.suffix.lower() in READABLE + UNREADABLE]
    names = [name for name in found if name.lower().endswith(READABLE)]
    left = Counter(Path(name).suffix.lower() for name in found if not name.lower().endswith(READABLE))
    shown = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left.items()))
    if not names:
        raise ValueError(f"--folder {root}: holds no {', '.join(READABLE)} file" + (f"; {shown} {ADVICE}" * bool(left)))
    return Metadata(str(root), "", names, names), [f"warning: --folder {root}: {shown} files {ADVICE}"] * bool(left)
