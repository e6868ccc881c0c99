"""Exponential decay over the whole run down to an absolute rate, set at every step.
Entry points: Scheduler, exp_decay.
"""

from scheduler._iteration import StepSchedule, last_rate


def exp_decay(step: float, total: int, lr: float, final_lr: float) -> float:
    """Return the learning rate lr (final_lr / lr)^(step / (total + 1)), constant from `total` on."""
    return lr * (final_lr / lr) ** (min(step, total) / (total + 1))


def Scheduler(optimizer, total_steps, final_lr=None, final_lr_ratio=None):
    """Return (scheduler, "iteration"); the last rate is `final_lr`, or that share of the first (default: 5e-6)."""
    lr = optimizer.defaults["lr"]
    final = last_rate(lr, final_lr, final_lr_ratio)
    return StepSchedule(optimizer, lambda t: exp_decay(t, total_steps, lr, final) / lr), "iteration"
