"""Stored cases of the binary autoencoder: forward, gradients, threshold, losses, training steps, samplers.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
import torch
from golden_recipes import (
    RECIPES,
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

from audio.class_samplers import batches_of_rank, exhaustive, once_per_class
from engine import foreign, registry
from loss._mining import TYPES, count_triplets, distances
from models.blocks.straight_through import binarise

AREA = "attributes"
SIZES = {"input_dim": integer, "internal_dim": integer}


def encoder(case):
    """Return the network of a case, of its sizes and with its weights."""
    sizes = {name: case["args"][name] for name in SIZES}
    source = case["weights_from"]
    if source["mode"] == "checkpoint":
        check_arguments(source, dict.fromkeys(("mode", "file", "below"), lambda value: isinstance(value, str)))
        network, _ = foreign.read_network(RECIPES["file"](source["file"], source["below"]), "attributes")
        assert (network.input_dim, network.internal_dim) == tuple(sizes.values())
    else:
        network = registry.load("models", "AttributeEncoder", "attributes")(**sizes)
        fill_modules(case, autoencoder=network)
    check_contract(AREA, case, network)
    return network


def packed(code):
    return np.packbits(code.detach().numpy().astype(np.uint8), axis=-1)


def bae_forward(case):
    args = case["args"]
    check_arguments(args, {**SIZES, "mode": one_of("eval", "train")})
    network = encoder(case).train(args["mode"] == "train")
    x = torch.from_numpy(make_inputs(AREA, case, {"x": ("noise",)})["x"])
    with torch.no_grad():
        reconstruction, code, z = network(x)
    produced = {
        "bits": packed(code), "z": z, "z_rows": z[:8], "recon": reconstruction, "density": code.mean(),
        "mse": loss_of("mse")(x, None, code, reconstruction, z),
    }  # fmt: skip
    compare_case(AREA, case, produced | dict(network.encoder[2].named_buffers()))


def bae_gradients(case):
    args = case["args"]
    kinds = {"loss_weights": list_of(number), "gradients": one_of("full", "norm_and_head"), "head": integer}
    check_arguments(args, {**SIZES, **kinds})
    x = torch.from_numpy(make_inputs(AREA, case, {"x": ("noise",)})["x"])
    with torch.no_grad():
        reconstruction, code, z = encoder(case).eval()(x)
    produced = {"bits": packed(code), "z": z, "recon": reconstruction}
    for weight in args["loss_weights"]:
        network, start = encoder(case).train(), f"lam{weight:g}_"
        given = x.clone().requires_grad_()
        reconstruction, code, z = network(given)
        loss = weight * loss_of("mse")(x, None, code, reconstruction, z)
        loss.backward()
        produced |= {f"{start}loss": loss, f"{start}grad_input": given.grad, f"{start}train_bits": packed(code)}
        for name, parameter in network.named_parameters():
            gradient = parameter.grad
            produced |= {
                f"{start}grad.{name}": gradient, f"{start}gradnorm.{name}": gradient.norm(),
                f"{start}gradhead.{name}": gradient.flatten()[: args["head"]],
            }  # fmt: skip
    compare_case(AREA, case, produced)


def threshold_ste(case):
    check_arguments(case["args"], {"clip": lambda value: list_of(number)(value) and len(value) == 2})
    fill_modules(case)
    inputs = make_inputs(AREA, case, dict.fromkeys(("x", "upstream"), ("stored",)))
    x = torch.from_numpy(inputs["x"]).requires_grad_()
    y = binarise(x, tuple(case["args"]["clip"]))
    y.backward(torch.from_numpy(inputs["upstream"]))
    compare_case(AREA, case, {"y": y, "grad": x.grad})


# ---------------------------------------------------------------- losses


def loss_of(name, **options):
    return registry.build(registry.load("loss", f"code_{name}", "attributes"), options)


def attribute_losses(case):
    args = case["args"]
    parts = {"triplet": None, "arcface": None, "sparsity": None, "total": None}
    check_arguments(
        args, {"n_classes": integer, "samples_per_class": integer, **dict.fromkeys(parts, lambda value: True)}
    )
    mining, angular = args["triplet"], args["arcface"]
    check_arguments(mining, {"types": list_of(one_of(*TYPES)), "miner_margin": number, "loss_margin": number})
    check_arguments(
        angular, {"scale": number, "margin_degrees": number, "miner_type": one_of("all"), "miner_margin": number}
    )
    assert case["weights_from"] == {"mode": "named_inputs", "parameters": {"W": "W"}}
    stored = dict.fromkeys(("labels", "z", "sparsity_target"), ("stored",))
    made = dict.fromkeys(("recon", "input"), ("noise",))
    given = make_inputs(AREA, case, {**stored, **made, "code": ("packed",), "W": ("values",)})
    given = {role: torch.from_numpy(array) for role, array in given.items()}
    produced = {}

    def run(loss, **gradients):
        """Return the value of a loss; store the gradients asked for, {array: input}."""
        inputs = {role: x.clone() for role, x in given.items()}
        for role in gradients.values():
            inputs[role].requires_grad_()
        value = loss(*(inputs[role] for role in ("input", "labels", "code", "recon", "z")))
        if gradients:
            value.backward()
        produced.update({array: inputs[role].grad for array, role in gradients.items()})
        return value

    produced["mse"] = run(loss_of("mse"), mse_grad_recon="recon")
    for kind in mining["types"]:
        name, margin = f"triplet_{kind}", mining["miner_margin"]
        loss = loss_of("triplet", triplet_type=kind, triplet_miner_margin=margin, triplet_margin=mining["loss_margin"])
        produced[name] = run(loss, **{f"{name}_grad": "code"})
        of_positive, _ = count_triplets(distances(given["code"]), given["labels"], kind, margin)
        produced[f"{name}_count"] = of_positive.sum()
    loss = loss_of(
        "arcface", internal_dim=len(given["W"]), nClasses=args["n_classes"], arcface_scale=angular["scale"],
        arcface_margin_degrees=angular["margin_degrees"], arcface_miner_type=angular["miner_type"],
        arcface_miner_margin=angular["miner_margin"],
    )  # fmt: skip
    loss.W.data.copy_(given["W"])
    produced["arcface"] = run(loss, arcface_grad="code")
    produced["arcface_grad_W"] = loss.W.grad
    produced["arcface_miner_weights"] = loss.weights(given["code"], given["labels"])
    loss.weights = lambda code, labels: torch.ones(len(code))
    produced["arcface_no_miner"] = run(loss)
    for form in args["sparsity"]:
        upper = lambda value: value is None or number(value)  # noqa: E731
        check_arguments(
            form, {"array": lambda name: isinstance(name, str), "clamp_max": upper, "divide_by_speakers": boolean}
        )
        loss = loss_of(
            "sparsity", internal_dim=given["z"].shape[1], samples_per_class=args["samples_per_class"],
            sparsity_clamp_max=form["clamp_max"], sparsity_per_speaker=form["divide_by_speakers"],
        )  # fmt: skip
        loss.target.copy_(given["sparsity_target"])
        produced[form["array"]] = run(loss, **{f"{form['array']}_grad_z": "z"})
    weighted = [weight * produced[name] for name, weight in args["total"].items()]
    produced["total_mse_triplet_sparsity_arcface"] = sum(weighted)
    compare_case(AREA, case, produced)


def bae_training(case):
    args = case["args"]
    numbers = {"lr": number, "betas": lambda value: list_of(number)(value) and len(value) == 2, "eps": number}
    check_arguments(args, {**SIZES, "steps": integer, "optimizer": one_of("adam"), **numbers, "loss": one_of("mse")})
    network, loss = encoder(case), loss_of(args["loss"])
    batches, held_out = make_inputs(AREA, case, {"x": ("noise_sequence",), "x_val": ("noise",)}).values()
    assert len(batches) == args["steps"]
    optimizer = registry.load("optimizer", args["optimizer"])(
        network.parameters(), **{name: args[name] for name in numbers}, weight_decay=0
    )
    losses = []
    for x in map(torch.from_numpy, batches):
        reconstruction, code, z = network.train()(x)
        value = loss(x, None, code, reconstruction, z)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    x = torch.from_numpy(held_out)
    with torch.no_grad():
        reconstruction, code, z = network.eval()(x)
        held_out_loss = loss(x, None, code, reconstruction, z)
    produced = {"train_loss": np.array(losses), "val_loss": held_out_loss, "decoder_out_bias": network.decoder[2].bias}
    compare_case(AREA, case, produced | dict(network.encoder[2].named_buffers()))


# ---------------------------------------------------------------- samplers


def check_once_per_class(batches, labels, n, m, drop_last):
    """Fail unless the batches are what the case's invariants say of the once-per-class sampler."""
    groups, size = batches.reshape(-1, m), dict(zip(*np.unique(labels, return_counts=True)))
    owner = labels[groups[:, 0]]
    assert (labels[groups] == owner[:, None]).all()
    assert all(len(set(group)) == m for group, label in zip(groups, owner) if size[label] >= m)
    assert all(len(set(row)) == n for row in owner.reshape(-1, n))
    once = owner[: len(size)]
    assert len(set(once)) == len(once) and (drop_last or set(once) == set(size))
    np.testing.assert_array_equal(owner[len(size) :], owner[: len(owner) - len(once)])


