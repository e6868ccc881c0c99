"""The conformer at frame rate (Gulati et al. 2020, arXiv 2005.08100) as encoder and as decoder.
Entry points: Encoder, Decoder.
"""

import torch
from torch import nn
from torch.nn import functional

from models.blocks.activations import activation as make_activation
from models.blocks.attention import Attention
from models.blocks.attention_stack import AttentionStack, FeedForward
from models.blocks.frame_ops import DepthwiseConv, Dropout


class Convolution(nn.Module):
    """norm, linear to 2 d_model, GLU, a convolution of every channel, batch norm, activation, linear, drop-out."""

    def __init__(self, d_model, kernel, dropout, activation, causal):
        super().__init__()
        self.norm, self.expand = nn.LayerNorm(d_model), nn.Linear(d_model, 2 * d_model)
        self.depthwise = DepthwiseConv(d_model, kernel, causal)
        self.batch_norm, self.activation = nn.BatchNorm1d(d_model, eps=1e-3, momentum=0.01), make_activation(activation)
        self.project, self.dropout = nn.Linear(d_model, d_model), Dropout(dropout)

    def forward(self, x):
        """Return (batch, frames, d_model) of `x`."""
        y = self.depthwise(functional.glu(self.expand(self.norm(x)), dim=2))
        y = self.batch_norm(y.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.project(self.activation(y)))


class Block(nn.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer, each added to x.

    Args:
        macaron: the first feed-forward layer; without it the second counts in full.
        options: keyword arguments of Attention.
    """

    def __init__(self, d_model, d_ff, dropout, activation, conv_kernel, macaron, options):
        super().__init__()
        self.norm1 = self.feed_forward1 = None
        if macaron:
            self.norm1, self.feed_forward1 = nn.LayerNorm(d_model), FeedForward(d_model, d_ff, dropout, activation)
        self.norm2, self.attention, self.dropout = (
            nn.LayerNorm(d_model),
            Attention(d_model, **options),
            Dropout(dropout),
        )
        self.convolution = Convolution(d_model, conv_kernel, dropout, activation, options["causal"])
        self.norm3, self.feed_forward2 = nn.LayerNorm(d_model), FeedForward(d_model, d_ff, dropout, activation)

    def forward(self, x, table):
        """Return (batch, frames, d_model) of `x`; `table` as Attention takes it."""
        share = 1.0
        if self.feed_forward1 is not None:
            share = 0.5
            x = torch.add(x, self.feed_forward1(self.norm1(x)), alpha=share)
        x = x + self.dropout(self.attention(self.norm2(x), table))
        x = x + self.convolution(x)
        return torch.add(x, self.feed_forward2(self.norm3(x)), alpha=share)


class Encoder(AttentionStack):
    """Conformer blocks: (batch, in_channels, frames) -> (batch, d_model, frames).

    Args:
        attention_dropout, position_dropout: of the weights of the keys; of positions, `dropout` where None.
        context: frames of local attention, None for full attention; positions: absolute or relative.
        causal: a frame depends on itself and earlier ones alone.
        input_layer: linear, or conv for every fourth frame.
        conv_kernel: frames of the convolutions, odd.
        macaron: a feed-forward layer before the attention, too.
    """

    TEST_OPTIONS = {"d_model": 16, "heads": 2, "blocks": 2, "d_ff": 32, "context": 5, "positions": "relative"}

    def __init__(self, in_channels, d_model=512, heads=8, blocks=6, d_ff=2048, dropout=0.1, attention_dropout=0.0,
                 context=None, positions="relative", causal=False, activation="swish", conv_kernel=31, macaron=True,
                 position_dropout=None, input_layer="linear"):  # fmt: skip
        options = {"heads": heads, "context": context, "positions": positions, "dropout": attention_dropout}
        options["causal"] = causal
        layers = [Block(d_model, d_ff, dropout, activation, conv_kernel, macaron, options) for _ in range(blocks)]
        position_dropout = dropout if position_dropout is None else position_dropout
        super().__init__(in_channels, d_model, layers, dropout, position_dropout, activation, input_layer)


class Decoder(Encoder):
    """The same at frame rate: without an input_layer to choose, since it could not be undone."""

    def __init__(self, in_channels, **options):
        if options.get("input_layer", "linear") != "linear":
            raise ValueError("input_layer conv is for encoders: a decoder cannot bring the frames back")
        super().__init__(in_channels, **options)
