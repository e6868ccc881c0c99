"""Parts of the waveform networks (noise predictors, classifier, encoders); sequences are (batch, channels, T).
Entry points: TimeEmbedding, ResBlock, AttentionPool, down_path, group_norm, norm_gelu, resize, stretch, run.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.blocks.wave_ops import Conv, GroupNorm, resize

# Widths of the published networks at their levels, in units of the first.
CHANNEL_MULT = (1, 1, 2, 2, 2, 4, 4, 8, 8)
# Sinusoids of the time embedding: angular frequencies from 100 down to 0.1 for times in [0, 1].
HIGHEST, RATIO = 100.0, 1000.0
COND_GAIN = 0.1  # of the default initialisation: conditions start weak


def group_norm(channels: int) -> GroupNorm:
    """Return a GroupNorm of 32 groups, halved until they divide `channels`."""
    return GroupNorm(math.gcd(channels, 32), channels)


def norm_gelu(channels: int) -> nn.Sequential:
    """Return [GroupNorm, GELU], which stands before a convolution."""
    return nn.Sequential(group_norm(channels), nn.GELU())


def conv(channels: int, out_channels: int, kernel: int = 3, dilation: int = 1) -> Conv:
    """Return a convolution, odd kernel, that keeps the length."""
    return Conv(channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def zero(module: nn.Module) -> nn.Module:
    """Set the parameters of `module` to zero: what it adds starts at nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def stretch(x: torch.Tensor, length: int) -> torch.Tensor:
    """Return `x` (batch, channels, T) at another length, every position that of the nearest one below."""
    return functional.interpolate(x, length, mode="nearest")


def check_length(samples: int, rate: int):
    """Raise ValueError, naming the next good lengths, unless `samples` is a positive multiple of `rate`."""
    if samples < 1 or samples % rate:
        below, above = samples // rate * rate, (samples // rate + 1) * rate
        good = f"the next good ones are {below} or {above}" if below > 0 else f"the next good one is {above}"
        raise ValueError(f"{samples} samples: the length must be a multiple of {rate}; {good}")


def check_given(name: str, value, expected: bool):
    """Raise ValueError unless a condition is given exactly when the network was built with it."""
    if (value is not None) != expected:
        raise ValueError(f"this network {'needs' if expected else 'was built without'} {name}")


def check_labels(label: torch.Tensor | None, num_labels: int | None):
    """Raise ValueError unless labels are given exactly when the network has classes, and on the CPU lie among them."""
    check_given("labels", label, num_labels is not None)
    # on a GPU a look at the values would wait for it at every step; its own check ends the program there
    if label is not None and label.device.type == "cpu" and label.numel():
        low, high = label.min().item(), label.max().item()
        if low < 0 or high >= num_labels:
            raise ValueError(f"label {low if low < 0 else high}: this network has the labels 0 to {num_labels - 1}")


def run(function, *inputs, recompute: bool = False):
    """Return function(*inputs); with `recompute` its inner activations are computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)


class TimeEmbedding(nn.Module):
    """Cosines and sines of the diffusion time at geometric frequencies, then a linear layer."""

    def __init__(self, channels):
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f"a time embedding of {channels} channels: must be even and at least 4")
        self.channels = channels
        self.proj = nn.Linear(channels, channels)

    def forward(self, t):
        """Return (batch, channels) of times `t` (batch,) in [0, 1]."""
        half = self.channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * (HIGHEST * torch.exp(-math.log(RATIO) / (half - 1) * steps))
        return self.proj(torch.cat([angles.cos(), angles.sin()], 1).to(self.proj.weight.dtype))


class Resize(nn.Module):
    """resize() as a layer without parameters."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return resize(x, self.factor)


class ResBlock(nn.Module):
    """Residual block of two convolutions, the second dilated; an embedding scales and shifts what is between them.

    Args:
        emb_channels: size of the embedding; None for a block without.
        out_channels: of the output; None for as many as come in.
        scale_factor: of the length: 1, 0.5 or 2.
        dropout: before the second convolution. With any dropout that convolution has another name in the state dict.
    """

    def __init__(self, channels, emb_channels=None, out_channels=None, scale_factor=1.0, dilation=2, dropout=0.0):
        super().__init__()
        self.out_channels = out = out_channels or channels
        change = nn.Identity() if out == channels else conv(channels, out, 1)
        self.skip = nn.Sequential(Resize(scale_factor), change)
        if emb_channels:
            linear = nn.Linear(emb_channels, 2 * out)
            with torch.no_grad():
                linear.weight.mul_(COND_GAIN)
                linear.bias.mul_(COND_GAIN)
            self.cond_layers = nn.Sequential(nn.GELU(), linear)
        self.has_cond = bool(emb_channels)
        self.pre_cond = nn.Sequential(norm_gelu(channels), Resize(scale_factor), conv(channels, out), group_norm(out))
        drop = [nn.Dropout(dropout)] if dropout > 0 else []
        self.post_cond = nn.Sequential(nn.GELU(), *drop, zero(conv(out, out, dilation=dilation)))

    def forward(self, x, emb=None):
        """Return (batch, out_channels, T * scale_factor) of `x` (batch, channels, T), `emb` (batch, emb_channels)."""
        h = x
        for layer in self.pre_cond[:-1]:
            h = layer(h)
        scale, shift = self.cond_layers(emb).chunk(2, 1) if self.has_cond else (None, None)
        h = self.pre_cond[-1](h, scale, shift)
        return self.post_cond(h).add_(self.skip(x))  # in place: a convolution does not keep its output


class AttentionPool(nn.Module):
    """Attention of one learned query over all positions and one more that is zero, then a linear map.

    The query is what an all-zero position gives, the bias; only its output is kept, so only it is computed.
    """

    def __init__(self, channels, head_channels, out_channels):
        super().__init__()
        if channels % head_channels:
            raise ValueError(f"{channels} channels cannot be split into heads of {head_channels}")
        self.heads = channels // head_channels
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x):
        """Return (batch, out_channels) of `x` (batch, channels, T)."""
        batch, channels, _ = x.shape
        weight, bias = self.qkv_proj.weight, self.qkv_proj.bias
        q = bias[:channels].view(1, self.heads, -1, 1)
        kv = functional.conv1d(functional.pad(x, (1, 0)), weight[channels:], bias[channels:])
        k, v = kv.view(batch, 2, self.heads, channels // self.heads, -1).unbind(1)
        logits = ((q * k).sum(2, keepdim=True) / math.sqrt(channels // self.heads)).softmax(-1)
        return self.c_proj((logits * v).sum(-1).view(batch, channels, 1)).squeeze(-1)


def down_path(base_channels, channel_mult, depth_mult=2, emb_channels=None, dropout=0.0, reduce_last=False):
    """Return the blocks of a path that halves the length between levels of channel_mult[l] * base_channels channels.

    A level is `depth_mult` blocks, then one that halves, after the last level only with `reduce_last`.
    """
    blocks, channels = nn.ModuleList(), base_channels
    for level, mult in enumerate(channel_mult):
        for _ in range(depth_mult):
            blocks.append(ResBlock(channels, emb_channels, mult * base_channels, dropout=dropout))
            channels = mult * base_channels
        if reduce_last or level < len(channel_mult) - 1:
            blocks.append(ResBlock(channels, emb_channels, scale_factor=0.5, dropout=dropout))
    return blocks
