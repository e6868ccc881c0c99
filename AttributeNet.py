"""An attribute encoder with its losses: what training calls, and the codes of many embeddings.
Entry points: AttributeNet, parse_trainfunc, loss_classes, build_losses, encode, reconstruct, check_dimension.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from engine import registry
from engine.args import nearest

TASK = "attributes"
# The loss `mse` of --trainfunc is loss/code_mse.py.
PREFIX = "code_"
ENCODE_BATCH = 8192  # embeddings encoded together: tens of megabytes


class AttributeNet(nn.Module):
    """Network (`__S__`) and losses by short name (`__L__`), whose weighted sum is what training lowers.

    Args:
        losses: {short name: module}, called as loss(input, labels, code, reconstruction, z); each sees the batch of all
            processes by itself where it has to.
        weights: {short name: factor}.
    """

    def __init__(self, network: nn.Module, losses: Mapping[str, nn.Module], weights: Mapping[str, float]):
        super().__init__()
        self.__S__ = network
        self.__L__ = nn.ModuleDict(losses)
        self.weights = dict(weights)

    def forward(self, x: torch.Tensor, labels: torch.Tensor):
        """Return the weighted sum of the losses and {short name: loss} of `x` (batch, input_dim), `labels` (batch,)."""
        reconstruction, code, z = self.__S__(x)
        parts = {name: loss(x, labels, code, reconstruction, z) for name, loss in self.__L__.items()}
        # the sum of nothing: a decoder that no loss asks for gets a gradient of zeros, for which ranks would wait
        return self.total(parts) + reconstruction[:0].sum(), parts

    def total(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of some of the losses."""
        return sum(self.weights[name] * value for name, value in parts.items())


# ---------------------------------------------------------------- losses by name


def available() -> list[str]:
    """List the losses by short name."""
    return [name.removeprefix(PREFIX) for name in registry.names("loss", TASK)]


def parse_trainfunc(words: Iterable[str]) -> dict[str, float | None]:
    """Read `mse+0.1*sparsity`, or the terms as several words, as {"mse": None, "sparsity": 0.1}.

    None stands for the loss's own weight.

    Raises:
        ValueError: a term that is no NAME or WEIGHT*NAME, a loss that does not exist or is named twice.
    """
    terms, text, names = {}, "+".join(str(word) for word in words), available()
    for term in re.split(r"(?<![\d.][eE])\+", text):  # the plus of 1e+3 parts nothing
        weight, star, name = term.rpartition("*")
        name = name.strip()
        if name not in names:
            raise ValueError(
                f"--trainfunc {text}: no loss {name!r}{nearest(name, names)}; available: {', '.join(names)}"
            )
        if name in terms:
            raise ValueError(f"--trainfunc {text}: {name} stands there twice")
        terms[name] = _weight(weight, text) if star else None
    return terms


def _weight(word, text):
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"--trainfunc {text}: {word.strip()!r} is no weight above 0; write e.g. mse+0.1*sparsity")
    return value


def loss_classes(terms: Iterable[str]) -> dict[str, type]:
    """Return {short name: class} of the losses of --trainfunc."""
    return {name: registry.load("loss", PREFIX + name, TASK) for name in terms}


def build_losses(terms: Mapping[str, float | None], options: Mapping) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """Return the modules of the losses and their weights.

    Args:
        options: what their constructors may ask for by name: flags, nClasses, internal_dim, samples_per_class.
    """
    classes = loss_classes(terms)
    weights = {
        name: getattr(classes[name], "DEFAULT_WEIGHT", 1.0) if weight is None else weight
        for name, weight in terms.items()
    }
    return {name: registry.build(cls, options) for name, cls in classes.items()}, weights


# ---------------------------------------------------------------- codes


def encode(network: nn.Module, vectors: np.ndarray, device: torch.device) -> np.ndarray:
    """Return the codes (files, attributes) uint8 of embeddings `vectors` (files, input_dim); the network is in
    evaluation mode afterwards."""
    return _in_batches(network, vectors, device, lambda x: network.encode(x).to(torch.uint8))


def reconstruct(network: nn.Module, vectors: np.ndarray, device: torch.device) -> np.ndarray:
    """Return what the decoder makes of the bits of embeddings `vectors`, (files, input_dim) float32; as encode."""
    return _in_batches(network, vectors, device, lambda x: network(x)[0].float())


@torch.inference_mode()
def _in_batches(network, vectors, device, run) -> np.ndarray:
    network.eval()
    made = None
    for start in range(0, len(vectors), ENCODE_BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(vectors[start : start + ENCODE_BATCH])).to(device)
        found = run(batch).cpu().numpy()
        made = np.empty((len(vectors), found.shape[1]), dtype=found.dtype) if made is None else made
        made[start : start + len(found)] = found
    return made


def check_dimension(network: nn.Module, vectors: np.ndarray, encoder: str, table: str):
    """Refuse embeddings of another size than the encoder's.

    Raises:
        ValueError: which, naming both files.
    """
    if vectors.shape[1] != network.input_dim:
        raise ValueError(
            f"{table}: embeddings of {vectors.shape[1]} numbers; {encoder} takes {network.input_dim}: embed with the "
            "verifier that it was trained on"
        )
