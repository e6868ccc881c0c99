"""The embeddings of all processes, with gradient, so that a metric loss sees the speakers of the whole batch.
Entry points: gather, own_rows, from_rank_zero; they do nothing in a single process.
"""

import torch
from torch import distributed


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        # Each process has the gradient of its own copy of the loss; the sum undoes DDP's division by their number.
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def _single():
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1


def gather(x: torch.Tensor) -> torch.Tensor:
    """Return the `x` (speakers, ...) of all processes in rank order; every process must hold equally many speakers.

    Gradients averaged by DDP then equal those of one process with the whole batch.
    """
    return x if _single() else _Gather.apply(x.contiguous())


def own_rows(x: torch.Tensor) -> torch.Tensor:
    """Return this process's part of rows gathered from all."""
    return x if _single() else x.chunk(distributed.get_world_size())[distributed.get_rank()]


def from_rank_zero(x: torch.Tensor) -> torch.Tensor:
    """Return rank 0's `x`, for random draws that all processes must share."""
    if not _single():
        distributed.broadcast(x, 0)
    return x
