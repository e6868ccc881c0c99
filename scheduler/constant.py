"""The same learning rate throughout.
Entry point: Scheduler.
"""

from torch.optim.lr_scheduler import LambdaLR


def Scheduler(optimizer):
    """Return (scheduler, "epoch")."""
    return LambdaLR(optimizer, lambda epoch: 1.0), "epoch"
