"""Stored cases of latents and whole auto-encoders: distributions, quantisers, objectives, compression, scores.
Entry point: KINDS, {kind: function(case)}.
"""

import torch
from golden_generative_networks import FAMILIES, filling, without_dropout
from golden_generative_weights import AREA, fill_in_order, gradient_norms, make_inputs, named_weights, no_weights
from golden_recipes import boolean, check_arguments, compare_case, integer, list_of, number, one_of

from engine import registry
from models.blocks import gaussians
from models.blocks.autoencoder import errors, mean_over_frames
from models.blocks.gaussians import Normal, limited_std
from models.blocks.quantiser import Quantiser, objective
from scoring import compression
from scoring.reconstruction import mean_and_deviation

VQVAE = "VQVAE"
LIKELIHOOD = one_of("normal-glob-diag-cov", "normal-diag-cov")


def tensors(case, roles, optional=()):
    """Return {role: tensor or number} of a case, floats in float32."""
    given = make_inputs(case, roles, optional)
    found = {role: torch.as_tensor(array) for role, array in given.items()}
    return {role: x.float() if x.is_floating_point() else x for role, x in found.items()}


def gaussian_kl(case):
    args = case["args"]
    check_arguments(args, {"prior": one_of("given", "standard_normal"), "limit_std_to_prior": boolean})
    no_weights(case)
    prior = ("mean_p", "logvar_p") if args["prior"] == "given" else ()
    given = tensors(case, ("mean_q", "logvar_q", *prior))
    p = Normal(given["mean_p"], limited_std(given["logvar_p"])) if prior else None
    most = None if not args["limit_std_to_prior"] else 1.0 if p is None else p.std
    kl = gaussians.kl_divergence(Normal(given["mean_q"], limited_std(given["logvar_q"], most)), p)
    compare_case(AREA, case, {"kl": kl, "kl_per_sample": kl.flatten(1).sum(1)})


def elbo(case):
    args = case["args"]
    kinds = {"kl_weight": number, "likelihood": LIKELIHOOD, "network_dims": one_of(1, 2)}
    scopes = {"variance_scope": one_of("per_bin", "per_element", "scalar"), "limit_std_to_prior": boolean}
    check_arguments(args, {**kinds, **scopes})
    no_weights(case)
    given = tensors(case, ("x", "x_mean", "x_logvar", "z_mean", "z_logvar"))
    x, mean = given["x"], given["x_mean"]
    sizes = {"per_bin": (1, x.shape[-2], 1), "per_element": x.shape, "scalar": ()}
    logvar = given["x_logvar"].reshape(sizes[args["variance_scope"]])
    q = Normal(given["z_mean"], limited_std(given["z_logvar"], 1.0 if args["limit_std_to_prior"] else None))
    # 2-D networks: (batch, 1, bins, frames)
    density = gaussians.log_density(x, Normal(mean, limited_std(logvar)))
    log_px = mean_over_frames(density.flatten(1, -2))
    kl = gaussians.kl_divergence(q).flatten(1).sum(1) / x[0].numel()
    produced = {"log_px": log_px, "kldiv_z": kl, "elbo": gaussians.elbo_per_dimension(log_px, kl, args["kl_weight"])}
    found = errors(mean.flatten(1, -2), x.flatten(1, -2))
    compare_case(AREA, case, {**produced, **{name: of_each.mean() for name, of_each in found.items()}})


# ---------------------------------------------------------------- quantiser


def set_codebooks(module, given, count="count"):
    """Give a quantiser the codebooks of a case, and counts and accumulators where it has them."""
    with torch.no_grad():
        for g in range(module.groups):
            module.codebook[g] = given[f"codebook{g}"]
            if f"{count}{g}" in given:
                module.counts[g] = given[f"{count}{g}"]
                module.accumulators[g] = given[f"codebook{g}"] * given[f"{count}{g}"][:, None]


