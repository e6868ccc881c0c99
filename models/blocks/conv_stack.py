"""Stacks of convolutions over frames, or over bins and frames, that shorten (encoder) or lengthen (decoder) the axes.
Entry point: ConvStack, the parent of Encoder and Decoder in backbones/dc*.py and, by residual.py, resnet*.py.

The 1-D networks, too, work on pictures, (batch, channels, 1, frames): PyTorch has the layout with the channels of a
frame together for pictures only, and in it both convolutions and sub-pixel interleaving are faster on a CPU.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from models.blocks.activations import activation as activation_of
from models.blocks.pointwise import Pointwise
from models.blocks.se_resnet import SELayer
from models.blocks.subpixel import SubPixelConv

LARGEST_GROUPS = 32  # of group normalisation (arXiv 1803.08494)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that takes a group of one number, as an instance of one frame is."""

    def forward(self, x):
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


NORMS = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: GroupNorm(math.gcd(channels, LARGEST_GROUPS), channels),
    "instance": lambda channels: GroupNorm(channels, channels, affine=False),
    "instance_affine": lambda channels: GroupNorm(channels, channels),
    "layer": lambda channels: GroupNorm(1, channels),
    "none": lambda channels: None,
}


class Layers:
    """What all blocks of a network share: how to make its convolutions, norms and activations.

    Args:
        dims: 1 or 2, the axes that a kernel spans.
        up: strides lengthen instead of shorten.
        norm, norm_before_activation, activation: see ConvStack.
    """

    def __init__(self, dims, up, norm, norm_before_activation, activation):
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r} is unknown, choose from {', '.join(NORMS)}")
        activation_of(activation)
        self.dims, self.up, self.norm_name, self.activation_name = dims, up, norm, activation
        self.before = norm_before_activation
        self.bias = norm == "none" or not norm_before_activation

    def _axes(self, number, across=1):
        return (number, number) if self.dims == 2 else (across, number)

    def convolution(self, inputs, outputs, kernel, stride=1, dilation=1):
        """Return a convolution, a sub-pixel one where the stride lengthens; it has a bias unless a norm follows."""
        padding = self._axes(dilation * (kernel - 1) // 2, 0)
        options = {"padding": padding, "dilation": self._axes(dilation), "bias": self.bias}
        if stride > 1 and self.up:
            return SubPixelConv(inputs, outputs, self._axes(kernel), stride, self.dims, **options)
        if kernel == stride == 1:
            return Pointwise(inputs, outputs, bias=self.bias)
        return nn.Conv2d(inputs, outputs, self._axes(kernel), stride=self._axes(stride), **options)

    def norm(self, channels):
        """Return the norm of `channels` or None."""
        return NORMS[self.norm_name](channels)

    def activation(self):
        """Return the activation."""
        return activation_of(self.activation_name)


class Unit(nn.Module):
    """A convolution with norm and, except where `activate` is False, activation, in the order that was asked for.

    Without activation a norm that follows it is left out, too: the block that adds something places it.
    """

    def __init__(self, layers, inputs, outputs, kernel, stride=1, dilation=1, activate=True):
        super().__init__()
        self.conv = layers.convolution(inputs, outputs, kernel, stride, dilation)
        self.norm = layers.norm(outputs) if activate or layers.before else None
        self.activation = layers.activation() if activate else None
        self.before = layers.before

    def forward(self, x):
        x = self.conv(x)
        if self.before and self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x if self.before or self.norm is None else self.norm(x)


class ConvBlock(nn.Module):
    """Convolution, norm, activation; then squeeze-excitation and channel dropout where asked for."""

    def __init__(self, layers, inputs, outputs, kernel, stride=1, dilation=1, dropout=0.0, se_reduction=0):
        super().__init__()
        self.unit = Unit(layers, inputs, outputs, kernel, stride, dilation)
        self.se = SELayer(outputs, se_reduction) if se_reduction else None
        self.dropout = dropout

    def forward(self, x):
        x = self.unit(x)
        if self.se is not None:
            x = x * self.se(x)
        return functional.dropout2d(x, self.dropout, self.training) if self.dropout else x


def per_stage(name, value, stages, least=1):
    """Return `value`, a whole number or one per stage, as a list; raise ValueError where it does not fit."""
    values = [value] * stages if isinstance(value, int) else list(value)
    if len(values) != stages:
        raise ValueError(f"{name} has {len(values)} values, repeats has {stages}: one per stage is needed")
    for number in values:
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} {number!r} must be a whole number of at least {least}")
    return values


