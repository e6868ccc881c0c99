"""The verifier of reconstructed features: a ResNet of 34 layers on log-mel features with a sliding mean taken off.
Entry point: MainModel.
"""

import torch
from torch import nn

from audio.log_mel import LogMel, sliding_normalisation
from models.blocks.network import SpeakerNetwork, as_image
from models.blocks.residual import ResidualStack
from models.blocks.wespeaker_resnet import STAGES, StatisticsPooling

STRIDES = (1, 2, 2, 2)


class ImageStack(ResidualStack):
    """Residual blocks over bins and frames, which the strides shorten."""

    DIMS, UP = 2, False


class MainModel(SpeakerNetwork):
    """3, 4, 6, 3 blocks of 16, 32, 64, 128 channels, mean and deviation over time, one linear layer: 2.0 M parameters.

    Args:
        nOut, n_mels: size of the embedding, mel bands.
        width: channels of stem and first stage.
    """

    WAV_SCALE = 1.0  # LogMel takes waves in [-1, 1] and brings them to 16-bit amplitudes itself
    ENCODERS = ("TSTP",)
    LEAST_SAMPLES = 9 * 160  # two frames after three halvings, for a deviation
    TEST_OPTIONS = {"width": 4, "n_mels": 16}

    def __init__(self, nOut=256, n_mels=80, width=16):
        super().__init__(self.ENCODERS[0])
        if width < 1:
            raise ValueError(f"--width {width}: must be at least 1")
        self.log_mel = LogMel(n_mels)
        channels = [width * 2**stage for stage in range(len(STRIDES))]
        self.trunk = ImageStack(1, width, 3, STAGES[34], channels, 3, STRIDES, activation="relu6")
        self.trunk.to(memory_format=torch.contiguous_format)  # as safetensors and --channels_last expect them
        self.pool = StatisticsPooling(self.encoder_type)
        self.embedding = nn.Linear(2 * channels[-1] * self.trunk.out_frames(n_mels), nOut)
        self.embedding_size = nOut

    @staticmethod
    def add_arguments(parser):
        """Change the defaults of flags to those of this network and add its width."""
        parser.set_defaults(nOut=256, n_mels=80)
        parser.add_argument("--width", type=int, default=16, help="LResNet34: channels of its first stage")

    def raw_features(self, wave):
        """Return log-mel features (batch, n_mels, frames), float32, of `wave` (batch, samples) in [-1, 1]."""
        self.check_length(wave)
        return self.log_mel(wave)

    def normalise(self, features, lengths=None):
        """Return `features` (batch, n_mels, frames) less their mean over the 3 s around a frame; the first `lengths`
        (batch,) frames of each count."""
        return sliding_normalisation(features, lengths)

    def features(self, wave):
        """Return the normalised features (batch, n_mels, frames), float32, of `wave` (batch, samples)."""
        return self.normalise(self.raw_features(wave))

    def embed(self, features):
        """Return the embedding (batch, nOut) of `features` (batch, n_mels, frames)."""
        x = self.trunk(as_image(features, self.training))
        return self.embedding(self.pool(x.flatten(1, 2).float()))
