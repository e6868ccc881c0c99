"""Voice swapping: a file per source and voice, the search for a voice, what a verification network hears."""

import csv

import numpy as np
import pytest
import soundfile
import torch
import wave_models
from test_sample_diffusion import on_two_ranks
from tree import copy_tree
from warm import warm

import sample_vqvae
import SpeakerNet
import voice_swap
import VQVAENet
from audio.metadata import read_metadata
from audio.sample_folder import read_wave
from diffusion import objective
from diffusion.samplers import sample_seed
from scoring.intended_speaker import row_cosines, speaker_models


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Recordings of three speakers and of a fourth one, lists of them, and models."""
    folder, draw = tmp_path_factory.mktemp("swap"), np.random.default_rng(0)
    for name, samples in (("anna1", 3000), ("anna2", 2000), ("bert1", 2500), ("carl1", 3300), ("carl2", 2222)):
        soundfile.write(folder / f"{name}.wav", 0.1 * draw.standard_normal(samples), 16000, subtype="PCM_16")
    (folder / "talk.txt").write_text("anna anna1.wav\nbert bert1.wav\n")
    (folder / "real.txt").write_text("carl carl1.wav\ncarl carl2.wav\nanna anna2.wav\n")
    wave_models.vqvae(folder / "plain.pt")
    wave_models.vqvae(folder / "free.pt", none_label=True, schedule="cos")
    wave_models.verifier(folder / "verifier.pt")
    return folder


def words(here, model, **changes):
    given = {"device": "cpu", "data_path": here, **changes}
    lists = ((name, value if isinstance(value, list) else [value]) for name, value in given.items())
    flags = [word for name, values in lists if values != [None] for word in (f"--{name}", *map(str, values))]
    return [str(here / model), *flags]


def swap(here, out, model="plain.pt", **changes):
    voice_swap.main(words(here, model, **{"out": out, "steps": 2, **changes}))


def search(here, out, model="plain.pt", **changes):
    """Return the rows of a search, best first."""
    given = {"out": out, "data_path": None, "input_file": here / "carl1.wav", "num_timesteps": 3, **changes}
    voice_swap.main([*words(here, model, **given), "--search"])
    with open(out, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_file_for_each_source_and_voice(here, tmp_path):
    swap(here, tmp_path / "a", source=[here / "talk.txt"], to=["carl", 0], format="npz")
    table = read_metadata(tmp_path / "a" / "manifest.csv")
    assert table.columns["source"] == ["anna1.wav", "anna1.wav", "bert1.wav", "bert1.wav"]
    assert table.speakers == ["carl", "anna"] * 2 and table.columns["source_speaker"] == ["anna"] * 2 + ["bert"] * 2
    made = [read_wave(tmp_path / "a" / name) for name in table.audio]
    assert [len(wave) for wave in made] == [3000, 3000, 2500, 2500]
    assert np.abs(made[0] - made[1]).max() > 1e-3
    # a single one is what sample_vqvae.py makes
    swap(here, tmp_path / "b.npz", source=here / "anna1.wav", to="carl")
    same = ["--input_file", here / "anna1.wav", "--label", "carl", "--steps", 2, "--device", "cpu"]
    sample_vqvae.main([str(word) for word in (here / "plain.pt", tmp_path / "c.npz", *same)])
    assert np.array_equal(read_wave(tmp_path / "b.npz"), read_wave(tmp_path / "c.npz"))
    np.testing.assert_allclose(read_wave(tmp_path / "b.npz"), made[0], atol=1e-3)


@pytest.mark.parametrize("model", ["plain.pt", "free.pt"])
def test_search_is_a_direct_computation(here, tmp_path, model, capsys):
    rows = search(here, tmp_path / "a.csv", model, num_seeds=2, seed=5)
    assert f"{rows[0]['error']}  label {rows[0]['label']}  {rows[0]['speaker']}" in capsys.readouterr().out
    again = search(here, tmp_path / "b.csv", model, num_seeds=2, seed=5, batch_size=1)
    net, _ = VQVAENet.load(here / model)
    clean = torch.from_numpy(read_wave(here / "carl1.wav"))[None, None, :3200]
    errors = []
    for label in range(3):
        for seed in (0, 1):
            eps = torch.randn(1, 1, 3200, generator=torch.Generator().manual_seed(sample_seed(5, seed)))
            for time in (0.0, 0.5, 1.0):
                t = torch.tensor([time])
                x = objective.noised(clean, t, eps, net.schedule)
                with torch.no_grad():
                    found = net.network(x, t, clean, torch.tensor([label + net.none_label])).prediction
                errors.append((found - eps).square().mean().item())
    errors = np.mean(np.reshape(errors, (3, 6)), 1)
    assert [int(row["label"]) for row in rows] == errors.argsort().tolist()
    for table in (rows, again):
        np.testing.assert_allclose([float(row["error"]) for row in table], np.sort(errors), rtol=1e-4)
    assert [row["speaker"] for row in rows] == [wave_models.SPEAKERS[int(row["label"])] for row in rows]


def test_search_finds_the_label_that_explains_the_noise(here, tmp_path, monkeypatch):
    predict = VQVAENet.predict

    def better(net, cond, label, *scales):
        found = predict(net, cond, label, *scales)
        return lambda x, t: found(x, t) * torch.where(label == 1, 0.1, 1.0)[:, None, None]

    monkeypatch.setattr(VQVAENet, "predict", better)
    rows = search(here, tmp_path / "a.csv", top_k=2, seconds=0.1)
    assert len(rows) == 2 and rows[0] == {**rows[0], "rank": "1", "label": "1", "speaker": "19"}
    # an audio file in --to is of the voice that is found
    monkeypatch.undo()
    best = search(here, tmp_path / "b.csv")[0]["speaker"]
    swap(here, tmp_path / "c", source=[here / "anna1.wav", here / "bert1.wav"], to=here / "carl1.wav", num_timesteps=3)
    assert read_metadata(tmp_path / "c" / "manifest.csv").speakers == [best, best]


def test_a_verifier_hears_the_results(here, tmp_path, capsys):
    given = {"source": here / "talk.txt", "to": here / "real.txt", "verifier": here / "verifier.pt"}
    swap(here, tmp_path / "a", **given)
    with open(tmp_path / "a" / "judgement.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source_speaker"], row["speaker"]) for row in rows] == [
        ("anna", "anna"), ("anna", "carl"), ("bert", "anna"), ("bert", "carl"),
    ]  # fmt: skip
    net = SpeakerNet.load(here / "verifier.pt")

    def heard(*paths):
        with torch.no_grad():
            return np.concatenate([net(torch.from_numpy(read_wave(path))[None]).numpy() for path in paths])

    results = heard(*(tmp_path / "a" / row["audio"] for row in rows))
    # anna is known from the list, bert from the source alone
    real = heard(*(here / f"{name}.wav" for name in ("anna2", "carl1", "carl2", "bert1")))
    anna, carl, bert = speaker_models(real, [0, 1, 1, 2])
    wanted, source = np.stack([anna, carl, anna, carl]), np.stack([anna, anna, bert, bert])
    for key, cosines in (
        ("cosine_wanted", row_cosines(results, wanted)), ("cosine_source", row_cosines(results, source)),
        ("cosine_before", row_cosines(source, wanted)),
    ):  # fmt: skip
        np.testing.assert_allclose([float(row[key]) for row in rows], cosines, atol=2e-4)
    nearer = int((row_cosines(results, wanted) > row_cosines(results, source))[1:].sum())
    assert f"nearer to the wanted one: {nearer} of 3 swapped" in capsys.readouterr().out
    swap(
        here,
        tmp_path / "b.wav",
        source=here / "anna1.wav",
        to="carl",
        speakers_list=here / "real.txt",
        **{"verifier": given["verifier"]},
    )
    assert (tmp_path / "b.csv").exists()


def test_two_ranks_make_and_find_the_same(here, tmp_path):
    given = {"source": here / "talk.txt", "to": ["carl", "anna"], "verifier": here / "verifier.pt"}
    given |= {"speakers_list": here / "real.txt", "steps": 2, "check_vq": True}
    swap(here, tmp_path / "one", **given)
    rows = search(here, tmp_path / "one.csv")
    with warm(copy_tree(tmp_path / "tree")) as server:
        on_two_ranks(server, "voice_swap.py", *words(here, "plain.pt", out=tmp_path / "two", **given))
        found = words(here, "plain.pt", data_path=None, out=tmp_path / "two.csv", input_file=here / "carl1.wav")
        on_two_ranks(server, "voice_swap.py", *found, "--search", "--num_timesteps", 3)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    with open(tmp_path / "two.csv", encoding="utf-8") as file:
        two = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [row["label"] for row in two]
    np.testing.assert_allclose([float(row["error"]) for row in two], [float(row["error"]) for row in rows], rtol=1e-5)
