"""Triplets (anchor, positive, negative) of a batch of codes, counted without ever listing them.
Entry points: TYPES, bounds, distances, weighted_sum, count_triplets, occurrences.
"""

import math

import torch
from torch.nn import functional

TYPES = ("all", "hard", "semihard", "easy")


def bounds(kind: str, margin: float) -> tuple[float, float]:
    """Return (low, high): triplets of this kind are those with low < d(a, n) - d(a, p) <= high."""
    if kind not in TYPES:
        raise ValueError(f"triplets of type {kind!r}: one of {', '.join(TYPES)}")
    return {
        "all": (-math.inf, margin),
        "hard": (-math.inf, min(margin, 0.0)),
        "semihard": (0.0, margin),
        "easy": (margin, math.inf),
    }[kind]


def inverse_norms(code: torch.Tensor) -> torch.Tensor:
    """Return 1 / norm of each row of `code`, (batch, 1).

    A code with any bit set has a norm of at least 1; that of a code of zeros counts as 1, which keeps gradients finite.
    """
    return code.square().sum(1, keepdim=True).clamp(min=1).rsqrt()


@torch.no_grad()
def distances(code: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distances (batch, batch), float64, of the rows of `code` divided by their norms.

    Bits have whole inner products and many equal distances; these are rounded to 1e-9, so that equal ones compare so.
    """
    product = (code @ code.T).double()
    squares = product.diagonal().clone()
    inverse, squares = squares.clamp(min=1).rsqrt(), squares.clamp(max=1)
    squared = product.mul_(inverse[:, None]).mul_(inverse).mul_(-2).add_(squares[:, None]).add_(squares)
    squared = functional.threshold(squared, 1e-6, 0.0)  # two codes nearer than this are the same one
    return squared.sqrt_().round_(decimals=9)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, unit, distance, weight):
        ctx.save_for_backward(unit, distance, weight)
        return (distance * weight).sum().to(unit.dtype)

    @staticmethod
    def backward(ctx, gradient):
        # d|a - b| / da = (a - b) / |a - b|, and 0 where a = b
        unit, distance, weight = ctx.saved_tensors
        pull = (weight + weight.T) / distance.masked_fill(distance == 0, math.inf)
        pull = pull.to(unit.dtype)
        return gradient * (pull.sum(1, keepdim=True) * unit - pull @ unit), None, None


def weighted_sum(code: torch.Tensor, distance: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return sum(weight * distances(code)) with a gradient to `code`; `distance` is what distances() gave for it."""
    return _WeightedSum.apply(code * inverse_norms(code), distance, weight)


def _room(size):
    # only the CPU may be asked for a number: elsewhere there is room for a batch of a single label
    return int(size.max()) if size.device.type == "cpu" else len(size)


def positives(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each row the rows of the same label, (batch, most) int64, and which of these are others than itself.

    Where a label has fewer rows the list ends with the row itself.
    """
    rows = torch.arange(len(labels), device=labels.device)
    same = labels[:, None] == labels
    size = same.sum(1, keepdim=True)
    order = labels.argsort(stable=True)
    first = torch.searchsorted(labels[order], labels)[:, None]
    place = torch.arange(_room(size), device=labels.device)
    chosen = order[(first + place).clamp(max=len(labels) - 1)]
    chosen = torch.where(place < size, chosen, rows[:, None])
    return chosen, chosen != rows[:, None]


@torch.no_grad()
def count_triplets(
    distance: torch.Tensor, labels: torch.Tensor, kind: str, margin: float, below: float = math.inf
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the triplets of a kind with each (anchor, positive) and with each (anchor, negative), (batch, batch) int64.

    Per anchor its positives are sorted by distance. Those that form a triplet with a negative are then a range of that
    order, found by bisection: b^2 log m steps for b rows with m of a label instead of b^2 m.

    Args:
        below: count only those with d(a, n) - d(a, p) < below.
    """
    low, high = bounds(kind, margin)
    negative = labels[:, None] != labels
    chosen, real = positives(labels)
    ordered, order = distance.gather(1, chosen).masked_fill(~real, math.inf).sort(dim=1)
    chosen, count = chosen.gather(1, order), real.sum(1, keepdim=True)

    def nearer_than(limit, inclusive):
        # how many positives of each anchor have d(a, p) + limit < d(a, n), or <= where inclusive
        if math.isinf(limit):
            return torch.zeros_like(negative, dtype=torch.int64) + (count if limit < 0 else 0)
        return torch.searchsorted(ordered + limit, distance, right=inclusive)

    stop = nearer_than(low, False)
    start = nearer_than(below, True) if below <= high else nearer_than(high, False)
    of_negative = (stop - start).clamp_(min=0) * negative
    # each range adds 1 to the positives from its start on and takes it away from its stop on
    used = (of_negative > 0).to(torch.int64)
    steps = used.new_zeros(len(labels), ordered.shape[1] + 1)
    steps.scatter_add_(1, start, used).scatter_add_(1, stop, -used)
    of_positive = torch.zeros_like(of_negative).scatter_add_(1, chosen, steps.cumsum(1)[:, :-1] * (ordered < math.inf))
    return of_positive, of_negative


def occurrences(of_positive: torch.Tensor, of_negative: torch.Tensor) -> torch.Tensor:
    """Return in how many of the counted triplets each row is the anchor, the positive or the negative, (batch,)."""
    return of_positive.sum(1) + of_positive.sum(0) + of_negative.sum(0)
