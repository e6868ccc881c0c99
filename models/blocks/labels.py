"""Labels of a trained network: speakers added to it, or a label that stands for none; on weights, before loading.
Entry points: add_labels, add_none_label, train_labels_only.
"""

import torch
from torch import nn

# embeddings of labels in U-Net and WaveGrad, and the standard deviation at which these networks start them
TABLES = {"class_embed.weight": 1.0, "label_emb.weight": 0.0}


def _tables(weights):
    """Return {name: standard deviation of a new row} of the label embeddings among `weights`."""
    found = {name: std for name in weights for end, std in TABLES.items() if name.endswith(end)}
    if not found:
        raise ValueError("this network has no labels: train it with speakers as labels first")
    return found


def add_labels(weights: dict, count: int, generator: torch.Generator | None = None) -> tuple[dict, int]:
    """Return `weights` with `count` more labels after those there, and the number of all.

    Raises:
        ValueError: the network has no labels, or count < 1.
    """
    if count < 1:
        raise ValueError(f"{count} labels to add: at least 1")
    changed = dict(weights)
    for name, std in _tables(weights).items():
        old = weights[name]
        new = std * torch.randn(count, old.shape[1], generator=generator)
        changed[name] = torch.cat([old, new.to(old)])
    return changed, len(changed[name])


def add_none_label(weights: dict) -> tuple[dict, int]:
    """Return `weights` with a new label 0, "none", before those there, which move up by one; and the number of all.

    It starts as the mean of all labels. For fine-tuning to classifier-free guidance, Ho and Salimans, 2207.12598.

    Raises:
        ValueError: the network has no labels.
    """
    changed = dict(weights)
    for name in _tables(weights):
        changed[name] = torch.cat([weights[name].mean(0, keepdim=True), weights[name]])
    return changed, len(changed[name])


def train_labels_only(network: nn.Module) -> list[str]:
    """Freeze all parameters of `network` but its label embeddings; return the names of these.

    Raises:
        ValueError: it has none.
    """
    names = list(_tables(dict(network.named_parameters())))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    return names
