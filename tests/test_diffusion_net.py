"""Diffusion models beside their training: conditions up to the prediction, files, first weights, data and flags."""

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from golden_recipes import golden_dir
from wave_training import last, small_networks, train, words, write_small

import DatasetLoader
import DiffusionNet
import train_classifier
import train_diffusion
import WaveSets
from audio.tones import Tones
from audio.window_data import held_out
from diffusion import objective
from engine import checkpoint, registry
from engine.args import read_config
from scoring.codes import Codes, write_codes
from scoring.embeddings import Table, write_table


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    for name in ("models", "optimizer", "scheduler", "loss"):
        (folder / name).mkdir()
        for path in (ROOT / name).glob("*.py"):
            (folder / name / path.name).symlink_to(path)
    write_small(folder / "models")
    with small_networks(folder):
        yield


# ---------------------------------------------------------------- conditions


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An embedding table and a code table of the utterances of tones: what tells their speakers apart."""
    folder, tones = tmp_path_factory.mktemp("tables"), Tones()
    names, seconds = np.array([name.encode() for name in tones.names()]), np.ones(30, np.float32)
    vectors = 7 + 3 * np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)[tones.labels]
    write_table(folder / "e.npz", Table(names, vectors, seconds, {"checkpoint": "x", "sha256": "1", "wav_scale": 1.0}))
    bits = np.eye(3, dtype=np.uint8)[tones.labels]
    write_codes(folder / "c.npz", Codes(names, bits, seconds, {"encoder": "x", "attributes": 3}, ""))
    return {"e": folder / "e.npz", "c": folder / "c.npz", "vectors": vectors, "bits": bits}


@pytest.mark.parametrize("kind, size", [("e", 5), ("c", 3)])
def test_vectors_are_a_condition_from_training_to_samples(kind, size, tables, tmp_path):
    folder = train(tmp_path, cond_embeddings=tables[kind], cond_dropout=0.2, max_steps=12, class_cond=True)
    net, card = DiffusionNet.load(folder / "checkpoints" / "last.pt")
    raw = torch.from_numpy(tables["vectors" if kind == "e" else "bits"].astype(np.float32))
    assert net.cond_dim == size and net.speakers == 3 and net.predictor.num_labels == 4
    # the network sees numbers about zero; all bits of a code are -1 or 1
    seen = net.standard(raw)
    if kind == "e":
        assert seen.mean(0).abs().max() < 1e-5 and seen.square().mean() == pytest.approx(1, rel=1e-4)
    else:
        assert set(seen.unique().tolist()) == {-1.0, 1.0}
    assert card["meta"]["cond"]["tables"][0]["file"] == tables[kind].name
    x, t, label = torch.randn(2, 256), torch.tensor([0.3, 0.8]), torch.tensor([0, 2])
    with torch.no_grad():
        predict = DiffusionNet.predict
        full = predict(net, label, raw[:2])(x, t)
        assert not torch.equal(full, predict(net, label, raw[1:3])(x, t))
        no_label, no_vector = predict(net, None, raw[:2])(x, t), predict(net, label, None)(x, t)
        none = predict(net)(x, t)
        assert not torch.equal(none, no_label) and not torch.equal(none, no_vector)
        guided = predict(net, label, raw[:2], label_scale=0.5, vector_scale=2.0)(x, t)
        expected = full + 0.5 * (full - no_label) + 2 * (full - no_vector)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_vector_and_dropping_it_is_the_condition_none(tables):
    cls = registry.load("models", "SmallUNet", "diffusion")
    net = DiffusionNet.DiffusionNet(cls(num_labels=4, cond_dim=3), cond_dropout=0.5)
    with torch.no_grad():  # last convolutions start at zero: what is between them would not matter
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x0, eps, t = torch.randn(2, 256), torch.randn(2, 256), torch.tensor([0.2, 0.7])
    label, vector = torch.tensor([1, 2]), torch.randn(2, 3, requires_grad=True)
    kept, dropped = torch.full((2, 2), 0.9), torch.full((2, 2), 0.1)
    net(x0, t, eps, label, vector, kept).sum().backward()
    assert vector.grad.abs().min() > 0 and net.predictor.class_embed.weight.grad[2:].abs().sum() > 0
    assert net.predictor.class_embed.weight.grad[:2].abs().sum() == 0  # speakers follow label 0, "none"
    net.zero_grad()
    losses = net(x0, t, eps, label, vector, dropped)
    expected = objective.losses(
        lambda x, t: net.predictor(x, t, label=torch.zeros(2, dtype=torch.int64), vector=torch.zeros(2, 3)),
        x0[:, None], t, eps[:, None], "exp",
    )  # fmt: skip
    assert torch.equal(losses, expected)
    losses.sum().backward()
    assert net.predictor.class_embed.weight.grad[0].abs().sum() > 0


def test_what_predictions_need_and_refuse(tmp_path):
    folder = train(tmp_path, class_cond=True, target="v", max_steps=2)
    net, card = DiffusionNet.load(folder / "checkpoints" / "last.pt")
    x, t = torch.randn(2, 1, 256), torch.tensor([0.3, 0.8])
    eps = DiffusionNet.predict(net, torch.tensor([0, 2]))(x, t)
    v = net.predictor(x, t, label=torch.tensor([0, 2]))
    expected = objective.to_eps(x, v, DiffusionNet.schedules.alpha_bar("exp", t.double()), "v")
    torch.testing.assert_close(eps, expected)
    label = torch.tensor([0, 3])
    for arguments, message in (
        ((), "needs a label"), ((label,), "label 3: this network has the labels 0 to 2"),
        ((label[:1], torch.zeros(1, 3)), "without vectors"), ((label[:1], None, 1.0), "without --cond_dropout"),
        ((None, None, 1.0), "needs a label to guide to"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            DiffusionNet.predict(net, *arguments)
    assert DiffusionNet.speaker_label(card, net, "500Hz") == 1 and DiffusionNet.speaker_label(card, net, "2") == 2
    with pytest.raises(ValueError, match="nearest: 500Hz"):
        DiffusionNet.speaker_label(card, net, "501Hz")


# ---------------------------------------------------------------- beginning from other weights


@pytest.mark.parametrize("name", ["ours", "original"])
def test_a_classifier_begins_as_the_diffusion_model_does(name, tmp_path):
    path, changes = golden_dir("diffusion") / "checkpoints" / "tiny_unet.pt", {}
    if name == "ours":
        path = train(tmp_path / "first", max_steps=2) / "checkpoints" / "last.pt"
    else:
        changes = {"model": "WaveClassifier", "base_channels": 1, "window_seconds": 0.032}
    folder = train(
        tmp_path / "run", script=train_classifier, max_steps=1, lr=0, ema="0", pretrained_path=path, **changes
    )
    lines = (folder / "result" / "scores.txt").read_text()
    source, own = DiffusionNet.load(path)[0].predictor.state_dict(), last(folder)["state_dict"]
    shared = [n for n in source if n.startswith(("time_embed", "in_conv", "down_blocks"))]
    assert f"{len(shared)} of {len(own)} parameters are those of {path}" in lines
    for n in shared:
        assert torch.equal(own["stem." + n.replace("down_blocks", "blocks")], source[n]), n


def test_a_model_without_labels_dropped_can_go_on_with_it(tmp_path):
    first = train(tmp_path / "first", class_cond=True, max_steps=2, ema="0")
    again = train(
        tmp_path / "again", class_cond=True, cond_dropout=0.1, max_steps=1, lr=0, ema="0",
        initial_model=first / "checkpoints" / "last.pt",
    )  # fmt: skip
    a, b = last(first)["state_dict"], last(again)["state_dict"]
    assert torch.equal(b["predictor.class_embed.weight"][1:], a["predictor.class_embed.weight"])
    assert all(torch.equal(b[n], a[n]) for n in a if "class_embed" not in n)
    with pytest.raises(ValueError, match="cannot start this network"):
        train(tmp_path / "other", base_channels=4, initial_model=first / "checkpoints" / "last.pt")


@pytest.mark.parametrize("dropout", [0.0, (0.0,), None, "bare"])
def test_files_of_the_original_load_in_all_their_variants(dropout, tmp_path):
    payload = checkpoint.read(golden_dir("diffusion") / "checkpoints" / "tiny_unet.pt")
    expected, _ = DiffusionNet.load(golden_dir("diffusion") / "checkpoints" / "tiny_unet.pt")
    payload["kwargs"]["dropout"] = dropout
    if dropout is None:
        del payload["kwargs"]["dropout"]
    if dropout == "bare":
        payload = {name.removeprefix("predictor."): tensor for name, tensor in payload["state_dict"].items()}
        torch.save(payload, tmp_path / "x.pt")
        with pytest.raises(ValueError, match="does not say its schedule"):
            DiffusionNet.load(tmp_path / "x.pt")
    torch.save(payload, tmp_path / "x.pt")
    net, card = DiffusionNet.load(tmp_path / "x.pt", schedule="exp")
    assert card["meta"]["encoding"] == "linear" and card["meta"]["speakers"] is None
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="schedule exp, not cos" if dropout != "bare" else "one set of weights"):
        DiffusionNet.load(tmp_path / "x.pt", **({"ema": "0.9"} if dropout == "bare" else {"schedule": "cos"}))
    DiffusionNet.save_original(tmp_path / "y.pt", net, {"step": 3})
    again, card = DiffusionNet.load(tmp_path / "y.pt")
    assert card["meta"]["step"] == 3 and list(again.state_dict()) == list(net.state_dict())


@pytest.mark.parametrize(
    "place, value",
    [
        ("meta.schedule", "exp(t)"), ("meta.schedule", ["exp"]), ("meta.target", 3), ("meta.cond_dropout", None),
        ("meta.cond", {"mean": ["x"], "scale": 1.0}), ("meta.cond", {"mean": [0.0, 1.0], "scale": 1.0}), ("meta", {}),
        ("kwargs.base_channels", -1), ("kwargs.nosuch", 1), ("class", "models.WaveClassifier"), ("class", "os.system"),
        ("training.ema", {0.9: 3}), ("state_dict", {"a": torch.zeros(1)}), ("state_dict", 3),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_say_what_it_is_is_one_error(place, value, tmp_path, written):
    payload = checkpoint.read(written)
    *inner, name = place.split(".")
    target = payload[inner[0]] if inner else payload
    target[name] = value
    torch.save(payload, tmp_path / "x.pt")
    ema = "none" if place == "state_dict" else None
    with pytest.raises(ValueError, match="x.pt"):
        DiffusionNet.load(tmp_path / "x.pt", ema=ema)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint of a run of one step."""
    return train(tmp_path_factory.mktemp("run"), max_steps=1) / "checkpoints" / "last.pt"


