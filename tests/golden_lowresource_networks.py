"""Stored cases of x-vector, ECAPA-TDNN, their features and their losses.
Entry points: KINDS, {kind: function(case)}; make_network, for cases that train one.
"""

import torch
from golden_recipes import (
    boolean,
    check_arguments,
    check_contract,
    compare_case,
    fill_modules,
    gradient_norms,
    integer,
    list_of,
    make_inputs,
    number,
    one_of,
)

from audio.features import MFCC, Filterbank
from engine import registry
from loss._margin import cosines
from models.blocks.ecapa import EcapaTDNN
from models.blocks.xvector import XVectorTDNN

AREA = "lowresource"
NETWORKS = {"ecapa": EcapaTDNN, "xvector": XVectorTDNN}
SIZES = {
    "ecapa": {
        "input_size": integer, "channels": list_of(integer), "kernel_sizes": list_of(integer),
        "dilations": list_of(integer), "attention_channels": integer, "res2net_scale": integer, "se_channels": integer,
        "lin_neurons": integer, "global_context": boolean,
    },
    "xvector": {
        "in_channels": integer, "tdnn_channels": list_of(integer), "tdnn_kernel_sizes": list_of(integer),
        "tdnn_dilations": list_of(integer), "lin_neurons": integer,
    },
}  # fmt: skip
FIRST_NORM = {"ecapa": "blocks.0.norm.norm", "xvector": "blocks.2.norm"}


def make_network(name, args):
    """Return the network of a case, built from arguments that must be exactly those of its kind."""
    check_arguments(args, SIZES[name], {"std_floor": number} if name == "xvector" else None)
    return NETWORKS[name](**args)


def tensors(inputs):
    """Return the inputs as tensors, times and relative lengths as float32."""
    found = {role: torch.from_numpy(array) for role, array in inputs.items()}
    return {role: x.float() if x.dtype == torch.float64 else x for role, x in found.items()}


def valid_frames(relative, frames):
    """Return the frames that masks and mean normalisation take for lengths relative to the longest: rounded up."""
    return None if relative is None else (torch.arange(frames) < relative[:, None] * frames).sum(1)


def pooled_frames(name, relative, frames):
    """Return the frames that a network counts: the x-vector's pooling rounds to the nearest."""
    if relative is None or name == "ecapa":
        return valid_frames(relative, frames)
    return torch.round(relative * frames).long()


def record(network, name, modules, found):
    """Store into `found` what `modules` give for the first item, in the layout that the stored arrays have."""

    def store(module_name):
        def run(module, inputs, output):
            first = output[:1].clone()
            # the reference's x-vector works on (batch, frames, channels); both keep an axis of time after pooling
            if name == "xvector":
                first = first.transpose(1, 2) if first.ndim == 3 else first.unsqueeze(1)
            found[f"mid.{module_name}"] = first if first.ndim == 3 else first.unsqueeze(2)

        return run

    return [network.get_submodule(module).register_forward_hook(store(module)) for module in modules]


def embedding(case, name):
    args = dict(case["args"])
    modules, mode = args.pop("intermediate"), args.pop("mode")
    assert list_of(lambda value: isinstance(value, str))(modules) and mode in ("eval", "eval_and_train")
    if name == "xvector":
        assert args.pop("pooling_noise") is False
    network = make_network(name, args)
    both = mode == "eval_and_train"
    roles = {"x": ("noise",), **({"g": ("noise",)} if both else {})}
    inputs = tensors(make_inputs(AREA, case, roles, {"relative_lengths": ("list",)}))
    x = inputs["x"].requires_grad_(both)
    lengths = pooled_frames(name, inputs.get("relative_lengths"), x.shape[1])
    fill_modules(case, network=network)
    check_contract(AREA, case, network)
    produced = {}
    hooks = record(network, name, modules, produced)
    with torch.no_grad():
        produced["embedding"] = network.eval().embed(x.transpose(1, 2), lengths)
    for hook in hooks:
        hook.remove()
    if both:
        fill_modules(case, network=network.train())
        output = network.embed(x.transpose(1, 2), lengths)
        (output * inputs["g"].squeeze(1)).sum().backward()
        first = network.get_submodule(FIRST_NORM[name])
        produced |= {
            "train_embedding": output, "train_grad_x_sum": x.grad.sum(1),
            "train_grad_norms": gradient_norms(AREA, case, network),
            "train_running_mean_first": first.running_mean, "train_running_var_first": first.running_var,
        }  # fmt: skip
    compare_case(AREA, case, produced)


def ecapa_embedding(case):
    embedding(case, "ecapa")


def xvector_embedding(case):
    embedding(case, "xvector")


# ---------------------------------------------------------------- features


def fbank(case):
    check_arguments(case["args"], {"n_mels": integer, "normalisation": one_of("sentence_mean")})
    fill_modules(case)
    inputs = tensors(make_inputs(AREA, case, {"wave": ("noise",)}, {"relative_lengths": ("list",)}))
    front_end = Filterbank(case["args"]["n_mels"])
    features = front_end(inputs["wave"])
    lengths = valid_frames(inputs.get("relative_lengths"), features.shape[2])
    produced = {
        "fbank": features.transpose(1, 2), "mean_normed": front_end.normalise(features, lengths).transpose(1, 2),
        "filter_sums": front_end.filters.sum(1), "filter_argmax": front_end.filters.argmax(1),
    }  # fmt: skip
    compare_case(AREA, case, produced)


