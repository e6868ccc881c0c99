"""The trainer of attribute encoders: it learns, goes on to the last bit, is the same on several ranks, makes codes."""

import argparse
import json
import shutil
import signal
import socket

import numpy as np
import pytest
import torch
from conftest import DATA, ROOT
from test_resume import STEPS, differences
from tree import copy_tree
from warm import until, warm

import AttributeNet
import EmbeddingLoader
import train_attributes
from engine import checkpoint, foreign
from engine.args import read_config
from scoring.codes import Codes, read_codes, write_codes
from scoring.embeddings import Table, joined, read_table, write_table

DIM, BITS = 16, 32
META = {"checkpoint": "best.pt", "sha256": "0123456789ab", "wav_scale": 1.0}
# The end of a run draws pictures, which has no part in this.
NO_END = "import train_attributes; train_attributes.finish = lambda *a: {}\n"
# BatchNorm's statistics are of one process; without it two processes can be compared with one to the last digits.
PLAIN = """
from torch import nn
from models import AttributeEncoder

class MainModel(AttributeEncoder.MainModel):
    TASK = "attributes"

    def __init__(self, input_dim=256, internal_dim=512):
        super().__init__(input_dim, internal_dim)
        self.encoder[2] = nn.Identity()
"""
DENSITY = """
from torch import nn

class LossFunction(nn.Module):
    TASK = "attributes"

    def __init__(self, density_wanted):
        super().__init__()
        self.wanted = density_wanted

    @staticmethod
    def add_arguments(parser):
        parser.add_argument("--density_wanted", type=float, default=0.5, help="share of ones")

    def forward(self, input, labels, code, reconstruction, z):
        return (code.mean() - self.wanted).abs()
"""


def write_set(folder, speakers, each=12, seed=0, first=0, dim=DIM):
    """Write e.npz and list.txt of embeddings in clusters, a speaker each; return the flags' values."""
    draw = np.random.default_rng(seed)
    centres = 0.5 * draw.standard_normal((speakers, dim))
    vectors = np.repeat(centres, each, axis=0) + 0.1 * draw.standard_normal((speakers * each, dim))
    names = [f"spk{first + s:03d}/{i}.wav" for s in range(speakers) for i in range(each)]
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(np.array([n.encode() for n in names]), vectors.astype(np.float32), np.full(len(names), 3.0), META)
    write_table(folder / "e.npz", table)
    (folder / "list.txt").write_text("".join(f"{name.split('/')[0]} {name}\n" for name in names))
    return folder / "e.npz", folder / "list.txt"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return *write_set(folder / "train", 24), *write_set(folder / "valid", 7, 9, seed=1, first=100)


