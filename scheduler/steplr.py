"""The learning rate times `lr_decay` every `test_interval` epochs, so the evaluation interval changes the training.
Entry point: Scheduler.
"""

from torch.optim.lr_scheduler import StepLR


def Scheduler(optimizer, test_interval=10, lr_decay=0.95):
    """Return (scheduler, "epoch")."""
    return StepLR(optimizer, step_size=test_interval, gamma=lr_decay), "epoch"