def mfcc(case):
    sizes = dict(case["args"])
    check_arguments(
        sizes, {**dict.fromkeys(("n_mfcc", "sample_rate", "n_fft", "hop", "n_mels"), integer), "eps": number}
    )
    fill_modules(case)
    added = sizes.pop("eps")
    wave = tensors(make_inputs(AREA, case, {"wave": ("noise",)}))["wave"]
    front_end = MFCC(**sizes, added_to_std=added)
    features = front_end(wave)
    for item, row in zip(features, wave):  # the neighbours of an utterance change nothing
        torch.testing.assert_close(item, front_end(row[None])[0], atol=5e-3, rtol=1e-4)
    normed = front_end.normalise(features)
    compare_case(AREA, case, {"mfcc": features.transpose(1, 2), "normed": normed.transpose(1, 2)})


def pipeline_embedding(case):
    args = case["args"]
    required = {"front_end": one_of("fbank"), "n_mels": integer, "normalisation": one_of("sentence_mean")}
    check_arguments(args, {**required, "network": one_of(*NETWORKS), "network_args": lambda value: True})
    network = make_network(args["network"], {**args["network_args"]}).eval()
    fill_modules(case, network=network)
    inputs = tensors(make_inputs(AREA, case, {"wave": ("noise",)}, {"relative_lengths": ("list",)}))
    front_end, relative = Filterbank(args["n_mels"]), inputs.get("relative_lengths")
    features = front_end(inputs["wave"])
    frames = features.shape[2]
    features = front_end.normalise(features, valid_frames(relative, frames))
    with torch.no_grad():
        found = network.embed(features, pooled_frames(args["network"], relative, frames))
    compare_case(AREA, case, {"embedding": found})


# ---------------------------------------------------------------- losses


def margin_loss(classes, dim, margin, scale):
    return registry.load("loss", "aamsoftmax")(dim, classes, margin=margin, scale=scale)


def margin_logits(loss, cosine, labels):
    """Return the scaled cosines with the margin, as the loss computes them."""
    target = loss.with_margin(cosine.gather(1, labels[:, None]), loss.current_margin)
    return loss.scale * cosine.scatter(1, labels[:, None], target)


def losses_of(logits, labels, leaf):
    """Return loss, posterior and the gradient to `leaf`."""
    value = torch.nn.functional.cross_entropy(logits, labels)
    value.backward()
    return {"loss": value.reshape(1), "posterior": logits.softmax(1), "grad": leaf.grad}


def aam_softmax(case):
    check_arguments(case["args"], {"margin": number, "scale": number})
    fill_modules(case)
    inputs = tensors(make_inputs(AREA, case, {"cos": ("stored",), "labels": ("stored",)}))
    cosine, labels = inputs["cos"].clone().requires_grad_(), inputs["labels"].long()
    loss = margin_loss(cosine.shape[1], 4, **case["args"])
    compare_case(AREA, case, losses_of(margin_logits(loss, cosine, labels), labels, cosine))


def cosine_classifier_aam(case):
    args = case["args"]
    check_arguments(args, {"in_features": integer, "out_features": integer, "margin": number, "scale": number})
    loss = margin_loss(args["out_features"], args["in_features"], args["margin"], args["scale"])
    fill_modules(case, classifier=loss)
    check_contract(AREA, case, loss)
    inputs = tensors(make_inputs(AREA, case, {"x": ("noise",), "labels": ("affine_mod",)}))
    x = inputs["x"].requires_grad_()
    value, _ = loss(x, inputs["labels"])
    value.backward()
    found = {"cos": cosines(x, loss.weight), "loss": value.reshape(1), "grad_x": x.grad, "grad_w": loss.weight.grad}
    compare_case(AREA, case, found)


def cross_entropy(case):
    check_arguments(case["args"], {})
    fill_modules(case)
    inputs = tensors(make_inputs(AREA, case, {"x": ("noise",), "labels": ("affine_mod",)}))
    x, labels = inputs["x"].requires_grad_(), inputs["labels"]
    loss = registry.load("loss", "softmax")(x.shape[1], x.shape[1])
    with torch.no_grad():  # the logits themselves
        loss.fc.weight.copy_(torch.eye(x.shape[1]))
        loss.fc.bias.zero_()
    value, _ = loss(x, labels)
    value.backward()
    compare_case(AREA, case, {"loss": value.reshape(1), "posterior": loss.fc(x).softmax(1), "grad": x.grad})


KINDS = {
    "ecapa_embedding": ecapa_embedding, "xvector_embedding": xvector_embedding, "fbank": fbank, "mfcc": mfcc,
    "pipeline_embedding": pipeline_embedding, "aam_softmax": aam_softmax,
    "cosine_classifier_aam": cosine_classifier_aam, "cross_entropy": cross_entropy,
}  # fmt: skip
