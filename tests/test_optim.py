"""Tests over every file in optimizer/ and scheduler/, and of the learning rate and margin as functions of the step."""

import math

import pytest
import torch
from torch import nn

from engine.registry import build, load, names
from scheduler._margin import margin_at
from scheduler.cosine import cosine
from scheduler.cyclic import cyclic
from scheduler.exp_decay import exp_decay
from scheduler.exponential import exponential
from scheduler.one_cycle import one_cycle
from scheduler.tri_stage import tri_stage

OPTIONS = {
    "lr": 0.1, "weight_decay": 0.01, "test_interval": 10, "lr_decay": 0.5, "total_steps": 100, "steps_per_epoch": 10,
    "global_batch": 128, "warmup_epochs": 2.0, "final_lr": None, "warm_from_zero": True, "lr_scale_by_batch": False,
}  # fmt: skip
ITERATION = ("cosine", "exponential")
WITH_A_BASE = ("cyclic", "exp_decay", "one_cycle", "tri_stage")  # their lowest rates are absolute numbers


def weights(value=1.0):
    return nn.Parameter(torch.full((3,), value))


def make_scheduler(name, groups=None, **options):
    optimizer = torch.optim.SGD(groups or [weights()], lr=0.1)
    return *build(load("scheduler", name), {**OPTIONS, **options}, optimizer), optimizer


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


# ---------------------------------------------------------------- optimizers


def descend(optimizer, parameters, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        sum(((p - 3) ** 2).sum() for p in parameters).backward()
        optimizer.step()
    return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize("name", names("optimizer"))
def test_optimizer_descends_and_resumes_exactly(name):
    def fresh():
        parameters = [weights(), weights(-1.0)]
        groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.05}]
        return build(load("optimizer", name), OPTIONS, groups), parameters

    optimizer, parameters = fresh()
    assert rates(optimizer) == [0.1, 0.05]
    start = descend(optimizer, parameters, 0)
    half = descend(optimizer, parameters, 10)
    stored = optimizer.state_dict()
    stored = {"state": {k: {n: t.clone() for n, t in v.items()} for k, v in stored["state"].items()}, **{
        "param_groups": stored["param_groups"]}}  # fmt: skip
    whole = descend(optimizer, parameters, 10)
    assert all(((w - 3).abs() < (s - 3).abs()).all() for w, s in zip(whole, start))
    optimizer, parameters = fresh()
    with torch.no_grad():
        for parameter, value in zip(parameters, half):
            parameter.copy_(value)
    optimizer.load_state_dict(stored)
    assert all((a == b).all() for a, b in zip(descend(optimizer, parameters, 10), whole))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_fused_step_where_it_is_supported(name):
    cls = load("optimizer", name)
    assert build(cls, OPTIONS, iter([weights()])).param_groups[0]["fused"]
    elsewhere = nn.Parameter(torch.empty(2, device="meta"))
    assert not build(cls, OPTIONS, [weights(), elsewhere]).param_groups[0]["fused"]


def test_adamw_and_decoupled_radam_shrink_weights_apart_from_the_gradient():
    for name, options in (("adamw", {}), ("radam", {"decoupled_weight_decay": True}), ("adam", {}), ("sgd", {})):
        parameter = weights()
        optimizer = build(load("optimizer", name), {**OPTIONS, **options}, [parameter])
        parameter.grad = torch.zeros(3)
        optimizer.step()
        shrunk = torch.allclose(parameter, torch.full((3,), 1 - 0.1 * 0.01), rtol=0, atol=1e-7)
        assert shrunk == (name != "adam"), name


# ---------------------------------------------------------------- schedulers


@pytest.mark.parametrize("name", names("scheduler"))
def test_scheduler_steps_and_resumes(name):
    def advance(scheduler, optimizer, steps):
        optimizer.step()
        for step in range(steps):
            scheduler.step(*([5.0 + step] if getattr(scheduler, "needs_metric", False) else []))
        return rates(optimizer)

    groups = [{"params": [weights()]}, {"params": [weights()], "lr": 0.02}]
    scheduler, unit, optimizer = make_scheduler(name, groups)
    assert unit in ("epoch", "iteration") and rates(optimizer)[0] == pytest.approx(5 * rates(optimizer)[1])
    advance(scheduler, optimizer, 23)
    stored = scheduler.state_dict(), optimizer.state_dict()
    groups = [{"params": [weights()]}, {"params": [weights()], "lr": 0.02}]
    again, _, other = make_scheduler(name, groups)
    other.load_state_dict(stored[1])
    again.load_state_dict(stored[0])
    expected = advance(scheduler, optimizer, 23)
    assert advance(again, other, 23) == expected
    assert expected[0] == pytest.approx(5 * expected[1]) and 0 < expected[0] <= 0.1


