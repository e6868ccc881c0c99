"""Sub-pixel convolutions: more channels at the low rate, then interleaved (arXiv 1609.05158).
Entry points: SubPixelConv, interleave.

The 1-D form works on pictures of height 1, (batch, channels, 1, frames).
"""

import torch
from torch import nn
from torch.nn import functional


def interleave(x: torch.Tensor, stride: int, dims: int) -> torch.Tensor:
    """Return `x` (batch, stride ** dims * channels, height, width) with fewer channels and longer axes.

    With dims 1 the width is `stride` times as long and the order phase-major: column stride * t + j of channel c is
    column t of channel j * channels + c. With dims 2 it is the pixel shuffle, which is channel-major.
    """
    if stride == 1:
        return x
    if dims == 2:
        return functional.pixel_shuffle(x, stride)
    # a view where the channels of a column lie together
    rows = x.permute(0, 2, 3, 1)
    return rows.reshape(len(x), x.shape[2], x.shape[3] * stride, -1).permute(0, 3, 1, 2)


class SubPixelConv(nn.Conv2d):
    """A convolution whose output is `stride` times as long, in width (dims 1) or in both axes (dims 2).

    It starts as repetition of the nearest neighbour (ICNR, arXiv 1707.02937): all phases of a channel are equal.
    """

    def __init__(self, in_channels, out_channels, kernel_size, upsampling, dims, **options):
        self.upsampling, self.dims, self.phases = upsampling, dims, upsampling**dims
        super().__init__(in_channels, self.phases * out_channels, kernel_size, **options)

    def forward(self, x):
        return interleave(super().forward(x), self.upsampling, self.dims)

    def spread(self, tensor):
        """Return `tensor` (out_channels, ...) repeated for all phases, in the order of the inner channels."""
        return torch.cat([tensor] * self.phases) if self.dims == 1 else tensor.repeat_interleave(self.phases, dim=0)

    @torch.no_grad()
    def reset_parameters(self):
        """Draw one phase from Kaiming's normal distribution (fan-out, ReLU gain) and repeat it."""
        first = torch.empty_like(self.weight[: len(self.weight) // self.phases])
        nn.init.kaiming_normal_(first, mode="fan_out", nonlinearity="relu")
        self.weight.copy_(self.spread(first))
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5  # as PyTorch's own convolution
            self.bias.copy_(self.spread(torch.empty(len(first)).uniform_(-bound, bound)))
