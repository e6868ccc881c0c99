"""The recordings of any folder or list, of several as one, with speakers and durations: what windows are cut from.
Entry point: find_recordings(data, prefix).
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from audio.durations import INDEX, cache_places, durations, read_index, stamps_of
from audio.inputs import ADVICE, READABLE, UNREADABLE
from audio.lists import TrainList, join, read_train_list
from audio.names import Names
from audio.shards import is_shards


@dataclass
class Recordings:
    """Recordings that can be read: `list` their paths and speakers, `seconds` (files,) float64; `bad` (path, reason) of
    those that cannot. A speaker of whom nothing can be read keeps its label."""

    list: TrainList
    seconds: np.ndarray
    bad: list[tuple[str, str]]

    def describe(self) -> str:
        """Return one line: source, recordings, speakers, hours, hash."""
        return f"{self.list.describe()}, {self.seconds.sum() / 3600:.2f} hours"


def find_recordings(data: str | list[str], prefix: str = "") -> Recordings:
    """Find the recordings of a folder or list, or of several of them as one.

    The label of a speaker is its place among all names sorted as strings: of a folder those of its folders, of a list
    its first words. Of several sources the speakers are 00_name, 01_name, ..., so that the labels of the first stay as
    they are. Within a folder hidden files and other formats are passed over, links are followed, and the order is that
    of the paths. The recordings of a folder without folders are those of one speaker, ".".

    Args:
        data: folders, or lists of lines `speaker path`.
        prefix: of the paths in lists.

    Raises:
        FileNotFoundError, ValueError: no such source, nothing in it that can be read, recordings beside the folders of
            speakers, or a malformed list (with the line's number).
    """
    sources = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if not sources:
        raise ValueError("no data: give a folder of speakers, or a list of lines `speaker path`")
    found = [_one(str(source), prefix) for source in sources]
    return found[0] if len(found) == 1 else _together(found)


def _one(source, prefix):
    if os.path.isdir(source) and not is_shards(source):
        names, speakers, stamps, notes = scan(source)
        listed = _listed(source, source, names, speakers, notes)
        known, more = _believed(source, names, stamps)
        listed.notes += more
        places = cache_places(source)
    elif os.path.isfile(source) or is_shards(source):
        listed = read_train_list(source, prefix)
        names = [listed.paths[row] for row in range(len(listed.paths))]
        stamps, known = stamps_of([join(listed.root, name) for name in names]), None
        places = cache_places(f"{os.path.abspath(source)}\0{os.path.abspath(prefix)}", inside=False)
    else:
        raise FileNotFoundError(f"{source}: no such folder or list of recordings")
    seconds, bad = durations(listed.root, names, stamps, places, known)
    return _readable(Recordings(listed, seconds, bad))


def scan(root: str) -> tuple[list[str], list[str], np.ndarray, list[str]]:
    """Return the names below `root` of its recordings, their speakers, stamps (files, 2) int64, and notes.

    The stamp of a link that leads nowhere is -1.

    Raises:
        FileNotFoundError, ValueError: nothing there, or recordings beside the folders of speakers.
    """
    found, left = [], Counter()
    _walk(root, "", (), found, left)
    shown = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left.items()))
    if not found:
        raise FileNotFoundError(f"{root}: holds no {', '.join(READABLE)} file" + (f"; {shown} {ADVICE}" * bool(left)))
    found.sort(key=lambda entry: entry[0].split("/"))
    names = [entry[0] for entry in found]
    loose = [name for name in names if "/" not in name]
    if loose and len(loose) < len(names):
        raise ValueError(
            f"{root}/{loose[0]}: lies beside the folders of speakers (of {len(loose)} such files): move it into one, "
            "or give a list of lines `speaker path`"
        )
    speakers = ["." if loose else name.partition("/")[0] for name in names]
    notes = [f"warning: {root}: {shown} files {ADVICE}"] if left else []
    return names, speakers, np.array([entry[1:] for entry in found], np.int64), notes


def _walk(root, below, above, found, left):
    """Append (name, size, time) of the recordings in a folder to `found`, and count formats that are not read."""
    folder = os.path.join(root, below)
    state = os.stat(folder)
    here = (state.st_dev, state.st_ino)
    if here in above:
        return  # a link to a folder that this one lies in
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name, suffix = f"{below}/{entry.name}" if below else entry.name, os.path.splitext(entry.name)[1].lower()
            if entry.is_dir():
                _walk(root, name, (*above, here), found, left)
            elif suffix in READABLE:
                try:
                    file = entry.stat()
                    found.append((name, file.st_size, file.st_mtime_ns))
                except OSError:
                    found.append((name, -1, -1))
            elif suffix in UNREADABLE:
                left[suffix] += 1


def _believed(root, names, stamps):
    """Return {name: seconds} of the files that are not newer than the folder's index.json, and notes."""
    path = Path(root) / INDEX
    try:
        index, written = read_index(path), path.stat().st_mtime_ns
    except FileNotFoundError:
        return None, []
    except ValueError as error:
        return None, [f"warning: {error}; it is not used"]
    believed = {
        name: index[name]
        for name, (size, changed) in zip(names, stamps.tolist())
        if name in index and size >= 0 and changed <= written
    }
    stale = len(names) - len(believed), len(index.keys() - set(names))
    if not any(stale):
        return believed, []
    return believed, [
        f"note: {path} is old: {stale[0]} recordings are newer or not in it (their headers are read), {stale[1]} of it "
        "are gone"
    ]


def _listed(name, root, paths, speakers, notes):
    """Return the TrainList of paths and the speaker of each."""
    labels, distinct = Names.of(speakers).ranks()
    digest = hashlib.sha256("".join(f"{s} {p}\n" for s, p in zip(speakers, paths)).encode()).hexdigest()[:12]
    return TrainList(name, root, Names.of(paths), labels, distinct, digest, list(notes))


def take(found: Recordings, rows: np.ndarray) -> Recordings:
    """Return the recordings of `rows`; their labels stay."""
    listed = found.list
    paths = Names(listed.paths.buffer, listed.paths.starts[rows], listed.paths.ends[rows])
    return Recordings(replace(listed, paths=paths, labels=listed.labels[rows]), found.seconds[rows], found.bad)


def _readable(found):
    """Return recordings without those that cannot be read, which are counted in the notes."""
    listed, keep = found.list, np.flatnonzero(~np.isnan(found.seconds))
    if not found.bad:
        return found
    example = found.bad[0][1]
    if not len(keep):
        raise ValueError(f"{listed.name}: none of {len(found.seconds)} recordings can be read, e.g. {example}")
    silent = len(listed.speakers) - len(np.unique(listed.labels[keep]))
    listed.notes.append(
        f"warning: {listed.name}: {len(found.bad)} of {len(found.seconds)} recordings cannot be read and are left out"
        + (f" ({silent} speakers have none left)" if silent else "")
        + f", e.g. {example}"
    )
    return take(found, keep)


def _together(found):
    """Return the recordings of several sources as one; see find_recordings."""
    width = max(2, len(str(len(found) - 1)))
    first, paths, speakers, labels, notes = 0, [], [], [], []
    for number, part in enumerate(found):
        listed = part.list
        paths += [listed.path(row) for row in range(len(listed.paths))]
        speakers += [f"{number:0{width}d}_{name}" for name in listed.speakers]
        labels.append(listed.labels + first)
        first += len(listed.speakers)
        notes += listed.notes
    digest = hashlib.sha256("".join(part.list.hash for part in found).encode()).hexdigest()[:12]
    name = " + ".join(part.list.name for part in found)
    together = TrainList(name, "", Names.of(paths), np.concatenate(labels), speakers, digest, notes)
    return Recordings(
        together, np.concatenate([part.seconds for part in found]), [bad for part in found for bad in part.bad]
    )
