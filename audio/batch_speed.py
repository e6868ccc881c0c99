"""Change of speed of many crops at once, on the CPU or where the network is.
Entry point: Speeds, the resampling of audio.io.AudioFile as one convolution per speed.
"""

from fractions import Fraction

import numpy as np
import torch

from audio.io import lowpass

# Crops resampled together on a CPU.
CPU_BATCH = 8


class Speeds:
    """Change of speed of many crops at once, by the filter of audio.io.AudioFile.

    A crop of `length` samples at speed s (not 1) that begins at sample `start` of the faster recording needs the
    samples source(s, start) of the recording as it is.
    """

    def __init__(self, speeds: list[Fraction], length: int):
        self.length = length
        self.ratios = [(1 / speed).as_integer_ratio() for speed in speeds]
        self.kernels = [_polyphase(up, down) if up != down else None for up, down in self.ratios]
        self.width = max(self._needed(number) for number in range(len(speeds)))

    def _needed(self, number):
        kernel, (up, down) = self.kernels[number], self.ratios[number]
        if kernel is None:
            return self.length
        # a crop may begin at any of `up` phases
        blocks = -(-(self.length + up) // up)
        return (blocks - 1) * down + kernel[0].shape[2]

    def source(self, number: int, start: int) -> tuple[int, int, int]:
        """Return (first source sample, perhaps negative; samples needed; outputs to skip) of a crop at a speed."""
        if self.kernels[number] is None:
            return start, self.length, 0
        up, down = self.ratios[number]
        return start // up * down - self.kernels[number][1], self._needed(number), start % up

    def apply(self, wave: torch.Tensor, plan: list) -> torch.Tensor:
        """Return crops (crops, length) of `wave` (crops, width); plan: entries (speed, rows, outputs to skip)."""
        if not plan:
            return wave[:, : self.length]
        out = wave[:, : self.length].clone()
        # on a CPU a few crops at a time stay in its cache
        together = CPU_BATCH if wave.device.type == "cpu" else len(wave)
        for number, all_rows, all_skips in plan:
            down = self.ratios[number][1]
            weight = self.kernels[number][0].to(wave.device, non_blocking=True)
            for rows, skips in zip(all_rows.split(together), all_skips.split(together)):
                rows, skips = rows.to(wave.device, non_blocking=True), skips.to(wave.device, non_blocking=True)
                source = wave[rows, : self._needed(number)][:, None]
                phases = torch.nn.functional.conv1d(source, weight, stride=down)
                full = phases.transpose(1, 2).reshape(len(rows), -1)
                every = torch.arange(len(rows), device=wave.device)
                out.index_copy_(0, rows, full.unfold(1, self.length, 1)[every, skips])
        return out


def _polyphase(up, down):
    """Return the filter of a change of rate as convolution weights (up, 1, taps) and the samples it looks back."""
    taps = lowpass(up, down)
    half = (len(taps) - 1) // 2
    back = half // up
    ahead = ((up - 1) * down + half) // up
    place = np.arange(up)[:, None] * down - np.arange(-back, ahead + 1)[None] * up + half
    inside = (place >= 0) & (place < len(taps))
    weight = np.where(inside, taps[np.clip(place, 0, len(taps) - 1)], 0).astype(np.float32)
    return torch.from_numpy(weight)[:, None], back
