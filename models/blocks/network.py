"""What every speaker network of the mel family has: wave -> features -> embedding, checks of its arguments.

Entry points: SpeakerNetwork and FrontEndNetwork, the parents of their MainModel classes."""

import torch
from torch import nn

from audio.features import front_end_of


class SpeakerNetwork(nn.Module):
    """A network with forward(wave) = embed(features(wave)); children have `torchfb` (SpeakerMel) and `embed`."""

    TASK = "speaker"
    WAV_SCALE = 32768.0  # SpeakerNet multiplies waves in [-1, 1] by this: the published weights know 16-bit amplitudes
    ENCODERS = ("SAP", "ASP")
    LEAST_SAMPLES = 257

    def __init__(self, encoder_type):
        super().__init__()
        if encoder_type not in self.ENCODERS:
            raise ValueError(f"encoder_type {encoder_type!r} is unknown, choose from {', '.join(self.ENCODERS)}")
        self.encoder_type = encoder_type

    def check_length(self, wave):
        """Raise ValueError if `wave` (batch, samples) is shorter than the network needs."""
        if wave.shape[-1] < self.LEAST_SAMPLES:
            raise ValueError(f"a wave of {wave.shape[-1]} samples is too short: at least {self.LEAST_SAMPLES} needed")

    def features(self, wave):
        """Return the normalised mel features (batch, n_mels, frames), float32, of `wave` (batch, samples)."""
        self.check_length(wave)
        return self.torchfb(wave)

    def forward(self, wave):
        """Return the embedding (batch, nOut) of `wave` (batch, samples), which is already scaled."""
        return self.embed(self.features(wave))

    @staticmethod
    def example(batch):
        """Return random inputs for the generated tests: half a second of noise."""
        return {"wave": 0.1 * torch.randn(batch, 8240)}


class FrontEndNetwork(SpeakerNetwork):
    """A network on one of the front ends of audio.features; its features are normalised as a last step.

    Args:
        least_frames: frames that `embed` needs.
    """

    WAV_SCALE = 1.0  # the floors of MFCC and filterbank are meant for waves in [-1, 1]

    def __init__(self, encoder_type, front_end, n_mels, least_frames):
        super().__init__(encoder_type)
        self.front_end = front_end_of(front_end, n_mels)
        self.LEAST_SAMPLES = self.front_end.least_samples(least_frames)

    def raw_features(self, wave):
        """Return features (batch, n_mels, frames), float32, of `wave` (batch, samples) before their normalisation."""
        self.check_length(wave)
        return self.front_end(wave)

    def normalise(self, features, lengths=None):
        """Normalise `features` (batch, n_mels, frames) by what their first `lengths` (batch) frames hold."""
        return self.front_end.normalise(features, lengths)

    def features(self, wave):
        """Return the normalised features (batch, n_mels, frames), float32, of `wave` (batch, samples)."""
        return self.normalise(self.raw_features(wave))


def as_image(features, training):
    """Return `features` (batch, bands, frames) as an image (batch, 1, bands, frames) without copying.

    For inference on the CPU its strides say channels_last, in which convolutions are about a third faster. In training
    they do not: gradients then differ in the fourth digit from those of the other format. Elsewhere the format of the
    weights decides.
    """
    if features.device.type == "cpu" and not training:
        return features.unsqueeze(3).permute(0, 3, 1, 2)
    return features.unsqueeze(1)


def initialise(network):
    """Draw the convolution weights of `network` from Kaiming's normal distribution (fan-out, ReLU gain)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
