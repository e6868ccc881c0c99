"""One rise and one fall along half cosines (Smith and Topin, Super-convergence, 2019); no cycling of the momentum.
Entry points: Scheduler, one_cycle.
"""

import math

from scheduler._iteration import StepSchedule


def one_cycle(
    step: float, total: int, lr: float, rising: float = 0.3, start_divisor: float = 25, end_divisor: float = 1e4
) -> float:
    """Return the learning rate: first = lr / start_divisor at step 0, `lr` at rising * total - 1, first / end_divisor
    from total - 1 on."""
    first = lr / start_divisor
    last = first / end_divisor
    top = rising * total - 1
    if step <= top:
        return _half_cosine(first, lr, step / top)
    return _half_cosine(lr, last, min(1.0, (step - top) / (total - 1 - top)))


def _half_cosine(start, end, share):
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def Scheduler(optimizer, total_steps):
    """Return (scheduler, "iteration"); ValueError where the run has fewer than ten steps."""
    if total_steps < 10:
        raise ValueError(f"--scheduler one_cycle: {total_steps} steps are too few for it, give --max_steps")
    lr = optimizer.defaults["lr"]
    return StepSchedule(optimizer, lambda t: one_cycle(t, total_steps, lr) / lr), "iteration"
