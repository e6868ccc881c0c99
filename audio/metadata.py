"""Tables of recordings (CSV, lists) and of comparisons between them; every id stays text, every error names a line.
Entry points: read_metadata, write_metadata, read_comparisons.
"""

import csv
import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audio import lists

AUDIO_COLUMNS = ("audio", "path")  # the first of these that there is
ENROLMENT_COLUMNS, TEST_COLUMNS = ("enrollment", "enrolment"), ("test",)
CSV_SUFFIXES = (".csv", ".tsv")


@dataclass
class Metadata:
    """Recordings in the order of the file: unique `ids`; `audio`, the paths as they stand there, "" for none;
    `speakers`, empty where the file has none; `columns`, all others by name."""

    name: str
    hash: str
    ids: list[str]
    audio: list[str]
    speakers: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)

    def require_speakers(self) -> list[str]:
        """Return the speakers.

        Raises:
            ValueError: the file says of none, or not of all, recordings who speaks.
        """
        if not self.speakers:
            raise ValueError(f"{self.name}: no column speaker, which is needed here (in a list: `speaker file`)")
        if "" in self.speakers:
            raise ValueError(f"{self.name}: no speaker of {self.ids[self.speakers.index('')]}")
        return self.speakers

    def take(self, rows: list[int]) -> "Metadata":
        """Return the recordings of these rows, in their order."""
        columns = {name: [cells[i] for i in rows] for name, cells in self.columns.items()}
        ids, audio = ([cells[i] for i in rows] for cells in (self.ids, self.audio))
        speakers = [self.speakers[i] for i in rows] if self.speakers else []
        return Metadata(self.name, self.hash, ids, audio, speakers, columns)

    def describe(self) -> str:
        """Return one line: file, recordings, speakers, hash."""
        known = f" of {len(set(self.speakers))} speakers" if self.speakers else ""
        return f"{self.name}: {len(self.ids)} recordings{known}, sha256 {self.hash}"


@dataclass
class Comparisons:
    """Comparisons of recordings: the ids of both sides of each, several where their counts are added up; `labels`
    (comparisons,) int8, 1 for the same speaker, or None; `lines` of the file they stand in, where known."""

    name: str
    hash: str
    enrolment: list[tuple[str, ...]]
    test: list[tuple[str, ...]]
    labels: np.ndarray | None = None
    lines: list[int] = field(default_factory=list)

    def label(self, speaker_of: dict[str, str]):
        """Set labels that are not given: 1 where the speakers of both sides are equal.

        Raises:
            ValueError: a recording without a speaker, or a side of several speakers (the line is named).
        """
        if self.labels is not None:
            return
        numbers = {}
        sides = [[numbers.setdefault(cell, len(numbers)) for cell in side] for side in (self.enrolment, self.test)]
        speakers = {}
        speaker = np.empty(len(numbers), dtype=np.int64)
        for cell, number in numbers.items():  # the distinct ones: far fewer than comparisons
            found = {speaker_of.get(name) for name in cell}
            if None in found or "" in found:
                lost = next(name for name in cell if not speaker_of.get(name))
                raise ValueError(f"{self._where(sides, number)}: no speaker of {lost} is known")
            if len(found) > 1:
                shown = ", ".join(sorted(found)[:3])
                raise ValueError(f"{self._where(sides, number)}: one side holds several speakers ({shown})")
            speaker[number] = speakers.setdefault(found.pop(), len(speakers))
        enrolment, test = np.array(sides, dtype=np.int64)
        self.labels = (speaker[enrolment] == speaker[test]).astype(np.int8)

    def _where(self, sides, number):
        first = min(side.index(number) for side in sides if number in side)
        return f"{self.name}, line {self.lines[first]}" if self.lines else f"{self.name}, comparison {first + 1}"

    def names(self) -> list[str]:
        """Return the sorted distinct ids of both sides."""
        return sorted({name for side in (self.enrolment, self.test) for cell in set(side) for name in cell})

    def describe(self) -> str:
        """Return one line: file, comparisons, targets, hash."""
        share = "no labels" if self.labels is None else f"{int(self.labels.sum())} targets"
        return f"{self.name}: {len(self.enrolment)} comparisons ({share}), sha256 {self.hash}"


# ---------------------------------------------------------------- reading and writing


