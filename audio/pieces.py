"""Which pieces of a recording are embedded: the whole, evenly spaced crops, or windows that follow each other.
Entry points: Cut(...).starts(samples), read_piece(audio, start, count, used), batches_of and their data set Pieces.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from audio.crops import eval_starts, wrap
from audio.io import AudioFile


@dataclass(frozen=True)
class Cut:
    """How recordings are cut, in samples at 16 kHz; 0 switches a way of cutting off.

    least: a shorter recording is repeated up to this. most: only the first so many samples count. crop, crops: so many
    evenly spaced crops. window, hop: recordings longer than a window are cut into windows, the last ends with them.
    """

    least: int = 8000
    most: int = 0
    crop: int = 0
    crops: int = 1
    window: int = 0
    hop: int = 0

    def used(self, samples: int) -> int:
        """Return how many of a recording's samples count."""
        return min(samples, self.most) if self.most else samples

    def starts(self, samples: int) -> tuple[np.ndarray, int]:
        """Return the first samples of all pieces of a recording (pieces,) and their common length."""
        used = self.used(samples)
        if self.crop:
            return eval_starts(used, self.crop, self.crops), self.crop
        if self.window and used > self.window:
            starts = np.arange(0, used - self.window + 1, self.hop or self.window)
            if starts[-1] + self.window < used:
                starts = np.append(starts, used - self.window)
            return starts, self.window
        return np.zeros(1, dtype=np.int64), max(used, self.least)


def read_piece(audio: AudioFile, start: int, count: int, used: int) -> np.ndarray:
    """Read `count` samples from `start` of an open file whose first `used` samples count; it repeats beyond these."""
    if start + count <= used:
        return audio.read(start, count)
    return wrap(audio.read(0, used), start + count)[start : start + count]


def batches_of(parts: list[np.ndarray], samples: np.ndarray, cut: Cut, most_samples: int) -> list[tuple]:
    """Return [(part, count, files, starts)]: pieces of one length and one part, at most `most_samples` together.

    Args:
        parts: the files of each part.
        samples: (files,) of all files.
    """
    batches = []
    for number, own in enumerate(parts):
        groups = {}
        for file in own:
            starts, count = cut.starts(int(samples[file]))
            groups.setdefault(count, []).append((np.full(len(starts), file), starts))
        for count, pieces in groups.items():
            files, starts = (np.concatenate(column) for column in zip(*pieces))
            step = max(1, most_samples // count)
            batches += [(number, count, files[i : i + step], starts[i : i + step]) for i in range(0, len(files), step)]
    return batches


class Pieces(Dataset):
    """Batches of pieces of one length: item i is {"wave" (pieces, count), "file" (pieces,), "bad" [(file, reason)]}.

    Args:
        paths: of all files.
        used: (files,) samples of each file that count.
        batches: as batches_of returns them.
    """

    def __init__(self, paths: list[str], used: np.ndarray, batches: list[tuple]):
        self.paths, self.used, self.batches = paths, used, batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        _, count, files, starts = self.batches[index]
        waves, good, bad = [], [], []
        for file, start in zip(files.tolist(), starts.tolist()):
            try:
                with AudioFile(self.paths[file]) as audio:
                    waves.append(read_piece(audio, start, count, int(self.used[file])))
                good.append(file)
            except ValueError as error:
                bad.append((file, str(error)))
        wave = torch.from_numpy(np.stack(waves)) if waves else torch.empty(0, count)
        return {"wave": wave, "file": np.array(good, dtype=np.int64), "bad": bad}
