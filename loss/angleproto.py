"""Angular prototypical loss (Chung et al., In defence of metric learning for speaker recognition, Interspeech 2020).
Entry point: LossFunction.
"""

from loss._classify import cross_entropy
from loss._metric import ScaledMetricLoss, cosine_matrix, positions


class LossFunction(ScaledMetricLoss):
    """Logits w cos(query, prototype) + b; query: the first utterance, prototype: the mean of the other ones."""

    def compare(self, x):
        """Return (loss, accuracy) of `x` (speakers, nPerSpeaker, dim)."""
        return cross_entropy(self.scaled(cosine_matrix(x[:, 0], x[:, 1:].mean(1))), positions(x))
