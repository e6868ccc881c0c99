"""Encoder and decoder of plain convolutions over bins and frames, (batch, channels, bins, frames).
Entry points: Encoder, Decoder.
"""

from models.blocks.conv_stack import ConvStack


class Encoder(ConvStack):
    """Divides bins and frames by the strides, rounded up."""

    DIMS, UP = 2, False


class Decoder(ConvStack):
    """Multiplies bins and frames by the strides, by sub-pixel convolutions."""

    DIMS, UP = 2, True
