"""What the margin losses share: cosines to (sub-)centres, the current margin, the inter-top-k penalty.
Entry point: MarginLoss, completed by a subclass with class_vectors() and with_margin().
"""

import math

import torch
from torch import nn
from torch.nn import functional

from loss._classify import cross_entropy, flatten, in_float32


def cosines(x: torch.Tensor, vectors: torch.Tensor, sub_centres: int = 1) -> torch.Tensor:
    """Return the cosine (rows, classes) of each row of `x` and the nearest of a class's `sub_centres` vectors.

    Rows j * sub_centres to (j + 1) * sub_centres of `vectors` belong to class j. Norms are floored at 1e-12.
    Deng et al., Sub-center ArcFace, ECCV 2020.
    """
    cosine = functional.linear(functional.normalize(x, eps=1e-12), functional.normalize(vectors, eps=1e-12))
    return cosine if sub_centres == 1 else cosine.unflatten(1, (-1, sub_centres)).amax(2)


def sine(cosine: torch.Tensor) -> torch.Tensor:
    """Return the sine that belongs to `cosine`, kept off 0, where its derivative is infinite."""
    return (1 - cosine**2).clamp(1e-12, 1).sqrt()


def move_angle(cosine: torch.Tensor, margin: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    """Return cos(theta + margin), which falls with theta only up to pi - margin: beyond, cosine - drop.

    Deng et al., ArcFace, CVPR 2019, whose `drop` is margin * sin(margin).
    """
    moved = cosine * margin.cos() - sine(cosine) * margin.sin()
    return torch.where(cosine > -margin.cos(), moved, cosine - drop)


def penalise_nearest(cosine: torch.Tensor, label: torch.Tensor, k: int, margin: torch.Tensor) -> torch.Tensor:
    """Raise the k largest cosines to other classes to cos(theta - margin); `cosine` is (rows, classes).

    k is capped at classes - 1. Zhao et al. 2021, arXiv 2110.05042.
    """
    others = cosine.detach().scatter(1, label[:, None], -2.0)
    nearest = others.topk(min(k, cosine.shape[1] - 1), dim=1).indices
    chosen = cosine.gather(1, nearest)
    return cosine.scatter(1, nearest, chosen * margin.cos() + sine(chosen) * margin.sin())


class MarginLoss(nn.Module):
    """Cross entropy of scaled cosines, the target's made smaller by a margin.

    Args:
        margin: the final margin; set_margin changes the current one during training.
        sub_centres: vectors per class.
        inter_topk: this many nearest other classes are penalised (0: off), by inter_topk_margin radians, which grows
            with the current margin.
    """

    test_normalize = True
    MIN_UTTERANCES, MAX_UTTERANCES = 1, None
    CLASSIFIES = True

    def __init__(self, nClasses, margin, scale, sub_centres, inter_topk, inter_topk_margin):
        super().__init__()
        if nClasses < 2 or sub_centres < 1 or inter_topk < 0:
            raise ValueError(
                f"--nClasses {nClasses} must be at least 2, --sub_centres {sub_centres} at least 1, "
                f"--inter_topk {inter_topk} at least 0"
            )
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"--margin {margin}: must be at least 0 and below pi / 2")
        self.margin, self.scale, self.sub_centres = margin, scale, sub_centres
        self.inter_topk, self.inter_topk_margin = inter_topk, inter_topk_margin
        # A tensor and not a number: a compiled graph is not built anew each time the margin changes.
        # Not persistent: it follows from the step, and the names in checkpoints are fixed.
        self.register_buffer("current_margin", torch.tensor(float(margin)), persistent=False)

    def set_margin(self, margin: float):
        """Use `margin` from the next forward on."""
        self.current_margin.fill_(margin)

    def class_vectors(self) -> torch.Tensor:
        """Return the vectors (nClasses * sub_centres, dim)."""
        raise NotImplementedError

    def with_margin(self, cosine: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
        """Return the cosines to the own class (rows, 1) with `margin` applied."""
        raise NotImplementedError

    @in_float32
    def forward(self, x, label):
        """Return (loss, accuracy in percent) of `x` (speakers, dim) or (speakers, each, dim) and label (speakers,)."""
        x, label = flatten(x, label)
        cosine = cosines(x, self.class_vectors(), self.sub_centres)
        target = self.with_margin(cosine.gather(1, label[:, None]), self.current_margin)
        if self.inter_topk:
            share = self.current_margin / self.margin if self.margin else torch.ones_like(self.current_margin)
            cosine = penalise_nearest(cosine, label, self.inter_topk, self.inter_topk_margin * share)
        return cross_entropy(self.scale * cosine.scatter(1, label[:, None], target), label)
