"""Stored cases of the waveform networks: their parts, U-Net, WaveGrad, speaker classifier.
Entry point: KINDS, {kind: function(case)}.
"""

import torch
from golden_recipes import check_arguments, check_contract, compare_case, fill_modules, integer, list_of, number
from golden_recipes import make_inputs as made

from models.blocks import waves

AREA = "diffusion"


def make_inputs(case, required, optional=()):
    """Return {role: tensor} of a case; what is absent of `optional` is None. All are noise but numbers in lists."""
    kinds = {"t": ("list",), "labels": ("list",), "targets": ("list",)}
    roles = [{role: kinds.get(role, ("noise",)) for role in some} for some in (required, optional)]
    given = {role: torch.from_numpy(array) for role, array in made(AREA, case, *roles).items()}
    if "t" in given:
        given["t"] = given["t"].float()
    return {role: given.get(role) for role in (*required, *optional)}


def prepared(case, module):
    """Return `module` in eval mode, with the weights of the case and its names and shapes compared with the contract."""
    fill_modules(case, module=module)
    check_contract(AREA, case, module)
    return module.eval()


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
        (module.train()(*given.values()) * weights).mean().backward()
        norms = [parameter.grad.double().norm() for parameter in module.parameters()]
        produced |= {"grad_norms": torch.stack(norms), "grad_input": given[of_input].grad}
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


KINDS = {
    "time_embedding": time_embedding, "residual_block": residual_block, "attention_pooling": attention_pooling,
}  # fmt: skip
