"""A copy of the checkout that a test may add files to, and scripts run in it."""

import atexit
import contextlib
import os
import shutil
import subprocess
import sys

from conftest import ROOT
from warm import warm

FOLDERS = (
    *("audio", "backbones", "corpora", "diffusion", "engine"),
    *("loss", "models", "optimizer", "scheduler", "scoring"),
)

SERVERS = {}  # {tree: its warm server}, started by the first run in it
OPEN = contextlib.ExitStack()
atexit.register(OPEN.close)

# A network and a loss as a user would drop them in, each with a flag of its own; small enough to train in seconds.
MODEL = """
import torch
from torch import nn
from audio.features import SpeakerMel


class MainModel(nn.Module):
    WAV_SCALE = 32768.0

    def __init__(self, nOut=512, n_mels=40, log_input=True, tiny_width=16):
        super().__init__()
        self.torchfb = SpeakerMel(False, "hamming", n_mels, log_input)
        self.conv = nn.Conv1d(n_mels, tiny_width, 3, padding=1)
        self.bn = nn.BatchNorm1d(tiny_width)
        self.fc = nn.Linear(2 * tiny_width, nOut)

    @staticmethod
    def add_arguments(parser):
        parser.add_argument("--tiny_width", type=int, default=16, help="channels")

    def features(self, wave):
        return self.torchfb.mel(wave)

    def embed(self, features):
        x = torch.relu(self.bn(self.conv(features)))
        return self.fc(torch.cat([x.mean(2), x.amax(2)], 1))

    def forward(self, wave):
        return self.embed(self.features(wave))

    @staticmethod
    def example(batch):
        return {"wave": 0.1 * torch.randn(batch, 8240)}
"""

LOSS = """
import torch
from torch import nn


class LossFunction(nn.Module):
    test_normalize = True
    CLASSIFIES = True

    def __init__(self, nOut, nClasses, tiny_smoothing=0.0):
        super().__init__()
        self.fc = nn.Linear(nOut, nClasses)
        self.smoothing = tiny_smoothing

    @staticmethod
    def add_arguments(parser):
        parser.add_argument("--tiny_smoothing", type=float, default=0.0, help="label smoothing")

    def forward(self, x, label):
        logits = self.fc(nn.functional.normalize(x, dim=-1) * 10)
        accuracy = 100 * (logits.argmax(1) == label).float().mean()
        return nn.functional.cross_entropy(logits, label, label_smoothing=self.smoothing), accuracy
"""


def copy_tree(target):
    """Copy the code of the checkout to `target`, with models/Tiny.py and loss/tiny.py dropped in; return `target`."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, target)
    (target / "models" / "Tiny.py").write_text(MODEL)
    (target / "loss" / "tiny.py").write_text(LOSS)
    return target


def run(tree, script, *arguments, launcher=(), timeout=180, **environment):
    """Run a script of the tree with Python; return the finished process with its output as text.

    A run in a copied tree that neither starts processes nor needs another launcher is forked off a process that has
    imported torch already.
    """
    if tree != ROOT and not launcher and "--distributed" not in arguments:
        if tree not in SERVERS:
            SERVERS[tree] = OPEN.enter_context(warm(tree))
        started = SERVERS[tree].launch(*arguments, script=script, parted=True, **environment)
        code, text = SERVERS[tree].wait(started)
        return subprocess.CompletedProcess([script, *arguments], code, text, started.errors.read_text())
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *launcher, script, *map(str, arguments)]
    return subprocess.run(command, cwd=tree, env=settings, capture_output=True, text=True, timeout=timeout)


def train_flags(corpus, folder, **changes):
    """Return the flags of a short training run of the dropped-in network on the tiny corpus."""
    flags = {
        "model": "Tiny", "trainfunc": "tiny", "train_list": corpus / "train.txt", "train_path": corpus / "wav",
        "test_list": corpus / "trials.txt", "test_path": corpus / "wav", "save_path": folder, "max_frames": 50,
        "eval_frames": 50, "num_eval": 2, "batch_size": 8, "nOut": 32, "max_epoch": 30, "test_interval": 10, "lr": 0.01,
        "nDataLoaderThread": 0, "bootstrap": 20, "device": "cpu",
    }  # fmt: skip
    flags.update(changes)
    return [word for name, value in flags.items() for word in (f"--{name}", value)]
