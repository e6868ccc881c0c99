"""The learning rate times 0.1 when the validation value has not fallen by 1 % for more than 3 evaluations.
Entry point: Scheduler.
"""

from scheduler.plateau import Plateau

LEAST_GAIN = 0.01  # relative to the best value so far


def Scheduler(optimizer, lr_decay=0.1, plateau_patience=3):
    """Return (scheduler, "epoch"); it is stepped with the validation value after each evaluation on --valid_list."""
    plateau = Plateau(optimizer, mode="min", factor=lr_decay, patience=plateau_patience, threshold=LEAST_GAIN, eps=0)
    return plateau, "epoch"


def add_arguments(parser):
    """Give the flags this schedule shares with others its own defaults."""
    parser.set_defaults(lr_decay=0.1, plateau_patience=3)


Scheduler.add_arguments = add_arguments
