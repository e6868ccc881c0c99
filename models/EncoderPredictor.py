"""Predictor of the codes of a clean wave from the noised one, to guide a VQ-VAE's sampling toward wanted codes.
Entry point: MainModel. In the form of vq-voice-swap.
"""

import math

import torch
from torch import nn

from models.blocks import original, waves
from models.UNet import MainModel as UNet


class MainModel(nn.Module):
    """A U-Net, whose output is taken at the positions of the codes.

    Args:
        base_channels: width of the U-Net.
        downsample_rate: samples of a position: the rate of the VQ-VAE's encoder.
        num_latents: number of codes.
        bottleneck_dim: channels between the U-Net and the logits.
        checkpoint_activations: compute the inside of each block again in the backward pass, for memory.
    """

    TASK = "encoder_predictor"
    TEST_OPTIONS = {"base_channels": 4, "downsample_rate": 128, "num_latents": 8, "bottleneck_dim": 8}

    def __init__(
        self, base_channels=32, downsample_rate=320, num_latents=512, bottleneck_dim=64, checkpoint_activations=False
    ):
        super().__init__()
        if min(downsample_rate, num_latents, bottleneck_dim) < 1:
            raise ValueError(
                f"downsample_rate {downsample_rate}, num_latents {num_latents}, bottleneck_dim {bottleneck_dim}: "
                "all must be at least 1"
            )
        self.base_channels, self.downsample_rate = base_channels, downsample_rate
        self.num_latents, self.bottleneck_dim = num_latents, bottleneck_dim
        self.unet = UNet(base_channels, out_channels=bottleneck_dim, checkpoint_activations=checkpoint_activations)
        self.out = nn.Conv1d(bottleneck_dim, num_latents, 1)
        self.rate = math.lcm(self.unet.rate, downsample_rate)

    def forward(self, x, t):
        """Return logits (batch, num_latents, T / downsample_rate) of waves `x` (batch, 1, T) at times `t` (batch,).

        Raises:
            ValueError: T is no multiple of `rate`.
        """
        waves.check_length(x.shape[-1], self.rate)
        return self.out(waves.stretch(self.unet(x, t), x.shape[-1] // self.downsample_rate))

    @staticmethod
    def from_foreign(weights, stated=None):
        """Return (constructor arguments, weights) of a file of vq-voice-swap, None for another layout.

        stated: the constructor arguments that the file itself holds, which alone say the rate.
        """
        names = ("unet.in_conv.weight", "out.weight")
        if any(name not in weights for name in names) or not stated or "downsample_rate" not in stated:
            return None
        codes, bottleneck_dim, _ = weights["out.weight"].shape
        sizes = {"base_channels": len(weights["unet.in_conv.weight"]), "num_latents": codes}
        return {**sizes, "bottleneck_dim": bottleneck_dim, "downsample_rate": stated["downsample_rate"]}, weights

    def to_original(self):
        """Return what a file of this network in the layout of vq-voice-swap holds."""
        names = ("base_channels", "downsample_rate", "num_latents", "bottleneck_dim")
        return original.payload({name: getattr(self, name) for name in names}, self)

    def example(self, batch):
        """Return random inputs for the generated tests."""
        return {"x": torch.randn(batch, 1, 2 * self.rate), "t": torch.rand(batch)}
