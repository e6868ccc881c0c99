"""What the trainers of recognisers of noised waves share: from nearly clean waves to all noise, and accuracy by noise.
Entry points: add_arguments, RANGES, check, trackers, step_of, validate.

Logits are (batch, classes) or (batch, classes, positions), targets (batch,) or (batch, positions).
"""

from collections.abc import Callable

import torch
from torch.nn import functional

import WaveSets
import WaveTraining
from diffusion import objective

RANGES = {"curriculum_start": (1, None), "curriculum_steps": (0, None), "valid_share": (0, 0.5)}
# times at which the accuracy is measured: clean, and the beginning of the other three quarters
LEVELS = (0.0, 0.25, 0.5, 0.75)


def add_arguments(group):
    """Add the flags of the curriculum and of what is held out."""
    group.add_argument(
        "--curriculum_start", type=float, default=30.0,
        help="power of the uniform draw that the first times are: nearly clean waves above 1",
    )  # fmt: skip
    group.add_argument(
        "--curriculum_steps", type=int, default=0, help="optimiser steps in which it falls to 1 (0: no curriculum)"
    )
    group.add_argument(
        "--valid_share", type=float, default=0.05, help="of the utterances, held out where there is no --valid_list"
    )


def check(args, given: dict):
    """Refuse flags that lack or exclude each other.

    Args:
        given: as engine.args.parse returns it.

    Raises:
        ValueError: which, and what to do.
    """
    if given.get("curriculum_start", "config") != "config" and not args.curriculum_steps:
        raise ValueError("--curriculum_start works with --curriculum_steps")
    if args.valid_list and given.get("valid_share", "config") != "config":
        raise ValueError("--valid_share holds out utterances where there is no --valid_list: leave one out")


def trackers(device) -> dict[str, objective.TimeBuckets]:
    """Return the trackers of loss and accuracy for the State."""
    return {"": objective.TimeBuckets(device=device), "accuracy_": objective.TimeBuckets(device=device)}


def step_of(state, args, target_of: Callable) -> Callable:
    """Return the step for engine.loop.fit on the batches of a WaveSets.DrawnLoader.

    Args:
        target_of: function of samples and label that returns the targets.
    """

    def step(batch):
        samples, label, u, eps, *_ = batch
        targets = target_of(samples, label)
        t = objective.curriculum_times(u, state.step, args.curriculum_start, args.curriculum_steps)
        logits = state.parallel(objective.noised(samples[:, None], t, eps[:, None], args.schedule), t)
        losses = functional.cross_entropy(logits.float(), targets, reduction="none").view(len(t), -1).mean(1)
        hits = (logits.argmax(1) == targets).float().view(len(t), -1).mean(1)
        WaveTraining.track(state.trackers[""], t, losses)
        WaveTraining.track(state.trackers["accuracy_"], t, 100 * hits)
        return losses.mean(), {"accuracy": 100 * hits.mean()}

    return step


@torch.no_grad()
def validate(net, sets, args, device, target_of: Callable) -> dict[str, float]:
    """Return the loss and the accuracy, in %, of fixed windows at LEVELS of noise; the network must be in evaluation
    mode."""
    losses, hits, count = torch.zeros(len(LEVELS), device=device), torch.zeros(len(LEVELS), device=device), 0
    for samples, label, _, eps, _ in WaveSets.fixed_batches(sets, args, device):
        targets = target_of(samples, label)
        for number, level in enumerate(LEVELS):
            t = samples.new_full((len(samples),), level)
            logits = net(objective.noised(samples[:, None], t, eps[:, None], args.schedule), t).float()
            losses[number] += functional.cross_entropy(logits, targets, reduction="sum")
            hits[number] += (logits.argmax(1) == targets).sum()
        count += targets.numel()
    losses, hits = (losses / count).tolist(), (100 * hits / count).tolist()
    figures = {"valid_loss": sum(losses) / len(LEVELS)}
    figures |= {f"valid_accuracy_t{level:g}": share for level, share in zip(LEVELS, hits)}
    return {**figures, "choose": figures["valid_loss"]}
