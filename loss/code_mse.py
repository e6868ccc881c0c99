"""Reconstruction error of the embeddings behind the bits.
Entry point: LossFunction.
"""

from torch import nn
from torch.nn import functional

from loss._classify import in_float32


class LossFunction(nn.Module):
    """Mean of (reconstruction - input)^2 over all elements."""

    TASK = "attributes"
    DEFAULT_WEIGHT = 1.0
    NEEDS_TRAIN_CLASSES = False

    def __init__(self):  # nn.Module's own takes any argument, and so would be handed every flag
        super().__init__()

    @in_float32
    def forward(self, input, labels, code, reconstruction, z):
        """Return the loss; input and reconstruction are (batch, input_dim), the rest is not used."""
        return functional.mse_loss(reconstruction, input)
