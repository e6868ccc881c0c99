"""Train and trial lists: read, checked, described; every error names file and line.
Entry points: read_train_list, read_trial_list, check_files.
"""

import codecs
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audio import shards
from audio.io import SAMPLE_RATE, AudioFile
from audio.names import Names, fields


@dataclass
class TrainList:
    """Utterances with speakers: `paths` in one buffer, which loader processes share; `labels` (utterances,) int64, the
    rank of the speaker among the sorted names `speakers`; `root` the prefix of the paths; `notes` what to tell."""

    name: str
    root: str
    paths: Names
    labels: np.ndarray
    speakers: list[str]
    hash: str
    notes: list[str] = field(default_factory=list)

    def path(self, index: int) -> str:
        """Return where utterance `index` lies."""
        return join(self.root, self.paths[index])

    def describe(self) -> str:
        """Return one line: list, utterances, speakers, hash."""
        return f"{self.name}: {len(self.paths)} utterances of {len(self.speakers)} speakers, sha256 {self.hash}"


@dataclass
class TrialList:
    """Trials as index pairs: `pairs` (trials, 2) int64 into the sorted distinct file `names`; `labels` (trials,) int8,
    1 for the same speaker, or None for a list without labels."""

    name: str
    names: list[str]
    pairs: np.ndarray
    labels: np.ndarray | None
    hash: str

    def describe(self) -> str:
        """Return one line: list, trials, files, hash."""
        share = "no labels" if self.labels is None else f"{int(self.labels.sum())} targets"
        return f"{self.name}: {len(self.pairs)} trials ({share}) of {len(self.names)} files, sha256 {self.hash}"

    def sides(self) -> np.ndarray | None:
        """Return the speaker index of both sides (trials, 2), from the first folder of each path; None without."""
        speakers = [speaker_of(name) for name in self.names]
        if None in speakers:
            return None
        return np.unique(speakers, return_inverse=True)[1].reshape(-1)[self.pairs]


def speaker_of(path: str) -> str | None:
    """Return the speaker a path names, its first folder, or None."""
    folder, slash, _ = path.lstrip("./").partition("/")
    return folder if slash else None


def join(root: str, path: str) -> str:
    """Join a list's prefix and one of its paths; an absolute path stands for itself."""
    return path if path.startswith("/") or not root else f"{root.rstrip('/')}/{path}"