def words(sets, folder, **changes):
    """Return the flags of a short training; None leaves one out."""
    flags = {
        "train_embeddings": sets[0], "train_list": sets[1], "valid_embeddings": sets[2], "valid_list": sets[3],
        "internal_dim": BITS, "classes_per_batch": 8, "samples_per_class": 4, "trainfunc": "mse", "max_epoch": 40,
        "test_interval": 10, "lr": 0.003, "device": "cpu", "save_path": folder, **changes,
    }  # fmt: skip
    return [str(word) for name, value in flags.items() if value is not None for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert train_attributes.main(words(sets, folder, trainfunc="mse+triplet+arcface+sparsity")) == 0
    return folder


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_tells(trained):
    recorded = entries(trained)
    losses = [e["train/MSE"] for e in recorded if "train/MSE" in e]
    assert losses[-1] < 0.5 * losses[0]
    tests = [e for e in recorded if "test/MSE" in e]
    assert [e["step"] for e in tests] == [30, 60, 90, 120] and tests[-1]["test/MSE"] < 0.7 * tests[0]["test/MSE"]
    for name in ("total_loss", "MSE", "Triplet", "ArcFace", "Sparsity"):
        assert any(f"train/{name}" in e for e in recorded)
    assert "test/ArcFace" not in tests[0] and {"test/Triplet", "test/Sparsity", "test/rate"} < set(tests[0])
    assert "arcface is of the training speakers" in (trained / "result" / "scores.txt").read_text()
    done = json.loads((trained / "result.json").read_text())
    best = min(tests, key=lambda e: e["test/total_loss"])
    assert done["status"] == "done" and done["best_step"] == best["step"]
    assert done["metrics"]["val_total_loss"] == best["test/total_loss"]
    assert {"args.yaml", "tb", "checkpoints"} < {path.name for path in trained.iterdir()}
    meta = checkpoint.read(trained / "checkpoints" / "best.pt")["meta"]
    assert meta["embeddings"] == META and meta["trainfunc"]["arcface"] == 0.001


def test_a_training_loss_is_the_weighted_sum_and_the_validation_of_the_whole_set(trained, sets):
    for e in entries(trained):
        for part, names in (
            ("train", ("MSE", "Triplet", "ArcFace", "Sparsity")),
            ("test", ("MSE", "Triplet", "Sparsity")),
        ):
            if f"{part}/total_loss" in e:
                weights = {"MSE": 1, "Triplet": 1, "ArcFace": 0.001, "Sparsity": 0.0001}
                assert e[f"{part}/total_loss"] == pytest.approx(
                    sum(weights[n] * e[f"{part}/{n}"] for n in names), rel=1e-5
                )
    network, _ = foreign.read_network(trained / "checkpoints" / "best.pt", "attributes")
    x = torch.from_numpy(read_table(sets[2]).vectors)
    with torch.no_grad():
        reconstruction, code, _ = network.eval()(x)
    figures = json.loads((trained / "result.json").read_text())["metrics"]
    assert figures["val_MSE"] == pytest.approx(float((reconstruction - x).square().mean()), rel=1e-5)
    spread = (x - x.mean(0)).square().mean()
    assert figures["val_variance_left"] == pytest.approx(float((reconstruction - x).square().mean() / spread), rel=1e-4)
    assert figures["val_rate"] == pytest.approx(float(code.mean()), rel=1e-6)
    assert figures["val_dead_attributes"] == int((code.sum(0) == 0).sum())


def test_every_recording_is_validated_once_in_batches_like_those_of_training():
    labels = np.random.default_rng(0).integers(0, 5, 103)
    batches = EmbeddingLoader.validation_batches(labels, 4, 3)
    assert sorted(np.concatenate(batches)) == list(range(103))
    assert {len(b) for b in batches[:-1]} == {12} and len(np.unique(labels[batches[0]])) == 4
    again = EmbeddingLoader.validation_batches(labels, 4, 3)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again))


@pytest.mark.parametrize("sampler", EmbeddingLoader.SAMPLERS)
def test_batches_follow_from_seed_and_epoch_and_begin_anywhere(sets, sampler):
    args = argparse.Namespace(
        sampler=sampler, classes_per_batch=8, samples_per_class=4, drop_last=False, seed=3, allow_other_embeddings=False
    )
    data = EmbeddingLoader.read_set([sets[0]], sets[1], args, torch.device("cpu"))
    one, two = EmbeddingLoader.SetLoader(data, args), EmbeddingLoader.SetLoader(data, args)
    one.set_epoch(5)
    whole = list(one)
    assert len(whole) == len(one) and all(len(x) == 32 for x, _ in whole)
    two.set_epoch(5, 2)
    for (x, labels), (expected, speakers) in zip(list(two), whole[2:], strict=True):
        assert torch.equal(x, expected) and torch.equal(labels, speakers)
        assert (labels.bincount(minlength=24) % 4 == 0).all()
    one.set_epoch(6)
    assert not torch.equal(next(iter(one))[0], whole[0][0])


# ---------------------------------------------------------------- resume and ranks


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = copy_tree(tmp_path_factory.mktemp("tree"))
    (folder / "models" / "PlainEncoder.py").write_text(PLAIN)
    (folder / "loss" / "code_density.py").write_text(DENSITY)
    return folder


@pytest.fixture(scope="module")
def server(tree):
    with warm(tree) as started:
        yield started


def launch(server, flags, code="", **environment):
    return server.launch(*flags, script="train_attributes.py", code=NO_END + code, **environment)


def last(folder):
    return checkpoint.read(folder / "checkpoints" / "last.pt")


