"""Tar shards as the webdataset library writes them: indexed once, then each sample is read by its offset.
Entry points: is_shards(spec), open_shards(spec) and find(path), a recording by the path it would have as a file.

`spec` is a folder of shards NAME-000000.tar, ..., a .tar file or a pattern of such. Like packed audio it takes the
place of a list's prefix: spec/speaker/recording/file.wav stands for the member of that name in one of the shards.
"""

import glob
import io
import os
import re
from functools import lru_cache, partial

import numpy as np
import soundfile

from audio.names import Lookup, Names
from audio.packed import IntegerRecording
from audio.shard_index import Index, advice, read_index

# Shards a process keeps open: more than a block of the sampler, fewer than a process may have.
MOST_OPEN = 64


class Shards:
    """Open shards. Row i is sample names[i]: `sizes[i]` bytes from `offsets[i]` of file paths[shard[i]].

    A damaged shard is left out; `problems` has a line for each.

    Raises:
        ValueError: none can be read, or two samples have one name.
    """

    def __init__(self, spec: str):
        self.folder, self.paths, self.problems, indices = spec, [], [], []
        paths = shards_of(spec)
        for path in paths:
            try:
                indices.append(read_index(path))
                self.paths.append(path)
            except (ValueError, OSError) as error:
                self.problems.append(f"{error}: skipped, write or copy it again")
        if not indices:
            raise ValueError(f"{spec}: none of {len(paths)} shards can be read: {self.problems[0]}")
        self.names = Names.joined([index.names for index in indices])
        self.speakers = Names.joined([index.speakers for index in indices])
        fields = Index._fields[2:]
        columns = [np.concatenate([getattr(index, name) for index in indices]) for name in fields]
        self.offsets, self.sizes, self.first, self.samples = columns
        self.shard = np.repeat(np.arange(len(indices)), [len(index.names) for index in indices])
        one, other = self.names.repeated()
        if len(one):
            both = self.paths[self.shard[one[0]]], self.paths[self.shard[other[0]]]
            raise ValueError(f"{both[0]} and {both[1]}: both hold a sample {self.names[one[0]]}; keys must be unique")
        self.lookup = Lookup(self.names)
        self.files = {}

    def __getstate__(self):
        return {**self.__dict__, "files": {}}  # a process started anew opens its own

    def rows(self, names: Names) -> np.ndarray:
        """Return the row of every name, (names,) int64, -1 where no shard holds it."""
        return self.lookup.rows(names)

    def all_int16(self, rows: np.ndarray) -> bool:
        """Tell whether the samples of these rows are all read as 16-bit integers."""
        return bool((self.first[rows[rows >= 0]] >= 0).all())

    def is_int16(self, row: int) -> bool:
        """Tell whether the samples of a row are read as 16-bit integers."""
        return bool(self.first[row] >= 0)

    def read(self, row: int, start: int, count: int) -> bytes:
        """Return `count` bytes of the member of a row from `start`.

        Raises:
            ValueError: the shard cannot be read so far.
        """
        return self._read(int(self.shard[row]), int(self.offsets[row]) + start, count)

    def read_samples(self, row: int, start: int, count: int) -> np.ndarray:
        """Return `count` samples from `start` of a row of 16-bit PCM, (count,) int16."""
        data = self._read(int(self.shard[row]), int(self.first[row]) + 2 * start, 2 * count)
        return np.frombuffer(data, "<i2")

    def _read(self, shard, place, count):
        try:
            handle = self.files.get(shard)
            if handle is None:
                if len(self.files) >= MOST_OPEN:
                    os.close(self.files.pop(next(iter(self.files))))
                handle = self.files[shard] = os.open(self.paths[shard], os.O_RDONLY)
            data = os.pread(handle, count, place)
        except OSError as error:
            raise ValueError(f"{self.paths[shard]}: cannot be read at byte {place} ({error})") from None
        if len(data) != count:
            raise ValueError(f"{self.paths[shard]}: ends at byte {place + len(data)}, has changed since it was indexed")
        return data

    def open(self, row: int):
        """Return the recording of a row, an IntegerRecording or a soundfile.SoundFile.

        Raises:
            ValueError: it is no audio.
        """
        if self.first[row] >= 0:
            return IntegerRecording(int(self.samples[row]), partial(self.read_samples, row))
        try:
            return soundfile.SoundFile(Member(self, row))
        except (soundfile.LibsndfileError, OSError, TypeError) as error:
            reason = str(error).split(": ")[-1]
            raise ValueError(f"{self.folder}/{self.names[row]}: cannot be read as audio ({reason})") from None


class Member(io.RawIOBase):
    """A member of a shard as a file, for soundfile."""

    def __init__(self, shards: Shards, row: int):
        self.shards, self.row, self.size, self.place = shards, row, int(shards.sizes[row]), 0

    def seekable(self):
        return True

    def readable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self):
        return self.place

    def readinto(self, buffer):
        count = max(0, min(len(buffer), self.size - self.place))
        memoryview(buffer).cast("B")[:count] = self.shards.read(self.row, self.place, count)
        self.place += count
        return count


# ---------------------------------------------------------------- by the path of a file


def is_shards(spec: str) -> bool:
    """Tell whether `spec` is a folder of shards, a .tar file or a pattern of such."""
    try:
        with os.scandir(spec) as entries:
            return any(re.search(r"\d\.tar(\.gz)?$", entry.name) for entry in entries)
    except OSError:  # no folder, or one that cannot be read
        return spec.endswith((".tar", ".tar.gz"))


def shards_of(spec: str) -> list[str]:
    """Return the sorted paths of the shards of a folder, file or pattern.

    Raises:
        ValueError: they are compressed, or there is none.
    """
    pattern = os.path.join(glob.escape(spec), "*[0-9].tar") if os.path.isdir(spec) else spec
    found = [spec] if os.path.isfile(spec) else sorted(glob.glob(pattern))
    if spec.endswith(".tar.gz") or (not found and glob.glob(pattern + ".gz")):
        raise ValueError(f"{spec}: compressed shards, in which no sample can be read by its offset: {advice(spec)}")
    if not found:
        raise ValueError(f"{spec}: no such shards (files whose names end in a number and .tar)")
    return found


@lru_cache(maxsize=8)
def open_shards(spec: str) -> Shards:
    """Return the shards of a folder, file or pattern, opened once per process."""
    return Shards(spec)


@lru_cache(maxsize=4096)
def shards_above(folder: str) -> str | None:
    """Return the folder (or file, or pattern) itself or the nearest above it that is one of shards, or None."""
    if is_shards(folder):
        return folder
    above = os.path.dirname(folder)
    return shards_above(above) if above not in ("", folder) else None


def find(path: str):
    """Return the recording that has this path in shards, or None where nothing above it is one of shards.

    Raises:
        ValueError: the shards lack the recording, or it is no audio.
    """
    folder = shards_above(os.path.dirname(path))
    if folder is None:
        return None
    shards = open_shards(folder)
    row = int(shards.rows(Names.of([path[len(folder) :].lstrip("/")]))[0])
    if row < 0:
        raise ValueError(missing(shards, path))
    return shards.open(row)


def missing(shards: Shards, path: str) -> str:
    """Return the line for a recording that no shard holds."""
    damaged = len(shards.problems)
    also = f", {damaged} of the {damaged + len(shards.paths)} were damaged and skipped" if damaged else ""
    return f"{path}: not in the shards of {shards.folder}{also}"
