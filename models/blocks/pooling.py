"""Attentive pooling over time: weights from a one-layer attention, weighted mean and standard deviation.

Entry points: attention_weights, weighted_pooling."""

import torch


def attention_weights(x, linear, attention):
    """Return softmax weights over time (batch, frames, 1) for `x` (batch, frames, dim).

    `linear` maps dim to dim, `attention` (dim, 1) scores tanh of that (Cai et al. 2018, arXiv 1804.05160).
    """
    return torch.softmax((torch.tanh(linear(x)) @ attention).float(), dim=1)


def weighted_pooling(x, weights, dim, encoder_type):
    """Return the weighted mean of `x` over the time axis `dim` (SAP), for ASP followed by the standard deviation.

    The variance is floored at 1e-5 and computed in float32, where the difference of two close numbers survives
    (Okabe et al. 2018, arXiv 1803.10963).
    """
    x = x.float()
    weighted = x * weights
    mean = weighted.sum(dim)
    if encoder_type == "SAP":
        return mean
    variance = (weighted * x).sum(dim) - mean.square()
    return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)
