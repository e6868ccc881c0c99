"""Learning rates that are pure functions of the optimiser step, and can so be set to any step.
Entry points: StepSchedule, warmup, last_rate.
"""

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class StepSchedule(LambdaLR):
    """Multiply each group's own rate by `factor`(step); step() once per optimiser step."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[float], float]):
        super().__init__(optimizer, factor)

    def set_step(self, step: float):
        """Go to `step`, e.g. samples seen / global batch of a run resumed with another number of processes."""
        self.last_epoch = step
        self._last_lr = [base * factor(step) for base, factor in zip(self.base_lrs, self.lr_lambdas)]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr):
            group["lr"] = lr


def warmup(step: float, steps: float, from_zero: bool, scale: float) -> float:
    """Return the factor of the first `steps` steps, `scale` afterwards.

    It rises in a straight line, from zero or, not from_zero, from 1 (no warm-up at all where scale is 1).
    """
    if step >= steps:
        return scale
    return scale * step / steps if from_zero else 1 + (scale - 1) * step / steps


def lr_ratio(optimizer: Optimizer, final_lr: float | None) -> float:
    """Return the last learning rate as a share of the optimizer's, 1 / 1000 without `final_lr`.

    Raises:
        ValueError: one of them is not positive.
    """
    peak = optimizer.defaults["lr"]
    final = peak / 1000 if final_lr is None else final_lr
    if peak <= 0 or final <= 0:
        raise ValueError(f"--lr {peak} and --final_lr {final} must be above 0")
    return final / peak


def batch_scale(global_batch: int, lr_scale_by_batch: bool) -> float:
    """Return the factor on all rates: global batch / 64, or 1 where it is not asked for."""
    return global_batch / 64 if lr_scale_by_batch else 1.0


def last_rate(lr: float, final_lr: float | None, final_lr_ratio: float | None) -> float:
    """Return the last learning rate: given itself, as a share of the first, or 5e-6.

    Raises:
        ValueError: both are given, or a rate is not positive.
    """
    if final_lr is not None and final_lr_ratio is not None:
        raise ValueError("--final_lr and --final_lr_ratio say the same: give one of them")
    final = final_lr if final_lr is not None else lr * final_lr_ratio if final_lr_ratio is not None else 5e-6
    if lr <= 0 or final <= 0:
        raise ValueError(f"--lr {lr} and the last learning rate {final} must be above 0")
    return final
