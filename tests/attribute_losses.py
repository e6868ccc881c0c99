"""Losses of attribute codes in tests: made by name with small sizes, their inputs, a step of one of several processes.
Entry points: NAMES, make, forward, speakers, Coder, step.
"""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.registry import build, load, names
from models.blocks.straight_through import binarise

NAMES = names("loss", "attributes")
SIZES = {"internal_dim": 24, "nClasses": 8, "samples_per_class": 6}


def make(name, seed=0, **options):
    torch.manual_seed(seed)
    return build(load("loss", name, "attributes"), {**SIZES, **options})


def speakers(classes=8, each=6, dim=12, spread=0.5, seed=1):
    """Return embeddings (classes * each, dim) of speakers that lie apart, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, dim, generator=draw)
    return centres[labels] + spread * torch.randn(len(labels), dim, generator=draw), labels


class Coder(nn.Module):
    """The encoder without its normalisation, whose statistics differ between processes, and a loss."""

    def __init__(self, name, dim=12, **options):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(dim, SIZES["internal_dim"]), nn.Linear(SIZES["internal_dim"], dim)
        self.loss = make(name, **options)

    def forward(self, x, labels):
        z = self.encoder(x).tanh()
        code = binarise(z)
        reconstruction = self.decoder(code)
        # the sum of nothing: processes wait for the gradient of every parameter
        return self.loss(x, labels, code, reconstruction, z) + reconstruction[:0].sum()


def step(name, options, rank, world):
    """Return (loss, 0, gradients) of this process for its share of a batch; a speaker's utterances are on all."""
    x, labels = speakers()
    coder = Coder(name, **options)
    model = DistributedDataParallel(coder) if world > 1 else coder
    value = model(x[rank::world], labels[rank::world])
    value.backward()
    return value.detach(), 0, {n: p.grad for n, p in coder.named_parameters()}
