"""Batches of N classes x M items: every class once per epoch, or every item; all follow from (labels, generator).
Entry points: once_per_class, exhaustive, batches_of_rank.
"""

import numpy as np
import torch


def once_per_class(
    labels: np.ndarray,
    classes_per_batch: int,
    samples_per_class: int,
    drop_last: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Return an epoch's batches, (batches, classes_per_batch * samples_per_class) int64, of items of `labels` (items,).

    A batch holds different classes. The last one is filled up with the classes at the front of the order, or left out
    with `drop_last`. The items of a class are drawn without replacement, with it where it has too few.

    Args:
        generator: draws the order of the classes and the items; None: sorted classes, their first items.

    Raises:
        ValueError: there are fewer classes than a batch needs.
    """
    first, count, by_class = _grouped(labels, generator)
    classes = len(count)
    if not 1 <= classes_per_batch <= classes:
        raise ValueError(
            f"a batch of {classes_per_batch} classes needs as many speakers, the list has {classes}: "
            "take fewer classes per batch"
        )
    batches = classes // classes_per_batch if drop_last else -(-classes // classes_per_batch)
    slots = np.arange(batches * classes_per_batch)
    chosen = _permutation(classes, generator)[slots % classes]
    size = count[chosen, None]
    # a class that comes a second time goes on in its own order where its first group ended
    place = (slots // classes)[:, None] * samples_per_class + np.arange(samples_per_class)
    place = place % size
    few = count[chosen] < samples_per_class
    if generator is not None and few.any():
        draw = torch.rand(int(few.sum()), samples_per_class, generator=generator, dtype=torch.float64).numpy()
        place[few] = (draw * size[few]).astype(np.int64)
    return by_class[first[chosen, None] + place].reshape(batches, -1)


def exhaustive(
    labels: np.ndarray, classes_per_batch: int, samples_per_class: int, generator: torch.Generator | None = None
) -> np.ndarray:
    """Return batches (batches, classes_per_batch * samples_per_class) int64 in which nearly every item occurs.

    Each class is filled up to groups of `samples_per_class` from its own beginning. In turns every class that has
    groups left gives one; what fills no batch at the end is cut off. Once fewer than `classes_per_batch` classes have
    groups left, a batch holds several groups of a class.

    Args:
        generator: draws the order of the classes and of the items in each; None: sorted classes, items as they come.

    Raises:
        ValueError: there are not enough items for one batch.
    """
    first, count, by_class = _grouped(labels, generator)
    order = _permutation(len(count), generator)
    groups = -(-count // samples_per_class)
    owner = np.repeat(order, groups[order])
    turn = np.arange(len(owner)) - np.repeat(np.cumsum(groups[order]) - groups[order], groups[order])
    by_turn = np.argsort(turn, kind="stable")
    owner, turn = owner[by_turn], turn[by_turn]
    batches = len(owner) // classes_per_batch
    if not batches:
        raise ValueError(
            f"the list gives {len(owner)} groups of {samples_per_class} utterances of a speaker, a batch needs "
            f"{classes_per_batch}: take fewer classes per batch"
        )
    owner, turn = (x[: batches * classes_per_batch] for x in (owner, turn))
    place = (turn[:, None] * samples_per_class + np.arange(samples_per_class)) % count[owner, None]
    return by_class[first[owner, None] + place].reshape(batches, -1)


def batches_of_rank(batches: np.ndarray, rank: int, world_size: int, drop_last: bool = False) -> np.ndarray:
    """Return the batches rank, rank + world_size, ... of `batches`, equally many on every rank.

    The ranks that would lack one begin anew at the first batches, or with `drop_last` the surplus ones are left out.
    """
    each = len(batches) // world_size if drop_last else -(-len(batches) // world_size)
    return batches[(rank + world_size * np.arange(each)) % max(1, len(batches))]


def _grouped(labels, generator):
    """Return per class, sorted, its first place in and its number of items, and the items (items,) class by class."""
    labels = np.asarray(labels)
    order = _permutation(len(labels), generator)
    by_class = order[np.argsort(labels[order], kind="stable")]
    ordered = labels[by_class]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(labels) else np.arange(0)
    return first, np.diff(np.append(first, len(labels))), by_class


def _permutation(size, generator):
    return np.arange(size) if generator is None else torch.randperm(size, generator=generator).numpy()
