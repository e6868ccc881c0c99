"""Vector quantisation of a sequence of latents: codes, losses, revival of dead codes over all ranks, jitter, dropout.
Entry points: VQ, vq_loss, revival_loss, revive, reset_moments, jitter, drop_codes, count_codes, perplexity, CodeUsage.
"""

from typing import NamedTuple

import torch
from torch import distributed, nn
from torch.nn import functional

from audio.features import exact_product


class Quantised(NamedTuple):
    """What VQ gives: `embedded` has a gradient to the dictionary, `passthrough` the same values and one to the input.

    Both are (batch, channels, T), `codes` (batch, T).
    """

    embedded: torch.Tensor
    passthrough: torch.Tensor
    codes: torch.Tensor


class VQ(nn.Module):
    """Nearest code of every position; van den Oord et al. 2017, arXiv 1711.00937, without averaged codebook.

    In training it is kept count of the codes that any rank uses: one is dead after `dead_rate` batches without use. A
    frozen dictionary (requires_grad False) keeps its counts.
    """

    def __init__(self, num_channels, num_codes, dead_rate=100):
        super().__init__()
        if num_codes < 1 or dead_rate < 1:
            raise ValueError(f"{num_codes} codes, dead after {dead_rate} steps: both must be at least 1")
        self.dead_rate = dead_rate
        self.dictionary = nn.Parameter(torch.randn(num_codes, num_channels))
        self.register_buffer("usage_count", torch.full((num_codes,), dead_rate, dtype=torch.int64))
        self.last_rows = None  # (batch * T, channels): the last training batch, whose rows can become codes

    def forward(self, x: torch.Tensor) -> Quantised:
        """Quantise `x` (batch, channels, T) in float32; in training also update the counts of use."""
        if x.shape[1] != self.dictionary.shape[1]:
            raise ValueError(f"latents of {x.shape[1]} channels, codes of {self.dictionary.shape[1]}")
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            rows = x.detach().transpose(1, 2).flatten(0, 1)
            codes = nearest(rows, self.dictionary.detach()).view(x.shape[0], x.shape[2])
            if self.training and self.dictionary.requires_grad:
                self._count_use(codes)
                self.last_rows = rows
            embedded = self.embed(codes)
            # in this order the values are those of the codes to the last bit
            return Quantised(embedded, embedded.detach() + (x - x.detach()), codes)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents (batch, channels, T) of `codes` (batch, T)."""
        return functional.embedding(codes, self.dictionary).transpose(1, 2)

    @torch.no_grad()
    def _count_use(self, codes):
        used = torch.zeros_like(self.usage_count).index_fill_(0, codes.flatten(), 1)
        if several_ranks():
            distributed.all_reduce(used, distributed.ReduceOp.MAX)
        rest = (self.usage_count - 1).clamp(0, self.dead_rate)
        self.usage_count.copy_(torch.where(used > 0, self.dead_rate, rest))


def nearest(rows: torch.Tensor, dictionary: torch.Tensor) -> torch.Tensor:
    """Return the nearest code (..., rows) of `rows` (..., rows, channels), the first one of equals.

    The squared distance is |d|^2 - 2 x.d but for |x|^2, which is the same for all codes. `dictionary` is
    (..., codes, channels): leading axes are dictionaries of their own.
    """
    products = exact_product(rows, dictionary.mT)
    return torch.sub(dictionary.square().sum(-1).unsqueeze(-2), products, alpha=2).argmin(-1)


def distances(rows: torch.Tensor, dictionary: torch.Tensor) -> torch.Tensor:
    """Return the squared distance (rows,) of `rows` (rows, channels) to their nearest codes."""
    return (rows - dictionary[nearest(rows, dictionary)]).square().sum(1)


# ---------------------------------------------------------------- losses and statistics


def vq_loss(x: torch.Tensor, embedded: torch.Tensor, commitment: float = 0.25) -> torch.Tensor:
    """Return mean((sg(x) - e)^2) + commitment * mean((x - sg(e))^2) of latents and codes (batch, channels, T)."""
    x = x.float()
    return functional.mse_loss(embedded, x.detach()) + commitment * functional.mse_loss(x, embedded.detach())


def revival_loss(x: torch.Tensor, dictionary: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance over all pairs of a code and a position of `x` (batch, channels, T).

    It draws unused codes towards the data, in place of revive(). The mean over pairs needs no pair:
    mean |d|^2 + mean |x|^2 - 2 (mean d).(mean x).
    """
    rows = x.float().transpose(1, 2).flatten(0, 1)
    squares = dictionary.square().sum(1).mean() + rows.square().sum(1).mean()
    return squares - 2 * (dictionary.mean(0) * rows.mean(0)).sum()


