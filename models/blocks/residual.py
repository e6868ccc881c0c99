"""Residual blocks of the encoders and decoders of features (arXiv 1512.03385).
Entry point: ResidualStack, the parent of the Encoder and Decoder classes of backbones/resnet*.py.
"""

import torch
from torch import nn
from torch.nn import functional

from models.blocks.conv_stack import ConvStack, Unit
from models.blocks.se_resnet import SELayer

EXPANSION = 4  # a bottleneck block has so many times fewer channels inside


class Repeat(nn.Module):
    """Repeats every frame of (batch, channels, 1, frames)."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, x):
        batch, channels, height, frames = x.shape
        rows = x.permute(0, 2, 3, 1).unsqueeze(3).expand(-1, -1, -1, self.times, -1)
        return rows.reshape(batch, height, frames * self.times, channels).permute(0, 3, 1, 2)


def basic_path(layers, inputs, outputs, kernel, stride, dilation):
    """Return two convolutions, the first with the stride, without the last activation."""
    first = Unit(layers, inputs, outputs, kernel, stride, dilation)
    return nn.Sequential(first, Unit(layers, outputs, outputs, kernel, activate=False))


def bottleneck_path(layers, inputs, outputs, kernel, stride, dilation):
    """Return a convolution to fewer channels, one with kernel and stride, one back, without the last activation."""
    if outputs % EXPANSION:
        raise ValueError(f"channels {outputs} must be a multiple of {EXPANSION} for block bottleneck")
    inner = outputs // EXPANSION
    middle = Unit(layers, inner, inner, kernel, stride, dilation)
    return nn.Sequential(Unit(layers, inputs, inner, 1), middle, Unit(layers, inner, outputs, 1, activate=False))


PATHS = {"basic": basic_path, "bottleneck": bottleneck_path}


def shortcut(layers, inputs, outputs, stride):
    """Return the projection of a shortcut, None where the identity fits."""
    if stride == 1 and inputs == outputs:
        return None
    if layers.up and layers.dims == 1:
        projection = Unit(layers, inputs, outputs, 1, activate=False)
        return projection if stride == 1 else nn.Sequential(projection, Repeat(stride))
    return Unit(layers, inputs, outputs, 1, stride, activate=False)


def drop_paths(x, probability):
    """Return `x` with whole samples set to zero at this probability, the rest scaled up."""
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= probability
    return x * (kept / (1 - probability)).to(x.dtype)


class ResidualBlock(nn.Module):
    """A path of convolutions plus a shortcut, then the activation."""

    def __init__(
        self, layers, inputs, outputs, kernel, stride, dilation, dropout, se_reduction, block, drop_connect
    ):  # fmt: skip
        super().__init__()
        self.path = PATHS[block](layers, inputs, outputs, kernel, stride, dilation)
        self.se = SELayer(outputs, se_reduction) if se_reduction else None
        self.shortcut = shortcut(layers, inputs, outputs, stride)
        self.activation = layers.activation()
        self.norm = None if layers.before else layers.norm(outputs)
        self.dropout, self.drop_connect = dropout, drop_connect

    def forward(self, x):
        y = self.path(x)
        if self.se is not None:
            y = y * self.se(y)
        if self.drop_connect and self.training:
            y = drop_paths(y, self.drop_connect)
        # in place: nothing that comes out of a path is needed again for its gradient
        y = self.activation(y.add_(x if self.shortcut is None else self.shortcut(x)))
        y = y if self.norm is None else self.norm(y)
        return functional.dropout2d(y, self.dropout, self.training) if self.dropout else y


class ResidualStack(ConvStack):
    """A stem block, then stages of residual blocks.

    Args:
        block: basic (two convolutions) or bottleneck (1 x 1 to a quarter of the channels, convolution, 1 x 1 back).
        drop_connect: probability with which a sample leaves out the path of a block in training (stochastic depth,
            arXiv 1603.09382).
        others: see ConvStack.
    """

    def __init__(
        self, in_channels, stem_channels, stem_kernel, repeats, channels, kernels, strides, stem_stride=1, dropout=0.0,
        activation="relu6", norm="batch", norm_before_activation=True, block="basic", dilations=None, se_reduction=0,
        drop_connect=0.0, head_channels=None,
    ):  # fmt: skip
        if block not in PATHS:
            raise ValueError(f"block {block!r} is unknown, choose from {', '.join(PATHS)}")
        if not 0 <= drop_connect < 1:
            raise ValueError(f"drop_connect {drop_connect} must be at least 0 and below 1")
        super().__init__(
            in_channels, stem_channels, stem_kernel, repeats, channels, kernels, strides, stem_stride, dropout,
            activation, norm, norm_before_activation, dilations, se_reduction, head_channels,
            block=block, drop_connect=drop_connect,
        )  # fmt: skip

    make_block = ResidualBlock
