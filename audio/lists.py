"""Train and trial lists: read, checked, described; every error names file and line.
Entry points: read_train_list, read_trial_list, check_files.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio.io import SAMPLE_RATE, AudioFile


@dataclass
class TrainList:
    """Utterances with speakers: `paths` (utterances,) UTF-8 bytes in one buffer, which loader processes share; `labels`
    (utterances,) int64, the rank of the speaker among the sorted names `speakers`; `root` the prefix of the paths."""

    name: str
    root: str
    paths: np.ndarray
    labels: np.ndarray
    speakers: list[str]
    hash: str

    def path(self, index: int) -> str:
        """Return where utterance `index` lies."""
        return join(self.root, self.paths[index].decode())

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


def _lines(path, what):
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path}: no such file")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig").splitlines(), hashlib.sha256(data).hexdigest()[:12]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None


def read_train_list(path: str | Path, root: str = "") -> TrainList:
    """Read a list of `speaker path` lines.

    Raises:
        FileNotFoundError, ValueError: missing, empty or malformed (with the line's number).
    """
    lines, digest = _lines(path, "train list")
    fields = [line.split() for line in lines]
    for number, parts in enumerate(fields, 1):
        if parts and len(parts) != 2:
            raise ValueError(
                f"{path}, line {number}: expected `speaker path`, found {lines[number - 1].strip()[:80]!r}"
            )
    fields = [parts for parts in fields if parts]
    if not fields:
        raise ValueError(f"{path}: holds no utterance")
    speakers, labels = np.unique([speaker for speaker, _ in fields], return_inverse=True)
    paths = np.array([file.encode() for _, file in fields])
    return TrainList(str(path), root, paths, labels.reshape(-1).astype(np.int64), speakers.tolist(), digest)


def read_trial_list(path: str | Path) -> TrialList:
    """Read a list of `label file file` lines (1 = same speaker), or of `file file` lines without labels.

    Raises:
        FileNotFoundError, ValueError: missing, empty, malformed (with the line's number), or only partly labelled.
    """
    lines, digest = _lines(path, "trial list")
    fields, width = [], 0
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) not in (2, 3) or (len(parts) == 3 and parts[0] not in ("0", "1")):
            raise ValueError(
                f"{path}, line {number}: expected `label file file` with label 0 or 1, found {line.strip()[:80]!r}"
            )
        if width and len(parts) != width:
            raise ValueError(f"{path}, line {number}: some lines have a label and some have none")
        width = len(parts)
        fields.append(parts)
    if not fields:
        raise ValueError(f"{path}: holds no trial")
    files = np.array([parts[-2:] for parts in fields])
    names, pairs = np.unique(files, return_inverse=True)
    labels = np.array([int(parts[0]) for parts in fields], dtype=np.int8) if width == 3 else None
    return TrialList(str(path), names.tolist(), pairs.reshape(files.shape).astype(np.int64), labels, digest)


def evenly(count: int, sample: int) -> range | list[int]:
    """Return the indices of `sample` evenly spaced ones of `count` items, of all where `sample` is 0 or not smaller."""
    return range(count) if not sample or count <= sample else [i * count // sample for i in range(sample)]


def check_files(name: str, paths: list[str]) -> str | None:
    """Look at the headers of `paths`; return a warning that counts other rates and several channels, or None.

    Raises:
        FileNotFoundError: files are missing or unreadable; the first few are named with their number.
    """
    bad, rates, mixed = [], Counter(), 0
    for path in paths:
        try:
            with AudioFile(path) as audio:
                rates[audio.rate] += 1
                mixed += audio.channels > 1
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise FileNotFoundError(
            f"{name}: {len(bad)} of {len(paths)} files looked at cannot be used: {'; '.join(bad[:3])}"
        )
    other = {rate: count for rate, count in rates.items() if rate != SAMPLE_RATE}
    parts = []
    if other:
        detail = ", ".join(f"{rate} Hz: {count}" for rate, count in sorted(other.items()))
        parts.append(f"{sum(other.values())} of {len(paths)} files resampled to {SAMPLE_RATE} Hz ({detail})")
    if mixed:
        parts.append(f"{mixed} files mixed to one channel")
    return f"{name}: {', '.join(parts)}" if parts else None


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
    lines = [train.describe()]
    distinct, first, counts = np.unique(train.paths, return_index=True, return_counts=True)
    repeated = distinct[counts > 1]
    if len(repeated):
        where = np.flatnonzero(train.paths == repeated[0])
        if len(set(train.labels[where].tolist())) > 1:
            raise ValueError(f"{train.name}: {repeated[0].decode()} is listed for two speakers")
        lines.append(
            f"warning: {train.name}: {len(repeated)} utterances are listed more than once, e.g. {repeated[0].decode()}"
        )
    per_speaker = np.bincount(train.labels)
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