def test_formula_of_the_exponential():
    # WeSpeaker's: 0.1 to 5e-5, warm-up in 6 of 150 epochs
    per_epoch, peak, final = 20, 0.1, 5e-5
    total, warm = 150 * per_epoch, 6 * per_epoch
    for t in (0, 1, 60, 119, 120, 121, 1500, 2999, 3000):
        decay = peak * (final / peak) ** (t / total)
        assert peak * exponential(t, total, final / peak, warm) == pytest.approx(min(1, t / warm) * decay)
        assert peak * exponential(t, total, final / peak, warm, from_zero=False) == pytest.approx(decay)
        for scale in (2.0, 0.5):
            grown = 1 + (scale - 1) * min(1, t / warm)
            assert peak * exponential(t, total, final / peak, warm, False, scale) == pytest.approx(grown * decay)
            factor = scale * min(1, t / warm)
            assert peak * exponential(t, total, final / peak, warm, True, scale) == pytest.approx(factor * decay)


def test_formula_of_the_cosine():
    total, warm, peak, final = 1000, 100, 0.2, 0.01
    for t in (0, 1, 50, 99, 100, 101, 550, 999, 1000, 1200):
        if t < warm:
            expected = peak * t / warm
        elif t < total:
            expected = final + (peak - final) * (1 + math.cos(math.pi * (t - warm) / (total - warm))) / 2
        else:
            expected = final
        assert peak * cosine(t, total, final / peak, warm) == pytest.approx(expected)
        assert peak * cosine(t, total, final / peak, warm, scale=3.0) == pytest.approx(3 * expected)
    assert cosine(0, 10, 0.1) == 1 and cosine(5, 10, 0.1, warmup_steps=20) == 0.25


@pytest.mark.parametrize("name,formula", [("cosine", cosine), ("exponential", exponential)])
def test_scheduler_follows_its_formula(name, formula):
    scheduler, unit, optimizer = make_scheduler(name, final_lr=0.002, lr_scale_by_batch=True, warm_from_zero=False)
    assert unit == "iteration"
    optimizer.step()
    for t in range(110):
        assert rates(optimizer)[0] == pytest.approx(0.1 * formula(t, 100, 0.02, 20, False, 128 / 64))
        assert scheduler.get_last_lr() == rates(optimizer)
        scheduler.step()
    scheduler, _, optimizer = make_scheduler(name)
    assert rates(optimizer) == [0]
    scheduler.set_step(100)
    assert rates(optimizer)[0] == pytest.approx(1e-4), "the last rate is a thousandth of the first by default"


@pytest.mark.parametrize("name", ITERATION)
def test_a_run_of_another_size_continues_on_the_same_curve(name):
    # 300 samples seen: step 30 of batches of 10, step 15 of batches of 20 in a run of half as many steps
    slow, _, slow_optimizer = make_scheduler(name, total_steps=100, steps_per_epoch=10)
    fast, _, fast_optimizer = make_scheduler(name, total_steps=50, steps_per_epoch=5)
    slow_optimizer.step()
    for _ in range(30):
        slow.step()
    fast_optimizer.step()
    fast.load_state_dict(slow.state_dict())
    fast.set_step(300 / 20)
    for _ in range(10):
        assert rates(fast_optimizer) == pytest.approx(rates(slow_optimizer))
        assert fast.get_last_lr() == rates(fast_optimizer)
        slow.step()
        slow.step()
        fast.step()


@pytest.mark.parametrize("name", ITERATION)
def test_rates_that_are_not_positive_are_refused(name):
    with pytest.raises(ValueError, match="--final_lr"):
        make_scheduler(name, final_lr=0.0)


