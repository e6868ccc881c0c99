"""Class-balanced batches: what each draws, its order, its share of every rank."""

import numpy as np
import pytest
import torch

from audio.class_samplers import batches_of_rank, exhaustive, once_per_class

COUNTS = (5, 3, 2, 9, 4, 1, 7, 4, 12, 3)
NAMES = np.array([40, 7, 3, 22, 9, 11, 60, 5, 1, 8])  # labels need not be 0, 1, 2, ...


def labels_of(counts=COUNTS):
    return np.random.default_rng(0).permutation(np.repeat(NAMES[: len(counts)], counts))


def seeded(epoch=0, seed=1234):
    return torch.Generator().manual_seed(seed + epoch)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n,m", [(3, 4), (4, 2), (5, 3), (10, 1), (1, 20)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_once_per_class(n, m, drop_last, shuffled):
    labels = labels_of()
    batches = once_per_class(labels, n, m, drop_last, seeded() if shuffled else None)
    assert batches.dtype == np.int64 and batches.shape == ((10 // n if drop_last else -(-10 // n)), n * m)
    groups = batches.reshape(-1, m)
    owner = labels[groups[:, 0]]
    assert (labels[groups] == owner[:, None]).all()
    assert all(len(set(row)) == n for row in owner.reshape(-1, n))
    assert len(set(owner[:10])) == min(10, len(owner))
    assert (owner[10:] == owner[: len(owner) - len(owner[:10])]).all()  # filled up from the front of the order
    for group, label in zip(groups, owner):
        assert len(set(group)) == m or (labels == label).sum() < m
    if not shuffled:
        assert (owner[:10] == np.sort(NAMES)[: len(owner)]).all()


def test_a_class_that_fills_up_gives_other_items():
    labels = np.repeat(np.arange(3), 8)
    batches = once_per_class(labels, 2, 4, generator=seeded())
    groups = batches.reshape(-1, 4)
    owner = labels[groups[:, 0]]
    assert owner[3] == owner[0] and not set(groups[3]) & set(groups[0])


def test_all_items_are_drawn_alike():
    labels = labels_of()
    drawn = np.bincount(
        np.concatenate([once_per_class(labels, 5, 3, generator=seeded(epoch)).ravel() for epoch in range(3000)]),
        minlength=len(labels),
    )
    for label, count in zip(NAMES, COUNTS):
        expected = 3000 * 3 / count
        assert np.abs(drawn[labels == label] - expected).max() < 6 * np.sqrt(expected)


def test_exhaustive_example_and_its_order():
    labels = np.repeat(np.arange(3), (5, 3, 2))
    assert exhaustive(labels, 2, 2).tolist() == [[0, 1, 5, 6], [8, 9, 2, 3], [7, 5, 4, 0]]


@pytest.mark.parametrize("n,m", [(3, 4), (2, 2), (5, 3), (1, 1)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_exhaustive(n, m, shuffled):
    labels = labels_of()
    batches = exhaustive(labels, n, m, seeded() if shuffled else None)
    groups = -(-np.array(COUNTS) // m)
    assert batches.shape == (groups.sum() // n, n * m)
    owner = labels[batches.reshape(-1, m)[:, 0]]
    assert (labels[batches.reshape(-1, m)] == owner[:, None]).all()
    assert len(set(owner[: len(COUNTS)])) == min(len(COUNTS), len(owner))  # one group of each class in the first turn
    left_out = set(range(len(labels))) - set(batches.ravel())
    assert len(left_out) <= (groups.sum() - len(owner)) * m
    most = np.bincount(batches.ravel(), minlength=len(labels))
    assert most.max() <= m and (m > 1 or most.max() == 1)


@pytest.mark.parametrize("draw", [once_per_class, exhaustive])
def test_epochs_differ_and_come_back(draw):
    labels = labels_of()
    first, other, again = (draw(labels, 3, 4, generator=seeded(epoch)) for epoch in (0, 1, 0))
    assert (first == again).all() and (first != other).any()
    state = torch.get_rng_state()
    draw(labels, 3, 4, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_the_batches(world, drop_last):
    batches = np.arange(7 * 4).reshape(7, 4)
    ranks = [batches_of_rank(batches, rank, world, drop_last) for rank in range(world)]
    each = 7 // world if drop_last else -(-7 // world)
    assert {rank.shape for rank in ranks} == {(each, 4)}
    together = np.stack(ranks, 1).reshape(-1, 4) if each else batches[:0]
    assert (together == batches[np.arange(each * world) % 7]).all()


def test_too_few_classes_or_items_are_named():
    with pytest.raises(ValueError, match="11 classes .* the list has 10"):
        once_per_class(labels_of(), 11, 2)
    with pytest.raises(ValueError, match="gives 3 groups of 2 .* a batch needs 4"):
        exhaustive(np.array([5, 5, 6, 7]), 4, 2)
    with pytest.raises(ValueError, match="has 0"):
        once_per_class(np.array([], int), 1, 1)
