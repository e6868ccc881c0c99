"""Sampling: a sample depends on its number alone, runs go on where they stopped, conditions are what was asked for."""

import json
import os
import signal
import time

import numpy as np
import pytest
import soundfile
import torch
import wave_models
from test_distributed import environment_of_two
from tree import copy_tree
from warm import warm

import DiffusionNet
import eval_diffusion
import sample_diffusion
import SampleConditions
import stat_generate
from audio.metadata import read_metadata
from audio.sample_folder import SampleFolder, read_wave
from models.WaveClassifier import MainModel as WaveClassifier
from scoring.codes import Codes, write_codes
from scoring.embeddings import Table, write_table
from scoring.feature_statistics import read_statistics
from scoring.spectrograms import log_power, spectrogram_sheet


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    wave_models.unet(folder / "plain.pt")
    wave_models.unet(folder / "label.pt", labels=True)
    wave_models.unet(folder / "free.pt", labels=True, cond_dropout=0.1)
    wave_models.unet(folder / "vector.pt", cond_dim=6, cond_dropout=0.1)
    wave_models.classifier(folder / "judge.pt")
    return folder


def words(model, target, **changes):
    """Return the command line of four samples of a model in five steps."""
    given = {"checkpoint_path": model, "sample_path": target, "num_samples": 4, "steps": 5, "device": "cpu", **changes}
    lists = ((name, value if isinstance(value, list) else [value]) for name, value in given.items())
    return [word for name, values in lists if values != [None] for word in (f"--{name}", *map(str, values))]


def sample(model, target, **changes):
    """Return the samples of a command as one array, and the table of them."""
    sample_diffusion.main(words(model, target, **changes))
    table = read_metadata(target / "manifest.csv")
    return np.stack([read_wave(target / name) for name in table.audio]), table


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "options.json"}


# ---------------------------------------------------------------- samples by number


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpmpp-2m"])
def test_samples_do_not_depend_on_batches(models, tmp_path, sampler):
    given = {"format": "npz", "sampler": sampler, "constrain": True, "time_map": "square"}
    one, table = sample(models / "label.pt", tmp_path / "a", **given)
    three, again = sample(models / "label.pt", tmp_path / "b", **given, batch_size=3)
    assert one.shape == (4, wave_models.LENGTH) and table.columns == again.columns
    np.testing.assert_allclose(one, three, atol=1e-3)  # alpha is 0.003 at t = 1, rounding 300 times as large
    assert len({wave.tobytes() for wave in one}) == 4
    other, _ = sample(models / "label.pt", tmp_path / "c", **given, seed=1)
    assert np.abs(other - one).max() > 0.01


def test_options_of_samplers_have_an_effect(models, tmp_path):
    given = {"format": "npz", "num_samples": 1}
    for name, changes in {
        "ddpm": {"sigma_large": True}, "ddim": {"eta": 0.5},
        "heun": {"time_map": 3}, "dpmpp_2m": {"time_map": "log_snr"},
    }.items():  # fmt: skip
        plain, _ = sample(models / "plain.pt", tmp_path / name, sampler=name, **given)
        changed, _ = sample(models / "plain.pt", tmp_path / f"{name}2", sampler=name, **given, **changes)
        assert np.abs(plain - changed).max() > 1e-3, name


