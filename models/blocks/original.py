"""Weights in the layout of vq-voice-swap (A. Nichol, 2021): {"kwargs": constructor arguments, "state_dict": weights}.
Entry points: inner_weights, size, stated_dropout, payload, copy_matching.
"""

import torch

PREDICTOR = "predictor."  # what the names of a noise predictor begin with in a file of its diffusion model


def inner_weights(weights: dict, prefix: str = PREDICTOR) -> dict | None:
    """Return `weights` without `prefix`, as they are where no name has it (files of May 2021), None where only some."""
    having = [name.startswith(prefix) for name in weights]
    if any(having) and not all(having):
        return None
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def size(weights: dict, name: str, axis: int) -> int | None:
    """Return the size along `axis` of the weight called `name`, None where there is no such matrix."""
    return weights[name].shape[axis] if name in weights and weights[name].dim() > axis else None


def stated_dropout(stated: dict | None) -> float:
    """Return the dropout of constructor arguments: 0 where absent (until 31 May 2021); a tuple of one until June."""
    value = (stated or {}).get("dropout", 0.0)
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(value, (int, float)):
        raise ValueError(f"the file states the dropout {value!r}, which is no number")
    return float(value)


def payload(kwargs: dict, network: torch.nn.Module, prefix: str = "") -> dict:
    """Return what a file in the original layout holds: the constructor arguments and the weights, on the CPU."""
    weights = network.state_dict()
    return {
        "kwargs": kwargs,
        "state_dict": {prefix + name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
    }


@torch.no_grad()
def copy_matching(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> int:
    """Copy the parameters that exist in both under one name into `network`; return how many.

    Raises:
        ValueError: one of them has another shape.
    """
    own = dict(network.named_parameters())
    shared = [name for name in own if name in weights]
    for name in shared:
        if own[name].shape != weights[name].shape:
            raise ValueError(f"{name} is {tuple(weights[name].shape)} there and {tuple(own[name].shape)} here")
    for name in shared:
        own[name].copy_(weights[name])
    return len(shared)
