"""ECAPA-TDNN of any size with the names of SpeechBrain's checkpoints (Desplanques et al., Interspeech 2020).

Entry points: AttentiveStatistics (pooling), EcapaTDNN (network)."""

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks.network import FrontEndNetwork
from models.blocks.tdnn import TDNN, Convolution, Norm, frame_mask, mean_and_std, weighted_mean_and_std


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation per channel under attention weights of their own over the frames.

    With `global_context` the attention also sees mean and standard deviation of the whole utterance (Okabe et al. 2018,
    arXiv 1803.10963; the context is of the ECAPA paper, arXiv 2005.07143).
    """

    def __init__(self, channels, attention_channels=128, global_context=True):
        super().__init__()
        self.global_context = global_context
        self.tdnn = TDNN(channels * (3 if global_context else 1), attention_channels, 1)
        self.conv = Convolution(attention_channels, channels, 1)

    def forward(self, x, lengths=None):
        """Return (batch, 2 * channels) of `x` (batch, channels, frames) over the first `lengths` (batch) frames."""
        mask, exact = frame_mask(lengths, x.shape[2]), x.float()
        context = torch.cat(mean_and_std(exact, mask), dim=1) if self.global_context else None
        scores = self.conv(torch.tanh(self.tdnn(x, context))).float()
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return torch.cat(weighted_mean_and_std(exact, torch.softmax(scores, dim=2)), dim=1)


class Res2Net(nn.Module):
    """A chain of convolutions over `scale` slices of the channels, each fed with the output of the one before."""

    def __init__(self, channels, kernel, dilation, scale):
        super().__init__()
        width = channels // scale
        self.blocks = nn.ModuleList(TDNN(width, width, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x):
        kept, *slices = x.chunk(len(self.blocks) + 1, dim=1)
        outputs = [kept]
        for part, block in zip(slices, self.blocks):
            outputs.append(block(part if len(outputs) == 1 else part + outputs[-1]))
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a weight in (0, 1) that depends on the means of all of them."""

    def __init__(self, channels, squeezed):
        super().__init__()
        self.conv1, self.conv2 = Convolution(channels, squeezed, 1), Convolution(squeezed, channels, 1)

    def forward(self, x, lengths=None):
        mask = frame_mask(lengths, x.shape[2])
        if mask is None:
            mean = x.mean(dim=2, keepdim=True)
        else:
            mean = (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(mean))))


class SERes2NetBlock(nn.Module):
    """1x1 convolution, Res2Net, 1x1 convolution, squeeze-excitation, all added to the input."""

    def __init__(self, inputs, outputs, kernel, dilation, scale, squeezed):
        super().__init__()
        self.tdnn1 = TDNN(inputs, outputs, 1)
        self.res2net_block = Res2Net(outputs, kernel, dilation, scale)
        self.tdnn2 = TDNN(outputs, outputs, 1)
        self.se_block = SqueezeExcitation(outputs, squeezed)
        self.shortcut = Convolution(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x, lengths=None):
        y = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x))), lengths)
        return y + (x if self.shortcut is None else self.shortcut(x))


class EcapaTDNN(FrontEndNetwork):
    """ECAPA-TDNN: a first layer, SE-Res2Net blocks, their aggregation, attentive pooling, a linear layer.

    Args:
        input_size: bands of the features.
        channels: widths of the first layer, of every block and of the aggregation, in this order.
        kernel_sizes, dilations: of the same layers; those of the aggregation are 1.
    """

    ENCODERS = ("ASP",)

    def __init__(
        self, input_size, lin_neurons, front_end="mfcc", channels=(512, 512, 512, 512, 1536),
        kernel_sizes=(5, 3, 3, 3, 1), dilations=(1, 2, 3, 4, 1), attention_channels=128, res2net_scale=8,
        se_channels=128, global_context=True,
    ):  # fmt: skip
        if not len(channels) == len(kernel_sizes) == len(dilations) >= 3:
            raise ValueError("channels, kernel sizes and dilations: one for each of three or more layers")
        if any(width % res2net_scale for width in channels[1:-1]):
            raise ValueError(f"channels {list(channels[1:-1])} must be multiples of {res2net_scale}")
        widest = max(dilation * (kernel - 1) // 2 for kernel, dilation in zip(kernel_sizes, dilations))
        super().__init__("ASP", front_end, input_size, least_frames=widest + 1)  # so much the reflection needs
        blocks = [TDNN(input_size, channels[0], kernel_sizes[0], dilations[0])]
        for layer in range(1, len(channels) - 1):
            shape = channels[layer - 1], channels[layer], kernel_sizes[layer], dilations[layer]
            blocks.append(SERes2NetBlock(*shape, res2net_scale, se_channels))
        self.blocks = nn.ModuleList(blocks)
        self.mfa = TDNN(sum(channels[1:-1]), channels[-1], kernel_sizes[-1], dilations[-1])
        self.asp = AttentiveStatistics(channels[-1], attention_channels, global_context)
        self.asp_bn = Norm(2 * channels[-1])
        self.fc = Convolution(2 * channels[-1], lin_neurons, 1)
        self.embedding_size = lin_neurons

    def embed(self, features, lengths=None):
        """Return the embedding (batch, lin_neurons) of `features` (batch, input_size, frames).

        `lengths` (batch): frames that count in every mean over time, all of them where None.
        """
        x = self.blocks[0](features)
        outputs = []
        for block in self.blocks[1:]:
            x = block(x, lengths)
            outputs.append(x)
        pooled = self.asp_bn(self.asp(self.mfa(torch.cat(outputs, dim=1)), lengths))
        return self.fc(pooled.unsqueeze(2)).squeeze(2)
