"""Diagonal normal distributions that a network gives: posteriors of latents, likelihoods of features, their measures.
Entry points: Gaussian, log_density, kl_divergence, elbo_per_dimension, free_bits, warm_up.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from models.blocks.pointwise import Pointwise

KINDS = ("identity", "global_diagonal", "diagonal")
# names of section "likelihood" of the published configurations
LIKELIHOODS = {
    "identity": "identity", "normal-glob-diag-cov": "global_diagonal", "normal-diag-cov": "diagonal",
}  # fmt: skip


class Normal(NamedTuple):
    """Mean and standard deviation of normal distributions, one for each element; `std` broadcasts against `mean`."""

    mean: torch.Tensor
    std: torch.Tensor


class Gaussian(nn.Module):
    """Normal distributions, in float32, whose mean is a 1 x 1 convolution of what a network gives.

    Args:
        in_channels, out_channels: of the network and of the distribution.
        dims: 1 or 2, axes behind the channels.
        kind: identity: standard deviation 1; global_diagonal: learned, one for each channel, alike for all inputs;
            diagonal: predicted, the convolution gives the means first and then as many log-variances.
        most_std: upper limit of the standard deviation, for a posterior that of the prior; None for none.
        least_std: lower limit, 0 for none.
    """

    def __init__(self, in_channels, out_channels, dims=1, kind="global_diagonal", most_std=None, least_std=0.0):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"covariance {kind}: one of {', '.join(KINDS)}")
        if least_std < 0 or (most_std is not None and most_std < least_std):
            raise ValueError(f"standard deviation between {least_std} and {most_std}: the limits cross or are negative")
        self.kind, self.most_std, self.least_std = kind, most_std, least_std
        self.project = Pointwise(in_channels, out_channels * (2 if kind == "diagonal" else 1))
        if kind == "global_diagonal":
            self.logvar = nn.Parameter(torch.zeros(1, out_channels, *[1] * dims))

    def forward(self, hidden: torch.Tensor) -> Normal:
        """Return the distributions (batch, out_channels, positions) of `hidden` (batch, in_channels, positions)."""
        with torch.autocast(hidden.device.type, enabled=False):
            mean = self.project(hidden.float())
            if self.kind == "identity":
                return Normal(mean, mean.new_ones([1] * mean.dim()))
            logvar = getattr(self, "logvar", None)
            if self.kind == "diagonal":
                mean, logvar = mean.chunk(2, 1)
            return Normal(mean, limited_std(logvar, self.most_std, self.least_std))


def limited_std(logvar: torch.Tensor, most_std=None, least_std: float = 0.0) -> torch.Tensor:
    """Return exp(logvar / 2) between the limits; `most_std` is a number, a tensor or None."""
    std = (0.5 * logvar).exp()
    if most_std is not None:
        std = std.clamp(max=most_std)
    return std.clamp(min=least_std) if least_std else std


def log_density(x: torch.Tensor, normal: Normal) -> torch.Tensor:
    """Return ln N(x; mean, std^2) of every element, in nats."""
    return -0.5 * math.log(2 * math.pi) - normal.std.log() - 0.5 * ((x - normal.mean) / normal.std).square()


def kl_divergence(q: Normal, p: Normal | None = None) -> torch.Tensor:
    """Return KL(q || p) of every element in nats; p is standard normal where it is None. Kingma and Welling 2014."""
    mean, std = (0.0, 1.0) if p is None else p
    ratio = q.std / std
    return 0.5 * (ratio.square() + ((q.mean - mean) / std).square() - 1) - ratio.log()


def elbo_per_dimension(log_px: torch.Tensor, kl: torch.Tensor, kl_weight: float = 1.0) -> torch.Tensor:
    """Return the evidence lower bound per dimension of x; both arguments, too, are in nats per dimension of x."""
    return log_px - kl_weight * kl


def free_bits(kl: torch.Tensor, least: float) -> torch.Tensor:
    """Return `kl` (batch, channels) in nats with at least `least` in each channel. Kingma et al. 2016, 1606.04934.

    Below it the gradient is zero: a channel gains nothing from being emptied further.
    """
    return kl.clamp(min=least) if least else kl


def warm_up(step: int, steps: int, weight: float = 1.0) -> float:
    """Return the weight of the KL divergence at update `step`, which grows linearly from 0 over `steps` updates."""
    return weight * min(1.0, step / steps) if steps else weight
