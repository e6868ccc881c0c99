"""Packed audio: the recordings of a list as 16-bit samples at 16 kHz in a few large files, read through memory maps.
Entry points: Pack(folder) (written by dataprep.py --pack) and find(path), a recording by the path it had as a file.

A folder holds part-00000.i16, part-00001.i16, ... (little-endian samples, one recording after the other) and index.npz.
A path below the folder stands for the recording of that name, so that the folder takes the place of a list's prefix.
"""

import zipfile
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from audio.names import Lookup, Names

INDEX = "index.npz"
FORMAT = 1
SAMPLE = np.dtype("<i2")


def part_name(part: int) -> str:
    """Return the file name of a part."""
    return f"part-{part:05d}.i16"


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Return samples in [-1, 1] as 16-bit integers (exact for what was read from a 16-bit file)."""
    return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(SAMPLE)


class Pack:
    """An open pack. Row i is recording names[i]: `lengths[i]` samples from `offsets[i]` in part `parts[i]`.

    Raises:
        ValueError: the folder holds no complete pack, or a part is shorter than the index says.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            with np.load(self.folder / INDEX, allow_pickle=False) as index:
                if int(index["format"]) != FORMAT:
                    raise ValueError(f"format {int(index['format'])} instead of {FORMAT}")
                self.parts, self.offsets, self.lengths = index["parts"], index["offsets"], index["lengths"]
                self.names = Names(index["names"], index["starts"], index["ends"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self.folder / INDEX}: no index of packed audio ({error}); pack the list again"
            ) from None
        self.lookup = Lookup(self.names)
        self.maps = {}
        ends = np.zeros(int(self.parts.max(initial=-1)) + 1, np.int64)
        np.maximum.at(ends, self.parts, self.offsets + self.lengths)
        for part, end in enumerate(ends):
            path = self.folder / part_name(part)
            size = path.stat().st_size if path.is_file() else -1
            if size < end * SAMPLE.itemsize:
                state = "is missing" if size < 0 else f"has {size} bytes instead of {end * SAMPLE.itemsize}"
                raise ValueError(f"{path} {state}: pack the list again (finished parts are kept)")

    def rows(self, names: Names) -> np.ndarray:
        """Return the row of every name, (names,) int64, -1 where the pack does not hold it."""
        return self.lookup.rows(names)

    def all_int16(self, rows: np.ndarray) -> bool:
        """Tell that recordings are read as 16-bit integers."""
        return True

    def is_int16(self, row: int) -> bool:
        """Tell that a recording is read as 16-bit integers."""
        return True

    def open(self, row: int) -> "IntegerRecording":
        """Return the recording of a row."""
        return IntegerRecording(int(self.lengths[row]), partial(self.read, row))

    def read(self, row: int, start: int, count: int) -> np.ndarray:
        """Return `count` samples of a row from `start` as int16, a view of the file: no copy is made."""
        part = int(self.parts[row])
        samples = self.maps.get(part)
        if samples is None:
            samples = self.maps[part] = np.memmap(self.folder / part_name(part), SAMPLE, mode="r")
        first = int(self.offsets[row]) + start
        return samples[first : first + count]


class IntegerRecording:
    """One recording of a pack or shard, 16-bit samples at 16 kHz in one channel, read like an audio.io.AudioFile but as
    int16.

    Args:
        samples: how many there are.
        read_samples: read_samples(start, count) gives (count,) int16.
    """

    samplerate, channels = 16000, 1

    def __init__(self, samples: int, read_samples):
        self.samples = self.frames = samples
        self.read_samples = read_samples

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read(self, start: int, count: int) -> np.ndarray:
        """Return `count` samples from `start`, fewer where the recording ends, (count,) int16."""
        return self.read_samples(start, max(0, min(count, self.samples - start)))

    def close(self):
        """Do nothing: the file stays open."""


@lru_cache(maxsize=8)
def open_pack(folder: str) -> Pack:
    """Return the pack of a folder, opened once per process."""
    return Pack(folder)


@lru_cache(maxsize=4096)
def pack_above(folder: str) -> str | None:
    """Return the folder itself or the nearest one above it that holds a pack, or None."""
    path = Path(folder)
    return next((str(p) for p in (path, *path.parents) if (p / INDEX).is_file()), None)


def find(path: str) -> IntegerRecording | None:
    """Return the recording that has this path in a pack, or None where no folder of the path is a pack.

    Raises:
        ValueError: the pack lacks the recording.
    """
    folder = pack_above(path.rpartition("/")[0])
    if folder is None:
        return None
    pack, name = open_pack(folder), str(Path(path).relative_to(folder))
    row = int(pack.rows(Names.of([name]))[0])
    if row < 0:
        raise ValueError(f"{path}: not in the pack {folder} (its {len(pack.names)} recordings were given by a list)")
    return pack.open(row)
