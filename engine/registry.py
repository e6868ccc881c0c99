"""Classes by name: MainModel of models/X.py, LossFunction, Optimizer, Scheduler, Encoder and Decoder of backbones/x.py.
Entry points: load(kind, name), load_backbone(name), build(cls, options); a new file in a folder needs no registration.
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.args import nearest

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"models": "MainModel", "loss": "LossFunction", "optimizer": "Optimizer", "scheduler": "Scheduler"}
FLAG = {"models": "--model", "loss": "--trainfunc", "optimizer": "--optimizer", "scheduler": "--scheduler"}


def names(folder: str, task: str | None = None) -> list[str]:
    """List what `folder` offers by name; with `task`, only classes whose TASK is it (speaker where not stated)."""
    found = sorted(p.stem for p in (ROOT / folder).glob("*.py") if not p.stem.startswith("_"))
    return [name for name in found if task is None or _task_of(ROOT / folder / f"{name}.py") == task]


def _task_of(path: Path) -> str:
    # Read from the text: listing must neither import every model nor break on one with a missing package.
    stated = re.search(r"^\s+TASK\s*=\s*[\"'](\w+)[\"']", path.read_text(encoding="utf-8"), re.MULTILINE)
    return stated.group(1) if stated else "speaker"


def load(folder: str, name: str, task: str | None = None):
    """Import the class called `name` from `folder`; ValueError: no such file or class, or one for another task."""
    if folder not in KINDS:
        raise ValueError(f"{folder}.{name}: no class by name; these are in {', '.join(KINDS)}")
    return _load(folder, name, FLAG[folder], (KINDS[folder],), task)[0]


def load_backbone(name: str, flag: str = "--encoder") -> tuple[type, type]:
    """Import Encoder and Decoder from backbones/`name`.py; a ValueError, as that of load, names `flag`."""
    return _load("backbones", name, flag, ("Encoder", "Decoder"))


def _load(folder, name, flag, attributes, task=None):
    available = names(folder, task)
    if not name:
        raise ValueError(f"{flag} is required, one of: {', '.join(available)}")
    if name not in available:
        if task is not None and name in names(folder):
            actual = _task_of(ROOT / folder / f"{name}.py")
            raise ValueError(f"{flag} {name} is for the task {actual}, this script takes: {', '.join(available)}")
        raise ValueError(f"{flag} {name}: not found{nearest(name, available)}; available: {', '.join(available)}")
    module = importlib.import_module(f"{folder}.{name}")
    if missing := [attribute for attribute in attributes if not hasattr(module, attribute)]:
        raise ValueError(f"{folder}/{name}.py does not define {missing[0]}")
    return tuple(getattr(module, attribute) for attribute in attributes)


def taken(cls) -> set[str] | None:
    """Return the argument names that `cls` accepts, or None where it takes **kwargs and so accepts all."""
    parameters = inspect.signature(cls).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def arguments_of(cls, options: Mapping) -> dict:
    """Return the part of `options` that `cls` accepts."""
    accepted = taken(cls)
    return dict(options) if accepted is None else {k: v for k, v in options.items() if k in accepted}


def build(cls, options: Mapping, *args):
    """Construct `cls` with the options its signature names, or with all of them where it takes **kwargs."""
    positional = inspect.signature(cls).bind_partial(*args).arguments
    return cls(*args, **{k: v for k, v in arguments_of(cls, options).items() if k not in positional})


def add_arguments(parser, classes: Iterable):
    """Let each class that has a static add_arguments(parser) add flags of its own."""
    for cls in classes:
        if hasattr(cls, "add_arguments"):
            cls.add_arguments(parser)


def check_taken(given: Mapping[str, str], class_flags: Iterable[str], classes: Mapping[str, object]) -> list[str]:
    """Refuse explicit flags that no chosen class takes; return one warning line for each that came from a config.

    Args:
        given: {flag: "flag" | "config" | "set"} as engine.args.parse returns it.
        class_flags: flags that exist for classes only (the script itself does not read them).
        classes: {name: class} of what was chosen.
    """
    accepted = [taken(cls) for cls in classes.values()]
    if any(a is None for a in accepted):
        return []
    idle = [f for f in class_flags if f in given and not any(f in a for a in accepted)]
    for flag in idle:
        if given[flag] != "config":
            raise ValueError(f"--{flag} has no effect: none of {', '.join(classes)} takes it")
    return [f"warning: {flag} of the config has no effect: none of {', '.join(classes)} takes it" for flag in idle]
