"""Generalised end-to-end loss (Wan et al., ICASSP 2018), softmax form.
Entry point: LossFunction.
"""

import torch
from torch.nn import functional

from loss._classify import cross_entropy
from loss._metric import ScaledMetricLoss, cosine_matrix, positions


class LossFunction(ScaledMetricLoss):
    """Every utterance against the centroids of all speakers; it is left out of its own speaker's centroid."""

    def compare(self, x):
        """Return (loss, accuracy) of `x` (speakers, nPerSpeaker, dim)."""
        each = x.shape[1]
        others = (x.sum(1, keepdim=True) - x) / (each - 1)
        own = functional.cosine_similarity(x, others, dim=2).flatten()
        label = positions(x).repeat_interleave(each)
        cosine = cosine_matrix(x.flatten(0, 1), x.mean(1)).scatter(1, label[:, None], own[:, None])
        return cross_entropy(self.scaled(torch.clamp(cosine, min=1e-6)), label)
