"""Stored cases of training with little data: learning rates over steps, plateau, a few optimiser steps.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
import torch
from golden_lowresource_networks import make_network
from golden_recipes import check_arguments, compare_case, fill_modules, integer, list_of, make_inputs, number, one_of

from engine import registry
from scheduler.cyclic import cyclic
from scheduler.exp_decay import exp_decay
from scheduler.one_cycle import one_cycle
from scheduler.plateau import Plateau
from scheduler.tri_stage import tri_stage

AREA = "lowresource"


def lr_schedules(case):
    args = case["args"]
    required = {"max_steps": integer, "lr": number, "base_lr": number, "final_lr": number}
    parts = {
        "cyclic": {"mode": one_of("triangular2"), "half_period": lambda value: all(map(integer, value.values()))},
        "tri_stage": {"ratios": list_of(number), "initial_lr": number},
        "exp_decay": {"initial_lr": number},
        "one_cycle": {
            "div_factor": number, "pct_start": number, "anneal": one_of("cos"), "final_div_factor": number,
        },
    }  # fmt: skip
    check_arguments(args, {**required, **dict.fromkeys(parts, lambda value: isinstance(value, dict))})
    for name, allowed in parts.items():
        check_arguments(args[name], allowed)
    steps = make_inputs(AREA, case, {"steps": ("stored",)})["steps"].tolist()
    total, lr, final = args["max_steps"], args["lr"], args["final_lr"]
    three, one = args["tri_stage"], args["one_cycle"]
    one = {"rising": one["pct_start"], "start_divisor": one["div_factor"], "end_divisor": one["final_div_factor"]}
    produced = {
        name: [cyclic(t, half, lr, args["base_lr"]) for t in steps]
        for name, half in args["cyclic"]["half_period"].items()
    }
    produced["exp_decay"] = [exp_decay(t, total, args["exp_decay"]["initial_lr"], final) for t in steps]
    produced["tri_stage"] = [tri_stage(t, total, lr, three["initial_lr"], final, three["ratios"]) for t in steps]
    produced["one_cycle"] = [one_cycle(t, total, lr, **one) for t in steps if t < total]
    compare_case(AREA, case, {name: np.array(rates) for name, rates in produced.items()})


def reduce_on_plateau(case):
    args = case["args"]
    numbers = dict.fromkeys(("lr", "factor", "patience", "threshold", "cooldown", "min_lr"), number)
    check_arguments(args, {**numbers, "threshold_mode": one_of("rel"), "mode": one_of("min")})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args["lr"])
    options = {name: args[name] for name in (*numbers, "threshold_mode", "mode") if name != "lr"}
    plateau = Plateau(optimizer, **options, eps=0)
    found = []
    for value in make_inputs(AREA, case, {"metrics": ("list",)})["metrics"].tolist():
        plateau.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    compare_case(AREA, case, {"lr": np.array(found)})


def training_steps(case):
    args = case["args"]
    required = {"network": one_of("ecapa", "xvector"), "n_classes": integer, "steps": integer, "margin": number}
    required |= {"scale": number} | dict.fromkeys(("network_args", "optimizer", "schedule"), lambda v: True)
    check_arguments(args, required)
    adam, schedule = dict(args["optimizer"]), args["schedule"]
    check_arguments(adam, {
        "name": one_of("adam"), "lr": number, "betas": list_of(number), "eps": number, "weight_decay": number,
    })  # fmt: skip
    check_arguments(schedule, {
        "name": one_of("cyclic"), "mode": one_of("triangular2"), "max_steps": integer, "half_period": integer,
        "base_lr": number,
    })  # fmt: skip
    network = make_network(args["network"], args["network_args"])
    loss = registry.load("loss", "aamsoftmax")(
        network.embedding_size, args["n_classes"], margin=args["margin"], scale=args["scale"]
    )
    fill_modules(case, network=network, classifier=loss)
    inputs = make_inputs(AREA, case, {"x": ("noise",), "labels": ("affine_mod",)})
    x, labels = torch.from_numpy(inputs["x"]).transpose(1, 2), torch.from_numpy(inputs["labels"])
    name = adam.pop("name")
    optimizer = registry.load("optimizer", name)([*network.parameters(), *loss.parameters()], **adam)
    scheduler, unit = registry.load("scheduler", schedule["name"])(
        optimizer, schedule["max_steps"], half_period_steps=schedule["half_period"], base_lr=schedule["base_lr"]
    )
    assert unit == "iteration"
    losses, rates = [], []
    for _ in range(args["steps"]):
        value, _ = loss(network.embed(x), labels)
        losses.append(value.item())
        rates.append(optimizer.param_groups[0]["lr"])
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    with torch.no_grad():
        after = network.eval().embed(x)
    compare_case(AREA, case, {"losses": np.array(losses), "lr": np.array(rates), "embedding_after": after})


KINDS = {"lr_schedules": lr_schedules, "reduce_on_plateau": reduce_on_plateau, "training_steps": training_steps}
