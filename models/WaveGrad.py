"""WaveGrad (Chen et al. 2020, arXiv 2009.00713) as a noise predictor, in the form that vq-voice-swap gave it.
Entry point: MainModel.
"""

import torch
from torch import nn

from models.blocks import original, waves
from models.blocks.wavegrad import ChannelNorm, DBlock, UBlock

# per block of each path: channels out, channels of what the down path gives it (in units of base_channels), factor
DOWN = ((4, 4), (4, 2), (8, 2), (16, 2))
UP = ((16, 16, 2), (16, 8, 2), (8, 4, 2), (4, 4, 2), (4, 1, 4))
START = 24


class MainModel(nn.Module):
    """A sequence of conditions, or zeros, is lengthened to the wave, told at every length what the wave is there.

    Args:
        base_channels: width C of the first level.
        cond_mult: channels of the condition sequence in units of C; it has one position per `rate` samples.
        num_labels: classes of which one is given with each wave; None for a network without.
        checkpoint_activations: compute the inside of each block again in the backward pass, for memory.
    """

    TASK = "diffusion"
    TEST_OPTIONS = {"base_channels": 4, "cond_mult": 2, "num_labels": 3}
    rate = 64

    def __init__(self, base_channels=32, cond_mult=16, num_labels=None, checkpoint_activations=False):
        super().__init__()
        if base_channels < 1 or cond_mult < 1:
            raise ValueError(f"a WaveGrad of base_channels {base_channels}, cond_mult {cond_mult}: must be at least 1")
        self.base_channels, self.cond_mult, self.num_labels = base_channels, cond_mult, num_labels
        self.cond_channels = cond_mult * base_channels
        self.checkpoint_activations = checkpoint_activations
        self.d_blocks = nn.ModuleList([waves.conv(1, base_channels, 5)])
        width = base_channels
        for mult, factor in DOWN:
            self.d_blocks.append(DBlock(width, mult * base_channels, factor))
            width = mult * base_channels
        width = START * base_channels
        self.u_conv_1 = waves.conv(self.cond_channels, width)
        self.u_blocks = nn.ModuleList()
        for mult, skip, factor in UP:
            self.u_blocks.append(UBlock(width, mult * base_channels, skip * base_channels, factor, num_labels))
            width = mult * base_channels
        self.u_ln = ChannelNorm(width)
        self.u_conv_2 = waves.zero(waves.conv(width, 1))

    def forward(self, x, t, label=None, cond=None):
        """Return (batch, 1, T), the predicted noise of waves `x` (batch, 1, T) at times `t` (batch,) in [0, 1].

        Args:
            label: (batch,) integers, exactly when the network has labels.
            cond: (batch, cond_mult * C, any length), brought to T / 64 positions; None stands for zeros.

        Raises:
            ValueError: T is no multiple of 64, or a label is missing, superfluous or too large.
        """
        waves.check_length(x.shape[-1], self.rate)
        waves.check_labels(label, self.num_labels)
        positions = x.shape[-1] // self.rate
        if cond is None:
            cond = x.new_zeros(len(x), self.cond_channels, positions)
        elif cond.shape[-1] != positions:
            cond = waves.stretch(cond, positions)
        outputs, h = [], x
        for block in self.d_blocks:
            h = waves.run(block, h, recompute=self.checkpoint_activations)
            outputs.append(h)
        h = self.u_conv_1(cond)
        for block in self.u_blocks:
            h = waves.run(block, h, outputs.pop(), t, label, recompute=self.checkpoint_activations)
        return self.u_conv_2(self.u_ln(h))

    @staticmethod
    def from_foreign(weights, stated=None):
        """Return (constructor arguments, weights) of a file of vq-voice-swap, None for another layout.

        stated: the constructor arguments that the file itself holds; the sizes are taken from the weights.
        """
        weights = original.inner_weights(weights)
        needed = ("d_blocks.0.weight", "u_conv_1.weight", "u_conv_2.weight")
        if weights is None or any(name not in weights or weights[name].dim() != 3 for name in needed):
            return None
        base_channels = len(weights["d_blocks.0.weight"])
        num_labels = original.size(weights, "u_blocks.0.film_1.label_emb.weight", 0)
        cond_mult = weights["u_conv_1.weight"].shape[1] // base_channels
        return {"base_channels": base_channels, "cond_mult": cond_mult, "num_labels": num_labels}, weights

    def to_original(self, schedule="exp"):
        """Return what a file of this network in the layout of vq-voice-swap holds."""
        kwargs = {"pred_name": "wavegrad", "base_channels": self.base_channels, "schedule_name": schedule}
        cond_channels = None if self.cond_mult == 16 else self.cond_channels
        kwargs |= {"num_labels": self.num_labels, "cond_channels": cond_channels, "dropout": 0.0}
        return original.payload(kwargs, self, original.PREDICTOR)

    def example(self, batch):
        """Return random inputs for the generated tests: all that this network may be given."""
        given = {"x": torch.randn(batch, 1, 2 * self.rate), "t": torch.rand(batch)}
        if self.num_labels is not None:
            given["label"] = torch.arange(batch) % self.num_labels
        return given | {"cond": torch.randn(batch, self.cond_channels, 2)}
