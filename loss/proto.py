"""Prototypical loss (Snell et al. 2017): a speaker's first utterance must be nearest to the mean of its other ones.
Entry point: LossFunction.
"""

import torch

from loss._classify import cross_entropy
from loss._metric import MetricLoss, positions


class LossFunction(MetricLoss):
    """Logits minus the squared Euclidean distance of queries and prototypes, without normalisation."""

    test_normalize = False

    def compare(self, x):
        """Return (loss, accuracy) of `x` (speakers, nPerSpeaker, dim)."""
        # Differences and not the expanded square: it cancels badly for embeddings that are not normalised.
        # The gradient of a distance 0 is 0.
        distance = torch.cdist(x[:, 0], x[:, 1:].mean(1), compute_mode="donot_use_mm_for_euclid_dist")
        return cross_entropy(-(distance**2), positions(x))
