"""Short trainings of waveform networks in this process, on `tones`, with networks that have few levels.
Entry points: small_networks (context), words (flags), train, entries, last.
"""

import contextlib
import json
import sys

import pytest

import models
import train_diffusion
import TrainingRun
from engine import checkpoint, registry
from engine.log import RunLog

SMALL = {
    "SmallUNet": """
from models import UNet

class MainModel(UNet.MainModel):
    TASK = "diffusion"

    def __init__(self, base_channels=8, num_labels=None, dropout=0.0, cond_dim=None):
        super().__init__(base_channels, (1, 2), (2,), 1, None, num_labels, dropout=dropout, cond_dim=cond_dim)
""",
    "SmallClassifier": """
from models import WaveClassifier

class MainModel(WaveClassifier.MainModel):
    TASK = "classifier"

    def __init__(self, num_labels, base_channels=8):
        super().__init__(num_labels, base_channels, (1, 2), 4, 1)
""",
}
MODELS = {"train_diffusion.py": "SmallUNet", "train_classifier.py": "SmallClassifier"}


def write_small(folder):
    """Write the files of the small networks into `folder`; return it."""
    for name, text in SMALL.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@contextlib.contextmanager
def small_networks(tree):
    """Context in which scripts in this process find the networks of a copied tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "ROOT", tree)
        patch.setattr(models, "__path__", [*models.__path__, str(tree / "models")])
        yield
    for name in SMALL:
        sys.modules.pop(f"models.{name}", None)


def words(folder, data="tones", script="train_diffusion.py", **changes):
    """Return the flags of a short training; None leaves one out, True is a bare flag."""
    flags = {
        "model": MODELS.get(script), "base_channels": 8, "window_seconds": 0.016, "batch_size": 6, "lr": 2e-3,
        "max_steps": 10, "nDataLoaderThread": 0, "device": "cpu", "save_path": folder, **changes,
    }  # fmt: skip
    found = [str(data)]
    for name, value in flags.items():
        if value is not None:
            found += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return found


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last(folder):
    return checkpoint.read(folder / "checkpoints" / "last.pt")


def train(folder, *data, script=train_diffusion, whole=False, **changes):
    """Run a script to its end in this process, without the pictures and the archive of the code unless `whole`."""
    with pytest.MonkeyPatch.context() as patch:
        if not whole:
            patch.setattr(TrainingRun, "finish", lambda *a: {})
            patch.setattr(RunLog, "record", lambda *a: None)
        assert script.main(words(folder, *data, script=f"{script.__name__}.py", **changes)) == 0
    return folder
