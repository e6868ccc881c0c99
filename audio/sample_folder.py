"""A folder of generated samples that grows file by file, so that a stopped run goes on where it was.
Entry points: SampleFolder(folder, form, options) with begin, missing, write, write_manifest; MANIFEST.
"""

import json
import os
from pathlib import Path

import numpy as np

from audio.companding import SAMPLE_RATE, decode, write_samples
from audio.io import AudioFile
from audio.metadata import Metadata, write_metadata

MANIFEST, OPTIONS = "manifest.csv", "options.json"
FORMATS = ("wav", "flac", "npz")


class SampleFolder:
    """Files sample_000000.wav, ..., what they were made with (options.json) and a table of them (manifest.csv).

    A sample is there once its file is; the table follows from the files and the plan.

    Args:
        form: one of FORMATS.
        options: plain data that must be the same when a stopped run goes on.
        plan: function of an index that returns {column: value} of the sample's row in the table; "speaker" is its
            intended one, "" for none.
        flag: what the folder was given as, for errors.
    """

    def __init__(self, folder: str | Path, form: str, options: dict, plan, flag: str = "--sample_path"):
        self.folder, self.form, self.plan, self.flag = Path(folder), form, plan, flag
        self.options = json.loads(json.dumps({**options, "format": form}))

    def begin(self):
        """Make the folder, or find out that what is there goes with these options.

        Raises:
            ValueError: it holds samples made with other options, or something else.
        """
        path = self.folder / OPTIONS
        if path.is_file():
            self._compare(path)
            for part in self.folder.glob(".*.part"):  # of a run that was killed while writing
                part.unlink(missing_ok=True)
        elif self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir())):
            raise ValueError(f"{self.folder}: is there and holds no samples of this script; give another {self.flag}")
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{OPTIONS}.part")
        part.write_text(json.dumps(self.options, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)

    def _compare(self, path):
        if not any(self.folder.glob("sample_*")):
            return  # nothing was made with these options
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise ValueError(f"{path}: damaged; give another {self.flag}")
        for key in sorted(before.keys() | self.options.keys()):
            if before.get(key) != self.options.get(key):
                raise ValueError(
                    f"{self.folder} holds samples with another {key} ({before.get(key)}, now {self.options.get(key)}): "
                    f"give another {self.flag}"
                )

    def path(self, index: int) -> Path:
        """Return the file of sample `index`."""
        return self.folder / f"sample_{index:06d}.{self.form}"

    def missing(self, count: int) -> set[int]:
        """Return which of the first `count` samples are not there."""
        return set(range(count)) - set(self._present())

    def _present(self):
        names = (entry.name for entry in os.scandir(self.folder))
        numbers = (name.removeprefix("sample_").removesuffix(f".{self.form}") for name in names)
        return sorted(int(number) for number in numbers if number.isdigit())

    def write(self, index: int, wave: np.ndarray, encoding: str):
        """Write the samples (samples,) of a network of this encoding, whole or not at all; errors as in write_wave."""
        write_wave(self.path(index), wave, encoding)

    def write_manifest(self):
        """Write the table of all samples that are there; read_metadata, so every --list of a file of files, reads it.

        It appears complete or not at all.
        """
        rows = [(self.path(index).name, self.plan(index)) for index in self._present()]
        if not rows:
            return
        names = [name for name, _ in rows]
        columns = {key: [str(row[key]) for _, row in rows] for key in rows[0][1]}
        speakers = columns.pop("speaker")
        write_metadata(
            self.folder / MANIFEST,
            Metadata(MANIFEST, "", names, names, speakers if any(speakers) else [], columns),
        )


def write_wave(path: str | Path, wave: np.ndarray, encoding: str):
    """Write `wave` (samples,) of a network of this encoding as .wav or .flac of 16 bits, or as .npz, at once.

    An .npz holds what no 16 bits hold: "samples" float32, linear and not clipped, and "sample_rate".

    Raises:
        ValueError: another ending, or samples that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        return write_samples(path, wave, encoding)
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: {int((~np.isfinite(wave)).sum())} of {wave.size} samples are not finite numbers")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, samples=decode(wave, encoding).astype(np.float32), sample_rate=np.array(SAMPLE_RATE))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_wave(path: str | Path, start: int = 0, count: int | None = None) -> np.ndarray:
    """Return linear samples of an audio file, or of an .npz of write_wave, float32 (count,), all where None.

    Raises:
        ValueError: it cannot be read (it is named).
    """
    if Path(path).suffix.lower() != ".npz":
        with AudioFile(str(path)) as audio:
            return audio.read(start, count)
    try:
        with np.load(path, allow_pickle=False) as archive:
            wave = archive["samples"]
    except Exception:  # numpy raises all kinds on damaged bytes
        raise ValueError(f"{path}: not an .npz file of one sample") from None
    if wave.ndim != 1 or wave.dtype.kind != "f" or not wave.size or not np.isfinite(wave).all():
        raise ValueError(f"{path}: its samples are {wave.dtype} {wave.shape} or not finite; (samples,) is expected")
    return wave[start : None if count is None else start + count].astype(np.float32)
