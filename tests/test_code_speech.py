"""Codes of speech: files and back, bit rates, latents, samples."""

import re

import feature_models
import numpy as np
import pytest
import soundfile
import torch

import AutoencoderNet
import code_speech
import CodeFiles
import Reconstruction
from audio.code_stream import HEADER, from_bytes, to_bytes
from audio.io import read_audio

NAME = "spk0/s1/00000.wav"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    feature_models.autoencoder(folder / "vqvae.pt", model="VQVAE")
    feature_models.autoencoder(folder / "flat.pt", model="VQVAE", encoder="dc2d")
    feature_models.autoencoder(folder / "vae.pt")
    return folder


def run(made, model, **given):
    pairs = ((key, value if isinstance(value, list) else [value]) for key, value in given.items())
    words = [word for key, values in pairs for word in (f"--{key}", *values)]
    code_speech.main([str(word) for word in (made / f"{model}.pt", *words, "--device", "cpu")])


def features(made, model, path):
    net, card = AutoencoderNet.load(made / f"{model}.pt")
    return net, AutoencoderNet.features_of(card)(torch.from_numpy(read_audio(path))[None])[0]


@pytest.mark.parametrize("model", ["vqvae", "flat"])
def test_a_recording_goes_through_codes(made, tiny_corpus, tmp_path, capsys, model):
    source, codes, target = tiny_corpus / "wav" / NAME, tmp_path / "a.codes", tmp_path / "a.npz"
    run(made, model, encode=source, out=codes)
    net, mel = features(made, model, source)
    wanted, stored = net.encode(mel)[0].numpy(), from_bytes(codes.read_bytes())
    assert np.array_equal(stored.codes, wanted) and stored.frames == mel.shape[2] == 90
    bands = {"vqvae": 1, "flat": 8}[model]
    bits = 45 * bands * 2 * 3  # positions, bands, groups, bits of 8 codewords
    assert len(codes.read_bytes()) == HEADER.size + -(-bits // 8)
    rate = float(re.search(r"codes ([\d.]+) bits/s", capsys.readouterr().out)[1])
    assert rate == pytest.approx(8 * -(-bits // 8) / 0.9, abs=0.1) and CodeFiles.rate_of(net) == 300 * bands
    run(made, model, decode=codes, out=target, wav=True, mean_of=source)
    with np.load(target) as arrays, torch.no_grad():
        assert np.array_equal(arrays["mel"], net.reconstruct(mel)[0].numpy())
    assert len(soundfile.read(tmp_path / "a.wav")[0]) == 90 * 160


def test_a_list_goes_through_codes_and_latents(made, tiny_corpus, tmp_path):
    names = [NAME, "spk1/s1/00002.wav"]
    (tmp_path / "list.txt").write_text("".join(f"{name.split('/')[0]} {name}\n" for name in names))
    given = {"encode": tmp_path / "list.txt", "input_path": tiny_corpus / "wav"}
    run(made, "vqvae", **given, out=tmp_path / "codes", latents=tmp_path / "latents")
    run(made, "vqvae", **given, latents=tmp_path / "all.npz")
    run(made, "vqvae", decode=[tmp_path / "codes"], out=tmp_path / "a")
    run(made, "vqvae", decode=[tmp_path / "latents"], out=tmp_path / "b")
    with np.load(tmp_path / "all.npz") as arrays:
        assert arrays["names"].tolist() == names and arrays["frames"].tolist() == [90, 90]
        for name in names:
            net, mel = features(made, "vqvae", tiny_corpus / "wav" / name)
            assert np.array_equal(arrays[f"latents/{name}"], net.encode(mel)[0].numpy())
    for name in names:
        one, other = (np.load((tmp_path / part / name).with_suffix(".npz"))["mel"] for part in "ab")
        assert np.array_equal(one, other)


def test_latents_of_a_vae_are_decoded(made, tiny_corpus, tmp_path):
    source = tiny_corpus / "wav" / NAME
    run(made, "vae", encode=source, latents=tmp_path)
    run(made, "vae", decode=tmp_path / "00000.npz", out=tmp_path / "mel.npz")
    net, mel = features(made, "vae", source)
    with np.load(tmp_path / "mel.npz") as arrays, torch.no_grad():
        np.testing.assert_allclose(arrays["mel"], net.reconstruct(mel)[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("model", ["vae", "vqvae"])
def test_samples_follow_from_the_seed(made, tmp_path, model):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(made, model, sample=2, frames=31, out=tmp_path / name, seed=seed)
    a, b, c = ([np.load(tmp_path / n / f"sample_00000{i}.npz")["mel"] for i in range(2)] for n in "abc")
    assert a[0].shape == (feature_models.BINS, 31) and np.array_equal(a, b)
    assert not np.array_equal(a[0], a[1]) and not np.array_equal(a, c)
    assert (tmp_path / "a" / "samples.png").exists()


def test_other_statistics_of_use_are_the_same_network(made):
    net, _ = AutoencoderNet.load(made / "vqvae.pt")
    before = CodeFiles.model_hash(net)
    net.quantiser.usage += 1
    assert CodeFiles.model_hash(net) == before
    net.quantiser.codebook[0, 0, 0] += 1
    assert CodeFiles.model_hash(net) != before


def test_codes_that_do_not_come_back_are_an_error(made, monkeypatch):
    net, _ = AutoencoderNet.load(made / "vqvae.pt")
    codes = Reconstruction.encode(net, torch.randn(1, feature_models.BINS, 20))
    monkeypatch.setattr(CodeFiles, "to_bytes", lambda codes, *given: to_bytes((codes + 1) % 8, *given))
    with pytest.raises(RuntimeError, match="do not give back 60 bits"):
        CodeFiles.pack(net, codes, 20, "")
