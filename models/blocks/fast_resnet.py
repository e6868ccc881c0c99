"""The trunk of ResNetSE34L, ResNetSE34Half and ResNetSE34: 7x7 stem, four SE stages, mean over frequency, SAP or ASP.

Entry point: FastResNet34, which its children complete with a front end."""

import torch
from torch import nn

from models.blocks.network import SpeakerNetwork, as_image, initialise
from models.blocks.pooling import attention_weights, weighted_pooling
from models.blocks.se_resnet import SEBasicBlock, make_stage


class FastResNet34(SpeakerNetwork):
    """SE-ResNet with 3, 4, 6, 3 blocks of `widths` channels and `strides` (Chung et al. 2020, arXiv 2003.11982)."""

    def __init__(self, nOut, encoder_type, widths, strides):
        super().__init__(encoder_type)
        self.conv1 = nn.Conv2d(1, widths[0], 7, stride=(2, 1), padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_stage(SEBasicBlock, widths[0], widths[0], 3, strides[0])
        self.layer2 = make_stage(SEBasicBlock, widths[0], widths[1], 4, strides[1])
        self.layer3 = make_stage(SEBasicBlock, widths[1], widths[2], 6, strides[2])
        self.layer4 = make_stage(SEBasicBlock, widths[2], widths[3], 3, strides[3])
        self.sap_linear = nn.Linear(widths[3], widths[3])
        self.attention = nn.Parameter(nn.init.xavier_normal_(torch.empty(widths[3], 1)))
        self.fc = nn.Linear(widths[3] * (2 if encoder_type == "ASP" else 1), nOut)
        initialise(self)

    def stem(self, x):
        """Return `x` (batch, 1, bands, frames) as (batch, width, bands / 2, frames)."""
        return self.relu(self.bn1(self.conv1(x)))

    def embed(self, features):
        """Return the embedding (batch, nOut) of `features` (batch, bands, frames)."""
        x = self.stem(as_image(features, self.training))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = x.mean(dim=2).transpose(1, 2)
        weights = attention_weights(x, self.sap_linear, self.attention)
        return self.fc(weighted_pooling(x, weights, 1, self.encoder_type))
