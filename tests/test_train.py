"""The trainer from the outside: a dropped-in network and loss learn, stop, go on, fail clearly."""

import json
import shutil

import pytest
import torch
import yaml
from tree import copy_tree, run, train_flags

from engine import checkpoint


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def trained(tree, tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    flags = train_flags(tiny_corpus, folder, valid_list=tiny_corpus / "trials.txt", tiny_width=24, ema=0.9)
    done = run(tree, "trainSpeakerNet.py", *flags, "--eval_first")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_dropped_in_files_train_by_name_and_learn(trained):
    folder, output = trained
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [e["loss"] for e in entries if "loss" in e]
    assert losses[-1] < 0.5 * losses[0]
    before = float(output.split("EER before training ")[1].split(" %")[0])
    after = [e["veer"] for e in entries if "veer" in e][-1]
    assert after <= 10 and after < before
    for name in (
        "args.yaml",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "result/scores.txt",
        "result/scores_trials.txt",
    ):
        assert (folder / name).stat().st_size > 0
    for name in ("det_trials", "histogram_trials", "training_curves"):
        assert (folder / "result" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "result").glob("run*.zip")) and list((folder / "tb").iterdir())
    for words in ("8 speakers", "parameters", "95 % interval", "protocol: trials.txt", "EER nearest"):
        assert words in output, words


def test_evaluation_needs_no_flags_of_the_network(tree, trained, tiny_corpus, tmp_path):
    folder, output = trained
    flags = [
        "--test_list",
        tiny_corpus / "trials.txt",
        "--test_path",
        tiny_corpus / "wav",
        "--eval_frames",
        50,
        "--num_eval",
        2,
    ]
    best = folder / "checkpoints" / "best.pt"
    done = run(
        tree,
        "trainSpeakerNet.py",
        "--eval",
        "--initial_model",
        best,
        "--save_path",
        tmp_path,
        "--nDataLoaderThread",
        0,
        "--nOut",
        99,
        *flags,
    )
    assert done.returncode == 0, done.stderr
    assert "--nOut 99 ignored" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("EER"))
    assert line in output
    wrong = run(
        tree,
        "trainSpeakerNet.py",
        "--eval",
        "--model",
        "VGGVox",
        "--initial_model",
        best,
        "--save_path",
        tmp_path,
        *flags,
    )
    assert wrong.returncode == 2 and "holds models.Tiny, not --model VGGVox" in wrong.stderr


def test_stored_arguments_are_a_config(tree, trained, tiny_corpus, tmp_path):
    stored = yaml.safe_load((trained[0] / "args.yaml").read_text())
    assert stored["tiny_width"] == 24 and "save_path" not in stored
    again = run(
        tree,
        "trainSpeakerNet.py",
        "--config",
        trained[0] / "args.yaml",
        "--set",
        "max_epoch=1",
        "--save_path",
        tmp_path,
    )
    assert again.returncode == 0, again.stderr
    losses = [
        next(entry["loss"] for entry in map(json.loads, (folder / "metrics.jsonl").open()) if "loss" in entry)
        for folder in (trained[0], tmp_path)
    ]
    assert losses[0] == losses[1]


def test_interrupted_and_resumed_equals_uninterrupted(tree, tiny_corpus, tmp_path):
    common = {"augment": False, "accumulate": 2, "ema": 0.9, "speed_perturb": "0.9,1.1", "batch_size": 4}
    whole = run(tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, tmp_path / "a", max_epoch=3, **common))
    assert whole.returncode == 0, whole.stderr
    half = run(
        tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, tmp_path / "b", max_epoch=3, max_steps=5, **common)
    )
    assert half.returncode == 0, half.stderr
    rest = run(tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, tmp_path / "b", max_epoch=3, **common))
    assert rest.returncode == 0 and "resumed from" in rest.stdout, rest.stderr
    a, b = (checkpoint.read(tmp_path / name / "checkpoints" / "last.pt") for name in "ab")
    assert a["training"]["counters"]["step"] == b["training"]["counters"]["step"] > 5
    for name, tensor in a["state_dict"].items():
        assert torch.equal(tensor, b["state_dict"][name]), name
    for name, tensor in a["training"]["ema"][0.9].items():
        assert torch.equal(tensor, b["training"]["ema"][0.9][name]), name
    refused = run(tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, tmp_path / "a", resume="never", **common))
    assert refused.returncode == 2 and "--resume never" in refused.stderr


def test_a_file_that_cannot_be_decoded_is_named_in_one_line(tree, tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    broken = corpus / "wav" / "spk3" / "s1" / "00002.wav"
    broken.write_bytes(broken.read_bytes()[:30])  # the copy stopped within the header
    flags = train_flags(corpus, tmp_path / "run", nDataLoaderThread=1, check_files=1)
    done = run(tree, "trainSpeakerNet.py", *flags)
    assert done.returncode == 2 and "spk3/s1/00002.wav" in done.stderr.splitlines()[-1], done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
