"""Judging speech: statistics of samples and windows, the intended speaker's EER; the loss of diffusion models."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
import wave_models

import DiffusionNet
import eval_diffusion
import stat_generate
from audio.metadata import Metadata, write_metadata
from audio.sample_folder import read_wave, write_wave
from audio.tones import Tones
from diffusion import bound, schedules
from diffusion.samplers import sample_seed
from scoring import metrics
from scoring.codes import Codes, write_codes
from scoring.feature_statistics import read_statistics
from scoring.frechet import class_score
from scoring.intended_speaker import real_trials, sample_trials


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return wave_models.classifier(tmp_path_factory.mktemp("judge") / "judge.pt")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Seven files of unequal lengths, and one that is hidden."""
    folder, draw = tmp_path_factory.mktemp("samples"), np.random.default_rng(0)
    for number, length in enumerate((3000, 2000, 1000, 2000, 500, 2500, 2000)):
        soundfile.write(folder / f"{number}.wav", 0.1 * draw.standard_normal(length), 16000, subtype="PCM_16")
    (folder / ".hidden.wav").write_bytes(b"")
    (folder / "notes.txt").write_text("no audio")
    return folder


def stat(judge, target, **changes):
    """Return the statistics that a command writes."""
    given = {"checkpoint_path": judge, "nDataLoaderThread": 0, "device": "cpu", "bootstrap": 50, **changes}
    stat_generate.main([str(target), *(str(word) for name, value in given.items() for word in (f"--{name}", value))])
    return read_statistics(target)


def judged(judge, waves):
    """Return features and log-probabilities (waves, ...) of waves one by one."""
    network, _ = DiffusionNet.load_network(judge, "classifier")
    with torch.no_grad():
        features = [network.features(torch.as_tensor(wave)[None, None], torch.zeros(1)) for wave in waves]
        logits = [network(torch.as_tensor(wave)[None, None], torch.zeros(1)) for wave in waves]
    return torch.cat(features).numpy(), torch.cat(logits).double().log_softmax(1).numpy()


def test_statistics_of_samples(judge, samples, tmp_path, capsys):
    found = stat(judge, tmp_path / "s.npz", sample_dir=samples, seconds=0.125, batch_size=3)
    waves = [read_wave(samples / f"{number}.wav")[:2000] for number in range(7)]
    features, log_probs = judged(judge, [np.pad(wave, (0, 2000 - len(wave))) for wave in waves])
    np.testing.assert_allclose(found.features, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.cov, np.cov(features.astype(float).T), rtol=1e-3, atol=1e-6)
    assert found.count == 7 and len(found.meta["sha256"]) == 12 and found.meta["checkpoint"] == "judge.pt"
    assert f"classifier score: {class_score(log_probs):.6g} (95 % interval" in capsys.readouterr().out
    with np.load(tmp_path / "s.npz") as stored:
        assert stored["mean"].dtype == np.float32 and stored["cov"].dtype == np.float64
        assert stored["probs"].shape == (7, 3) and stored["class_score"].shape == ()
    few = stat(judge, tmp_path / "f.npz", sample_dir=samples, seconds=0.125, num_samples=3)
    np.testing.assert_allclose(few.features, features[[0, 2, 4]], rtol=1e-4, atol=1e-5)


def test_whole_samples_of_unequal_lengths_keep_their_order(judge, samples, tmp_path):
    found = stat(judge, tmp_path / "s.npz", sample_dir=samples, seconds=0, batch_size=2)
    features, _ = judged(judge, [read_wave(samples / f"{number}.wav") for number in range(7)])
    np.testing.assert_allclose(found.features, features, rtol=1e-4, atol=1e-5)


def test_statistics_of_windows(judge, tmp_path):
    given = {"data_dir": "tones", "seconds": 0.0625, "num_samples": 6}
    found = stat(judge, tmp_path / "t.npz", **given)
    data = Tones(samples=1000)
    features, _ = judged(judge, [data[index]["samples"] for index in range(0, 30, 5)])
    np.testing.assert_allclose(found.features, features, rtol=1e-4, atol=1e-5)
    companded = stat(judge, tmp_path / "u.npz", **given, encoding="linear", batch_size=1)
    np.testing.assert_allclose(found.features, companded.features, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="was trained on linear samples, not ulaw"):
        stat(judge, tmp_path / "v.npz", **given, encoding="ulaw")


