"""Stored cases of the diffusion process: schedules, steps, samplers, guidance, objective and training.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
import torch
from diffusion_toys import bimodal, gaussian, signal_of
from golden_recipes import (
    boolean,
    check_arguments,
    check_contract,
    compare_case,
    fill_modules,
    integer,
    list_of,
    make_inputs,
    number,
    one_of,
)

from diffusion import guidance, objective, samplers, schedules
from engine.state import State
from models.UNet import MainModel as UNet
from models.WaveClassifier import MainModel as WaveClassifier
from models.WaveGrad import MainModel as WaveGrad
from scoring.plots import moving_average as average_of_log

AREA = "diffusion"
SCHEDULES = one_of("exp", "cos")
TIME_MAPS = {"t": "linear", "t^2": "square"}


def anything(value):
    return True


def text(value):
    return isinstance(value, str)


def optional(kind):
    return lambda value: value is None or kind(value)


def tensor(x):
    """Return an array, or each of a list, as a tensor of float32 or int64; None stays."""
    if x is None or isinstance(x, list):
        return x and [tensor(part) for part in x]
    found = torch.from_numpy(x)
    return found.float() if found.is_floating_point() else found


def inputs_of(case, **roles):
    """Return {role: tensor} of a case, given {role: its recipe}."""
    return {role: tensor(x) for role, x in make_inputs(AREA, case, {k: (v,) for k, v in roles.items()}).items()}


# ---------------------------------------------------------------- process


def schedule(case):
    args = case["args"]
    check_arguments(args, {"schedules": list_of(anything)})
    fill_modules(case)
    t = torch.from_numpy(make_inputs(AREA, case, {"t": ("stored",)})["t"])
    produced = {}
    for form in args["schedules"]:
        arrays = one_of("cos", "exp_0.0001", "exp_0.001", "exp_1e-05")
        check_arguments(form, {"array": arrays, "schedule": SCHEDULES}, {"alpha_final": number})
        options = {"alpha_final": form["alpha_final"]} if "alpha_final" in form else {}
        produced[form["array"]] = schedules.alpha_bar(form["schedule"], t, **options)
    compare_case(AREA, case, produced)


def process(case):
    args = case["args"]
    check_arguments(args, {"schedule": SCHEDULES})
    fill_modules(case)
    given = inputs_of(case, x0="noise", eps="noise", pred="noise", t="list")
    signal = signal_of(args["schedule"])(given["t"])
    xt = objective.add_noise(given["x0"], given["eps"], signal)
    produced = {
        "xt": xt, "x0_from_pred": objective.eps_to_x0(xt, given["pred"], signal),
        "eps_from_x0": objective.x0_to_eps(xt, given["x0"], signal),
    }  # fmt: skip
    compare_case(AREA, case, produced)


def ancestral_step(case):
    args = case["args"]
    check_arguments(args, {"schedule": SCHEDULES, "step": number, "variants": list_of(anything)})
    fill_modules(case)
    given = inputs_of(case, xt="noise", eps="noise", z="noise", g="noise", t="list")
    t, s = given["t"], given["t"] - args["step"]
    of_t, of_s = (signal_of(args["schedule"])(time)[:, None, None] for time in (t, s))
    produced = {}

    def guide(x, time):
        produced.update(guide_mean=x, guide_t=time)
        return given["g"]

    for form in args["variants"]:
        check_arguments(form, {"array": text, "sigma_large": boolean, "constrain": boolean, "guided": boolean})
        name = "large{sigma_large:d}_constrain{constrain:d}_guide{guided:d}".format(**form)
        assert form["array"] == name
        options = {"constrain": form["constrain"], "sigma_large": form["sigma_large"]}
        guided = guide if form["guided"] else None
        produced[name] = samplers.ancestral_step(
            given["xt"], given["eps"], t, s, of_t, of_s, given["z"], guide=guided, **options
        )
    compare_case(AREA, case, produced)


# ---------------------------------------------------------------- sampling


def predictor(case, schedule):
    """Return the prediction that a case of a sampling loop asks for."""
    form = case["args"]["predictor"]
    if form.get("kind") == "network":
        sizes = {"name": one_of("unet", "wavegrad"), "base_channels": integer}
        check_arguments(form, {"kind": text, **sizes}, {"num_labels": integer, "labels": list_of(integer)})
        assert ("labels" in form) == ("num_labels" in form)
        network = {"unet": UNet, "wavegrad": WaveGrad}[form["name"]]
        network = network(base_channels=form["base_channels"], num_labels=form.get("num_labels"))
        fill_modules(case, predictor=network)
        network.eval()
        label = torch.tensor(form["labels"]) if "labels" in form else None
        return lambda x, t: network(x, t, label=label)
    fill_modules(case)
    if form.get("kind") == "gaussian":
        check_arguments(form, {"kind": text, "variance": number})
        return gaussian(schedule, form["variance"])
    check_arguments(form, {"kind": one_of("bimodal"), "mean": number, "variance": number})
    return bimodal(schedule, form["mean"], form["variance"])


LOOP = {
    "schedule": SCHEDULES, "steps": integer, "time_map": one_of(*TIME_MAPS), "sigma_large": boolean,
    "constrain": boolean,
}  # fmt: skip


def ancestral(args, predict, given, guide=None):
    """Return the sample of the ancestral loop of a case."""
    times = schedules.time_grid(TIME_MAPS[args["time_map"]], args["steps"], args["schedule"], first=1.0)
    options = {"constrain": args["constrain"], "sigma_large": args["sigma_large"], "guide": guide}
    return samplers.ddpm(predict, given["xT"], times, signal_of(args["schedule"]), given["z"], **options)


def sampling_loop(case):
    args = case["args"]
    check_arguments(args, {**LOOP, "predictor": anything, "mid_step": integer})
    predict = predictor(case, args["schedule"])
    seen, times = [], []

    def watched(x, t):
        seen.append(x)
        times.append(t[0])
        return predict(x, t)

    given = inputs_of(case, xT="noise", z="noise_sequence")
    out = ancestral(args, watched, given)
    compare_case(AREA, case, {"out": out, "times": torch.stack(times), "mid": seen[args["mid_step"]]})


def guided_sampling(case):
    args = case["args"]
    own = {"scale": number, "base_channels": integer, "num_labels": optional(integer), "classifier": anything}
    check_arguments(args, {**LOOP, "schedule": one_of("exp"), **own})
    check_arguments(args["classifier"], {"base_channels": integer, "num_labels": integer})
    network = UNet(base_channels=args["base_channels"], num_labels=args["num_labels"])
    classifier = WaveClassifier(**args["classifier"])
    fill_modules(case, predictor=network, classifier=classifier)
    network.eval(), classifier.eval()
    given = inputs_of(case, xT="noise", z="noise_sequence", targets="list")
    label = None if args["num_labels"] is None else given["targets"]
    guide = guidance.recogniser_guide(classifier, given["targets"], args["scale"])

    def predict(x, t):
        return network(x, t, label=label)

    produced = {"out": ancestral(args, predict, given, guide), "unguided": ancestral(args, predict, given)}
    compare_case(AREA, case, produced)


def probability_flow(case):
    args = case["args"]
    own = {"variance": number, "t_start": number, "time_map": one_of("t_start * (i/n)^2"), "expect": list_of(anything)}
    check_arguments(args, {"schedule": SCHEDULES, **own})
    fill_modules(case)
    start = inputs_of(case, xT="noise")["xT"].double()
    signal, predict = signal_of(args["schedule"]), gaussian(args["schedule"], args["variance"])
    names = {"ddim": "ddim", "dpmpp2m": "dpmpp_2m"}

    def off(sampler, steps, to="0"):
        """Return the largest error at time `to`, reached on the grid of the case shrunk to end there."""
        times = schedules.time_grid("square", steps, args["schedule"], args["t_start"])
        times = float(to) + times * (1 - float(to) / args["t_start"])
        sample = samplers.SAMPLERS[sampler](predict, start, times, signal)
        exact = make_inputs(AREA, {**case, "input_map": stored_path(case, to)}, {"x": ("stored",)})["x"]
        return (sample - torch.from_numpy(exact)).abs().max().item()

    for form in args["expect"]:
        kinds = {"sampler": one_of(*names), "n": list_of(integer), "min_ratio": number, "max_ratio": optional(number)}
        check_arguments(form, kinds)
        few, many = (off(names[form["sampler"]], steps) for steps in form["n"])
        assert form["min_ratio"] <= few / many <= (form["max_ratio"] or np.inf), f"{form['sampler']}: {few} / {many}"
    for name in case["stored_inputs"]:
        assert off("heun", 300, name.removeprefix("x_")) < 1e-3
    compare_case(AREA, case, {})


def stored_path(case, time):
    return {"x": {"recipe": "stored", "array": f"{case['id']}.x_{time}"}}


# ---------------------------------------------------------------- objective and training


def diffusion_loss(case):
    args = case["args"]
    sizes = {"predictor": one_of("unet"), "base_channels": integer, "num_labels": optional(integer)}
    check_arguments(args, {"schedule": SCHEDULES, **sizes, "grad_checkpoint": boolean})
    network = UNet(
        base_channels=args["base_channels"],
        num_labels=args["num_labels"],
        checkpoint_activations=args["grad_checkpoint"],
    ).train()
    fill_modules(case, predictor=network)
    check_contract(AREA, case, network)
    roles = {"x": "noise", "eps": "noise", "t": "list"} | ({} if args["num_labels"] is None else {"labels": "list"})
    given = inputs_of(case, **roles)

    def predict(x, t):
        return network(x, t, label=given.get("labels"))

    errors = objective.losses(predict, given["x"], given["t"], given["eps"], args["schedule"])
    errors.mean().backward()
    norms = torch.stack([parameter.grad.double().norm() for parameter in network.parameters()])
    compare_case(AREA, case, {"losses": errors, "grad_norms": norms})


def training_steps(case):
    args = case["args"]
    sizes = {"predictor": one_of("unet"), "base_channels": integer, "num_labels": optional(integer)}
    numbers = {"lr": number, "weight_decay": number, "ema_rates": list_of(number), "microbatch": integer}
    watched = {"steps": integer, "tensors": list_of(text), "head": integer, "prefix": one_of("predictor.")}
    check_arguments(args, {**sizes, "schedule": SCHEDULES, "optimizer": anything, **numbers, **watched})
    check_arguments(args["optimizer"], {"name": one_of("adamw"), "betas": list_of(number), "eps": number})
    assert case["weights_from"]["names_begin_with"] == args["prefix"]
    network = UNet(base_channels=args["base_channels"], num_labels=args["num_labels"]).train()
    fill_modules(case, model=network)
    sequences = {"x": "noise_sequence", "eps": "noise_sequence", "t": "uniform_sequence"}
    given = inputs_of(case, **sequences, labels="none" if args["num_labels"] is None else "list")
    settings = {name: args["optimizer"][name] for name in ("betas", "eps")}
    optimizer = torch.optim.AdamW(network.parameters(), args["lr"], weight_decay=args["weight_decay"], **settings)
    state = State(network, network, optimizer, ema_warm_up=False)
    state.start_ema(args["ema_rates"])
    errors, norms = [], []
    for x, eps, t in zip(*(given[role] for role in sequences)):
        optimizer.zero_grad()
        parts = []
        for rows in torch.arange(len(x)).split(args["microbatch"]):
            label = None if given["labels"] is None else given["labels"][rows]
            predict = lambda x, t, label=label: network(x, t, label=label)  # noqa: E731
            part = objective.losses(predict, x[rows], t[rows], eps[rows], args["schedule"])
            (part.mean() * len(rows) / len(x)).backward()
            parts.append(part.detach())
        errors.append(torch.cat(parts))
        norms.append(torch.nn.utils.get_total_norm([parameter.grad for parameter in network.parameters()]))
        optimizer.step()
        state.step += 1
        state.update_ema()
    produced = {"losses": torch.stack(errors), "grad_norm": torch.stack(norms)}
    for name in args["tensors"]:
        own = name.removeprefix(args["prefix"])
        produced[f"param.{name}"] = network.get_parameter(own).flatten()[: args["head"]]
        for rate, averaged in state.ema.items():
            produced[f"ema{rate}.{name}"] = averaged[own].flatten()[: args["head"]]
    compare_case(AREA, case, produced)


def timestep_curriculum(case):
    args = case["args"]
    check_arguments(args, {"curriculum_start": number, "curriculum_steps": integer})
    fill_modules(case)
    given = inputs_of(case, steps="list", u="list")
    start, steps = args["curriculum_start"], args["curriculum_steps"]
    times = [objective.curriculum_times(given["u"], step, start, steps) for step in given["steps"].tolist()]
    compare_case(AREA, case, {"t": torch.stack(times)})


def loss_tracker(case):
    args = case["args"]
    check_arguments(args, {"quantiles": integer, "avg_size": integer, "prefix": one_of("cond_")})
    fill_modules(case)
    given = inputs_of(case, t="uniform", losses="uniform")
    tracker = objective.TimeBuckets(args["quantiles"], args["avg_size"])
    tracker.add(given["t"], given["losses"])
    means = tracker.named_means(args["prefix"])
    assert list(means) == sorted(means, key=lambda name: int(name.removeprefix(args["prefix"] + "q")))
    compare_case(AREA, case, {"averages": np.array(list(means.values()))})


def moving_average(case):
    check_arguments(case["args"], {"window": integer})
    fill_modules(case)
    x = make_inputs(AREA, case, {"x": ("noise",)})["x"]
    compare_case(AREA, case, {"out": average_of_log(x, case["args"]["window"])})


KINDS = {
    "schedule": schedule, "process": process, "ancestral_step": ancestral_step, "sampling_loop": sampling_loop,
    "guided_sampling": guided_sampling, "probability_flow": probability_flow, "diffusion_loss": diffusion_loss,
    "training_steps": training_steps, "timestep_curriculum": timestep_curriculum, "loss_tracker": loss_tracker,
    "moving_average": moving_average,
}  # fmt: skip