def test_two_ranks_and_a_killed_run_give_the_same_files(models, tmp_path):
    tree = copy_tree(tmp_path / "tree")
    given = {"num_samples": 10, "batch_size": 2, "steps": 10}
    sample(models / "label.pt", tmp_path / "one", **given)
    wanted = bytes_of(tmp_path / "one")
    with warm(tree) as server:
        # the copy is killed between two samples
        target = tmp_path / "killed"
        flags = words(models / "label.pt", target, **given)
        killed = server.launch(*flags, script="sample_diffusion.py")
        end = time.monotonic() + 60
        while not (target / "sample_000002.wav").exists() and time.monotonic() < end:
            time.sleep(0.002)
        killed.kill(signal.SIGKILL)
        assert server.wait(killed)[0] == -signal.SIGKILL, killed.text()
        there = [p for p in target.glob("*.wav")]
        assert 3 <= len(there) < 10
        (target / "sample_000000.wav").unlink()  # of a batch whose other half is there
        code, text = server.wait(server.launch(*flags, script="sample_diffusion.py"))
        assert code == 0 and "of 10 samples are there already" in text, text
        assert bytes_of(target) == wanted
        on_two_ranks(server, "sample_diffusion.py", *words(models / "label.pt", tmp_path / "two", **given))
        assert bytes_of(tmp_path / "two") == wanted
        # so are the scripts that judge
        flags = ["--checkpoint_path", models / "judge.pt", "--sample_dir", tmp_path / "two", "--batch_size", 4]
        flags += ["--seconds", 0.05, "--nDataLoaderThread", 0, "--device", "cpu"]
        on_two_ranks(server, "stat_generate.py", tmp_path / "two.npz", *flags)
        common = ["tones", "--num_windows", 7, "--length", 512, "--nDataLoaderThread", 0, "--device", "cpu"]
        on_two_ranks(server, "eval_diffusion.py", models / "plain.pt", *common, "--save_path", tmp_path / "two_eval")
    stat_generate.main([str(word) for word in (tmp_path / "one.npz", *flags)])
    one, two = (read_statistics(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert np.array_equal(one.features, two.features) and one.meta == two.meta
    eval_diffusion.main([str(word) for word in (models / "plain.pt", *common, "--save_path", tmp_path / "one_eval")])
    one, two = (json.loads((tmp_path / f"{name}_eval" / "report.json").read_text()) for name in ("one", "two"))
    assert one["true"]["mean"] == pytest.approx(two["true"]["mean"], rel=1e-6)


def on_two_ranks(server, script, *flags):
    shared = environment_of_two()
    ranks = [server.launch(*flags, script=script, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    assert [server.wait(rank)[0] for rank in ranks] == [0, 0], ranks[0].text()


def test_an_interrupted_run_repeats_and_skips_nothing(models, tmp_path, monkeypatch):
    given = {"num_samples": 5, "batch_size": 2, "format": "flac"}
    sample(models / "plain.pt", tmp_path / "a", **given)
    write, made = SampleFolder.write, []

    def counted(self, index, *rest):
        if len(made) == 3:
            made.append(None)
            raise KeyboardInterrupt
        made.append(index)
        write(self, index, *rest)

    monkeypatch.setattr(SampleFolder, "write", counted)
    with pytest.raises(KeyboardInterrupt):
        sample(models / "plain.pt", tmp_path / "b", **given)
    assert read_metadata(tmp_path / "b" / "manifest.csv").audio == ["sample_000000.flac", "sample_000001.flac"]
    sample(models / "plain.pt", tmp_path / "b", **given)
    assert made == [0, 1, 2, None, 3, 4] and bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    sample(models / "plain.pt", tmp_path / "b", **given)
    assert len(made) == 6
    sample(models / "plain.pt", tmp_path / "b", **{**given, "num_samples": 7})
    assert made[6:] == [5, 6]


def test_other_options_are_not_mixed(models, tmp_path):
    sample(models / "label.pt", tmp_path / "a", num_samples=1)
    for changes, word in (
        ({"steps": 6}, "steps .5, now 6"), ({"seed": 1}, "seed"), ({"labels": ["anna"]}, "labels"),
        ({"constrain": True}, "constrain"), ({"length": 2048}, "length"), ({"format": "flac"}, "format"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"holds samples with another {word}.*another --sample_path"):
            sample(models / "label.pt", tmp_path / "a", **{"num_samples": 1, **changes})
    # options of which nothing was made keep nobody from others
    (tmp_path / "a" / "sample_000000.wav").unlink()
    sample(models / "label.pt", tmp_path / "a", num_samples=1, steps=6)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(ValueError, match="holds no samples of this script"):
        sample(models / "label.pt", tmp_path / "b")


# ---------------------------------------------------------------- files


def test_one_file_as_in_the_original(models, tmp_path, capsys):
    given = {"num_samples": None, "length": 2048, "steps": None, "sample_steps": 5}
    flags = words(models / "plain.pt", tmp_path / "x.wav", **given)
    flags = [w.replace("_", "-") if w.startswith("--") else w for w in flags]
    sample_diffusion.main([*flags, "--sheet"])
    assert "seed 0, index 0, sampler ddpm, steps 5" in capsys.readouterr().out
    wave, rate = soundfile.read(tmp_path / "x.wav")
    assert wave.shape == (2048,) and rate == 16000 and (tmp_path / "x.png").stat().st_size > 1000
    sample_diffusion.main(words(models / "plain.pt", tmp_path / "x.npz", **given))
    np.testing.assert_allclose(read_wave(tmp_path / "x.npz").clip(-1, 1), wave, atol=1e-4)


def test_an_original_checkpoint_is_sampled(tmp_path):
    folder = os.path.join(os.path.dirname(__file__), "golden", "diffusion", "checkpoints")
    given = {"length": 1024, "num_samples": 2, "classifier_path": f"{folder}/tiny_classifier.pt", "target_class": 2}
    waves, table = sample(f"{folder}/tiny_unet.pt", tmp_path / "a", **given, sheet=1)
    assert np.isfinite(waves).all() and table.columns["label"] == ["2", "2"] and (tmp_path / "a.png").exists()
    with pytest.raises(ValueError, match="next good ones are 768 or 1024"):
        sample(f"{folder}/tiny_unet.pt", tmp_path / "b", length=1000)


def test_formats_hold_the_same_wave(models, tmp_path):
    waves = {form: sample(models / "plain.pt", tmp_path / form, format=form)[0] for form in ("wav", "flac", "npz")}
    assert np.array_equal(waves["wav"], waves["flac"])
    np.testing.assert_allclose(waves["npz"].clip(-1, 1), waves["wav"], atol=1e-4)


def test_companded_samples_are_written_linear(models, tmp_path):
    wave_models.unet(tmp_path / "u.pt", encoding="ulaw")
    linear, _ = sample(models / "plain.pt", tmp_path / "a", constrain=True, format="npz")
    companded, _ = sample(tmp_path / "u.pt", tmp_path / "b", constrain=True, format="npz")
    np.testing.assert_allclose(companded, np.sign(linear) * (256 ** np.abs(linear) - 1) / 255, atol=1e-5)
    with pytest.raises(ValueError, match="was trained on ulaw samples, not linear"):
        sample(tmp_path / "u.pt", tmp_path / "c", encoding="linear")


def test_spectrogram_shows_the_tone(tmp_path):
    tone = np.sin(2 * np.pi * 2000 * np.arange(8000) / 16000).astype(np.float32)
    picture = log_power(tone)
    assert (picture.argmax(0) == 50).all() and picture.max() == 0 and picture.min() >= -80  # bins of 40 Hz
    assert (log_power(np.zeros(100)) == -80).all()
    spectrogram_sheet(tmp_path / "s.png", [tone] * 5, list("abcde"))
    assert (tmp_path / "s.png").stat().st_size > 5000


# ---------------------------------------------------------------- conditions


def test_labels_by_name_and_number(models, tmp_path, capsys):
    named, table = sample(models / "label.pt", tmp_path / "a", labels=["carl", "19", "0"], format="npz")
    assert table.speakers == ["carl", "19", "anna", "carl"] and table.columns["label"] == ["2", "1", "0", "2"]
    assert "labels 2 carl, 1 19, 0 anna" in capsys.readouterr().out
    alone, _ = sample(models / "label.pt", tmp_path / "b", target_class=2, num_samples=1, format="npz")
    np.testing.assert_allclose(alone[0], named[0], atol=1e-3)
    # a model that can do without labels has them one higher
    _, table = sample(models / "free.pt", tmp_path / "c", labels=["carl"], num_samples=1)
    assert table.columns["label"] == ["2"]


def test_labels_are_drawn_once_and_told(models, tmp_path):
    _, table = sample(models / "label.pt", tmp_path / "a", num_samples=30, steps=1, length=256, batch_size=10)
    labels = [int(label) for label in table.columns["label"]]
    assert set(labels) == {0, 1, 2} and table.speakers == [wave_models.SPEAKERS[label] for label in labels]
    seen = []
    net, card = DiffusionNet.load(models / "plain.pt")
    args, _ = sample_diffusion.parse(sample_diffusion.make_flags(), words(models / "plain.pt", tmp_path / "b"))
    args.classifier_path = "judge.pt"
    judge = DiffusionNet.load_network(models / "judge.pt", "classifier")
    wanted = SampleConditions.conditions(args, net, card, judge)
    for indices in ([0, 1, 2, 3], [3, 2], [0]):
        label, vector, target = wanted.rows(indices)
        assert label is None and vector is None
        seen.append(dict(zip(indices, target.tolist())))
    assert all(part.items() <= seen[0].items() for part in seen)


def test_classes_of_the_classifier_go_by_name(models, tmp_path):
    judge = DiffusionNet.load_network(
        wave_models.classifier(tmp_path / "j.pt", ["19", "anna", "bert", "carl"]), "classifier"
    )
    assert SampleConditions.classes_of(range(3), wave_models.SPEAKERS, judge, "j.pt") == {0: 1, 1: 0, 2: 3}
    with pytest.raises(ValueError, match="j.pt knows no speaker dora"):
        SampleConditions.classes_of([1], ["anna", "dora"], judge, "j.pt")
    assert SampleConditions.classes_of([3], None, judge, "j.pt") == {3: 3}
    with pytest.raises(ValueError, match="label 4: j.pt has the classes 0 to 3"):
        SampleConditions.classes_of([4], None, judge, "j.pt")


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m"])
def test_a_classifier_guides_to_its_class(models, tmp_path, monkeypatch, sampler):
    # this one hears offsets: anna's are positive, 19's negative
    heard = torch.tensor([1e-3, -1e-3, 0.0])
    monkeypatch.setattr(WaveClassifier, "forward", lambda self, x, t: x.mean((1, 2))[:, None] * heard)
    given = {"sampler": sampler, "time_map": "square", "num_samples": 4, "labels": ["anna", "19"], "format": "npz"}
    given |= {"classifier_path": models / "judge.pt"}
    found = {}
    for scale in (0, 1_000_000):
        waves, table = sample(models / "plain.pt", tmp_path / f"{scale}", **given, classifier_scale=scale)
        assert table.speakers == ["anna", "19"] * 2 and table.columns["classifier_scale"] == [f"{scale:.1f}"] * 4
        found[scale] = waves.mean(1)
    moved = found[1_000_000] - found[0]
    assert (moved[::2] > 0.1).all() and (moved[1::2] < -0.1).all()


def test_classifier_free_guidance(models, tmp_path):
    given = {"labels": ["anna", "carl"], "num_samples": 2, "batch_size": 2, "format": "npz", "sampler": "ddim"}
    plain, _ = sample(models / "free.pt", tmp_path / "a", **given)
    none, _ = sample(models / "free.pt", tmp_path / "b", **given, guidance_scale=0)
    guided, _ = sample(models / "free.pt", tmp_path / "c", **given, guidance_scale=2)
    assert np.array_equal(plain, none) and np.abs(guided - plain).max() > 1e-3
    with pytest.raises(ValueError, match="trained without --cond_dropout"):
        sample(models / "label.pt", tmp_path / "d", **given, guidance_scale=2)
    assert not (tmp_path / "d").exists()


def test_a_model_is_told_no_label_though_the_classifier_is(models, tmp_path):
    given = {"format": "npz", "unlabelled": True, "sampler": "ddim", "constrain": True}
    plain, table = sample(models / "free.pt", tmp_path / "plain", **given)
    assert set(table.columns["label"]) == {""}
    told, _ = sample(models / "free.pt", tmp_path / "told", **{**given, "unlabelled": False}, labels=[2])
    guide = {"classifier_path": models / "judge.pt", "labels": [2]}
    free, table = sample(models / "free.pt", tmp_path / "free", **given, **guide, classifier_scale=1e-9)
    assert set(table.columns["label"]) == {"2"}
    np.testing.assert_allclose(free, plain, atol=1e-4)
    assert np.abs(told - plain).max() > 1e-3
    with pytest.raises(ValueError, match="is told no label: leave out --labels"):
        sample(models / "free.pt", tmp_path / "no", **given, labels=[2])
    with pytest.raises(ValueError, match="was not trained to do without labels"):
        sample(models / "label.pt", tmp_path / "no", **given)


def test_vectors_of_bits_files_and_speakers_are_the_same(models, tmp_path):
    bits = np.array([[0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]], np.uint8)
    names, seconds = np.array([b"p/1.wav", b"q/1.wav", b"q/2.wav"]), np.ones(3, np.float32)
    write_codes(tmp_path / "c.npz", Codes(names, bits, seconds, {}))
    write_table(tmp_path / "e.npz", Table(names, bits.astype(np.float32), seconds, {}))
    np.save(tmp_path / "v.npy", bits[0].astype(np.float64))
    np.savetxt(tmp_path / "v.txt", bits[1:].mean(0)[None])
    given = {"format": "npz", "num_samples": 2, "steps": 2}

    def made(name, **changes):
        return sample(models / "vector.pt", tmp_path / name, **given, **changes)

    code, table = made("a", cond_bits="1,2,5")
    assert table.columns["condition"] == ["bits 1,2,5"] * 2 and not table.speakers
    for number, changes in enumerate(
        ({"cond_vector": tmp_path / "v.npy"}, {"cond_embeddings": tmp_path / "c.npz", "cond_speaker": ["p"]})
    ):
        assert np.array_equal(made(f"b{number}", **changes)[0], code)
    mean, _ = made("d", cond_vector=tmp_path / "v.txt")
    told, table = made("e", cond_embeddings=tmp_path / "e.npz", cond_speaker=["q"])
    assert np.array_equal(mean, told) and table.speakers == ["q", "q"]
    assert table.columns["condition"][0] == "mean of 2 of q"
    turns, table = made("f", cond_embeddings=tmp_path / "e.npz")
    assert table.columns["condition"] == ["p/1.wav", "q/1.wav"] and np.array_equal(turns[0], code[0])
    (tmp_path / "l.txt").write_text("anna p/1.wav\nbert q/1.wav\nanna q/2.wav\n")
    _, table = made("g", cond_embeddings=tmp_path / "e.npz", cond_speaker=["anna"], cond_list=tmp_path / "l.txt")
    assert table.columns["condition"][0] == "mean of 2 of anna"
    without, _ = made("h")
    assert np.abs(without - code).max() > 1e-3
