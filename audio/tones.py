"""The data set `tones`: three "speakers" who hum sines of 300, 500 and 1000 Hz, to see a network learn in minutes.
Entry point: Tones, a dataset of the form of audio.window_data.WindowDataset.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from audio.companding import encode

SAMPLE_RATE = 16000
FREQUENCIES_HZ = (300, 500, 1000)
ITEMS, SAMPLES = 30, 64000


def phase_of(item: int) -> float:
    """Return the phase of an item in cycles: 0 of the first of each speaker, a fixed draw from [0, 1) of the others."""
    return 0.0 if item < len(FREQUENCIES_HZ) else float(np.random.default_rng([0x70E5, item]).random())


def tone(item: int, samples: int = SAMPLES) -> np.ndarray:
    """Return item `item`, the sine of speaker item mod 3, (samples,) float32 of amplitude 1."""
    cycles = FREQUENCIES_HZ[item % len(FREQUENCIES_HZ)] * np.arange(samples) / SAMPLE_RATE + phase_of(item)
    return np.sin(2 * np.pi * cycles).astype(np.float32)


class Tones(Dataset):
    """`length` items {"label": item mod 3, "samples": (samples,) float32, "utterance": place}; or those of `items`."""

    def __init__(self, encoding: str = "linear", samples: int = SAMPLES, length: int = ITEMS, items=None):
        self.encoding, self.samples = encoding, samples
        self.items = np.arange(length) if items is None else np.asarray(items)
        self.length = length = len(self.items)
        self.speakers = [f"{hz}Hz" for hz in FREQUENCIES_HZ]
        self.labels = self.items % len(self.speakers)
        self.utterances, self.bad, self.notes = length, [], []

    def __len__(self):
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(index)
        samples = torch.from_numpy(encode(tone(int(self.items[index]), self.samples), self.encoding))
        return {"label": int(self.labels[index]), "samples": samples, "utterance": index}

    def __getitems__(self, indices: list[int]) -> dict:
        """Return the batch of `indices`, as WindowDataset does."""
        items = [self[int(index)] for index in indices]
        return {
            "label": torch.tensor([item["label"] for item in items]),
            "samples": torch.stack([item["samples"] for item in items]),
            "utterance": torch.tensor([item["utterance"] for item in items]),
            "bad": [],
        }

    def names(self) -> list[str]:
        """Return the name of each utterance."""
        return [f"{self.speakers[label]}/{item}" for label, item in zip(self.labels, self.items)]

    def describe(self) -> str:
        """Return one line: items, speakers, length."""
        return f"tones: {self.length} windows of {self.samples / SAMPLE_RATE:g} s, {len(self.speakers)} speakers"
