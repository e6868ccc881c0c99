"""The ResNet speaker encoders of WeSpeaker with the names of its checkpoints (Wang et al., ICASSP 2023).

Entry point: WespeakerResNet, the parent of ResNet18 to ResNet293."""

import re

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks.network import FrontEndNetwork, as_image, initialise
from models.blocks.se_resnet import downsample, make_stage

LEAST_VARIANCE = 1e-7  # under the square root of a standard deviation
# depth: blocks of the four stages
STAGES = {
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 221: (6, 16, 48, 3),
    293: (10, 20, 64, 3),
}  # fmt: skip
DEEPEST_BASIC = 34  # deeper networks have bottleneck blocks


class BasicBlock(nn.Module):
    """conv 3x3, BN, ReLU, conv 3x3, BN, shortcut, ReLU."""

    expansion = 1

    def __init__(self, inplanes, planes, stride=1, first=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = downsample(inplanes, planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


class Bottleneck(nn.Module):
    """conv 1x1, conv 3x3 with the stride, conv 1x1 to four times the width, each with BN; shortcut, ReLU."""

    expansion = 4

    def __init__(self, inplanes, planes, stride=1, first=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, self.expansion * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * planes)
        self.shortcut = downsample(inplanes, self.expansion * planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


class StatisticsPooling(nn.Module):
    """Mean (TAP), unbiased standard deviation (TSDP) or both (TSTP) over time, of every channel and band."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        """Return (batch, rows) or (batch, 2 * rows) of `x` (batch, rows, frames)."""
        if self.kind == "TAP":
            return x.mean(dim=2)
        variance, mean = torch.var_mean(x, dim=2)
        deviation = (variance + LEAST_VARIANCE).sqrt()
        return deviation if self.kind == "TSDP" else torch.cat([mean, deviation], dim=1)


class AttentivePooling(nn.Module):
    """ASTP: mean and standard deviation under attention weights over time (Okabe et al. 2018, arXiv 1803.10963)."""

    def __init__(self, rows, hidden=128):
        super().__init__()
        self.linear1, self.linear2 = nn.Conv1d(rows, hidden, 1), nn.Conv1d(hidden, rows, 1)

    def forward(self, x):
        """Return (batch, 2 * rows) of `x` (batch, rows, frames)."""
        weights = torch.softmax(self.linear2(torch.tanh(self.linear1(x))).float(), dim=2)
        mean = (weights * x).sum(dim=2)
        variance = (weights * (x - mean.unsqueeze(2)).square()).sum(dim=2)
        return torch.cat([mean, variance.clamp(min=LEAST_VARIANCE).sqrt()], dim=1)


class WespeakerResNet(FrontEndNetwork):
    """Four stages of residual blocks on an image of bands and frames, pooling over time, one or two linear layers.

    Args:
        nOut, n_mels: size of the embedding, bands of the Kaldi filterbank (a multiple of 8).
        encoder_type: pooling over time: TSTP (mean and standard deviation), TSDP, TAP or ASTP (attentive).
        two_emb_layer: ReLU, BatchNorm and a second linear layer after the first.
        normalize_var: divide the features by their standard deviation over time, too, not only subtract the mean.
        width: channels of the first stage.
    """

    WAV_SCALE = 32768.0  # WeSpeaker trains on 16-bit amplitudes, which the floor of the filterbank sees
    ENCODERS = ("TSTP", "TSDP", "TAP", "ASTP")
    TEST_OPTIONS = {"width": 4, "n_mels": 16}
    # model_args of WeSpeaker's config.yaml: ours
    CONFIG = {
        "feat_dim": "n_mels", "embed_dim": "nOut", "pooling_func": "encoder_type", "two_emb_layer": "two_emb_layer",
    }  # fmt: skip
    DEPTH = 34

    def __init__(self, nOut=256, n_mels=80, encoder_type="TSTP", two_emb_layer=False, width=32, normalize_var=False):
        if n_mels < 8 or n_mels % 8:
            raise ValueError(f"n_mels {n_mels} must be a multiple of 8: three stages halve the number of bands")
        super().__init__(encoder_type, "kaldi", n_mels, least_frames=9)  # two of the last stage, for a deviation
        if normalize_var:
            self.front_end.normalisation = "mean_variance"
        block = BasicBlock if self.DEPTH <= DEEPEST_BASIC else Bottleneck
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inplanes = width
        for stage, blocks in enumerate(STAGES[self.DEPTH], start=1):
            planes, stride = width * 2 ** (stage - 1), 1 if stage == 1 else 2
            self.add_module(f"layer{stage}", make_stage(block, inplanes, planes, blocks, stride, block.expansion))
            inplanes = planes * block.expansion
        rows = inplanes * (n_mels // 8)
        self.pool = AttentivePooling(rows) if encoder_type == "ASTP" else StatisticsPooling(encoder_type)
        self.seg_1 = nn.Linear(rows * (1 if encoder_type in ("TAP", "TSDP") else 2), nOut)
        self.seg_bn_1 = nn.BatchNorm1d(nOut, affine=False) if two_emb_layer else None
        self.seg_2 = nn.Linear(nOut, nOut) if two_emb_layer else None
        self.embedding_size = nOut
        initialise(self)

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this network."""
        parser.set_defaults(nOut=256, n_mels=80, encoder_type="TSTP")
        parser.add_bool("--two_emb_layer", help="ResNet: a second linear layer after the first")
        parser.add_bool("--normalize_var", help="ResNet: divide the features by their deviation over time, too")

    def embed(self, features):
        """Return the embedding (batch, nOut) of `features` (batch, n_mels, frames)."""
        x = F.relu(self.bn1(self.conv1(as_image(features, self.training))), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        embedding = self.seg_1(self.pool(x.flatten(1, 2).float()))
        return embedding if self.seg_2 is None else self.seg_2(self.seg_bn_1(F.relu(embedding)))

    @classmethod
    def from_foreign(cls, weights):
        """Return (constructor arguments, weights) of a WeSpeaker checkpoint of this depth, None for another layout.

        The classifier (`projection`) is dropped; counters of batches, which averaging made floats, become integers.
        """
        if not {"conv1.weight", "bn1.running_mean", "seg_1.weight"} <= set(weights):
            return None
        blocks = {tuple(map(int, m.groups())) for m in map(re.compile(r"layer(\d)\.(\d+)\.").match, weights) if m}
        found = tuple(sum(stage == number for stage, _ in blocks) for number in range(1, 5))
        if found != STAGES[cls.DEPTH] or ("layer1.0.conv3.weight" in weights) != (cls.DEPTH > DEEPEST_BASIC):
            return None
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith("projection.")}
        for name in kept:
            if name.endswith("num_batches_tracked"):
                kept[name] = kept[name].long()
        width = weights["conv1.weight"].shape[0]
        rows_per_eight_bands = 8 * width * (1 if cls.DEPTH <= DEEPEST_BASIC else Bottleneck.expansion)
        nOut, pooled = weights["seg_1.weight"].shape
        attentive = "pool.linear1.weight" in weights
        # TAP and TSDP look alike and are rare: without an attention the pooling is TSTP
        sizes = {"nOut": nOut, "n_mels": 8 * pooled // (2 * rows_per_eight_bands), "width": width}
        return {**sizes, "encoder_type": "ASTP" if attentive else "TSTP", "two_emb_layer": "seg_2.weight" in kept}, kept
