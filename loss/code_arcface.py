"""Additive angular margin on the attribute codes (Deng et al., ArcFace, CVPR 2019), samples weighted by their triplets.
Entry point: LossFunction.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from loss._classify import in_float32
from loss._gather import gather, own_rows
from loss._margin import move_angle
from loss._mining import TYPES, bounds, count_triplets, distances, inverse_norms, occurrences


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
        cosine, labels = self.cosines(code), labels[:, None]
        moved = move_angle(cosine.gather(1, labels), self.margin, self.margin * self.margin.sin())
        logits = self.scale * cosine.scatter(1, labels, moved)
        entropy = functional.cross_entropy(logits, labels.squeeze(1), reduction="none")
        return (entropy * self.weights(code, labels.squeeze(1))).mean()

    def cosines(self, code):
        """Return the cosines (batch, nClasses); a code of zeros has the cosine 0 to every class."""
        # rows that begin at multiples of 64 bytes: the products take two thirds of the time
        aligned = functional.pad(self.W, (0, -self.W.shape[1] % 16))
        products = (inverse_norms(code) * code @ aligned)[:, : self.W.shape[1]]
        return products * self.W.square().sum(0).clamp(min=1e-24).rsqrt()  # cheaper than to divide the larger W

    @torch.no_grad()
    def weights(self, code, labels):
        """Return the samples' weights (batch,) by the triplets that they are in."""
        if self.training:
            code, labels = gather(code), gather(labels)
        count = occurrences(*count_triplets(distances(code), labels, self.kind, self.miner_margin))
        most = count.max()
        weight = torch.where(most > 0, count / most.clamp(min=1), 1.0).to(code.dtype)
        return own_rows(weight) if self.training else weight
