"""A rise, a constant rate, then a fall with a power of the step: the schedule of transformers with a hold.
Entry points: Scheduler, hold_inverse_power.
"""

from scheduler._hold import LOWEST, held
from scheduler._iteration import StepSchedule


def hold_inverse_power(
    step: float, lr: float, lowest: float, warmup_steps: float, hold_steps: float, power: float = 0.5
) -> float:
    """Return the learning rate; after the constant part it is lr * (step / steps before)^-power."""
    return held(step, lr, lowest, warmup_steps, hold_steps, lambda n, hold: (n / max(hold, 1)) ** -power)


def Scheduler(optimizer, warmup_steps=0, hold_steps=0, decay_power=0.5, final_lr=None):
    """Return (scheduler, "iteration"); the lowest rate is `final_lr` (default: 1e-5).

    Raises:
        ValueError: rates that are no fall.
    """
    lr, lowest = optimizer.defaults["lr"], LOWEST if final_lr is None else final_lr
    if decay_power <= 0:
        raise ValueError(f"--decay_power {decay_power}: must be above 0")
    values = (lr, lowest, warmup_steps, hold_steps, decay_power)
    hold_inverse_power(0, *values)  # rates that do not go together are told before the work
    return StepSchedule(optimizer, lambda step: hold_inverse_power(step, *values) / (lr or 1)), "iteration"
