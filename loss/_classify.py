"""What all losses end in: cross entropy in float32 and the accuracy of the same logits.
Entry points: in_float32 (decorator of forward), flatten, cross_entropy.
"""

import functools

import torch
from torch.nn import functional


def in_float32(forward):
    """Run a loss's forward(self, x, ...) outside autocast, with floating tensors in at least float32."""

    @functools.wraps(forward)
    def run(self, x, *others):
        with torch.autocast(x.device.type, enabled=False):
            return forward(self, *map(_widen, (x, *others)))

    return run


def _widen(x):
    floating = torch.is_tensor(x) and x.is_floating_point()
    return x.to(torch.promote_types(x.dtype, torch.float32)) if floating else x


def flatten(x: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn (speakers, nPerSpeaker, dim) into rows, one label each; (rows, dim) stays as it is."""
    if x.ndim == 3:
        label = label.repeat_interleave(x.shape[1])
        x = x.flatten(0, 1)
    return x, label


def cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean cross entropy of `logits` (rows, classes) and their accuracy in percent, both of shape ()."""
    accuracy = 100 * (logits.detach().argmax(1) == label).float().mean()
    return functional.cross_entropy(logits, label), accuracy
