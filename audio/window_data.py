"""Windows of recordings as a dataset, each read by a seek: what waveform networks are trained and judged on.
Entry points: WindowDataset, WindowSampler (what the loader's batch_sampler is), held_out.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from audio.companding import encode
from audio.io import SAMPLE_RATE, AudioFile
from audio.samplers import shuffled_batches
from audio.tones import Tones
from audio.wave_sources import Recordings, take
from audio.windows import Windows

# so many recordings in a row that cannot be read are a folder that went away, not single damaged files
MOST_TRIES = 100


class WindowDataset(Dataset):
    """Windows {"label": int, "samples": (samples,) float32, "utterance": index of the recording}, padded with zeros.

    Args:
        encoding: "linear", or "ulaw" for samples companded by the mu law.
    """

    def __init__(self, recordings: Recordings, windows: Windows, encoding: str = "linear"):
        encode(np.zeros(1), encoding)  # an unknown one is told before the work
        self.recordings, self.windows, self.encoding = recordings, windows, encoding
        self.samples, self.speakers = windows.samples, recordings.list.speakers
        self.utterances, self.bad, self.notes = len(recordings.seconds), recordings.bad, recordings.list.notes
        self.by_speaker = np.argsort(recordings.list.labels, kind="stable")
        self.place = np.empty_like(self.by_speaker)
        self.place[self.by_speaker] = np.arange(len(self.by_speaker))

    def __len__(self):
        return len(self.windows)

    @property
    def labels(self) -> np.ndarray:
        """The label of every window, (windows,) int64."""
        return np.repeat(self.recordings.list.labels, self.windows.counts)

    def names(self) -> list[str]:
        """Return the name of each utterance, its path as the source has it."""
        paths = self.recordings.list.paths
        return [paths[row] for row in range(len(paths))]

    def describe(self) -> str:
        """Return one line: source, windows, speakers."""
        seconds = (self.samples / SAMPLE_RATE, self.windows.spacing / SAMPLE_RATE)
        return f"{self.recordings.describe()}: {len(self)} windows of {seconds[0]:g} s every {seconds[1]:g} s"

    def read(self, recording: int, offset: int) -> np.ndarray:
        """Return the window of a recording from sample `offset`, (samples,) float32.

        Raises:
            ValueError: it cannot be read, or is shorter than it was (the message names it).
        """
        path = self.recordings.list.path(recording)
        window = np.zeros(self.samples, np.float32)
        with AudioFile(path) as audio:
            if offset >= audio.samples:
                raise ValueError(
                    f"{path}: has {audio.samples / SAMPLE_RATE:.2f} s, {self.recordings.seconds[recording]:.2f} s when "
                    "its duration was taken: the folder has changed, start again"
                )
            wave = audio.read(offset, self.samples)
        window[: len(wave)] = encode(wave, self.encoding)
        return window

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        recording, offset = (int(number) for number in self.windows.locate(index))
        samples = torch.from_numpy(self.read(recording, offset))
        return {"label": int(self.recordings.list.labels[recording]), "samples": samples, "utterance": recording}

    def __getitems__(self, indices: list[int]) -> dict:
        """Return the batch of `indices`: "label" (batch,), "samples" (batch, samples), "utterance" (batch,), and "bad",
        the (path, reason) pairs of recordings that gave way to the next of their speaker, or of the next speaker.

        Raises:
            ValueError: many recordings in a row cannot be read.
        """
        samples, used, bad = np.empty((len(indices), self.samples), np.float32), [], []
        for row, index in enumerate(indices):
            recording, offset = (int(number) for number in self.windows.locate(index))
            for turn in range(min(len(self.place), MOST_TRIES)):
                other = int(self.by_speaker[(self.place[recording] + turn) % len(self.place)])
                if turn:
                    offset = self.windows.spacing * int(index % self.windows.counts[other])
                try:
                    samples[row] = self.read(other, offset)
                    break
                except ValueError as error:
                    bad.append((self.recordings.list.paths[other], str(error)))
            else:
                raise ValueError(f"{turn + 1} recordings in a row cannot be read, e.g. {bad[-1][1]}")
            used.append(other)
        used = np.array(used, np.int64)
        label = torch.from_numpy(self.recordings.list.labels[used])
        return {"label": label, "samples": torch.from_numpy(samples), "utterance": torch.from_numpy(used), "bad": bad}


class WindowSampler:
    """Batches of indices of windows for this rank, whole ones in a random order that follows from (seed, epoch) alone.

    Without `shuffle` they come in their order, once, the last incomplete batch too; rank r has every world-th batch.

    Raises:
        ValueError: there are fewer windows than one batch over all ranks takes.
    """

    def __init__(self, windows: int, batch_size: int, seed: int, world_size: int = 1, rank: int = 0, shuffle=True):
        if shuffle and windows < batch_size * world_size:
            raise ValueError(
                f"the data has {windows} windows, fewer than one batch of {batch_size * world_size}: give a smaller "
                "--batch_size, more data, or closer windows"
            )
        self.windows, self.batch_size, self.seed, self.shuffle = windows, batch_size, seed, shuffle
        self.world_size, self.rank, self.epoch = world_size, rank, None
        self.set_epoch(1)

    def set_epoch(self, epoch: int, first_batch: int = 0):
        """Make the batches of `epoch`; iteration begins at `first_batch` (a run resumed within an epoch)."""
        self.first_batch = first_batch
        if epoch == self.epoch:
            return
        self.epoch = epoch
        if self.shuffle:
            batches = shuffled_batches(self.windows, self.batch_size, self.seed, epoch, self.world_size)[..., 0]
            self.batches = batches[:, self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        else:
            starts = range(0, self.windows, self.batch_size)[self.rank :: self.world_size]
            self.batches = [np.arange(start, min(start + self.batch_size, self.windows)) for start in starts]

    def __len__(self):
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches[self.first_batch :]:
            yield batch.tolist()


def held_out(dataset: WindowDataset | Tones, share: float, seed: int) -> tuple:
    """Return the dataset without `share` of its utterances, drawn at random, and these; every speaker keeps one.

    Raises:
        ValueError: the share is of no utterance.
    """
    order = np.random.default_rng([seed, 0x4E1D]).permutation(dataset.utterances)
    own = dataset.labels if isinstance(dataset, Tones) else dataset.recordings.list.labels
    _, first = np.unique(own[order], return_index=True)
    free = np.delete(order, first)
    count = round(share * dataset.utterances)
    if not 0 < count <= len(free):
        raise ValueError(f"{share:g} of {dataset.utterances} utterances cannot be held out, a speaker keeping one each")
    held = np.sort(free[:count])
    rest = np.setdiff1d(np.arange(dataset.utterances), held)
    if isinstance(dataset, Tones):
        parts = [Tones(dataset.encoding, dataset.samples, items=dataset.items[rows]) for rows in (rest, held)]
    else:
        # half a sample more, so that rounding does not make it one less
        sizes = ((size + 0.5) / SAMPLE_RATE for size in (dataset.windows.samples, dataset.windows.spacing))
        window, spacing = sizes
        chosen = [take(dataset.recordings, rows) for rows in (rest, held)]
        parts = [WindowDataset(c, Windows(c.seconds, window, spacing), dataset.encoding) for c in chosen]
    return tuple(parts)
