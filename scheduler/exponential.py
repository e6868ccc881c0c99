"""Exponential decay over the whole run with warm-up, set at every step (the schedule of WeSpeaker).
Entry points: Scheduler, exponential.
"""

from scheduler._iteration import StepSchedule, batch_scale, lr_ratio, warmup


def exponential(
    step: float, total: int, ratio: float, warmup_steps: float = 0, from_zero: bool = True, scale: float = 1.0
) -> float:
    """Return the factor on the learning rate: warm-up times ratio^(step / total); `ratio` is the last rate / the first.

    The decay runs during the warm-up too.
    """
    return warmup(step, warmup_steps, from_zero, scale) * ratio ** min(step / total, 1)


def Scheduler(optimizer, total_steps, steps_per_epoch, global_batch=64, warmup_epochs=0.0, final_lr=None,
              warm_from_zero=True, lr_scale_by_batch=False):  # fmt: skip
    """Return (scheduler, "iteration"); the rate falls from the optimizer's to `final_lr` (default: a thousandth)."""
    ratio, scale = lr_ratio(optimizer, final_lr), batch_scale(global_batch, lr_scale_by_batch)
    warmup_steps = warmup_epochs * steps_per_epoch
    return (
        StepSchedule(optimizer, lambda t: exponential(t, total_steps, ratio, warmup_steps, warm_from_zero, scale)),
        "iteration",
    )
