"""Evaluation of autoencoders of features: scores, pieces, verifier, noise, tables, pictures."""

import csv
import json
import zlib

import feature_models
import numpy as np
import pytest
import soundfile
import torch

import AutoencoderNet
import eval_autoencoder
import MelVerifier
import Reconstruction
from audio.griffin_lim import spectrum_of, wave_of
from audio.io import read_audio
from audio.lists import read_trial_list
from audio.log_mel import LogMel
from audio.noisy_versions import NoisyVersions
from engine import registry
from scoring import metrics, reconstruction, trials
from scoring.reconstruction_plots import draw_reconstruction

MODELS = {
    "ae": {"model": "AE"}, "vae": {"model": "VAE"}, "vqvae": {"model": "VQVAE"},
    "flat": {"model": "VAE", "encoder": "dc2d", "latent_channels": 3},
    "flat_vq": {"model": "VQVAE", "encoder": "dc2d"},
    "attention": {"model": "VQVAE", "encoder": "transformer"},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The checkpoints of MODELS and of the verifier."""
    folder = tmp_path_factory.mktemp("models")
    for name, options in MODELS.items():
        feature_models.autoencoder(folder / f"{name}.pt", **options)
    feature_models.verifier(folder / "verifier.pt")
    return folder


def load(made, name):
    return AutoencoderNet.load(made / f"{name}.pt")


def run(made, corpus, target, *names, **changes):
    """Evaluate networks on the tiny corpus; return the rows of report.json."""
    given = {
        "test_list": corpus / "trials.txt", "test_path": corpus / "wav", "save_path": target, "nDataLoaderThread": 0,
        "device": "cpu", **changes,
    }  # fmt: skip
    pairs = ((key, value if isinstance(value, list) else [value]) for key, value in given.items())
    words = [word for key, values in pairs for word in (f"--{key}", *values)]
    eval_autoencoder.main([str(word) for word in (*(made / f"{name}.pt" for name in names), *words)])
    return json.loads((target / "report.json").read_text())


@pytest.fixture(scope="module")
def report(made, tiny_corpus, tmp_path_factory):
    """What an evaluation with a verifier and pictures leaves, of three networks."""
    target = tmp_path_factory.mktemp("report")
    judged = {"verifier": made / "verifier.pt", "trials": tiny_corpus / "trials.txt", "bootstrap": 20}
    shown = {"pictures": 1, "wavs": 1, "num_files": 6, "sample_latents": True}
    return target, run(made, tiny_corpus, target, "ae", "vae", "vqvae", **judged, **shown)


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_the_network(made, tiny_corpus, report):
    target, found = report
    with open(target / "vae" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0]["file"].startswith("spk0/")
    net, card = load(made, "vae")
    features, direct = AutoencoderNet.features_of(card), []
    with torch.no_grad():
        for row in rows:
            mel, _ = features(torch.from_numpy(read_audio(tiny_corpus / "wav" / row["file"]))[None])
            out = net(mel)
            values = [out.elbo, out.log_px, out.kl, out.mse, out.l1]
            direct.append([float(value) for value in values])
            own = [float(row[name]) for name in ("elbo", "log_px", "kldiv_z", "mse", "l1")]
            np.testing.assert_allclose(own, direct[-1], rtol=1e-5)
            assert int(float(row["frames"])) == mel.shape[2]
            assert float(row["mse_sampled"]) != float(row["mse"]) and "kldiv_z_sampled" not in row
    scores = found["rows"][1]["scores"]
    means, deviations = np.mean(direct, 0), np.std(direct, 0, ddof=1)
    np.testing.assert_allclose([scores[n][0] for n in ("elbo", "log_px", "kldiv_z", "mse", "l1")], means, rtol=1e-5)
    np.testing.assert_allclose(
        [scores[n][1] for n in ("elbo", "log_px", "kldiv_z", "mse", "l1")], deviations, rtol=1e-4
    )


def test_the_use_of_codes_is_that_of_all_recordings(made, tiny_corpus, report):
    target, found = report
    net, card = load(made, "vqvae")
    features, usage = AutoencoderNet.features_of(card), torch.zeros(2, 8, dtype=torch.int64)
    with open(target / "vqvae" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        mel, _ = features(torch.from_numpy(read_audio(tiny_corpus / "wav" / row["file"]))[None])
        with torch.no_grad():
            out = net(mel)
        assert float(row["log_perplexity"]) == pytest.approx(float(out.log_perplexity), abs=1e-5)
        assert float(row["loss"]) == pytest.approx(float(out.loss), rel=1e-5)
        assert float(row["vq_loss"]) == pytest.approx(float(out.vq_loss), rel=1e-5)
        usage += torch.stack([out.codes[0, group].bincount(minlength=8) for group in range(2)])
    row = found["rows"][2]
    assert row["usage"]["used"] == (usage > 0).sum(1).tolist() and row["usage"]["dead"] == int((usage == 0).sum())
    share = usage / usage.sum(1, keepdim=True)
    entropy = torch.special.entr(share).sum(1)
    assert row["usage"]["perplexities"] == pytest.approx(entropy.exp().tolist(), rel=1e-5)
    assert row["usage"]["perplexity"] == pytest.approx(float(entropy.mean().exp()), rel=1e-5)
    assert row["entropy_bits_per_second"] == pytest.approx(50 * float(entropy.sum()) / np.log(2), rel=1e-5)
    assert row["bits_per_second"] == 50 * 2 * 3 and row["compression"] == pytest.approx(16 * 32 * 2 / 6)


@pytest.mark.parametrize("name", MODELS)
def test_a_recording_in_pieces_is_the_recording(made, name, monkeypatch):
    monkeypatch.setattr(Reconstruction, "CONTEXT_FRAMES", 50)
    net, _ = load(made, name)
    torch.manual_seed(0)
    for frames in (1, 8, 399, 1001):
        x = torch.randn(1, feature_models.BINS, frames)
        clean = x + 0.1 * torch.randn_like(x)
        whole, parts = (Reconstruction.measure(net, x, clean, longest) for longest in (0, 200))
        assert whole.mean.shape == parts.mean.shape == x.shape[1:]
        assert len(Reconstruction.pieces_of(net, frames, 200)) == (1 if frames <= 200 else -(-frames // 100))
        if name == "attention":
            continue  # what it sees of a recording is not bounded
        latents = Reconstruction.encode(net, x, 200)
        torch.testing.assert_close(Reconstruction.decode(net, latents, frames, 200)[0], parts.mean, atol=1e-4, rtol=0)
        torch.testing.assert_close(parts.mean, whole.mean, atol=1e-4, rtol=0)
        assert parts.scores == pytest.approx(whole.scores, rel=1e-3, abs=1e-4)
        if whole.codes is not None:
            assert torch.equal(whole.codes, parts.codes)
        if whole.kl_per_channel is not None:
            torch.testing.assert_close(whole.kl_per_channel, parts.kl_per_channel, rtol=1e-4, atol=1e-4)


def test_frames_of_speech_alone(made, tiny_corpus, tmp_path):
    found = run(made, tiny_corpus, tmp_path, "ae", num_files=3, speech_only=True)
    with open(tmp_path / "ae" / "scores.csv", newline="") as file:
        assert all(float(row["frames"]) == max(float(row["speech"]), 0) for row in csv.DictReader(file))
    assert "frames of speech" in found["about"][0]


# ---------------------------------------------------------------- verification


def test_a_perfect_reconstruction_leaves_the_error_rate(made, tiny_corpus, tmp_path, monkeypatch, report):
    monkeypatch.setattr(Reconstruction, "reconstruct", lambda net, x, longest: x)
    judged = {"verifier": made / "verifier.pt", "trials": tiny_corpus / "trials.txt", "bootstrap": 20}
    row = run(made, tiny_corpus, tmp_path, "vae", num_files=1, **judged)["rows"][0]
    assert row["eer"] == row["eer_original"] and row["eer_interval"] == row["eer_original_interval"]
    real = report[1]["rows"]
    assert row["eer_original"] == real[0]["eer_original"]
    assert len({r["eer"] for r in real}) > 1  # the networks do something


def test_the_error_rate_is_that_of_embeddings_of_speech(made, tiny_corpus, report):
    target, found = report
    test, net = read_trial_list(tiny_corpus / "trials.txt"), load(made, "vqvae")
    features, judge = AutoencoderNet.features_of(net[1]), MelVerifier.MelVerifier(made / "verifier.pt", "cpu")
    vectors = []
    for name in test.names:
        mel, speech = features(torch.from_numpy(read_audio(tiny_corpus / "wav" / name))[None])
        kept = speech[0] if speech.sum() >= 16 else torch.ones_like(speech[0])
        with torch.no_grad():
            vectors.append(judge.network.embed(net[0].reconstruct(mel[..., kept]))[0])
    unit = torch.nn.functional.normalize(torch.stack(vectors), dim=1).numpy()
    scores = (unit[test.pairs[:, 0]] * unit[test.pairs[:, 1]]).sum(1)
    kept = trials.read_scores(target / "trials" / "scores_vqvae.txt")
    np.testing.assert_allclose(kept.scores, scores, atol=1e-5)
    assert found["rows"][2]["eer"] == pytest.approx(metrics.eer(scores, test.labels)[0])


def test_too_little_speech_is_heard_whole():
    few = torch.arange(30) < 5
    assert MelVerifier.heard_frames(few).all() and torch.equal(MelVerifier.heard_frames(~few), ~few)


# ---------------------------------------------------------------- noise


def noise_folders(folder):
    """Write four files of noise and a room."""
    draw = np.random.default_rng(0)
    for number in range(4):
        path = folder / "musan" / "noise" / "a" / "b" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * draw.standard_normal(16000), 16000)
    room = folder / "rirs" / "simulated_rirs" / "smallroom" / "Room001" / "a.wav"
    room.parent.mkdir(parents=True)
    soundfile.write(room, np.exp(-np.arange(800) / 100) * draw.standard_normal(800) * 0.3, 16000)
    return {"musan_path": folder / "musan", "rir_path": folder / "rirs"}


def test_noisy_versions_are_measured_against_the_clean_features(made, tiny_corpus, tmp_path):
    folders = noise_folders(tmp_path)
    options = {"num_files": 4, "noisy": True, "noise_kinds": ["noise", "reverb"], "snr_db": [-5, 15], **folders}
    rows = run(made, tiny_corpus, tmp_path / "a", "vqvae", "ae", **options)["noisy"]
    assert [(r["noise"], r["snr_db"]) for r in rows[::3]] == [("noise", -5), ("noise", 15), ("reverb", None)]
    assert [r["configuration"] for r in rows[:3]] == ["noisy input", "vqvae", "ae"]
    louder, softer = (rows[i]["scores"]["mse"][0] for i in (0, 3))
    assert louder > 2 * softer > 0  # what no network does to it
    versions = NoisyVersions(*folders.values(), 0, ("noise",), 0.0, 15)
    clean = read_audio(tiny_corpus / "wav" / "spk0/s1/00000.wav")
    noisy, kind = versions(clean, 0, zlib.crc32(b"spk0/s1/00000.wav"))
    ratio = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean)[np.abs(noisy - clean) > 1e-9] ** 2))
    assert kind == 0 and ratio == pytest.approx(15, abs=0.5)
    net, card = load(made, "ae")
    features = AutoencoderNet.features_of(card)
    x, target = (features(torch.from_numpy(wave)[None])[0] for wave in (noisy, clean))
    with open(tmp_path / "a" / "noisy.csv", newline="") as file:
        again = list(csv.DictReader(file))
    assert float(again[5]["mse"]) == pytest.approx(rows[5]["scores"]["mse"][0], rel=1e-5)
    one = run(made, tiny_corpus, tmp_path / "b", "ae", **{**options, "num_files": 1})["noisy"][3]
    assert one["scores"]["mse"][0] == pytest.approx(float(net(x, target).mse), rel=1e-5)


# ---------------------------------------------------------------- tables and pictures


def test_tables_pictures_and_waves(report):
    target, found = report
    text = (target / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5 and lines[0].count("|") == lines[2].count("|") and "EER % of originals" in lines[0]
    assert "protocol: trials.txt" in text and "bootstrap replicates over speakers" in text
    with open(target / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["configuration"] for row in rows] == ["ae", "vae", "vqvae"] and rows[0]["elbo"] == ""
    assert rows[2]["codes_used"] != "" and float(rows[1]["mse_std"]) > 0 and float(rows[1]["eer_low"]) >= 0
    made = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    for name in ("ae", "vae", "vqvae"):
        assert f"{name}/pictures/spk0_s1_00000.png" in made
        paths = [target / name / "wavs" / f"spk0_s1_00000_{kind}.wav" for kind in ("original", "reconstruction")]
        waves = [soundfile.read(path)[0] for path in paths]
        assert [len(wave) for wave in waves] == [14400, 14400] and waves[0].any()
    assert {"bins.png", "vqvae/usage.png", "trials/scores_originals.txt"} <= made
    assert not [name for name in made if name.endswith(".part")]


def test_one_utterance_has_no_deviation():
    found = reconstruction.summary({"mse": np.array([2.0])})
    assert found == {"mse": [2.0, None]}
    row = {"configuration": "x", "parameters": 5, "compression": 8.0, "scores": {"mse": [2.0, None], "l1": [1.0, 0.5]}}
    assert "| 2.00 | 1.00 (0.50) |" in reconstruction.table([row])
    assert reconstruction.csv_row(row)["mse_std"] is None


def test_a_picture_of_a_short_utterance(tmp_path):
    mel = np.random.default_rng(0).standard_normal((16, 3))
    draw_reconstruction(tmp_path / "a.png", {"original": mel, "reconstruction": mel}, np.zeros((2, 1), int), 4)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_waves_of_features_have_these_features():
    front_end, time = LogMel(dither=0.0), np.arange(24000) / 16000
    wave = 0.2 * sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 12)) * (1 + np.sin(2 * np.pi * 3 * time))
    wave += 1e-3 * np.random.default_rng(0).standard_normal(len(time))
    mel = front_end(torch.from_numpy(wave.astype(np.float32))[None])[0]
    energy = front_end.filters.double() @ spectrum_of(mel, front_end.filters).double()
    assert (energy.clamp(min=1e-10).log() - mel).abs().mean() < 0.05
    made = wave_of(mel, front_end)
    assert made.shape == wave.shape and made.dtype == np.float32 and np.abs(made).max() <= 1
    again = front_end(torch.from_numpy(made)[None])[0]
    errors = [float((torch.roll(again, shift, 1) - mel)[:, 5:-5].square().mean()) for shift in (-1, 0, 1)]
    assert errors[1] < 0.5 * min(errors[0], errors[2])  # frame beside frame
    assert np.array_equal(made, wave_of(mel, front_end))
    before = torch.random.get_rng_state()
    wave_of(mel[:, :20], front_end, 2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_two_networks_of_one_name(made, tiny_corpus, tmp_path):
    with pytest.raises(ValueError, match="two checkpoints would be called ae_ae"):
        run(made, tiny_corpus, tmp_path, "ae", "ae")
    assert registry.load("models", "AE").TASK == "autoencoder"