def class_balanced_sampler(case):
    args = case["args"]
    lists = {"drop_last": list_of(boolean), "replicas": list_of(integer)}
    check_arguments(args, {"cases": list_of(lambda value: isinstance(value, dict)), **lists, "ddp": lambda value: True})
    check_arguments(args["ddp"], {"shuffle": boolean, "seed": integer, "epoch": integer})
    fill_modules(case)
    for part in args["cases"]:
        check_arguments(part, {"tag": lambda value: isinstance(value, str), "N": integer, "M": integer})
    inputs = make_inputs(AREA, case, {f"{part['tag']}_labels": ("stored",) for part in args["cases"]})

    def generator(epoch):
        return torch.Generator().manual_seed(args["ddp"]["seed"] + epoch) if args["ddp"]["shuffle"] else None

    produced, epoch = {}, args["ddp"]["epoch"]
    for part in args["cases"]:
        tag, n, m = part["tag"], part["N"], part["M"]
        labels = inputs[f"{tag}_labels"]
        found = {"exhaustive": exhaustive(labels, n, m)}
        for drop_last in args["drop_last"]:
            end = f"droplast{int(drop_last)}"
            found[f"random_{end}"] = batches = once_per_class(labels, n, m, drop_last)
            produced[f"{tag}_random_{end}_class_order"] = labels[batches.reshape(-1, m)[:, 0]]
            shuffled = once_per_class(labels, n, m, drop_last, generator(epoch))
            assert (shuffled == once_per_class(labels, n, m, drop_last, generator(epoch))).all()
            later = [once_per_class(labels, n, m, drop_last, generator(epoch + step)) for step in range(1, 9)]
            assert not args["ddp"]["shuffle"] or any((shuffled != other).any() for other in later)
            for each in (batches, shuffled):
                check_once_per_class(each, labels, n, m, drop_last)
            for world in args["replicas"]:
                ranks = [batches_of_rank(shuffled, rank, world, drop_last) for rank in range(world)]
                assert len({rank.shape for rank in ranks}) == 1
                together = np.stack(ranks, 1).reshape(-1, n * m)
                whole = np.resize(shuffled, together.shape)
                np.testing.assert_array_equal(together, whole)
                produced[f"{tag}_ddp{world}_{end}_len"] = ranks[0].size
                produced[f"{tag}_ddp{world}_{end}_batches_per_rank"] = len(ranks[0])
        for name, batches in found.items():
            start = f"{tag}_{name}"
            produced |= {start: batches.reshape(-1), f"{start}_len": batches.size, f"{start}_batches": len(batches)}
    compare_case(AREA, case, produced)


KINDS = {
    "bae_forward": bae_forward, "bae_gradients": bae_gradients, "threshold_ste": threshold_ste,
    "attribute_losses": attribute_losses, "bae_training": bae_training,
    "class_balanced_sampler": class_balanced_sampler,
}  # fmt: skip