def vq_step(case):
    args = case["args"]
    sizes = dict.fromkeys(("groups", "codewords", "channels", "steps"), integer)
    names = {"update": one_of("ema", "gradient"), "group_reduction": one_of("mean", "sum"), "commitment": number}
    check_arguments(args, {**sizes, **names}, {"ema_decay": number, "laplace_eps": number})
    named_weights(case)
    groups, averaged = range(args["groups"]), args["update"] == "ema"
    roles = ["z_e", "cotangent", *(f"codebook{g}" for g in groups)]
    roles += [f"ema_count{g}" for g in groups] * averaged + [f"z_e_step{s}" for s in range(1, args["steps"])]
    given = tensors(case, roles)
    options = {"decay": args.get("ema_decay", 0.99), "epsilon": args.get("laplace_eps", 1e-5), "start": "normal"}
    same = {name: args[name] for name in ("channels", "codewords", "groups", "commitment", "update", "group_reduction")}
    module = Quantiser(**same, **options)
    set_codebooks(module, given, "ema_count")
    with torch.no_grad():
        found = module.eval()(given["z_e"])
    produced = {"indices": found.codes, "z_q": found.z_q, "loss": found.loss.mean(), "kl": found.kl}
    produced |= {"mse_per_group": found.mse, "log_perplexity": found.log_perplexity}
    module.train()
    for step in range(args["steps"]):
        z = given["z_e" if step == 0 else f"z_e_step{step}"].clone().requires_grad_()
        found = module(z)
        module.zero_grad()
        ((found.z_q * given["cotangent"]).sum() + found.loss.mean()).backward()
        produced[f"grad_z_e_step{step}"] = z.grad
        for g in groups:
            if averaged:
                states = {"codebook": module.codebook, "count": module.counts, "acc": module.accumulators}
                produced |= {f"{name}{g}_after{step + 1}": state[g].clone() for name, state in states.items()}
            else:
                produced[f"grad_codebook{g}"] = module.codebook.grad[g].clone()
    compare_case(AREA, case, produced)


def vqvae_objective(case):
    args = case["args"]
    check_arguments(args, {"kl_weight": number, "diversity_weight": number})
    no_weights(case)
    given = tensors(case, ("log_px", "kl", "dims", "vq_loss", "log_perplexity"))
    kl = given["kl"] / given["dims"]
    bound, loss = objective(given["log_px"], kl, given["vq_loss"], given["log_perplexity"], **args)
    compare_case(AREA, case, {"kl_per_dim": kl, "elbo": bound, "loss": loss, "loss_mean": loss.mean()})


def compression_ratios(case):
    args, found = case["args"], []
    check_arguments(args, {"bits_per_float": integer, "rows": list_of(lambda row: isinstance(row, dict))})
    no_weights(case)
    make_inputs(case, ())
    names = ("bins", "frames", "time_downsampling", "frequency_downsampling", "latent_channels")
    for row in args["rows"]:
        codes = dict.fromkeys(("groups", "codewords"), integer)
        check_arguments(row, {"model": one_of("vae", "vq"), **dict.fromkeys(names, integer)}, codes)
        bins, stride = row["bins"], row["time_downsampling"]
        if row["model"] == "vae":
            ratio = compression.ratio_of_floats(bins, row["latent_channels"], stride, row["frequency_downsampling"])
        else:
            ratio = compression.ratio_of_codes(
                bins, row["groups"], row["codewords"], stride, bits_per_float=args["bits_per_float"]
            )
        found.append(ratio)
    compare_case(AREA, case, {"ratio": torch.tensor(found)})


def score_aggregation(case):
    check_arguments(case["args"], {"ddof": integer})
    no_weights(case)
    scores = make_inputs(case, ("scores",))["scores"]
    mean, deviation = mean_and_deviation(scores, case["args"]["ddof"])
    compare_case(AREA, case, {"mean": mean, "std": deviation})


# ---------------------------------------------------------------- whole models

NETWORK = {"encoder": lambda value: isinstance(value, dict), "decoder": lambda value: isinstance(value, dict)}
MODEL = {**NETWORK, "z_channels": integer, "likelihood": LIKELIHOOD, "kl_weight": number}


def model_of(case, name, bins, **options):
    """Return models/`name`.py with the encoder and decoder of a case."""
    args, networks = case["args"], {}
    for role in ("encoder", "decoder"):
        arguments = args[role]
        assert arguments["family"] in FAMILIES, f"unknown family {arguments['family']}"
        given = FAMILIES[arguments["family"]][0](arguments)
        channels, dims = given.pop("in_channels"), registry.load_backbone(arguments["family"])[0].DIMS
        expected = args["z_channels"] if role == "decoder" else bins if dims == 1 else 1
        assert arguments["role"] == role and channels == expected, f"{role} for {channels} channels as {role}"
        networks |= {role: arguments["family"], f"{role}_options": given}
    same = {"latent_channels": args["z_channels"], "likelihood": args["likelihood"], "kl_weight": args["kl_weight"]}
    return registry.load("models", name)(**networks, **same, bins=bins, **options)


def filled(case, model, run):
    return fill_in_order(case, model, run, **filling(case["args"]["encoder"], case["args"]["decoder"]))


def vqvae(case, bins):
    """Return the VQ-VAE of a case, without weights, and the names of its codebooks."""
    args, quantiser = case["args"], case["args"]["quantizer"]
    sizes = {"groups": integer, "codewords": integer, "commitment": number, "ema_decay": number, "laplace_eps": number}
    check_arguments(quantiser, {**sizes, "update": one_of("ema"), "group_reduction": one_of("mean")})
    renamed = {"ema_decay": "decay", "laplace_eps": "epsilon"}
    options = {renamed.get(name, name): value for name, value in quantiser.items()}
    return model_of(
        case, VQVAE, bins, **options, diversity_weight=args["diversity_weight"], start="normal"
    )  # fmt: skip


