"""Triplets (anchor, positive, negative) of a batch of codes, counted without ever listing them.
Entry points: bounds, distances, count_triplets, occurrences.

Per anchor the distances to the negatives are sorted once; which negatives belong to a positive is then a range of that
order, found by bisection. So a batch of b rows costs b^2 log b, not b^3, and nothing waits for the device.
"""

import math

import torch

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


def distances(code: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distances (batch, batch), float64, of the rows of `code`, each divided by its norm.

    Meant for bits: norms below 1 count as 1, so that a code of zeros stays one, with a finite gradient. Inner products
    of bits are whole numbers, and so distances that should be equal are. The gradient of a distance of 0 is 0.
    """
    product = (code @ code.T).double()
    squares = product.diagonal()
    least = squares.clamp(min=1)
    norms = squares / least
    squared = norms[:, None] + norms - 2 * product / (least[:, None] * least).sqrt()
    apart = squared > 1e-6  # what is nearer differs by rounding only
    return torch.where(apart, squared, 1.0).sqrt() * apart


@torch.no_grad()
def count_triplets(
    distance: torch.Tensor, labels: torch.Tensor, kind: str, margin: float, below: float = math.inf
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many triplets of a kind hold each (anchor, positive) and each (anchor, negative), (batch, batch) int.

    Args:
        below: count only those with d(a, n) - d(a, p) < below.
    """
    low, high = bounds(kind, margin)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    ordered, order = distance.masked_fill(same, math.inf).sort(dim=1)
    negatives = (~same).sum(1, keepdim=True)

    def first_beyond(limit, inclusive):
        # the number of negatives of each anchor that are nearer than d(a, p) + limit
        if limit == -math.inf:
            return torch.zeros_like(order)
        if limit == math.inf:
            return negatives.expand_as(order)
        return torch.minimum(torch.searchsorted(ordered, distance + limit, right=inclusive), negatives)

    start = first_beyond(low, True)
    stop = first_beyond(below, False) if below <= high else first_beyond(high, True)
    stop = torch.maximum(start, stop)
    of_positive = (stop - start) * positive
    # a range adds one at its start and takes it away at its stop
    steps = torch.zeros(len(labels), len(labels) + 1, dtype=order.dtype, device=order.device)
    steps.scatter_add_(1, start, positive.to(order.dtype)).scatter_add_(1, stop, -positive.to(order.dtype))
    of_negative = torch.empty_like(order).scatter_(1, order, steps.cumsum(1)[:, :-1])
    return of_positive, of_negative


def occurrences(of_positive: torch.Tensor, of_negative: torch.Tensor) -> torch.Tensor:
    """Return in how many of the counted triplets each row is the anchor, the positive or the negative, (batch,)."""
    return of_positive.sum(1) + of_positive.sum(0) + of_negative.sum(0)
