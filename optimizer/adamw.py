"""AdamW: Adam with weight decay apart from the gradient (Loshchilov and Hutter, ICLR 2019).
Entry point: Optimizer.
"""

import torch

from optimizer._fused import with_fused


def Optimizer(parameters, lr, weight_decay=0.0):
    """Return the optimizer of `parameters` (tensors or parameter groups)."""
    parameters, fused = with_fused(parameters)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
