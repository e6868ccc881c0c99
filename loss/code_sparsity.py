"""Sparsity of the attribute codes: no speaker shall have more of an attribute than a number drawn once for it.
Entry point: LossFunction.
"""

import torch
from torch import nn

from loss._classify import in_float32
from loss._gather import gather


class LossFunction(nn.Module):
    """Sum over speakers and attributes of max(0, Y - V)^2, Y the sum of z over the speaker's utterances in the batch.

    `target` (internal_dim,) holds V, uniform in 0 .. samples_per_class - 1 and drawn once. Any number of utterances per
    speaker will do. In training the batch is that of all processes, in evaluation that of this one.

    Args:
        sparsity_clamp_max: upper limit of Y - V before it is squared, None for none: beyond it there is no gradient.
        sparsity_per_speaker: divide by the number of speakers in the batch.
    """

    TASK = "attributes"
    DEFAULT_WEIGHT = 0.0001
    NEEDS_TRAIN_CLASSES = False

    def __init__(self, internal_dim, samples_per_class, sparsity_clamp_max=None, sparsity_per_speaker=True):
        super().__init__()
        if sparsity_clamp_max is not None and sparsity_clamp_max <= 0:
            raise ValueError(f"--sparsity_clamp_max {sparsity_clamp_max}: must be above 0")
        self.clamp_max, self.per_speaker = sparsity_clamp_max, sparsity_per_speaker
        self.register_buffer("target", torch.randint(samples_per_class, (internal_dim,)))

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this loss."""
        about = "sparsity: an excess counts up to here only, and beyond has no gradient; the published code has 1"
        parser.add_argument("--sparsity_clamp_max", type=float, default=None, help=f"{about} (default: no limit)")
        parser.add_bool("--sparsity_per_speaker", default=True, help="sparsity: divide by the speakers in the batch")

    @in_float32
    def forward(self, input, labels, code, reconstruction, z):
        """Return the loss of `z` (batch, attributes) with `labels` (batch,); the rest is not used."""
        if self.training:
            z, labels = gather(z), gather(labels)
        ordered, order = labels.sort()
        speaker = (ordered[1:] != ordered[:-1]).cumsum(0)
        speaker = torch.cat([speaker.new_zeros(1), speaker])
        # rows beyond the number of speakers stay 0 and cost nothing, as V is not negative
        sums = torch.zeros_like(z).index_add(0, speaker, z[order])
        total = (sums - self.target).clamp(0, self.clamp_max).square().sum()
        return total / (speaker[-1] + 1) if self.per_speaker else total
