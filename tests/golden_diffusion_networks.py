"""Stored cases of the waveform networks: their parts, U-Net, WaveGrad, speaker classifier.
Entry point: KINDS, {kind: function(case)}.
"""

import torch
from golden_recipes import check_arguments, check_contract, compare_case, fill_modules, integer, list_of, number
from golden_recipes import make_inputs as made

from engine import registry
from models.blocks import waves
from models.blocks.wavegrad import FILM, DBlock, UBlock

AREA = "diffusion"


def make_inputs(case, required, optional=()):
    """Return {role: tensor} of a case; what is absent of `optional` is None. All are noise but lists and draws."""
    kinds = {**dict.fromkeys(("t", "labels", "targets", "codes"), ("list",)), "u": ("uniform",), "v": ("uniform",)}
    roles = [{role: kinds.get(role, ("noise",)) for role in some} for some in (required, optional)]
    given = {role: torch.from_numpy(array) for role, array in made(AREA, case, *roles).items()}
    if "t" in given:
        given["t"] = given["t"].float()
    return {role: given.get(role) for role in (*required, *optional)}


def prepared(case, module):
    """Return `module` in eval mode with the weights of the case; its names and shapes must be those of the contract."""
    fill_modules(case, module=module)
    check_contract(AREA, case, module)
    return module.eval()


def norms(module):
    """Return the norms of the gradients of all parameters, in their order."""
    return torch.stack([parameter.grad.double().norm() for parameter in module.parameters()])


def run_module(case, module, roles, optional=(), of_input="x", cut=None):
    """Compare the output of `module`, called with the roles in their order, and its gradients where they are stored.

    Args:
        of_input: the role whose gradient is compared.
        cut: channels of the output that are stored.
    """
    given = make_inputs(case, roles, (*optional, "grad_weights"))
    weights = given.pop("grad_weights")
    with torch.no_grad():
        out = prepared(case, module)(*given.values())
    produced = {"out": out if cut is None else out[:, :cut]}
    if weights is not None:
        given[of_input] = given[of_input].requires_grad_()
        # in eval mode: only dropout would differ, which is off there
        (module(*given.values()) * weights).mean().backward()
        produced |= {"grad_norms": norms(module), "grad_input": given[of_input].grad}
    compare_case(AREA, case, produced)


def time_embedding(case):
    check_arguments(case["args"], {"channels": integer})
    run_module(case, waves.TimeEmbedding(**case["args"]), ("t",))


def residual_block(case):
    optional = {"emb_channels": integer, "out_channels": integer, "scale_factor": number, "dilation": integer}
    check_arguments(case["args"], {"channels": integer}, {**optional, "dropout": number})
    run_module(case, waves.ResBlock(**case["args"]), ("x",), ("emb",))


def attention_pooling(case):
    check_arguments(case["args"], {"channels": integer, "head_channels": integer, "out_channels": integer})
    run_module(case, waves.AttentionPool(**case["args"]), ("x",))


def film(case):
    check_arguments(case["args"], {"cond_channels": integer, "out_channels": integer}, {"num_labels": integer})
    run_module(case, FILM(**case["args"]), ("h", "z", "t"), ("labels",), of_input="h")


def wavegrad_up_block(case):
    sizes = ("in_channels", "out_channels", "cond_channels", "upsample_rate")
    check_arguments(case["args"], dict.fromkeys(sizes, integer), {"num_labels": integer})
    run_module(case, UBlock(**case["args"]), ("h", "z", "t"), ("labels",), of_input="h")


def wavegrad_down_block(case):
    sizes = ("in_channels", "out_channels", "downsample_rate")
    check_arguments(case["args"], dict.fromkeys(sizes, integer), {"extra_blocks": integer})
    run_module(case, DBlock(**case["args"]), ("h",), of_input="h")


def network(name, options):
    return registry.load("models", name)(**options)


def unet_predictor(case):
    sizes = dict.fromkeys(("num_labels", "cond_channels", "depth_mult", "out_channels"), integer)
    lists = dict.fromkeys(("channel_mult", "middle_dilations"), list_of(integer))
    check_arguments(case["args"], {"base_channels": integer}, {**sizes, **lists, "dropout": number})
    # of many output channels the first four are stored
    run_module(case, network("UNet", case["args"]), ("x", "t"), ("labels", "cond"), cut=4)


def wavegrad_predictor(case):
    check_arguments(case["args"], {"base_channels": integer}, {"cond_mult": integer, "num_labels": integer})
    run_module(case, network("WaveGrad", case["args"]), ("x", "t"), ("labels", "cond"))


def classifier(case):
    sizes = {"base_channels": integer, "output_mult": integer, "depth_mult": integer}
    check_arguments(case["args"], {"num_labels": integer}, {**sizes, "channel_mult": list_of(integer)})
    module = prepared(case, network("WaveClassifier", case["args"]))
    x, t, targets = make_inputs(case, ("x", "t", "targets")).values()
    x.requires_grad_()
    logits = module(x, t)
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (guidance,) = torch.autograd.grad(-nll.sum(), x)
    with torch.no_grad():
        features = module.features(x, t)
    compare_case(AREA, case, {"features": features, "logits": logits, "guidance": guidance, "nll": nll})


KINDS = {
    "time_embedding": time_embedding, "residual_block": residual_block, "attention_pooling": attention_pooling,
    "film": film, "wavegrad_up_block": wavegrad_up_block, "wavegrad_down_block": wavegrad_down_block,
    "unet_predictor": unet_predictor, "wavegrad_predictor": wavegrad_predictor, "classifier": classifier,
}  # fmt: skip
