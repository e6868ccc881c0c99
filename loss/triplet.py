"""Triplet loss (Schroff et al., FaceNet, CVPR 2015) with hard or semi-hard negatives from the batch.
Entry point: LossFunction.
"""

import torch
from torch.nn import functional

from loss._gather import from_rank_zero
from loss._metric import MetricLoss


class LossFunction(MetricLoss):
    """Mean of max(0, d(a, p)^2 - d(a, n)^2 + margin); a and p: a speaker's two utterances, n: another one's second.

    Draws come from torch's default generator of the device. The second output is the equal error rate of the chosen
    pairs in percent.

    Args:
        hard_rank: with probability `hard_prob` the negative is one of the hard_rank + 1 nearest ones, otherwise any;
            below 0: semi-hard, one that is farther than p by less than the margin (any where there is none).
    """

    MAX_UTTERANCES = 2
    ACCURACY = "train_eer"

    def __init__(self, hard_rank=10, hard_prob=0.5, margin=0.1):
        super().__init__()
        self.hard_rank, self.hard_prob, self.margin = hard_rank, hard_prob, margin

    def compare(self, x):
        """Return (loss, equal error rate in percent) of `x` (speakers, 2, dim)."""
        if len(x) < 2:
            raise ValueError("loss.triplet needs at least 2 speakers in a batch: give a larger --batch_size")
        anchor, positive = functional.normalize(x, dim=2).unbind(1)
        negative = positive[from_rank_zero(self.choose((anchor @ positive.T).detach()))]
        near, far = (anchor - positive).square().sum(1), (anchor - negative).square().sum(1)
        return functional.relu(near - far + self.margin).mean(), equal_error_rate(near.detach(), far.detach())

    def choose(self, cosine: torch.Tensor) -> torch.Tensor:
        """Draw the negative of each anchor, (speakers,), by the cosines (speakers, speakers) to the positives."""
        speakers = len(cosine)
        similarity = 2 * cosine - 2  # minus the squared distance
        allowed = ~torch.eye(speakers, dtype=torch.bool, device=cosine.device)
        if self.hard_rank < 0:
            own = similarity.diagonal()[:, None]
            preferred = allowed & (similarity < own) & (similarity > own - self.margin)
            use = preferred.any(1, keepdim=True)
        else:
            count = min(self.hard_rank + 1, speakers - 1)
            nearest = similarity.masked_fill(~allowed, -torch.inf).topk(count, dim=1).indices
            preferred = torch.zeros_like(allowed).scatter(1, nearest, True)
            use = torch.rand(speakers, 1, device=cosine.device) < self.hard_prob
        candidates = torch.where(use, preferred, allowed)
        # The largest of independent uniform numbers is a uniform draw, without waiting for the device.
        return torch.rand_like(similarity).masked_fill(~candidates, -1).argmax(1)


def equal_error_rate(near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    """Return the equal error rate in percent of as many distances of same (near) as of different speakers (far).

    The larger rate at the first point of the ROC where the two are nearest; points within straight runs do not count.
    All on the device.
    """
    distance, order = torch.cat([near, far]).sort(stable=True)
    same = order < len(near)
    accepted, alarms = same.cumsum(0), (~same).cumsum(0)
    # Equal distances are one point of the ROC, the last of them.
    last = functional.pad(distance[1:] != distance[:-1], (0, 1), value=True)
    index = torch.arange(len(distance), device=distance.device)
    before = functional.pad(torch.where(last, index, -1).cummax(0).values[:-1], (1, 0), value=-1)
    after = torch.where(last, index, len(index)).flip(0).cummin(0).values.flip(0)
    after = functional.pad(after[1:], (0, 1), value=len(index))
    inner = (before >= 0) & (after < len(index))
    before, after = before.clamp(min=0), after.clamp(max=len(index) - 1)
    straight = torch.ones_like(inner)
    for count in (accepted, alarms):
        straight &= 2 * count == count[before] + count[after]
    # In double precision, as in the evaluation: rounding decides between points that are equally near.
    missed, alarm = 1 - accepted.double() / len(near), alarms.double() / len(near)
    gap = (alarm - missed).abs().masked_fill(~last | (inner & straight), 2)
    # take(): an index in brackets would be read back to the host
    return 100 * torch.maximum(missed, alarm).take(gap.argmin()).float()
