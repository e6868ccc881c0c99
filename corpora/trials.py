"""Train and trial lists of any tree speaker/session/file: who is held out, which pairs are tried.
Entry points: find_utterances, split_speakers, draw_trials, and make_lists, which writes the files.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

SUFFIXES = (".wav", ".flac", ".ogg")
# Impostor pairs are drawn until enough are distinct, at most so many draws for each one wanted.
DRAWS_PER_PAIR = 20


class Utterance(NamedTuple):
    """A file by its path below the corpus folder; `session` is empty in a tree without sessions."""

    speaker: str
    session: str
    path: str


class Split(NamedTuple):
    """Utterances by use; no speaker has two."""

    train: list[Utterance]
    dev: list[Utterance]
    test: list[Utterance]


def find_utterances(folder: str | Path) -> list[Utterance]:
    """Return the WAV, FLAC and OGG files of speaker/session/file or speaker/file, sorted; hidden ones are passed over.

    Raises:
        FileNotFoundError: no such folder, or no audio in it.
        ValueError: a file lies outside speaker folders, or its path cannot stand in a list.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            path = (Path(parent) / name).relative_to(folder).as_posix()
            *folders_above, _ = path.split("/")
            if not folders_above:
                raise ValueError(f"{folder}/{path}: lies in no speaker's folder; expected speaker/session/file")
            if path.split() != [path] or not path.isprintable():
                raise ValueError(
                    f"{str(folder)!r}: {path!r} has white space, which separates the fields of a list: rename it"
                )
            found.append(Utterance(folders_above[0], "/".join(folders_above[1:]), path))
    if not found:
        raise FileNotFoundError(f"{folder}: holds no {', '.join(SUFFIXES)} file")
    return sorted(found)


def by_speaker(utterances: list[Utterance]) -> dict[str, list[Utterance]]:
    """Return {speaker: utterances}, in the order given."""
    groups = defaultdict(list)
    for utterance in utterances:
        groups[utterance.speaker].append(utterance)
    return dict(groups)


def split_speakers(
    utterances: list[Utterance], test_speakers: int | None, dev_speakers: int | None, seed: int
) -> Split:
    """Hold out speakers at random for the test and for the dev list; the others train.

    Only speakers with two utterances or more are held out. None: a tenth of all speakers, at least 2; 0: no such list.

    Raises:
        ValueError: too few speakers for that, or a list of one speaker.
    """
    groups = by_speaker(utterances)
    default = max(2, len(groups) // 10)
    test = default if test_speakers is None else test_speakers
    dev = default if dev_speakers is None else dev_speakers
    for flag, count in (("--test_speakers", test), ("--dev_speakers", dev)):
        if count == 1 or count < 0:
            raise ValueError(f"{flag} {count}: trials of different speakers need at least 2 (0: no such list)")
    able = [speaker for speaker, own in groups.items() if len(own) > 1]
    if len(able) < test + dev or len(groups) < test + dev + 2:
        raise ValueError(
            f"{len(groups)} speakers, {len(able)} of them with two utterances or more, do not suffice for "
            f"{test} test and {dev} dev speakers and two to train on: see --test_speakers and --dev_speakers"
        )
    drawn = [able[i] for i in np.random.default_rng(seed).permutation(len(able))]
    use = dict.fromkeys(drawn[:test], "test") | dict.fromkeys(drawn[test : test + dev], "dev")
    parts = {"train": [], "dev": [], "test": []}
    for utterance in utterances:
        parts[use.get(utterance.speaker, "train")].append(utterance)
    return Split(**parts)


def draw_trials(
    utterances: list[Utterance], per_speaker: int, cross_session: bool, seed: int
) -> list[tuple[int, str, str]]:
    """Draw trials (label, path, path), targets and impostors by turns: as many of the one as of the other.

    Each speaker opens at most `per_speaker` trials. No pair occurs twice, in either order.

    Args:
        cross_session: target pairs come from different sessions, for all speakers that have two or more.
    """
    draw = np.random.default_rng(seed)
    groups = by_speaker(utterances)
    trials = []
    used = set()
    for speaker, own in groups.items():
        others = [u for u in utterances if u.speaker != speaker]
        targets = _targets(own, per_speaker // 2, cross_session, draw)
        impostors = []
        for _ in range(DRAWS_PER_PAIR * len(targets)):
            pair = own[draw.integers(len(own))].path, others[draw.integers(len(others))].path
            if len(impostors) < len(targets) and frozenset(pair) not in used:
                used.add(frozenset(pair))
                impostors.append(pair)
        for target, impostor in zip(targets, impostors):
            trials += [(1, *target), (0, *impostor)]
    return trials


def _targets(own, count, cross_session, draw):
    """Draw `count` distinct pairs of one speaker's utterances, or all where there are not more."""
    first, second = np.triu_indices(len(own), 1)
    sessions = np.unique([u.session for u in own], return_inverse=True)[1]
    crossing = sessions[first] != sessions[second]
    if cross_session and crossing.any():
        first, second = first[crossing], second[crossing]
    chosen = draw.permutation(len(first))[:count]
    return [(own[a].path, own[b].path) for a, b in zip(first[chosen], second[chosen])]


def make_lists(
    folder: str | Path,
    test_speakers: int | None = None,
    dev_speakers: int | None = None,
    trials_per_speaker: int = 200,
    cross_session: bool = True,
    seed: int = 10,
) -> list[str]:
    """Write train_list.txt, veri_dev.txt and veri_test.txt into `folder`; return lines that say what they hold.

    A list that is there with other contents is kept as <name>.bak.
    """
    if trials_per_speaker < 2:
        raise ValueError(f"--trials_per_speaker {trials_per_speaker}: at least 2, one of each kind")
    utterances = find_utterances(folder)
    split = split_speakers(utterances, test_speakers, dev_speakers, seed)
    single = [own[0] for own in by_speaker(utterances).values() if len(own) == 1]
    lines = []
    if single:
        lines.append(f"speakers with a single utterance, who can only train: {len(single)}, e.g. {single[0].speaker}")
    train = Path(folder) / "train_list.txt"
    replace(train, "".join(f"{u.speaker} {u.path}\n" for u in split.train))
    lines.append(f"{train}: {len(split.train)} utterances of {len(by_speaker(split.train))} speakers")
    for name, held_out in (("veri_dev.txt", split.dev), ("veri_test.txt", split.test)):
        if not held_out:
            continue
        trials = draw_trials(held_out, trials_per_speaker, cross_session, seed)
        path = Path(folder) / name
        replace(path, "".join(f"{label} {a} {b}\n" for label, a, b in trials))
        sessions = {u.path: u.session for u in held_out}
        crossing = sum(sessions[a] != sessions[b] for label, a, b in trials if label)
        lines.append(
            f"{path}: {len(trials)} trials, {len(trials) // 2} targets ({crossing} across sessions), "
            f"of {len(by_speaker(held_out))} speakers"
        )
    return lines


def replace(path: Path, text: str):
    """Write a text file whole or not at all."""
    if path.is_file() and path.read_bytes() != text.encode():
        path.replace(f"{path}.bak")
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