# ---------------------------------------------------------------- data and flags


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A folder of three speakers with recordings of different lengths."""
    folder, draw = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for speaker, count in (("103", 1), ("19", 4), ("200", 5)):
        (folder / speaker / "c").mkdir(parents=True)
        for number in range(count):
            noise = 0.1 * draw.standard_normal(3200 + 800 * number)
            soundfile.write(folder / speaker / "c" / f"{number}.flac", noise, 16000)
    return folder


def test_held_out_utterances_are_never_trained_on_and_no_speaker_is_lost(speech):
    for whole in (DatasetLoader.wave_windows(str(speech), 0.05, 0.02, say=lambda line: None), Tones(samples=256)):
        rest, held = held_out(whole, 0.3, seed=1)
        count = whole.utterances
        assert held.utterances == round(0.3 * count) and rest.utterances + held.utterances == count
        assert sorted(rest.names() + held.names()) == sorted(whole.names())
        assert set(rest.labels) == set(range(3)) and rest.speakers == held.speakers == whole.speakers
        assert len(rest) + len(held) == len(whole)
        name = held.names()[-1]
        item, found = whole.names().index(name), [b for b in (whole[i] for i in range(len(whole)))]
        expected = [b["samples"] for b in found if b["utterance"] == item]
        last_windows = [held[i]["samples"] for i in range(len(held))][-len(expected) :]
        assert all(torch.equal(a, b) for a, b in zip(last_windows, expected))
        assert held_out(whole, 0.3, seed=1)[1].names() == held.names()


def test_a_folder_is_trained_on_and_a_list_judges_by_its_names(speech, tmp_path):
    (tmp_path / "valid.txt").write_text("200 200/c/1.flac\n103 103/c/0.flac\n")
    folder = train(
        tmp_path / "run", speech, script=train_classifier, valid_list=tmp_path / "valid.txt", valid_path=speech,
        max_steps=2, batch_size=4,
    )  # fmt: skip
    assert last(folder)["meta"]["speakers"] == ["103", "19", "200"]
    args = train_classifier.read_flags(
        words(tmp_path, speech, script="train_classifier.py", valid_list=tmp_path / "valid.txt", valid_path=speech)
    )
    sets = WaveSets.read_sets(args, labelled=True)
    assert sorted(set(sets.valid.labels)) == [0, 2] and sets.valid.speakers == sets.train.speakers
    (tmp_path / "valid.txt").write_text("201 200/c/1.flac\n103 103/c/0.flac\n")
    with pytest.raises(ValueError, match="speaker 201 .* is beyond the 3 classes trained on"):
        WaveSets.read_sets(args, labelled=True)


ORIGINAL = (
    "--lr 1e-4 --weight-decay 0.0 --ema-rate 0.9999 --batch-size 8 --microbatch 2 --output-dir out --pretrained-path p "
    "--save-interval 1000 --grad-checkpoint --encoding linear --base-channels 32 --schedule exp"
).split()


def test_flags_of_the_original_trainers_keep_name_and_meaning():
    args = train_diffusion.read_flags(["tones", *ORIGINAL, "--predictor", "unet", "--dropout", "0.0", "--class-cond"])
    assert (args.model, args.class_cond, args.save_path, args.initial_model) == ("UNet", True, "out", "p")
    assert (args.batch_size, args.microbatch, args.save_steps, args.ema) == (8, 2, 1000, "0.9999")
    assert train_diffusion.read_flags([*ORIGINAL, "--predictor", "wavegrad", "tones"]).model == "WaveGrad"
    args = train_classifier.read_flags(["a", *ORIGINAL, "--curriculum-start", "30.0", "--curriculum-steps", "100"])
    assert args.data_dir == ["a"] and args.curriculum_start == 30 and args.optimizer == "adamw"
    assert train_diffusion.read_flags(["tones"]).lr == 1e-4  # the defaults need no flag


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "diffusion").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_taken(path):
    script = train_classifier if "curriculum_steps" in read_config(path) else train_diffusion
    assert path.read_text().startswith("# "), "a config begins with what to expect of it"
    args = script.read_flags(["--config", str(path), "--dry_run"])
    assert args.data_dir
