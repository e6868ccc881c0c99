"""The commands of the original trainer's README, as they are written, and the configs that ship."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from tree import copy_tree, run

import SpeakerNet
import trainSpeakerNet
from engine import checkpoint, registry
from engine.args import parse, read_config

TRAIN = [
    "python ./trainSpeakerNet.py --model ResNetSE34L --log_input True --encoder_type SAP --trainfunc amsoftmax "
    "--save_path exps/exp1 --nClasses 5994 --batch_size 200 --scale 30 --margin 0.3",
    "python ./trainSpeakerNet.py --model ResNetSE34L --log_input True --encoder_type SAP --trainfunc angleproto "
    "--save_path exps/exp2 --nPerSpeaker 2 --batch_size 200",
]
EVALUATE = [
    "python ./trainSpeakerNet.py --eval --model ResNetSE34L --log_input True --trainfunc angleproto "
    "--save_path exps/test --eval_frames 400 --initial_model baseline_lite_ap.model",
    "python ./trainSpeakerNet.py --eval --model ResNetSE34V2 --log_input True --encoder_type ASP --n_mels 64 "
    "--trainfunc softmaxproto --save_path exps/test --eval_frames 400 --initial_model baseline_v2_ap.model",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A checkout beside a corpus in VoxCeleb's layout: 200 speakers with two short files each, a short trial list."""
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    draw = np.random.default_rng(0)
    lines = []
    for number in range(200):
        for take in range(2):
            name = f"id{number:05d}/video/{take:05d}.wav"
            path = tree / "data" / "voxceleb2" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * draw.standard_normal(3000), 16000, subtype="PCM_16")
            lines.append(f"id{number:05d} {name}")
    (tree / "data" / "train_list.txt").write_text("\n".join(lines) + "\n")
    (tree / "data" / "voxceleb1").symlink_to("voxceleb2")
    names = [line.split()[1] for line in lines[:4]]
    pairs = [(1, 0, 1), (1, 2, 3), (0, 0, 2), (0, 1, 3)]
    (tree / "data" / "veri_test.txt").write_text("".join(f"{y} {names[a]} {names[b]}\n" for y, a, b in pairs))
    return tree


@pytest.mark.parametrize("command", TRAIN, ids=["amsoftmax", "angleproto"])
def test_training_commands_run_as_written_and_stop_on_sigterm(tree, command):
    words = command.split()
    folder = tree / words[words.index("--save_path") + 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    scores, deadline = folder / "result" / "scores.txt", time.monotonic() + 240
    while not (scores.exists() and "Epoch 1, " in scores.read_text()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert re.search(r"Epoch 1, TLOSS \d+\.\d{6}, TAcc \d+\.\d\d, LR 0\.001000", output)
    assert "the same command goes on from there" in output
    stored = checkpoint.read(folder / "checkpoints" / "last.pt")
    assert stored["training"]["counters"]["step"] >= 1 and stored["meta"]["wav_scale"] == 32768


@pytest.mark.parametrize("command", EVALUATE, ids=["lite", "v2"])
def test_evaluation_commands_run_as_written(tree, command):
    args, _ = parse(trainSpeakerNet.make_flags(), command.split()[2:])
    network, _ = SpeakerNet.build_network(args)
    state = {"__S__." + name: tensor for name, tensor in network.state_dict().items()}
    if args.trainfunc == "angleproto":
        state |= {"__L__.w": torch.tensor(10.0), "__L__.b": torch.tensor(-5.0)}
    else:
        state |= {"__L__.softmax.fc.weight": torch.zeros(5994, 512), "__L__.softmax.fc.bias": torch.zeros(5994)}
    torch.save(state, tree / args.initial_model)
    done = run(tree, command.split()[1], *command.split()[2:])
    assert done.returncode == 0, done.stderr
    assert re.search(r"^EER \d+\.\d{4} MinDCF \d\.\d{5}$", done.stdout, re.MULTILINE)
    scores = (tree / "exps" / "test" / "result" / "scores_veri_test.txt").read_text().splitlines()
    assert len(scores) == 4 and scores[0].split()[1:] == ["id00000/video/00000.wav", "id00000/video/00001.wav"]
    assert all(float(line.split()[0]) <= 0 for line in scores)


def speaker_configs():
    """List the configs of trainSpeakerNet.py."""
    networks = registry.names("models", "speaker")
    found = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "sweeps")
    return [path for path in found if read_config(path).get("model", networks[0]) in networks]


@pytest.mark.parametrize("path", speaker_configs(), ids=lambda path: path.stem)
def test_every_config_loads_and_its_classes_take_its_options(path):
    text = path.read_text()
    assert text.startswith("# "), "a config begins with what to expect of it"
    argv = ["--config", str(path)]
    if "\nmodel:" not in text:
        argv += ["--model", "ResNetSE34L"]
    extend = lambda parser, first: registry.add_arguments(parser, trainSpeakerNet.chosen_classes(first).values())  # noqa: E731
    args, given = parse(trainSpeakerNet.make_flags(), argv, extend)
    assert registry.check_taken(given, trainSpeakerNet.CLASS_FLAGS, trainSpeakerNet.chosen_classes(args)) == []
    args.nClasses = args.nClasses or 10
    SpeakerNet.build_network(args)
    trainSpeakerNet.build_loss(args)