def _text(path: str | Path, item: str) -> tuple[str, str]:
    """Return the text of a file and its hash."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file (a table of {item}s)")
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    if "\0" in text:
        raise ValueError(f"{path}: not a text file (it holds a byte 0)")
    return text, hashlib.sha256(data).hexdigest()[:12]


def _read_table(path, text: str, sep: str, item: str) -> tuple[dict[str, list[str]], list[int]]:
    """Return {column: cells} of a table with a header, and the line each row ends on."""
    if len(sep) != 1:
        raise ValueError(f"{path}: columns are separated by one character, not by {sep!r}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: no columns separated by {sep!r} ({error})") from None
    if len(rows) < 2:
        raise ValueError(f"{path}: holds no {item}; expected a header and a line for each {item}")
    header = [name.strip() for name in rows[0][1]]
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise ValueError(f"{path}, line 1: two columns {twice[0]!r}")
    del rows[0]
    wrong = next((line for line, row in rows if len(row) != len(header)), 0)
    if wrong:
        raise ValueError(f"{path}, line {wrong}: expected {len(header)} columns ({', '.join(header)[:200]})")
    lines, rows = zip(*rows)
    return {name: [cell.strip() for cell in cells] for name, cells in zip(header, zip(*rows))}, list(lines)


def read_metadata(path: str | Path) -> Metadata:
    """Read a CSV file with a header (columns id, audio or path, speaker, any others), a list of lines `speaker file` or
    `file`, whose ids are the files, or a list of trials, `label file file`, whose speakers are the first folders.

    All cells are text: leading zeros stay. Without a column id the audio path is the id.

    Raises:
        FileNotFoundError, ValueError: missing, empty, malformed, without any of these columns, or an id is missing or
            given twice (the line is named).
    """
    if not str(path).lower().endswith(CSV_SUFFIXES):
        expected = "`speaker file`, `file` or `label file file`"
        data, digest, starts, _, lines = lists.read_words(path, "recording", (1, 2, 3), expected)
        width = starts.shape[1]
        if width == 3:
            names = list(lists.read_trial_list(path).names)
            speakers = [lists.speaker_of(name) or "" for name in names]
            return Metadata(str(path), digest, names, list(names), speakers if any(speakers) else [])
        words = [word.decode() for word in data.split()]
        found = Metadata(str(path), digest, words[width - 1 :: width], words[width - 1 :: width])
        found.speakers = words[::2] if width == 2 else []
        _check_ids(found, lines)
        return found
    text, digest = _text(path, "recording")
    columns, lines = _read_table(path, text, "\t" if str(path).lower().endswith(".tsv") else ",", "recording")
    audio = next((name for name in AUDIO_COLUMNS if name in columns), None)
    if audio is None and "id" not in columns:
        raise ValueError(f"{path}: none of the columns id, audio, path (columns: {', '.join(columns)[:200]})")
    paths = columns.pop(audio) if audio else [""] * len(lines)
    ids = columns.pop("id", None) or list(paths)
    found = Metadata(str(path), digest, ids, paths, columns.pop("speaker", []), columns)
    _check_ids(found, lines)
    return found


def _check_ids(found, lines):
    if "" in found.ids:
        raise ValueError(f"{found.name}, line {lines[found.ids.index('')]}: no id")
    if len(set(found.ids)) == len(found.ids):
        return
    first = {}
    for line, name in zip(lines, found.ids):
        if name in first:
            raise ValueError(f"{found.name}, line {line}: id {name} is given twice (before in line {first[name]})")
        first[name] = line


def write_metadata(path: str | Path, found: Metadata):
    """Write recordings as a CSV file that read_metadata reads; it appears complete or not at all."""
    path = Path(path)
    columns = {"id": found.ids, "audio": found.audio}
    columns |= ({"speaker": found.speakers} if found.speakers else {}) | found.columns
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values()))
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_comparisons(path: str | Path, sep: str = "\t") -> Comparisons:
    """Read comparisons: a list of lines `label file file` or `file file`, or a table with a header, whose columns
    enrollment and test (in any case; in a .csv or .tsv file else the first two) hold one id or several with commas.

    Args:
        sep: what separates the columns of a table.

    Raises:
        FileNotFoundError, ValueError: missing, empty, malformed, or a cell is empty or names an id twice (the line is
            named).
    """
    text, digest = _text(path, "comparison")
    sep = "\t" if sep == "\\t" else sep
    head = [word.strip().lower() for word in text.lstrip().partition("\n")[0].split(sep or None)]
    named = any(name in head for name in ENROLMENT_COLUMNS) and any(name in head for name in TEST_COLUMNS)
    if not named and not str(path).lower().endswith(CSV_SUFFIXES):
        trials = lists.read_trial_list(path)
        cells = [(name,) for name in trials.names]
        sides = ([cells[i] for i in side] for side in trials.pairs.T.tolist())
        return Comparisons(trials.name, trials.hash, *sides, trials.labels)
    columns, lines = _read_table(path, text, sep, "comparison")
    if len(columns) < 2:
        raise ValueError(f"{path}: one column, {next(iter(columns))[:80]!r}; is it separated by {sep!r}? (see --sep)")
    lower = {name.lower(): name for name in columns}
    names = [next((lower[n] for n in known if n in lower), None) for known in (ENROLMENT_COLUMNS, TEST_COLUMNS)]
    if None in names:
        names = list(columns)[:2]
    known = {}
    sides = [[_cell(path, line, cell, known) for line, cell in zip(lines, columns[name])] for name in names]
    return Comparisons(str(path), digest, *sides, lines=lines)


def _cell(path, line, text, known):
    """Return the ids of a cell; `known` holds the cells met before."""
    found = known.get(text)
    if found is None:
        found = known[text] = tuple(name.strip() for name in text.split(","))
        if "" in found:
            raise ValueError(f"{path}, line {line}: an id is missing ({text[:80]!r})")
        if len(set(found)) < len(found):
            raise ValueError(f"{path}, line {line}: a cell names an id twice ({text[:80]!r})")
    return found
