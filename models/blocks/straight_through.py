"""Threshold with a gradient: bits in the forward pass, the clipped gradient passed on in the backward pass.
Entry point: binarise.
"""

import torch


class _Threshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, clip):
        ctx.clip = clip
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(*ctx.clip), None


def binarise(z: torch.Tensor, clip: tuple[float, float] = (-1, 1)) -> torch.Tensor:
    """Return 1 where z > 0 and 0 elsewhere; the gradient with respect to z is the upstream one within `clip`.

    Bengio et al. 2013, arXiv 1308.3432, with the clipping on the gradient instead of on the input.
    """
    return _Threshold.apply(z, clip)
