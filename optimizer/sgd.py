"""Stochastic gradient descent with momentum; weight decay is added to the gradient (L2).
Entry point: Optimizer.
"""

import torch

from optimizer._fused import with_fused


def Optimizer(parameters, lr, weight_decay=0.0, momentum=0.9, nesterov=False):
    """Return the optimizer of `parameters` (tensors or parameter groups)."""
    parameters, fused = with_fused(parameters)
    return torch.optim.SGD(
        parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, fused=fused
    )