FORMULAS = {
    "cyclic": lambda t: cyclic(t, 12, 0.1, 1e-8),
    "exp_decay": lambda t: exp_decay(t, 100, 0.1, 5e-6),
    "one_cycle": lambda t: one_cycle(t, 100, 0.1),
    "tri_stage": lambda t: tri_stage(t, 100, 0.1, 5e-6, 5e-6),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_scheduler_of_limited_data_follows_its_formula_in_every_group(name):
    groups = [{"params": [weights()]}, {"params": [weights()], "lr": 0.02}]
    scheduler, unit, optimizer = make_scheduler(name, groups)
    assert unit == "iteration"
    optimizer.step()
    for t in range(120):
        assert rates(optimizer) == pytest.approx([FORMULAS[name](t), 0.2 * FORMULAS[name](t)])
        scheduler.step()
    scheduler.set_step(41)
    assert rates(optimizer)[0] == pytest.approx(FORMULAS[name](41))


def test_shapes_of_the_schedules_of_limited_data():
    peaks = [cyclic(t, 12, 0.1, 1e-8) for t in (12, 36, 60)]
    assert peaks == pytest.approx([0.1, 0.05, 0.025]) and cyclic(24, 12, 0.1, 1e-8) == pytest.approx(1e-8)
    assert one_cycle(0, 100, 0.1) == pytest.approx(0.004) and one_cycle(29, 100, 0.1) == pytest.approx(0.1)
    assert one_cycle(99, 100, 0.1) == one_cycle(500, 100, 0.1) == pytest.approx(4e-7)
    assert tri_stage(0, 100, 0.1, 5e-6, 5e-6) == 5e-6 and tri_stage(9, 100, 0.1, 5e-6, 5e-6) == pytest.approx(0.1)
    assert tri_stage(50, 100, 0.1, 5e-6, 5e-6) == 0.1 and tri_stage(101, 100, 0.1, 5e-6, 5e-6) == 5e-6
    assert exp_decay(100, 100, 1e-6, 5e-6) > 1e-6, "it rises where the absolute last rate lies above the first"
    scheduler, _, optimizer = make_scheduler("exp_decay", final_lr_ratio=0.01)
    scheduler.set_step(100)
    assert rates(optimizer)[0] == pytest.approx(0.1 * 0.01 ** (100 / 101))
    assert make_scheduler("cyclic", half_period_steps=50)[0].lr_lambdas[0](50) == pytest.approx(1)


@pytest.mark.parametrize(
    "name,options,words",
    [
        ("cyclic", {"total_steps": 7}, "--cycles 4: 7 steps are too few"),
        ("one_cycle", {"total_steps": 7}, "7 steps are too few"),
        ("tri_stage", {"tri_stage_ratios": (0.5, 0.5, 0.5)}, "the sum 1"),
        ("tri_stage", {"final_lr": 1e-6, "final_lr_ratio": 0.1}, "give one of them"),
        ("exp_decay", {"final_lr": 0.0}, "above 0"),
    ],
)
def test_wrong_options_of_a_schedule_are_told(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_scheduler(name, **options)


def test_reduce_on_plateau_has_its_own_defaults():
    from engine.args import make_parser, parse
    from engine.run import add_arguments

    parser = make_parser("")
    add_arguments(parser)
    load("scheduler", "reduce_on_plateau").add_arguments(parser)
    args, _ = parse(parser, [])
    assert (args.lr_decay, args.plateau_patience) == (0.1, 3)


def test_steplr_follows_the_test_interval():
    scheduler, unit, optimizer = make_scheduler("steplr", test_interval=4)
    optimizer.step()
    found = []
    for _ in range(9):
        found.append(rates(optimizer)[0])
        scheduler.step()
    assert unit == "epoch" and found == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025])


def test_plateau_falls_when_the_value_stops_falling():
    scheduler, unit, optimizer = make_scheduler("plateau", plateau_patience=1)
    assert unit == "epoch" and scheduler.needs_metric
    found = []
    for value in (9, 8, 7, 7, 7.5, 6, 6, 6):
        scheduler.step(value)
        found.append(rates(optimizer)[0])
    assert found == pytest.approx([0.1] * 4 + [0.05] * 3 + [0.025])


# ---------------------------------------------------------------- margin


@pytest.mark.parametrize("growth", ["exp", "linear"])
def test_margin_schedule(growth):
    # 0.1 before epoch 20, 0.3 from epoch 40 on, at 10 steps an epoch
    def margin(step):
        return margin_at(step, 10, 20, 40, 0.1, 0.3, growth)

    assert [margin(t) for t in (0, 100, 189, 190)] == [0.1] * 4
    assert [margin(t) for t in (390, 391, 10_000)] == [0.3] * 3
    half = 0.5 if growth == "linear" else 1 - 1000**-0.5
    assert margin(290) == pytest.approx(0.1 + 0.2 * half)
    values = [margin(t) for t in range(190, 391)]
    assert all(a < b for a, b in zip(values, values[1:]))
    assert margin(389) == pytest.approx(0.3, abs=2e-3)


def test_margin_without_a_schedule_is_full_at_once():
    assert margin_at(0, 10, 0, 0, 0.0, 0.2) == 0.2
    assert margin_at(0, 10, 1, 1, 0.0, 0.2) == 0.2
    with pytest.raises(ValueError, match="margin_end_epoch"):
        margin_at(0, 10, 5, 2, 0.0, 0.2)
    with pytest.raises(ValueError, match="margin_growth"):
        margin_at(0, 10, 1, 2, 0.0, 0.2, "fast")