def test_killed_it_goes_on_to_the_last_bit(server, sets, tmp_path):
    def flags(folder):
        given = {"trainfunc": "mse+triplet+arcface+sparsity", "ema": 0.9, "mixedprec": True, "accumulate": 2}
        steps = {"max_steps": 20, "max_epoch": 99, "sampler": "exhaustive", "save_steps": 5, "test_interval_steps": 7}
        return words(sets, folder, **given, **steps, scheduler="cosine", clip_grad=1)

    code, text = server.wait(launch(server, flags(tmp_path / "whole")))
    assert code == 0, text
    stopped = launch(server, flags(tmp_path / "run"), STEPS.format(seconds=0.02))
    until(stopped, "STEP 12")
    stopped.kill()
    assert server.wait(stopped)[0] == -signal.SIGKILL
    assert 10 <= last(tmp_path / "run")["training"]["counters"]["step"] < 20
    code, text = server.wait(launch(server, flags(tmp_path / "run")))
    assert code == 0 and "resumed from" in text, text
    assert differences(last(tmp_path / "whole"), last(tmp_path / "run")) == []


def test_two_ranks_equal_one_with_the_global_batch(server, sets, tmp_path):
    given = {"model": "PlainEncoder", "trainfunc": "mse+triplet+0.1*arcface+0.01*sparsity", "max_epoch": 3}
    shared = {**given, "optimizer": "sgd", "lr": 0.01, "test_interval": 3}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    flags = words(sets, tmp_path / "two", classes_per_batch=6, **shared)
    ranks = [launch(server, flags, RANK=r, LOCAL_RANK=r, **environment) for r in ("0", "1")]
    one = launch(server, words(sets, tmp_path / "one", classes_per_batch=12, **shared))
    for started in (one, *ranks):
        code, text = server.wait(started)
        assert code == 0, text
    assert "global batch: 12 speakers x 4 recordings" in ranks[0].text()
    a, b = last(tmp_path / "one"), last(tmp_path / "two")
    assert a["training"]["counters"]["step"] == b["training"]["counters"]["step"] == 6
    assert a["training"]["counters"]["samples"] == b["training"]["counters"]["samples"]
    for name, tensor in a["state_dict"].items():
        other = b["state_dict"][name].double()  # under the same names, without "module."
        assert (tensor - other).norm() <= 1e-5 * tensor.double().norm(), name
    train = [
        [e["train/total_loss"] for e in entries(tmp_path / name) if "train/total_loss" in e] for name in ("one", "two")
    ]
    assert train[1] == pytest.approx(train[0], rel=1e-4)


# ---------------------------------------------------------------- losses by name


def test_sums_of_losses_are_read():
    assert AttributeNet.parse_trainfunc(["mse+0.1*sparsity"]) == {"mse": None, "sparsity": 0.1}
    assert AttributeNet.parse_trainfunc(["mse", "1e-4 * sparsity"]) == {"mse": None, "sparsity": 1e-4}
    assert AttributeNet.parse_trainfunc(["1e+2*mse + triplet"]) == {"mse": 100, "triplet": None}
    modules, weights = AttributeNet.build_losses(
        {"mse": None, "arcface": None, "sparsity": 2}, {"internal_dim": 4, "nClasses": 3, "samples_per_class": 2}
    )
    assert weights == {"mse": 1.0, "arcface": 0.001, "sparsity": 2} and modules["arcface"].W.shape == (4, 3)


def test_a_dropped_in_loss_trains_by_its_short_name(server, sets, tmp_path):
    flags = words(sets, tmp_path, trainfunc=None, density_wanted=0.1, max_epoch=16, test_interval=16, lr=0.01)
    (tmp_path / "c.yaml").write_text("trainfunc: [mse, 2*density]\n")
    code, text = server.wait(launch(server, [*flags, "--config", tmp_path / "c.yaml"]))
    assert code == 0 and "loss: 1 * mse + 2 * density" in text, text
    rates = [e["test/rate"] for e in entries(tmp_path) if "test/rate" in e]
    assert abs(rates[-1] - 0.1) < 0.1 and "train/density" in entries(tmp_path)[0]


@pytest.mark.parametrize("name", ["demo", "so762", "voxceleb2_mse"])
def test_configs_are_read(name):
    config = ROOT / "configs" / "attributes" / f"{name}.yaml"
    given = ["--config", str(config), "--train_list", "l.txt", "--train_embeddings", "e.npz"]
    args = train_attributes.read_flags(given)
    assert args.batch_size == args.classes_per_batch * args.samples_per_class
    for name, value in read_config(config).items():
        got = getattr(args, name)
        assert got == ([value] if isinstance(got, list) else value)


# ---------------------------------------------------------------- codes