def test_npz_samples_are_judged_as_files(judge, samples, tmp_path):
    for number in range(2):
        write_wave(tmp_path / "n" / f"{number}.npz", read_wave(samples / f"{number}.wav"), "linear")
    found = stat(judge, tmp_path / "s.npz", sample_dir=tmp_path / "n", seconds=0.1)
    files = stat(judge, tmp_path / "t.npz", sample_dir=samples, seconds=0.1)
    np.testing.assert_allclose(found.features, files.features[:2], rtol=1e-5, atol=1e-6)


def test_how_many_are_taken_for_their_speaker(judge, samples, tmp_path, capsys):
    files = [f"{number}.wav" for number in range(4)]
    for name in files:
        (tmp_path / name).symlink_to(samples / name)
    waves = [
        np.pad(read_wave(samples / name)[:2000], (0, max(0, 2000 - len(read_wave(samples / name))))) for name in files
    ]
    taken = [wave_models.SPEAKERS[place] for place in judged(judge, waves)[1].argmax(1)]
    other = next(name for name in wave_models.SPEAKERS if name != taken[1])
    told = [taken[0], other, taken[2], "somebody"]
    write_metadata(tmp_path / "manifest.csv", Metadata("", "", files, files, told))
    found = stat(judge, tmp_path / "s.npz", sample_dir=tmp_path, seconds=0.125)
    assert found.meta["accuracy"] == pytest.approx(200 / 3) and found.meta["accuracy_of"] == 3
    assert "taken for the speaker they are of: 66.7 % of 3, 33 % by chance" in capsys.readouterr().out
    tones = wave_models.classifier(tmp_path / "tones.pt", Tones(1000).speakers)
    found = stat(tones, tmp_path / "t.npz", data_dir="tones", seconds=0.0625, num_samples=6)
    own = judged(tones, [Tones(samples=1000)[index]["samples"] for index in range(0, 30, 5)])[1].argmax(1)
    assert found.meta["accuracy"] == pytest.approx(100 * np.mean(own == np.arange(0, 30, 5) % 3))


# ---------------------------------------------------------------- the intended speaker


def voices(count, spread, seed, speakers=6, dim=16):
    """Return embeddings (count, dim) about the fixed centres of `speakers`, and the speaker of each."""
    centres = np.random.default_rng(0).standard_normal((speakers, dim))
    own = np.arange(count) % speakers
    return centres[own] + spread * np.random.default_rng(seed).standard_normal((count, dim)), own


def test_eer_of_the_intended_speaker():
    real, speakers = voices(30, 0.2, 1)
    for spread, intended, low, high in ((0.2, 0, 0, 2), (3.0, 0, 15, 45), (0.2, 1, 60, 100)):
        made, own = voices(60, spread, 2)
        trials = sample_trials(made, (own + intended) % 6, real, speakers)
        assert len(trials.scores) == 360 and trials.labels.sum() == 60
        assert low <= metrics.eer(trials.scores, trials.labels)[0] <= high, (spread, intended)
    trials = real_trials(real, speakers)
    assert metrics.eer(trials.scores, trials.labels)[0] < 2
    # an utterance is not compared with itself: of random vectors no speaker can be told
    noise = np.random.default_rng(3).standard_normal((600, 16))
    trials = real_trials(noise, np.arange(600) % 6)
    assert 45 < metrics.eer(trials.scores, trials.labels)[0] < 55
    alone = real_trials(noise[:7], np.arange(7) % 6)
    assert alone.labels.sum() == 2 and len(alone.scores) == 42 - 5


def test_a_verifier_hears_the_samples(judge, tiny_corpus, tmp_path, capsys):
    names = [f"spk{speaker}/s1/0000{number}.wav" for speaker in range(3) for number in (2, 3)]
    folder = tmp_path / "samples"
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / f"{number}.wav").symlink_to(tiny_corpus / "wav" / name)
    files = [f"{number}.wav" for number in range(6)]
    write_metadata(folder / "manifest.csv", Metadata("", "", files, files, [name[:4] for name in names]))
    lines = (tiny_corpus / "train.txt").read_text().splitlines()
    kept = [line for line in lines if line[-5] in "01"]
    (tmp_path / "real.txt").write_text("\n".join(kept) + "\n")
    verifier = wave_models.verifier(tmp_path / "v.pt")
    given = {"verifier": verifier, "speakers_list": tmp_path / "real.txt", "speakers_path": tiny_corpus / "wav"}
    found = stat(judge, tmp_path / "s.npz", sample_dir=folder, seconds=0.5, **given)
    text = capsys.readouterr().out
    assert "verifier EER: " in text and "6 samples against 6 real utterances of 3 speakers" in text
    low, high = found.meta["eer_generated_interval"]
    assert 0 <= low <= found.meta["eer_generated"] <= high <= 100 and "eer_real" in found.meta
    (tmp_path / "real.txt").write_text("\n".join(kept[:4]) + "\n")
    with pytest.raises(ValueError, match="real.txt: no utterance of speaker spk2"):
        stat(judge, tmp_path / "t.npz", sample_dir=folder, **given)
    (folder / "manifest.csv").unlink()
    with pytest.raises(FileNotFoundError, match="manifest.csv: no such file"):
        stat(judge, tmp_path / "t.npz", sample_dir=folder, **given)


