"""Triangles whose peaks halve from cycle to cycle (triangular2 of Smith, Cyclical learning rates, WACV 2017).
Entry points: Scheduler, cyclic.
"""

from scheduler._iteration import StepSchedule


def cyclic(step: float, half_period: int, lr: float, base_lr: float) -> float:
    """Return the learning rate: from `base_lr` up in `half_period` steps and down again, to `lr` in the first cycle."""
    cycle = int(step // (2 * half_period))
    height = max(0.0, 1 - abs(step / half_period - 2 * cycle - 1))
    return base_lr + (lr - base_lr) * height / 2**cycle


def Scheduler(optimizer, total_steps, cycles=4, half_period_steps=0, base_lr=1e-8):
    """Return (scheduler, "iteration"): `cycles` in the whole run, or cycles of twice `half_period_steps`.

    Raises:
        ValueError: the run is shorter than its cycles.
    """
    half = half_period_steps or total_steps // (2 * cycles)
    if half < 1:
        raise ValueError(f"--cycles {cycles}: {total_steps} steps are too few, give --max_steps or --half_period_steps")
    lr = optimizer.defaults["lr"]
    return StepSchedule(optimizer, lambda t: cyclic(t, half, lr, base_lr) / lr), "iteration"
