"""Multi-head self-attention over all frames or within overlapping blocks, with absolute or relative positions.
Entry points: Attention, reach, visible.

Local attention with context c0 has round(frames / c0) blocks of c frames. A frame sees its own block, and its block of
a second grid that starts c // 2 frames later: a query of the first part of a block sees the second part of the block
before, too, one of the second part the first part of the next. The keys of either part lie in a row, so both are
attended to as a whole and nothing is computed that is not visible.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from models.blocks.frame_ops import Dropout
from models.blocks.positions import distance_table

POSITIONS = ("absolute", "relative")


def reach(frames: int, context: int | None) -> int:
    """Return the frames of a block; all `frames`, which is full attention, without a context or up to twice of it."""
    if context is None or frames <= 2 * context:
        return frames
    return math.ceil(frames / round(frames / context))


def parts(block: int, full: bool) -> list[tuple[int, int, int, int]]:
    """Return [(first query, end of queries, first key, end of keys)] of a block, in frames from its start."""
    if full:
        return [(0, block, 0, block)]
    half = block // 2
    return [(0, half, half - block, block), (half, block, 0, block + half)][0 if half else 1 :]


def visible(frames: int, context: int | None, causal: bool = False) -> torch.Tensor:
    """Return the mask (frames, frames) of what the query of a row sees, by the definition with two grids."""
    block, at = reach(frames, context), torch.arange(frames)
    own, shifted = at // block, (at - block // 2) // block
    second = (at >= block // 2) & (shifted <= (round(frames / context) - 2 if block < frames else -1))
    seen = (own[:, None] == own) | ((shifted[:, None] == shifted) & second[:, None] & second)
    return seen & (at[:, None] >= at) if causal else seen


class Attention(nn.Module):
    """Self-attention of `heads` heads; the first d_model / heads channels belong to the first.

    With relative positions (Transformer-XL, Dai et al. 2019, arXiv 1901.02860) the score of query i and key j is
    [(q_i + u) k_j + (q_i + v) (W R_(i-j) + b)] / sqrt(d_model / heads).

    Args:
        context: of local attention, frames; None for full attention.
        dropout: of the weights of the keys.
        causal: a frame sees itself and earlier ones alone.
    """

    def __init__(self, d_model=512, heads=8, context=None, positions="absolute", dropout=0.0, causal=False):
        super().__init__()
        if heads < 1 or d_model % heads:
            raise ValueError(f"d_model {d_model} is not a multiple of {heads} heads")
        if context is not None and context < 1:
            raise ValueError(f"context {context}: at least one frame, or None for full attention")
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r}: one of {', '.join(POSITIONS)}")
        self.heads, self.context, self.causal, self.relative = heads, context, causal, positions == "relative"
        self.qkv = nn.Linear(d_model, 3 * d_model)
        if self.relative:
            self.linear_pos = nn.Linear(d_model, d_model)
            self.u, self.v = (nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, d_model // heads))) for _ in "uv")
        self.linear_out = nn.Linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x, table=None):
        """Return (batch, frames, d_model) of `x` (batch, frames, d_model).

        Args:
            table: with relative positions the encodings of the distances that occur, as distance_table gives them for
                reach(frames, context): made here where it is not given.
        """
        batch, frames, channels = x.shape
        block = reach(frames, self.context)
        blocks = -(-frames // block)
        x = functional.pad(x, (0, 0, 0, blocks * block - frames))
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 3, 0, 1, 4)
        q, k, v = qkv.unflatten(3, (blocks, block))  # each (heads, batch, blocks, frames of a block, channels)
        places = None
        if self.relative:
            table = distance_table(block, channels, x.device) if table is None else table
            places = self.linear_pos(table.to(self.linear_pos.weight.dtype))
            places = places.unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        outputs = []
        for start, end, first, last in parts(block, blocks == 1):
            keys, values = window(k, first, last), window(v, first, last)
            seen = self._seen(frames, block, blocks, (start, end, first, last), x.device)
            outputs.append(self._attend(q[..., start:end, :], keys, values, places, seen))
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=3)
        return self.linear_out(y.permute(1, 2, 3, 0, 4).reshape(batch, blocks * block, channels)[:, :frames])

    def _seen(self, frames, block, blocks, part, device):
        """Return the mask (blocks, 1 or queries, keys) of the keys to see, None for all of them."""
        start, end, first, last = part
        keys, seen = torch.arange(first, last, device=device), None
        if blocks > 1:  # neither what is before the first frame nor what fills the last block
            at = (block * torch.arange(blocks, device=device))[:, None, None] + keys
            seen = (at >= 0) & (at < frames)
        if self.causal:
            past = keys <= torch.arange(start, end, device=device)[:, None]
            seen = past[None] if seen is None else seen & past
        return seen

    def _attend(self, q, k, v, places, seen):
        """Return (heads, batch, blocks, queries, channels) of `q`, `k` and `v` (heads, batch, blocks, rows, channels).

        Args:
            places: with relative positions (heads, channels, 2 reach - 1).
            seen: the mask of _seen.
        """
        shape = q.shape
        if places is None:
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            rate = self.dropout.p if self.training else 0.0
            return functional.scaled_dot_product_attention(q, k, v, seen, rate).view(shape)
        scale = shape[-1] ** -0.5
        by_place = torch.bmm((q + self.v[:, None, None, None]).flatten(1, 3), places).view(*shape[:4], -1)
        by_place = skew(by_place, k.shape[3]).flatten(0, 2)
        q = (q + self.u[:, None, None, None]).flatten(0, 2)
        scores = torch.baddbmm(by_place, q, k.flatten(0, 2).transpose(1, 2), beta=scale, alpha=scale)
        if seen is not None:
            scores = scores.view(*shape[:4], -1).masked_fill(~seen, -torch.inf).flatten(0, 2)
        weights = self.dropout(torch.softmax(scores, dim=2))
        return torch.bmm(weights, v.flatten(0, 2)).view(shape)


def window(x, first, last):
    """Return the frames `first` to `last` - 1 from the start of every block of `x` (heads, batch, blocks, frames,
    channels); they reach at most into the block before and the next, and are 0 where there is none."""
    block, pieces = x.shape[3], [x]
    if first < 0:
        pieces.insert(0, functional.pad(x[:, :, :-1, block + first :], (0, 0, 0, 0, 1, 0)))
    if last > block:
        pieces.append(functional.pad(x[:, :, 1:, : last - block], (0, 0, 0, 0, 0, 1)))
    return x if len(pieces) == 1 else torch.cat(pieces, dim=3)


def skew(x, keys):
    """Return (..., queries, keys) of scores by distance `x` (..., queries, queries + keys - 1), whose columns go from
    the largest distance, of the last query to the first key, downwards. It is a view where `x` is contiguous."""
    rows, columns = x.shape[-2:]
    if rows == 1:
        return x
    # a row further down begins one column further left: read with rows of one number less
    return x.flatten(-2)[..., rows - 1 : rows * columns - 1].unflatten(-1, (rows, columns - 1))[..., :keys]