@torch.no_grad()
def count_codes(codes: torch.Tensor, num_codes: int) -> torch.Tensor:
    """Return how often each code occurs in `codes` (any shape) of all ranks, (num_codes,) int64."""
    counts = torch.zeros(num_codes, dtype=torch.int64, device=codes.device)
    counts.scatter_add_(0, codes.flatten(), torch.ones_like(codes.flatten()))
    if several_ranks():
        distributed.all_reduce(counts)
    return counts


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """Return exp(entropy) of the codes that were counted: between 1 and the codes used, `(counts > 0).sum()`."""
    return torch.special.entr(counts / counts.sum().clamp(min=1)).sum().exp()


class CodeUsage:
    """How the codes were used since the log was last written, over all ranks: a tracker of engine.state.State."""

    def __init__(self, num_codes: int, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(num_codes, dtype=torch.int64, device=device)
        self.revived = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, codes: torch.Tensor):
        """Take in the codes of a batch; every rank must call it."""
        self.counts += count_codes(codes, len(self.counts))

    def add_revived(self, dead: torch.Tensor):
        """Take in which codes revive() has replaced."""
        self.revived += dead.sum()

    def named_means(self, prefix: str = "") -> dict[str, float]:
        """Return the figures for the log by name, and begin anew; asks the device."""
        used, spread = (self.counts > 0).sum(), perplexity(self.counts)
        values = torch.stack([used.double(), spread.double(), self.revived.double()]).tolist()
        self.counts.zero_()
        self.revived.zero_()
        return {prefix + name: value for name, value in zip(("used", "perplexity", "revived"), values)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all there is, as tensors."""
        return {"counts": self.counts, "revived": self.revived}

    def load_state_dict(self, stored: dict[str, torch.Tensor]):
        """Take over what state_dict() returned; a ValueError where it is of another number of codes."""
        if stored["counts"].shape != self.counts.shape:
            raise ValueError(f"the use of {len(stored['counts'])} codes does not fit {len(self.counts)} of this run")
        self.counts.copy_(stored["counts"])
        self.revived.copy_(stored["revived"])


# ---------------------------------------------------------------- revival


def revival_probabilities(squared_distances: torch.Tensor) -> torch.Tensor:
    """Return with which probability each row becomes a code: as its squared distance to the nearest one (k-means++).

    All alike where every row lies on a code; a row that is not finite is never drawn. Rows are on the last axis.
    """
    weights = squared_distances.double().nan_to_num(0.0, 0.0, 0.0)
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, 1.0)
    return weights / weights.sum(-1, keepdim=True)


def draw_rows(probabilities: torch.Tensor, dead: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Return a row (..., codes) for each code, drawn by the `probabilities` (..., rows).

    The draws, uniform in [0, 1), (..., codes), are stratified over the `dead` codes (bool), which seldom gives two of
    them the same row.
    """
    edges = probabilities.cumsum(-1)
    position = (dead.cumsum(-1) - 1 + draws.to(edges)) / dead.sum(-1, keepdim=True).clamp(min=1)
    chosen = torch.searchsorted(edges, position * edges[..., -1:], right=True)
    return chosen.clamp_(max=edges.shape[-1] - 1)


@torch.no_grad()
def revive(vq: VQ, optimizer=None, averages=(), draws: torch.Tensor | None = None) -> torch.Tensor:
    """Replace the dead codes by rows of the last training batch, of all ranks; return which ones, (codes,) bool.

    All ranks must call it, with equally many rows, and end with the same dictionary to the last bit. Nothing waits for
    the device. The draws are stratified over the dead codes, which seldom gives two the same row.

    Args:
        optimizer: its moments of the revived codes are reset.
        averages: averaged dictionaries (codes, channels), which take the revived codes over at once.
        draws: uniform in [0, 1), (codes,); those of rank 0 count. None: by torch's generator.
    """
    rows, dictionary, dead = vq.last_rows, vq.dictionary, vq.usage_count <= 0
    if rows is None:
        raise ValueError("codes can be revived only after a batch in training mode")
    if draws is None:
        draws = torch.rand(len(dead), device=rows.device)
    probabilities = revival_probabilities(of_all_ranks(distances(rows, dictionary)))
    chosen = draw_rows(probabilities, dead, draws)
    dictionary.copy_(torch.where(dead[:, None], rows_of_all_ranks(rows, chosen), dictionary))
    vq.usage_count.masked_fill_(dead, vq.dead_rate)
    if optimizer is not None:
        reset_moments(optimizer, dictionary, dead)
    for average in averages:
        average.copy_(torch.where(dead[:, None], dictionary, average))
    return dead


@torch.no_grad()
def reset_moments(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, rows: torch.Tensor):
    """Set to zero what `optimizer` remembers of the `rows` (..., bool) of `parameter` (..., channels), now others."""
    for moment in optimizer.state.get(parameter, {}).values():
        if torch.is_tensor(moment) and moment.shape == parameter.shape:
            moment.masked_fill_(rows[..., None], 0.0)


# ---------------------------------------------------------------- all ranks


def several_ranks() -> bool:
    """Return whether there are other ranks to speak to."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def of_all_ranks(x: torch.Tensor) -> torch.Tensor:
    """Return `x` (..., rows) of all ranks, which have equally many rows, one after the other."""
    if not several_ranks():
        return x
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x)
    return torch.cat(parts, -1)


def rows_of_all_ranks(rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the rows (..., codes, channels) that rank 0 has chosen, `chosen` (..., codes), in the order of all ranks.

    `rows` (..., rows, channels) are those of this rank.
    """
    count, width = rows.shape[-2:]
    if not several_ranks():
        return rows.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, width))
    distributed.broadcast(chosen, 0)
    own = chosen - distributed.get_rank() * count
    inside = ((own >= 0) & (own < count)).unsqueeze(-1)
    found = rows.gather(-2, own.clamp(0, count - 1).unsqueeze(-1).expand(*own.shape, width))
    # a row lies on one rank; the others add zeros, so that the sum is the row
    found = torch.where(inside, found, 0.0)
    distributed.all_reduce(found)
    return found


