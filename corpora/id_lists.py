"""Published lists of utterances and trials by identifier (speaker/recording/utterance) made into lists of this project.
Entry points: convert(path, suffix, known), names_and_speakers(path), contents_of(path) for subsets.check_disjoint.
"""

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from audio.lists import read_recordings, read_train_list, speaker_of
from audio.names import Names, fields
from corpora.subsets import Contents, folders_of

SUFFIXES = (".wav", ".flac", ".ogg", ".m4a")


def read_text(path: str | Path) -> bytes:
    """Return the bytes of a list, plain or gzip-compressed.

    Raises:
        FileNotFoundError, ValueError: missing, damaged, or no text in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (a list of utterances or trials)")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data.decode()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    return data


def name_of(path: str | Path) -> str:
    """Return the file name of the list made from one by identifier."""
    return f"{Path(path).name.removesuffix('.gz').removesuffix('.txt')}.txt"


def convert(path: str | Path, suffix: str = ".wav", known: Iterable[str] | None = None) -> tuple[str, str]:
    """Return the text of a list of this project, and a line that says what it holds.

    Lines `speaker/recording/utterance` become `speaker path`; lines `label file file` a trial list. `suffix` is put
    behind what has none of an audio file. `known`: paths among which all must be found.

    Raises:
        FileNotFoundError, ValueError: missing or malformed (with the line's number), an utterance twice, a label that
            contradicts the speakers of its line, or an utterance that is not known.
    """
    data = read_text(path)
    starts, ends, numbers, first = fields(data)
    if not len(numbers):
        raise ValueError(f"{path}: holds no line; expected `speaker/recording/utterance` or `label file file`")
    counts = np.diff(first, append=len(starts))
    width = int(counts[0])
    wrong = np.flatnonzero(counts != width) if width in (1, 3) else [0]
    form = "`label file file`" if width == 3 else "`speaker/recording/utterance`"
    words = [word.decode() for word in data.split()]
    for line in wrong:
        found = " ".join(words[first[line] : first[line] + counts[line]])
        raise ValueError(f"{path}, line {numbers[line]}: expected {form}, found {found[:80]!r}")
    files = words if width == 1 else [word for i, word in enumerate(words) if i % 3]
    files = [file if file.endswith(SUFFIXES) else file + suffix for file in files]
    speakers = [speaker_of(file) for file in files]
    if None in speakers:
        i = speakers.index(None) // max(1, width - 1)
        raise ValueError(f"{path}, line {numbers[i]}: {words[i * width + width - 1][:80]!r} names no speaker")
    _refuse_unknown(path, files, known)
    if width == 1:
        if len(set(files)) < len(files):
            seen = set()
            twice = next(file for file in files if file in seen or seen.add(file))
            raise ValueError(f"{path}: {twice} is listed more than once")
        text = "".join(f"{speaker} {file}\n" for speaker, file in zip(speakers, files))
        return text, f"{len(files)} utterances of {len(set(speakers))} speakers"
    labels = words[::3]
    for i, (label, one, other) in enumerate(zip(labels, speakers[::2], speakers[1::2])):
        if label not in ("0", "1"):
            raise ValueError(f"{path}, line {numbers[i]}: label {label[:20]!r} is neither 0 nor 1")
        if (one == other) != (label == "1"):
            raise ValueError(f"{path}, line {numbers[i]}: label {label} contradicts its speakers {one} and {other}")
    text = "".join(f"{label} {one} {other}\n" for label, one, other in zip(labels, files[::2], files[1::2]))
    return text, f"{len(labels)} trials, {labels.count('1')} targets, of {len(set(files))} files"


def _refuse_unknown(path, files, known):
    if known is None:
        return
    missing = sorted(set(files) - set(known))
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(set(files))} utterances are not in the list they are chosen from, e.g. "
            f"{missing[0]}"
        )


def names_and_speakers(path: str | Path) -> tuple[Names, np.ndarray, list[str]]:
    """Return the recordings of a train list (`speaker path`), or the distinct ones of a trial list (`label file file`).

    Their labels (recordings,) int64 are ranks among the sorted speakers; -1 where a path of a trial list names none.

    Raises:
        FileNotFoundError, ValueError: missing or malformed.
    """
    try:
        train = read_train_list(path)
        return train.paths, train.labels, train.speakers
    except ValueError:
        names = Names.of(read_recordings(path).ranks()[1])
    found = [speaker_of(name) or "" for name in names]
    speakers = sorted(set(found) - {""})
    ranks = {"": -1, **{speaker: rank for rank, speaker in enumerate(speakers)}}
    return names, np.array([ranks[speaker] for speaker in found], np.int64), speakers


def contents_of(path: str | Path) -> Contents:
    """Return utterances, recordings and speakers of a list, for subsets.check_disjoint."""
    names, _, speakers = names_and_speakers(path)
    return Contents(str(path), set(names.ranks()[1]), set(folders_of(names).ranks()[1]), set(speakers))
