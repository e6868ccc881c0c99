"""Additive margin softmax (Wang et al., CosFace, CVPR 2018), also with sub-centres and inter-top-k penalty.
Entry point: LossFunction.
"""

import torch
from torch import nn

from loss._margin import MarginLoss


class LossFunction(MarginLoss):
    """Logits s (cos(theta) - m) for the own class, s cos(theta) for the others; `W` (nOut, nClasses * sub_centres)."""

    def __init__(self, nOut, nClasses, margin=0.3, scale=15, sub_centres=1, inter_topk=0, inter_topk_margin=0.06):
        super().__init__(nClasses, margin, scale, sub_centres, inter_topk, inter_topk_margin)
        self.W = nn.Parameter(nn.init.xavier_normal_(torch.empty(nOut, nClasses * sub_centres)))

    def class_vectors(self):
        """Return the vectors (nClasses * sub_centres, nOut)."""
        return self.W.t()

    def with_margin(self, cosine, margin):
        """Return the cosine less the margin."""
        return cosine - margin
