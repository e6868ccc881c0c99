"""What transformer and conformer share: input layer, feed-forward layer, a stack of blocks with positions.
Entry points: AttentionStack, FeedForward.
"""

import math

import torch
from torch import nn

from models.blocks.activations import activation as make_activation
from models.blocks.attention import reach
from models.blocks.frame_ops import Dropout
from models.blocks.positions import distance_table, sinusoids

INPUTS = ("linear", "conv")


class FeedForward(nn.Sequential):
    """Linear to d_ff channels, activation, drop-out, linear back to d_model, drop-out."""

    def __init__(self, d_model, d_ff, dropout, activation):
        super().__init__(
            nn.Linear(d_model, d_ff),
            make_activation(activation),
            Dropout(dropout),
            nn.Linear(d_ff, d_model),
            Dropout(dropout),
        )


class Subsampler(nn.Module):
    """Two convolutions over bins and frames of kernel 3 and stride 2, then a linear map: every fourth frame."""

    def __init__(self, bins, d_model, activation):
        super().__init__()
        left = ((bins - 1) // 2 - 1) // 2
        if left < 1:
            raise ValueError(f"input_layer conv needs at least 7 bins: {bins}")
        self.conv = nn.Sequential(
            nn.Conv2d(1, d_model, 3, stride=2, padding=(0, 1)),
            make_activation(activation),
            nn.Conv2d(d_model, d_model, 3, stride=2, padding=(0, 1)),
            make_activation(activation),
        )
        self.linear = nn.Linear(d_model * left, d_model)

    def forward(self, x):
        """Return (batch, ceil(ceil(frames / 2) / 2), d_model) of `x` (batch, frames, bins)."""
        return self.linear(self.conv(x.transpose(1, 2)[:, None]).permute(0, 3, 1, 2).flatten(2))


class AttentionStack(nn.Module):
    """Input layer, positions, `layers`, layer norm.

    Args:
        in_channels: of the input: mel bins or latent channels.
        layers: blocks with forward(x, table) and `attention`, an Attention.
        input_layer: linear, or conv for a fourth of the frames.
        position_dropout: drop-out after the positions are added, or of input and table with relative ones.
    """

    DIMS = 1
    TEST_OPTIONS = {"d_model": 16, "heads": 2, "blocks": 2, "d_ff": 32, "context": 10}
    frequency_stride = 1

    def __init__(self, in_channels, d_model, layers, dropout, position_dropout, activation, input_layer):
        super().__init__()
        if input_layer not in INPUTS:
            raise ValueError(f"input_layer {input_layer!r}: one of {', '.join(INPUTS)}")
        if not layers:
            raise ValueError("at least one block is needed")
        self.out_channels, self.stride = d_model, 4 if input_layer == "conv" else 1
        if input_layer == "conv":
            if layers[0].attention.causal:
                raise ValueError("input_layer conv looks ahead: it does not go with causal")
            self.input = Subsampler(in_channels, d_model, activation)
        else:
            linear, norm = nn.Linear(in_channels, d_model), nn.LayerNorm(d_model)
            self.input = nn.Sequential(linear, norm, Dropout(dropout), make_activation(activation))
        self.position_dropout = Dropout(position_dropout)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)

    def out_frames(self, frames: int) -> int:
        """Return the number of frames that come out for `frames`."""
        return -(-frames // self.stride)

    def place(self, x):
        """Return `x` (batch, frames, d_model) enlarged and with its positions, and the table of distances or None."""
        frames, channels = x.shape[1:]
        x, attention, table = x * math.sqrt(channels), self.layers[0].attention, None
        if attention.relative:
            table = distance_table(reach(frames, attention.context), channels, x.device)
            table = self.position_dropout(table)
        else:
            x = x + sinusoids(torch.arange(frames, device=x.device), channels).to(x.dtype)
        return self.position_dropout(x), table

    def forward(self, x):
        """Return (batch, d_model, out_frames(frames)) of `x` (batch, in_channels, frames)."""
        x, table = self.place(self.input(x.transpose(1, 2)))
        for layer in self.layers:
            x = layer(x, table)
        return self.norm(x).transpose(1, 2)