def make_codes(*flags):
    assert train_attributes.main([str(flag) for flag in ("--device", "cpu", *flags)]) == 0


def test_codes_are_those_of_the_network(trained, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(AttributeNet, "ENCODE_BATCH", 20)
    make_codes("--binarize", "--save_path", trained, "--embeddings", sets[2], "--out", tmp_path / "c.npz",
               "--vectors_to", tmp_path / "tree", "--vector_format", "txt")  # fmt: skip
    codes, table = read_codes(tmp_path / "c.npz"), read_table(sets[2])
    network, _ = foreign.read_network(trained / "checkpoints" / "best.pt", "attributes")
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(table.vectors))[1].numpy()
    assert np.array_equal(codes.bits, expected) and 0 < codes.bits.mean() < 1
    assert np.array_equal(codes.names, table.names) and np.array_equal(codes.seconds, table.seconds)
    assert codes.meta["embeddings"] == META and codes.meta["encoder"] == "best.pt" and codes.meta["attributes"] == BITS
    vector = np.loadtxt(tmp_path / "tree" / "spk103" / "4_ba.txt")
    assert np.array_equal(vector[:, 0], codes.take(["spk103/4.wav"]).bits[0]) and (vector.sum(1) == 1).all()
    (tmp_path / "two.txt").write_text("spk106/1.wav\nspk100/8.wav\n")
    make_codes("--binarize", "--initial_model", trained / "checkpoints" / "best.pt", "--embeddings", sets[2],
               "--list", tmp_path / "two.txt", "--out", tmp_path / "d.npz")  # fmt: skip
    part = read_codes(tmp_path / "d.npz")
    assert np.array_equal(part.bits, codes.take(["spk106/1.wav", "spk100/8.wav"]).bits)


def test_exported_weights_are_plain_and_make_the_same_codes(trained, sets, tmp_path, capsys):
    make_codes("--export", tmp_path / "plain.pt", "--save_path", trained)
    plain = torch.load(tmp_path / "plain.pt", weights_only=True)
    stored = checkpoint.read(trained / "checkpoints" / "best.pt")["state_dict"]
    assert len(plain) == 13 and all(torch.equal(tensor, stored[f"__S__.{name}"]) for name, tensor in plain.items())
    make_codes(
        "--binarize", "--initial_model", tmp_path / "plain.pt", "--embeddings", sets[2], "--out", tmp_path / "a.npz"
    )
    assert "does not say what embeddings it is for" in capsys.readouterr().out
    make_codes("--binarize", "--save_path", trained, "--embeddings", sets[2], "--out", tmp_path / "b.npz")
    assert np.array_equal(read_codes(tmp_path / "a.npz").bits, read_codes(tmp_path / "b.npz").bits)


