"""Which chunks of which utterances form a batch of features, and which utterances may be used at all.
Entry points: usable, split_by_speaker, ChunkSampler, FixedSampler (what the loader's batch_sampler is).
"""

import math
from collections.abc import Iterator

import numpy as np

from audio.draws import uniform

TRAINING_SHARE = 0.95
# keys of the draws that belong to a batch lie beyond those of its items
BATCH_KEY = 2**48


def usable(labels: np.ndarray, frames: np.ndarray, longer_than: int, least_utterances: int) -> tuple[np.ndarray, list]:
    """Return the utterances that may be used, indices (kept,) int64, and a line for what was dropped, if anything was.

    Utterances of `longer_than` frames or fewer are dropped, then speakers with fewer than `least_utterances`.

    Raises:
        ValueError: nothing is left.
    """
    long = frames > longer_than
    counts = np.bincount(labels[long], minlength=int(labels.max()) + 1)
    few = (counts < least_utterances) & (np.bincount(labels, minlength=len(counts)) > 0)
    kept = np.flatnonzero(long & ~few[labels])
    if len(kept) == len(labels):
        return kept, []
    short, rest = int((~long).sum()), int((long & few[labels]).sum())
    line = (
        f"dropped: {short} of {len(labels)} utterances with at most {longer_than} frames, and {int(few.sum())} "
        f"speakers with fewer than {least_utterances} longer ones ({rest} utterances)"
    )
    if not len(kept):
        raise ValueError(f"no utterance is left to train on; {line}: give shorter chunks, or demand fewer utterances")
    return kept, [line]


def split_by_speaker(labels: np.ndarray, seed: int, share: float = TRAINING_SHARE) -> tuple[np.ndarray, np.ndarray]:
    """Return the utterances to train on and to validate on: int(share n + 0.5) random ones of each speaker, the rest.

    Raises:
        ValueError: one of both would be empty.
    """
    order = np.random.default_rng([seed, 0x5914]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    trains = place < np.repeat((share * counts + 0.5).astype(np.int64), counts)
    train, validation = np.sort(order[trains]), np.sort(order[~trains])
    if not len(train) or not len(validation):
        raise ValueError(
            f"{share:g} of the utterances of each of {len(np.unique(labels))} speakers leaves "
            f"{'none to validate on' if len(train) else 'none to train on'}: choose another share"
        )
    return train, validation


class ChunkSampler:
    """Batches of items (epoch, number, utterance, frames, place) for this rank; a pure function of (seed, epoch).

    A speaker is drawn with replacement, one of its utterances, and the place of the chunk, a number from [0, 1). The
    chunks of a batch have one length, drawn for the batch; what is shorter is not drawn, nor are speakers with nothing
    else. An epoch has ceil(iters_per_epoch * utterances / batch_size / world_size) batches.

    Args:
        labels, frames: (utterances,) speaker and length of each.
        weights: (speakers,) how often each is drawn, relatively (default: all alike).

    Raises:
        ValueError: no utterance is as long as the longest chunk.
    """

    def __init__(
        self, labels: np.ndarray, frames: np.ndarray, batch_size: int, seed: int, least_frames: int,
        most_frames: int | None = None, iters_per_epoch: float = 1.0, world_size: int = 1, rank: int = 0, weights=None,
    ):  # fmt: skip
        self.least, self.most = least_frames, most_frames or least_frames
        if not 0 < self.least <= self.most:
            raise ValueError(f"chunks of {self.least} to {self.most} frames: the least must be from 1 to the most")
        if frames.max() < self.most:
            raise ValueError(
                f"no utterance has {self.most} frames, the longest has {frames.max()}: give shorter chunks"
            )
        # the longest first, so that those a chunk fits into are the first of their speaker
        self.order = np.lexsort((-frames, labels))
        self.labels, self.frames = labels[self.order], frames[self.order]
        self.first = np.searchsorted(self.labels, np.arange(int(labels.max()) + 1))
        self.weights = np.ones(len(self.first)) if weights is None else np.asarray(weights, np.float64)
        self.batch_size, self.seed, self.world_size, self.rank = batch_size, seed, world_size, rank
        self.batches = math.ceil(iters_per_epoch * len(labels) / batch_size / world_size)
        self.fitting = {}
        self.set_epoch(1)

    def set_epoch(self, epoch: int, first_batch: int = 0):
        """Make the batches of `epoch`; iteration begins at `first_batch` (a run resumed within an epoch)."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self):
        return self.batches

    def _fitting(self, length):
        """Return how many utterances of each speaker a chunk fits into, and the cumulative share of the speakers."""
        if length not in self.fitting:
            counts = np.bincount(self.labels[self.frames >= length], minlength=len(self.first))
            shares = np.cumsum(np.where(counts > 0, self.weights, 0.0))
            self.fitting[length] = counts, shares / shares[-1]
        return self.fitting[length]

    def __iter__(self) -> Iterator[list[tuple]]:
        for batch in range(self.first_batch, self.batches):
            drawn = uniform(self.seed, self.epoch, np.array([BATCH_KEY + batch]))[0, 0]
            length = self.least + int(drawn * (self.most - self.least + 1))
            numbers = (batch * self.world_size + self.rank) * self.batch_size + np.arange(self.batch_size)
            speaker_draw, utterance_draw, place = uniform(self.seed, self.epoch, numbers, 3).T
            counts, shares = self._fitting(length)
            speakers = np.searchsorted(shares, speaker_draw, side="right")
            chosen = self.order[self.first[speakers] + (utterance_draw * counts[speakers]).astype(np.int64)]
            rows = zip(numbers.tolist(), chosen.tolist(), place.tolist())
            yield [(self.epoch, number, utterance, length, place) for number, utterance, place in rows]


class FixedSampler:
    """Batches of items like those of ChunkSampler, the same in every epoch: one chunk of each utterance that has one.

    They come in the order of the utterances, the last incomplete batch too; rank r has every world-th batch.
    """

    def __init__(
        self, frames: np.ndarray, batch_size: int, seed: int, chunk_frames: int, world_size: int = 1, rank: int = 0
    ):
        chosen = np.flatnonzero(frames >= chunk_frames)
        if not len(chosen):
            raise ValueError(f"no utterance has {chunk_frames} frames, the longest has {frames.max()}")
        place = uniform(seed, 0, chosen)[:, 0]
        items = [(0, int(row), int(row), chunk_frames, float(u)) for row, u in zip(chosen, place)]
        starts = range(0, len(items), batch_size)[rank::world_size]
        self.items = [items[start : start + batch_size] for start in starts]

    def set_epoch(self, epoch: int, first_batch: int = 0):
        """Do nothing: every epoch is the same."""

    def __len__(self):
        return len(self.items)

    def __iter__(self) -> Iterator[list[tuple]]:
        yield from self.items
