"""The trainers of diffusion models and of classifiers: they learn, go on to the last bit, are the same on ranks."""

import json
import math
import signal
import socket

import numpy as np
import pytest
import torch
from test_resume import STEPS, differences
from tree import copy_tree
from warm import until, warm
from wave_training import MODELS, entries, last, small_networks, train, words, write_small

import DiffusionNet
import train_classifier
import train_diffusion
import WaveTraining
from engine import checkpoint
from scheduler.anneal import anneal

# The end of a run draws pictures, which has no part in this.
NO_END = "import TrainingRun; TrainingRun.finish = lambda *a: {}\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = copy_tree(tmp_path_factory.mktemp("tree"))
    write_small(folder / "models")
    return folder


@pytest.fixture(scope="module", autouse=True)
def small(tree):
    with small_networks(tree):
        yield


@pytest.fixture(scope="module")
def server(tree):
    with warm(tree) as started:
        yield started


# ---------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the whole U-Net, with everything written that can be."""
    return train(
        tmp_path_factory.mktemp("trained"), model="unet", window_seconds=0.032, batch_size=4, max_steps=30,
        ema="0.5", log_interval=3, valid_list="tones", valid_windows=4, anneal_steps=6,
        anneal_shape="cosine", original_files=True, whole=True,
    )  # fmt: skip


def test_a_diffusion_model_learns_and_tells(trained):
    recorded = [e for e in entries(trained) if "loss" in e]
    assert recorded[0]["loss"] > 0.6 and recorded[-1]["loss"] < 0.4 * recorded[0]["loss"]
    # noise is easy to see where there is little else, and hard where there is nearly none
    assert recorded[-1]["q3"] < recorded[-1]["q0"] and {"q1", "q2", "utterances_per_second"} < set(recorded[-1])
    valid = [e for e in entries(trained) if "valid_loss" in e]
    assert [e["step"] for e in valid] == [30] and valid[0]["valid_loss"] < 0.4
    done = json.loads((trained / "result.json").read_text())
    assert done["status"] == "done" and done["metrics"]["valid_loss"] == pytest.approx(valid[-1]["valid_loss"])
    names = {path.name for path in (trained / "checkpoints").iterdir()}
    assert {"last.pt", "best.pt", "step_30.pt", WaveTraining.BEFORE_ANNEALING} == names
    before = checkpoint.read(trained / "checkpoints" / WaveTraining.BEFORE_ANNEALING)
    assert before["training"]["counters"]["step"] == 24
    assert last(trained)["training"]["optimizer"]["param_groups"][0]["lr"] == 0
    assert (trained / "args.yaml").is_file() and (trained / "result" / "training_curves.png").is_file()


def test_the_model_of_a_run_says_what_it_is_and_holds_every_average(tmp_path):
    folder = train(tmp_path, max_steps=3, ema="0.9,0.5")
    path, stored = folder / "checkpoints" / "last.pt", last(folder)
    net, card = DiffusionNet.load(path)
    meta = card["meta"]
    assert meta["schedule"] == "exp" and meta["window"] == 256 and meta["speakers"] == ["300Hz", "500Hz", "1000Hz"]
    assert card["class"] == "models.SmallUNet" and not net.training
    averages = stored["training"]["ema"]
    for ema, expected in (("0.9", averages[0.9]), (0.5, averages[0.5]), ("none", stored["state_dict"]),
                          (None, averages[0.5])):  # fmt: skip
        found = DiffusionNet.load(path, ema=ema)[0].state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(ValueError, match=r"no average of rate 0\.7; it holds: 0\.9, 0\.5"):
        DiffusionNet.load(path, ema="0.7")


