"""FastECAPA, a compact ECAPA-TDNN for small data and CPUs: 2 M parameters, half the frame rate, 80 mel bands.
Entry point: MainModel.
"""

import torch
from torch import nn
from torch.nn import functional

from audio.features import SpeakerMel
from models.blocks.network import SpeakerNetwork


class Convolution(nn.Sequential):
    """Conv1d that keeps the length (at stride 1), ReLU, BatchNorm."""

    def __init__(self, inputs, outputs, kernel, dilation=1, stride=1):
        padding = dilation * (kernel - 1) // 2
        convolution = nn.Conv1d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        super().__init__(convolution, nn.ReLU(inplace=True), nn.BatchNorm1d(outputs))


class Res2Block(nn.Module):
    """1x1 convolution, a chain of dilated ones over `scale` slices of channels, 1x1, squeeze-excitation, shortcut."""

    def __init__(self, channels, dilation, scale=8):
        super().__init__()
        width, squeezed = channels // scale, max(32, channels // 4)
        self.first, self.last = Convolution(channels, channels, 1), Convolution(channels, channels, 1)
        self.chain = nn.ModuleList(Convolution(width, width, 3, dilation) for _ in range(scale - 1))
        self.excite = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x):
        kept, *slices = self.first(x).chunk(len(self.chain) + 1, dim=1)
        outputs = [kept]
        for part, convolution in zip(slices, self.chain):
            outputs.append(convolution(part if len(outputs) == 1 else part + outputs[-1]))
        y = self.last(torch.cat(outputs, dim=1))
        return x + y * self.excite(y.mean(dim=2)).unsqueeze(2)


class ContextPooling(nn.Module):
    """Attentive mean and standard deviation per channel; the attention also sees those of the whole crop."""

    def __init__(self, channels, hidden=128):
        super().__init__()
        self.frames, self.context = nn.Conv1d(channels, hidden, 1), nn.Linear(2 * channels, hidden, bias=False)
        self.scores = nn.Sequential(
            nn.ReLU(inplace=True), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Conv1d(hidden, channels, 1)
        )

    def forward(self, x):
        """Return (batch, 2 * channels) of `x` (batch, channels, frames)."""
        exact = x.float()
        variance, mean = torch.var_mean(exact, dim=2, correction=0)
        context = self.context(torch.cat([mean, variance.clamp(min=1e-4).sqrt()], dim=1))
        weights = torch.softmax(self.scores(self.frames(x) + context.unsqueeze(2)).float(), dim=2)
        mean = (weights * exact).sum(2)
        variance = (weights * exact.square()).sum(2) - mean.square()
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)


class MainModel(SpeakerNetwork):
    """ECAPA-TDNN (Desplanques et al., Interspeech 2020) with a stride of two frames in the first layer.

    Args:
        channels: width of the blocks.
        input_norm: "corpus" brings each band to the mean and variance of the training corpus (running statistics),
            which keeps what distinguishes recordings; "utterance" subtracts each utterance's own mean instead.
    """

    def __init__(self, nOut=192, n_mels=80, log_input=True, channels=256, input_norm="corpus"):
        super().__init__("ASP")
        if input_norm not in ("corpus", "utterance"):
            raise ValueError(f"--input_norm {input_norm}: one of corpus, utterance")
        if channels % 8:
            raise ValueError(f"--channels {channels}: must be a multiple of 8")
        self.torchfb = SpeakerMel(False, "hamming", n_mels, log_input)
        self.input_norm = nn.BatchNorm1d(n_mels, affine=False) if input_norm == "corpus" else None
        self.stem = Convolution(n_mels, channels, 5, stride=2)
        self.blocks = nn.ModuleList(Res2Block(channels, dilation) for dilation in (2, 3, 4))
        self.merge = nn.Conv1d(3 * channels, 3 * channels, 1)
        self.pooling = ContextPooling(3 * channels)
        self.pooled_norm, self.fc = nn.BatchNorm1d(6 * channels), nn.Linear(6 * channels, nOut)
        self.embedding_norm = nn.BatchNorm1d(nOut)

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this network."""
        parser.add_argument("--channels", type=int, default=256, help="FastECAPA: width of the blocks")
        parser.add_argument(
            "--input_norm", choices=("corpus", "utterance"), default="corpus", help="FastECAPA: see its class"
        )

    def features(self, wave):
        """Return normalised log-mel features (batch, n_mels, frames), float32, of `wave` (batch, samples)."""
        self.check_length(wave)
        with torch.no_grad(), torch.autocast(wave.device.type, enabled=False):
            mel = self.torchfb.mel(wave)
            return self.input_norm(mel) if self.input_norm is not None else mel - mel.mean(dim=2, keepdim=True)

    def embed(self, features):
        """Return the embedding (batch, nOut) of `features` (batch, n_mels, frames)."""
        x = self.stem(features)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = functional.relu(self.merge(torch.cat(outputs, dim=1)))
        return self.embedding_norm(self.fc(self.pooled_norm(self.pooling(x))).float())
