"""How wrong input is made: lists, recordings, checkpoints, configs and machines with something the matter.
Entry points: the functions that wrong_cases.py uses; most return a maker, called with the Place of a case.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from tree import train_flags


class Place(NamedTuple):
    """Where a case happens: an empty folder, the tiny corpus, a run trained on it."""

    folder: Path
    corpus: Path
    trained: Path


class Case(NamedTuple):
    """`given` says what is wrong; `flags(place)` makes it and returns the command line; `expected` is in the error."""

    given: str
    flags: object
    expected: str
    patch: object = None  # patch(monkeypatch) for what a machine seldom is: full, without cards


def train(**changes):
    """Return a maker of the flags of a short training run; a function among the changes is called with the place."""

    def flags(place):
        made = {name: value(place) if callable(value) else value for name, value in changes.items()}
        return train_flags(place.corpus, place.folder / "run", **{"max_epoch": 1, **made})

    return flags


def judge(checkpoint, **changes):
    """Return a maker of the flags of an evaluation of a checkpoint."""

    def flags(place):
        names = ("test_list", "test_path", "eval_frames", "num_eval", "bootstrap", "device", "nDataLoaderThread")
        words = train(**changes)(place)
        given = dict(zip(words[::2], words[1::2]))
        kept = {f"--{name}": given[f"--{name}"] for name in (*names, *changes, "save_path")}
        return ["--eval", "--initial_model", checkpoint(place), *(word for pair in kept.items() for word in pair)]

    return flags


def file(name, content):
    """Return a maker of a file with text or bytes."""

    def make(place):
        path = place.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def folder(name, *files):
    """Return a maker of a folder with empty files."""

    def make(place):
        (place.folder / name).mkdir(parents=True)
        for path in files:
            (place.folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (place.folder / name / path).touch()
        return place.folder / name

    return make


def lines_of(name, change):
    """Return a maker of a list of the corpus after change(lines)."""

    def make(place):
        lines = change((place.corpus / name).read_text().splitlines())
        (place.folder / name).write_text("".join(line + "\n" for line in lines))
        return place.folder / name

    return make


def audio(content, name="spk3/s1/00002.wav"):
    """Return a maker of a copy of the recordings where one is bytes, or samples and their rate, or absent."""

    def make(place):
        path = copy_of_wav(place) / name
        path.unlink()
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            soundfile.write(path, content[0], content[1], subtype="FLOAT")
        return place.folder / "wav"

    return make


def copy_of_wav(place):
    return Path(shutil.copytree(place.corpus / "wav", place.folder / "wav"))


def cut(name, size):
    """Return a maker of a copy of the recordings with one made FLAC and cut to `size` bytes."""

    def make(place):
        path = copy_of_wav(place) / name
        wave, rate = soundfile.read(path)
        soundfile.write(path, wave, rate, format="FLAC")
        path.write_bytes(path.read_bytes()[:size])
        return place.folder / "wav"

    return make


def saved(change):
    """Return a maker of a checkpoint after change(payload of the trained run)."""

    def make(place):
        payload = torch.load(place.trained / "checkpoints" / "last.pt", weights_only=True)
        torch.save(change(payload), place.folder / "x.pt")
        return place.folder / "x.pt"

    return make


def with_nan(payload):
    payload["state_dict"]["__S__.fc.weight"][3, 4] = torch.nan
    return payload


def at(*parts):
    """Return a maker of a path in the folder of the case."""
    return lambda place: place.folder.joinpath(*parts)


def no_space(monkeypatch):
    def full(payload, target):
        target.write(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch, "save", full)


def no_permission(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root, who may run the tests, has every permission


def one_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def tune(scores, **changes):
    """Return a maker of the flags of tuneThreshold.py."""

    def flags(place):
        made = {name: value(place) if callable(value) else value for name, value in changes.items()}
        return [scores(place), *(word for name, value in made.items() for word in (f"--{name}", value))]

    return flags


def trials_of(place):
    return place.corpus / "trials.txt"


def scores_of(place):
    """Write scores for the trials of the corpus."""
    lines = (place.corpus / "trials.txt").read_text().splitlines()
    text = "".join(f"{i / 7:.4f} {line.split(maxsplit=1)[1]}\n" for i, line in enumerate(lines))
    return file("scores.txt", text)(place)
