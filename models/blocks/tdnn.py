"""Layers of time-delay networks on (batch, channels, frames), named as in SpeechBrain's checkpoints.

Entry points: Convolution, Norm, TDNN (modules), frame_mask, mean_and_std (functions)."""

import torch
import torch.nn.functional as F
from torch import nn

LEAST_VARIANCE = 1e-12  # under the square root of a standard deviation


class Convolution(nn.Module):
    """Conv1d with reflected frames on both sides, so that an odd kernel keeps the number of frames."""

    def __init__(self, inputs, outputs, kernel, dilation=1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.padding = dilation * (kernel - 1) // 2

    def forward(self, x, context=None):
        """Return (batch, outputs, frames); `context` (batch, inputs - channels of x) is the same in every frame."""
        if context is not None:
            # the product with what is constant over time is computed once and not in every frame
            own, constant = self.conv.weight.split([x.shape[1], context.shape[1]], dim=1)
            y = F.conv1d(x, own, self.conv.bias)
            return y + (context.to(y.dtype) @ constant.squeeze(2).to(y.dtype).T).unsqueeze(2)
        if self.padding:
            x = F.pad(x, (self.padding, self.padding), mode="reflect")
        return self.conv(x)


class Norm(nn.Module):
    """BatchNorm1d over batch and frames."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x):
        return self.norm(x)


class TDNN(nn.Module):
    """Convolution, ReLU, BatchNorm in this order."""

    def __init__(self, inputs, outputs, kernel, dilation=1):
        super().__init__()
        self.conv = Convolution(inputs, outputs, kernel, dilation)
        self.norm = Norm(outputs)

    def forward(self, x, context=None):
        return self.norm(F.relu(self.conv(x, context), inplace=True))


def frame_mask(lengths, frames):
    """Return a boolean (batch, 1, frames), True in the first `lengths` (batch) frames of an item; None for None."""
    if lengths is None:
        return None
    return (torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)


def mean_and_std(x, mask=None, correction=0):
    """Return mean and standard deviation (batch, channels) of `x` (batch, channels, frames) where `mask`.

    `correction`: 1 for the unbiased deviation.
    """
    if mask is None:
        # faster than var_mean; the deviations from the mean sum to zero, so no gradient passes through the mean in them
        mean = x.mean(dim=2)
        deviation = torch.linalg.vector_norm(x - mean.detach().unsqueeze(2), dim=2)
        return mean, (deviation / (x.shape[2] - correction) ** 0.5).clamp(min=LEAST_VARIANCE**0.5)
    count = mask.sum(dim=2)
    mean, variance = _weighted(x, mask / count.unsqueeze(2))
    return mean, (variance * (count / (count - correction))).clamp(min=LEAST_VARIANCE).sqrt()


def weighted_mean_and_std(x, weights):
    """Return mean and standard deviation (batch, channels) of `x` under `weights` that sum to one over the frames."""
    mean, variance = _weighted(x, weights)
    return mean, variance.clamp(min=LEAST_VARIANCE).sqrt()


def _weighted(x, weights):
    mean = (weights * x).sum(dim=2)
    return mean, (weights * (x - mean.detach().unsqueeze(2)).square()).sum(dim=2)  # detached: as above
