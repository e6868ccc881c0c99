"""Sinusoidal encodings of positions and distances (Vaswani et al. 2017, arXiv 1706.03762, section 3.5).
Entry points: sinusoids, distance_table.
"""

import torch


def sinusoids(positions: torch.Tensor, channels: int) -> torch.Tensor:
    """Return (positions, channels) float32: sines in the even and cosines in the odd columns, of frequency
    10000^(-2i / channels) in the pair of columns i; `positions` (positions,) may be negative.

    Raises:
        ValueError: the number of channels is odd.
    """
    if channels % 2:
        raise ValueError(f"{channels} channels: encodings of positions come in pairs, an even number is needed")
    # in double precision: the argument grows to the number of frames
    frequency = 10000.0 ** (-torch.arange(0, channels, 2, device=positions.device, dtype=torch.float64) / channels)
    angle = positions.double()[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


def distance_table(reach: int, channels: int, device=None) -> torch.Tensor:
    """Return the encodings (2 reach - 1, channels) of the distances reach - 1, ..., 0, ..., 1 - reach, where a
    distance is the position of the query minus that of the key, below 0 for a key in the future."""
    return sinusoids(torch.arange(reach - 1, -reach, -1, device=device), channels)
