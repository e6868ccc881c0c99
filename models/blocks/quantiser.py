"""Product quantisation of latents: groups of channels, a codebook each, learned by averages or by gradient.
Entry points: Quantiser, restart_dead, epoch_usage, index_prior, objective.
"""

import math
from typing import NamedTuple

import torch
from torch import distributed, nn
from torch.nn import functional

from models.blocks.vq import (
    draw_rows,
    nearest,
    of_all_ranks,
    reset_moments,
    revival_probabilities,
    rows_of_all_ranks,
    several_ranks,
)

STARTS = ("kmeans++", "sample", "normal")
TABLE = 2**22  # elements of the table of products that is held at a time
ROWS_PER_CODE = 32  # of the first batch that the start looks at


class Quantised(NamedTuple):
    """`z_q` as the latents, `codes` (batch, groups, positions), `loss` and `kl` in nats (batch,), `log_perplexity` (),
    `mse` of each group (groups,).

    The gradient of `z_q` goes to the latents as it is. Positions have one axis or two, as those of the latents.
    """

    z_q: torch.Tensor
    codes: torch.Tensor
    loss: torch.Tensor
    kl: torch.Tensor
    log_perplexity: torch.Tensor
    mse: torch.Tensor


class Quantiser(nn.Module):
    """Nearest codeword of every group of channels at every position, in float32.

    van den Oord et al. 2017, arXiv 1711.00937, with the averaged codebook of its appendix; Jegou et al. 2011. In
    training all ranks' positions count, and the codebook starts from the first batch.

    Args:
        channels: of the latents; group g has the channels [g * channels / groups, (g + 1) * channels / groups).
        codewords: of each group.
        commitment: weight of the distance that moves the latents.
        update: ema: codewords are averages, buffers; gradient: parameters that a term of the loss moves.
        decay, epsilon: of the averages and their smoothing.
        group_reduction: how `loss` joins the groups, mean or sum.
        start: kmeans++ or sample: codewords are rows of the first batch; normal: random.
        dead_after: a codeword is dead after so many training batches without use on any rank.
        soft_perplexity: log_perplexity of probabilities, softmax of the negative squared distances, which has a
            gradient; that of hard assignments has none.
        seed: of the start.
    """

    def __init__(
        self,
        channels,
        codewords=64,
        groups=1,
        commitment=0.25,
        update="ema",
        decay=0.99,
        epsilon=1e-5,
        group_reduction="mean",
        start="kmeans++",
        dead_after=5,
        soft_perplexity=False,
        seed=0,
    ):
        super().__init__()
        if groups < 1 or codewords < 1 or dead_after < 1:
            raise ValueError(f"{groups} groups of {codewords} codewords, dead after {dead_after}: at least 1 each")
        if channels % groups:
            raise ValueError(f"{channels} latent channels are no multiple of {groups} groups")
        for name, value, allowed in (
            ("update", update, ("ema", "gradient")),
            ("group_reduction", group_reduction, ("mean", "sum")),
            ("start", start, STARTS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} {value} of the quantiser: one of {', '.join(allowed)}")
        self.channels, self.codewords, self.groups, self.commitment = channels, codewords, groups, commitment
        self.update, self.decay, self.epsilon, self.group_reduction = update, decay, epsilon, group_reduction
        self.start, self.dead_after, self.soft_perplexity, self.seed = start, dead_after, soft_perplexity, seed
        codebook = torch.randn(groups, codewords, channels // groups)
        if update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("accumulators", codebook.clone())
        self.register_buffer("counts", torch.ones(groups, codewords))
        self.register_buffer("idle", torch.zeros(groups, codewords, dtype=torch.int64))  # batches without use
        self.register_buffer("usage", torch.zeros(groups, codewords, dtype=torch.int64))  # since reset_usage()
        self.register_buffer("started", torch.tensor(start == "normal"))
        self.last = None  # rows of the last training batch and their squared distances: what codewords restart from
        self._known_started = start == "normal"  # saves a wait for the device

    def forward(self, z: torch.Tensor, counted: torch.Tensor | None = None) -> Quantised:
        """Quantise `z` (batch, channels, positions) or (batch, channels, bands, positions).

        Args:
            counted: bool, (batch, positions) or (batch, bands, positions): which positions count in the losses, the
                statistics and the codebook; None for all.

        Raises:
            ValueError: in the first training batch fewer positions count than there are codewords.
        """
        with torch.autocast(z.device.type, enabled=False):
            return self._quantise(z.float(), counted)

    def _quantise(self, z, counted):
        split = self._split(z)
        batch, _, width, _ = split.shape
        weights = torch.ones_like(split[:, 0, 0]) if counted is None else counted.reshape(batch, -1).to(z.dtype)
        rows = _as_rows(split.detach())
        finite = rows.isfinite().all(-1).all(0)  # one overflow would stay in the averages
        valid = finite & (weights.flatten() > 0)
        # those that do not count have their codes too: the decoder sees them beside those that do
        assigned, rows = torch.where(finite[:, None], rows, 0.0), torch.where(valid[:, None], rows, 0.0)
        if self.training and not self._known_started:
            self._start(rows, valid)
        codebook = self.codebook.detach()
        codes = self._nearest(assigned, codebook)  # (groups, rows)
        offsets = torch.arange(self.groups, device=z.device)[:, None] * self.codewords
        flat = codes + offsets
        found = functional.embedding(flat, self.codebook.flatten(0, 1))  # (groups, rows, width)
        own = found.view(self.groups, batch, -1, width).permute(1, 0, 3, 2)  # as split
        sizes = weights.sum(1).clamp(min=1)

        def distance(a, b):
            return ((a - b).square().sum(2) * weights[:, None]).sum(2) / (sizes[:, None] * width)

        mse = distance(split, own.detach())  # (batch, groups)
        loss = self.commitment * mse
        if self.update == "gradient":
            loss = loss + distance(split.detach(), own)
        loss = loss.sum(1) if self.group_reduction == "sum" else loss.mean(1)
        used = torch.zeros(self.groups * self.codewords, device=z.device)
        used = used.index_add_(0, flat.flatten(), valid.to(used).repeat(self.groups)).view(self.groups, -1)
        if self.training:
            used = self._learn(rows, valid, flat, used, found.detach())
        probabilities = used / used.sum(1, keepdim=True).clamp(min=1)
        if self.soft_perplexity:
            probabilities = self._soft_probabilities(split, weights)
        kl = self.groups * math.log(self.codewords) * weights.sum(1)
        values = own.detach().reshape(z.shape)
        # in this order the values are those of the codewords to the last bit
        return Quantised(
            values + (z - z.detach()),
            self._as_codes(codes, z.shape),
            loss,
            kl,
            -(probabilities * (probabilities + 1e-10).log()).sum(1).mean(),
            weights.sum(1) @ mse.detach() / weights.sum().clamp(min=1),
        )

    @torch.no_grad()
    def assign(self, z: torch.Tensor) -> torch.Tensor:
        """Return the codes (batch, groups, positions) of latents alone, one axis of positions or two."""
        with torch.autocast(z.device.type, enabled=False):
            return self._as_codes(self._nearest(_as_rows(self._split(z.float())), self.codebook), z.shape)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents (batch, channels, positions) of `codes` (batch, groups, positions), one axis or two.

        Raises:
            ValueError: the number of groups is another.
        """
        if codes.dim() < 3 or codes.shape[1] != self.groups:
            raise ValueError(f"codes of shape {tuple(codes.shape)}, expected (batch, {self.groups}, positions)")
        offsets = torch.arange(self.groups, device=codes.device)[:, None] * self.codewords
        rows = functional.embedding(codes.flatten(2) + offsets, self.codebook.flatten(0, 1))
        return rows.transpose(2, 3).reshape(len(codes), self.channels, *codes.shape[2:])

    def _split(self, z):
        """Return latents as (batch, groups, width, positions)."""
        if z.shape[1] != self.channels:
            raise ValueError(f"latents of {z.shape[1]} channels, a quantiser of {self.channels}")
        return z.reshape(len(z), self.groups, self.channels // self.groups, -1)

    def _as_codes(self, codes, shape):
        """Return codes (groups, rows) as those of latents of `shape`."""
        return codes.view(self.groups, shape[0], -1).transpose(0, 1).reshape(shape[0], self.groups, *shape[2:])

    def _nearest(self, rows, codebook):
        step = max(1, TABLE // (self.groups * self.codewords))
        return torch.cat([nearest(part, codebook) for part in rows.split(step, 1)], 1)

    def _soft_probabilities(self, split, weights):
        """Return the mean probability (groups, codewords) of the codewords over the positions of all ranks."""
        scores = 2 * _as_rows(split) @ self.codebook.detach().mT - self.codebook.detach().square().sum(2)[:, None]
        weights = weights.flatten()
        own = weights @ scores.softmax(2)
        total = torch.cat([own.detach().flatten(), weights.sum()[None]])
        if self.training and several_ranks():
            distributed.all_reduce(total)
            ranks = distributed.get_world_size()
        else:
            ranks = 1
        whole, size = total[:-1].view_as(own), total[-1].clamp(min=1)
        # the value is that of all ranks; each rank has the gradient of its share, times the ranks it is averaged over
        return (whole + ranks * (own - own.detach())) / size

    # ------------------------------------------------------------ learning

    @torch.no_grad()
    def _learn(self, rows, valid, flat, used, found):
        """Count the codewords that all ranks use, move the averages; return the counts (groups, codewords)."""
        totals = used[..., None]
        if self.update == "ema":
            sums = torch.zeros(self.groups * self.codewords, rows.shape[2], device=rows.device)
            sums.index_add_(0, flat.flatten(), rows.flatten(0, 1))  # rows that do not count are zero
            totals = torch.cat([totals, sums.view(self.groups, self.codewords, -1)], 2)
        if several_ranks():
            distributed.all_reduce(totals)
        used = totals[..., 0].clone()
        counts = torch.lerp(used, self.counts, self.decay)
        size = counts.sum(1, keepdim=True)
        self.counts.copy_((counts + self.epsilon) / (size + self.codewords * self.epsilon) * size)
        if self.update == "ema":
            self.accumulators.lerp_(totals[..., 1:], 1 - self.decay)
            self.codebook.copy_(self.accumulators / self.counts[..., None])
        self.usage += used.long()
        self.idle.copy_(torch.where(used > 0, 0, self.idle + 1))
        self.last = rows, torch.where(valid, (rows - found).square().sum(2), 0.0), valid
        return used

    @torch.no_grad()
    def _start(self, rows, valid):
        """Take the codewords from the rows of all ranks that count, alike on all ranks."""
        if not self.started:
            rows = of_all_ranks(rows.transpose(1, 2)).transpose(1, 2)[:, of_all_ranks(valid.int()) > 0]
            self.check_start(rows.shape[1])
            chosen = start_rows(rows, self.codewords, self.start == "kmeans++", self.seed)
            if several_ranks():
                distributed.broadcast(chosen, 0)
            self._replace(torch.ones_like(self.idle, dtype=torch.bool), chosen)
            self.started.fill_(True)
        self._known_started = True

    def check_start(self, positions: int):
        """Raise ValueError unless a first batch of so many positions, of all ranks, has enough for the codebook."""
        if self.start != "normal" and positions < self.codewords:
            raise ValueError(
                f"a codebook of {self.codewords} codewords cannot start from the {positions} positions of the first "
                "batch: take more or longer chunks, fewer codewords, or start normal"
            )

    def _replace(self, which, codewords):
        """Set the codewords of `which` (groups, codewords) bool; each counts like one position."""
        self.codebook.copy_(torch.where(which[..., None], codewords, self.codebook))
        self.counts.masked_fill_(which, 1.0)
        self.idle.masked_fill_(which, 0)
        if self.update == "ema":
            self.accumulators.copy_(torch.where(which[..., None], codewords, self.accumulators))

    def reset_usage(self):
        """Begin a new epoch of the counts of use."""
        self.usage.zero_()

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._known_started = False  # what was loaded says


def _as_rows(split):
    """Return latents (batch, groups, width, positions) as (groups, rows, width)."""
    return split.permute(1, 0, 3, 2).flatten(1, 2)


def start_rows(rows: torch.Tensor, codewords: int, spread: bool, seed: int) -> torch.Tensor:
    """Return `codewords` of the `rows` (groups, rows, width) of each group, drawn by `seed`.

    spread: each with a probability as its squared distance to those drawn before (k-means++, Arthur and Vassilvitskii
        2007); else all alike, none twice.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows.shape[1], generator=generator)[: ROWS_PER_CODE * codewords].to(rows.device)
    if not spread:
        return rows[:, order[:codewords]].contiguous()
    rows = rows[:, order]
    draws = torch.rand(codewords, len(rows), 1, generator=generator, dtype=torch.float64).to(rows.device)
    chosen, group = rows.new_empty(len(rows), codewords, rows.shape[2]), torch.arange(len(rows), device=rows.device)
    distance = torch.full(rows.shape[:2], 1.0, device=rows.device)
    first = torch.ones(len(rows), 1, dtype=torch.bool, device=rows.device)
    for k in range(codewords):
        drawn = draw_rows(revival_probabilities(distance), first, draws[k])
        chosen[:, k] = rows[group, drawn[:, 0]]
        new = (rows - chosen[:, k, None]).square().sum(2)
        distance = new if k == 0 else torch.minimum(distance, new)
    return chosen


@torch.no_grad()
def restart_dead(quantiser: Quantiser, step: int, optimizer=None) -> torch.Tensor:
    """Replace the dead codewords by rows of the last training batch of all ranks; return which, (groups, codewords).

    All ranks must call it, with equally many rows, and end with the same codebook to the last bit. Rows far from their
    codeword are drawn more often. Nothing waits for the device.

    Args:
        step: the draws follow from it and the seed of the quantiser alone.
        optimizer: its moments of the replaced codewords are reset, where codewords are parameters.
    """
    if quantiser.last is None:
        raise ValueError("codewords restart only after a batch in training mode")
    rows, distances, valid = quantiser.last
    # a little for every row that counts: where all lie on codewords, still none is drawn that does not count
    weights = of_all_ranks(distances + 1e-20 * valid)
    dead = (quantiser.idle >= quantiser.dead_after) & (weights.sum(1, keepdim=True) > 0)
    generator = torch.Generator().manual_seed(quantiser.seed * 1_000_003 + step)
    draws = torch.rand(dead.shape, generator=generator, dtype=torch.float64).to(rows.device, non_blocking=True)
    chosen = draw_rows(revival_probabilities(weights), dead, draws)
    quantiser._replace(dead, rows_of_all_ranks(rows, chosen))
    if optimizer is not None and quantiser.update == "gradient":
        reset_moments(optimizer, quantiser.codebook, dead)
    return dead


def epoch_usage(quantiser: Quantiser) -> dict[str, torch.Tensor]:
    """Return `perplexity` and number `used` of the codewords of each group, (groups,), since reset_usage()."""
    share = quantiser.usage / quantiser.usage.sum(1, keepdim=True).clamp(min=1)
    return {"perplexity": torch.special.entr(share).sum(1).exp(), "used": (quantiser.usage > 0).sum(1)}


def index_prior(quantiser: Quantiser, kind: str = "uniform") -> torch.Tensor:
    """Return the probability of each codeword, (groups, codewords): uniform, or empirical from the averaged counts."""
    if kind not in ("uniform", "empirical"):
        raise ValueError(f"prior {kind} of the codes: uniform or empirical")
    weights = torch.ones_like(quantiser.counts) if kind == "uniform" else quantiser.counts
    return weights / weights.sum(1, keepdim=True)


def objective(log_px, kl, vq_loss, log_perplexity, kl_weight=1.0, diversity_weight=0.1):
    """Return (ELBO per dimension, loss) of each sample, (batch,).

    Args:
        log_px, kl: (batch,), in nats per dimension of x; kl is constant, that to a uniform prior of the codes.
        vq_loss: of each sample or of the batch.
        log_perplexity: of the batch; without gradient where assignments are hard.
    """
    elbo = log_px - kl_weight * kl
    return elbo, -elbo + vq_loss - diversity_weight * log_perplexity
