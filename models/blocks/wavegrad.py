"""Parts of WaveGrad (Chen et al. 2020, arXiv 2009.00713; blocks of GAN-TTS, arXiv 1909.11646), as in vq-voice-swap.
Entry points: DBlock, UBlock, FILM, ChannelNorm.
"""

import torch
from torch import nn

from models.blocks.waves import COND_GAIN, Resize, TimeEmbedding, conv, zero


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (batch, channels, T), by itself at every position."""

    def __init__(self, channels):
        super().__init__()
        self.ln = nn.LayerNorm(channels)

    def forward(self, x):
        return self.ln(x.transpose(1, 2)).transpose(1, 2)


class DBlock(nn.Module):
    """Residual block that shortens (batch, in_channels, T) by `downsample_rate`; then more blocks of wide dilation."""

    def __init__(self, in_channels, out_channels, downsample_rate, extra_blocks=0):
        super().__init__()
        out = out_channels
        self.res_transform = nn.Sequential(conv(in_channels, out), Resize(1 / downsample_rate))
        self.block_1 = nn.Sequential(
            ChannelNorm(in_channels),
            Resize(1 / downsample_rate),
            nn.GELU(),
            conv(in_channels, out),
            nn.GELU(),
            conv(out, out, dilation=2),
        )
        self.extra = nn.ModuleList()
        for _ in range(extra_blocks):
            convs = (conv(out, out), nn.GELU(), conv(out, out, dilation=4), nn.GELU(), conv(out, out, dilation=8))
            self.extra.append(nn.Sequential(ChannelNorm(out), nn.GELU(), *convs))

    def forward(self, h):
        """Return (batch, out_channels, T / downsample_rate)."""
        h = self.res_transform(h) + self.block_1(h)
        for block in self.extra:
            h = h + block(h)
        return h


class FILM(nn.Module):
    """Feature-wise affine map (arXiv 1709.07871) given by a sequence, the time and, where there are any, the label."""

    def __init__(self, cond_channels, out_channels, num_labels=None):
        super().__init__()
        hidden = 2 * out_channels
        self.time_emb = TimeEmbedding(hidden)
        self.cond_emb = nn.Sequential(ChannelNorm(cond_channels), conv(cond_channels, hidden))
        if num_labels is not None:
            self.label_emb = zero(nn.Embedding(num_labels, hidden))
        last = conv(hidden, 2 * out_channels)
        with torch.no_grad():
            last.weight.mul_(COND_GAIN)
            last.bias.zero_()
        self.out_layer = nn.Sequential(nn.GELU(), last)

    def forward(self, h, z, t, label=None):
        """Return `h` (batch, out_channels, T) scaled and shifted by what `z` (batch, cond_channels, T) and `t` give."""
        emb = self.time_emb(t)
        if label is not None:
            emb = emb + self.label_emb(label)
        scale, shift = self.out_layer(self.cond_emb(z) + emb[..., None]).chunk(2, 1)
        return torch.addcmul(shift, h, 1 + scale)


class UBlock(nn.Module):
    """Residual block that lengthens by `upsample_rate`, told by FILM what the down path saw at that length."""

    def __init__(self, in_channels, out_channels, cond_channels, upsample_rate, num_labels=None):
        super().__init__()
        out = out_channels
        self.film_1, self.film_2, self.film_3 = (FILM(cond_channels, out, num_labels) for _ in range(3))
        self.res_transform = nn.Sequential(Resize(upsample_rate), conv(in_channels, out))
        self.block_1 = nn.Sequential(ChannelNorm(in_channels), nn.GELU(), Resize(upsample_rate), conv(in_channels, out))
        self.block_2 = nn.Sequential(nn.GELU(), conv(out, out, dilation=2))
        self.block_3 = nn.Sequential(ChannelNorm(out), nn.GELU(), conv(out, out, dilation=4))
        self.block_4 = nn.Sequential(nn.GELU(), conv(out, out, dilation=8), nn.GELU(), conv(out, out, dilation=16))

    def forward(self, h, z, t, label=None):
        """Return (batch, out_channels, T * upsample_rate); `z` (batch, cond_channels, T * upsample_rate)."""
        o = self.block_2(self.film_1(self.block_1(h), z, t, label)) + self.res_transform(h)
        return self.block_4(self.film_3(self.block_3(self.film_2(o, z, t, label)), z, t, label)) + o
