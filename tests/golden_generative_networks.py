"""Stored cases of the encoders and decoders of features, their sub-pixel convolutions and lengths.
Entry point: KINDS, {kind: function(case)}; network, filling and without_dropout serve whole models.
"""

import golden_generative_attention
import torch
from golden_generative_weights import AREA, fill_in_order, make_inputs, named_weights, no_weights
from golden_recipes import boolean, check_arguments, compare_case, integer, list_of, one_of

from engine import registry
from models.blocks.subpixel import SubPixelConv

CONVOLUTIONAL = ("dc1d", "dc2d", "resnet1d", "resnet2d")


def convolutional_options(arguments):
    """Return the constructor arguments of a convolutional network of a case."""
    residual = arguments["family"].startswith("resnet")
    sizes = dict.fromkeys(("in_channels", "in_conv_channels", "in_kernel", "kernel"), integer)
    lists = dict.fromkeys(("repeats", "channels", "strides"), list_of(integer))
    norms = {"norm": one_of("batch"), "norm_before_activation": boolean, "activation": one_of("relu6", "swish")}
    names = {"family": one_of(*CONVOLUTIONAL), "role": one_of("encoder", "decoder")}
    check_arguments(arguments, {**names, **sizes, **lists, **norms}, {"block": one_of("basic")} if residual else None)
    renamed = {"in_conv_channels": "stem_channels", "in_kernel": "stem_kernel", "kernel": "kernels"}
    return {renamed.get(name, name): value for name, value in arguments.items() if name not in names}


# family: (function from the arguments of a case to those of the constructor, options of fill_in_order)
FAMILIES = {**dict.fromkeys(CONVOLUTIONAL, (convolutional_options, {})), **golden_generative_attention.FAMILIES}


def network(arguments, role):
    """Return the encoder or decoder of a case."""
    assert arguments["family"] in FAMILIES, f"unknown family {arguments['family']}"
    assert arguments["role"] == role, f"a network for the role {arguments['role']}, {role} is expected"
    encoder, decoder = registry.load_backbone(arguments["family"])
    return (encoder if role == "encoder" else decoder)(**FAMILIES[arguments["family"]][0](arguments))


def filling(*networks):
    """Return the options of fill_in_order for the networks with these arguments of a case."""
    return {key: value for arguments in networks for key, value in FAMILIES[arguments["family"]][1].items()}


def without_dropout(module):
    """Return `module` with every dropout at 0, as train mode is stored."""
    for part in module.modules():
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0
        elif isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def outputs(case, role):
    """Return {name: tensor} of a network alone."""
    arguments = case["args"]["network"]
    x = torch.from_numpy(make_inputs(case, ("x",))["x"])
    module = network(arguments, role)
    fill_in_order(case, module, lambda: module(x), **filling(arguments))
    with torch.no_grad():
        produced = {"y": module.eval()(x)}
        if case["args"]["train_forward"]:
            produced["y_train"] = without_dropout(module).train()(x)
    assert produced["y"].shape[-1] == module.out_frames(x.shape[-1]) and produced["y"].shape[1] == module.out_channels
    return produced


def encoder(case):
    check_arguments(case["args"], {"network": lambda value: isinstance(value, dict), "train_forward": boolean})
    compare_case(AREA, case, outputs(case, "encoder"))


def decoder(case):
    kinds = {"network": lambda value: isinstance(value, dict), "train_forward": boolean, "target": list_of(integer)}
    check_arguments(case["args"], kinds)
    produced = outputs(case, "decoder")
    cut = tuple(slice(0, size) for size in case["args"]["target"])
    compare_case(AREA, case, {**produced, "y_cropped_aligned": produced["y"][(..., *cut)]})


def subpixel_conv(case):
    names = ("in_channels", "out_channels", "kernel", "stride", "padding")
    arguments = case["args"]
    check_arguments(arguments, {"dims": one_of(1, 2), **dict.fromkeys(names, integer)})
    named_weights(case)
    given = {role: torch.from_numpy(a) for role, a in make_inputs(case, ("x", "conv.weight", "conv.bias")).items()}
    in_channels, out_channels, kernel, stride, padding = (arguments[name] for name in names)
    flat = arguments["dims"] == 1
    sizes = ((1, kernel), (0, padding)) if flat else ((kernel, kernel), (padding, padding))
    module = SubPixelConv(in_channels, out_channels, sizes[0], stride, arguments["dims"], padding=sizes[1])
    with torch.no_grad():
        module.weight.copy_(given["conv.weight"].unsqueeze(2) if flat else given["conv.weight"])
        module.bias.copy_(given["conv.bias"])
        y = module(given["x"].unsqueeze(2) if flat else given["x"])
    compare_case(AREA, case, {"y": y.squeeze(2) if flat else y})


def lengths(case):
    check_arguments(case["args"], {"strides": list_of(integer)})
    no_weights(case)
    frames = torch.from_numpy(make_inputs(case, ("T",))["T"])
    strides = case["args"]["strides"]
    sizes = {"stem_channels": 2, "stem_kernel": 3, "repeats": [1] * len(strides), "channels": 2, "kernels": 3}
    down, up = (cls(2, strides=strides, **sizes).out_frames for cls in registry.load_backbone("dc1d"))
    subsampled = registry.load_backbone("transformer")[0](80, d_model=8, heads=1, blocks=1, d_ff=8, input_layer="conv")
    latent = down(frames)
    compare_case(
        AREA, case, {"latent": latent, "decoded": up(latent), "conv2d_subsampled": subsampled.out_frames(frames)}
    )


KINDS = {"encoder": encoder, "decoder": decoder, "subpixel_conv": subpixel_conv, "lengths": lengths}
