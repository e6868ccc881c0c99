"""Encoder and decoder of residual blocks over frames, (batch, channels, frames).
Entry points: Encoder, Decoder.
"""

from models.blocks.residual import ResidualStack


class Encoder(ResidualStack):
    """Divides frames by the strides, rounded up."""

    DIMS, UP = 1, False


class Decoder(ResidualStack):
    """Multiplies frames by the strides, by sub-pixel convolutions."""

    DIMS, UP = 1, True
