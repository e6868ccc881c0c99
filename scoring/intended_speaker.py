"""Whether generated speech sounds like the speaker it was made for, as a verification network hears it.
Entry points: sample_trials, real_trials, which return trials for scoring.metrics and scoring.intervals; speaker_models,
row_cosines.
"""

from typing import NamedTuple

import numpy as np


class SpeakerTrials(NamedTuple):
    """`scores` (trials,) cosines; `labels` (trials,) int8, 1 for a speaker's own; `sides` (trials, 2) its speakers."""

    scores: np.ndarray
    labels: np.ndarray
    sides: np.ndarray


def _unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


def _sums(real, speakers, count):
    sums = np.zeros((count, real.shape[1]))
    np.add.at(sums, speakers, real)
    return sums


def _trials(cosines, own):
    """Return all pairs of rows, whose speakers are `own`, and columns, the speakers 0, 1, ..."""
    labels = own[:, None] == np.arange(cosines.shape[1])
    sides = np.stack(np.broadcast_arrays(own[:, None], np.arange(cosines.shape[1])), -1)
    kept = np.isfinite(cosines)
    return SpeakerTrials(cosines[kept], labels[kept].astype(np.int8), sides[kept])


def speaker_models(real, speakers) -> np.ndarray:
    """Return the mean (speakers, dim) of each speaker's utterances, of unit length like these; as in sample_trials."""
    speakers = np.asarray(speakers)
    return _unit(_sums(_unit(real), speakers, speakers.max() + 1))


def row_cosines(a, b) -> np.ndarray:
    """Return the cosine (n,) of each row of `a` (n, dim) to that of `b`."""
    return (_unit(a) * _unit(b)).sum(-1)


def sample_trials(samples, intended, real, speakers) -> SpeakerTrials:
    """Return the trials of each generated sample against each speaker, the mean of that one's real utterances.

    Args:
        samples: embeddings (samples, dim); intended: (samples,) the speaker of each.
        real: embeddings (utterances, dim), brought to unit length here; speakers: (utterances,) 0, 1, ... of each, all
            of which occur.
    """
    return _trials(_unit(samples) @ speaker_models(real, speakers).T, np.asarray(intended))


def real_trials(real, speakers) -> SpeakerTrials:
    """Return the same trials of each real utterance, left out of its own speaker's mean: what can be hoped for.

    An utterance that is the only one of its speaker has no target trial.
    """
    speakers = np.asarray(speakers)
    real = _unit(real)
    sums = _sums(real, speakers, speakers.max() + 1)
    cosines = real @ _unit(sums).T
    others = sums[speakers] - real
    alone = np.bincount(speakers)[speakers] == 1
    own = np.einsum("ij,ij->i", real, _unit(others))
    cosines[np.arange(len(real)), speakers] = np.where(alone, np.nan, own)
    return _trials(cosines, speakers)
