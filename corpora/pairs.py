"""Trials drawn over a validation list, spread evenly over the speakers (Vaessen and van Leeuwen 2022).
Entry points: draw_pairs(corpus, count, ...), trials_text.
"""

from itertools import combinations, product

import numpy as np

from corpora.subsets import Corpus

# Draws of two speakers in a row without a new pair before giving up.
MOST_DRAWS = 100

Pair = tuple[int, int]


def draw_pairs(
    corpus: Corpus, count: int, seed: int, sexes: dict[str, str] | None = None, diff_recording: bool = False
) -> tuple[list[Pair], list[Pair]]:
    """Draw count // 2 pairs of the same speaker and the rest of different ones, none twice in either order.

    Args:
        sexes: where given, the speakers of a negative pair have the same sex.
        diff_recording: the files of a positive pair come from different recordings.

    Returns:
        positive and negative pairs of utterance indices.

    Raises:
        ValueError: there are not so many pairs, or a speaker's sex is not known.
    """
    draw = np.random.default_rng(seed)
    bounds = np.searchsorted(corpus.speaker, np.arange(len(corpus.speakers) + 1))
    files = [np.arange(a, b) for a, b in zip(bounds, bounds[1:])]
    positives = _positives(corpus, files, count // 2, diff_recording, draw)
    sex = np.zeros(len(corpus.speakers), np.int64)
    if sexes is not None:
        unknown = [name for name in corpus.speakers if name not in sexes]
        if unknown:
            raise ValueError(
                f"--speaker_meta: the sex of {len(unknown)} speakers of {corpus.name} is not in it, e.g. {unknown[0]}"
            )
        sex = np.array([sexes[name] == "m" for name in corpus.speakers]).astype(np.int64)
    if np.bincount(sex).max() < 2:
        raise ValueError(f"{corpus.name}: no two speakers of the same sex: see --same_sex")
    return positives, _negatives(corpus, files, count - count // 2, sex, draw)


def _positives(corpus, files, count, diff_recording, draw):
    """Go round the speakers, the last of the sorted names first; one without a new pair leaves the round."""
    pairs, used, cycle = [], set(), list(range(len(files)))[::-1]
    while len(pairs) < count:
        if not cycle:
            wish = " from different recordings" if diff_recording else ""
            raise ValueError(
                f"--num_pairs: {corpus.name} has {len(pairs)} pairs of one speaker{wish}, {count} are wanted"
            )
        able = []
        for speaker in cycle:
            if len(pairs) == count:
                break
            order = draw.permutation(files[speaker]).tolist()
            new = (
                pair
                for pair in combinations(order, 2)
                if (min(pair), max(pair)) not in used
                and not (diff_recording and corpus.recording[pair[0]] == corpus.recording[pair[1]])
            )
            pair = next(new, None)
            if pair is not None:
                used.add((min(pair), max(pair)))
                pairs.append(pair)
                able.append(speaker)
        cycle = able
    return pairs


def _negatives(corpus, files, count, sex, draw):
    """Draw two speakers, those with fewer appearances rather, and the first unused pair of their shuffled files."""
    pairs, used, seen, misses = [], set(), [0] * len(files), 0

    def draw_speaker():
        # weight 2n - appearances + 1 of at most 2n + 1: kept with that chance, no sum over the speakers is needed
        while True:
            speaker = int(draw.integers(len(files)))
            if draw.random() * (2 * len(pairs) + 1) < 2 * len(pairs) - seen[speaker] + 1:
                return speaker

    while len(pairs) < count:
        one = other = draw_speaker()
        while other == one:
            other = draw_speaker()
        if sex[one] != sex[other]:
            continue
        orders = draw.permutation(files[one]).tolist(), draw.permutation(files[other]).tolist()
        pair = next((pair for pair in product(*orders) if (min(pair), max(pair)) not in used), None)
        if pair is None:
            misses += 1
            if misses > MOST_DRAWS:
                raise ValueError(
                    f"--num_pairs: {corpus.name} has too few pairs of different speakers: {len(pairs)} were found, "
                    f"{count} are wanted"
                )
            continue
        misses = 0
        used.add((min(pair), max(pair)))
        pairs.append(pair)
        seen[one] += 1
        seen[other] += 1
    return pairs


def trials_text(corpus: Corpus, positives: list[Pair], negatives: list[Pair]) -> str:
    """Return the trial list: negative, positive, negative, ..., as many of the one as of the other or one more."""
    lines = []
    for number, (a, b) in enumerate(negatives):
        lines.append(f"0 {corpus.paths[a]} {corpus.paths[b]}\n")
        lines += [f"1 {corpus.paths[a]} {corpus.paths[b]}\n" for a, b in positives[number : number + 1]]
    return "".join(lines)
