"""U-Net over samples that predicts the noise in a noised wave; the networks unet32 and unet64 of vq-voice-swap.
Entry point: MainModel.
"""

import torch
from torch import nn

from models.blocks import original, waves
from models.blocks.wave_ops import enter, leave

MIDDLE_DILATIONS = (4, 8, 16, 32)
DEPTH_MULT = 2


def joined(block, h, skip, emb):
    """Return what `block` makes of `h` and `skip` one above the other; here so that their copy need not be kept."""
    return block(torch.cat([h, skip], 1), emb)


class MainModel(nn.Module):
    """Down path, dilated middle, up path with skips; time, label and a vector in one embedding, codes beside the wave.

    Args:
        base_channels: width C of the first level; the embedding has 4C numbers.
        channel_mult: width of each level in units of C; every level but the last halves the length.
        middle_dilations: one block in the middle for each.
        depth_mult: blocks per level.
        cond_channels: of a sequence that is given with the wave; None for a network without.
        num_labels: classes of which one is given with each wave; None for a network without.
        dropout: in every block; any dropout changes names in the state dict.
        checkpoint_activations: compute the inside of each block again in the backward pass, for memory.
        cond_dim: size of a vector that is given with each wave, of about unit variance per number so that it starts as
            strong as a label; zeros stand for none. None for a network without.
    """

    TASK = "diffusion"
    TEST_OPTIONS = {
        "base_channels": 8, "channel_mult": (1, 2), "middle_dilations": (2,), "depth_mult": 1, "cond_channels": 4,
        "num_labels": 3, "cond_dim": 6,
    }  # fmt: skip

    def __init__(
        self,
        base_channels=32,
        channel_mult=waves.CHANNEL_MULT,
        middle_dilations=MIDDLE_DILATIONS,
        depth_mult=DEPTH_MULT,
        cond_channels=None,
        num_labels=None,
        in_channels=1,
        out_channels=1,
        dropout=0.0,
        checkpoint_activations=False,
        cond_dim=None,
    ):
        super().__init__()
        if base_channels < 1 or depth_mult < 1 or not channel_mult or not 0 <= dropout < 1:
            raise ValueError(
                f"a U-Net of base_channels {base_channels}, channel_mult {channel_mult}, depth_mult {depth_mult}, "
                f"dropout {dropout}: sizes must be at least 1, dropout in [0, 1)"
            )
        self.base_channels, self.channel_mult = base_channels, tuple(channel_mult)
        self.middle_dilations, self.depth_mult = tuple(middle_dilations), depth_mult
        self.in_channels, self.out_channels, self.dropout = in_channels, out_channels, dropout
        self.num_labels, self.cond_channels, self.cond_dim = num_labels, cond_channels, cond_dim
        self.checkpoint_activations = checkpoint_activations
        self.rate = 2 ** (len(channel_mult) - 1)
        emb = 4 * base_channels
        self.time_embed = waves.TimeEmbedding(emb)
        self.time_embed_extra = nn.Sequential(nn.GELU(), nn.Linear(emb, emb))
        if num_labels is not None:
            self.class_embed = nn.Embedding(num_labels, emb)
        if cond_dim is not None:
            self.vector_embed = nn.Linear(cond_dim, emb)
        if cond_channels is not None:
            self.cond_proj = waves.conv(cond_channels, base_channels)
        self.in_conv = waves.conv(in_channels, base_channels)
        self.down_blocks = waves.down_path(base_channels, channel_mult, depth_mult, emb, dropout)
        width = channel_mult[-1] * base_channels
        self.middle_blocks = nn.ModuleList(
            waves.ResBlock(width, emb, dilation=dilation, dropout=dropout) for dilation in middle_dilations
        )
        skips = [base_channels] + [block.out_channels for block in self.down_blocks]
        self.up_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for _ in range(depth_mult + 1):
                block = waves.ResBlock(width + skips.pop(), emb, mult * base_channels, dropout=dropout)
                self.up_blocks.append(block)
                width = mult * base_channels
            if level:
                self.up_blocks.append(waves.ResBlock(width, emb, scale_factor=2.0, dropout=dropout))
        self.out = nn.Sequential(waves.norm_gelu(width), waves.conv(width, out_channels))

    def forward(self, x, t, label=None, cond=None, vector=None):
        """Return the predicted noise (batch, out_channels, T) of `x` (batch, in_channels, T) at times `t` (batch,).

        Args:
            label: (batch,) integers; cond: (batch, cond_channels, any length); vector: (batch, cond_dim). Each must be
                given exactly when the network was built with it.

        Raises:
            ValueError: T is no multiple of `rate`, or a condition is missing, superfluous or beyond the labels.
        """
        waves.check_length(x.shape[-1], self.rate)
        waves.check_labels(label, self.num_labels)
        waves.check_given("a condition sequence (cond)", cond, self.cond_channels is not None)
        waves.check_given("a condition vector", vector, self.cond_dim is not None)
        emb = self.time_embed_extra(self.time_embed(t))
        if label is not None:
            emb = emb + self.class_embed(label)
        if vector is not None:
            emb = emb + self.vector_embed(vector)
        h = self.in_conv(x)
        if cond is not None:
            h = h + waves.stretch(self.cond_proj(cond), h.shape[-1])
        h = enter(h)
        recompute = self.checkpoint_activations
        skips = [h]
        for block in self.down_blocks:
            h = waves.run(block, h, emb, recompute=recompute)
            skips.append(h)
        for block in self.middle_blocks:
            h = waves.run(block, h, emb, recompute=recompute)
        for number, block in enumerate(self.up_blocks):
            if number % (self.depth_mult + 2) <= self.depth_mult:
                h = waves.run(joined, block, h, skips.pop(), emb, recompute=recompute)
            else:
                h = waves.run(block, h, emb, recompute=recompute)
        return leave(self.out(h))

    @staticmethod
    def from_foreign(weights, stated=None):
        """Return (constructor arguments, weights) of a file of vq-voice-swap, None for another layout.

        stated: the constructor arguments that the file itself holds; the sizes are taken from the weights.
        """
        weights = original.inner_weights(weights)
        needed = ("in_conv.weight", "time_embed.proj.weight", "up_blocks.0.skip.1.weight", "out.1.weight")
        if weights is None or any(name not in weights or weights[name].dim() < 2 for name in needed):
            return None
        sizes = {
            "base_channels": ("in_conv.weight", 0), "in_channels": ("in_conv.weight", 1),
            "out_channels": ("out.1.weight", 0), "num_labels": ("class_embed.weight", 0),
            "cond_channels": ("cond_proj.weight", 1),
        }  # fmt: skip
        kwargs = {size: original.size(weights, *place) for size, place in sizes.items()}
        return kwargs | {"dropout": original.stated_dropout(stated)}, weights

    def to_original(self, schedule="exp"):
        """Return what a file of this network in the layout of vq-voice-swap holds.

        Raises:
            ValueError: it has parts or sizes that the layout has no words for.
        """
        fixed = (waves.CHANNEL_MULT, MIDDLE_DILATIONS, DEPTH_MULT, 1, 1, None)
        own = (self.channel_mult, self.middle_dilations, self.depth_mult, self.in_channels, self.out_channels)
        if (*own, self.cond_dim) != fixed:
            raise ValueError("the original layout knows only U-Nets of its own depth, without a condition vector")
        kwargs = {"pred_name": "unet", "base_channels": self.base_channels, "schedule_name": schedule}
        kwargs |= {"num_labels": self.num_labels, "cond_channels": self.cond_channels, "dropout": self.dropout}
        return original.payload(kwargs, self, original.PREDICTOR)

    def example(self, batch):
        """Return random inputs for the generated tests: all that this network must be given."""
        given = {"x": torch.randn(batch, self.in_channels, 4 * self.rate), "t": torch.rand(batch)}
        if self.num_labels is not None:
            given["label"] = torch.arange(batch) % self.num_labels
        if self.cond_channels is not None:
            given["cond"] = torch.randn(batch, self.cond_channels, 3)
        if self.cond_dim is not None:
            given["vector"] = torch.randn(batch, self.cond_dim)
        return given
