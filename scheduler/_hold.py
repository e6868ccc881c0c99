"""A rise, a constant rate, then a fall that knows no end: what the schedules of the feature autoencoders share.
Entry point: held.
"""

from collections.abc import Callable

LOWEST = 1e-5


def held(
    step: float, lr: float, lowest: float, warmup_steps: float, hold_steps: float, fall: Callable[[float, float], float]
) -> float:
    """Return the learning rate of `step`, counted from 0, which has the lowest rate where there is a warm-up.

    It rises over `warmup_steps`, is `lr` up to `hold_steps` in all, then lr * fall(step, steps before the fall), not
    below `lowest`.

    Raises:
        ValueError: the lowest rate is above the highest.
    """
    if lowest > lr:
        raise ValueError(f"--final_lr {lowest:g} is above --lr {lr:g}")
    if step < warmup_steps:
        return lowest + (lr - lowest) * step / warmup_steps
    hold = max(hold_steps, warmup_steps)
    return lr if step <= hold else max(lr * fall(step, hold), lowest)
