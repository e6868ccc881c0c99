"""Half a cosine down over the whole run with warm-up, set at every step (Loshchilov and Hutter, SGDR, ICLR 2017).
Entry points: Scheduler, cosine.
"""

import math

from scheduler._iteration import StepSchedule, batch_scale, lr_ratio, warmup


def cosine(
    step: float, total: int, ratio: float, warmup_steps: float = 0, from_zero: bool = True, scale: float = 1.0
) -> float:
    """Return the factor on the learning rate: warm-up, then half a cosine down to `ratio`, last rate / first."""
    if step < warmup_steps:
        return warmup(step, warmup_steps, from_zero, scale)
    if step >= total:
        return scale * ratio
    angle = math.pi * (step - warmup_steps) / (total - warmup_steps)
    return scale * (ratio + (1 - ratio) * (1 + math.cos(angle)) / 2)


def Scheduler(optimizer, total_steps, steps_per_epoch, global_batch=64, warmup_epochs=0.0, final_lr=None,
              warm_from_zero=True, lr_scale_by_batch=False):  # fmt: skip
    """Return (scheduler, "iteration"); the rate falls from the optimizer's to `final_lr` (default: a thousandth)."""
    ratio, scale = lr_ratio(optimizer, final_lr), batch_scale(global_batch, lr_scale_by_batch)
    warmup_steps = warmup_epochs * steps_per_epoch
    return (
        StepSchedule(optimizer, lambda t: cosine(t, total_steps, ratio, warmup_steps, warm_from_zero, scale)),
        "iteration",
    )
