"""Samplers on data of known law: orders of convergence, distributions, independence of the batch, guidance."""

import numpy as np
import pytest
import torch
from diffusion_toys import bimodal, gaussian, grid, signal_of, start

from diffusion import guidance, objective, samplers, schedules
from diffusion.samplers import SAMPLERS

VARIANCE = 0.25  # of the Gaussian toy
EXP = signal_of("exp")
PREDICT = gaussian("exp", VARIANCE)


def exact(x, schedule="exp", first=1.0):
    """Return where the noise-free path of the toy through `x` at the first time ends."""
    a = signal_of(schedule)(torch.tensor(first, dtype=torch.float64))
    return x * (VARIANCE / (a * VARIANCE + 1 - a)).sqrt()


def error(name, steps, time_map="square", **options):
    """Return the error of a sampler at t = 0 as a share of the exact value."""
    x = start(2, 1, 32)
    sample = SAMPLERS[name](PREDICT, x, grid(steps, time_map), EXP, **options)
    return ((sample - exact(x)).norm() / exact(x).norm()).item()


# ---------------------------------------------------------------- on Gaussian data


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_ddim_of_many_steps_is_the_exact_solution(schedule):
    x, times = start(2, 1, 16), grid(2000, schedule=schedule)
    sample = samplers.ddim(gaussian(schedule, VARIANCE), x, times, signal_of(schedule))
    torch.testing.assert_close(sample, exact(x, schedule, times[0].item()), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name, order", [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(name, order):
    steps = (80, 160, 320, 640)
    errors = [error(name, n) for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.1), errors


@pytest.mark.parametrize("name, expected", [("ddim", (8.5e-2, 4.3e-2, 2.2e-2)), ("dpmpp_2m", (3.2e-2, 7.1e-3, 1.5e-3))])
def test_published_errors(name, expected):
    assert [error(name, steps) for steps in (20, 40, 80)] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("time_map", schedules.TIME_MAPS)
def test_second_order_pays(time_map):
    assert error("dpmpp_2m", 25, time_map) < error("ddim", 50, time_map)
    # heun has two predictions per step
    assert error("heun", 25, time_map) < error("ddim", 50, time_map)


@pytest.mark.parametrize("time_map", schedules.TIME_MAPS)
def test_few_steps_of_second_order_are_as_close_as_many_ancestral(time_map):
    x, many, few = start(40000, 1, 1, dtype=torch.float32), grid(50, time_map), grid(25, time_map)
    noise = samplers.noise_of([1], x.shape)
    ancestral = samplers.ddpm(PREDICT, x, many, EXP, lambda step: noise(step)[0])
    fast = samplers.dpmpp_2m(PREDICT, x, few, EXP)

    def off(sample):
        return abs(sample.mean().item()) + abs(sample.var().item() / VARIANCE - 1)

    assert off(fast) < off(ancestral)
    assert off(fast) < 0.06  # the variance of 40,000 is known to 0.7 %


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_modes_are_found(name):
    mean, variance = 0.3, 0.01
    x, noise = start(20000, 1, 1, dtype=torch.float32), samplers.noise_of([1], (20000, 1, 1))
    predict = bimodal("exp", mean, variance)
    sample = SAMPLERS[name](predict, x, grid(150), EXP, lambda step: noise(step)[0])
    assert (sample > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert sample.abs().mean().item() == pytest.approx(mean, abs=0.006)
    assert sample.square().mean().item() == pytest.approx(mean**2 + variance, rel=0.05)


def test_full_eta_is_ancestral():
    x, times = start(3, 1, 8), grid(12)
    noise = [start(3, 1, 8, seed=i + 1) for i in range(11)]
    for constrain in (False, True):
        ancestral = samplers.ddpm(PREDICT, x, times, EXP, noise, constrain)
        torch.testing.assert_close(samplers.ddim(PREDICT, x, times, EXP, noise, constrain, eta=1.0), ancestral)
        torch.testing.assert_close(samplers.ddpm(PREDICT, x, times, EXP, noise.__getitem__, constrain), ancestral)


@pytest.mark.parametrize("name, options", [("ddpm", {}), ("ddpm", {"sigma_large": True}), ("ddim", {"eta": 0.5})])
def test_noise_is_what_is_injected(name, options):
    x, times = start(1, 1, 4), grid(5)
    steps = []

    def noise(step):
        steps.append(step)
        return start(1, 1, 4, seed=step)

    sample = SAMPLERS[name](PREDICT, x, times, EXP, noise, **options)
    assert steps == [0, 1, 2, 3]  # none in the step to t = 0
    other = SAMPLERS[name](PREDICT, x, times, EXP, lambda step: start(1, 1, 4, seed=step + 9), **options)
    assert not torch.equal(sample, other)


def test_path_may_end_above_zero():
    # x at s = 0.2 of the toy has the variance a VARIANCE + 1 - a; the last step adds noise too
    x, noise = start(40000, 1, 1, dtype=torch.float32), samplers.noise_of([1], (40000, 1, 1))
    times = torch.cat([grid(400)[:-1][grid(400)[:-1] > 0.2], torch.tensor([0.2], dtype=torch.float64)])
    a = EXP(torch.tensor(0.2)).item()
    for name in SAMPLERS:
        sample = SAMPLERS[name](PREDICT, x, times, EXP, lambda step: noise(step)[0])
        assert sample.var().item() == pytest.approx(a * VARIANCE + 1 - a, rel=0.03), name


@pytest.mark.parametrize("name, options", [*[(name, {}) for name in SAMPLERS], ("ddim", {"eta": 0.5})])
def test_samples_do_not_depend_on_the_batch(name, options):
    def sample(indices):
        draw = samplers.noise_of([samplers.sample_seed(7, index) for index in indices], (1, 33))
        return SAMPLERS[name](PREDICT, draw(), grid(6), EXP, draw, constrain=True, **options)

    whole = sample(range(5))
    assert torch.equal(whole, torch.cat([sample([index]) for index in range(5)]))
    assert torch.equal(whole[[3, 1]], sample([3, 1]))
    assert len(whole.flatten(1).unique(dim=0)) == 5


def test_seeds_of_samples_differ():
    seeds = [samplers.sample_seed(seed, index) for seed in range(20) for index in range(1000)]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**32


@pytest.mark.parametrize("name", SAMPLERS)
def test_constraint_takes_the_mean_and_clamps(name):
    def loud_and_off(x, t):
        # says that the clean wave is 3 + a square wave of amplitude 2
        wave = 3 + 2 * torch.tensor([1.0, -1.0]).repeat(16).to(x)
        return objective.x0_to_eps(x, wave.expand_as(x), EXP(t))

    def sample(constrain):
        noise = samplers.noise_of([1, 2], (1, 32))
        return SAMPLERS[name](loud_and_off, noise(), grid(8), EXP, noise, constrain=constrain)

    free, bound = sample(False), sample(True)
    assert free.mean() > 2.9 and free.max() > 4.9
    assert bound.mean(-1).abs().max() < 1e-4 and bound.abs().max() <= 1.0001
    half = sample(lambda x0: x0 / 2)
    torch.testing.assert_close(half.amax(-1), torch.full_like(half.amax(-1), 2.5), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_network_of_low_precision_leaves_the_sample_alone(name):
    x, noise = start(2, 1, 64, dtype=torch.float32), [start(2, 1, 64, seed=i, dtype=torch.float32) for i in range(20)]
    coarse = SAMPLERS[name](lambda x, t: PREDICT(x, t).bfloat16(), x, grid(20), EXP, noise)
    assert coarse.dtype == torch.float32
    fine = SAMPLERS[name](PREDICT, x, grid(20), EXP, noise)
    assert 0 < (coarse - fine).norm() / fine.norm() < 0.05


def test_predictions_per_step():
    counts = {}
    for name in SAMPLERS:
        asked = []
        predict = lambda x, t, asked=asked: asked.append(t) or PREDICT(x, t)  # noqa: E731
        SAMPLERS[name](predict, start(3, 1, 4), grid(5), EXP, [torch.zeros(3, 1, 4)] * 4)
        assert all(t.shape == (3,) for t in asked)
        counts[name] = len(asked)
    assert counts == {"ddpm": 5, "ddim": 5, "heun": 9, "dpmpp_2m": 5}


# ---------------------------------------------------------------- guidance


MEAN, SPREAD = 0.5, 0.04  # two classes, N(-0.5, 0.04) and N(0.5, 0.04)


def bayes(x, t):
    """Return the logits of the two classes, as Bayes' rule has them at x and t."""
    a = EXP(t)[:, None].to(x.dtype)
    means = torch.tensor([-MEAN, MEAN], dtype=x.dtype) * a.sqrt()
    return -((x[:, :, 0] - means) ** 2) / (2 * (a * SPREAD + 1 - a))


@pytest.mark.parametrize(
    "name, options",
    [
        ("ddpm", {}), ("ddpm", {"guide_at": "x"}), ("ddpm", {"sigma_large": True}), ("ddim", {}),
        ("ddim", {"guide_at": "mean"}), ("ddim", {"eta": 0.5}), ("heun", {}), ("dpmpp_2m", {}),
    ],
)  # fmt: skip
def test_guided_samples_are_of_the_class(name, options):
    """With the scores of both, p(x) p(class | x) is p(x | class): the mean goes from 0 to that of the class."""
    x, targets = start(4000, 1, 1, dtype=torch.float32), torch.arange(4000) % 2
    noise = samplers.noise_of([1], x.shape)
    options = {**options, "noise": lambda step: noise(step)[0]}
    predict = bimodal("exp", MEAN, SPREAD)
    free = SAMPLERS[name](predict, x, grid(150), EXP, **options)
    guide = guidance.recogniser_guide(bayes, targets)
    guided = SAMPLERS[name](predict, x, grid(150), EXP, guide=guide, **options)
    for target, mean in ((0, -MEAN), (1, MEAN)):
        rows = targets == target
        assert abs(free[rows].mean().item()) < 0.05
        assert guided[rows].mean().item() == pytest.approx(mean, abs=0.02)
        assert guided[rows].var().item() == pytest.approx(SPREAD, rel=0.15)


def test_guide_is_the_gradient():
    x, t, scale = start(3, 1, 8, dtype=torch.float32), torch.tensor([0.1, 0.5, 0.9]), 2.5
    weights = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 3, 1])

    def logits(x, t):
        return x[:, 0] @ weights.T * t[:, None]

    with torch.no_grad():  # as in a sampler
        found = guidance.recogniser_guide(logits, targets, scale)(x, t)
    left = torch.eye(4)[targets] - logits(x, t).softmax(1)
    torch.testing.assert_close(found, (scale * t[:, None] * (left @ weights))[:, None])
    assert not found.requires_grad

    # one class per position: the sum over positions
    places = torch.randint(4, (3, 8), generator=torch.Generator().manual_seed(2))

    def by_position(x, t):
        return x * torch.arange(4.0)[None, :, None]

    found = guidance.recogniser_guide(by_position, places, scale)(x, t)
    odds = by_position(x, t).softmax(1)
    wanted = scale * (places - (odds * torch.arange(4.0)[None, :, None]).sum(1))
    torch.testing.assert_close(found, wanted[:, None])


class Counted:
    """A network of two conditions that counts the rows it is asked for."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, label, codes):
        self.calls.append(len(x))
        assert len(t) == len(label) == len(codes) == len(x)
        return x * t[:, None, None] + label[:, None, None] ** 2 + codes.mean(-1, keepdim=True) * label[:, None, None]


@pytest.mark.parametrize("by_label", [0.0, 0.8, -0.5])
@pytest.mark.parametrize("by_codes", [0.0, 0.4])
def test_classifier_free(by_label, by_codes):
    x, t = start(2, 1, 6), torch.tensor([0.2, 0.7], dtype=torch.float64)
    label, codes = torch.tensor([1.0, 2.0]).double(), start(2, 1, 3, seed=1)
    no_label, no_codes = torch.zeros_like(label), torch.zeros_like(codes)
    network = Counted()
    e = network(x, t, label, codes)
    wanted = e + by_label * (e - network(x, t, no_label, codes)) + by_codes * (e - network(x, t, label, no_codes))
    network.calls.clear()
    predict = guidance.classifier_free(
        network,
        {"label": label, "codes": codes},
        {"label": no_label, "codes": no_codes},
        {"label": by_label, "codes": by_codes},
    )
    torch.testing.assert_close(predict(x, t), wanted)
    assert network.calls == [2 * (1 + (by_label != 0) + (by_codes != 0))]  # a weight of 0 is not evaluated


def test_dropped_labels():
    u = torch.tensor([0.0, 0.09, 0.1, 0.9])
    assert guidance.drop_labels(torch.tensor([0, 1, 2, 0]), u, 0.1).tolist() == [0, 0, 3, 1]
    assert guidance.drop_labels(torch.tensor([0, 1, 2, 0]), u, 0.0).tolist() == [1, 2, 3, 1]