def test_embeddings_are_rebuilt_from_the_codes_alone(trained, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(AttributeNet, "ENCODE_BATCH", 20)
    (tmp_path / "two.txt").write_text("spk106/1.wav\nspk100/8.wav\n")
    given = ["--binarize", "--save_path", trained, "--embeddings", sets[2], "--list", tmp_path / "two.txt"]
    make_codes(*given, "--out", tmp_path / "c.npz", "--reconstruction", tmp_path / "r.npz")
    codes, rebuilt = read_codes(tmp_path / "c.npz"), read_table(tmp_path / "r.npz")
    network, _ = foreign.read_network(trained / "checkpoints" / "best.pt", "attributes")
    with torch.no_grad():
        expected = network.eval().decoder(torch.from_numpy(codes.bits).float()).numpy()
    np.testing.assert_allclose(rebuilt.vectors, expected, rtol=1e-5, atol=1e-6)
    assert rebuilt.names.tolist() == codes.names.tolist() == [b"spk106/1.wav", b"spk100/8.wav"]
    sha256 = codes.meta["encoder_sha256"]
    assert rebuilt.meta == {**META, "encoder": "best.pt", "encoder_sha256": sha256}
    assert f"rebuilt from the bits of best.pt (sha256 {sha256})" in rebuilt.describe()
    # they are not what the encoder was trained on
    with pytest.raises(ValueError, match="rebuilt from the bits of best.pt"):
        make_codes(
            "--binarize", "--save_path", trained, "--embeddings", tmp_path / "r.npz", "--out", tmp_path / "d.npz"
        )


@pytest.mark.skipif(not (DATA / "BAE_mse.pt").is_file(), reason="no BAE_mse.pt in $VOXLAB_DATA")
def test_the_published_encoder_binarises_and_is_written_as_it_was(tmp_path):
    table, _ = write_set(tmp_path / "set", 5, dim=256)
    make_codes("--binarize", "--initial_model", DATA / "BAE_mse.pt", "--embeddings", table, "--out", tmp_path / "c.npz",
               "--export", tmp_path / "again.pt")  # fmt: skip
    one, two = (torch.load(p, "cpu", weights_only=True) for p in (DATA / "BAE_mse.pt", tmp_path / "again.pt"))
    assert list(one) == list(two) and all(torch.equal(one[n], two[n]) and one[n].dtype == two[n].dtype for n in one)
    network, _ = foreign.read_network(tmp_path / "again.pt", "attributes")
    with torch.no_grad():
        code = network.eval()(torch.from_numpy(read_table(table).vectors))[1].numpy()
    assert np.array_equal(read_codes(tmp_path / "c.npz").bits, code)


def test_a_network_goes_on_from_weights_and_from_several_tables(trained, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(train_attributes.plots, "training_curves", lambda *_: None)
    more = write_set(tmp_path / "more", 8, seed=2, first=50)
    (tmp_path / "both.txt").write_text(sets[1].read_text() + more[1].read_text())
    flags = words(sets, tmp_path / "run", train_list=tmp_path / "both.txt", max_epoch=1, train_embeddings=None,
                  initial_model=trained / "checkpoints" / "best.pt")  # fmt: skip
    assert train_attributes.main([*flags, "--train_embeddings", str(sets[0]), str(more[0])]) == 0
    first = json.loads((trained / "result.json").read_text())["metrics"]["val_MSE"]
    assert [e["test/MSE"] for e in entries(tmp_path / "run") if "test/MSE" in e][0] < 1.5 * first
    both = joined([read_table(sets[0]), read_table(more[0])])
    assert len(both.names) == 24 * 12 + 8 * 12
    with pytest.raises(ValueError, match="is in an earlier table too"):
        joined([both, read_table(more[0])])


def test_codes_are_packed_and_read_back(tmp_path):
    draw = np.random.default_rng(0)
    for attributes in (1, 8, 13):
        bits = (draw.random((5, attributes)) < 0.5).astype(np.uint8)
        codes = Codes(np.array([b"a", b"b", b"c", b"d", b"ee"]), bits, np.ones(5, np.float32), {"encoder": "x.pt"})
        write_codes(tmp_path / "c.npz", codes)
        found = read_codes(tmp_path / "c.npz")
        assert np.array_equal(found.bits, bits) and found.meta == codes.meta
        assert np.array_equal(found.take(["ee", "a"]).bits, bits[[4, 0]])
        with pytest.raises(ValueError, match="no code of z"):
            found.rows(["a", "z"])
    codes.bits[2, 3] = 2
    with pytest.raises(ValueError, match=r"not binary, 2 at \[2, 3\]"):
        write_codes(tmp_path / "c.npz", codes)
    assert np.array_equal(read_codes(tmp_path / "c.npz").bits, bits & 1 | (bits >> 1))


def test_codes_of_other_sizes_are_refused(tmp_path):
    arrays = {"names": np.array([b"a", b"b"]), "packed": np.full((2, 2), 255, np.uint8), "attributes": np.array(16),
              "seconds": np.ones(2, np.float32), "meta": np.array("{}")}  # fmt: skip
    np.savez(tmp_path / "c.npz", **arrays)
    assert read_codes(tmp_path / "c.npz").bits.shape == (2, 16)
    wrong = [({"attributes": np.array(13)}, "bits after the last"), ({"attributes": np.array(17)}, "do not agree"),
             ({"attributes": np.array(-4)}, "do not agree"), ({"names": np.array([b"a"])}, "do not agree"),
             ({"packed": np.zeros((2, 2), np.uint16)}, "do not agree")]  # fmt: skip
    for change, message in wrong:
        np.savez(tmp_path / "c.npz", **arrays | change)
        with pytest.raises(ValueError, match=message):
            read_codes(tmp_path / "c.npz")
    shutil.copy(ROOT / "README.md", tmp_path / "c.npz")
    with pytest.raises(ValueError, match="damaged or not an .npz file"):
        read_codes(tmp_path / "c.npz")
