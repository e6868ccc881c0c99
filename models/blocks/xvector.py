"""X-vector network of any size with the names of SpeechBrain's checkpoints (Snyder et al., ICASSP 2018).

Entry point: XVectorTDNN."""

import torch
from torch import nn

from models.blocks.network import FrontEndNetwork
from models.blocks.tdnn import Convolution, Norm, frame_mask, mean_and_std


class StatisticsPooling(nn.Module):
    """Mean and unbiased standard deviation over the frames, the latter increased by `std_floor`.

    SpeechBrain adds a small random vector to the mean, also in evaluation; it is left out here.
    """

    def __init__(self, std_floor):
        super().__init__()
        self.std_floor = std_floor

    def forward(self, x, lengths=None):
        mean, deviation = mean_and_std(x.float(), frame_mask(lengths, x.shape[2]), correction=1)
        return torch.cat([mean, deviation + self.std_floor], dim=1)


class LastLayer(nn.Module):
    """Linear layer called `w`."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.w = nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.w(x)


class XVectorTDNN(FrontEndNetwork):
    """Convolutions over time, each with LeakyReLU and then BatchNorm, statistics pooling, a linear layer.

    Args:
        in_channels: bands of the features.
        tdnn_channels, tdnn_kernel_sizes, tdnn_dilations: of the convolutions.
    """

    ENCODERS = ("TSTP",)

    def __init__(
        self, in_channels, lin_neurons, front_end="mfcc", tdnn_channels=(512, 512, 512, 512, 1500),
        tdnn_kernel_sizes=(5, 3, 3, 1, 1), tdnn_dilations=(1, 2, 3, 1, 1), std_floor=1e-5,
    ):  # fmt: skip
        if not len(tdnn_channels) == len(tdnn_kernel_sizes) == len(tdnn_dilations) >= 1:
            raise ValueError("channels, kernel sizes and dilations: one for each layer")
        widest = max(dilation * (kernel - 1) // 2 for kernel, dilation in zip(tdnn_kernel_sizes, tdnn_dilations))
        # so much the reflection needs, and a standard deviation two
        super().__init__("TSTP", front_end, in_channels, least_frames=max(widest + 1, 2))
        blocks, inputs = [], in_channels
        for width, kernel, dilation in zip(tdnn_channels, tdnn_kernel_sizes, tdnn_dilations):
            blocks += [Convolution(inputs, width, kernel, dilation), nn.LeakyReLU(0.01, inplace=True), Norm(width)]
            inputs = width
        self.blocks = nn.ModuleList([*blocks, StatisticsPooling(std_floor), LastLayer(2 * inputs, lin_neurons)])
        self.embedding_size = lin_neurons

    def embed(self, features, lengths=None):
        """Return the embedding (batch, lin_neurons) of `features` (batch, in_channels, frames).

        `lengths` (batch): frames that are pooled, all of them where None.
        """
        x = features
        for block in self.blocks[:-2]:
            x = block(x)
        return self.blocks[-1](self.blocks[-2](x, lengths))
