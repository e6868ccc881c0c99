"""Activations by name.
Entry point: activation(name).
"""

from torch import nn

ACTIVATIONS = {
    "relu6": nn.ReLU6, "relu": nn.ReLU, "swish": nn.SiLU, "gelu": nn.GELU, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU,
}  # fmt: skip
# these need their result alone for the gradient, not what they were given
IN_PLACE = ("relu6", "relu", "elu", "leaky_relu")


def activation(name: str) -> nn.Module:
    """Return the activation called `name`, working in place where the gradient allows it (swish: arXiv 1710.05941)."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown, choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](inplace=True) if name in IN_PLACE else ACTIVATIONS[name]()
