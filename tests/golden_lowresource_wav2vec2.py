"""Stored cases of wav2vec 2.0 and of the poolings over time.
Entry point: KINDS, {kind: function(case)}.
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

from models.blocks.time_pooling import POOLINGS, TimePooling
from models.Wav2Vec2 import MainModel

AREA = "lowresource"
SIZES = {
    "extractor_mode": one_of("group_norm", "layer_norm"), "extractor_conv_layer_config": list_of(list_of(integer)),
    "extractor_conv_bias": boolean, "encoder_embed_dim": integer, "encoder_pos_conv_kernel": integer,
    "encoder_pos_conv_groups": integer, "encoder_num_layers": integer, "encoder_num_heads": integer,
    "encoder_ff_interm_features": integer, "encoder_layer_norm_first": boolean,
}  # fmt: skip
DROPOUTS = {
    "encoder_projection_dropout": "feat_proj_dropout", "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_dropout": "activation_dropout", "encoder_dropout": "hidden_dropout",
    "encoder_layer_drop": "layerdrop",
}  # fmt: skip


def tensors(inputs):
    """Return the inputs as tensors."""
    return {role: torch.from_numpy(array) for role, array in inputs.items()}


def wav2vec2(case):
    args = case["args"]
    check_arguments(args, {**SIZES, **dict.fromkeys(DROPOUTS, number), "aux_num_out": one_of(None)})
    options = {own: args[name] for name, own in DROPOUTS.items()} | {"sizes": {name: args[name] for name in SIZES}}
    network = MainModel(freeze_cnn=False, **options).eval()
    fill_modules(case, network=network.wav2vec2)
    check_contract(AREA, case, network.wav2vec2)
    with_token = MainModel(encoder_type="first+cls", **options).eval()
    with_token.wav2vec2.load_state_dict(network.wav2vec2.state_dict())
    inputs = tensors(make_inputs(AREA, case, {role: ("noise",) for role in ("wave", "g")} | {"lengths": ("list",)}))
    wave = inputs["wave"].requires_grad_()
    features = network.convolve(wave)  # the stored waves are not normalised
    lengths = network.frames_of(inputs["lengths"])
    embedding = network.embed(features)
    (embedding * inputs["g"]).sum().backward()
    with torch.no_grad():
        projected = network.wav2vec2.encoder.feature_projection(features.transpose(1, 2))
        produced = {
            "cnn": features[:1].transpose(1, 2), "projected": projected[:1], "hidden": network.hidden(features)[:1],
            "mean_pooled": embedding, "frame_lengths": lengths,
            "mean_pooled_lengths": network.embed(features, lengths), "cls_token": with_token.embed(features),
            "grad_norms": gradient_norms(AREA, case, network.wav2vec2), "grad_x_abs_sum": wave.grad.abs().sum(1),
        }  # fmt: skip
    compare_case(AREA, case, produced)


def wav2vec2_base(case):
    args = case["args"]
    check_arguments(args, {"preset": one_of("base"), **dict.fromkeys(("cnn_step", "hidden_step"), list_of(integer))})
    network = MainModel(size=args["preset"]).eval()
    fill_modules(case, network=network.wav2vec2)
    check_contract(AREA, case, network.wav2vec2)
    wave = tensors(make_inputs(AREA, case, {"wave": ("noise",)}))["wave"]
    with torch.no_grad():
        features = network.convolve(wave)
        hidden = network.hidden(features)
        cnn, (a, b), (c, d) = features.transpose(1, 2), args["cnn_step"], args["hidden_step"]
        exact = hidden.double()
        produced = {
            "cnn_slice": cnn[:, ::a, ::b], "hidden_slice": hidden[:, ::c, ::d],
            "mean_pooled": network.embed(features), "hidden_sum": torch.stack([exact.sum(), exact.square().sum()]),
        }  # fmt: skip
    compare_case(AREA, case, produced)


def pooling(case):
    args = case["args"]
    offered = {name for name in POOLINGS if name != "random"}
    check_arguments(
        args,
        {
            "types": list_of(lambda name: name in offered), "quantiles": list_of(number),
            "attention_channels": integer, "global_context": boolean,
        },
    )  # fmt: skip
    inputs = tensors(make_inputs(AREA, case, {"x": ("noise",), "lengths": ("list",)}))
    options = {"shares": tuple(args["quantiles"]), "attention_channels": args["attention_channels"]}
    pools = {
        name: TimePooling(name, inputs["x"].shape[2], global_context=args["global_context"], **options).eval()
        for name in args["types"]
    }
    if "attentive" in pools:
        fill_modules(case, attentive=pools["attentive"].attentive)
        check_contract(AREA, case, pools["attentive"].attentive)
    else:
        fill_modules(case)
    with torch.no_grad():
        compare_case(AREA, case, {name: pool(inputs["x"], inputs["lengths"]) for name, pool in pools.items()})


KINDS = {"wav2vec2": wav2vec2, "wav2vec2_base": wav2vec2_base, "pooling": pooling}
