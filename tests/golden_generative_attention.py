"""Stored cases of attention, its masks and positions; what a case says of transformer and conformer.
Entry points: KINDS, {kind: function(case)}; FAMILIES, {family: (constructor arguments of a case, how to fill)}.
"""

import torch
from golden_generative_weights import AREA, make_inputs, named_weights, no_weights
from golden_recipes import boolean, check_arguments, compare_case, integer, list_of, one_of

from models.blocks.attention import Attention, parts, reach, visible
from models.blocks.attention_stack import AttentionStack
from models.blocks.positions import distance_table

JOINED = {"joined": {"qkv": ("linear_q", "linear_k", "linear_v")}}


def optional_integer(value):
    return value is None or integer(value)


def network_options(arguments):
    """Return the constructor arguments of a transformer or conformer of a case."""
    sizes = dict.fromkeys(("in_channels", "d_model", "heads", "blocks", "d_ff"), integer)
    names = {"family": one_of("transformer", "conformer"), "role": one_of("encoder", "decoder")}
    chosen = {"positions": one_of("absolute", "relative"), "activation": one_of("relu6", "swish")}
    conformer = {"conv_kernel": integer, "macaron": boolean} if arguments["family"] == "conformer" else None
    check_arguments(arguments, {**names, **sizes, **chosen, "context": optional_integer}, conformer)
    return {name: value for name, value in arguments.items() if name not in names}


FAMILIES = dict.fromkeys(("transformer", "conformer"), (network_options, JOINED))


def attention_mask(case):
    check_arguments(case["args"], {"pairs": list_of(list_of(integer))})
    no_weights(case)
    produced = {}
    for frames, context in case["args"]["pairs"]:
        seen = visible(frames, context)
        block = reach(frames, context)
        blocks = -(-frames // block)
        computed = torch.zeros(frames, frames, dtype=torch.bool)  # by the parts of blocks, as Attention has them
        for start, end, first, last in parts(block, blocks == 1):
            for origin in range(0, frames, block):
                computed[origin + start : origin + end, max(0, origin + first) : origin + last] = True
        assert torch.equal(seen, computed)
        produced[f"visible_{frames}_{context}"] = seen.numpy().astype("uint8")
    compare_case(AREA, case, produced)


def positional_encoding(case):
    check_arguments(case["args"], {"d": integer})
    no_weights(case)
    channels = case["args"]["d"]
    x = torch.from_numpy(make_inputs(case, ("x",))["x"])
    assert x.shape[2] == channels
    produced = {"rel_table": distance_table(x.shape[1], channels).flip(0)}
    for name, positions in (("abs_output", "absolute"), ("rel_output", "relative")):
        layer = torch.nn.Module()
        layer.attention = Attention(channels, 1, positions=positions)
        produced[name], table = AttentionStack(1, channels, [layer], 0.0, 0.0, "relu6", "linear").place(x)
        assert table is None or torch.equal(table.flip(0), produced["rel_table"])
    compare_case(AREA, case, produced)


def attention(case):
    arguments = case["args"]
    sizes = dict.fromkeys(("d_model", "heads", "frames"), integer)
    chosen = {"context": optional_integer, "positions": one_of("absolute", "relative")}
    check_arguments(arguments, {**sizes, **chosen})
    named_weights(case)
    names = [f"linear_{name}.{kind}" for name in ("q", "k", "v", "out") for kind in ("weight", "bias")]
    if arguments["positions"] == "relative":
        names += ["linear_pos.weight", "linear_pos.bias", "u", "v"]
    given = {name: torch.from_numpy(a) for name, a in make_inputs(case, ("x", *names)).items()}
    x = given.pop("x")
    assert x.shape[1] == arguments["frames"]
    for kind in ("weight", "bias"):
        given[f"qkv.{kind}"] = torch.cat([given.pop(f"linear_{name}.{kind}") for name in "qkv"])
    module = Attention(**{name: value for name, value in arguments.items() if name != "frames"}).eval()
    module.load_state_dict(given)
    with torch.no_grad():
        compare_case(AREA, case, {"out": module(x)})


KINDS = {"attention_mask": attention_mask, "positional_encoding": positional_encoding, "attention": attention}
