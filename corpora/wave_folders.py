"""Folders of recordings for waveform networks: several as one list, and the reference's index.json of a folder.
Entry points: add_arguments, combine, index.
"""

import os
from pathlib import Path

from audio.durations import INDEX, write_index
from audio.wave_sources import Recordings, find_recordings


def add_arguments(stages):
    """Add the flags of these stages."""
    stages.add_argument(
        "--combine",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="write SAVE_PATH/combined.txt, one list of several folders of speakers or lists; speakers are 00_name, "
        "01_name, ... by source",
    )
    stages.add_argument(
        "--index", default="", metavar="FOLDER", help="write FOLDER/index.json, durations as the reference keeps them"
    )


def combine(sources: list[str]) -> tuple[str, Recordings]:
    """Return the text of one train list of several folders or lists, and what it holds.

    Speakers are 00_name, 01_name, ..., so that the labels of the first source stay as they are; paths are absolute, so
    that the list can lie anywhere and nothing is linked.

    Raises:
        FileNotFoundError, ValueError: fewer than two sources, one without recordings, or a name with white space.
    """
    if len(sources) < 2:
        raise ValueError(f"--combine {' '.join(sources)}: give two folders or lists, or more")
    found = find_recordings(sources)
    lines = []
    for row, label in enumerate(found.list.labels.tolist()):
        speaker, path = found.list.speakers[label], os.path.abspath(found.list.path(row))
        if path.split() != [path] or speaker.split() != [speaker]:
            raise ValueError(f"{path!r}: has white space, which separates the fields of a list: rename it")
        lines.append(f"{speaker} {path}\n")
    return "".join(lines), found


def index(folder: str) -> list[str]:
    """Write folder/index.json with the seconds of every recording, and return lines on what it holds.

    Raises:
        FileNotFoundError, ValueError: no such folder, or nothing in it that can be read.
        OSError: it cannot be written there.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"--index {folder}: no such folder")
    found = find_recordings(folder)
    path = Path(folder) / INDEX
    try:
        write_index(path, [found.list.paths[row] for row in range(len(found.seconds))], found.seconds)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); voxlab itself needs no index there") from None
    return [f"{path}: {found.describe()}", *found.list.notes]
