"""Chunks of log-mel features for feature autoencoders: computed on the fly from waves, or read from a cache.
Entry points: mel_chunks (training and validation data), mel_utterances (all as one), mel_loader (their batches).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from audio.bad_files import BadFiles, noted
from audio.io import AudioFile
from audio.log_mel import SHIFT_SAMPLES, frames_of, sliding_normalisation
from audio.mel_cache import MelCache
from audio.mel_sampler import TRAINING_SHARE, ChunkSampler, FixedSampler, split_by_speaker, usable
from audio.wave_sources import Recordings, find_recordings
from audio.workers import watched, worker_settings

CONTEXT_FRAMES = 150  # read on either side of a chunk, as far as the sliding mean reaches
# Before that so many more, after which 0.999^8000 = 3e-4 is left of what the filter does not know, and behind it those
# that see the mirrored end.
FORGOTTEN_FRAMES, MIRRORED_FRAMES = 50, 2
# so many recordings in a row that cannot be read are a folder that went away, not single damaged files
MOST_TRIES = 100


class MelBatch(NamedTuple):
    """A batch: x what goes in and target what is to come out (batch, bins, frames), the same without noise; mask
    (batch, frames) True for speech; label and utterance (batch,); noise (batch,) index of the kind, -1 for clean."""

    x: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    label: torch.Tensor
    utterance: torch.Tensor
    noise: torch.Tensor


class WaveChunks(Dataset):
    """Batches of pieces of recordings: chunks with what the features need on either side, by items of ChunkSampler.

    `rows` are the recordings that are used, to which the items, `labels` and `frames` (at least) refer; `listed` is
    the whole list.

    Args:
        noisy: an audio.noisy_versions.NoisyVersions, or None.
    """

    def __init__(self, recordings: Recordings, rows: np.ndarray, noisy=None):
        self.recordings, self.rows, self.noisy, self.listed = recordings, rows, noisy, recordings.list
        self.labels, self.speakers = recordings.list.labels[rows], recordings.list.speakers
        self.frames = least_frames(recordings.seconds)[rows]
        self.by_speaker = np.lexsort((-self.frames, self.labels))
        self.place = np.empty_like(self.by_speaker)
        self.place[self.by_speaker] = np.arange(len(self.by_speaker))

    def __len__(self):
        return len(self.rows)

    def piece(self, utterance: int, frames: int, u: float) -> tuple[np.ndarray, int]:
        """Read a chunk at place `u` of [0, 1) with its context: the piece (samples,), and its first frame there.

        Raises:
            ValueError: it cannot be read, or is shorter than a chunk (the message names it).
        """
        path = self.recordings.list.path(int(self.rows[utterance]))
        with AudioFile(path) as audio:
            count = frames_of(audio.samples)
            if count < frames:
                raise ValueError(f"{path}: has {count} frames, fewer than a chunk of {frames}")
            first = int(u * (count - frames + 1))
            # an even frame, so that half a frame at the end is rounded as in the whole recording
            start = max(0, first - CONTEXT_FRAMES - FORGOTTEN_FRAMES) // 2 * 2
            end = first + frames + CONTEXT_FRAMES + MIRRORED_FRAMES
            samples = audio.samples if end >= count else end * SHIFT_SAMPLES
            return audio.read(start * SHIFT_SAMPLES, samples - start * SHIFT_SAMPLES), first - start

    def __getitems__(self, items: list[tuple]) -> dict:
        """Return the batch of `items`: "wave" and, of noisy versions, "noisy" (batch, samples), "lengths" in
        samples, "first" the chunk's first frame, "frames" its length, "noise", "label", "utterance", and "bad", the
        (path, reason) pairs of recordings that gave way to the next of their speaker, or of the next speaker.

        Raises:
            ValueError: many recordings in a row cannot be read.
        """
        frames, pieces, used, bad = items[0][3], [], [], []
        fitting = self.by_speaker[self.frames[self.by_speaker] >= frames]
        for _, _, utterance, _, u in items:
            for other in self._turns(utterance, fitting):
                try:
                    pieces.append(self.piece(other, frames, u))
                    used.append(other)
                    break
                except ValueError as error:
                    bad.append((self.recordings.list.paths[int(self.rows[other])], str(error)))
            else:
                raise ValueError(f"{MOST_TRIES} recordings in a row cannot be read, e.g. {bad[-1][1]}")
        used = np.array(used, np.int64)
        batch = {"wave": _stack([wave for wave, _ in pieces]), "noise": np.full(len(items), -1)}
        if self.noisy is not None:
            versions = [self.noisy(wave, epoch, n) for (wave, _), (epoch, n, *_) in zip(pieces, items)]
            batch |= {
                "noisy": _stack([wave for wave, _ in versions]),
                "noise": np.array([kind for _, kind in versions]),
            }
        batch["lengths"] = np.array([len(wave) for wave, _ in pieces])
        batch["first"] = np.array([first for _, first in pieces])
        batch |= {"label": self.labels[used], "utterance": used}
        return {**{name: torch.as_tensor(value) for name, value in batch.items()}, "frames": frames, "bad": bad}

    def _turns(self, utterance, fitting):
        """Yield an utterance, and then those after it in the order of speakers that a chunk fits into."""
        yield utterance
        after = np.searchsorted(self.place[fitting], self.place[utterance], side="right")
        for turn in range(min(len(fitting), MOST_TRIES) - 1):
            yield int(fitting[(after + turn) % len(fitting)])


class CachedChunks(Dataset):
    """Batches of chunks of the speech frames in a cache, by items of ChunkSampler; see WaveChunks."""

    def __init__(self, cache: MelCache, rows: np.ndarray):
        self.cache, self.rows, self.noisy, self.listed = cache, rows, None, cache.as_list()
        self.labels, self.speakers, self.frames = cache.labels[rows], cache.speakers, cache.speech[rows]

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, items: list[tuple]) -> dict:
        """Return the batch of `items`: "mel" (batch, bins, frames), "label", "utterance", and an empty "bad"."""
        used = np.array([utterance for _, _, utterance, _, _ in items], np.int64)
        chunks = [self.cache.chunk(int(self.rows[row]), frames, u) for _, _, row, frames, u in items]
        label, mel = torch.from_numpy(self.labels[used]), torch.from_numpy(np.stack(chunks))
        return {"mel": mel, "label": label, "utterance": torch.from_numpy(used), "bad": []}


def least_frames(seconds: np.ndarray) -> np.ndarray:
    """Return the frames that recordings have at least, whose durations were rounded to a hundredth of a second."""
    return np.maximum(np.rint(100 * np.asarray(seconds)).astype(np.int64) - 1, 0)


def _stack(waves):
    out = np.zeros((len(waves), max(map(len, waves))), np.float32)
    for row, wave in zip(out, waves):
        row[: len(wave)] = wave
    return out


def mel_chunks(
    data: str | list[str], longer_than: int = 400, least_utterances: int = 8, seed: int = 0, prefix: str = "",
    cache: str = "", noisy=None, share: float = TRAINING_SHARE, say=print,
) -> tuple[WaveChunks | CachedChunks, WaveChunks | CachedChunks]:  # fmt: skip
    """Return the data to train and to validate on: `share` of the utterances of each speaker, and the others.

    Utterances of `longer_than` frames or fewer and speakers with fewer than `least_utterances` others are dropped; of a
    cache the frames of speech count, otherwise all frames.

    Args:
        data, prefix: see audio.wave_sources.find_recordings; not looked at where a `cache` of features is given.
        noisy: an audio.noisy_versions.NoisyVersions. say: called with lines worth reading.

    Raises:
        FileNotFoundError, ValueError: nothing to train on, or noisy versions of a cache.
    """
    whole = mel_utterances(data, longer_than, least_utterances, prefix, cache, noisy, say)
    parts = [_part(whole, rows) for rows in split_by_speaker(whole.labels, seed, share)]
    say(f"{len(parts[0])} utterances to train on, {len(parts[1])} to validate on")
    return tuple(parts)


def mel_utterances(
    data: str | list[str], longer_than: int = 400, least_utterances: int = 8, prefix: str = "", cache: str = "",
    noisy=None, say=print,
) -> WaveChunks | CachedChunks:  # fmt: skip
    """Return all utterances that mel_chunks would part, as one; see there."""
    if cache and noisy is not None:
        raise ValueError(f"{cache}: noisy versions are made of waves: train without the cache of features")
    if cache:
        found = MelCache(cache)
        labels, frames, notes = found.labels, found.speech, []
    else:
        found = find_recordings(data, prefix)
        labels, frames, notes = found.list.labels, least_frames(found.seconds), found.list.notes
    rows, dropped = usable(labels, frames, longer_than, least_utterances)
    for line in (found.describe(), *notes, *dropped, *([noisy.describe()] if noisy is not None else [])):
        say(line)
    return CachedChunks(found, rows) if cache else WaveChunks(found, rows, noisy)


def _part(whole, rows):
    """Return some of the utterances of a dataset as one."""
    if isinstance(whole, CachedChunks):
        return CachedChunks(whole.cache, whole.rows[rows])
    return WaveChunks(whole.recordings, whole.rows[rows], whole.noisy)


def chunk_features(wave, lengths, first, frames: int, front_end):
    """Return the chunks of pieces, normalised (batch, bins, frames), and which of their frames are speech.

    The sliding mean has all it needs within the piece; the threshold of speech is from the mean over the piece.

    Args:
        wave: (batch, samples) of which lengths[b] count; first: (batch,) first frame of the chunk.
    """
    mel, speech = front_end.with_speech(wave, lengths)
    mel = sliding_normalisation(mel, front_end.frames(lengths))
    place = first.unsqueeze(1) + torch.arange(frames, device=first.device)
    return mel.gather(2, place.unsqueeze(1).expand(-1, mel.shape[1], -1)), speech.gather(1, place)


class MelLoader:
    """Batches MelBatch on `device`, where the features are computed."""

    def __init__(self, loader: DataLoader, front_end, bad_files: BadFiles | None, device: torch.device):
        self.loader, self.front_end, self.bad_files, self.device = loader, front_end, bad_files, device
        self.batch_sampler = loader.batch_sampler

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        for batch in noted(watched(self.loader), self.bad_files):
            yield self._finish(batch)

    def _finish(self, batch):
        frames = batch.pop("frames", None)
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        label, utterance = batch["label"], batch["utterance"]
        if "mel" in batch:
            mel, noise = batch["mel"], torch.full_like(label, -1)
            return MelBatch(mel, mel, torch.ones_like(mel[:, 0], dtype=torch.bool), label, utterance, noise)
        place = batch["lengths"], batch["first"], frames, self.front_end
        target, mask = chunk_features(batch["wave"], *place)
        # silence is where the clean version is silent
        x = chunk_features(batch["noisy"], *place)[0] if "noisy" in batch else target
        return MelBatch(x, target, mask, label, utterance, batch["noise"])


def mel_loader(
    dataset: WaveChunks | CachedChunks, front_end, batch_size: int, chunk_frames: int = 400, most_frames: int = 0,
    seed: int = 0, workers: int = 0, world_size: int = 1, rank: int = 0, device="cpu", train: bool = True,
    iters_per_epoch: float = 1.0, weights=None, bad_files: BadFiles | None = None,
) -> MelLoader:  # fmt: skip
    """Return the loader of one rank: of random chunks for training, of one fixed chunk of each utterance otherwise.

    Args:
        front_end: an audio.log_mel.LogMel, which is moved to `device`; a cache must have been made with its options.
        chunk_frames, most_frames: length of the chunks, from the first to the second (0: always the first).
        bad_files: told of recordings that cannot be read, which others replace; None: the first is an error.

    Raises:
        ValueError: no utterance is as long as a chunk, or a cache of other features.
    """
    if isinstance(dataset, CachedChunks) and dataset.cache.options != front_end.options:
        raise ValueError(
            f"{dataset.cache.folder}: made with {dataset.cache.options}, but {front_end.options} is asked for: write "
            "the cache anew, or train with its options"
        )
    if train:
        sampler = ChunkSampler(
            dataset.labels, dataset.frames, batch_size, seed, chunk_frames, most_frames or None, iters_per_epoch,
            world_size, rank, weights,
        )  # fmt: skip
    else:
        sampler = FixedSampler(dataset.frames, batch_size, seed, chunk_frames, world_size, rank)
    device = torch.device(device)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=_as_it_is, **worker_settings(workers))
    return MelLoader(loader, front_end.to(device), bad_files, device)


def _as_it_is(batch):
    return batch
