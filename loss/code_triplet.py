"""Triplet loss on the attribute codes, over all triplets of a kind in the batch.
Entry point: LossFunction.
"""

from torch import nn

from loss._classify import in_float32
from loss._gather import gather
from loss._mining import TYPES, bounds, count_triplets, distances, weighted_sum


class LossFunction(nn.Module):
    """Mean of max(0, d(a, p) - d(a, n) + margin) over the mined triplets where it is positive, 0 where none is.

    d is the Euclidean distance of codes divided by their norms. In training the triplets are those of the batch of all
    processes, in evaluation those of this one's.

    Args:
        triplet_type: which triplets are mined, by d(a, n) - d(a, p): at most triplet_miner_margin (all), of these not
            above 0 (hard) or above 0 (semihard), or the ones above triplet_miner_margin (easy).
        triplet_margin: the margin of the loss.
        samples_per_class: recordings of a speaker in a batch; of one alone there is no triplet.
    """

    TASK = "attributes"
    DEFAULT_WEIGHT = 1.0
    NEEDS_TRAIN_CLASSES = False

    def __init__(self, triplet_type="all", triplet_miner_margin=0.3, triplet_margin=0.05, samples_per_class=2):
        super().__init__()
        if samples_per_class < 2:
            raise ValueError("triplet needs two recordings of a speaker in a batch: give --samples_per_class 2 or more")
        bounds(triplet_type, triplet_miner_margin)
        self.kind, self.miner_margin, self.margin = triplet_type, triplet_miner_margin, triplet_margin

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this loss."""
        about = "triplet: which triplets are mined, by d(a,n) - d(a,p): at most the miner's margin (all), of these "
        about += "at most 0 (hard) or above 0 (semihard), or those above the margin (easy)"
        parser.add_argument("--triplet_type", choices=TYPES, default="all", help=about)
        parser.add_argument(
            "--triplet_miner_margin", type=float, default=0.3, help="triplet: margin of the miner, a distance (0 to 2)"
        )
        parser.add_argument(
            "--triplet_margin", type=float, default=0.05, help="triplet: margin of the loss, a distance (0 to 2)"
        )

    @in_float32
    def forward(self, input, labels, code, reconstruction, z):
        """Return the loss of `code` (batch, attributes) with `labels` (batch,); the rest is not used."""
        if self.training:
            code, labels = gather(code), gather(labels)
        distance = distances(code)
        of_positive, of_negative = count_triplets(distance, labels, self.kind, self.miner_margin, self.margin)
        # the sum over all triplets is linear in the distances
        total = of_positive.sum()
        value = weighted_sum(code, distance, of_positive - of_negative) + self.margin * total
        return value / total.clamp(min=1)
