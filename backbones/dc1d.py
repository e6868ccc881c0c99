"""Encoder and decoder of plain convolutions over frames, (batch, channels, frames).
Entry points: Encoder, Decoder.
"""

from models.blocks.conv_stack import ConvStack


class Encoder(ConvStack):
    """Divides frames by the strides, rounded up."""

    DIMS, UP = 1, False


class Decoder(ConvStack):
    """Multiplies frames by the strides, by sub-pixel convolutions."""

    DIMS, UP = 1, True
