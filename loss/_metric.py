"""What the metric losses share: the shape check, the batch of all processes, scaled cosines.
Entry points: MetricLoss and ScaledMetricLoss, completed by a subclass with compare().
"""

import torch
from torch import nn
from torch.nn import functional

from loss._classify import in_float32
from loss._gather import gather


def check_utterances(loss: nn.Module, x: torch.Tensor):
    """Raise ValueError where `x` (speakers, nPerSpeaker, dim) does not have the utterances per speaker `loss` needs."""
    each = x.shape[1] if x.ndim == 3 else 1
    if each < loss.MIN_UTTERANCES or (loss.MAX_UTTERANCES and each > loss.MAX_UTTERANCES):
        needed = f"{'exactly' if loss.MAX_UTTERANCES else 'at least'} {loss.MIN_UTTERANCES}"
        raise ValueError(
            f"{type(loss).__module__} needs {needed} utterances per speaker, got {each}: set --nPerSpeaker"
        )


class MetricLoss(nn.Module):
    """A loss among the speakers of the whole batch; label values are not used, speakers are told apart by position."""

    test_normalize = True
    MIN_UTTERANCES, MAX_UTTERANCES = 2, None
    CLASSIFIES = False

    def __init__(self):  # nn.Module's own takes any argument, and so would be handed every flag
        super().__init__()

    @in_float32
    def forward(self, x, label=None):
        """Return (loss, accuracy in percent) of `x` (speakers, nPerSpeaker, dim).

        Raises:
            ValueError: the number of utterances per speaker does not suit this loss.
        """
        check_utterances(self, x)
        return self.compare(gather(x))

    def compare(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (loss, accuracy) of the speakers (speakers, nPerSpeaker, dim) of all processes."""
        raise NotImplementedError


class ScaledMetricLoss(MetricLoss):
    """Logits w cos + b with learnable `w` and `b`, w kept at or above 1e-6."""

    def __init__(self, init_w=10.0, init_b=-5.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(float(init_w)))
        self.b = nn.Parameter(torch.tensor(float(init_b)))

    def scaled(self, cosine: torch.Tensor) -> torch.Tensor:
        """Return the logits of `cosine`."""
        self.w.data.clamp_(min=1e-6)
        return self.w * cosine + self.b


def cosine_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cosines (rows of a, rows of b)."""
    return functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).T


def positions(x: torch.Tensor) -> torch.Tensor:
    """Return 0 .. speakers - 1, the classes of a batch."""
    return torch.arange(len(x), device=x.device)
