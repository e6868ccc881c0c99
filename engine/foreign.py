"""Weights that others published: their names turned into ours, or fetched by a network's own pipeline.
Entry points: load_into, initialise, recognise, read_folder, read_network, write_plain.

A network knows its foreign layouts itself: from_foreign(weights) -> (constructor arguments, weights) or None, and
MISSING_OK, the beginnings of own names that such weights lack. Names here have no `__S__.` in front.
"""

from pathlib import Path

import torch

from engine import checkpoint, distributed, registry, wespeaker

# --initial_model torchaudio:NAME fetches the weights of torchaudio's own pipeline
PIPELINE = "torchaudio:"


def may_lack(network: torch.nn.Module) -> tuple[str, ...]:
    """Return the beginnings of the names, in the module of network and loss, that foreign weights may lack."""
    return tuple(f"__S__.{name}" for name in getattr(network, "MISSING_OK", ()))


def recognise(weights: dict, task: str) -> tuple[torch.nn.Module, dict] | None:
    """Return the network of the first model that knows the layout of foreign weights, and these under our names."""
    for name in registry.names("models", task):
        cls = registry.load("models", name)
        found = cls.from_foreign(_inner(weights)) if hasattr(cls, "from_foreign") else None
        if found is not None:
            kwargs, renamed = found
            return cls(**kwargs), _outer(renamed)
    return None


def read_folder(path: str | Path, task: str) -> tuple[torch.nn.Module, dict]:
    """Return the network of a folder of WeSpeaker, and its weights under our names; errors as in wespeaker.read."""
    network, weights = wespeaker.read(path, task)
    return network, _outer(weights)


def load_into(net: torch.nn.Module, path: str | Path, **options) -> list[str]:
    """Put the weights of `path`, a file of any known layout or torchaudio:NAME, into a network with its loss.

    `options` and what is returned and raised: see engine.checkpoint.load_weights.
    """
    network = net.__S__
    if str(path).startswith(PIPELINE):
        if not hasattr(network, "pretrained"):
            raise ValueError(f"--initial_model {path}: torchaudio has no weights of this network")
        name = str(path).removeprefix(PIPELINE)
        # one rank downloads, the others then find the file in torch's cache
        distributed.from_main(lambda: network.pretrained(name) and None)
        weights = _outer(network.pretrained(name))
    else:
        file = wespeaker.weights_file(path)
        weights, card = checkpoint.weights_of(checkpoint.read(file), file)
        found = network.from_foreign(_inner(weights)) if not card and hasattr(network, "from_foreign") else None
        weights = weights if found is None else _outer(found[1])
    lines = checkpoint.load_weights(net, weights, path, may_lack=may_lack(network), **options)
    if Path(path).is_dir():
        lines.append(f"{Path(path) / wespeaker.CONFIG} is not read: --model and its options say what the network is")
    return lines


def initialise(net: torch.nn.Module, args) -> list[str]:
    """Put --initial_model into a network that is to be trained, unless --reset_weights; return lines to print."""
    if getattr(args, "reset_weights", False):
        return [f"--reset_weights: {args.initial_model} is not loaded"]
    kept = {name: getattr(args, name) for name in ("keep_head", "keep_head_rows", "allow_partial")}
    return load_into(net, args.initial_model, **kept)


def read_network(path: str | Path, task: str) -> tuple[torch.nn.Module, dict]:
    """Return the network of a file by itself, ours or a plain state dict of a known layout, and its card (or {}).

    Raises:
        FileNotFoundError, ValueError: no such file, no network for `task`, or weights that do not fit.
    """
    weights, card = checkpoint.weights_of(checkpoint.read(path), path)
    if card:
        folder, _, name = card["class"].partition(".")
        try:
            network = registry.load(folder, name, task)(**card["kwargs"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be rebuilt from what it says of itself: {error}") from None
    else:
        found = recognise(weights, task)
        if found is None:
            known = ", ".join(registry.names("models", task))
            raise ValueError(f"{path} is no network for the task {task}; known here: {known}")
        network, weights = found
    checkpoint.load_weights(network, _inner(weights), path)
    return network, card


def write_plain(path: str | Path, network: torch.nn.Module):
    """Write the weights alone, under the network's own names, as a plain state dict on the CPU, atomically."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    checkpoint.write(path, weights)


def _inner(weights):
    return {name.removeprefix("__S__."): tensor for name, tensor in weights.items() if name.startswith("__S__.")}


def _outer(weights):
    return {f"__S__.{name}": tensor for name, tensor in weights.items()}
