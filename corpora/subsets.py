"""A validation part split off a train list, and subsets of few speakers, few sessions or many sessions of it.
Entry points: read_corpus, split, choose, check_disjoint, list_text; few_speakers and others are the rules themselves.

The rules are those of Vaessen and van Leeuwen, "Training speaker recognition systems with limited data" (Interspeech
2022, arXiv 2203.14688). Each looks at sorted utterances: neither the order of the list nor that of a folder changes
what is drawn.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio.lists import read_train_list
from audio.names import Names

# A recording for validation is the smallest of so many drawn.
CANDIDATES = 3
# name: parameters of its rule, few_speakers or many_speakers; each has about 50,000 utterances of VoxCeleb2.
PRESETS = {
    "tiny_few": {"speakers_per_sex": 50},
    "tiny_many_low": {"files_per_speaker": 8, "files_per_recording": 8},
    "tiny_many_high": {"files_per_speaker": 8, "files_per_recording": 1},
}


class Corpus(NamedTuple):
    """Utterances sorted by speaker and path. `speaker` and `recording` (utterances,) int64 are ranks, a recording's
    among all recordings; `speakers` and `recordings` their names, `paths` those of the files."""

    name: str
    paths: list[str]
    speaker: np.ndarray
    recording: np.ndarray
    speakers: list[str]
    recordings: list[tuple[str, str]]


def read_corpus(path: str | Path) -> Corpus:
    """Read a list of `speaker path` lines; the folder a file lies in is its recording.

    Raises:
        FileNotFoundError, ValueError: missing, malformed, or an utterance is listed twice.
    """
    train = read_train_list(path)
    place, distinct = train.paths.ranks()
    if len(distinct) < len(place):
        twice = distinct[int(np.argmax(np.bincount(place) > 1))]
        raise ValueError(f"{path}: {twice} is listed more than once")
    order = np.lexsort((place, train.labels))
    speaker = train.labels[order]
    folder, folders = folders_of(train.paths).ranks()
    keys, recording = np.unique(speaker * len(folders) + folder[order], return_inverse=True)
    recordings = [(train.speakers[key // len(folders)], folders[key % len(folders)]) for key in keys.tolist()]
    paths = [distinct[i] for i in place[order].tolist()]
    return Corpus(str(path), paths, speaker, recording.reshape(-1), train.speakers, recordings)


def folders_of(names: Names) -> Names:
    """Return each path up to its last slash, an empty text where it has none."""
    slashes = np.append(np.flatnonzero(names.buffer == ord("/")), -1)  # the last one stands for "none before"
    last = slashes[np.searchsorted(slashes[:-1], names.ends) - 1]
    return Names(names.buffer, names.starts, np.maximum(last, names.starts))


def list_text(corpus: Corpus, chosen: np.ndarray) -> str:
    """Return the train list of the chosen utterances (a mask or indices), in sorted order."""
    indices = np.arange(len(corpus.paths))[chosen]
    return "".join(f"{corpus.speakers[corpus.speaker[i]]} {corpus.paths[i]}\n" for i in indices.tolist())


def describe(corpus: Corpus, chosen: np.ndarray) -> str:
    """Return the numbers of utterances, speakers and recordings of the chosen (a mask or indices), in words."""
    speakers, recordings = np.unique(corpus.speaker[chosen]), np.unique(corpus.recording[chosen])
    return f"{len(corpus.speaker[chosen])} utterances of {len(speakers)} speakers in {len(recordings)} recordings"


# ---------------------------------------------------------------- validation


def split_equal(corpus: Corpus, ratio: float, seed: int) -> np.ndarray:
    """Return a mask (utterances,) of validation: of every speaker whole recordings with just over `ratio` of the files.

    Of three recordings drawn the one with the fewest files goes, until the share is reached or one recording is left.

    Raises:
        ValueError: a speaker has a single recording.
    """
    draw = np.random.default_rng(seed)
    sizes = np.bincount(corpus.recording)
    owner = np.empty(len(sizes), np.int64)
    owner[corpus.recording] = corpus.speaker
    first = np.searchsorted(owner, np.arange(len(corpus.speakers) + 1))
    moved = np.zeros(len(sizes), bool)
    for speaker, name in enumerate(corpus.speakers):
        left = list(range(first[speaker], first[speaker + 1]))
        if len(left) == 1:
            raise ValueError(
                f"{corpus.name}: speaker {name} has a single recording ({corpus.recordings[left[0]][1]}): nothing can "
                "be split off; leave the speaker out, or use --split_mode different"
            )
        total, gone = int(sizes[left].sum()), 0
        while gone / total <= ratio and len(left) > 1:
            drawn = draw.permutation(len(left))[:CANDIDATES].tolist()
            smallest = min((left[i] for i in drawn), key=lambda recording: (sizes[recording], recording))
            left.remove(smallest)
            moved[smallest] = True
            gone += int(sizes[smallest])
    return moved[corpus.recording]


def split_last(corpus: Corpus, speakers: int) -> np.ndarray:
    """Return a mask (utterances,) of validation: all files of the last speakers of the sorted names.

    Raises:
        ValueError: nobody would be left to train on.
    """
    if not 0 < speakers < len(corpus.speakers):
        raise ValueError(
            f"--split_speakers {speakers}: {corpus.name} has {len(corpus.speakers)} speakers, and some must train"
        )
    return corpus.speaker >= len(corpus.speakers) - speakers


# ---------------------------------------------------------------- subsets


def few_speakers(corpus: Corpus, sexes: dict[str, str], speakers_per_sex: int) -> np.ndarray:
    """Return a mask (utterances,) of all files of the speakers with most files, so many of each sex.

    Equally many files: the smaller identifier goes first.

    Raises:
        ValueError: a speaker's sex is not known, or a sex has too few speakers.
    """
    unknown = [name for name in corpus.speakers if name not in sexes]
    if unknown:
        raise ValueError(f"--speaker_meta: the sex of {len(unknown)} speakers of {corpus.name} is not in it, e.g. "
                         f"{unknown[0]}")  # fmt: skip
    by_size = np.argsort(-np.bincount(corpus.speaker), kind="stable")
    of = np.array([sexes[name] for name in corpus.speakers])
    chosen = np.zeros(len(corpus.speakers), bool)
    for sex in ("f", "m"):
        own = by_size[of[by_size] == sex]
        if len(own) < speakers_per_sex:
            raise ValueError(f"--speakers_per_sex {speakers_per_sex}: {corpus.name} has {len(own)} of sex {sex}")
        chosen[own[:speakers_per_sex]] = True
    return chosen[corpus.speaker]


def many_speakers(corpus: Corpus, files_per_speaker: int, files_per_recording: int, seed: int) -> np.ndarray:
    """Return a mask (utterances,) of so many files of every speaker, taken by turns from the recordings.

    The recordings stand by their number of files, the largest first; each gives up to `files_per_recording` random
    files a turn, until the speaker's are enough.

    Raises:
        ValueError: a speaker has fewer files.
    """
    counts = np.bincount(corpus.speaker)
    short = np.flatnonzero(counts < files_per_speaker)
    if len(short):
        raise ValueError(
            f"--files_per_speaker {files_per_speaker}: {len(short)} speakers of {corpus.name} have fewer files, e.g. "
            f"{corpus.speakers[short[0]]} with {counts[short[0]]}"
        )
    count = len(corpus.paths)
    size = np.bincount(corpus.recording)
    # the place of a file in a random order of its recording tells in which turn it is offered
    shuffled = np.lexsort((np.random.default_rng(seed).permutation(count), corpus.recording))
    place = np.empty(count, np.int64)
    place[shuffled] = np.arange(count) - np.repeat(np.cumsum(size) - size, size)
    turn = place // files_per_recording
    offered = np.lexsort((place, corpus.recording, -size[corpus.recording], turn, corpus.speaker))
    rank = np.arange(count) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(count, bool)
    mask[offered[rank < files_per_speaker]] = True
    return mask


def of_speakers(corpus: Corpus, names: set[str]) -> np.ndarray:
    """Return a mask (utterances,) of the files of these speakers."""
    return np.array([name in names for name in corpus.speakers])[corpus.speaker]


# ---------------------------------------------------------------- what the flags choose


def split(corpus: Corpus, args) -> np.ndarray:
    """Return the mask (utterances,) of validation that the flags ask for."""
    if args.split_mode == "different":
        return split_last(corpus, args.split_speakers)
    return split_equal(corpus, args.split_ratio, args.seed)


def check_names(names: list[str]):
    """Raise ValueError where one is no subset of PRESETS."""
    for name in names:
        if name not in PRESETS:
            raise ValueError(f"--subset {name!r}: there are {', '.join(PRESETS)}")


def choose(name: str, corpus: Corpus, sexes: dict[str, str] | None, args) -> np.ndarray:
    """Return the mask (utterances,) of the subset `name`, with the numbers of PRESETS or of the flags.

    Raises:
        ValueError: few_speakers without sexes; what the rules raise.
    """
    numbers = PRESETS[name]
    for flag in ("speakers_per_sex", "files_per_speaker", "files_per_recording"):
        value = getattr(args, flag)
        if value is not None and flag in numbers:
            numbers = {**numbers, flag: value}
    if "speakers_per_sex" not in numbers:
        return many_speakers(corpus, numbers["files_per_speaker"], numbers["files_per_recording"], args.seed)
    if sexes is None:
        raise ValueError(f"--subset {name}: give the sexes of the speakers, --speaker_meta CSV")
    return few_speakers(corpus, sexes, numbers["speakers_per_sex"])


# ---------------------------------------------------------------- checks


class Contents(NamedTuple):
    """What a list names, for check_disjoint."""

    name: str
    utterances: set[str]
    recordings: set[str]
    speakers: set[str]


def check_disjoint(lists: list[Contents], speakers: bool = False) -> list[str]:
    """Check that no two lists share an utterance or a recording, or with `speakers` a speaker; return a line per pair.

    Raises:
        ValueError: two do; the message names both, how many and one of them.
    """
    lines = []
    for number, one in enumerate(lists):
        for other in lists[number + 1 :]:
            for kind in ("utterances", "recordings", *(["speakers"] if speakers else [])):
                shared = getattr(one, kind) & getattr(other, kind)
                if shared:
                    raise ValueError(
                        f"{one.name} and {other.name} have {len(shared)} {kind} in common, e.g. {min(shared)}"
                    )
            common = len(one.speakers & other.speakers)
            lines.append(f"{one.name} and {other.name}: no common utterance or recording, {common} common speakers")
    return lines
