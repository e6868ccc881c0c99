"""Res2NetSE34: ResNetSE34V2 with Res2Net blocks, 5.1 M parameters with 64 mel bands, SAP or ASP.

Entry point: MainModel."""

from functools import partial

import torch
from torch import nn

from models.blocks.flat_resnet import FlatResNet34
from models.blocks.se_resnet import SELayer, downsample


class Res2Block(nn.Module):
    """Convolutions on slices of the channels, each seeing the slice before it (Gao et al., arXiv 1904.01169)."""

    def __init__(self, inplanes, planes, stride=1, first=False, base_width=26, scale=4, expansion=1):
        super().__init__()
        width = planes * base_width // 64
        self.conv1 = nn.Conv2d(inplanes, scale * width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(scale * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False) for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(scale - 1))
        self.pool = nn.AvgPool2d(3, stride=stride, padding=1) if first else nn.Identity()
        self.conv3 = nn.Conv2d(scale * width, planes * expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * expansion)
        self.relu = nn.ReLU(inplace=True)
        self.se = SELayer(planes * expansion)
        self.downsample = downsample(inplanes, planes * expansion, stride)
        self.chained = not first  # the first block of a stage keeps its slices apart: its stride changes their size

    def forward(self, x):
        slices = self.relu(self.bn1(self.conv1(x))).chunk(len(self.convs) + 1, dim=1)
        outputs = []
        for part, conv, bn in zip(slices, self.convs, self.bns):
            if self.chained and outputs:
                part = part + outputs[-1]
            outputs.append(self.relu(bn(conv(part))))
        y = self.bn3(self.conv3(torch.cat([*outputs, self.pool(slices[-1])], dim=1)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(torch.addcmul(shortcut, y, self.se(y)))


class MainModel(FlatResNet34):
    """Res2Net blocks of `res2_scale` slices, planes * res2_width / 64 channels each; expansion 4 is Res2Net-50."""

    def __init__(
        self,
        nOut=256,
        encoder_type="SAP",
        n_mels=40,
        log_input=False,
        res2_width=26,
        res2_scale=4,
        res2_expansion=1,
    ):
        if res2_scale < 2:
            raise ValueError(f"res2_scale {res2_scale} must be at least 2: one slice is passed unchanged")
        if res2_width < 2:
            raise ValueError(f"res2_width {res2_width} must be at least 2: 32 planes need one channel a slice")
        block = partial(Res2Block, base_width=res2_width, scale=res2_scale, expansion=res2_expansion)
        super().__init__(nOut, encoder_type, n_mels, log_input, block, res2_expansion)

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this network alone."""
        parser.add_argument("--res2_width", type=int, default=26, help="channels of a slice for 64 planes")
        parser.add_argument("--res2_scale", type=int, default=4, help="slices of a Res2Net block, at least 2")
        parser.add_argument("--res2_expansion", type=int, default=1, help="widening of a block's output")
