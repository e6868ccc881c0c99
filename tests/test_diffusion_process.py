"""The diffusion process: schedules and grids of times, objective, averages of weights and curves."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from diffusion_toys import gaussian, grid, signal_of, start

from diffusion import guidance, objective, samplers, schedules
from diffusion.samplers import SAMPLERS
from engine.state import State
from scoring.plots import moving_average, training_curves

EXP = signal_of("exp")
PREDICT = gaussian("exp", 0.25)


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_signal_falls_from_one(schedule):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    a = schedules.alpha_bar(schedule, t)
    assert a[0] == 1 and (a.diff() < 0).all() and 0 < a[-1] <= 1.0001e-5


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
@pytest.mark.parametrize("time_map", [*schedules.TIME_MAPS, 3, 0.5, "1.5"])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_grid_falls_to_zero(schedule, time_map, steps):
    times = grid(steps, time_map, schedule)
    assert times.dtype == torch.float64 and len(times) == steps + 1
    assert times[0] == {"exp": 1, "cos": 0.98}[schedule] and times[-1] == 0 and (times.diff() < 0).all()
    # the least signal anywhere: an error of eps is multiplied by at most 1 / alpha
    assert signal_of(schedule)(times).min() > 0.9e-5


def test_grids_by_formula():
    i = torch.arange(4, -1, -1) / 4
    torch.testing.assert_close(grid(4, "linear"), i.double())
    torch.testing.assert_close(grid(4, "square", first=0.5), 0.5 * i.double() ** 2)
    torch.testing.assert_close(grid(4, 3), i.double() ** 3)
    for schedule in schedules.SCHEDULES:
        times = grid(9, "log_snr", schedule, last=0.01)
        ratio = torch.logit(signal_of(schedule)(times[:-1]))
        torch.testing.assert_close(ratio.diff(), ratio.diff().mean().expand(8))
        assert times[-2].item() == pytest.approx(0.01)


@pytest.mark.parametrize("code", ["lambda t: t", "__import__('os').getcwd()", "s**2", "", None, 0, -1, "nan", "inf"])
def test_time_map_is_no_code(code):
    with pytest.raises(ValueError, match="one of linear, square, log_snr, or a number") as caught:
        grid(4, code)
    assert repr(code) in str(caught.value)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: schedules.alpha_bar("lambda t: 1", torch.zeros(1)), "one of exp, cos"),
        (lambda: grid(4, schedule="sqrt"), "one of exp, cos"),
        (lambda: grid(0), "0 sampling steps: at least 1"),
        (lambda: grid(4, first=1.5), "first time 1.5: above 0, at most 1"),
        (lambda: grid(4, "log_snr", first=0.5, last=0.5), "last time 0.5: between 0"),
        (lambda: objective.to_target(start(1, 2), start(1, 2), torch.ones(1), "x"), "target 'x': one of eps, v, x0"),
        (lambda: objective.as_eps(PREDICT, "exp", "w"), "target 'w': one of eps, v, x0"),
        (lambda: SAMPLERS["ddim"](PREDICT, start(1, 1, 4), grid(4).flip(0), EXP), "each below the one before"),
        (lambda: SAMPLERS["ddim"](PREDICT, start(1, 1, 4), grid(4)[:1], EXP), "two or more"),
        (lambda: SAMPLERS["ddim"](PREDICT, start(1, 1, 4), grid(4), EXP, eta=1.5), "eta 1.5: between 0 and 1"),
        (lambda: SAMPLERS["ddpm"](PREDICT, start(1, 1, 4), grid(4), EXP), "noise= is missing"),
        (lambda: SAMPLERS["ddim"](PREDICT, start(1, 1, 4), grid(4), EXP, eta=0.5), "noise= is missing"),
        (lambda: SAMPLERS["ddim"](PREDICT, start(1, 1, 4), grid(4), EXP, guide_at="y"), "'y': one of mean, x"),
        (lambda: guidance.classifier_free(PREDICT, {"label": torch.ones(1)}, {}, {"label": 1}), "without: none"),
        (lambda: moving_average([1.0], 0), "at least 1"),
    ],
)
def test_wrong_arguments(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- objective


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
@pytest.mark.parametrize("target", objective.TARGETS)
def test_conversions_return(schedule, target):
    x0, eps = start(5, 1, 16), start(5, 1, 16, seed=1)
    signal = signal_of(schedule)(torch.tensor([0.01, 0.2, 0.5, 0.8, 0.95]))
    x = objective.add_noise(x0, eps, signal)
    prediction = objective.to_target(x0, eps, signal, target)
    torch.testing.assert_close(objective.to_eps(x, prediction, signal, target), eps)
    torch.testing.assert_close(objective.eps_to_x0(x, eps, signal), x0)
    torch.testing.assert_close(objective.x0_to_eps(x, x0, signal), eps)
    # one number for all sequences
    torch.testing.assert_close(objective.add_noise(x0[:1], eps[:1], signal[0]), x[:1])


@pytest.mark.parametrize("target", objective.TARGETS)
def test_losses(target):
    x0, eps, t = start(3, 1, 50), start(3, 1, 50, seed=1), torch.tensor([0.1, 0.5, 1.0])
    wanted = objective.to_target(x0, eps, EXP(t), target)

    def predict(x, times):
        assert torch.equal(x, objective.noised(x0, t, eps, "exp")) and torch.equal(times, t)
        return wanted + torch.tensor([0.0, 1.0, 2.0])[:, None, None]

    torch.testing.assert_close(
        objective.losses(predict, x0, t, eps, "exp", target), torch.tensor([0.0, 1.0, 4.0]).double()
    )


def test_noise_near_time_zero_has_its_level():
    # 1 - a in float32 is off by 0.5 % here
    t = torch.full((1,), 1e-3)
    noise = objective.noised(torch.zeros(1, 1, 4), t, torch.ones(1, 1, 4), "exp")
    level = math.sqrt(-math.expm1(math.log(1e-5) * t.item() ** 2))
    torch.testing.assert_close(noise, torch.full((1, 1, 4), level), rtol=1e-6, atol=0)


@pytest.mark.parametrize("target", objective.TARGETS)
def test_network_of_any_target_samples_alike(target):
    def network(x, t):
        eps = PREDICT(x, t)
        return objective.to_target(objective.eps_to_x0(x, eps, EXP(t)), eps, EXP(t), target)

    x, times = start(2, 1, 8), grid(10)
    sample = samplers.heun(objective.as_eps(network, "exp", target), x, times, EXP)
    torch.testing.assert_close(sample, samplers.heun(PREDICT, x, times, EXP))


def test_curriculum_goes_from_clean_to_all_times():
    u = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    times = [objective.curriculum_times(u, step, 30.0, 100) for step in (0, 50, 99, 100, 5000)]
    torch.testing.assert_close(times[0], u**30)
    assert all((a <= b).all() for a, b in zip(times, times[1:]))
    assert torch.equal(times[3], u) and torch.equal(times[4], u)
    assert torch.equal(objective.curriculum_times(u, 0, 30.0, 0), u)


def test_time_buckets_are_the_last_losses():
    random, tracker = torch.Generator().manual_seed(0), objective.TimeBuckets(4, 10)
    assert tracker.means().isnan().all() and tracker.named_means() == {}
    expected = [deque(maxlen=10) for _ in range(4)]
    for size in (1, 3, 8, 50, 2, 100, 0, 7):
        t, losses = (torch.rand(size, generator=random) for _ in range(2))
        if size > 2:
            t[0], t[1], t[2] = 1.0, 0.0, 0.75
        tracker.add(t, losses)
        for time, loss in zip(t.tolist(), losses.tolist()):
            expected[int(time * (4 - 1e-8))].append(loss)
        for mean, kept in zip(tracker.means().tolist(), expected):
            assert mean == pytest.approx(np.mean(kept)) if kept else math.isnan(mean)
    again = objective.TimeBuckets(4, 10)
    again.load_state_dict({name: tensor.clone() for name, tensor in tracker.state_dict().items()})
    for each in (tracker, again):
        each.add(torch.tensor([0.3]), torch.tensor([5.0]))
    assert again.named_means("x_") == tracker.named_means("x_")
    assert list(tracker.named_means("x_")) == ["x_q0", "x_q1", "x_q2", "x_q3"]
    with pytest.raises(ValueError, match="do not fit"):
        objective.TimeBuckets(4, 11).load_state_dict(tracker.state_dict())


def test_empty_buckets_are_left_out():
    tracker = objective.TimeBuckets()
    tracker.add(torch.tensor([0.6, 0.1]), torch.tensor([2.0, 1.0]))
    assert tracker.named_means() == {"q0": 1.0, "q2": 2.0}


# ---------------------------------------------------------------- averages


@pytest.mark.parametrize("warm_up", [False, True])
def test_averaged_weights_without_warm_up(warm_up):
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    state = State(network, network, torch.optim.SGD(network.parameters()), ema_warm_up=warm_up)
    state.start_ema([0.9, 0.99])
    expected = {0.9: 0.0, 0.99: 0.0}
    for step in range(1, 6):
        network.weight.data.fill_(float(step))
        state.step += 1
        state.update_ema()
        for rate in expected:
            expected[rate] += (1 - (min(rate, (1 + step) / (10 + step)) if warm_up else rate)) * (step - expected[rate])
    for rate, value in expected.items():
        assert state.ema[rate]["weight"].item() == pytest.approx(value, rel=1e-6)


def test_moving_average(tmp_path):
    values = np.random.default_rng(0).normal(size=30)
    np.testing.assert_allclose(moving_average(values, 1), values)
    np.testing.assert_allclose(moving_average(values, 5)[4:], np.convolve(values, np.ones(5) / 5, "valid"))
    np.testing.assert_allclose(moving_average(values, 100), np.cumsum(values) / np.arange(1, 31))
    assert moving_average([], 3).shape == (0,)
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(f'{{"step": {step}, "loss": {value}}}\n' for step, value in enumerate(values)))
    for window in (1, 10):
        training_curves(tmp_path / f"{window}.png", log, window)
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "10.png").read_bytes()
