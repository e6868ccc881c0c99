"""Operations of the waveform networks in two layouts: (batch, channels, T), and with the channels of a sample together.
Entry points: enter, leave, Conv, GroupNorm, resize.

On a CPU the forward pass is a tenth faster in the second layout, the backward pass is not. PyTorch has it for pictures
only: a sequence is then one of height 1, (batch, channels, 1, T).
"""

import torch
from torch import nn
from torch.nn import functional


def enter(x: torch.Tensor) -> torch.Tensor:
    """Return `x` (batch, channels, T) in the layout that is the faster one here; every operation below takes both."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return x
    return x[:, :, None].contiguous(memory_format=torch.channels_last)


def leave(x: torch.Tensor) -> torch.Tensor:
    """Return `x`, either layout, as (batch, channels, T)."""
    return x.squeeze(2).contiguous() if x.dim() == 4 else x


class Conv(nn.Conv1d):
    """A convolution over T of stride 1."""

    def forward(self, x):
        if x.dim() == 3:
            return super().forward(x)
        spread = {"padding": (0, self.padding[0]), "dilation": (1, self.dilation[0])}
        return functional.conv2d(x, self.weight[:, :, None], self.bias, **spread)


def resize(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `x` with T times `factor`: 1/n averages n neighbours, a rest left out; n repeats."""
    if factor == 1:
        return x
    if factor > 1:
        return functional.interpolate(x, scale_factor=(1.0, float(factor))[4 - x.dim() :])
    size = round(1 / factor)
    if x.dim() == 4 or x.device.type != "cpu":
        return functional.avg_pool2d(x, (1, size)) if x.dim() == 4 else functional.avg_pool1d(x, size)
    # PyTorch's own average takes ten times as long on a CPU
    whole = x.shape[-1] // size * size
    return sum(x[..., start:whole:size] for start in range(size)) / size


class GroupNorm(nn.GroupNorm):
    """Group normalisation, on request with a scale and a shift for every batch entry."""

    def forward(self, x, scale=None, shift=None):
        """Return normalised `x` times 1 + `scale` plus `shift`, both (batch, channels) or None."""
        # torch's function and not that of torch.nn.functional, which refuses a group of one number
        groups, eps, x = self.num_groups, self.eps, x.to(self.weight.dtype)
        if scale is None:
            return torch.group_norm(x, groups, self.weight, self.bias, eps)
        weight, bias = self.weight * (1 + scale), torch.addcmul(shift, self.bias, 1 + scale)
        if x.dim() == 4:
            h = torch.group_norm(x, groups, eps=eps)
            return torch.addcmul(bias[..., None, None], h, weight[..., None, None])
        # the batch as more channels: then a weight per entry is a weight per channel, and all is done in one pass
        flat = x.reshape(1, -1, x.shape[2])
        return torch.group_norm(flat, len(x) * groups, weight.flatten(), bias.flatten(), eps).view_as(x)
