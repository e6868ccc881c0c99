"""A run that was killed goes on to the last bit; signals save and end with their exit code.

VOXLAB_KILLS=20 kills at so many random moments instead of a few.
"""

import os
import random
import signal
import time

import numpy as np
import pytest
import soundfile
import torch
from tree import copy_tree, train_flags
from warm import until, warm

from engine import checkpoint
from engine.interruption import INTERRUPTED

KILLS = int(os.environ.get("VOXLAB_KILLS", 4))

# The end of a run draws pictures, which has no part in this.
NO_END = "import trainSpeakerNet; trainSpeakerNet.finish = lambda *a: {}\n"
# A writer that stops in the middle of the N-th checkpoint until it is killed.
STOPS_WRITING = """
import time, torch
save, count = torch.save, 0
def stop_within(payload, file):
    global count
    count += 1
    if count < {number}:
        return save(payload, file)
    file.write(b"PK half a checkpoint")
    file.flush()
    print("HALF", flush=True)
    time.sleep(60)
torch.save = stop_within
"""
# Steps that are told, and may take a while so that a signal comes in between.
STEPS = """
import time
from engine.state import State
update = State.update_ema
def slow(self):
    print("STEP", self.step, flush=True)
    time.sleep({seconds})
    update(self)
State.update_ema = slow
"""
SLOW_EVALUATION = """
import time, SpeakerNet
def slow(*a, **k):
    print("EVALUATION", flush=True)
    time.sleep(60)
SpeakerNet.embed_list = slow
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with warm(copy_tree(tmp_path_factory.mktemp("tree"))) as started:
        yield started


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """Folders of noises and rooms as --augment wants them, of a file or a few of each kind."""
    folder, draw = tmp_path_factory.mktemp("noises"), np.random.default_rng(0)
    for name, count in (("musan/noise", 2), ("musan/music", 2), ("musan/speech", 7), ("rooms", 2)):
        target = folder / name / "a" / "b"
        target.mkdir(parents=True)
        for number in range(count):
            soundfile.write(target / f"{number}.wav", 0.1 * draw.standard_normal(16000), 16000, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def everything(tiny_corpus, noises):
    """Return flags(folder, **changes) of 20 steps in five epochs with all that draws at random or keeps a state."""

    def flags(folder, **changes):
        given = {
            "max_steps": 20, "max_epoch": 99, "test_interval": 99, "batch_size": 4, "accumulate": 2, "ema": 0.9,
            "mixedprec": True, "augment": True, "musan_path": noises / "musan", "rir_path": noises / "rooms",
            "speed_perturb": "0.9,1.1", "spec_augment": True, "nDataLoaderThread": 2, "save_steps": 1,
            "clip_grad": 5,
        }  # fmt: skip
        return train_flags(tiny_corpus, folder, **{**given, **changes})

    return flags


def last(folder):
    return checkpoint.read(folder / "checkpoints" / "last.pt")


def differences(a, b, where=""):
    """Return the places where two checkpoints differ in a tensor, a number or a name."""
    if isinstance(a, dict):
        keys = [] if a.keys() == b.keys() else [f"{where}: keys"]
        return keys + [d for k in a.keys() & b.keys() for d in differences(a[k], b[k], f"{where}.{k}")]
    if isinstance(a, (list, tuple)):
        same = [] if len(a) == len(b) else [f"{where}: length"]
        return same + [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{where}[{i}]")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if equal else [where]


@pytest.fixture(scope="module")
def whole(server, everything, tmp_path_factory):
    """Return the last checkpoint of the run that is not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    code, text = server.wait(server.launch(*everything(folder), code=NO_END))
    assert code == 0, text
    stored = last(folder)
    counters = stored["training"]["counters"]
    assert counters["step"] == 20 and counters["epoch"] >= 3 and stored["training"]["ema"]
    return stored


def finished(server, flags, folder, whole):
    """Run to the end and compare every tensor and counter with the run that was not stopped."""
    code, text = server.wait(server.launch(*flags(folder), code=NO_END))
    assert code == 0 and "resumed from" in text, text
    assert differences(whole, last(folder)) == []
    assert list((folder / "checkpoints").glob(".*")) == []
    return text


@pytest.mark.parametrize("chain", range(max(1, KILLS // 4)))
def test_killed_at_random_moments_it_goes_on_to_the_last_bit(server, everything, whole, tmp_path, chain):
    draw, steps = random.Random(chain), [0]
    for _ in range(min(4, KILLS)):
        run = server.launch(*everything(tmp_path), code=NO_END + STEPS.format(seconds=0.01))
        until(run, f"STEP {steps[-1] + draw.randint(1, 4)}\n")
        time.sleep(draw.uniform(0, 0.05))  # a step and its checkpoint take about as long
        run.kill()
        assert server.wait(run)[0] == -signal.SIGKILL, run.text()
        found = checkpoint.newest(tmp_path)
        steps.append(found[1]["training"]["counters"]["step"] if found else 0)
    print(f"killed after steps {steps[1:]}")
    assert steps == sorted(steps)
    finished(server, everything, tmp_path, whole)


@pytest.mark.parametrize("saved", [3, 8])
def test_killed_while_saving_the_checkpoint_before_is_intact(server, everything, whole, tmp_path, saved):
    run = server.launch(*everything(tmp_path), code=NO_END + STOPS_WRITING.format(number=saved))
    until(run, "HALF")
    run.kill()
    assert server.wait(run)[0] == -signal.SIGKILL
    assert len(list((tmp_path / "checkpoints").glob(".last.pt.*.part"))) == 1
    step = last(tmp_path)["training"]["counters"]["step"]
    text = finished(server, everything, tmp_path, whole)
    assert f"step {step}" in text and 0 < step < saved


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_run_within_a_step(server, everything, whole, tmp_path, number):
    slow = server.launch(*everything(tmp_path, save_steps=0), code=NO_END + STEPS.format(seconds=0.1))
    until(slow, "STEP 2")
    slow.kill(number)
    code, text = server.wait(slow)
    assert code == INTERRUPTED and f"{number.name}: saved at epoch" in text and "Traceback" not in text, text
    step = last(tmp_path)["training"]["counters"]["step"]
    assert 2 <= step <= 3 and step == text.count("STEP")
    if number == signal.SIGTERM:
        finished(server, everything, tmp_path, whole)


def test_a_signal_ends_an_evaluation_at_once_and_it_is_done_again(server, everything, whole, tmp_path):
    run = server.launch(*everything(tmp_path), code=NO_END + SLOW_EVALUATION)
    until(run, "EVALUATION")
    start = time.monotonic()
    run.kill(signal.SIGTERM)
    code, text = server.wait(run)
    assert code == INTERRUPTED and time.monotonic() - start < 20 and "SIGTERM: all is saved" in text, text
    assert "VEER" in finished(server, everything, tmp_path, whole)


def test_ctrl_c_before_the_first_step_is_one_line(server, everything, tmp_path):
    code = (
        "import trainSpeakerNet, time\ntrainSpeakerNet.check = lambda *a: [print('START', flush=True), time.sleep(60)]"
    )
    run = server.launch(*everything(tmp_path), code=code)
    until(run, "START")
    run.kill(signal.SIGINT)
    code, text = server.wait(run)
    assert code == 130 and text.splitlines()[-1] == "interrupted" and "Traceback" not in text
