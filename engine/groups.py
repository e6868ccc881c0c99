"""Parts of a network by the beginning of their parameters' names: learning rates of their own, frozen for some steps.
Entry points: parameter_groups, freezer_of, add_arguments; parse_parts and find_parts serve both flags.
"""

from collections.abc import Mapping

import torch

from engine.args import nearest


def add_arguments(group):
    """Add --lr_groups and --freeze."""
    group.add_argument(
        "--lr_groups",
        default="",
        metavar="PART=FACTOR,...",
        help="factors on the learning rate of parts of the network, by the beginning of their names; `loss` is the "
        "loss, e.g. wav2vec2=0.1,loss=10",
    )
    group.add_argument(
        "--freeze",
        default="",
        metavar="PART[=STEPS],...",
        help="parts that do not learn for so many optimiser steps (no number: never), e.g. blocks.0,layer1=2000",
    )


def parse_parts(text: str, flag: str) -> dict[str, float | None]:
    """Read "part=number,part,..." as {part: number or None}.

    Raises:
        ValueError: a part twice, or a number that is none or negative.
    """
    parts = {}
    for item in filter(None, (word.strip() for word in text.split(","))):
        name, equals, number = item.partition("=")
        try:
            value = float(number) if equals else None
        except ValueError:
            value = -1.0
        if name in parts or (value is not None and not 0 <= value < float("inf")):
            raise ValueError(f"{flag} {text}: {item!r} is no PART=NUMBER, or a part is named twice")
        parts[name] = value
    return parts


def full_name(part: str) -> str:
    """Return the beginning of a part's names in the module of network and loss: `loss` is the loss."""
    if part == "loss" or part.startswith("loss."):
        return "__L__" + part.removeprefix("loss")
    return part if part.startswith(("__S__", "__L__")) else f"__S__.{part}"


def belongs(name: str, start: str) -> bool:
    """Tell whether a parameter's name begins with `start`, at a point."""
    return name == start or name.startswith(start + ".")


def find_parts(module: torch.nn.Module, parts: Mapping, flag: str) -> dict[str, float | None]:
    """Return {full name of the part: value}.

    Raises:
        ValueError: no parameter of the module belongs to a part.
    """
    names = [name for name, _ in module.named_parameters()]
    found = {}
    for part, value in parts.items():
        start = full_name(part) if hasattr(module, "__S__") else part
        if not any(belongs(name, start) for name in names):
            known = {".".join(n.removeprefix("__S__.").split(".")[:depth]) for n in names for depth in (1, 2)}
            raise ValueError(f"{flag}: no parameter is called {part}...{nearest(part, sorted(known))}")
        found[start] = value
    return found


def parameter_groups(module: torch.nn.Module, text: str, lr: float) -> list:
    """Return the parameters for an optimizer: a list of them, or with `text` (--lr_groups) groups of their own rates.

    A parameter of several parts takes the factor of the longest name. The order of the parameters stays.
    """
    factors = find_parts(module, parse_parts(text, "--lr_groups"), "--lr_groups")
    if not factors:
        return list(module.parameters())
    if None in factors.values():
        raise ValueError(f"--lr_groups {text}: every part needs a factor, PART=FACTOR")
    groups = {}
    for name, parameter in module.named_parameters():
        starts = [start for start in factors if belongs(name, start)]
        factor = factors[max(starts, key=len)] if starts else 1.0
        groups.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "lr": lr * factor} for factor, parameters in groups.items()]


class Freezer:
    """Parts of a module that do not learn: no gradient, and evaluation mode (no dropout, no masking, fixed statistics).

    What is frozen follows from the optimiser step alone, so that nothing has to be stored.
    """

    def __init__(self, module: torch.nn.Module, parts: Mapping[str, float | None]):
        self.module, self.parts, self.frozen = module, dict(parts), frozenset()

    def set_step(self, step: int) -> bool:
        """Freeze what is frozen at `step`; return whether that is something else than before."""
        frozen = frozenset(part for part, steps in self.parts.items() if steps is None or step < steps)
        changed = frozen != self.frozen
        if changed:
            self.frozen = frozen
            for name, parameter in self.module.named_parameters():
                parameter.requires_grad_(not any(belongs(name, part) for part in frozen))
        modules = dict(self.module.named_modules())
        if self.module.training and (changed or any(modules[part].training for part in frozen & modules.keys())):
            self.module.train()
            for part in frozen & modules.keys():
                modules[part].eval()
        return changed

    def describe(self) -> str:
        """Return one line: which parts do not learn, for how long."""
        words = [
            f"{part.removeprefix('__S__.')} {'always' if steps is None else f'for {steps:g} steps'}"
            for part, steps in self.parts.items()
        ]
        return f"frozen: {', '.join(words)}"


def freezer_of(module: torch.nn.Module, text: str) -> Freezer:
    """Return the Freezer of a network with its loss: what the network says itself by freezing(), and --freeze."""
    network = getattr(module, "__S__", module)
    own = network.freezing() if hasattr(network, "freezing") else {}
    return Freezer(module, find_parts(module, {**own, **parse_parts(text, "--freeze")}, "--freeze"))
