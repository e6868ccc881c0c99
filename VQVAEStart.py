"""What the training of a VQ-VAE begins with: another VQ-VAE or a diffusion model, its speakers, a label for none.
Entry points: read, inherit, label_speakers, take_over.
"""

from dataclasses import dataclass

import torch

import DiffusionNet
import VQVAENet
import WaveSets
import WaveTraining
from engine import checkpoint
from models.blocks import labels

# flags that a VQ-VAE's file answers where they are not given, and their names in its constructor
SIZES = {
    "base_channels": "base_channels", "encoder": "enc_name", "cond_mult": "cond_mult",
    "dictionary_size": "dictionary_size", "predictor": "pred_name", "dropout": "dropout",
}  # fmt: skip
# the same, in its meta
PROCESS = ("schedule", "encoding", "no_class_prob", "no_vq_prob")


@dataclass
class Initial:
    """A file to begin with. `stated`: {flag: value}, what it says of itself; `speakers`: names by label, if known."""

    path: str
    weights: dict[str, torch.Tensor]
    is_vqvae: bool
    labels: int | None
    none_label: bool
    speakers: list[str] | None
    stated: dict


def read(path: str) -> Initial | None:
    """Return the VQ-VAE or the diffusion model of a file of any layout, None without a path.

    Raises:
        FileNotFoundError, ValueError: no such file, or neither of the two.
    """
    if not path:
        return None
    weights, _ = checkpoint.weights_of(checkpoint.read(path), path)
    is_vqvae = any(name.endswith("vq.dictionary") for name in weights)
    if is_vqvae:
        net, card = VQVAENet.load(path)
        network, none_label, meta = net.network, net.none_label, card["meta"]
        stated = {flag: card["kwargs"][name] for flag, name in SIZES.items() if name in card["kwargs"]}
        known = [name for name in PROCESS if meta.get(name) is not None and name not in meta.get("assumed", ())]
        stated |= {name: meta[name] for name in known}
    else:
        network, card = DiffusionNet.load_network(path, DiffusionNet.TASK)
        meta = card["meta"]
        if meta["target"] != "eps":
            raise ValueError(f"{path} predicts {meta['target']}, a VQ-VAE the noise: it cannot start one")
        none_label = bool(network.num_labels) and meta["cond_dropout"] > 0
        stated = {"no_class_prob": meta["cond_dropout"]} if none_label else {}
    names = meta.get("speakers") if network.num_labels else None
    return Initial(path, network.state_dict(), is_vqvae, network.num_labels, none_label, names, stated)


def inherit(args, given: dict, initial: Initial | None):
    """Set the flags that are not given to what the file to begin with says of itself.

    Args:
        given: as engine.args.parse returns it.

    Raises:
        ValueError: --add_speakers with a file that has no speakers, or with another network than the file's.
    """
    if args.add_speakers and not (initial and initial.is_vqvae and initial.labels):
        raise ValueError(f"--add_speakers adds to a VQ-VAE with labels: {initial.path} is none")
    for flag, value in initial.stated.items() if initial else ():
        if flag not in given:
            setattr(args, flag, value)
        elif args.add_speakers and getattr(args, flag) != value and flag not in ("no_class_prob", "no_vq_prob"):
            raise ValueError(f"--{flag} {getattr(args, flag)}: {initial.path} has {value}; leave the flag out")
    if not args.class_cond:
        args.no_class_prob = 0.0


def has_none_label(args, initial: Initial | None) -> bool:
    """Tell whether label 0 of the network is to be "no speaker"."""
    return args.class_cond and (args.no_class_prob > 0 or bool(initial and initial.labels and initial.none_label))


def label_speakers(sets: WaveSets.Sets, args, initial: Initial | None):
    """Give the speakers of the data the labels that they have, or will have, in the network.

    Raises:
        ValueError: speakers to add that are there already, or speakers that are not there.
    """
    if not (args.class_cond and initial and initial.is_vqvae and initial.labels):
        return
    count = initial.labels - initial.none_label
    old, new = initial.speakers, list(sets.train.speakers)
    if args.add_speakers:
        old = old or [f"label{number}" for number in range(count)]
        again = [name for name in new if name in old]
        if again:
            raise ValueError(
                f"--add_speakers: {initial.path} has speaker {again[0]} (of {len(again)}) already: leave those out"
            )
        speakers = old + new
    elif old is None:
        return
    else:
        speakers = old
    for dataset in filter(None, (sets.train, sets.valid)):
        WaveSets.relabel(dataset, speakers, "data_dir (--add_speakers is for new ones)")


def take_over(net: VQVAENet.VQVAENet, initial: Initial, args) -> str:
    """Copy what the network has in common with the file to begin with; return a line that says so.

    Raises:
        ValueError: nothing in common, or something of another shape.
    """
    weights = initial.weights
    if initial.labels and net.none_label and not initial.none_label:
        weights, _ = labels.add_none_label(weights)
    if args.add_speakers:
        generator = torch.Generator().manual_seed(args.seed)  # the same rows on all ranks
        weights, _ = labels.add_labels(weights, net.network.num_labels - initial.labels, generator)
    return WaveTraining.start_from(net, initial.path, lambda path: weights, net.network.start_from)