class ConvStack(nn.Module):
    """A stem block, then stages of blocks, the first block of each with the stride of the stage.

    Args:
        in_channels, stem_channels: channels of the input and of the stem.
        stem_kernel, stem_stride: kernel (odd) and stride of the stem.
        repeats: blocks of each stage.
        channels, kernels, strides, dilations: of each stage, or one number for all.
        dropout: share of the channels that are dropped after each block in training.
        activation: see activations.py.
        norm: batch, group, instance, instance_affine, layer (all channels and positions of a sample) or none.
        norm_before_activation: the norm lies between convolution and activation, else after the activation.
        se_reduction: squeeze-excitation of every block (arXiv 1709.01507) with so many times fewer channels inside;
            0: none.
        head_channels: a last 1 x 1 convolution to so many channels.
    """

    DIMS, UP = 1, False
    TEST_OPTIONS = {
        "stem_channels": 8, "stem_kernel": 5, "repeats": [1, 1, 2, 1], "channels": 8, "kernels": 3,
        "strides": [1, 2, 2, 2],
    }  # fmt: skip

    def __init__(
        self, in_channels, stem_channels, stem_kernel, repeats, channels, kernels, strides, stem_stride=1, dropout=0.0,
        activation="relu6", norm="batch", norm_before_activation=True, dilations=None, se_reduction=0,
        head_channels=None, **of_block,
    ):  # fmt: skip
        super().__init__()
        stages = len(repeats)
        repeats = per_stage("repeats", repeats, stages)
        channels = per_stage("channels", channels, stages)
        kernels = per_stage("kernels", kernels, stages)
        strides = per_stage("strides", strides, stages)
        dilations = per_stage("dilations", dilations or 1, stages)
        for kernel in (stem_kernel, *kernels):
            if kernel % 2 == 0:
                raise ValueError(f"kernel {kernel} must be odd: its middle belongs to the frame of the output")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout} must be at least 0 and below 1")
        if se_reduction and not 0 < se_reduction <= min(stem_channels, *channels):
            raise ValueError(f"se_reduction {se_reduction} must be between 1 and the least number of channels")
        layers = Layers(self.DIMS, self.UP, norm, norm_before_activation, activation)
        self.strides = [*per_stage("stem_stride", stem_stride, 1), *strides]
        self.stem = ConvBlock(layers, in_channels, stem_channels, stem_kernel, stem_stride, 1, dropout)
        self.blocks, last = nn.ModuleList(), stem_channels
        for stage in range(stages):
            for number in range(repeats[stage]):
                stride = strides[stage] if number == 0 else 1
                sizes = last, channels[stage], kernels[stage], stride, dilations[stage]
                self.blocks.append(self.make_block(layers, *sizes, dropout, se_reduction, **of_block))
                last = channels[stage]
        self.head = None if head_channels is None else Pointwise(last, head_channels)
        self.in_channels, self.out_channels = in_channels, last if head_channels is None else head_channels
        self.stride = math.prod(self.strides)
        self.frequency_stride = self.stride if self.DIMS == 2 else 1
        for module in self.modules():
            if isinstance(module, Unit) and not isinstance(module.conv, SubPixelConv):
                nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")

    make_block = ConvBlock

    def out_frames(self, frames):
        """Return how many frames (or bins, where the network spans them) come out of so many, a number or a tensor."""
        if self.UP:
            return frames * self.stride
        for stride in self.strides:
            frames = (frames + stride - 1) // stride
        return frames

    def forward(self, x):
        """Return (batch, out_channels, frames') of `x` (batch, in_channels, frames); in 2-D with bins before frames."""
        if x.dim() != self.DIMS + 2 or x.shape[1] != self.in_channels:
            axes = "bins, frames" if self.DIMS == 2 else "frames"
            raise ValueError(f"input of shape {tuple(x.shape)}: (batch, {self.in_channels}, {axes}) is needed")
        x = x.unsqueeze(2) if self.DIMS == 1 else x
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        x = x if self.head is None else self.head(x)
        return x.squeeze(2) if self.DIMS == 1 else x
