"""Several processes on CPU (gloo): they train, and equal one process with the same global batch."""

import pytest
from tree import MODEL, copy_tree, run, train_flags

from engine import checkpoint

# BatchNorm's statistics are of one process; without it two processes can be compared with one to the last digits.
PLAIN = MODEL.replace("self.bn = nn.BatchNorm1d(tiny_width)", "self.bn = nn.Identity()").replace(
    "tiny_width", "plain_width"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = copy_tree(tmp_path_factory.mktemp("tree"))
    (folder / "models" / "Plain.py").write_text(PLAIN)
    return folder


@pytest.mark.parametrize("loss, each", [("angleproto", 2), ("softmaxproto", 2)])
def test_two_processes_equal_one_with_the_global_batch(tree, tiny_corpus, tmp_path, loss, each):
    common = {
        "model": "Plain",
        "trainfunc": loss,
        "nPerSpeaker": each,
        "max_epoch": 2,
        "speed_perturb": "0.9",
        "optimizer": "sgd",
        "lr": 1e-4,
    }
    one = run(tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, tmp_path / "one", batch_size=4, **common))
    assert one.returncode == 0, one.stderr
    flags = train_flags(tiny_corpus, tmp_path / "two", batch_size=2, distributed=True, nproc=2, **common)
    two = run(tree, "trainSpeakerNet.py", *flags)
    assert two.returncode == 0, two.stderr
    assert "global batch: 4 speakers" in two.stdout
    a, b = (checkpoint.read(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two"))
    assert a["training"]["counters"]["step"] == b["training"]["counters"]["step"] >= 4
    assert a["training"]["counters"]["samples"] == b["training"]["counters"]["samples"]
    for name, tensor in a["state_dict"].items():
        # training has moved the weights many times their initial size: equal up to the order of float32 sums
        assert (tensor - b["state_dict"][name]).norm() <= 1e-4 * tensor.norm(), name
    eer = [line for text in (one, two) for line in text.stdout.splitlines() if line.startswith("EER ")]
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
