"""Pooling over time: one vector of a sequence of frames, of which only the first `length` are valid.
Entry points: TimePooling, POOLINGS.
"""

import torch
from torch import nn

from models.blocks.ecapa import AttentiveStatistics
from models.blocks.tdnn import frame_mask

# how many times the size of a frame the result has
POOLINGS = {"mean": 1, "max": 1, "first": 1, "middle": 1, "last": 1, "random": 1, "mean+std": 2, "attentive": 2,
            "quantile": 5}  # fmt: skip
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def valid_frames(x, lengths):
    """Return a mask (batch, frames, 1) for `x` (batch, frames, dim), True in the first `lengths` (batch) frames."""
    return frame_mask(lengths, x.shape[1]).transpose(1, 2)


def mean(x, lengths):
    """Return the mean (batch, dim) over the valid frames of `x` (batch, frames, dim)."""
    valid = valid_frames(x, lengths)
    return x.masked_fill(~valid, 0.0).sum(1) / lengths.unsqueeze(1)


def mean_and_deviation(x, lengths):
    """Return mean and unbiased standard deviation (batch, 2 dim); of a single frame the latter is at its floor."""
    centre = mean(x, lengths)
    valid = valid_frames(x, lengths)
    squares = (x - centre.unsqueeze(1)).square().masked_fill(~valid, 0.0).sum(1)
    variance = squares / (lengths - 1).clamp(min=1).unsqueeze(1)
    # the floor keeps the gradient of the root finite
    return torch.cat([centre, variance.clamp(min=1e-12).sqrt()], dim=1)


def maximum(x, lengths):
    """Return the maximum (batch, dim) over the valid frames."""
    return x.masked_fill(~valid_frames(x, lengths), -torch.inf).amax(1)


def quantiles(x, lengths, shares):
    """Return quantiles (batch, len(shares) dim) over the valid frames, the smallest of all dimensions first.

    Between two frames they are interpolated linearly.
    """
    ordered = x.masked_fill(~valid_frames(x, lengths), torch.inf).sort(1).values
    position = torch.tensor(shares, device=x.device) * (lengths - 1).unsqueeze(1)
    below, above = (i.long().unsqueeze(2).expand(-1, -1, x.shape[2]) for i in (position.floor(), position.ceil()))
    low, high = ordered.gather(1, below), ordered.gather(1, above)
    return torch.lerp(low, high, position.frac().unsqueeze(2).to(low)).flatten(1)


def frame_at(x, index):
    """Return the frame (batch, dim) at `index` (batch,) of each item."""
    return x.gather(1, index.view(-1, 1, 1).expand(-1, 1, x.shape[2])).squeeze(1)


STATISTICS = {"mean": mean, "max": maximum, "mean+std": mean_and_deviation}


class TimePooling(nn.Module):
    """One of POOLINGS; "random" takes any valid frame in training and the middle one in evaluation.

    Args:
        shares: of "quantile".
        attention_channels, global_context: of "attentive", the attentive statistics of ECAPA-TDNN.
    """

    def __init__(self, name, dim, shares=QUANTILES, attention_channels=128, global_context=True):
        super().__init__()
        self.name, self.shares = name, shares
        if name == "attentive":
            self.attentive = AttentiveStatistics(dim, attention_channels, global_context)

    def forward(self, x, lengths=None):
        """Return the pooled vectors, float32, of `x` (batch, frames, dim) with `lengths` (batch,) valid frames."""
        x = x.float()
        if self.name == "attentive":
            return self.attentive(x.transpose(1, 2), lengths)
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        if self.name in STATISTICS:
            return STATISTICS[self.name](x, lengths)
        if self.name == "quantile":
            return quantiles(x, lengths, self.shares)
        if self.name == "random" and self.training:
            return frame_at(x, (torch.rand(len(x), device=x.device) * lengths).long())
        return frame_at(x, {"first": torch.zeros_like(lengths), "last": lengths - 1}.get(self.name, lengths // 2))
