"""Stored cases of log-mel features, their normalisation and energy VAD, and of schedules and optimisers.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
import torch
from golden_generative_weights import AREA, make_inputs, no_weights
from golden_recipes import boolean, check_arguments, compare_case, integer, list_of, number, one_of

from audio.log_mel import LogMel, sliding_normalisation, speech_frames
from engine.registry import load
from scheduler.hold_exponential import hold_exponential
from scheduler.hold_inverse_power import hold_inverse_power

VAD = {"energy_threshold": number, "mean_scale": number, "proportion": number, "context": integer}
GRID = {"bin_spacing": one_of("511"), "sample_rate": integer, "fft": integer, "bins": integer}
BAND = {"low": number, "high": number}


def front_end(args, **options):
    return LogMel(
        args["bins"], args["low"], args["high"], args["bin_spacing"], sample_rate=args["sample_rate"],
        n_fft=args["fft"], **options,
    )  # fmt: skip


def logmel(case):
    args = case["args"]
    times = dict.fromkeys(("frame_ms", "shift_ms", "preemphasis", "dither"), number)
    kind = {"window": one_of("povey"), "window_periodic": boolean, "snip_edges": boolean}
    context = {"mvn_context": list_of(integer), "frames_stored": list_of(integer)}
    check_arguments(args, {**GRID, **BAND, **times, **kind, **context, "vad": lambda vad: True})
    check_arguments(args["vad"], VAD)
    no_weights(case)
    wave = make_inputs(case, ("wave",))["wave"]
    assert wave.dtype == np.int16
    module = front_end(
        args, dither=args["dither"], frame_ms=args["frame_ms"], shift_ms=args["shift_ms"],
        pre_emphasis=args["preemphasis"], snip_edges=args["snip_edges"], periodic=args["window_periodic"],
    )  # fmt: skip
    wave = torch.from_numpy(wave.astype(np.float32) / 32768)
    # beside a longer one, of which nothing may be seen
    batch = torch.nn.functional.pad(torch.stack([wave, wave.flip(0)]), (0, 777))
    lengths = torch.tensor([len(wave), len(wave) + 777])
    mel, speech = module.with_speech(batch, lengths, **args["vad"])
    counts = module.frames(lengths)
    normalised = sliding_normalisation(mel, counts, *args["mvn_context"])[0, :, : counts[0]].T
    mel, speech, rows = mel[0, :, : counts[0]].T, speech[0, : counts[0]], args["frames_stored"]
    assert torch.equal(mel, module(wave[None])[0].T)
    produced = {
        "num_frames": np.int32(counts[0]), "logmel": mel[rows], "normalised": normalised[rows],
        "logmel_mean": mel.mean(0), "normalised_mean": normalised.mean(0), "vad": speech.to(torch.uint8),
        "normalised_speech_mean": normalised[speech].mean(0), "num_speech": np.int32(speech.sum()),
    }  # fmt: skip
    compare_case(AREA, case, produced)


def mel_matrix(case):
    args = case["args"]
    check_arguments(args, {**GRID, **BAND, "column_step": integer, "frame_samples": integer})
    no_weights(case)
    module = front_end(args, frame_ms=1000 * args["frame_samples"] / args["sample_rate"])
    matrix = torch.nn.functional.pad(module.filters, (0, 1)).T  # the last bin of the FFT is left empty
    window = module.window[: args["frame_samples"]]
    columns = matrix[:, :: args["column_step"]]
    compare_case(AREA, case, {"matrix_bins_0_80_by_8": columns, "column_sums": matrix.sum(0), "window": window})


def normalisation(case):
    check_arguments(case["args"], {"cases": list_of(lambda part: isinstance(part, dict))})
    no_weights(case)
    parts = case["args"]["cases"]
    inputs, produced = make_inputs(case, [f"x{i}" for i in range(len(parts))]), {}
    for i, part in enumerate(parts):
        check_arguments(part, {"frames": integer, "left": integer, "right": integer, "norm_var": boolean})
        x = torch.from_numpy(inputs[f"x{i}"]).T[None]
        assert x.shape[2] == part["frames"]
        y = sliding_normalisation(x, None, part["left"], part["right"], part["norm_var"])
        produced[f"y{i}"] = y[0].T
    compare_case(AREA, case, produced)


def energy_vad(case):
    check_arguments(case["args"], VAD)
    no_weights(case)
    roles = sorted(case["inputs"])
    assert roles == [f"log_energy{i}" for i in range(len(roles))], roles
    produced = {}
    for i, energy in enumerate(make_inputs(case, roles)[role] for role in roles):
        speech = speech_frames(torch.from_numpy(energy)[None], **case["args"])
        produced[f"speech{i}"] = speech[0].to(torch.uint8)
    compare_case(AREA, case, produced)


def lr_schedule(case):
    args = case["args"]
    falls = {"decay_rate": number, "decay_steps": integer, "power": number}
    steps = {"warmup_steps": integer, "hold_steps": integer}
    rates = {"decay": one_of("exponential", "inverse_power"), "base_lr": number, "min_lr": number}
    check_arguments(args, {**rates, **steps}, falls)
    no_weights(case)
    exponential = args["decay"] == "exponential"
    own = {"decay_rate", "decay_steps"} if exponential else {"power"}
    assert own == falls.keys() & args.keys(), f"{args['decay']} with {sorted(falls.keys() & args.keys())}"
    values = (args["base_lr"], args["min_lr"], args["warmup_steps"], args["hold_steps"])
    options = {name: args[name] for name in ("warmup_steps", "hold_steps")} | {"final_lr": args["min_lr"]}
    if exponential:
        options |= {name: args[name] for name in own}
        rate = lambda n: hold_exponential(n, *values, args["decay_steps"], args["decay_rate"])  # noqa: E731
    else:
        options["decay_power"] = args["power"]
        rate = lambda n: hold_inverse_power(n, *values, args["power"])  # noqa: E731
    numbers = make_inputs(case, ("n",))["n"].tolist()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args["base_lr"])
    scheduler, unit = load("scheduler", f"hold_{args['decay']}")(optimizer, **options)
    assert unit == "iteration"
    produced = []
    for n in numbers:
        scheduler.set_step(n)
        produced.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(produced, [rate(n) for n in numbers], rtol=1e-12)
    compare_case(AREA, case, {"lr": np.array(produced)})


def optimizer_steps(case):
    args = dict(case["args"])
    values = {"name": one_of("radam"), "lr": number, "betas": list_of(number), "eps": number, "weight_decay": number}
    check_arguments(args, {**values, "decoupled_weight_decay": boolean, "updates": integer, "parameters": integer})
    no_weights(case)
    make_inputs(case, ())
    updates, parameters, name = (args.pop(key) for key in ("updates", "parameters", "name"))
    p = torch.nn.Parameter(torch.linspace(-1, 1, parameters))
    optimizer, after = load("optimizer", name)([p], **args), []
    for t in range(1, updates + 1):
        optimizer.zero_grad()
        (p.pow(4).sum() + np.sin(t) * p.sum()).backward()
        optimizer.step()
        after.append(p.detach().clone())
    compare_case(AREA, case, {"p": torch.stack(after)})


KINDS = {
    "logmel": logmel, "mel_matrix": mel_matrix, "sliding_normalisation": normalisation, "energy_vad": energy_vad,
    "lr_schedule": lr_schedule, "optimizer_steps": optimizer_steps,
}  # fmt: skip