# ---------------------------------------------------------------- the loss of a diffusion model


def evaluate(path, target, *data, **changes):
    given = {"nDataLoaderThread": 0, "device": "cpu", "save_path": target, "length": 512, **changes}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    eval_diffusion.main([str(path), *data, *words])
    return json.loads((target / "report.json").read_text())


def test_loss_does_not_depend_on_batches(tmp_path, capsys):
    path = wave_models.unet(tmp_path / "m.pt", labels=True, cond_dropout=0.2, speakers=["1000Hz", "300Hz", "500Hz"])
    one = evaluate(path, tmp_path / "a", "tones", batch_size=1, num_windows=11)
    four = evaluate(path, tmp_path / "b", "tones", batch_size=4, num_windows=11)
    assert one["windows"] == 11 and one.keys() == four.keys()
    for kind in ("true", "shuffled", "none", "worse_shuffled", "worse_none"):
        assert one[kind]["mean"] == pytest.approx(four[kind]["mean"], rel=1e-5, abs=1e-6), kind
    assert list(one["true"]["by_time"]) == ["q0", "q1", "q2", "q3"]
    assert one["worse_none"]["mean"] == pytest.approx(one["none"]["mean"] - one["true"]["mean"], rel=1e-6)
    assert abs(one["worse_none"]["mean"]) > 1e-6 and "which is worse by" in capsys.readouterr().out
    other = evaluate(path, tmp_path / "c", "tones", num_windows=11, seed=1)
    assert other["true"]["mean"] != one["true"]["mean"]


@pytest.mark.parametrize("target", ["eps", "v", "x0"])
def test_loss_is_that_of_training(tmp_path, target):
    path = wave_models.unet(tmp_path / "m.pt", target=target)
    found = evaluate(path, tmp_path / "a", "tones", num_windows=1)
    net, _ = DiffusionNet.load(path)
    generator = torch.Generator().manual_seed(sample_seed(0, 0))
    torch.rand(3, generator=generator)
    eps = torch.randn(512, generator=generator)
    with torch.no_grad():
        loss = net(Tones(samples=512)[0]["samples"][None], torch.tensor([0.5]), eps[None])
    assert found["true"]["mean"] == pytest.approx(loss.item(), rel=1e-4)
    assert list(found["true"]["by_time"]) == ["q2"]


def test_loss_with_vectors(tmp_path):
    names = Tones().names()
    codes = Codes(
        np.array([n.encode() for n in names]), np.eye(6, dtype=np.uint8)[np.arange(30) % 6], np.ones(30, np.float32), {}
    )
    write_codes(tmp_path / "c.npz", codes)
    path = wave_models.unet(tmp_path / "m.pt", cond_dim=6)
    found = evaluate(path, tmp_path / "a", "tones", cond_embeddings=tmp_path / "c.npz", num_windows=6)
    assert found["worse_shuffled"]["mean"] != 0 and "none" not in found
    with pytest.raises(ValueError, match="was trained with vectors: give --cond_embeddings"):
        evaluate(path, tmp_path / "b", "tones")


@pytest.mark.parametrize("schedule", ["exp", "cos"])
def test_bound_of_gaussian_noise_is_its_entropy(schedule):
    power = 0.01
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    signal = schedules.alpha_bar(schedule, bound.bound_times(u, schedule))
    best = signal * power / (signal * power + 1 - signal)  # the error that no network falls below
    bits = bound.bits_per_sample(best, torch.tensor(power), schedule).mean().item()
    entropy = 0.5 * math.log2(2 * math.pi * math.e * power) + 15
    assert entropy - 1e-3 <= bits <= entropy + 1e-2


def test_bound_is_reported(tmp_path):
    path = wave_models.unet(tmp_path / "m.pt")
    found = evaluate(path, tmp_path / "a", "tones", num_windows=4, bits=True)
    assert 0 < found["bits"]["mean"] < 1000
