"""Softmax and angular prototypical loss added up (Heo et al. 2020, arXiv 2009.14153).
Entry point: LossFunction.
"""

from torch import nn

from loss import angleproto, softmax
from loss._metric import check_utterances


class LossFunction(nn.Module):
    """Sum of `softmax` over all utterances and `angleproto`; the accuracy is that of the softmax part."""

    test_normalize = True
    MIN_UTTERANCES, MAX_UTTERANCES = 2, 2
    CLASSIFIES = True

    def __init__(self, nOut, nClasses, init_w=10.0, init_b=-5.0):
        super().__init__()
        self.softmax = softmax.LossFunction(nOut, nClasses)
        self.angleproto = angleproto.LossFunction(init_w, init_b)

    def forward(self, x, label):
        """Return (loss, accuracy in percent) of `x` (speakers, 2, dim) and label (speakers,)."""
        check_utterances(self, x)
        classified, accuracy = self.softmax(x, label)
        return classified + self.angleproto(x)[0], accuracy
