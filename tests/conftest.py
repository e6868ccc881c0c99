"""Shared by all tests: where data lies, a tiny corpus on disk, one thread per process."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from server import serving

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VOXLAB_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure(config):
    # the suite runs one process per core
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """Eight speakers x 4 files of 0.9 s, a speaker being a pair of weak tones among louder random ones and noise.

    With a train and a trial list. An untrained network confuses them, a few steps of training suffice to part them.
    """
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    time = np.arange(14400) / 16000
    train, trials, files = [], [], {}
    for speaker in range(8):
        tones = 300 * 1.2**speaker, 1500 * 1.12**speaker
        for number in range(4):
            wave = 0.05 * sum(np.sin(2 * np.pi * f * time + draw.uniform(0, 6)) for f in tones)
            wave += 0.08 * sum(np.sin(2 * np.pi * f * time) for f in draw.uniform(4000, 7800, 3))
            wave = draw.uniform(0.3, 1) * wave + 0.03 * draw.standard_normal(len(time))
            name = f"spk{speaker}/s1/{number:05d}.wav"
            (folder / "wav" / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / "wav" / name, wave, 16000, subtype="PCM_16")
            train.append(f"spk{speaker} {name}")
            files.setdefault(speaker, []).append(name)
    for speaker in range(8):
        for a in range(3):
            trials.append(f"1 {files[speaker][a]} {files[speaker][a + 1]}")
            trials.append(f"0 {files[speaker][a]} {files[(speaker + 1 + a) % 8][a]}")
    (folder / "train.txt").write_text("\n".join(train) + "\n")
    (folder / "trials.txt").write_text("\n".join(trials) + "\n")
    return folder


@pytest.fixture
def serve():
    """Return a function that starts a server (tests/server.py) which lives as long as the test."""
    with ExitStack() as stack:
        yield lambda files, **tricks: stack.enter_context(serving(files, **tricks))
