"""Encoder and decoder of residual blocks over bins and frames, (batch, channels, bins, frames).
Entry points: Encoder, Decoder.
"""

from models.blocks.residual import ResidualStack


class Encoder(ResidualStack):
    """Divides bins and frames by the strides, rounded up."""

    DIMS, UP = 2, False


class Decoder(ResidualStack):
    """Multiplies bins and frames by the strides, by sub-pixel convolutions."""

    DIMS, UP = 2, True
