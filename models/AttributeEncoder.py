"""Binary autoencoder of speaker embeddings: embedding -> bits, the voice attributes, -> embedding.
Entry point: MainModel. Ben-Amor, Bonastre, Mdhaffar, Interspeech 2024.
"""

import torch
from torch import nn

from models.blocks.straight_through import binarise


class MainModel(nn.Module):
    """The decoder sees only bits; the embeddings come as they are, without any normalisation.

    Args:
        input_dim: size of an embedding.
        internal_dim: number of attributes.
    """

    TASK = "attributes"

    def __init__(self, input_dim=256, internal_dim=512):
        super().__init__()
        if input_dim < 1 or internal_dim < 1:
            raise ValueError(f"--input_dim {input_dim} and --internal_dim {internal_dim}: must be at least 1")
        self.input_dim, self.internal_dim = input_dim, internal_dim
        self.encoder = nn.Sequential(
            nn.Linear(input_dim, internal_dim),
            nn.ReLU(),
            nn.BatchNorm1d(internal_dim),
            nn.Linear(internal_dim, internal_dim),
            nn.Tanh(),
        )
        self.decoder = nn.Sequential(
            nn.Linear(internal_dim, internal_dim), nn.Tanh(), nn.Linear(internal_dim, input_dim)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)  # fan-in, gain sqrt(2); biases keep PyTorch's uniform draw

    def forward(self, x):
        """Return (reconstruction (batch, input_dim), code, z (batch, internal_dim)) of `x` (batch, input_dim).

        z lies in (-1, 1), the code is 1 where z > 0.
        """
        z = self.encoder(x)
        code = binarise(z)
        return self.decoder(code), code, z

    def encode(self, x):
        """Return the code (batch, internal_dim), 0 and 1 as floats, of embeddings `x` (batch, input_dim)."""
        return binarise(self.encoder(x))

    @staticmethod
    def from_foreign(weights):
        """Return (constructor arguments, weights) of a plain state dict of such a network, None for another layout."""
        with torch.device("meta"):  # the names alone: neither memory nor random numbers
            names = set(MainModel(1, 1).state_dict())
        if set(weights) != names or weights["encoder.0.weight"].dim() != 2:
            return None
        internal_dim, input_dim = weights["encoder.0.weight"].shape
        return {"input_dim": input_dim, "internal_dim": internal_dim}, weights

    @staticmethod
    def example(batch):
        """Return random embeddings for the generated tests, at the scale of the published ones."""
        return {"x": 0.2 * torch.randn(batch, 256)}
