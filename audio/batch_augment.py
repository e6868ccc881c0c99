"""Noise, music, babble and rooms for a whole batch at once, on the CPU or where the network is.
Entry point: BatchAugmenter, whose plan() draws on the host and apply() computes on the device.

The draws have the distributions of audio.augment.Augmenter, which does the same crop by crop from files.
"""

import math
from os.path import getsize

import numpy as np
import torch

from audio.augment import ADDITIVE, Augmenter
from audio.banks import NoiseBank, RoomBank
from audio.draws import uniform

LAYERS = max(most for (_, most), _ in ADDITIVE.values())
# The first draw of an item chooses its crop; the augmentation takes the next ones.
COLUMNS = 1 + 3 + 3 * LAYERS
# Convolved together; more would only take memory.
ROOM_BATCH = 64
BYTES_PER_GB = 1e9


class BatchAugmenter:
    """The augmentations of a batch: per crop nothing (with probability 1 - `probability`), room, music, babble, noise.

    Args:
        source: the Augmenter that has found the files; its crop length, power floor and probability hold here too.
        seed: of the draws, with epoch and utterance.
        gigabytes: memory of the banks; of files that do not fit an even selection is kept.
    """

    def __init__(self, source: Augmenter, seed: int, gigabytes: float):
        self.length, self.floor, self.probability, self.seed = source.length, source.floor, source.probability, seed
        # estimated from the sizes on disk: 16-bit noise stays as it is, responses become float32
        noise = sum(_bytes(files) for files in source.files.values())
        rooms = 2 * _bytes(source.rooms)
        share = min(1.0, gigabytes * BYTES_PER_GB / max(1.0, noise + rooms))
        least = {kind: most / len(source.files[kind]) for kind, ((_, most), _) in ADDITIVE.items()}
        self.noises = {
            kind: NoiseBank(source.files[kind], self.length, max(share, least[kind])) for kind in source.files
        }
        self.rooms = RoomBank(source.rooms, self.length, share)
        self.share = share

    def describe(self) -> str:
        """Return one line: files in memory."""
        counts = [f"{len(bank)} {kind}" for kind, bank in self.noises.items()] + [f"{len(self.rooms)} room"]
        part = "" if self.share == 1 else f" ({100 * self.share:.1f} % of the files; --augment_bank_gb takes more)"
        return f"augmentation in batches: {', '.join(counts)} files in memory{part}"

    def to(self, device: torch.device) -> "BatchAugmenter":
        """Move the banks to a device."""
        for bank in (*self.noises.values(), self.rooms):
            bank.to(device)
        return self

    def plan(self, epoch: int, items: np.ndarray) -> dict[str, list]:
        """Draw what happens to the crops of utterances `items` (crops,).

        Returns:
            "noises": entries (kind, rows, starts in the bank, gain without levels), for each row at most once per
            entry; "rooms": entries (group, rows, responses).
        """
        draws = uniform(self.seed, epoch, items, COLUMNS)
        kinds = np.minimum((draws[:, 2] * len(Augmenter.KINDS)).astype(int), len(Augmenter.KINDS) - 1)
        kinds[draws[:, 1] >= self.probability] = -1
        plan = {"noises": [], "rooms": []}
        for number, kind in enumerate(Augmenter.KINDS):
            rows = np.flatnonzero(kinds == number)
            if len(rows) and kind in ADDITIVE:
                plan["noises"] += self._layers(kind, rows, draws[rows])
            elif len(rows):
                picks = (draws[rows, 3] * len(self.rooms)).astype(np.int64)
                for group in np.unique(self.rooms.group[picks]):
                    inside = self.rooms.group[picks] == group
                    plan["rooms"].append((int(group), _tensor(rows[inside]), _tensor(self.rooms.row[picks[inside]])))
        return plan

    def _layers(self, kind, rows, draws):
        """Draw the files added to `rows`: layer j is the (j + 1)-th file of the crops that get so many."""
        (fewest, most), (low, high) = ADDITIVE[kind]
        bank = self.noises[kind]
        counts = fewest + (draws[:, 3] * (most + 1 - fewest)).astype(int)
        taken = np.empty((len(rows), 0), np.int64)
        layers = []
        for layer in range(most):
            picked, start, snr = draws[:, 4 + 3 * layer : 7 + 3 * layer].T
            # without repetition: a number among the files not taken yet, counted past those taken
            pick = (picked * (len(bank) - layer)).astype(np.int64)
            for before in np.sort(taken, axis=1).T:
                pick += pick >= before
            taken = np.column_stack([taken, pick])
            used = counts > layer
            decibels = (low + snr * (high - low))[used]
            gain = torch.from_numpy((10 ** (-decibels / 20)).astype(np.float32))
            layers.append((kind, _tensor(rows[used]), _tensor(bank.starts(pick, start)[used]), gain))
        return layers

    def apply(self, wave: torch.Tensor, plan: dict[str, list]) -> torch.Tensor:
        """Augment `wave` (crops, length) float32 in [-1, 1] in place, as drawn; nothing waits for the device."""
        device = wave.device
        move = lambda tensor: tensor.to(device, non_blocking=True)  # noqa: E731
        # a crop gets one kind only, so all levels can be taken before anything is added
        level = (_power(wave) + self.floor).sqrt()
        for kind, rows, starts, gain in plan["noises"]:
            rows, gain = move(rows), move(gain)
            noise = self.noises[kind].crops(move(starts))
            # the bank's samples are 16-bit numbers: 1 / 32768 is part of the factor
            gain = gain * level[rows] / (32768 * (_power(noise) / 32768**2 + self.floor).sqrt())
            wave.index_add_(0, rows, noise.mul_(gain[:, None]))
        for group, rows, responses in plan["rooms"]:
            for some, which in zip(move(rows).split(ROOM_BATCH), move(responses).split(ROOM_BATCH)):
                wave.index_copy_(0, some, self.rooms.convolve(wave[some], group, which))
        return wave


def _power(wave):
    return torch.linalg.vector_norm(wave, dim=1).square() / wave.shape[1]


def _tensor(indices):
    return torch.from_numpy(np.ascontiguousarray(indices))


def _bytes(files):
    # of a large collection a sample tells
    some = files[:: max(1, math.ceil(len(files) / 1000))]
    return sum(getsize(path) for path in some) / len(some) * len(files)
