"""RawNet3 of Jung et al. 2022 on the raw wave: 16.3 M parameters, pooling ECA or ASP.

Entry point: MainModel."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from audio.features import SAMPLE_RATE, PreEmphasis
from models.blocks.network import SpeakerNetwork

KERNEL = 251  # samples of a sinc filter
CHANNELS = 1024


class SincFilterbank(nn.Module):
    """Band-pass filters in pairs of cosine and sine with learned edges (Pariente et al. 2020, arXiv 1910.10400)."""

    LEAST_HZ = 50.0  # lowest edge and narrowest band

    def __init__(self, filters=256):
        super().__init__()
        low_mel, high_mel = (2595 * math.log10(1 + hz / 700) for hz in (30.0, SAMPLE_RATE / 2 - 100.0))
        mel = torch.linspace(low_mel, high_mel, filters // 2 + 1, dtype=torch.float64).float()
        hz = 700 * (10 ** (mel / 2595) - 1)
        self.low_hz_ = nn.Parameter(hz[:-1, None])
        self.band_hz_ = nn.Parameter(hz.diff()[:, None])
        half = KERNEL // 2
        self.register_buffer("window_", torch.hamming_window(KERNEL, periodic=False)[:half])
        self.register_buffer("n_", 2 * math.pi * torch.arange(-half, 0.0)[None] / SAMPLE_RATE)

    def forward(self):
        """Return the filters (256, 1, 251), all cosines before all sines."""
        low = self.LEAST_HZ + self.low_hz_.abs()
        high = (low + self.LEAST_HZ + self.band_hz_.abs()).clamp(self.LEAST_HZ, SAMPLE_RATE / 2)
        width = 2 * (high - low)
        envelope = self.window_ / (self.n_ / 2)
        low_phase, high_phase = low * self.n_, high * self.n_
        cosine = (high_phase.sin() - low_phase.sin()) * envelope / width
        sine = (low_phase.cos() - high_phase.cos()) * envelope / width
        ones = torch.ones_like(width)
        cosines = torch.cat([cosine, ones, cosine.flip(1)], dim=1)
        sines = torch.cat([sine, 0 * ones, -sine.flip(1)], dim=1)
        return torch.cat([cosines, sines]).unsqueeze(1)


class SincConvolution(nn.Module):
    """Convolution of waves (batch, 1, samples) with the filters of `filterbank`, every `stride` samples."""

    def __init__(self, stride):
        super().__init__()
        self.filterbank = SincFilterbank()
        self.stride = stride

    def forward(self, wave):
        return F.conv1d(wave, self.filterbank(), stride=self.stride)


class FeatureMapScaling(nn.Module):
    """(x + alpha) * sigmoid(linear map of the mean over time), per channel (AFMS)."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))
        self.fc = nn.Linear(channels, channels)

    def forward(self, x):
        return (x + self.alpha) * torch.sigmoid(self.fc(x.mean(dim=2))).unsqueeze(2)


class Res2Block1d(nn.Module):
    """Res2Net block over time with 8 slices, then max-pooling by `pool` and AFMS."""

    def __init__(self, inplanes, planes, dilation, pool=1, scale=8):
        super().__init__()
        width = planes // scale
        self.conv1 = nn.Conv1d(inplanes, planes, 1)
        self.bn1 = nn.BatchNorm1d(planes)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, dilation=dilation, padding=dilation) for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(scale - 1))
        self.conv3 = nn.Conv1d(planes, planes, 1)
        self.bn3 = nn.BatchNorm1d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.residual = nn.Identity()
        if inplanes != planes:
            self.residual = nn.Sequential(nn.Conv1d(inplanes, planes, 1, bias=False))
        self.mp = nn.MaxPool1d(pool) if pool > 1 else nn.Identity()
        self.afms = FeatureMapScaling(planes)

    def forward(self, x):
        slices = self.bn1(self.relu(self.conv1(x))).chunk(len(self.convs) + 1, dim=1)
        outputs = []
        for part, conv, bn in zip(slices, self.convs, self.bns):
            if outputs:
                part = part + outputs[-1]
            outputs.append(bn(self.relu(conv(part))))
        y = self.bn3(self.relu(self.conv3(torch.cat([*outputs, slices[-1]], dim=1))))
        return self.afms(self.mp(y + self.residual(x)))


class MainModel(SpeakerNetwork):
    """RawNet3 (Jung et al., Interspeech 2022, arXiv 2203.08488); `sinc_stride` samples between its first frames."""

    WAV_SCALE = 1.0  # its published weights and recipe know waves in [-1, 1]
    ENCODERS = ("ECA", "ASP")
    UNUSED_PARAMETERS = ("bn1.", "bn6.")  # held for the checkpoints' sake

    def __init__(self, nOut=256, encoder_type="ECA", sinc_stride=10):
        super().__init__(encoder_type)
        self.LEAST_SAMPLES = KERNEL + 29 * sinc_stride  # two frames after pooling by 5 and 3
        self.preprocess = nn.Sequential(PreEmphasis(), nn.InstanceNorm1d(1, eps=1e-4, affine=True))
        self.conv1 = SincConvolution(sinc_stride)
        self.bn1 = nn.BatchNorm1d(CHANNELS // 4)
        self.layer1 = Res2Block1d(CHANNELS // 4, CHANNELS, dilation=2, pool=5)
        self.layer2 = Res2Block1d(CHANNELS, CHANNELS, dilation=3, pool=3)
        self.layer3 = Res2Block1d(CHANNELS, CHANNELS, dilation=4)
        self.layer4 = nn.Conv1d(3 * CHANNELS, 1536, 1)
        self.mp3 = nn.MaxPool1d(3)
        self.attention = nn.Sequential(
            nn.Conv1d(3 * 1536, 128, 1),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(128),
            nn.Conv1d(128, 1536 if encoder_type == "ECA" else 1, 1),
        )
        self.bn5 = nn.BatchNorm1d(3072)
        self.fc6 = nn.Linear(3072, nOut)
        self.bn6 = nn.BatchNorm1d(nOut)

    def features(self, wave):
        """Return log responses of the sinc filters (batch, 256, frames), float32, of `wave` (batch, samples).

        Unlike those of the mel networks they have a gradient: the filters are learned.
        """
        self.check_length(wave)
        pre_emphasis, norm = self.preprocess
        with torch.autocast(wave.device.type, enabled=False):
            x = norm(pre_emphasis(wave.float()).unsqueeze(1))
            x = torch.log(self.conv1(x).abs() + 1e-6)
            return x - x.mean(dim=2, keepdim=True)

    def embed(self, features):
        """Return the embedding (batch, nOut) of `features` (batch, 256, frames)."""
        x1 = self.layer1(features)
        x2 = self.layer2(x1)
        x1 = self.mp3(x1)
        x3 = self.layer3(x1 + x2)
        x = F.relu(self.layer4(torch.cat([x1, x2, x3], dim=1)))
        wide = x.float()
        variance, mean = torch.var_mean(wide, dim=2, keepdim=True)
        deviation = variance.clamp(1e-4, 1e4).sqrt()
        context = torch.cat([wide, mean.expand_as(wide), deviation.expand_as(wide)], dim=1)
        weights = torch.softmax(self.attention(context).float(), dim=2)
        mean = (wide * weights).sum(dim=2)
        deviation = ((wide.square() * weights).sum(dim=2) - mean.square()).clamp(1e-4, 1e4).sqrt()
        return self.fc6(self.bn5(torch.cat([mean, deviation], dim=1)))
