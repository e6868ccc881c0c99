"""Rectified Adam (Liu et al., ICLR 2020), which needs no warm-up; torch has no fused step for it.
Entry point: Optimizer.
"""

import torch


def Optimizer(parameters, lr, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, decoupled_weight_decay=False):
    """Return the optimizer of `parameters` (tensors or parameter groups).

    decoupled_weight_decay keeps the weight decay apart from the gradient, as in AdamW.
    """
    return torch.optim.RAdam(
        list(parameters), lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
    )  # fmt: skip
