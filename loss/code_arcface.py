"""Additive angular margin on the attribute codes (Deng et al., ArcFace, CVPR 2019), samples weighted by their triplets.
Entry point: LossFunction.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from loss._classify import in_float32
from loss._gather import gather
from loss._margin import move_angle
from loss._mining import TYPES, bounds, count_triplets, distances, occurrences


class LossFunction(nn.Module):
    """Mean over the samples of weight x cross entropy of logits scale x cos, the own class's angle larger by a margin.

    A sample's weight is the number of mined triplets that it is in, divided by the largest such number in the batch (of
    all processes); 1 where no triplet is mined. The columns of `W` (internal_dim, nClasses) are the classes.

    Args:
        arcface_margin_degrees: the angular margin.
        arcface_miner_type, arcface_miner_margin: which triplets count, see code_triplet.
    """

    TASK = "attributes"
    DEFAULT_WEIGHT = 0.001
    NEEDS_TRAIN_CLASSES = True

    def __init__(
        self, internal_dim, nClasses, arcface_scale=64.0, arcface_margin_degrees=28.6, arcface_miner_type="all",
        arcface_miner_margin=0.3,
    ):  # fmt: skip
        super().__init__()
        if nClasses < 2:
            raise ValueError(f"arcface needs at least 2 training speakers, there are {nClasses}")
        if not 0 <= arcface_margin_degrees < 90:
            raise ValueError(f"--arcface_margin_degrees {arcface_margin_degrees}: must be at least 0 and below 90")
        bounds(arcface_miner_type, arcface_miner_margin)
        self.scale, self.kind, self.miner_margin = arcface_scale, arcface_miner_type, arcface_miner_margin
        margin = torch.tensor(math.radians(arcface_margin_degrees))
        self.register_buffer("margin", margin, persistent=False)
        self.W = nn.Parameter(torch.randn(internal_dim, nClasses))

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this loss."""
        parser.add_argument("--arcface_scale", type=float, default=64.0, help="arcface: factor of the cosines")
        parser.add_argument(
            "--arcface_margin_degrees", type=float, default=28.6, help="arcface: angular margin, degrees (0 to 90)"
        )
        parser.add_argument(
            "--arcface_miner_type", choices=TYPES, default="all", help="arcface: which triplets weight the samples"
        )
        parser.add_argument(
            "--arcface_miner_margin", type=float, default=0.3, help="arcface: margin of the miner, a distance (0 to 2)"
        )

    @in_float32
    def forward(self, input, labels, code, reconstruction, z):
        """Return the loss of `code` (batch, attributes), `labels` (batch,) numbers of classes; the rest is not used."""
        cosine = self.cosines(code)
        target = cosine.gather(1, labels[:, None])
        moved = move_angle(target, self.margin, self.margin * self.margin.sin())
        logits = self.scale * cosine.scatter(1, labels[:, None], moved)
        return (functional.cross_entropy(logits, labels, reduction="none") * self.weights(code, labels)).mean()

    def cosines(self, code):
        """Return the cosines (batch, nClasses); a code of zeros has the cosine 0 to every class."""
        return functional.normalize(code, eps=1.0) @ functional.normalize(self.W, dim=0)

    @torch.no_grad()
    def weights(self, code, labels):
        """Return the samples' weights (batch,) by the triplets that they are in."""
        rows = len(code)
        if self.training:
            code, labels = gather(code), gather(labels)
        count = occurrences(*count_triplets(distances(code), labels, self.kind, self.miner_margin))
        largest = count.max()
        weight = torch.where(largest > 0, count / largest.clamp(min=1), torch.ones_like(count)).to(code.dtype)
        return weight if len(weight) == rows else weight.chunk(len(weight) // rows)[torch.distributed.get_rank()]
