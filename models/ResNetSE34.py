"""ResNetSE34, "Thin ResNet-34" of Chung et al. 2020: 1.4 M parameters on a spectrogram of 257 bins, SAP only.

Entry point: MainModel."""

import warnings

import torch
from torch import nn

from audio.features import instance_norm, make_window, power_spectrogram
from models.blocks.fast_resnet import FastResNet34


class MainModel(FastResNet34):
    """Widths 16 to 128, all later stages with stride 2, a max-pool after the stem; n_mels has no effect."""

    ENCODERS = ("SAP",)
    LEAST_SAMPLES = 512 + 160  # two frames that lie inside the wave: one cannot be normalised

    def __init__(self, nOut=256, encoder_type="SAP", n_mels=40, log_input=False):
        super().__init__(nOut, encoder_type, widths=(16, 32, 64, 128), strides=(1, 2, 2, 2))
        if n_mels != 40:
            warnings.warn(f"ResNetSE34 works on 257 bins, n_mels {n_mels} is ignored", stacklevel=2)
        self.log_input = log_input
        self.maxpool = nn.MaxPool2d(3, stride=(2, 1), padding=1)
        self.register_buffer("window", make_window("hann"), persistent=False)  # published weights do not hold it

    def features(self, wave):
        """Return the normalised magnitude spectrogram (batch, 257, frames), float32, of `wave` (batch, samples)."""
        self.check_length(wave)
        with torch.no_grad(), torch.autocast(wave.device.type, enabled=False):
            magnitude = power_spectrogram(wave.float(), self.window, centred=False).sqrt()
            if self.log_input:
                magnitude = magnitude.clamp(min=1e-9).log()  # only digital silence lies below
            return instance_norm(magnitude)

    def stem(self, x):
        """Return `x` (batch, 1, 257, frames) as (batch, 16, 65, frames)."""
        return self.maxpool(super().stem(x))
