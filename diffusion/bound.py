"""How many bits a sample of a recording costs under a diffusion model: the variational bound in continuous time.
Entry points: bound_times, bits_per_sample.

Kingma et al. 2107.00630: the bound is an integral over the log signal-to-noise ratio of half the squared error of the
noise, so times spread evenly over that ratio make it a plain mean. It runs from t = 1 to where the noise is as large as
one step of 16-bit samples; what is left there is coded with that noise.
"""

import math

import torch

from diffusion import schedules

STEP = 2.0**-15  # of 16-bit samples in [-1, 1]


def ends(schedule: str) -> tuple[float, float]:
    """Return ln(a / (1 - a)) at the first time of sampling and where sigma / alpha is STEP."""
    first = torch.tensor(schedules.FIRST_TIMES[schedules.check_schedule(schedule)], dtype=torch.float64)
    return float(torch.logit(schedules.alpha_bar(schedule, first))), -2 * math.log(STEP)


def bound_times(u: torch.Tensor, schedule: str) -> torch.Tensor:
    """Return the times of `u`, of U(0, 1): spread evenly over the log signal-to-noise ratio."""
    low, high = ends(schedule)
    return schedules.time_of(high + (low - high) * u.double(), schedule)


def bits_per_sample(losses: torch.Tensor, power: torch.Tensor, schedule: str) -> torch.Tensor:
    """Return the bound in bits per 16-bit sample, of each wave (batch,), float64; their mean is that of a set.

    Args:
        losses: mean squared error of the noise of each wave, at a time of bound_times.
        power: mean square of each clean wave.
    """
    low, high = ends(schedule)
    first = 1 / (1 + math.exp(-low))  # alpha_bar at the first time
    prior = 0.5 * (first * (power.double() - 1) - math.log1p(-first))
    path = 0.5 * (high - low) * losses.double()
    # the entropy of the Gaussian noise that is left, as wide as one step, counted in steps
    rest = 0.5 * math.log(2 * math.pi * math.e)
    return (prior + path + rest) / math.log(2)
