"""The trainer of VQ-VAEs: it learns, goes on to the last bit, is the same on ranks; what is made from a VQ-VAE."""

import signal
import socket

import numpy as np
import pytest
import soundfile
import torch
from test_resume import STEPS, differences
from tree import copy_tree
from warm import until, warm
from wave_training import entries, last, train, words

import DiffusionNet
import train_diffusion
import train_vqvae
import VQVAENet
from engine import checkpoint
from models.blocks import labels, vq

# The end of a run draws pictures, which has no part in this.
NO_END = "import TrainingRun; TrainingRun.finish = lambda *a: {}\n"
SCRIPT = "train_vqvae.py"
SMALL = {
    "base_channels": 2, "encoder": "wavegrad", "predictor": "wavegrad", "cond_mult": 4, "dictionary_size": 8,
    "lr": 3e-3, "dead_rate": 3,
}  # fmt: skip
# of runs on a VQ-VAE that is there, whose sizes they take
AS_THERE = dict.fromkeys(("base_channels", "lr"))


def fit(folder, *data, **changes):
    return train(folder, *data, script=train_vqvae, **changes)


def weights(path, ema="none"):
    return VQVAENet.load(path, ema=ema)[0].state_dict()


def changed(before, after):
    """Return the names of what is not the same to the last bit; all must be there."""
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with warm(copy_tree(tmp_path_factory.mktemp("tree"))) as started:
        yield started


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fit(
        tmp_path_factory.mktemp("trained"), **SMALL, class_cond=True, max_steps=30, log_interval=5, ema="0.5",
        valid_list="tones", valid_windows=8, original_files=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Recordings of two speakers who are not among the tones."""
    folder = tmp_path_factory.mktemp("talk")
    for name, frequency in (("x", 200), ("y", 2000)):
        (folder / name).mkdir()
        for number in range(6):
            wave = 0.5 * np.sin(2 * np.pi * frequency * np.arange(300) / 16000 + number)
            soundfile.write(folder / name / f"{number}.wav", wave, 16000)
    return folder


# ---------------------------------------------------------------- learning


def test_a_vqvae_learns_with_several_codes(trained):
    recorded = [e for e in entries(trained) if "loss" in e]
    assert recorded[0]["noise_loss"] > 0.9 and recorded[-1]["noise_loss"] < 0.85
    assert recorded[-1]["loss"] == pytest.approx(recorded[-1]["noise_loss"] + recorded[-1]["vq_loss"], rel=1e-5)
    assert recorded[0]["codes_revived"] > 4 and recorded[-1]["codes_used"] > 2
    assert 2 < recorded[-1]["codes_perplexity"] <= recorded[-1]["codes_used"] and "q3" in recorded[-1]
    (valid,) = [e for e in entries(trained) if "valid_loss" in e]
    assert valid["valid_loss"] < 0.85 and 1 < valid["valid_perplexity"] <= valid["valid_codes_used"]


def test_averages_take_revived_codes_over_at_once(tmp_path):
    folder = fit(tmp_path, **SMALL | {"dead_rate": 1, "dictionary_size": 32}, max_steps=2, ema="0.99")
    stored = last(folder)
    averaged, own = stored["training"]["ema"][0.99], stored["state_dict"]
    same = (averaged["vq.dictionary"] == own["vq.dictionary"]).all(1)
    revived = entries(folder)[-1]["codes_revived"]
    assert revived > 32 and same.sum() >= 24 - 4  # at most so many of 24 positions' codes were in use
    assert torch.equal(averaged["vq.usage_count"], own["vq.usage_count"]) and (own["vq.usage_count"] == 1).all()


def test_the_model_says_what_it_is_in_both_layouts(trained):
    net, card = VQVAENet.load(trained / "checkpoints" / "last.pt")
    meta = card["meta"]
    assert meta["speakers"] == ["300Hz", "500Hz", "1000Hz"] and meta["window"] == 256 and not meta["none_label"]
    assert card["class"] == "models.WaveVQVAE" and not net.training and net.speakers == 3
    assert torch.equal(net.vq.dictionary, last(trained)["training"]["ema"][0.5]["vq.dictionary"])
    payload = checkpoint.read(trained / "model_ema_0.5.pt")
    assert payload["kwargs"] == {
        "pred_name": "wavegrad", "base_channels": 2, "schedule_name": "exp", "num_labels": 3, "cond_channels": 8,
        "dropout": 0.0, "enc_name": "wavegrad", "cond_mult": 4, "dictionary_size": 8,
    }  # fmt: skip
    theirs, other = VQVAENet.load(trained / "model_ema_0.5.pt")
    assert other["meta"]["step"] == 30 and other["meta"]["none_label"] is False
    x, t, label = 0.1 * torch.randn(2, 512), torch.rand(2), torch.tensor([0, 2])
    said = [VQVAENet.predict(n, VQVAENet.condition_of(n, x)[0], label)(x, t) for n in (net, theirs)]
    assert torch.equal(*said)
    assert changed(weights(trained / "model.pt"), last(trained)["state_dict"]) == set()


# ---------------------------------------------------------------- resume and ranks


def test_killed_it_goes_on_to_the_last_bit(server, tmp_path):
    def flags(folder):
        given = {
            **SMALL, "max_steps": 20, "batch_size": 4, "microbatch": 2, "ema": "0.9,0.5", "save_steps": 5,
            "class_cond": True, "no_class_prob": 0.3, "no_vq_prob": 0.3, "jitter": 0.2, "mixedprec": True,
            "valid_list": "tones", "valid_windows": 4, "test_interval_steps": 10, "log_interval": 4,
        }  # fmt: skip
        return words(folder, script=SCRIPT, **given)

    def launch(folder, code=""):
        return server.launch(*flags(folder), script=SCRIPT, code=NO_END + code)

    whole, stopped = launch(tmp_path / "whole"), launch(tmp_path / "run", STEPS.format(seconds=0.02))
    until(stopped, "STEP 12")
    stopped.kill()
    assert server.wait(stopped)[0] == -signal.SIGKILL
    code, text = server.wait(whole)
    assert code == 0, text
    assert 10 <= last(tmp_path / "run")["training"]["counters"]["step"] < 20
    code, text = server.wait(launch(tmp_path / "run"))
    assert code == 0 and "resumed from" in text, text
    assert differences(last(tmp_path / "whole"), last(tmp_path / "run")) == []
    names = ("loss", "vq_loss", "codes_used", "codes_revived")
    ends = [[e[name] for e in entries(tmp_path / f) if "loss" in e for name in names] for f in ("whole", "run")]
    assert ends[0] == ends[1] and sum(ends[0][3::4]) > 0


def test_two_ranks_equal_one_with_the_global_batch(server, tmp_path):
    shared = {
        **SMALL, "optimizer": "sgd", "lr": 0.01, "max_steps": 8, "valid_list": "tones", "valid_windows": 4,
        "class_cond": True, "no_class_prob": 0.3, "no_vq_prob": 0.3, "jitter": 0.2, "ema": "0.5",
    }  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # each rank shows its own codes
    shows = "import hashlib, VQVAENet as V\nfrom engine import distributed\n" + (
        "import train_vqvae as T\nfit = T.WaveTraining.fit\n"
        "def shown(state, *a, **k):\n"
        "    code = fit(state, *a, **k)\n"
        "    rows = state.module.vq.dictionary.detach().numpy().tobytes()\n"
        "    print('CODES', hashlib.sha256(rows).hexdigest())\n"
        "    return code\n"
        "T.WaveTraining.fit = shown\n"
    )
    runs = []
    for folder, size, ranks in (("one", 6, [None]), ("two", 3, ["0", "1"])):
        flags = words(tmp_path / folder, script=SCRIPT, batch_size=size, **shared)
        for rank in ranks:
            place = {} if rank is None else {"RANK": rank, "LOCAL_RANK": rank, **environment}
            runs.append(server.launch(*flags, script=SCRIPT, code=NO_END + shows, **place))
    codes = []
    for started in runs:
        code, text = server.wait(started)
        assert code == 0, text
        codes.append(text.split("CODES ")[1].split()[0])
    assert codes[1] == codes[2]
    a, b = last(tmp_path / "one"), last(tmp_path / "two")
    for name, tensor in a["state_dict"].items():
        assert (tensor - b["state_dict"][name]).float().norm() <= 1e-4 * tensor.float().norm() + 1e-6, name
    assert sum(e.get("codes_revived", 0) for e in entries(tmp_path / "two")) > 4
    for one, two in zip(entries(tmp_path / "one"), entries(tmp_path / "two"), strict=True):
        for key in one.keys() - {"utterances_per_second", "data_wait_percent", "grad_norm"}:
            assert two[key] == pytest.approx(one[key], rel=1e-3), key


def test_parts_of_a_batch_make_the_same_step(tmp_path):
    given = {**SMALL, "max_steps": 2, "optimizer": "sgd", "dead_rate": 100, "jitter": 0.5, "no_vq_prob": 0.3}
    whole, parts = fit(tmp_path / "a", **given), fit(tmp_path / "b", **given, microbatch=2, grad_checkpoint=True)
    a, b = last(whole)["state_dict"], last(parts)["state_dict"]
    for name, tensor in a.items():
        if name != "vq.usage_count":  # a part is a batch to it
            torch.testing.assert_close(b[name], tensor, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------- what does not learn


def test_frozen_parts_stay_and_codes_are_not_revived_beside_a_loss_for_them(tmp_path, trained):
    first = weights(trained / "checkpoints" / "last.pt", ema=None)
    given = {**AS_THERE, "initial_model": trained / "checkpoints" / "last.pt", "max_steps": 2, "class_cond": True}
    frozen = fit(tmp_path / "a", **given, freeze_encoder=True, freeze_vq=True, weight_decay=0.1)
    names = changed(first, last(frozen)["state_dict"])
    assert names and all(name.startswith("predictor.") for name in names - {"vq.usage_count"})
    only_codes = fit(tmp_path / "b", **given, freeze="predictor,encoder")
    assert {name for name in changed(first, last(only_codes)["state_dict"])} <= {"vq.dictionary", "vq.usage_count"}
    drawn = fit(tmp_path / "c", **given, revival_coeff=0.1, log_interval=1)
    assert all(e["codes_revived"] == 0 for e in entries(drawn))


def test_added_speakers_change_nothing_but_labels(trained, talk, tmp_path):
    path = trained / "checkpoints" / "last.pt"
    folder = fit(
        tmp_path, talk, **AS_THERE | {"lr": 0.01}, initial_model=path, class_cond=True, add_speakers=True, ema="0.5",
        max_steps=4, weight_decay=0.5, valid_list=talk, valid_windows=4,
    )  # fmt: skip
    first, stored = weights(path, ema=None), last(folder)
    meta = stored["meta"]
    assert meta["speakers"] == ["300Hz", "500Hz", "1000Hz", "x", "y"] and stored["kwargs"]["num_labels"] == 5
    for after in (stored["state_dict"], stored["training"]["ema"][0.5]):
        names = changed(first, after)
        tables = {name for name in first if name.endswith(tuple(labels.TABLES))}
        assert names - {"vq.usage_count"} == tables and len(tables) == 15
        for name in tables:
            assert torch.equal(after[name][:3], first[name]) and after[name][3:].any()
    again = pytest.raises(ValueError, match=r"has speaker 300Hz \(of 3\) already")
    with again:
        fit(tmp_path / "x", **AS_THERE, initial_model=path, class_cond=True, add_speakers=True, max_steps=1)


@pytest.mark.parametrize("source", ["ours", "original"])
def test_for_guidance_the_labels_move_up_by_one(source, trained, tmp_path):
    path = trained / ("checkpoints/last.pt" if source == "ours" else "model_ema_0.5.pt")
    folder = fit(
        tmp_path / "free", **AS_THERE, initial_model=path, class_cond=True, no_class_prob=0.4, no_vq_prob=0.3,
        max_steps=1, ema="0",
    )  # fmt: skip
    was, (net, card) = VQVAENet.load(path)[0], VQVAENet.load(folder / "checkpoints" / "last.pt")
    assert net.none_label and net.speakers == 3 and card["meta"]["no_vq_prob"] == 0.3
    x, t, label = 0.1 * torch.randn(2, 256), torch.rand(2), torch.tensor([0, 2])
    net.network.load_state_dict(labels.add_none_label(was.state_dict())[0])
    cond, _ = VQVAENet.condition_of(net, x)
    assert torch.equal(VQVAENet.predict(net, cond, label)(x, t), VQVAENet.predict(was, cond, label)(x, t))
    assert VQVAENet.predict(net, None)(x, t).shape == x.shape
    if source == "ours":
        return
    # a network with a label for none keeps it, and is told of in the card
    more = fit(tmp_path / "more", **AS_THERE, initial_model=folder / "checkpoints" / "last.pt", class_cond=True,
               max_steps=1)  # fmt: skip
    assert last(more)["kwargs"]["num_labels"] == 4 and last(more)["meta"]["no_class_prob"] == 0.4


# ---------------------------------------------------------------- what it begins with


def test_a_diffusion_model_or_a_vqvae_to_begin_with(trained, tmp_path, capsys):
    of_waves = train(
        tmp_path / "d", model="wavegrad", base_channels=2, max_steps=1, class_cond=True, cond_dropout=0.2, ema="0"
    )
    given = {**SMALL, "cond_mult": 16, "lr": 0.0, "max_steps": 1, "class_cond": True, "ema": "0"}
    folder = fit(tmp_path / "v", **given, initial_model=of_waves / "checkpoints" / "last.pt")
    theirs, stored = last(of_waves)["state_dict"], last(folder)
    assert all(torch.equal(stored["state_dict"][name], tensor) for name, tensor in theirs.items())
    assert stored["meta"]["none_label"] and stored["meta"]["no_class_prob"] == 0.2
    capsys.readouterr()
    again = fit(tmp_path / "w", **AS_THERE | {"lr": 0.0}, initial_model=trained / "model.pt", max_steps=1, ema="0")
    first, after = weights(trained / "model.pt"), last(again)["state_dict"]
    assert "parameters are those of" in capsys.readouterr().out and last(again)["kwargs"]["num_labels"] is None
    assert all(
        torch.equal(tensor, first[name]) for name, tensor in after.items() if name in first and "vq." not in name
    )
    again = fit(tmp_path / "y", **SMALL | {"encoder": "unet128"}, initial_model=trained / "model.pt", max_steps=1)
    assert last(again)["kwargs"]["enc_name"] == "unet128"


def test_an_encoder_predictor_learns(trained, tmp_path):
    path = trained / "checkpoints" / "last.pt"
    folder = fit(
        tmp_path, encoder_predictor=path, base_channels=4, lr=5e-3, batch_size=6, max_steps=25, log_interval=5,
        curriculum_steps=200, valid_list="tones", valid_windows=16, original_files=True, ema="0.5",
    )  # fmt: skip
    recorded = [e for e in entries(folder) if "loss" in e]
    assert recorded[-1]["loss"] < 0.85 * recorded[0]["loss"] and recorded[-1]["accuracy"] > 30  # of 8 codes
    figures = entries(folder)[-1]
    assert figures["valid_accuracy_t0"] > 30 and {"valid_loss", "valid_accuracy_t0.75"} < set(figures)
    network, card = DiffusionNet.load_network(folder / "checkpoints" / "last.pt", "encoder_predictor")
    assert (network.downsample_rate, network.num_latents) == (64, 8) and card["meta"]["vqvae"]["file"] == "last.pt"
    other, _ = DiffusionNet.load_network(folder / "model_ema_0.5.pt", "encoder_predictor")
    assert changed(network.state_dict(), other.state_dict()) == set()
    more = fit(tmp_path / "more", encoder_predictor=path, base_channels=4, lr=0.0, max_steps=1,
               initial_model=folder / "model.pt")  # fmt: skip
    assert changed(weights_of(folder / "model.pt"), last(more)["state_dict"]) == set()


def weights_of(path):
    return checkpoint.read(path)["state_dict"]


# ---------------------------------------------------------------- short runs, and the record of codes


@pytest.mark.parametrize("script", [train_diffusion, train_vqvae])
def test_a_run_shorter_than_an_interval_of_the_log_ends_with_its_curves(script, tmp_path):
    given = SMALL if script is train_vqvae else {"model": "wavegrad", "base_channels": 2}
    folder = train(tmp_path, script=script, whole=True, max_steps=3, **given)
    assert [e["step"] for e in entries(folder)] == [3]
    assert (folder / "result" / "training_curves.png").is_file() and (folder / "result.json").is_file()


def test_the_use_of_codes_begins_anew_with_every_entry_of_the_log():
    usage = vq.CodeUsage(4)
    usage.add(torch.tensor([[0, 0], [1, 1]]))
    usage.add_revived(torch.tensor([False, False, True, True]))
    again = vq.CodeUsage(4)
    again.load_state_dict(usage.state_dict())
    assert usage.named_means("x_") == again.named_means("x_")
    assert again.named_means() == {"used": 0, "perplexity": 1, "revived": 0}
    usage.add(torch.tensor([3, 3, 3]))
    assert usage.named_means("x_") == {"x_used": 1, "x_perplexity": 1, "x_revived": 0}
    with pytest.raises(ValueError, match="the use of 4 codes does not fit 5"):
        vq.CodeUsage(5).load_state_dict(usage.state_dict())
