"""Squeeze-and-excitation residual blocks of the ResNetSE34 family.

Entry points: SELayer, SEBasicBlock, make_stage, downsample."""

import torch
from torch import nn


class SELayer(nn.Module):
    """Weights in (0, 1) per channel from the average over both axes (Hu et al., CVPR 2018, arXiv 1709.01507)."""

    def __init__(self, channels, reduction=8):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x):
        """Return the factors (batch, channels, 1, 1) for `x` (batch, channels, bands, frames)."""
        return self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class SEBasicBlock(nn.Module):
    """conv 3x3, ReLU, BN, conv 3x3, BN, SE, shortcut, ReLU: the first ReLU stands before its BN on purpose."""

    def __init__(self, inplanes, planes, stride=1, first=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.se = SELayer(planes)
        self.downsample = downsample(inplanes, planes, stride)

    def forward(self, x):
        y = self.bn1(self.relu(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(torch.addcmul(shortcut, y, self.se(y)))


def downsample(inplanes, planes, stride):
    """Return the projection of a shortcut (conv 1x1, BN), or None where the identity fits."""
    if stride == 1 and inplanes == planes:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))


def make_stage(block, inplanes, planes, blocks, stride, expansion=1):
    """Return `blocks` blocks in a row that turn `inplanes` channels into planes * expansion.

    Only the first has the stride; it is told so by first=True, which Res2Net needs.
    """
    rest = [block(planes * expansion, planes) for _ in range(blocks - 1)]
    return nn.Sequential(block(inplanes, planes, stride, first=True), *rest)
