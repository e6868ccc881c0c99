"""The trunk of ResNetSE34V2 and Res2NetSE34: 3x3 stem, four stages, channels and bands flattened, SAP or ASP.

Entry point: FlatResNet34, which its children complete with a block."""

import torch
from torch import nn

from audio.features import SpeakerMel
from models.blocks.network import SpeakerNetwork, as_image, initialise
from models.blocks.pooling import weighted_pooling
from models.blocks.se_resnet import make_stage

WIDTHS = (32, 64, 128, 256)


class FlatResNet34(SpeakerNetwork):
    """3, 4, 6, 3 blocks with an attention weight per channel and band (Heo et al. 2020, arXiv 2009.14153)."""

    def __init__(self, nOut, encoder_type, n_mels, log_input, block, expansion=1):
        super().__init__(encoder_type)
        if n_mels < 8 or n_mels % 8:
            raise ValueError(f"n_mels {n_mels} must be a multiple of 8: three stages halve the number of bands")
        self.torchfb = SpeakerMel(True, "hamming", n_mels, log_input)
        self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = make_stage(block, WIDTHS[0], WIDTHS[0], 3, 1, expansion)
        self.layer2 = make_stage(block, WIDTHS[0] * expansion, WIDTHS[1], 4, 2, expansion)
        self.layer3 = make_stage(block, WIDTHS[1] * expansion, WIDTHS[2], 6, 2, expansion)
        self.layer4 = make_stage(block, WIDTHS[2] * expansion, WIDTHS[3], 3, 2, expansion)
        rows = WIDTHS[3] * expansion * (n_mels // 8)
        self.attention = nn.Sequential(
            nn.Conv1d(rows, 128, 1), nn.ReLU(inplace=True), nn.BatchNorm1d(128), nn.Conv1d(128, rows, 1)
        )
        self.fc = nn.Linear(rows * (2 if encoder_type == "ASP" else 1), nOut)
        initialise(self)

    def embed(self, features):
        """Return the embedding (batch, nOut) of `features` (batch, n_mels, frames)."""
        x = self.bn1(self.relu(self.conv1(as_image(features, self.training))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = x.flatten(1, 2)
        weights = torch.softmax(self.attention(x).float(), dim=2)
        return self.fc(weighted_pooling(x, weights, 2, self.encoder_type))
