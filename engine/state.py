"""Everything that changes while training, in one dataclass, so that what is stored is what is needed to go on exactly.
Entry points: State, its training_state() and restore(), seed_everything(seed).
"""

import copy
import random
from dataclasses import dataclass, field

import numpy as np
import torch

from engine import distributed


@dataclass
class State:
    """A run in progress.

    `module` holds network and loss together and is what checkpoints store; `parallel` is the same as it is called
    (wrapped by DistributedDataParallel or compiled). Counters: `step` optimiser steps, `epoch` the current one from 1,
    `batch` batches of it already used, `samples` items seen by all ranks, `evaluated` the step of the last evaluation,
    `best_step` that of the best one, `finished` the step at which an epoch was last ended, its evaluation included.
    """

    module: torch.nn.Module
    parallel: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: object = None
    scheduler_unit: str = "epoch"
    device: torch.device = torch.device("cpu")
    autocast: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    # {rate: {name: averaged tensor}}; the weights evaluated are those of the last rate where there is one
    ema: dict[float, dict[str, torch.Tensor]] = field(default_factory=dict)
    # early averages keep less than their rate; False keeps it from the first step on, as diffusion runs are published
    ema_warm_up: bool = True
    # what a checkpoint says of itself: {"class", "kwargs", "meta"}, plain data
    card: dict = field(default_factory=dict)
    # {prefix: object}: running figures, as diffusion.objective.TimeBuckets; logged at every interval and stored
    trackers: dict = field(default_factory=dict)
    step: int = 0
    epoch: int = 1
    batch: int = 0
    samples: int = 0
    best: float | None = None
    evaluations_without_gain: int = 0
    skipped_steps: int = 0
    evaluated: int = -1
    best_step: int | None = None
    finished: int = -1

    COUNTERS = (
        *("step", "epoch", "batch", "samples", "best", "evaluations_without_gain", "skipped_steps"),
        *("evaluated", "best_step", "finished"),
    )

    def training_state(self) -> dict:
        """Return what a resumed run needs besides the weights, as plain data; every rank must call it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else plain(self.scheduler.state_dict()),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "ema": self.ema,
            "trackers": {prefix: tracker.state_dict() for prefix, tracker in self.trackers.items()},
            "counters": {name: getattr(self, name) for name in self.COUNTERS},
            "world_size": distributed.world_size(),
            "rng": distributed.gather_objects(rng_state(self.device)),
        }

    def restore(self, training: dict, seed: int):
        """Take over what training_state() returned, in a run of any number of ranks.

        Raises:
            ValueError: the checkpoint was made with another optimizer or with other parameters.
        """
        try:
            self.optimizer.load_state_dict(training["optimizer"])
        except (ValueError, KeyError) as error:
            raise ValueError(f"the optimizer of the checkpoint does not fit this run: {error}") from None
        for name in self.COUNTERS:
            setattr(self, name, training["counters"].get(name, getattr(self, name)))
        if self.scheduler is not None and training["scheduler"] is not None:
            self.scheduler.load_state_dict(training["scheduler"])
        if self.scaler is not None and training["scaler"] is not None:
            self.scaler.load_state_dict(training["scaler"])
        for rate, averaged in self.ema.items():
            # an average that the run did not have begins at its weights as they are
            for name, tensor in training["ema"].get(rate, self.module.state_dict()).items():
                averaged[name].copy_(tensor)
        for prefix, stored in training.get("trackers", {}).items():
            if prefix in self.trackers:
                self.trackers[prefix].load_state_dict(stored)
        if distributed.rank() < len(training["rng"]):
            set_rng_state(training["rng"][distributed.rank()], self.device)
        else:
            # More ranks than before: the new ones start a stream of their own.
            seed_everything(seed + 1000 * self.step + distributed.rank())

    def start_ema(self, rates):
        """Begin averages of the weights at `rates` (each the share of the old average kept per step)."""
        self.ema = {rate: copy.deepcopy(self.module.state_dict()) for rate in rates}

    @torch.no_grad()
    def update_ema(self):
        """Move every average towards the present weights and BatchNorm statistics (Polyak and Juditsky 1992)."""
        if not self.ema:
            return
        now = self.module.state_dict()
        floats = [name for name, tensor in now.items() if tensor.is_floating_point()]
        for rate, averaged in self.ema.items():
            # The early average follows the weights closely, or the random start would linger in it.
            keep = min(rate, (1 + self.step) / (10 + self.step)) if self.ema_warm_up else rate
            torch._foreach_lerp_([averaged[n] for n in floats], [now[n] for n in floats], 1 - keep)
            for name, tensor in now.items():
                if not tensor.is_floating_point():
                    averaged[name].copy_(tensor)


class averaged_weights:
    """Context in which `state.module` holds its averaged weights (the last EMA rate), where there are any."""

    def __init__(self, state: State):
        self.state = state

    def __enter__(self):
        if self.state.ema:
            self.own = copy.deepcopy(self.state.module.state_dict())
            self.state.module.load_state_dict(list(self.state.ema.values())[-1])

    def __exit__(self, *_):
        if self.state.ema:
            self.state.module.load_state_dict(self.own)


def seed_everything(seed: int):
    """Seed Python's, numpy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict:
    """Return the state of all random generators of this process as plain data."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_rng_state(stored: dict, device: torch.device):
    """Put back what rng_state() returned."""
    version, words, gauss = stored["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = stored["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(stored["torch"].cpu())
    if stored["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(stored["cuda"].cpu(), device)


def plain(value):
    """Return `value` with only what a weights-only load accepts; functions and other objects are left out."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if _is_plain(v)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value if _is_plain(v)]
    return value


def _is_plain(value):
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor, dict, list, tuple))
