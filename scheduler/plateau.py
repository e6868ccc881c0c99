"""The learning rate times `lr_decay` when the validation value has stopped falling.
Entry point: Scheduler.
"""

from torch.optim.lr_scheduler import ReduceLROnPlateau


class Plateau(ReduceLROnPlateau):
    """Stepped with the validation value (lower is better) after each evaluation on --valid_list, never without one."""

    needs_metric = True


def Scheduler(optimizer, lr_decay=0.95, plateau_patience=2):
    """Return (scheduler, "epoch"); the rate falls after more than `plateau_patience` evaluations without gain."""
    return Plateau(optimizer, mode="min", factor=lr_decay, patience=plateau_patience), "epoch"
