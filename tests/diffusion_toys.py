"""Data whose noise can be predicted exactly, for tests of samplers.
Entry points: gaussian, bimodal; signal_of, grid, start.
"""

import torch

from diffusion import schedules


def signal_of(schedule):
    return lambda t: schedules.alpha_bar(schedule, t.double())


def grid(steps, time_map="square", schedule="exp", **options):
    return schedules.time_grid(time_map, steps, schedule, **options)


def start(*shape, seed=0, dtype=torch.float64):
    """Return noise to start from."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian(schedule, variance):
    """Return the exact prediction for data N(0, variance)."""

    def predict(x, t):
        a = signal_of(schedule)(t)[:, None, None]
        return ((1 - a).sqrt() * x / (a * variance + 1 - a)).to(x.dtype)

    return predict


def bimodal(schedule, mean, variance):
    """Return the exact prediction for data N(+-mean, variance)."""

    def predict(x, t):
        a = signal_of(schedule)(t)[:, None, None]
        v = a * variance + 1 - a
        centre = mean * torch.tanh(a.sqrt() * mean * x / v)
        x0 = centre + a.sqrt() * variance * (x - a.sqrt() * centre) / v
        return ((x - a.sqrt() * x0) / (1 - a).sqrt()).to(x.dtype)

    return predict
