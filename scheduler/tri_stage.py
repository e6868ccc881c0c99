"""Linear warm-up, constant rate, exponential decay: the schedule of wav2vec 2.0 (Baevski et al., NeurIPS 2020).
Entry points: Scheduler, tri_stage.
"""

import math

from scheduler._iteration import StepSchedule, last_rate


def tri_stage(step: float, total: int, lr: float, initial_lr: float, final_lr: float, ratios=(0.1, 0.4, 0.5)) -> float:
    """Return the learning rate; `ratios` are the shares of the three stages in `total` steps."""
    warm, hold, decay = (math.floor(ratio * total) for ratio in ratios)
    if step < warm:
        return initial_lr + (lr - initial_lr) * step / max(1, warm - 1)
    if step <= warm + hold:
        return lr
    if step <= total:
        return lr * (final_lr / lr) ** ((step - warm - hold) / (decay + 1))
    return final_lr


def Scheduler(optimizer, total_steps, initial_lr=5e-6, final_lr=None, final_lr_ratio=None,
              tri_stage_ratios=(0.1, 0.4, 0.5)):  # fmt: skip
    """Return (scheduler, "iteration"); the last rate is `final_lr`, or that share of the highest (default: 5e-6).

    Raises:
        ValueError: the ratios are not three shares with the sum 1.
    """
    ratios = tuple(tri_stage_ratios)
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(f"--tri_stage_ratios {' '.join(map(str, ratios))}: three shares with the sum 1 are needed")
    lr = optimizer.defaults["lr"]
    final = last_rate(lr, final_lr, final_lr_ratio)
    return (
        StepSchedule(optimizer, lambda t: tri_stage(t, total_steps, lr, initial_lr, final, ratios) / lr),
        "iteration",
    )