# ---------------------------------------------------------------- regularisation


def jitter(x: torch.Tensor, probability: float, draws: torch.Tensor | None = None) -> torch.Tensor:
    """Give positions of `x` (batch, channels, T) the value of a neighbour, left or right, in training.

    Chorowski et al. 2019, arXiv 1901.08810. The ends have one neighbour and keep their value instead of the other.

    Args:
        probability: that a position takes a neighbour's value.
        draws: uniform, (batch, 1, T). None: by torch's generator.
    """
    if not probability:
        return x
    if draws is None:
        draws = torch.rand(x.shape[0], 1, x.shape[2], device=x.device)
    left = torch.cat([x[..., :1], x[..., :-1]], -1)
    right = torch.cat([x[..., 1:], x[..., -1:]], -1)
    return torch.where(draws < probability / 2, left, torch.where(draws < probability, right, x))


def drop_codes(cond: torch.Tensor, probability: float, draws: torch.Tensor | None = None) -> torch.Tensor:
    """Set the whole sequence `cond` (batch, channels, T) of some clips to zero, which stands for "no codes".

    Args:
        probability: that a clip loses its codes.
        draws: uniform, (batch,); a clip keeps its codes where the draw is larger. None: by torch's generator.
    """
    if not probability:
        return cond
    if draws is None:
        draws = torch.rand(len(cond), device=cond.device)
    return cond * (draws > probability)[:, None, None]
