"""How much smaller latents are than features: ratios, bits a second, and what entropy coding of the codes would give.
Entry points: ratio_of_floats, ratio_of_codes, bits_per_second, entropy_bits_per_second.
"""

import math

import numpy as np

FRAMES_PER_SECOND = 100  # a frame every 10 ms


def ratio_of_floats(bins: int, latent_channels: int, stride: int, frequency_stride: int = 1) -> float:
    """Return numbers of the features by numbers of the latents.

    Args:
        bins: of a frame.
        latent_channels: of a position.
        stride: frames of a position.
        frequency_stride: bins of a position; 1 for networks whose latents have no frequency axis.
    """
    bands = bins / frequency_stride if frequency_stride > 1 else 1
    return bins * stride / (latent_channels * bands)


def ratio_of_codes(
    bins: int, groups: int, codewords: int, stride: int, bands: int = 1, bits_per_float: int = 32
) -> float:  # fmt: skip
    """Return bits of the features by bits of the codes; `bands` positions lie above each other in 2-D latents."""
    return bits_per_float * bins * stride / (bands * groups * math.log2(codewords))


def bits_per_second(groups: int, codewords: int, stride: int, bands: int = 1) -> float:
    """Return the bits of the codes of a second of speech."""
    return FRAMES_PER_SECOND / stride * bands * groups * math.log2(codewords)


def entropy_bits_per_second(counts: np.ndarray, stride: int, bands: int = 1) -> float:
    """Return the bits a second that an ideal coder of single codes needs.

    counts: how often each codeword occurs, (groups, codewords); a group without any counts nothing.
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    entropy = -(share * np.log2(np.where(share > 0, share, 1.0))).sum()
    return float(FRAMES_PER_SECOND / stride * bands * entropy)
