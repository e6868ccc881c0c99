"""Softmax with cross entropy on a linear layer.
Entry point: LossFunction.
"""

from torch import nn

from loss._classify import cross_entropy, flatten, in_float32


class LossFunction(nn.Module):
    """Logits x W^T + b; `fc.weight` (nClasses, nOut), `fc.bias`."""

    test_normalize = True
    MIN_UTTERANCES, MAX_UTTERANCES = 1, None
    CLASSIFIES = True

    def __init__(self, nOut, nClasses):
        super().__init__()
        self.fc = nn.Linear(nOut, nClasses)

    @in_float32
    def forward(self, x, label):
        """Return (loss, accuracy in percent) of `x` (speakers, dim) or (speakers, each, dim) and label (speakers,)."""
        x, label = flatten(x, label)
        return cross_entropy(self.fc(x), label)
