"""Which utterances form which batch: every epoch a pure function of (seed, epoch), the same on every rank.
Entry points: speaker_groups, EpochSampler (what the loader's batch_sampler is).
"""

from collections.abc import Iterator

import numpy as np
import torch


def speaker_groups(
    labels: np.ndarray,
    n_per_speaker: int,
    max_seg_per_spk: int,
    batch_size: int,
    seed: int,
    epoch: int,
    world_size: int = 1,
) -> np.ndarray:
    """Return an epoch's batches of P speakers x K utterances, (batches, batch_size * world_size, n_per_speaker) int64.

    A batch holds no speaker twice; rank r takes rows r * batch_size to (r + 1) * batch_size. A group whose speaker is
    already in the batch being filled is left out of the epoch, and so is the incomplete last batch.

    Raises:
        ValueError: no batch can be filled.
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(len(labels), generator=generator).numpy()
    by_speaker = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    kept = np.minimum(counts, max_seg_per_spk) // n_per_speaker * n_per_speaker
    first = np.cumsum(counts) - counts
    position = np.arange(len(labels)) - np.repeat(first, counts)
    groups = by_speaker[position < np.repeat(kept, counts)].reshape(-1, n_per_speaker)
    speakers = labels[groups[:, 0]] if len(groups) else np.empty(0, np.int64)
    size = batch_size * world_size
    usable = len(np.unique(speakers))
    if usable < size:
        raise ValueError(
            f"a batch needs {size} different speakers (--batch_size {batch_size} x {world_size} processes), but only "
            f"{usable} speakers have at least {n_per_speaker} utterances: give a smaller --batch_size"
        )
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    chosen, batch, present = [], [], set()
    for index, speaker in zip(shuffled, speakers[shuffled].tolist()):
        if speaker in present:
            continue
        present.add(speaker)
        batch.append(index)
        if len(batch) == size:
            chosen.extend(batch)
            batch, present = [], set()
    if not chosen:
        raise ValueError(f"the epoch's draw filled no batch of {size} speakers: give a smaller --batch_size")
    return groups[np.array(chosen)].reshape(-1, size, n_per_speaker)


def blocked_order(shard: np.ndarray, shards_per_block: int, generator: torch.Generator) -> np.ndarray:
    """Return a random order, (utterances,) int64, that stays within a few shards at a time.

    The shards are permuted, and then the utterances of each block of so many shards that follow each other.
    """
    place = np.empty(int(shard.max()) + 1, np.int64)
    place[torch.randperm(len(place), generator=generator).numpy()] = np.arange(len(place))
    order = torch.randperm(len(shard), generator=generator).numpy()
    return order[np.argsort((place[shard] // shards_per_block)[order], kind="stable")]


def shuffled_batches(
    utterances: int, batch_size: int, seed: int, epoch: int, world_size: int = 1, shard=None, shards_per_block: int = 0
) -> np.ndarray:
    """Return the whole batches of one epoch in random order, (batches, batch_size * world_size, 1) int64.

    With the number of the shard of every utterance, the order is that of blocks of `shards_per_block` shards (0: any).
    """
    size = batch_size * world_size
    if utterances < size:
        raise ValueError(
            f"the list has {utterances} utterances, fewer than one batch of {size}: give a smaller --batch_size"
        )
    generator = torch.Generator().manual_seed(seed + epoch)
    if shard is not None and shards_per_block:
        order = blocked_order(shard, shards_per_block, generator)
    else:
        order = torch.randperm(utterances, generator=generator).numpy()
    return order[: utterances // size * size].reshape(-1, size, 1)


class EpochSampler:
    """Batches of items (epoch, utterance indices, index of the speed factor) for this rank.

    Args:
        labels: (utterances,) int64.
        speeds: number of speed factors, the first being 1; each utterance draws one per epoch, all equally likely.
        speed_classes: a speaker at another speed counts as another speaker.
        kind: "speakers" or "shuffle"; keep_last keeps the incomplete last batch of a shuffled epoch (one process only).
        shard, shards_per_block: see shuffled_batches.
    """

    def __init__(self, labels, kind, batch_size, n_per_speaker, max_seg_per_spk, seed, world_size, rank, speeds=1,
                 speed_classes=True, keep_last=False, shard=None, shards_per_block=0):  # fmt: skip
        self.labels, self.kind, self.batch_size, self.seed = labels, kind, batch_size, seed
        self.n_per_speaker, self.max_seg_per_spk = n_per_speaker, max_seg_per_spk
        self.world_size, self.rank, self.speeds, self.speed_classes = world_size, rank, speeds, speed_classes
        self.keep_last, self.shard, self.shards_per_block, self.epoch = keep_last, shard, shards_per_block, None
        if kind == "shuffle" and n_per_speaker != 1:
            raise ValueError(
                f"--sampler shuffle draws single utterances: --nPerSpeaker {n_per_speaker} needs --sampler speakers"
            )
        if keep_last and (world_size > 1 or kind != "shuffle"):
            raise ValueError("--keep_last works with --sampler shuffle in one process only")
        self.set_epoch(1)

    def set_epoch(self, epoch: int, first_batch: int = 0):
        """Make the batches of `epoch`; iteration begins at `first_batch` (a run resumed within an epoch)."""
        self.first_batch = first_batch
        if epoch == self.epoch:
            return
        self.epoch = epoch
        draw = np.random.default_rng([self.seed, epoch, 0x5EED])
        self.speed_of = draw.integers(0, self.speeds, len(self.labels))
        size = (self.batch_size, self.seed, epoch, self.world_size)
        if self.kind == "shuffle":
            batches = shuffled_batches(len(self.labels), *size, self.shard, self.shards_per_block)
            own = list(batches[:, self.rank * self.batch_size : (self.rank + 1) * self.batch_size])
            rest = len(self.labels) - batches.shape[0] * self.batch_size
            if self.keep_last and rest:
                unused = np.setdiff1d(np.arange(len(self.labels)), batches.reshape(-1), assume_unique=True)
                own.append(unused[:, None])
            self.batches = own
            return
        classes = self.labels
        if self.speed_classes:
            classes = self.labels + self.speed_of * (int(self.labels.max()) + 1)
        batches = speaker_groups(classes, self.n_per_speaker, self.max_seg_per_spk, *size)
        self.batches = list(batches[:, self.rank * self.batch_size : (self.rank + 1) * self.batch_size])

    def __len__(self):
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple]]:
        for batch in self.batches[self.first_batch :]:
            yield [(self.epoch, group, self.speed_of[group]) for group in batch]
