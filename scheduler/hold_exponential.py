"""A rise, a constant rate, then halved every so many steps: the schedule of the feature autoencoders.
Entry points: Scheduler, hold_exponential.
"""

from scheduler._hold import LOWEST, held
from scheduler._iteration import StepSchedule


def hold_exponential(
    step: float, lr: float, lowest: float, warmup_steps: float, hold_steps: float, decay_steps: float, rate: float = 0.5
) -> float:
    """Return the learning rate; after the constant part it is lr * rate^(steps since / decay_steps)."""
    return held(step, lr, lowest, warmup_steps, hold_steps, lambda n, hold: rate ** ((n - hold) / decay_steps))


def Scheduler(optimizer, warmup_steps=0, hold_steps=0, decay_steps=8000, decay_rate=0.5, final_lr=None):
    """Return (scheduler, "iteration"); the lowest rate is `final_lr` (default: 1e-5).

    Raises:
        ValueError: no steps to fall in, or rates that are no fall.
    """
    lr, lowest = optimizer.defaults["lr"], LOWEST if final_lr is None else final_lr
    if decay_steps <= 0 or not 0 < decay_rate <= 1:
        raise ValueError(f"--decay_steps {decay_steps} and --decay_rate {decay_rate}: above 0, the rate at most 1")
    values = (lr, lowest, warmup_steps, hold_steps, decay_steps, decay_rate)
    hold_exponential(0, *values)  # rates that do not go together are told before the work
    return StepSchedule(optimizer, lambda step: hold_exponential(step, *values) / (lr or 1)), "iteration"