def vqvae_forward(case):
    args = case["args"]
    kinds = {"quantizer": lambda value: isinstance(value, dict), "diversity_weight": number}
    check_arguments(args, {**MODEL, **kinds, "denoising": boolean, "decoder_crop": one_of("end")})
    books = [f"codebook{g}" for g in range(args["quantizer"]["groups"])]
    given = tensors(case, ("x", *books, *["x_target"] * args["denoising"]))
    shape = given["x"].shape
    x, target = (given[n].reshape(len(given[n]), *shape[-2:]) if n in given else None for n in ("x", "x_target"))
    model = vqvae(case, x.shape[1])
    filled(case, model, lambda: model(x))
    set_codebooks(model.quantiser, given)
    with torch.no_grad():
        out = model.eval()(x, target)
        z_q = model.quantiser.embed(out.codes)
        px = model.distribution(z_q, x.shape[2])
        # the stored loss of a sample holds the quantiser's loss of the whole batch
        _, loss = objective(
            out.log_px, out.kl, out.vq_loss.mean(), out.log_perplexity, args["kl_weight"], args["diversity_weight"]
        )  # fmt: skip
    assert torch.equal(model.reconstruct(x), out.mean) and torch.equal(px.mean, out.mean)
    torch.testing.assert_close(loss.mean(), out.loss.mean())
    produced = {"indices": out.codes.flatten(2), "z_q": z_q, "log_px": out.log_px, "loss": loss}
    produced |= {"x_mean": out.mean.reshape(shape), "x_std": px.std.expand_as(out.mean).reshape(shape)}
    produced |= {"kl_per_dim": out.kl, "elbo": out.elbo, "vq_loss": out.vq_loss.mean()}
    produced |= {"log_perplexity": out.log_perplexity, "mse": out.mse.mean(), "l1": out.l1.mean()}
    compare_case(AREA, case, produced)


def vae_forward(case):
    args = case["args"]
    kinds = {"posterior": one_of("global_diagonal"), "limit_std_to_prior": boolean, "decoder_crop": one_of("end")}
    check_arguments(args, {**MODEL, **kinds, "variance_scope": one_of("per_bin", "scalar")})
    given = tensors(case, ("x", "eps"))
    shape = given["x"].shape
    x = given["x"].reshape(len(given["x"]), *shape[-2:])  # of 2-D networks perhaps with an axis of channels
    options = {"posterior": args["posterior"], "limit_std_to_prior": args["limit_std_to_prior"]}
    model = model_of(case, "VAE", x.shape[1], **options)
    if args["likelihood"] == "normal-glob-diag-cov":
        assert model.likelihood.logvar.numel() == {"per_bin": x.shape[1], "scalar": 1}[args["variance_scope"]]
    filled(case, model, lambda: model(x))
    with torch.no_grad():
        out = model.eval()(x, eps=given["eps"])
        q = model.posterior(model.pair.encode(x))
        produced = {"z_mean": q.mean, "z_std": q.std.flatten(), "z": q.mean + q.std * given["eps"]}
        produced |= {"x_mean": out.mean.reshape(shape), "log_px": out.log_px, "kl_per_dim": out.kl, "elbo": out.elbo}
        produced |= {"mse": out.mse.mean(), "l1": out.l1.mean()}
        produced["x_mean_at_posterior_mean"] = model.reconstruct(x).reshape(shape)
    compare_case(AREA, case, produced)


def vqvae_training_step(case):
    args = case["args"]
    kinds = {"quantizer": lambda value: isinstance(value, dict), "diversity_weight": number}
    check_arguments(args, {**MODEL, **kinds})
    groups = range(args["quantizer"]["groups"])
    given = tensors(case, ("x", *(f"codebook{g}" for g in groups), *(f"count{g}" for g in groups)))
    x = given["x"].reshape(len(given["x"]), *given["x"].shape[-2:])
    model = vqvae(case, x.shape[1])
    places = filled(case, model, lambda: model(x))
    set_codebooks(model.quantiser, given)
    out = without_dropout(model).train()(x)
    out.loss.mean().backward()
    produced = {"loss": out.loss.mean(), "log_px": out.log_px, "vq_loss": out.vq_loss.mean()}
    produced |= {"log_perplexity": out.log_perplexity, "grad_norms": gradient_norms(case, model, places)}
    compare_case(AREA, case, produced | {f"codebook{g}_after": model.quantiser.codebook[g] for g in groups})


KINDS = {
    "gaussian_kl": gaussian_kl, "elbo": elbo, "vq_step": vq_step, "vqvae_objective": vqvae_objective,
    "compression": compression_ratios, "vqvae_forward": vqvae_forward, "vae_forward": vae_forward,
    "vqvae_training_step": vqvae_training_step, "score_aggregation": score_aggregation,
}  # fmt: skip