def read_words(path, item, allowed, expected):
    """Return the bytes of a list, its hash, the bounds of its words (lines, words a line) and the lines' numbers.

    Args:
        item: what a line names, for messages. allowed: how many words a line may have. expected: the same, worded.

    Raises:
        FileNotFoundError, ValueError: missing, empty, no text, or malformed (with the line's number).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (a list of {item}s)")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:12]
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    if b"\0" in data:
        raise ValueError(f"{path}: not a text file (it holds a byte 0)")
    starts, ends, numbers, first = fields(data)
    if not len(numbers):
        raise ValueError(f"{path}: holds no {item}; expected lines {expected}")
    words = np.diff(first, append=len(starts))
    wrong = np.flatnonzero(~np.isin(words, allowed))
    if len(wrong):
        raise ValueError(_malformed(path, data, int(numbers[wrong[0]]), f"expected {expected}"))
    if (words != words[0]).any():
        number = int(numbers[np.flatnonzero(words != words[0])[0]])
        raise ValueError(_malformed(path, data, number, "some lines have a label and some have none"))
    shape = len(numbers), int(words[0])
    return data, digest, starts.reshape(shape), ends.reshape(shape), numbers


def _malformed(path, data, number, expected):
    line = data.split(b"\n", number)[number - 1].decode(errors="replace").strip()
    return f"{path}, line {number}: {expected}, found {line[:80]!r}"


def read_train_list(path: str | Path, root: str = "") -> TrainList:
    """Read a list of `speaker path` lines, or that of the samples of shards (a folder, .tar file or pattern).

    Raises:
        FileNotFoundError, ValueError: missing, empty or malformed (with the line's number).
    """
    if Path(path).is_dir() or shards.is_shards(str(path)):
        return _read_shards(str(path).rstrip("/"))
    data, digest, starts, ends, _ = read_words(path, "utterance", (2,), "`speaker path`")
    buffer = np.frombuffer(data, np.uint8)
    labels, speakers = Names(buffer, starts[:, 0], ends[:, 0]).ranks()
    paths = Names(buffer, starts[:, 1].copy(), ends[:, 1].copy())
    return TrainList(str(path), root, paths, labels, speakers, digest, _shard_notes(root))


def _read_shards(spec):
    found = shards.open_shards(spec)
    labels, speakers = found.speakers.ranks()
    if not len(labels):
        raise ValueError(f"{spec}: its {len(found.paths)} shards hold no audio")
    if speakers[0] == "":
        first = found.names[int(np.argmin(labels))]
        raise ValueError(f"{spec}: sample {first} has neither a label with its speaker nor a folder of that name")
    digest = hashlib.sha256("\n".join(speakers).encode())
    for part in (found.names.buffer, found.names.starts, found.names.ends, labels):
        digest.update(part.tobytes())
    return TrainList(spec, spec, found.names, labels, speakers, digest.hexdigest()[:12], _shard_notes(spec))


def _shard_notes(root):
    """Return a warning for every shard at `root` that cannot be read."""
    root = root.rstrip("/")
    if not root or not shards.is_shards(root):
        return []
    return [f"warning: {problem}" for problem in shards.open_shards(root).problems]


def read_recordings(path: str | Path) -> Names:
    """Return the recordings that a train list (`speaker path`) or a trial list (`label file file`) names, repeated as
    they are there.

    Raises:
        FileNotFoundError, ValueError: missing, empty or malformed (with the line's number).
    """
    data, _, starts, ends, _ = read_words(path, "recording", (2, 3), "`speaker path` or `label file file`")
    return Names(np.frombuffer(data, np.uint8), starts[:, 1:].reshape(-1), ends[:, 1:].reshape(-1))


def read_files(path: str | Path) -> tuple[list[str], list[str]]:
    """Return the sorted distinct files that a list names, and their speakers, none where the list does not say.

    Lines `file`, `speaker file`, `file file` (where the first word has a slash), or `label file file`.

    Raises:
        FileNotFoundError, ValueError: missing, empty or malformed (with the line's number).
    """
    expected = "`file`, `speaker file` or `label file file`"
    data, _, starts, ends, _ = read_words(path, "file", (1, 2, 3), expected)
    buffer = np.frombuffer(data, np.uint8)
    width = starts.shape[1]
    spoken = width == 2 and ord("/") not in buffer[starts[0, 0] : ends[0, 0]]
    first = 1 if width == 3 or spoken else 0
    places, files = Names(buffer, starts[:, first:].reshape(-1), ends[:, first:].reshape(-1)).ranks()
    if not spoken:
        return files, []
    line = np.empty(len(files), np.int64)
    line[places] = np.arange(len(places))
    speakers = Names(buffer, starts[:, 0], ends[:, 0])
    return files, [speakers[i] for i in line.tolist()]


def read_trial_list(path: str | Path) -> TrialList:
    """Read a list of `label file file` lines (1 = same speaker), or of `file file` lines without labels.

    Raises:
        FileNotFoundError, ValueError: missing, empty, malformed (with the line's number), or only partly labelled.
    """
    expected = "`label file file` with label 0 or 1"
    data, digest, starts, ends, numbers = read_words(path, "trial", (2, 3), expected)
    buffer, labels = np.frombuffer(data, np.uint8), None
    if starts.shape[1] == 3:
        labels = buffer[starts[:, 0]] - ord("0")
        wrong = np.flatnonzero((labels > 1) | (ends[:, 0] - starts[:, 0] != 1))
        if len(wrong):
            raise ValueError(_malformed(path, data, int(numbers[wrong[0]]), f"expected {expected}"))
        labels = labels.astype(np.int8)
    pairs, names = Names(buffer, starts[:, -2:].reshape(-1), ends[:, -2:].reshape(-1)).ranks()
    return TrialList(str(path), names, pairs.reshape(-1, 2), labels, digest)


def evenly(count: int, sample: int) -> range | list[int]:
    """Return the indices of `sample` evenly spaced ones of `count` items, of all where `sample` is 0 or not smaller."""
    return range(count) if not sample or count <= sample else [i * count // sample for i in range(sample)]


def check_trials(trials: TrialList):
    """Check that error rates can be had from a labelled list.

    Raises:
        ValueError: it has targets only, or impostors only.
    """
    if trials.labels is not None and len(set(trials.labels.tolist())) == 1:
        kind = "impostor trial (label 0)" if trials.labels[0] else "target trial (label 1)"
        raise ValueError(f"{trials.name}: holds no {kind} among {len(trials.labels)}: no error rate can be had from it")


def check_files(name: str, paths: list[str], bad_percent: float = 0.0) -> list[str]:
    """Look at the headers of `paths`; return warnings: other rates and several channels, up to `bad_percent` bad files.

    Raises:
        FileNotFoundError: more files are missing or unreadable; the first few are named with their number.
    """
    bad, rates, mixed = [], Counter(), 0
    for path in paths:
        try:
            with AudioFile(path) as audio:
                rates[audio.rate] += 1
                mixed += audio.channels > 1
        except ValueError as error:
            bad.append(str(error))
    lines = []
    if bad:
        line = f"{name}: {len(bad)} of {len(paths)} files looked at cannot be used: {'; '.join(bad[:3])}"
        if 100 * len(bad) > bad_percent * len(paths):
            raise FileNotFoundError(line)
        lines.append(f"warning: {line}")
    other = {rate: count for rate, count in rates.items() if rate != SAMPLE_RATE}
    parts = []
    if other:
        detail = ", ".join(f"{rate} Hz: {count}" for rate, count in sorted(other.items()))
        parts.append(f"{sum(other.values())} of {len(paths)} files resampled to {SAMPLE_RATE} Hz ({detail})")
    if mixed:
        parts.append(f"{mixed} files mixed to one channel")
    return lines + ([f"{name}: {', '.join(parts)}"] if parts else [])


def check_training(
    train: TrainList, n_classes: int, n_per_speaker: int, classifies: bool, test_speakers: set[str] | None = None
) -> list[str]:
    """Check what would fail late or silently; return lines worth reading.

    Raises:
        ValueError: more speakers than classes, or an utterance listed twice for different speakers.
    """
    if classifies and len(train.speakers) > n_classes:
        raise ValueError(
            f"{train.name} has {len(train.speakers)} speakers but --nClasses is {n_classes}: largest label "
            f"{len(train.speakers) - 1}; give --nClasses {len(train.speakers)}"
        )
    lines = [train.describe(), *train.notes]
    first, again = train.paths.repeated()
    two = np.flatnonzero(train.labels[first] != train.labels[again])
    if len(two):
        raise ValueError(f"{train.name}: {train.paths[again[two[0]]]} is listed for two speakers")
    if len(again):
        lines.append(
            f"warning: {train.name}: {len(again)} utterances are listed more than once, e.g. {train.paths[again[0]]}"
        )
    per_speaker = np.bincount(train.labels)
    single = int((per_speaker == 1).sum())
    if single and n_per_speaker == 1:
        lines.append(f"note: {train.name}: {single} speakers have a single utterance: nothing tells voice from session")
    few = int((per_speaker < n_per_speaker).sum())
    if few:
        lines.append(
            f"warning: {train.name}: {few} speakers have fewer than {n_per_speaker} utterances and are never drawn"
        )
    shared = sorted(test_speakers & set(train.speakers)) if test_speakers else []
    if shared:
        lines.append(
            f"warning: {len(shared)} speakers are in train and test lists, e.g. {shared[0]}: the EER will flatter"
        )
    elif test_speakers:
        lines.append("no speaker is in both train and test lists")
    return lines
