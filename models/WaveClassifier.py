"""Speaker classifier of noised waves, which guides sampling and judges samples; down path of the U-Net.
Entry point: MainModel.
"""

import torch
from torch import nn

from models.blocks import original, waves
from models.blocks.wave_ops import enter, leave

HEAD_CHANNELS = 64  # at most, of the attention


class Stem(nn.Module):
    """From a wave and its time to one vector."""

    def __init__(self, base_channels, channel_mult, output_mult, depth_mult):
        super().__init__()
        emb, width = 4 * base_channels, channel_mult[-1] * base_channels
        self.time_embed = waves.TimeEmbedding(emb)
        self.time_embed_extra = nn.Sequential(nn.GELU(), nn.Linear(emb, emb))
        self.in_conv = waves.conv(1, base_channels)
        self.blocks = waves.down_path(base_channels, channel_mult, depth_mult, emb, reduce_last=True)
        pool = waves.AttentionPool(width, min(width, HEAD_CHANNELS), output_mult * base_channels)
        self.out = nn.Sequential(waves.norm_gelu(width), pool)

    def forward(self, x, t, recompute=False):
        emb = self.time_embed_extra(self.time_embed(t))
        h = enter(self.in_conv(x))
        for block in self.blocks:
            h = waves.run(block, h, emb, recompute=recompute)
        activation, pool = self.out
        return pool(leave(activation(h)))


class MainModel(nn.Module):
    """Logits of `num_labels` speakers; the head starts at zero, so that the first loss is ln(num_labels).

    Args:
        base_channels, channel_mult, depth_mult: as in the U-Net; the length is halved after the last level too.
        output_mult: size of the feature vector in units of base_channels.
        checkpoint_activations: compute the inside of each block again in the backward pass, for memory.
    """

    TASK = "classifier"
    TEST_OPTIONS = {
        "num_labels": 5, "base_channels": 8, "channel_mult": (1, 2), "output_mult": 4, "depth_mult": 1,
    }  # fmt: skip

    def __init__(
        self,
        num_labels,
        base_channels=32,
        channel_mult=waves.CHANNEL_MULT,
        output_mult=16,
        depth_mult=2,
        checkpoint_activations=False,
    ):
        super().__init__()
        if min(num_labels, base_channels, output_mult, depth_mult) < 1 or not channel_mult:
            raise ValueError(
                f"a classifier of num_labels {num_labels}, base_channels {base_channels}, channel_mult {channel_mult}, "
                f"output_mult {output_mult}, depth_mult {depth_mult}: must be at least 1"
            )
        self.num_labels, self.base_channels, self.channel_mult = num_labels, base_channels, tuple(channel_mult)
        self.output_mult, self.depth_mult = output_mult, depth_mult
        self.checkpoint_activations = checkpoint_activations
        self.rate = 2 ** len(channel_mult)
        self.stem = Stem(base_channels, channel_mult, output_mult, depth_mult)
        self.out = nn.Sequential(nn.GELU(), waves.zero(nn.Linear(output_mult * base_channels, num_labels)))

    def features(self, x, t):
        """Return (batch, output_mult * base_channels) of waves `x` (batch, 1, T) at times `t` (batch,), for scores.

        Raises:
            ValueError: T is shorter than one position at the end, `rate` samples.
        """
        if x.shape[-1] < self.rate:
            raise ValueError(f"{x.shape[-1]} samples: the classifier needs at least {self.rate}")
        return self.stem(x, t, self.checkpoint_activations)

    def forward(self, x, t):
        """Return logits (batch, num_labels) of waves `x` (batch, 1, T) at times `t` (batch,) in [0, 1]."""
        return self.out(self.features(x, t))

    def start_from(self, weights):
        """Take what the state dict of a U-Net has in common with this network; return the number of parameters.

        The last halving block, the pooling and the head stay as they are.

        Raises:
            ValueError: the U-Net has other widths or was trained with dropout.
        """
        if any(".post_cond.2." in name for name in weights):
            raise ValueError("a U-Net trained with dropout cannot start a classifier, which has none")
        renamed = {name.replace("down_blocks.", "blocks."): tensor for name, tensor in weights.items()}
        mine = ("time_embed.", "time_embed_extra.", "in_conv.", "blocks.")
        return original.copy_matching(self.stem, {n: tensor for n, tensor in renamed.items() if n.startswith(mine)})

    @staticmethod
    def from_foreign(weights, stated=None):
        """Return (constructor arguments, weights) of a file of vq-voice-swap, None for another layout.

        stated: the constructor arguments that the file itself holds; widths and labels are taken from the weights.
        """
        needed = ("stem.in_conv.weight", "stem.out.1.c_proj.weight", "out.1.weight")
        if any(name not in weights or weights[name].dim() < 2 for name in needed):
            return None
        base_channels, (num_labels, features) = len(weights["stem.in_conv.weight"]), weights["out.1.weight"].shape
        sizes = {"num_labels": num_labels, "base_channels": base_channels, "output_mult": features // base_channels}
        return sizes | {n: stated[n] for n in ("channel_mult", "depth_mult") if stated and n in stated}, weights

    def to_original(self):
        """Return what a file of this network in the layout of vq-voice-swap holds."""
        names = ("num_labels", "base_channels", "channel_mult", "output_mult", "depth_mult")
        return original.payload({name: getattr(self, name) for name in names}, self)

    def example(self, batch):
        """Return random inputs for the generated tests; the last samples are left out by the halving."""
        return {"x": 0.1 * torch.randn(batch, 1, 4 * self.rate + 3), "t": torch.rand(batch)}
