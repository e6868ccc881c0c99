"""Noise, music, speech and room responses kept in memory, from which a batch takes what it needs without opening files.
Entry points: NoiseBank, RoomBank, both made once before the loader processes start, which share their memory.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy import fft

from audio.augment import unit_energy
from audio.crops import wrap
from audio.io import read_audio
from audio.lists import evenly
from audio.packed import to_int16

# Responses are grouped by length in steps of this many samples, so that a short one does not pay for a long one's FFT.
ROOM_STEP = 4096
# Spectra of all responses are kept where they take no more than this.
SPECTRA_BYTES = 128 * 2**20


def _selected(files: np.ndarray, share: float) -> list[str]:
    return [files[i].decode() for i in evenly(len(files), max(1, int(share * len(files))))]


def _read_all(paths, prepare):
    with ThreadPoolExecutor(4) as pool:  # reading and decoding release Python's lock
        return list(pool.map(lambda path: prepare(read_audio(path)), paths))


class NoiseBank:
    """The files of one kind as one int16 tensor `samples`; file i is `lengths[i]` samples from `offsets[i]`.

    A file shorter than a crop is extended periodically to one sample more than a crop, as audio.crops does.

    Args:
        files: paths as bytes.
        length: samples of a crop.
        share: part of the files to keep, an even selection.
    """

    def __init__(self, files: np.ndarray, length: int, share: float = 1.0):
        self.length = length
        prepare = lambda wave: to_int16(wrap(wave, length + 1))  # noqa: E731
        parts = _read_all(_selected(files, share), prepare)
        self.lengths = np.array([len(part) for part in parts], np.int64)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self.samples = torch.from_numpy(np.concatenate(parts))

    def __len__(self):
        return len(self.lengths)

    def to(self, device: torch.device) -> "NoiseBank":
        """Move the samples to a device."""
        self.samples = self.samples.to(device)
        return self

    def starts(self, picks: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return where in `samples` the training crops of files `picks` begin; `u` from [0, 1) chooses the place."""
        return self.offsets[picks] + (u * (self.lengths[picks] - self.length)).astype(np.int64)

    def crops(self, starts: torch.Tensor) -> torch.Tensor:
        """Return the crops that begin at `starts` (crops,), (crops, length) float32 in steps of 16-bit samples."""
        if self.samples.device.type != "cpu":
            return self.samples.unfold(0, self.length, 1)[starts].float()
        out = torch.empty(len(starts), self.length)
        for row, start in zip(out, starts.tolist()):  # slices copy and convert several times faster than a gather
            row.copy_(self.samples[start : start + self.length])
        return out


class RoomBank:
    """Room responses of unit energy, grouped by length: `groups[g]` is (responses, taps) float32.

    What comes later than a crop is long never reaches it and is left out. Response i lies in row `row[i]` of group
    `group[i]`.

    Raises:
        ValueError: a response is silent.
    """

    def __init__(self, files: np.ndarray, length: int, share: float = 1.0):
        self.length = length
        paths = _selected(files, share)
        responses = _read_all(paths, lambda wave: unit_energy(wave)[:length])
        silent = [path for path, response in zip(paths, responses) if not np.isfinite(response).all()]
        if silent:
            raise ValueError(f"{silent[0]}: a room response of silence; remove it from --rir_path")
        taps = np.array([-(-len(r) // ROOM_STEP) * ROOM_STEP for r in responses])
        sizes, self.group = np.unique(taps, return_inverse=True)
        self.row = np.empty(len(responses), np.int64)
        self.groups = []
        for number, size in enumerate(sizes):
            members = np.flatnonzero(self.group == number)
            self.row[members] = np.arange(len(members))
            table = np.zeros((len(members), size), np.float32)
            for row, member in enumerate(members):
                table[row, : len(responses[member])] = responses[member]
            self.groups.append(torch.from_numpy(table))
        # a third of the work is done once for all where the spectra are few
        self.spectra = [None] * len(self.groups)
        if sum(8 * len(table) * self._fft_size(table) // 2 for table in self.groups) <= SPECTRA_BYTES:
            self.spectra = [torch.fft.rfft(table, self._fft_size(table)) for table in self.groups]

    def _fft_size(self, table):
        return fft.next_fast_len(self.length + table.shape[1] - 1, real=True)

    def __len__(self):
        return len(self.row)

    def to(self, device: torch.device) -> "RoomBank":
        """Move the responses to a device."""
        self.groups = [table.to(device) for table in self.groups]
        self.spectra = [None if spectrum is None else spectrum.to(device) for spectrum in self.spectra]
        return self

    def convolve(self, wave: torch.Tensor, group: int, rows: torch.Tensor) -> torch.Tensor:
        """Convolve `wave` (crops, length) with the responses `rows` (crops,) of a group; length and delay stay."""
        table, spectra = self.groups[group], self.spectra[group]
        size = self._fft_size(table)
        response = torch.fft.rfft(table[rows], size) if spectra is None else spectra[rows]
        return torch.fft.irfft(torch.fft.rfft(wave, size).mul_(response), size)[:, : self.length]
