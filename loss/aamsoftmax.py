"""Additive angular margin softmax (Deng et al., ArcFace, CVPR 2019), also with sub-centres and inter-top-k penalty.
Entry point: LossFunction.
"""

import torch
from torch import nn

from loss._margin import MarginLoss, move_angle, sine


class LossFunction(MarginLoss):
    """Logits s cos(theta + m) for the own class, s cos(theta) for the others; `weight` (nClasses * sub_centres, nOut).

    Args:
        margin: radians.
        easy_margin: apply the margin only where cos(theta) > 0.
        continuous_fallback: beyond theta = pi - m use cos(theta) - 1 + cos(m), which continues the curve, and not the
            usual cos(theta) - m sin(m), which jumps there.
    """

    def __init__(self, nOut, nClasses, margin=0.3, scale=15, easy_margin=False, sub_centres=1, inter_topk=0,
                 inter_topk_margin=0.06, continuous_fallback=False):  # fmt: skip
        super().__init__(nClasses, margin, scale, sub_centres, inter_topk, inter_topk_margin)
        self.easy_margin, self.continuous_fallback = easy_margin, continuous_fallback
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(nClasses * sub_centres, nOut)))

    def class_vectors(self):
        """Return the vectors (nClasses * sub_centres, nOut)."""
        return self.weight

    def with_margin(self, cosine, margin):
        """Return the cosine of an angle larger by `margin`, or what continues it near pi."""
        if self.easy_margin:
            return torch.where(cosine > 0, cosine * margin.cos() - sine(cosine) * margin.sin(), cosine)
        return move_angle(cosine, margin, 1 - margin.cos() if self.continuous_fallback else margin * margin.sin())
