"""What a diffusion network is trained on: noised waves, the error of its prediction, and its record over time.
Entry points: add_noise, noised, losses, as_eps, curriculum_times, TimeBuckets.

A network predicts one of TARGETS: the noise eps, the clean wave x0, or v = alpha eps - sigma x0 (Salimans and Ho
2202.00512), with alpha = sqrt(a), sigma = sqrt(1 - a) and a the variance of the signal, one number per sequence or one
for all.
"""

from collections.abc import Callable

import torch

from diffusion import schedules

TARGETS = ("eps", "v", "x0")


def amplitudes(signal: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sqrt(a) and sqrt(1 - a) of a (batch,) or (), shaped to multiply `x` and, rooted first, of its type."""
    shaped = signal.reshape(signal.shape + (1,) * (x.dim() - 1)) if signal.dim() else signal
    return shaped.sqrt().to(x.dtype), (1 - shaped).sqrt().to(x.dtype)


def add_noise(x0: torch.Tensor, eps: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Return x_t = alpha x0 + sigma eps (Ho et al. 2006.11239, eq. 4)."""
    alpha, sigma = amplitudes(signal, x0)
    return alpha * x0 + sigma * eps


def eps_to_x0(x: torch.Tensor, eps: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Return the clean wave that goes with the noise `eps` in x_t."""
    alpha, sigma = amplitudes(signal, x)
    return (x - sigma * eps) / alpha


def x0_to_eps(x: torch.Tensor, x0: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Return the noise that goes with the clean wave `x0` in x_t."""
    alpha, sigma = amplitudes(signal, x)
    return (x - alpha * x0) / sigma


def to_target(x0: torch.Tensor, eps: torch.Tensor, signal: torch.Tensor, target: str) -> torch.Tensor:
    """Return what a network of this target should predict; a ValueError lists the targets."""
    if target == "v":
        alpha, sigma = amplitudes(signal, x0)
        return alpha * eps - sigma * x0
    return {"eps": eps, "x0": x0}[check_target(target)]


def to_eps(x: torch.Tensor, prediction: torch.Tensor, signal: torch.Tensor, target: str) -> torch.Tensor:
    """Return the noise that a network's `prediction` at x_t says; a ValueError lists the targets."""
    if target == "v":
        alpha, sigma = amplitudes(signal, x)
        return sigma * x + alpha * prediction
    return prediction if check_target(target) == "eps" else x0_to_eps(x, prediction, signal)


def check_target(target: str) -> str:
    """Return `target`; a ValueError lists the names where it is none of them."""
    if target not in TARGETS:
        raise ValueError(f"target {target!r}: one of {', '.join(TARGETS)}")
    return target


def as_eps(predict: Callable, schedule: str, target: str) -> Callable:
    """Return a function of (x, t) that gives the noise, for the samplers, from a network of any target."""
    if check_target(target) == "eps":
        return predict
    return lambda x, t: to_eps(x, predict(x, t), schedules.alpha_bar(schedule, t.double()), target)


def noised(x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, schedule: str) -> torch.Tensor:
    """Return the waves `x0` (batch, ...) at their times `t` (batch,), what network and classifier are trained on."""
    return add_noise(x0, eps, _signal(schedule, t))


def losses(
    predict: Callable, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, schedule: str, target: str = "eps"
) -> torch.Tensor:
    """Return the mean squared error of the prediction of each sequence, (batch,) (2006.11239, eq. 14).

    Args:
        predict: function of x_t, of the shape of `x0`, and `t`.
        x0: clean waves (batch, ...).
        t: times (batch,), from U(0, 1).
        eps: noise N(0, 1) of the shape of `x0`.
    """
    signal = _signal(schedule, t)
    wanted = to_target(x0, eps, signal, target)
    error = wanted - predict(add_noise(x0, eps, signal), t)
    return error.square().flatten(1).mean(1)


def _signal(schedule, t):
    # in float32, 1 - a would have a relative error of 0.5 % at t = 0.001
    return schedules.alpha_bar(schedule, t.double())


def curriculum_times(u: torch.Tensor, step: int, start: float, steps: int) -> torch.Tensor:
    """Return times for a classifier from `u`, of U(0, 1): u^(start (1 - f) + f) with f = step / steps, later u itself.

    Training so begins with nearly clean waves and comes to all times after `steps` optimiser steps.
    """
    if step >= steps:
        return u
    done = step / steps
    return u ** (start * (1 - done) + done)


class TimeBuckets:
    """The last `size` losses of each of `buckets` equal parts of [0, 1], kept on one device without ever asking it.

    What a network of TASK diffusion does at little and at much noise are different things: one mean hides both.
    """

    def __init__(self, buckets: int = 4, size: int = 1000, device: torch.device | str = "cpu"):
        self.size = size
        # the last column takes what is to be forgotten
        self.values = torch.zeros(buckets, size + 1, device=device)
        self.count = torch.zeros(buckets, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, t: torch.Tensor, losses: torch.Tensor):
        """Take in the losses (batch,) of times `t` (batch,)."""
        buckets = len(self.count)
        # in float32, 4 - 1e-8 would be 4, and t = 1 a bucket of its own
        bucket = (t.double() * (buckets - 1e-8)).long().clamp(0, buckets - 1)
        member = torch.nn.functional.one_hot(bucket, buckets)
        place = member.cumsum(0).gather(1, bucket[:, None])[:, 0] - 1  # how many before it in this batch
        of_batch = member.sum(0)
        column = (self.count[bucket] + place) % self.size
        column = torch.where(of_batch[bucket] - place > self.size, self.size, column)
        self.values[bucket, column] = losses.detach().to(self.values.dtype)
        self.count += of_batch

    def means(self) -> torch.Tensor:
        """Return the mean of each bucket, float64 on the device, NaN where it has seen nothing."""
        kept = torch.arange(self.size, device=self.count.device) < self.count[:, None]
        values = self.values[:, : self.size].double()
        return torch.where(kept, values, 0.0).sum(1) / kept.sum(1)

    def named_means(self, prefix: str = "") -> dict[str, float]:
        """Return {"q0": mean, ...} without the buckets that have seen nothing; asks the device, so for the log only."""
        return {f"{prefix}q{i}": mean for i, mean in enumerate(self.means().tolist()) if mean == mean}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all there is, as tensors."""
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, stored: dict[str, torch.Tensor]):
        """Take over what state_dict() returned; a ValueError where it has other sizes."""
        if stored["values"].shape != self.values.shape:
            raise ValueError(
                f"losses by time of {tuple(stored['values'].shape)} do not fit {tuple(self.values.shape)} of this run"
            )
        self.values.copy_(stored["values"])
        self.count.copy_(stored["count"])
