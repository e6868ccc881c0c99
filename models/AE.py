"""Auto-encoder of log-mel features: an encoder, latents, a decoder; denoising where a clean target is given.
Entry point: MainModel. Vincent et al. 2008.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from models.blocks.autoencoder import Pair, check_inputs, errors, mean_over_frames
from models.blocks.pointwise import Pointwise

LOSSES = {"mse": functional.mse_loss, "l1": functional.l1_loss, "smooth_l1": functional.smooth_l1_loss}


class Output(NamedTuple):
    """Of each sample (batch,): `loss`, `mse` and `l1`; `mean` is the reconstruction (batch, bins, frames)."""

    loss: torch.Tensor
    mse: torch.Tensor
    l1: torch.Tensor
    mean: torch.Tensor


class MainModel(nn.Module):
    """Latents (batch, latent_channels, [bands,] positions) by a 1 x 1 convolution, features by another.

    Args:
        encoder, decoder, encoder_options, decoder_options: see models.blocks.autoencoder.Pair.
        latent_channels: of the latents.
        bins: of the features.
        loss: mse, l1 or smooth_l1, the mean over bins and frames.
    """

    TASK = "autoencoder"
    SIZES = {"stem_channels": 6, "repeats": [1, 1], "channels": 6, "kernels": 3, "strides": [1, 2]}
    TEST_OPTIONS = {
        "encoder_options": {**SIZES, "stem_kernel": 5}, "decoder_options": {**SIZES, "stem_kernel": 3},
        "latent_channels": 4, "bins": 10, "loss": "smooth_l1",
    }  # fmt: skip

    def __init__(
        self, encoder="resnet1d", decoder=None, encoder_options=None, decoder_options=None, latent_channels=80,
        bins=80, loss="mse",
    ):  # fmt: skip
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss {loss}: one of {', '.join(LOSSES)}")
        self.loss, self.bins = loss, bins
        self.pair = Pair(encoder, decoder, encoder_options, decoder_options, latent_channels, bins)
        self.encoder_head = Pointwise(self.pair.encoder.out_channels, latent_channels)
        self.decoder_head = Pointwise(self.pair.decoder.out_channels, bins if self.pair.dims == 1 else 1)

    def forward(self, x, target=None, mask=None) -> Output:
        """Reconstruct features `x` (batch, bins, frames).

        Args:
            target: clean features of the same shape; None for `x`.
            mask: (batch, frames) bool, which frames count in loss and errors; None for all.
        """
        check_inputs(x, target, mask)
        target = (x if target is None else target).float()
        mean = self.reconstruct(x).float()
        loss = mean_over_frames(LOSSES[self.loss](mean, target, reduction="none"), mask)
        return Output(loss, **errors(mean, target, mask), mean=mean)

    def encode(self, x):
        """Return the latents of features (batch, bins, frames)."""
        return self.encoder_head(self.pair.encode(x))

    def decode(self, z, frames=None):
        """Return features (batch, bins, frames) of latents; between two utterances lie those of (1 - a) z1 + a z2."""
        mean = self.decoder_head(self.pair.decode(z, frames))
        return mean if self.pair.dims == 1 else mean.squeeze(1)

    def reconstruct(self, x):
        """Return the reconstruction of features, of the same shape."""
        return self.decode(self.encode(x), x.shape[2])

    def example(self, batch):
        """Return random inputs for the generated tests."""
        x = torch.randn(batch, self.bins, 13)
        mask = torch.arange(13) < 13 - torch.arange(batch)[:, None]
        return {"x": x + 0.1 * torch.randn_like(x), "target": x, "mask": mask}
