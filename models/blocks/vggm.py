"""VGG-M with 40 mel bands: the network behind the names VGGVox40 and VGGVox; SAP, TAP or MAX.

Entry point: VGGM40."""

import warnings

import torch
from torch import nn

from audio.features import SpeakerMel
from models.blocks.network import SpeakerNetwork, as_image
from models.blocks.pooling import attention_weights, weighted_pooling


class VGGM40(SpeakerNetwork):
    """Six convolutions that shrink 40 bands to one, 4.0 M parameters (Chung et al. 2020, arXiv 2003.11982)."""

    ENCODERS = ("SAP", "TAP", "MAX")
    LEAST_SAMPLES = 62 * 160  # 63 frames are the fewest that leave one at the top

    def __init__(self, nOut=1024, encoder_type="SAP", n_mels=40, log_input=False):
        super().__init__(encoder_type)
        if n_mels != 40:
            warnings.warn(f"VGGVox40 has 40 mel bands, n_mels {n_mels} is ignored", stacklevel=2)
        self.torchfb = SpeakerMel(False, "hann", 40, log_input)
        self.netcnn = nn.Sequential(
            *_convolution(1, 96, (5, 7), (1, 2), (2, 2)),
            nn.MaxPool2d((1, 3), (1, 2)),
            *_convolution(96, 256, 5, 2, 1),
            nn.MaxPool2d(3, 2),
            *_convolution(256, 384, 3, 1, 1),
            *_convolution(384, 256, 3, 1, 1),
            *_convolution(256, 256, 3, 1, 1),
            nn.MaxPool2d(3, 2),
            *_convolution(256, 512, (4, 1), 1, 0),
        )
        if encoder_type == "SAP":
            self.sap_linear = nn.Linear(512, 512)
            self.attention = nn.Parameter(nn.init.xavier_normal_(torch.empty(512, 1)))
        self.fc = nn.Linear(512, nOut)

    def embed(self, features):
        """Return the embedding (batch, nOut) of `features` (batch, 40, frames)."""
        x = self.netcnn(as_image(features, self.training)).squeeze(2)
        if self.encoder_type == "TAP":
            return self.fc(x.mean(dim=2))
        if self.encoder_type == "MAX":
            return self.fc(x.amax(dim=2))
        x = x.transpose(1, 2)
        return self.fc(weighted_pooling(x, attention_weights(x, self.sap_linear, self.attention), 1, "SAP"))

    @staticmethod
    def example(batch):
        """Return random inputs for the generated tests: one second of noise."""
        return {"wave": 0.1 * torch.randn(batch, 16240)}


def _convolution(inplanes, planes, kernel, stride, padding):
    """Return a convolution with its batch normalisation and ReLU."""
    convolution = nn.Conv2d(inplanes, planes, kernel, stride=stride, padding=padding)
    return convolution, nn.BatchNorm2d(planes), nn.ReLU(inplace=True)