def test_files_in_the_original_layout_are_those_of_the_run(trained):
    files = {"model.pt": "none", "model_ema_0.5.pt": "0.5"}
    for name, ema in files.items():
        payload = checkpoint.read(trained / name)
        assert payload["kwargs"] == {
            "pred_name": "unet", "base_channels": 8, "schedule_name": "exp", "num_labels": None, "cond_channels": None,
            "dropout": 0.0,
        }  # fmt: skip
        ours, card = DiffusionNet.load(trained / "checkpoints" / "last.pt", ema=ema)
        assert all(torch.equal(payload["state_dict"][n], t) for n, t in ours.state_dict().items())
        theirs, other = DiffusionNet.load(trained / name)
        assert other["meta"]["step"] == 30 and other["meta"]["speakers"] == card["meta"]["speakers"]
        x, t = torch.randn(2, 512), torch.rand(2)
        assert torch.equal(DiffusionNet.predict(theirs)(x, t), DiffusionNet.predict(ours)(x, t))


def test_the_first_weights_do_not_linger_in_an_average(tmp_path):
    """An average of rate 0 is the weights; without warm-up each is the plain recursion from the first ones."""
    folder = train(tmp_path, max_steps=1, ema="0.75")
    first = train(tmp_path / "none", max_steps=1, ema="0.75", lr=0)
    stored, began = last(folder), last(first)["state_dict"]
    for name, averaged in stored["training"]["ema"][0.75].items():
        torch.testing.assert_close(averaged, began[name].lerp(stored["state_dict"][name], 0.25))


def test_a_classifier_learns_and_is_judged_by_noise(tmp_path):
    folder = train(
        tmp_path, script=train_classifier, max_steps=80, batch_size=12, lr=1e-2, curriculum_steps=200, valid_share=0.3,
        original_files=True, ema="0.9",
    )  # fmt: skip
    recorded = [e for e in entries(folder) if "loss" in e]
    assert recorded[0]["loss"] == pytest.approx(math.log(3), abs=0.02)
    assert np.mean([e["accuracy"] for e in recorded[-10:]]) > 80 and np.mean([e["loss"] for e in recorded[-10:]]) < 0.5
    assert {"q0", "accuracy_q0"} < set(recorded[-1])
    figures = entries(folder)[-1]
    assert figures["valid_accuracy_t0"] >= 85 and figures["valid_accuracy_t0"] > figures["valid_accuracy_t0.75"]
    assert "9 utterances are held out" in (folder / "result" / "scores.txt").read_text()
    network, card = DiffusionNet.load_network(folder / "checkpoints" / "last.pt", "classifier")
    assert card["meta"]["speakers"] == ["300Hz", "500Hz", "1000Hz"] and card["meta"]["schedule"] == "exp"
    stored = checkpoint.read(folder / "model_ema_0.9.pt")
    assert all(torch.equal(stored["state_dict"][name], tensor) for name, tensor in network.state_dict().items())


# ---------------------------------------------------------------- resume and ranks


@pytest.mark.parametrize("script", MODELS)
def test_killed_it_goes_on_to_the_last_bit(script, server, tmp_path):
    def flags(folder):
        given = {
            "max_steps": 12, "batch_size": 3, "accumulate": 2, "ema": "0.9,0.5", "mixedprec": True, "save_steps": 3,
            "clip_grad": 1, "valid_list": "tones", "valid_windows": 4, "test_interval_steps": 5, "anneal_steps": 4,
        }  # fmt: skip
        if script == "train_diffusion.py":
            given |= {"dropout": 0.1, "class_cond": True, "cond_dropout": 0.3, "microbatch": 2}
        else:
            given |= {"curriculum_steps": 8}
        return words(folder, script=script, **given)

    def launch(folder, code=""):
        return server.launch(*flags(folder), script=script, code=NO_END + code)

    whole, stopped = launch(tmp_path / "whole"), launch(tmp_path / "run", STEPS.format(seconds=0.02))
    until(stopped, "STEP 8")
    stopped.kill()
    assert server.wait(stopped)[0] == -signal.SIGKILL
    code, text = server.wait(whole)
    assert code == 0, text
    assert 6 <= last(tmp_path / "run")["training"]["counters"]["step"] < 12
    code, text = server.wait(launch(tmp_path / "run"))
    assert code == 0 and "resumed from" in text, text
    assert differences(last(tmp_path / "whole"), last(tmp_path / "run")) == []
    losses = [[e["loss"] for e in entries(tmp_path / name) if "loss" in e] for name in ("whole", "run")]
    assert losses[0][-1] == losses[1][-1]
    assert last(tmp_path / "run")["training"]["trackers"][""]["count"].sum() == 72


