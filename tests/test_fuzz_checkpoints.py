"""Damaged and hostile checkpoints: read, or refused in one line; nothing of them is run."""

import functools
import importlib
import io
import json
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from fuzz import fuzz, limits, mutated, outcome
from safetensors.torch import save as safetensors_bytes

from engine import checkpoint


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.__S__ = torch.nn.Linear(6, 5)
        self.__L__ = torch.nn.Linear(5, 4)


PAYLOAD = {
    "class": "models.X", "kwargs": {"nOut": 5}, "meta": {"wav_scale": 1.0, "speakers": ["a", "b"]},
    "state_dict": Net().state_dict(), "training": {"counters": {"step": 3}, "ema": {}, "rng": [[1, 2, 3]]},
}  # fmt: skip


def load(path):
    weights, _ = checkpoint.weights_of(checkpoint.read(path), path)
    checkpoint.load_weights(Net(), weights, path)


def bytes_of(payload, **settings):
    memory = io.BytesIO()
    torch.save(payload, memory, **settings)
    return memory.getvalue()


def test_checkpoints(tmp_path):
    fuzz(load, tmp_path / "zip.pt", bytes_of(PAYLOAD), 300)
    fuzz(load, tmp_path / "legacy.model", bytes_of(Net().state_dict(), _use_new_zipfile_serialization=False), 300)
    fuzz(load, tmp_path / "x.safetensors", safetensors_bytes(Net().state_dict()), 300)


def rezipped(data, change):
    """Return a checkpoint whose pickle went through `change`, with check sums that are right."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return target.getvalue()


def test_pickles_of_checkpoints(tmp_path):
    draw, data, path = np.random.default_rng(2), bytes_of(PAYLOAD), tmp_path / "x.pt"
    for _ in range(300):
        path.write_bytes(rezipped(data, lambda content: mutated(content, draw)))
        outcome(load, path)
    path.write_bytes(rezipped(data, lambda content: content))
    assert outcome(load, path) == ""


class Call:
    """Pickled, a call of `function`: what a hostile checkpoint consists of."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile_objects(folder):
    target = folder / "ran"
    (folder / "inner.pt").write_bytes(pickle.dumps(Call(os.mkdir, str(target))))
    return {
        "os.system": Call(os.system, f"touch {target}"),
        "exec": Call(exec, f"open({str(target)!r}, 'w')"),
        "eval": Call(eval, f"open({str(target)!r}, 'w')"),
        "open": Call(open, str(target), "w"),
        "os.mkdir": Call(os.mkdir, str(target)),
        "subprocess": Call(subprocess.check_output, ["touch", str(target)]),
        "a copy": Call(shutil.copy, str(folder / "x.pt"), str(target)),
        "a method": Call(getattr, pathlib.Path(target), "touch"),
        "a load in a load": Call(functools.partial(torch.load, weights_only=False), str(folder / "inner.pt")),
        "torch.save": Call(torch.save, [1], str(target)),
        "numpy": Call(np.save, str(target), np.zeros(1)),
        "an import": Call(importlib.import_module, "this"),
    }


@pytest.mark.parametrize("suffix", ["pt", "model", "safetensors"])
def test_nothing_of_a_checkpoint_is_run(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    for name, thing in hostile_objects(tmp_path).items():
        whole = {**PAYLOAD, "meta": {"x": thing}}
        forms = bytes_of(whole), bytes_of(whole, _use_new_zipfile_serialization=False), pickle.dumps(thing)
        for data in forms:
            path.write_bytes(data)
            message = outcome(load, path)
            assert message and "weights_only" not in message, name
            assert not list(tmp_path.glob("ran*")) and "this" not in sys.modules, name


WEIGHTS = Net().state_dict()
ODD_PAYLOADS = {
    "a list": [1, 2],
    "a number": 3,
    "a tensor": torch.zeros(3),
    "nothing": {},
    "no weights": {"state_dict": {}, "class": "models.X", "kwargs": {}, "meta": {}},
    "no kwargs": {"state_dict": WEIGHTS, "class": "models.X", "meta": {}},
    "a class that is none": {**PAYLOAD, "class": 7},
    "kwargs that are none": {**PAYLOAD, "kwargs": [1]},
    "weights that are a list": {**PAYLOAD, "state_dict": [1]},
    "averages that are none": {**PAYLOAD, "training": {"ema": {0.9: 3}}},
    "names that are numbers": {1: torch.zeros(3)},
    "sparse weights": {**WEIGHTS, "__S__.weight": torch.zeros(5, 6).to_sparse()},
    "meta weights": {**WEIGHTS, "__S__.weight": torch.zeros(5, 6, device="meta")},
    "a terabyte that is one number": {**WEIGHTS, "__S__.weight": torch.zeros(1).expand(2**20, 2**18)},
    "other shapes": {**WEIGHTS, "__S__.weight": torch.zeros(6, 5)},
    "NaN": {**WEIGHTS, "__S__.bias": torch.full((5,), torch.nan)},
    "long names": {**WEIGHTS, **{"x" * 10000 + str(i): torch.zeros(1) for i in range(20)}},
    "names of several lines": {**WEIGHTS, "a\nb": torch.zeros(1)},
}


@pytest.mark.parametrize("name", ODD_PAYLOADS)
def test_odd_payloads(name, tmp_path):
    path = tmp_path / "x.pt"
    torch.save(ODD_PAYLOADS[name], path)
    assert outcome(load, path)


def test_safetensors_headers(tmp_path):
    path, data = tmp_path / "x.safetensors", safetensors_bytes(WEIGHTS)
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    changes = (
        {"data_offsets": [0, 2**60]}, {"data_offsets": [8, 0]}, {"shape": [2**40, 2**40]}, {"shape": [-1, 3]},
        {"dtype": "F99"}, {"data_offsets": "x"}, {"shape": []},
    )  # fmt: skip
    for change in changes:
        text = json.dumps({**header, "__S__.weight": {**header["__S__.weight"], **change}}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        assert outcome(load, path), change
    for claimed in (0, 2**63, 2**64 - 1, len(data) + 1):
        path.write_bytes(struct.pack("<Q", claimed) + data[8:])
        assert outcome(load, path), claimed


def test_a_run_folder_with_damaged_checkpoints(tmp_path):
    folder, draw = tmp_path / "checkpoints", np.random.default_rng(3)
    checkpoint.write(folder / "step_1.pt", PAYLOAD)
    good = (folder / "step_1.pt").read_bytes()
    for _ in range(60):
        (folder / "last.pt").write_bytes(mutated(good, draw))
        with limits():
            path, payload = checkpoint.newest(tmp_path)
        assert payload["training"]["counters"] == {"step": 3}, path.name


def test_a_loader_process_that_dies_while_a_checkpoint_is_written_is_no_full_disk(tmp_path, monkeypatch):
    def dies(payload, target):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(RuntimeError, match="^DataLoader worker"):
        checkpoint.write(tmp_path / "x.pt", {})
    assert list(tmp_path.iterdir()) == []
