"""The same learning rate after a warm-up, then a fall to zero over the last steps: how diffusion networks are annealed.
Entry points: Scheduler, anneal.
"""

import math

from scheduler._iteration import StepSchedule, warmup


def anneal(step: float, total: int, warmup_steps: int = 0, anneal_steps: int = 0, shape: str = "linear") -> float:
    """Return the factor on the learning rate: a rise from zero, 1, a straight line or half a cosine down to 0."""
    left = total - step
    if anneal_steps and left < anneal_steps:
        share = max(left, 0) / anneal_steps
        return share if shape == "linear" else (1 - math.cos(math.pi * share)) / 2
    return warmup(step + 1, warmup_steps, True, 1.0)  # the first step moves, too


def Scheduler(optimizer, total_steps, warmup_steps=0, anneal_steps=0, anneal_shape="linear"):
    """Return (scheduler, "iteration").

    Raises:
        ValueError: warm-up and fall are together longer than the run.
    """
    if warmup_steps + anneal_steps > total_steps:
        raise ValueError(
            f"--warmup_steps {warmup_steps} and --anneal_steps {anneal_steps} are together more than the {total_steps} "
            "steps of the run (--max_steps)"
        )
    return (
        StepSchedule(optimizer, lambda step: anneal(step, total_steps, warmup_steps, anneal_steps, anneal_shape)),
        "iteration",
    )
