"""Stored cases of the waveform VQ-VAE: encoders, quantiser, revival, jitter, losses, decoding, encoder predictor.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
import torch
from golden_diffusion_networks import make_inputs, norms, prepared, run_module
from golden_recipes import (
    boolean,
    check_arguments,
    check_contract,
    compare_case,
    fill_modules,
    integer,
    list_of,
    number,
    one_of,
)
from golden_recipes import make_inputs as made

from diffusion import guidance, objective, samplers, schedules
from engine import registry
from models.blocks import vq
from models.blocks.wave_encoders import ENCODERS, ConvMFCCEncoder, make_encoder

AREA = "diffusion"
SCHEDULE = "exp"  # of all cases of the VQ-VAE, none of which says so
SIZES = {"base_channels": integer, "cond_mult": integer}


def encoder(case):
    args = case["args"]
    check_arguments(args, {"enc_name": one_of(*ENCODERS), **SIZES, "downsample_rate": integer})
    module = make_encoder(args["enc_name"], args["base_channels"], args["cond_mult"])
    assert module.rate == args["downsample_rate"]
    if isinstance(module, ConvMFCCEncoder):
        module.mfcc.floor_of_batch = True  # the stored form of version 2
    run_module(case, module, ("x",))


def quantiser(case, **sizes):
    module = vq.VQ(**sizes)
    assert (module.usage_count == module.dead_rate).all()
    return prepared(case, module).train()


def vq_layer(case):
    args, produced = case["args"], {}
    sizes = dict.fromkeys(("num_channels", "num_codes", "dead_rate"), integer)
    check_arguments(args, {**sizes, "commitment": number, "revival": number, "updates": integer})
    module = quantiser(case, **{name: args[name] for name in sizes})
    steps = [f"x{i}" for i in range(args["updates"])]
    given = make_inputs(case, (*steps, "w"))

    def gradients(value_of):
        """Return a value and its gradients in x0 and the dictionary (None where there is none)."""
        x = given["x0"].clone().requires_grad_()
        value = value_of(x)
        return value, *torch.autograd.grad(value, (x, module.dictionary), allow_unused=True)

    def standard(x):
        return vq.vq_loss(x, module(x).embedded, args["commitment"])

    module.eval()
    out = module(given["x0"])
    produced |= out._asdict() | {"idxs": out.codes}
    _, produced["pass_grad_x"], other = gradients(lambda x: (module(x).passthrough * given["w"]).sum())
    assert other is None
    _, other, produced["embed_grad_dict"] = gradients(lambda x: (module(x).embedded * given["w"]).sum())
    assert other is None
    with_revival = lambda x: standard(x) + args["revival"] * vq.revival_loss(x, module.dictionary)  # noqa: E731
    for name, loss in {"loss_std": standard, "loss_rev": with_revival}.items():
        produced[name], produced[f"{name}_grad_x"], produced[f"{name}_grad_dict"] = gradients(loss)
    module.train()
    for i, step in enumerate(steps):
        module(given[step])
        produced[f"usage{i}"] = module.usage_count.clone()
    compare_case(AREA, case, produced)


def vq_revival(case):
    args = case["args"]
    sizes = dict.fromkeys(("num_channels", "num_codes"), integer)
    check_arguments(args, {**sizes, "usage_count": integer, "dead_rows": list_of(integer)})
    module = quantiser(case, **{name: args[name] for name in sizes})
    module(make_inputs(case, ("x",))["x"])
    module.usage_count.fill_(args["usage_count"])[args["dead_rows"]] = 0
    before, rows = module.dictionary.detach().clone(), module.last_rows
    probabilities = vq.revival_probabilities(vq.distances(rows, before))
    vq.revive(module, draws=torch.linspace(0, 0.99, args["num_codes"]))
    of_batch = (module.dictionary[:, None] == rows).all(2).any(1)
    changed = (module.dictionary != before).any(1)
    assert (of_batch >= changed).all()
    compare_case(AREA, case, {"probs": probabilities, "usage_after": module.usage_count, "changed": changed})


def jitter(case):
    check_arguments(case["args"], {"p": number})
    fill_modules(case)
    given = make_inputs(case, ("x", "u"))
    compare_case(AREA, case, {"out": vq.jitter(given["x"], case["args"]["p"], given["u"])})


# ---------------------------------------------------------------- VQ-VAE

VQVAE = {
    "pred_name": one_of("unet", "wavegrad"), "enc_name": one_of(*ENCODERS), **SIZES, "dictionary_size": integer,
}  # fmt: skip


def vqvae(args):
    options = {name: args[name] for name in (*VQVAE, "num_labels") if name in args}
    return registry.load("models", "WaveVQVAE", "vqvae")(**options)


def vqvae_losses(case):
    args = case["args"]
    training = dict.fromkeys(("commitment", "jitter", "no_vq_prob"), number)
    check_arguments(args, {**VQVAE, **training}, {"num_labels": integer})
    network = prepared(case, vqvae(args))
    given = make_inputs(case, ("x", "eps", "t"), ("labels", "u", "v"))
    label, found = given["labels"], {}

    def predict(noised, t):
        found["out"] = network(
            noised, t, given["x"], label, jitter=args["jitter"], no_vq_prob=args["no_vq_prob"],
            jitter_draws=given["u"], no_vq_draws=given["v"],
        )  # fmt: skip
        return found["out"].prediction

    with torch.no_grad():
        codes = network.encode(given["x"])
    mses = objective.losses(predict, given["x"], given["t"], given["eps"], SCHEDULE)
    loss = vq.vq_loss(found["out"].latents, found["out"].embedded, args["commitment"])
    (mses.mean() + loss).backward()
    compare_case(AREA, case, {"mses": mses, "vq_loss": loss, "codes": codes, "grad_norms": norms(network)})


PREDICTOR = dict.fromkeys(("base_channels", "downsample_rate", "num_latents"), integer)


def encoder_predictor(case):
    check_arguments(case["args"], PREDICTOR, {"bottleneck_dim": integer})
    network = prepared(case, registry.load("models", "EncoderPredictor", "encoder_predictor")(**case["args"]))
    x, t, targets = make_inputs(case, ("x", "t", "targets")).values()
    with torch.no_grad():
        logits = network(x, t)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none").mean(1)
    guide = guidance.recogniser_guide(network, targets)
    compare_case(AREA, case, {"logits": logits, "losses": losses, "guidance": guide(x, t)})


def vqvae_decode(case):
    args = case["args"]
    dictionary = lambda value: isinstance(value, dict)  # noqa: E731
    optional = {"enc_pred": dictionary, **dict.fromkeys(("enc_pred_scale", "label_scale", "vq_scale"), number)}
    common = {"num_labels": integer, "steps": integer, "constrain": boolean, "labels_offset": integer}
    # what each guidance may be given, and the default of its scales
    kinds = {
        "none": {}, "encoder_predictor": {"enc_pred": None, "enc_pred_scale": 1.0},
        "classifier_free": {"label_scale": 1.0, "vq_scale": 0.0},
    }  # fmt: skip
    check_arguments(args, {**VQVAE, **common, "guidance": one_of(*kinds)}, optional)
    assert set(args) & set(optional) <= set(kinds[args["guidance"]])
    args = kinds[args["guidance"]] | args
    network, modules, guide = vqvae(args).eval(), {}, None
    if "enc_pred" in args:
        check_arguments(args["enc_pred"], PREDICTOR, {"bottleneck_dim": integer})
        other = registry.load("models", "EncoderPredictor", "encoder_predictor")(**args["enc_pred"]).eval()
        modules["encoder_predictor"] = other
    fill_modules(case, module=network, **modules)
    check_contract(AREA, case, network)
    entries = dict.fromkeys(("codes", "labels"), ("list",))
    # one step adds no noise
    given = made(AREA, case, {**entries, "xT": ("noise",)}, {"z": ("noise_sequence",)})
    codes, labels, x = (torch.from_numpy(given[role]) for role in ("codes", "labels", "xT"))
    assert x.shape[2] == codes.shape[1] * network.encoder.rate
    cond, label = network.vq.embed(codes).detach(), labels + args["labels_offset"]
    if "enc_pred" in args:
        guide = guidance.recogniser_guide(other, codes, args["enc_pred_scale"])
    predict = guidance.classifier_free(
        lambda x, t, label, cond: network.predictor(x, t, label=label, cond=cond),
        {"label": label, "cond": cond},
        {"label": torch.zeros_like(label), "cond": torch.zeros_like(cond)},
        {"label": args.get("label_scale", 0.0), "cond": args.get("vq_scale", 0.0)},
    )
    times = schedules.time_grid("linear", args["steps"], SCHEDULE)
    noise = list(map(torch.from_numpy, np.asarray(given.get("z", []))))
    constants = {"noise": noise, "constrain": args["constrain"], "guide": guide}
    produced = samplers.ddpm(predict, x, times, lambda t: schedules.alpha_bar(SCHEDULE, t), **constants)
    compare_case(AREA, case, {"out": produced})


KINDS = {
    "encoder": encoder, "vq_layer": vq_layer, "vq_revival": vq_revival, "jitter": jitter,
    "vqvae_losses": vqvae_losses, "encoder_predictor": encoder_predictor, "vqvae_decode": vqvae_decode,
}  # fmt: skip
