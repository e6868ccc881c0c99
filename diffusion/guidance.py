"""Steering a diffusion network: toward what another network recognises, or further from what it says without a label.
Entry points: recogniser_guide, classifier_free, drop_labels.
"""

from collections.abc import Callable

import torch
from torch.nn import functional


def recogniser_guide(logits_of: Callable, targets: torch.Tensor, scale: float = 1.0) -> Callable:
    """Return a guide for the samplers: `scale` x the gradient in x of the summed ln p(targets | x, t).

    It serves the speaker classifier (Dhariwal and Nichol 2105.05233) and the encoder predictor, which has one choice
    per position.

    Args:
        logits_of: function of x and t (batch,) that returns logits (batch, classes) or (batch, classes, positions).
        targets: classes (batch,) or (batch, positions), int64.
    """

    def guide(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            error = functional.cross_entropy(logits_of(x, t).float(), targets, reduction="sum")
            return -scale * torch.autograd.grad(error, x)[0]

    return guide


def classifier_free(
    network: Callable,
    conditions: dict[str, torch.Tensor],
    absent: dict[str, torch.Tensor],
    weights: dict[str, float],
) -> Callable:
    """Return a prediction for the samplers, e + sum of weight x (e - e without that condition), e with all of them.

    Ho and Salimans 2207.12598, for any number of conditions. All predictions of a step are one call of the network; a
    weight of 0 asks for none.

    Args:
        network: function of x, t and the conditions by name.
        conditions: what is wanted, {name: tensor (batch, ...)}.
        absent: what the network was trained to take for "none", {name: a tensor of the same shape}.
        weights: {name: weight}; names left out have 0.

    Raises:
        ValueError: a weight is of no condition, or of one without a value for "none".
    """
    guided = [name for name, weight in weights.items() if weight]
    for name in guided:
        if name not in conditions or name not in absent:
            known = ", ".join(sorted(set(conditions) & set(absent))) or "none"
            raise ValueError(f"classifier-free guidance by {name!r}: this network can be without: {known}")
    variants = [conditions, *({**conditions, name: absent[name]} for name in guided)]
    together = {name: torch.cat([variant[name] for variant in variants]) for name in conditions}

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        copies = len(variants)
        given = x.repeat(copies, *[1] * (x.dim() - 1)), t.repeat(copies)
        full, *without = network(*given, **together).chunk(copies)
        return full + sum(weights[name] * (full - other) for name, other in zip(guided, without))

    return predict


def drop_labels(labels: torch.Tensor, u: torch.Tensor, probability: float) -> torch.Tensor:
    """Return labels + 1, and 0 for "no label" where `u`, of U(0, 1), is below `probability`."""
    return torch.where(u < probability, 0, labels + 1)
