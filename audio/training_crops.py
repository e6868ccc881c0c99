"""Training crops of a batch: from files, a pack or shards, keyed on (seed, epoch, utterance), unreadable ones replaced.
Entry points: TrainDataset, whose items are whole batches, and finish(), which does what is left to do for a batch.
"""

from fractions import Fraction

import numpy as np
import torch
from torch.utils.data import Dataset

from audio import packed, shards
from audio.augment import read_crop
from audio.crops import train_start, wrap
from audio.draws import uniform
from audio.io import AudioFile
from audio.lists import TrainList


class TrainDataset(Dataset):
    """Batches of crops by items (epoch, utterance indices, speed indices).

    Every random draw is keyed on (seed, epoch, utterance), so that a crop depends on no worker, rank or earlier item.
    A recording that cannot be read gives way to the next of its speaker that can.

    Args:
        augmenter: of single crops, in place of the batch's.
        change, batches: Speeds and BatchAugmenter of whole batches; with `in_worker` they are applied here, otherwise
            the batch carries their plans to finish().
        crop_mode: see audio.crops.train_start.
    """

    def __init__(
        self, utterances: TrainList, length: int, seed: int, n_classes: int, speeds: list[Fraction],
        speed_classes: bool, augmenter=None, change=None, batches=None, in_worker: bool = True, crop_mode="random",
    ):  # fmt: skip
        self.utterances, self.length, self.seed = utterances, length, seed
        self.n_classes, self.speeds, self.speed_classes = n_classes, speeds, speed_classes
        self.augmenter, self.change, self.batches, self.in_worker = augmenter, change, batches, in_worker
        self.crop_mode = crop_mode
        self.store = _store(utterances.root.rstrip("/"))
        self.rows = self.store.rows(utterances.paths) if self.store else None
        # crops of a store may travel as 16-bit samples, half the size, unless something is computed on them before
        integers = self.store is not None and self.store.all_int16(self.rows)
        integers = integers and augmenter is None and change is None and not in_worker
        self.dtype = np.int16 if integers and len(speeds) == 1 else np.float32
        self.width = change.width if change else length
        self.by_speaker = np.argsort(utterances.labels, kind="stable")
        self.place = np.empty_like(self.by_speaker)
        self.place[self.by_speaker] = np.arange(len(self.by_speaker))
        self.counts = np.bincount(utterances.labels)
        self.first = np.cumsum(self.counts) - self.counts

    def __getitems__(self, items: list[tuple]) -> dict:
        """Return the batch of `items`: "wave" (crops, samples), "label" (speakers,), "bad" (path, reason) pairs, and
        the plans of what is left to do.

        Raises:
            ValueError: nothing of the batch can be read.
        """
        epoch = items[0][0]
        index = np.stack([indices for _, indices, _ in items])
        speed = np.stack([speeds for _, _, speeds in items])
        groups, each = index.shape
        wave = np.zeros((groups * each, self.width), self.dtype)
        label = self.utterances.labels[index[:, 0]]
        if self.speed_classes:
            label = label + speed[:, 0] * self.n_classes
        u = uniform(self.seed, epoch, index.reshape(-1))[:, 0]
        bad, plan, broken = [], [], []
        for row, (utterance, number) in enumerate(zip(index.reshape(-1).tolist(), speed.reshape(-1).tolist())):
            left = self._fill_or_replace(wave[row], epoch, utterance, u[row], number, bad)
            if left is None:
                broken.append(row // each)
            elif left >= 0:
                plan.append((number, row, left))
        if broken:
            label = self._stand_in(sorted(set(broken)), each, wave, label, plan, bad)
        batch = {"wave": torch.from_numpy(wave), "label": torch.from_numpy(label)}
        if self.change is not None:
            batch["speeds"] = _by_speed(plan)
        if self.batches is not None:
            batch["augment"] = self.batches.plan(epoch, index.reshape(-1))
        if self.in_worker:
            batch = {"wave": finish(batch, torch.device("cpu"), self.change, self.batches), "label": batch["label"]}
        return {**batch, "bad": bad}

    def _stand_in(self, broken, each, wave, label, plan, bad):
        """Put other groups of the batch in the place of those of speakers without a readable recording."""
        good = [group for group in range(len(label)) if group not in broken]
        if not good:
            raise ValueError(f"no recording of a whole batch can be read, e.g. {bad[-1][1]}")
        label = label.copy()
        plan[:] = [entry for entry in plan if entry[1] // each not in broken]
        for number, group in enumerate(broken):
            other = good[number % len(good)]
            label[group] = label[other]
            for turn in range(each):
                wave[group * each + turn] = wave[other * each + turn]
                plan += [(n, group * each + turn, skip) for n, row, skip in plan if row == other * each + turn]
        return label

    def _fill_or_replace(self, out, epoch, utterance, u, number, bad):
        """Fill `out` from the utterance, or from the next of its speaker that can be read; None: there is none."""
        speaker = self.utterances.labels[utterance]
        first, count = self.first[speaker], self.counts[speaker]
        for turn in range(count):
            other = int(self.by_speaker[first + (self.place[utterance] - first + turn) % count])
            if turn:
                u = uniform(self.seed, epoch, np.array([other]))[0, 0]
            try:
                return self._fill(out, epoch, other, float(u), number)
            except ValueError as error:
                # not remembered here: what a batch holds must not depend on what this process has met before
                bad.append((self.utterances.paths[other], str(error)))
        return None

    def _fill(self, out, epoch, utterance, u, number):
        """Fill `out` (width,) with a crop; return the outputs to skip where its speed is still to be changed, else -1.

        Raises:
            ValueError: the recording cannot be read.
        """
        with self._open(utterance) as recording:
            samples = recording.samples
            if number == 0:
                _put(out, wrap(recording.read(self._start(u, samples), self.length), self.length))
            elif self.change is not None and (faster := -(-samples // self.speeds[number])) > self.length:
                first, count, skip = self.change.source(number, self._start(u, faster))
                begin = max(first, 0)
                _put(out[begin - first :], recording.read(begin, min(first + count, samples) - begin))
                return skip
            else:
                path = self.utterances.path(utterance)
                _put(out, read_crop(path, self.length, u, self.speeds[number], self.crop_mode))
        if self.augmenter is not None:
            out[:] = self.augmenter(out, np.random.default_rng([self.seed, epoch, utterance]))
        return -1

    def _start(self, u, samples):
        return train_start(u, samples, self.length, self.crop_mode)

    def _open(self, utterance):
        row = -1 if self.rows is None else int(self.rows[utterance])
        if row >= 0 and self.store.is_int16(row):
            return self.store.open(row)
        # what is not there is told by its path
        return AudioFile(self.utterances.path(utterance))

    def shards(self) -> np.ndarray | None:
        """Return the number of the shard of every utterance, (utterances,) int64, or None for files and packs."""
        if not isinstance(self.store, shards.Shards):
            return None
        return self.store.shard[np.maximum(self.rows, 0)]


def _store(root):
    """Return the pack or the shards that stand at `root`, or None."""
    if root and packed.pack_above(root) == root:
        return packed.open_pack(root)
    return shards.open_shards(root) if root and shards.is_shards(root) else None


def _put(out, wave):
    """Copy samples into the beginning of `out`, 16-bit ones as they are or as floats in [-1, 1]."""
    if wave.dtype == np.int16 and out.dtype == np.float32:
        np.multiply(wave, np.float32(1 / 32768), out=out[: len(wave)])
    else:
        out[: len(wave)] = wave if wave.dtype == out.dtype else packed.to_int16(wave)


def _by_speed(plan):
    """Gather (speed, row, outputs to skip) entries into one entry per speed, as Speeds.apply takes them."""
    table = np.array(plan, np.int64).reshape(-1, 3)
    parts = [(int(number), table[table[:, 0] == number]) for number in np.unique(table[:, 0])]
    return [(n, torch.from_numpy(rows[:, 1].copy()), torch.from_numpy(rows[:, 2].copy())) for n, rows in parts]


def finish(batch: dict, device: torch.device, change=None, batches=None) -> torch.Tensor:
    """Return the crops of a batch, (speakers, nPerSpeaker, samples) float32 in [-1, 1] on `device`, after what its
    plans say: another speed by `change` (Speeds), noise and rooms by `batches` (BatchAugmenter)."""
    wave = batch["wave"].to(device, non_blocking=True)
    if wave.dtype == torch.int16:
        wave = wave.float() / 32768
    if "speeds" in batch:
        wave = change.apply(wave, batch["speeds"])
    if "augment" in batch:
        wave = batches.apply(wave, batch["augment"])
    return wave.reshape(len(batch["label"]), -1, wave.shape[-1])
