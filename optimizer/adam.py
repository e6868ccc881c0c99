"""Adam (Kingma and Ba, ICLR 2015), or AMSGrad (Reddi et al., ICLR 2018); weight decay is added to the gradient (L2).
Entry point: Optimizer.
"""

import torch

from optimizer._fused import with_fused


def Optimizer(parameters, lr, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, amsgrad=False):
    """Return the optimizer of `parameters` (tensors or parameter groups)."""
    parameters, fused = with_fused(parameters)
    return torch.optim.Adam(
        parameters, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, fused=fused
    )
