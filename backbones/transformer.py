"""The transformer at frame rate (Vaswani et al. 2017, arXiv 1706.03762) as encoder and as decoder.
Entry points: Encoder, Decoder.
"""

from torch import nn

from models.blocks.attention import Attention
from models.blocks.attention_stack import AttentionStack, FeedForward
from models.blocks.frame_ops import Dropout


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)).

    Args:
        options: keyword arguments of Attention.
    """

    def __init__(self, d_model, d_ff, dropout, activation, options):
        super().__init__()
        self.norm1, self.attention, self.dropout = (
            nn.LayerNorm(d_model),
            Attention(d_model, **options),
            Dropout(dropout),
        )
        self.norm2, self.feed_forward = nn.LayerNorm(d_model), FeedForward(d_model, d_ff, dropout, activation)

    def forward(self, x, table):
        """Return (batch, frames, d_model) of `x`; `table` as Attention takes it."""
        x = x + self.dropout(self.attention(self.norm1(x), table))
        return x + self.feed_forward(self.norm2(x))


class Encoder(AttentionStack):
    """Blocks of attention: (batch, in_channels, frames) -> (batch, d_model, frames).

    Args:
        attention_dropout, position_dropout: of the weights of the keys; of positions, `dropout` where None.
        context: frames of local attention, None for full attention; positions: absolute or relative.
        causal: a frame depends on itself and earlier ones alone.
        input_layer: linear, or conv for every fourth frame.
    """

    TEST_OPTIONS = {"d_model": 16, "heads": 2, "blocks": 2, "d_ff": 32, "context": 5, "positions": "relative"}

    def __init__(self, in_channels, d_model=512, heads=8, blocks=6, d_ff=2048, dropout=0.1, attention_dropout=0.0,
                 context=None, positions="absolute", causal=False, activation="relu6", position_dropout=None,
                 input_layer="linear"):  # fmt: skip
        options = {"heads": heads, "context": context, "positions": positions, "dropout": attention_dropout}
        options["causal"] = causal
        layers = [Block(d_model, d_ff, dropout, activation, options) for _ in range(blocks)]
        position_dropout = dropout if position_dropout is None else position_dropout
        super().__init__(in_channels, d_model, layers, dropout, position_dropout, activation, input_layer)


class Decoder(Encoder):
    """The same at frame rate: without an input_layer to choose, since it could not be undone."""

    def __init__(self, in_channels, **options):
        if options.get("input_layer", "linear") != "linear":
            raise ValueError("input_layer conv is for encoders: a decoder cannot bring the frames back")
        super().__init__(in_channels, **options)
