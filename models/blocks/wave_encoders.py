"""Encoders of the waveform VQ-VAE by name: wave (batch, 1, samples) -> latents (batch, channels, samples / rate).
Entry points: ENCODERS, make_encoder(name, base_channels, cond_mult).
"""

import functools

from torch import nn

from audio.features import WaveMFCC
from models.blocks.wavegrad import DBlock
from models.blocks.waves import CHANNEL_MULT, ResBlock, conv, down_path, norm_gelu, run, zero


class UNetEncoder(nn.Module):
    """The U-Net's way down without embeddings, then blocks of `dilations`."""

    def __init__(
        self, base_channels, out_channels, channel_mult=CHANNEL_MULT, dilations=(), checkpoint_activations=False
    ):
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.rate = 2 ** (len(channel_mult) - 1)
        channels = channel_mult[-1] * base_channels
        self.in_conv = conv(1, base_channels)
        self.blocks = down_path(base_channels, channel_mult)
        self.blocks.extend(ResBlock(channels, dilation=dilation) for dilation in dilations)
        self.out = nn.Sequential(norm_gelu(channels), conv(channels, out_channels))

    def forward(self, x):
        """Return (batch, out_channels, samples / rate) of `x` (batch, 1, samples)."""
        h = self.in_conv(x)
        for block in self.blocks:
            h = run(block, h, recompute=self.checkpoint_activations)
        return self.out(h)


class WaveGradEncoder(nn.Module):
    """WaveGrad's way down with one more block of convolutions at every level."""

    rate = 64

    def __init__(self, base_channels, out_channels, checkpoint_activations=False):
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        c = base_channels
        self.d_blocks = nn.ModuleList([conv(1, c, 5)])
        sizes = ((c, 4 * c, 4), (4 * c, 4 * c, 2), (4 * c, 8 * c, 2), (8 * c, 16 * c, 2), (16 * c, out_channels, 2))
        self.d_blocks.extend(DBlock(*size, extra_blocks=1) for size in sizes)

    def forward(self, x):
        """Return (batch, out_channels, samples / 64) of `x` (batch, 1, samples)."""
        for block in self.d_blocks:
            x = run(block, x, recompute=self.checkpoint_activations)
        return x


class Residual(nn.Module):
    """x + GELU(conv(x))."""

    def __init__(self, channels, kernel):
        super().__init__()
        self.conv = conv(channels, channels, kernel)

    def forward(self, x):
        return x + nn.functional.gelu(self.conv(x))


class ConvMFCCEncoder(nn.Module):
    """Cepstral coefficients with differences, then convolutions, one of stride 2; Chorowski et al. 2019, 1901.08810.

    Args:
        companded: the waves are mu-law companded.
        version: of the coefficients, see WaveMFCC.
    """

    rate = 320

    def __init__(self, base_channels, out_channels, companded, version=1, checkpoint_activations=False):
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.mfcc = WaveMFCC(version, companded)
        middle = 12 * base_channels
        self.blocks = nn.Sequential(
            nn.Sequential(conv(39, middle), nn.GELU()),
            Residual(middle, 3),
            nn.Sequential(nn.Conv1d(middle, middle, 4, stride=2, padding=1), nn.GELU()),
            *(Residual(middle, 3) for _ in range(2)),
            *(Residual(middle, 1) for _ in range(4)),
            zero(conv(middle, out_channels, 1)),
        )

    def forward(self, x):
        """Return (batch, out_channels, samples / 320) of `x` (batch, 1, samples)."""
        if x.shape[2] < self.mfcc.least_samples:
            raise ValueError(f"{x.shape[2]} samples: cepstral coefficients need at least {self.mfcc.least_samples}")
        h = self.mfcc(x.squeeze(1))
        for block in self.blocks:
            h = run(block, h, recompute=self.checkpoint_activations)
        return h


ENCODERS = {
    "unet": UNetEncoder,
    "unet128": functools.partial(UNetEncoder, channel_mult=CHANNEL_MULT[:-1]),
    "unet128-dilated": functools.partial(UNetEncoder, channel_mult=CHANNEL_MULT[:-1], dilations=(4, 8, 16, 32)),
    "wavegrad": WaveGradEncoder,
    "conv-mfcc-ulaw": functools.partial(ConvMFCCEncoder, companded=True),
    "conv-mfcc-ulaw-v2": functools.partial(ConvMFCCEncoder, companded=True, version=2),
    "conv-mfcc-linear": functools.partial(ConvMFCCEncoder, companded=False),
}


def make_encoder(name: str, base_channels: int, cond_mult: int = 16, checkpoint_activations: bool = False) -> nn.Module:
    """Return an encoder of base_channels * cond_mult output channels; its `rate` is the samples of a position.

    Raises:
        ValueError: no such encoder.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder {name}: one of {', '.join(ENCODERS)}")
    return ENCODERS[name](base_channels, base_channels * cond_mult, checkpoint_activations=checkpoint_activations)
