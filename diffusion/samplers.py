"""From noise to waves: samplers of one signature, each a function of the network's prediction and a grid of times.
Entry points: SAMPLERS (ddpm, ddim, heun, dpmpp_2m), noise_of, sample_seed.

sampler(predict, x, times, alpha_bar, noise=None, constrain=False, guide=None, **own options) -> x at the last time
    predict    function of x (batch, ..., samples) and t (batch,) that returns the noise in x
    x          noise N(0, 1), what is there at times[0]
    times      (steps + 1,) falling, on the CPU: diffusion.schedules.time_grid
    alpha_bar  function of times, the variance of the signal
    noise      function of the step, or a sequence of tensors, N(0, 1) of the shape of x for each step but that to t = 0
    constrain  take the mean over time from the predicted wave and clamp it to [-1, 1]; or a function of that wave
    guide      function of x and t (batch,) that returns a gradient: diffusion.guidance

With alpha = sqrt(a), sigma = sqrt(1 - a): x_t = alpha x0 + sigma eps, a prediction is a pair x0, eps. Coefficients are
float64 numbers of the CPU, so that a step waits for no device.
"""

from collections.abc import Callable, Iterator

import torch

# ---------------------------------------------------------------- noise


def sample_seed(seed: int, index: int) -> int:
    """Return the seed of sample `index` of a run: different for all samples of it, whatever their batches."""
    # torch's CPU generator keeps 32 bits of a seed. The product spreads runs of neighbouring seeds apart.
    return (seed * 0x9E3779B97F4A7C15 // 2**32 + index) % 2**32


def noise_of(seeds: list[int], shape: tuple[int, ...], device: torch.device | str = "cpu") -> Callable:
    """Return a function of the step that draws N(0, 1) of (len(seeds), *shape), each sample from its own generator.

    Draws come in the order of the calls, x at the first time before the steps. They are made on the CPU: a sample
    depends on its seed alone, not on batch, order or device.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(step: int | None = None) -> torch.Tensor:
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

    return draw


def _noise(noise, step):
    if noise is None:
        raise ValueError("this sampler adds noise in each step: noise= is missing")
    return noise(step) if callable(noise) else noise[step]


# ---------------------------------------------------------------- one prediction


def _predicted(predict, x, t):
    # a network in lower precision must not lower that of the sample
    return predict(x, t).to(x.dtype)


def centre_and_clamp(x0: torch.Tensor) -> torch.Tensor:
    """Return waves (..., samples) without their mean over time, clamped to [-1, 1]."""
    return (x0 - x0.mean(-1, keepdim=True)).clamp(-1, 1)


def _split(x, eps, a, constrain):
    """Return x0 and eps of a prediction, constrained where that is asked for."""
    alpha, sigma = a.sqrt(), (1 - a).sqrt()
    x0 = (x - sigma * eps) / alpha
    if constrain:
        x0 = (centre_and_clamp if constrain is True else constrain)(x0)
        eps = (x - alpha * x0) / sigma
    return x0, eps


def _guided_at_x(x, eps, t, a, guide):
    """Return eps with the score of `guide` at x and t in it (Dhariwal and Nichol 2105.05233, algorithm 2)."""
    return eps if guide is None else eps - (1 - a).sqrt() * guide(x, t)


def _clean(predict, x, t, a, constrain, guide):
    """Return x0 and eps predicted in x at t, guided there and constrained."""
    return _split(x, _guided_at_x(x, _predicted(predict, x, t), t, a, guide), a, constrain)


def _guided_at_mean(x, eps, s, a_t, a_s, variance, guide):
    """Return the eps whose ancestral mean is moved by variance x gradient, taken at that mean and the earlier time."""
    if guide is None:
        return eps
    ratio = a_t / a_s
    mean = (x - (1 - ratio) / (1 - a_t).sqrt() * eps) / ratio.sqrt()
    moved = mean + variance * guide(mean, s)
    return (x - ratio.sqrt() * moved) * (1 - a_t).sqrt() / (1 - ratio)


def _variance(a_t, a_s, sigma_large=False):
    beta = 1 - a_t / a_s
    return beta if sigma_large else beta * (1 - a_s) / (1 - a_t)


def _guided(x, eps, t, s, a_t, a_s, variance, guide, guide_at):
    if guide_at == "mean":
        return _guided_at_mean(x, eps, s, a_t, a_s, variance, guide)
    if guide_at != "x":
        raise ValueError(f"guidance at {guide_at!r}: one of mean, x")
    return _guided_at_x(x, eps, t, a_t, guide)


def _steps(x, times, alpha_bar) -> Iterator:
    """Yield (number, t, s, a(t), a(s)) of each step; t and s are (batch,), of x's type."""
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if times.dim() != 1 or len(times) < 2 or not (times.diff() < 0).all() or not 0 <= times[-1] < times[0] <= 1:
        raise ValueError("times of a sampler are two or more, between 1 and 0, each below the one before")
    signal = alpha_bar(times)
    for i, (t, s) in enumerate(zip(times.tolist(), times[1:].tolist())):
        yield i, x.new_full((len(x),), t), x.new_full((len(x),), s), signal[i], signal[i + 1]


# ---------------------------------------------------------------- samplers


def ancestral_step(
    x: torch.Tensor,
    eps: torch.Tensor,
    t: torch.Tensor,
    s: torch.Tensor,
    a_t: torch.Tensor,
    a_s: torch.Tensor,
    z: torch.Tensor | None,
    constrain=False,
    guide=None,
    sigma_large: bool = False,
    guide_at: str = "mean",
) -> torch.Tensor:
    """Return x at time s < t, given the noise `eps` predicted in `x` at t and fresh noise `z` (2006.11239, eq. 6, 7).

    Args:
        t, s: times (batch,).
        a_t, a_s: variance of the signal at t and s, () or shaped to multiply `x`.
        z: None adds none.
        sigma_large: the added variance is beta = 1 - a_t / a_s, not beta (1 - a_s) / (1 - a_t).
        guide_at: gradient at the predicted `mean` and time s, or at `x` and time t (2105.05233, algorithms 1 and 2).
    """
    variance = _variance(a_t, a_s, sigma_large)
    eps = _guided(x, eps, t, s, a_t, a_s, variance, guide, guide_at)
    x0, _ = _split(x, eps, a_t, constrain)
    ratio = a_t / a_s
    # The mean from x0: from eps it would be a difference of nearly equal numbers where little signal is left.
    mean = (a_s.sqrt() * (1 - ratio) * x0 + ratio.sqrt() * (1 - a_s) * x) / (1 - a_t)
    return mean if z is None else mean + variance.sqrt() * z


@torch.no_grad()
def ddpm(
    predict: Callable,
    x: torch.Tensor,
    times: torch.Tensor,
    alpha_bar: Callable,
    noise=None,
    constrain=False,
    guide=None,
    sigma_large: bool = False,
    guide_at: str = "mean",
) -> torch.Tensor:
    """Sample by ancestral steps (Ho et al. 2006.11239); see ancestral_step for the options."""
    for i, t, s, a_t, a_s in _steps(x, times, alpha_bar):
        eps, z = _predicted(predict, x, t), _noise(noise, i) if a_s < 1 else None
        x = ancestral_step(x, eps, t, s, a_t, a_s, z, constrain, guide, sigma_large, guide_at)
    return x


@torch.no_grad()
def ddim(
    predict: Callable,
    x: torch.Tensor,
    times: torch.Tensor,
    alpha_bar: Callable,
    noise=None,
    constrain=False,
    guide=None,
    eta: float = 0.0,
    guide_at: str = "x",
) -> torch.Tensor:
    """Sample by DDIM, of order 1 (Song et al. 2010.02502, eq. 12, 16).

    Args:
        eta: share of the ancestral noise, 0 none and deterministic, 1 as in ddpm of small variance.
        guide_at: as in ancestral_step.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta}: between 0 and 1")
    for i, t, s, a_t, a_s in _steps(x, times, alpha_bar):
        variance = _variance(a_t, a_s)
        eps = _guided(x, _predicted(predict, x, t), t, s, a_t, a_s, variance, guide, guide_at)
        x0, eps = _split(x, eps, a_t, constrain)
        # rounding may leave -1e-17 under the root
        x = a_s.sqrt() * x0 + (1 - a_s - eta**2 * variance).clamp(min=0).sqrt() * eps
        if eta > 0 and a_s < 1:
            x = x + eta * variance.sqrt() * _noise(noise, i)
    return x


@torch.no_grad()
def heun(
    predict: Callable,
    x: torch.Tensor,
    times: torch.Tensor,
    alpha_bar: Callable,
    noise=None,
    constrain=False,
    guide=None,
) -> torch.Tensor:
    """Sample by Heun's method, deterministic, of order 2, two predictions per step (Karras et al. 2206.00364, alg. 1).

    In y = x / alpha and r = sigma / alpha the noise-free path is dy/dr = eps. The step to t = 0 is one of Euler.
    Guidance is at x and t.
    """
    for _, t, s, a_t, a_s in _steps(x, times, alpha_bar):
        x0, eps = _clean(predict, x, t, a_t, constrain, guide)
        there = a_s.sqrt() * x0 + (1 - a_s).sqrt() * eps
        if a_s < 1:
            _, after = _clean(predict, there, s, a_s, constrain, guide)
            way = ((1 - a_s) / a_s).sqrt() - ((1 - a_t) / a_t).sqrt()
            there = there + a_s.sqrt() * way * (after - eps) / 2
        x = there
    return x


@torch.no_grad()
def dpmpp_2m(
    predict: Callable,
    x: torch.Tensor,
    times: torch.Tensor,
    alpha_bar: Callable,
    noise=None,
    constrain=False,
    guide=None,
) -> torch.Tensor:
    """Sample by DPM-Solver++(2M), deterministic, of order 2, one prediction per step (Lu et al. 2211.01095, alg. 2).

    h is the step of lambda = ln(alpha / sigma), r = h of the step before / h. The steps from the first time and to
    t = 0, where lambda is infinite, are of order 1. Guidance is at x and t.
    """
    x0_before = h_before = None
    for _, t, _, a_t, a_s in _steps(x, times, alpha_bar):
        x0, _ = _clean(predict, x, t, a_t, constrain, guide)
        h = (torch.logit(a_s) - torch.logit(a_t)) / 2
        ahead = x0
        if x0_before is not None and h.isfinite():
            ahead = x0 + h / (2 * h_before) * (x0 - x0_before)
        x = ((1 - a_s) / (1 - a_t)).sqrt() * x - a_s.sqrt() * torch.expm1(-h) * ahead
        x0_before, h_before = x0, h
    return x


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "heun": heun, "dpmpp_2m": dpmpp_2m}
