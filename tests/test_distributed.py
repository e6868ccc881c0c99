"""Several processes on CPU (gloo): they train, and equal one process with the same global batch."""

import signal
import socket
import time

import pytest
from test_resume import noises  # noqa: F401
from tree import MODEL, copy_tree, run, train_flags
from warm import until, warm

from engine import checkpoint
from engine.interruption import INTERRUPTED

# BatchNorm's statistics are of one process; without it two processes can be compared with one to the last digits.
PLAIN = MODEL.replace("self.bn = nn.BatchNorm1d(tiny_width)", "self.bn = nn.Identity()").replace(
    "tiny_width", "plain_width"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = copy_tree(tmp_path_factory.mktemp("tree"))
    (folder / "models" / "Plain.py").write_text(PLAIN)
    return folder


@pytest.fixture(scope="module")
def server(tree):
    with warm(tree) as started:
        yield started


def environment_of_two():
    """Return what the environment of two ranks has in common."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}


# The second pair is started rank by rank off a process that has imported torch, which is quicker.
@pytest.mark.parametrize("loss, each, spawned", [("angleproto", 2, True), ("softmaxproto", 2, False)])
def test_two_processes_equal_one_with_the_global_batch(
    tree,
    server,
    tiny_corpus,
    noises,  # noqa: F811
    tmp_path,
    loss,
    each,
    spawned,
):
    common = {
        "model": "Plain",
        "trainfunc": loss,
        "nPerSpeaker": each,
        "max_epoch": 2,
        "speed_perturb": "0.9",
        "augment": True,
        "musan_path": noises / "musan",
        "rir_path": noises / "rooms",
        "optimizer": "sgd",
        "lr": 1e-4,
    }
    one = run(tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, tmp_path / "one", batch_size=4, **common))
    assert one.returncode == 0, one.stderr
    common |= {"distributed": True, "nproc": 2} if spawned else {}
    flags = train_flags(tiny_corpus, tmp_path / "two", batch_size=2, **common)
    if spawned:
        two = run(tree, "trainSpeakerNet.py", *flags)
        assert two.returncode == 0, two.stderr
        text = two.stdout
    else:
        shared = environment_of_two()
        ranks = [server.launch(*flags, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
        (code, text), (other, _) = map(server.wait, ranks)
        assert code == other == 0, text
    assert "global batch: 4 speakers" in text
    a, b = (checkpoint.read(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two"))
    assert a["training"]["counters"]["step"] == b["training"]["counters"]["step"] >= 4
    assert a["training"]["counters"]["samples"] == b["training"]["counters"]["samples"]
    for name, tensor in a["state_dict"].items():
        # training has moved the weights many times their initial size: equal up to the order of float32 sums
        assert (tensor - b["state_dict"][name]).norm() <= 1e-4 * tensor.norm(), name
    eer = [line for told in (one.stdout, text) for line in told.splitlines() if line.startswith("EER ")]
    assert eer[0] == eer[2]


def test_torchrun_trains_and_resumes(tree, tiny_corpus, tmp_path):
    flags = train_flags(tiny_corpus, tmp_path / "run", batch_size=4, max_epoch=2)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    first = run(tree, "trainSpeakerNet.py", *flags, launcher=launcher)
    assert first.returncode == 0, first.stderr
    assert "on 2 process(es)" in first.stdout and "Epoch 2, TLOSS" in first.stdout
    more = run(tree, "trainSpeakerNet.py", *flags, "--set", "max_epoch=3", launcher=launcher)
    assert more.returncode == 0 and "resumed from" in more.stdout and "Epoch 3, TLOSS" in more.stdout, more.stderr


def test_a_batch_too_large_for_the_list_names_both_numbers(tree, tiny_corpus, tmp_path):
    flags = train_flags(tiny_corpus, tmp_path / "run", batch_size=8, distributed=True, nproc=2)
    done = run(tree, "trainSpeakerNet.py", *flags)
    assert done.returncode == 2 and "--batch_size 8 x 2 processes" in done.stderr and "Traceback" not in done.stderr


# Ranks started one by one, as srun does; steps that are told and take a while.
SLOW = """
import time
import trainSpeakerNet
from engine.state import State
trainSpeakerNet.finish = lambda *a: {}
def update_ema(self):
    print("STEP", self.step, flush=True)
    time.sleep(0.05)
State.update_ema = update_ema
"""


@pytest.fixture
def start(server, tiny_corpus, tmp_path):
    """Return start(code), which starts two ranks of 40 steps and waits for the third; they end with the test."""
    started = []

    def begin(code=""):
        flags = train_flags(
            tiny_corpus, tmp_path, batch_size=2, max_steps=40, max_epoch=99, test_interval=99, silence_seconds=8
        )
        environment = environment_of_two()
        for rank in ("0", "1"):
            started.append(server.launch(*flags, code=SLOW + code, RANK=rank, LOCAL_RANK=rank, **environment))
        until(started[0], "STEP 3")
        return started

    yield begin
    for each in started:
        each.kill()
        if not each.over:
            server.wait(each)


def steps(text):
    return text.count("STEP ")


def test_a_signal_to_one_rank_saves_and_ends_both_at_the_same_step(server, start, tmp_path):
    ranks = start()
    ranks[1].kill(signal.SIGUSR1)
    seen = steps(ranks[1].text())
    codes, texts = zip(*(server.wait(r) for r in ranks))
    assert codes == (INTERRUPTED, INTERRUPTED), texts
    assert steps(texts[0]) == steps(texts[1]) <= seen + 2
    assert checkpoint.read(tmp_path / "checkpoints" / "last.pt")["training"]["counters"]["step"] == steps(texts[0])
    assert "SIGUSR1: saved at epoch" in texts[0]


@pytest.mark.parametrize(
    "victim, message",
    [(1, "rank 1 on {host} is gone"), (0, "rank 1 has lost contact with the machine or process of rank 0")],
)
def test_a_rank_that_is_killed_ends_the_others_with_one_line(server, start, victim, message):
    ranks, began = start(), time.monotonic()
    ranks[victim].kill()
    assert server.wait(ranks[victim])[0] == -signal.SIGKILL
    code, text = server.wait(ranks[1 - victim])
    assert code == 2 and time.monotonic() - began < 30
    errors = [line for line in text.splitlines() if "error" in line]
    assert len(errors) == 1 and message.format(host=socket.gethostname()) in errors[0], text
    assert "the same command goes on" in errors[0] and "Traceback" not in text


def test_a_rank_that_gives_no_sign_of_life_counts_as_dead(server, start):
    ranks = start()
    ranks[1].kill(signal.SIGSTOP)  # as a machine that has vanished: no connection is closed
    code, text = server.wait(ranks[0])
    assert code == 2 and text.count("error: ") == 1 and "error: rank 1 on" in text, text


def test_an_error_of_one_rank_ends_all_and_is_told_once(server, start):
    fails = "import os, engine.loop as l\nb = l._backward\n"
    fails += "def f(s, *a):\n    if s.step == 4 and os.environ['RANK'] == '1': raise ValueError('a bad file')\n"
    ranks = start(fails + "    return b(s, *a)\nl._backward = f\n")
    codes, texts = zip(*(server.wait(r) for r in ranks))
    assert codes == (2, 2), texts
    assert "".join(texts).count("error: ") == 1 and texts[1].endswith("error: a bad file\n"), texts