@pytest.mark.parametrize("script", MODELS)
def test_two_ranks_equal_one_with_the_global_batch(script, server, tmp_path):
    shared = {"optimizer": "sgd", "lr": 0.01, "max_steps": 6, "valid_list": "tones", "valid_windows": 4}
    if script == "train_diffusion.py":
        shared |= {"class_cond": True, "cond_dropout": 0.3}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    runs = []
    for folder, size, ranks in (("one", 6, [None]), ("two", 3, ["0", "1"])):
        flags = words(tmp_path / folder, script=script, batch_size=size, **shared)
        for rank in ranks:
            place = {} if rank is None else {"RANK": rank, "LOCAL_RANK": rank, **environment}
            runs.append(server.launch(*flags, script=script, code=NO_END, **place))
    for started in runs:
        code, text = server.wait(started)
        assert code == 0, text
    a, b = last(tmp_path / "one"), last(tmp_path / "two")
    assert a["training"]["counters"]["samples"] == b["training"]["counters"]["samples"] == 36
    for name, tensor in a["state_dict"].items():
        assert (tensor - b["state_dict"][name]).norm() <= 1e-5 * tensor.norm() + 1e-7, name
    for one, two in zip(entries(tmp_path / "one"), entries(tmp_path / "two"), strict=True):
        for key in one.keys() - {"utterances_per_second", "data_wait_percent", "grad_norm"}:
            assert two[key] == pytest.approx(one[key], rel=1e-4), key


@pytest.mark.parametrize("microbatch", [1, 4, 6])
def test_parts_of_a_batch_make_the_same_step(microbatch, tmp_path):
    whole = train(tmp_path / "whole", max_steps=3, optimizer="sgd", log_interval=1)
    parts = train(tmp_path / "parts", max_steps=3, optimizer="sgd", log_interval=1, microbatch=microbatch)
    a, b = last(whole)["state_dict"], last(parts)["state_dict"]
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=1e-4, atol=1e-7)
    for one, other in zip(entries(whole), entries(parts), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5) and other["q0"] == pytest.approx(one["q0"])


def test_recomputed_activations_change_nothing(tmp_path):
    plain, again = train(tmp_path / "a", max_steps=2), train(tmp_path / "b", max_steps=2, grad_checkpoint=True)
    a, b = last(plain)["state_dict"], last(again)["state_dict"]
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def rates(folder):
    """Return the learning rate and weight decay of a run's last checkpoint."""
    group = last(folder)["training"]["optimizer"]["param_groups"][0]
    return group["lr"], group["weight_decay"]


def test_a_resumed_run_takes_another_rate_on_request_and_no_other_process(tmp_path, capsys):
    train(tmp_path, max_steps=4)
    train(tmp_path, max_steps=6, lr=1e-5)
    assert "note: lr stays 0.002; --reset_lr takes 1e-05" in capsys.readouterr().out
    assert rates(tmp_path) == (2e-3, 0)
    train(tmp_path, max_steps=8, lr=1e-5, weight_decay=0.5, reset_lr=True)
    assert "--reset_lr: lr 1e-05 instead of 0.002 from here on" in capsys.readouterr().out
    assert rates(tmp_path) == (1e-5, 0.5)
    for change in ({"schedule": "cos"}, {"dropout": 0.1}, {"target": "v"}, {"encoding": "ulaw"}, {"class_cond": True}):
        (name,) = change
        with pytest.raises(ValueError, match=rf"was trained with {name} "):
            train_diffusion.main(words(tmp_path, max_steps=9, **change))


def test_the_rate_rises_stays_and_falls():
    factors = [anneal(step, 100, 10, 20, "linear") for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9:81] == pytest.approx([1] * 72)
    assert factors[80:] == pytest.approx(np.linspace(1, 0, 21))
    assert anneal(90, 100, 0, 20, "cosine") == pytest.approx(0.5) and anneal(100, 100, 0, 20, "cosine") == 0
    assert anneal(1000, 100, 0, 20) == 0
