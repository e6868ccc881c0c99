"""Inputs and weights of the stored cases of the generative models.
Entry points: make_inputs, fill_in_order, gradient_norms, no_weights, named_weights.
"""

from itertools import groupby

import torch
from golden.fill import values
from golden_recipes import make_inputs as made

AREA = "generative"
RECIPES = ("noise", "values", "stored", "list", "constant")
# buffers of the reference: codebooks are inputs of a case, the prior is fixed
NOT_FILLED = ("EMAKMeansVectorQuantizer", "StdNormal")


def make_inputs(case, roles, optional=()):
    """Return {role: array} of a case: all of `roles` and what is there of `optional`."""
    entries = {role: {k: v for k, v in e.items() if k != "desc"} for role, e in case["inputs"].items()}
    allowed = [dict.fromkeys(some, RECIPES) for some in (roles, optional)]
    return made(AREA, {**case, "input_map": entries}, *allowed)


def no_weights(case):
    """Fail unless the case says that it has no weights."""
    assert case["weights_from"] == {"mode": "none"}, case["weights_from"]


def named_weights(case):
    """Fail unless the case says that every weight is an input of its own."""
    assert case["weights_from"] == {"mode": "named_inputs"}, case["weights_from"]


def _own_tensors(module):
    running = {name: b for name, b in module.named_buffers(recurse=False) if name.startswith("running_")}
    return {**dict(module.named_parameters(recurse=False)), **running}


def execution_order(module, run):
    """Return [(name, tensors)] of the modules that own tensors, in the order in which their first forward call ends."""
    order, hooks = {}, []
    owners = {name: m for name, m in module.named_modules() if _own_tensors(m)}
    for name, part in owners.items():
        hooks.append(part.register_forward_hook(lambda *_, name=name: order.setdefault(name)))
    module.eval()
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    assert set(order) == set(owners), f"not run: {sorted(set(owners) - set(order))}"
    return [(name, _own_tensors(owners[name])) for name in order]


@torch.no_grad()
def fill_in_order(case, module, run, joined=None, renamed=None):
    """Give `module` the weights of a case, by the order of execution.

    Args:
        run: a function without arguments that calls the module once.
        joined: {last part of an own module's name: last parts of the names of the modules of the case that it holds
            one below another}, as qkv of linear_q, linear_k, linear_v.
        renamed: {own name of a tensor: its name in the case}, as log_variance of logvar.

    Returns:
        {name in the case: (own name, slice of its first axis or None for all of it)} of every tensor that was filled.
    """
    assert case["weights_from"] == {"mode": "execution_order"}, case["weights_from"]
    weights, joined, renamed = case["weights"], joined or {}, renamed or {}
    assert weights["mode"] == "execution_order" and weights["not_filled"] == [], weights["mode"]
    rows = [row for row in weights["list"] if row[1] not in NOT_FILLED]
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row[0])]
    own, places = execution_order(module, run), {}
    for name, tensors in own:
        parts = joined.get(name.rsplit(".", 1)[-1], [None])
        taken, groups = groups[: len(parts)], groups[len(parts) :]
        assert len(taken) == len(parts), f"{name}: the case has no weights left"
        for part, group in zip(parts, taken, strict=True):
            assert part is None or {row[3].rsplit(".", 2)[-2] for row in group} == {part}, f"{name}: {group}"
            assert {row[2] for row in group} == {renamed.get(local, local) for local in tensors}, f"{name}: {group}"
        for local, tensor in tensors.items():
            wanted, start = [r for group in taken for r in group if r[2] == renamed.get(local, local)], 0
            filled = [torch.from_numpy(values(golden, tuple(shape))) for *_, golden, shape in wanted]
            value = filled[0] if len(filled) == 1 else torch.cat(filled)
            assert value.squeeze().shape == tensor.squeeze().shape, f"{name}.{local} {tuple(tensor.shape)}: {wanted}"
            tensor.copy_(value.reshape(tensor.shape))
            for (*_, golden, _), piece in zip(wanted, filled, strict=True):
                part = None if len(filled) == 1 else slice(start, start + len(piece))
                places[golden] = (f"{name}.{local}".lstrip("."), part)
                start += len(piece)
    assert not groups, f"no module for {groups[0]}"
    return places


def gradient_norms(case, module, places):
    """Return the norms of the gradients of what fill_in_order filled, in the order that the case names."""
    own, norms = dict(module.named_parameters()), []
    for golden in case["gradient_names"]:
        name, part = places[golden]
        gradient = own[name].grad
        norms.append((gradient if part is None else gradient[part]).double().norm())
    return torch.stack(norms)
