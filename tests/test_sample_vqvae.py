"""Re-synthesis through codes: lengths, voices, windows, guidance, runs that go on; what labels and codes are worth."""

import json

import numpy as np
import pytest
import soundfile
import torch
import wave_models

import eval_vqvae
import Resynthesis
import sample_vqvae
import VQVAENet
from audio.metadata import read_metadata
from audio.sample_folder import SampleFolder, read_wave
from audio.tones import Tones
from diffusion import objective
from diffusion.samplers import sample_seed
from engine import checkpoint
from models.blocks import vq
from scoring.spectrograms import spectrogram_sheet

LENGTHS = {"anna/a": (3001, 16000), "19/b": (777, 8000), "19/c": (1, 16000), "carl/d": (1280, 22050)}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Four recordings of awkward lengths and rates, a list of them, and models."""
    folder, draw = tmp_path_factory.mktemp("swap"), np.random.default_rng(0)
    for name, (samples, rate) in LENGTHS.items():
        (folder / "talk" / name).parent.mkdir(parents=True, exist_ok=True)
        wave = 0.1 * draw.standard_normal(samples)
        soundfile.write(folder / "talk" / f"{name}.wav", wave, rate, subtype="PCM_16")
    (folder / "list.txt").write_text("".join(f"{name.split('/')[0]} {name}.wav\n" for name in LENGTHS))
    wave_models.vqvae(folder / "plain.pt")
    wave_models.vqvae(folder / "free.pt", none_label=True, no_vq_prob=0.1)
    wave_models.recogniser(folder / "recogniser.pt", vqvae={"file": "other.pt", "sha256": "0"})
    return folder


def run(here, target, model="plain.pt", **changes):
    """Say recordings again in two steps; return them as they stand in files."""
    given = {"input_file": [here / "talk"], "steps": 2, "device": "cpu", "format": "npz", **changes}
    lists = ((name, value if isinstance(value, list) else [value]) for name, value in given.items())
    words = [word for name, values in lists if values != [None] for word in (f"--{name}", *map(str, values))]
    sample_vqvae.main([str(here / model), str(target), *words])
    return [read_wave(path) for path in sorted(target.glob("sample_*"))] if target.is_dir() else read_wave(target)


def test_every_recording_keeps_its_length_and_gets_its_voice(here, tmp_path, capsys):
    made = run(here, tmp_path / "a", input_file=[here / "list.txt"], data_path=here / "talk", check_vq=True, sheet=3)
    table = read_metadata(tmp_path / "a" / "manifest.csv")
    assert table.columns["source"] == [f"{name}.wav" for name in sorted(LENGTHS)]
    assert table.speakers == table.columns["source_speaker"] == ["19", "19", "anna", "carl"]
    assert table.columns["label"] == ["1", "1", "0", "2"]
    wanted = [-(-LENGTHS[name][0] * 16000 // LENGTHS[name][1]) for name in sorted(LENGTHS)]
    assert [len(wave) for wave in made] == wanted
    text = capsys.readouterr().out
    equal = float(text.split("equal codes: ")[1].split()[0])
    assert 0 <= equal <= 1 and "2 of 4 files resampled" in text and (tmp_path / "a.png").exists()
    # a folder of speakers says the same as the list
    again = run(here, tmp_path / "b")
    assert all(np.array_equal(x, y) for x, y in zip(made, again))


def test_equal_codes_are_counted(here, tmp_path):
    args = sample_vqvae.parse(sample_vqvae.make_flags(), [str(here / "plain.pt"), "x", "--input_file", "y"])[0]
    model = Resynthesis.load(args, torch.device("cpu"))
    source = here / "talk" / "anna" / "a.wav"
    job = Resynthesis.Job(Resynthesis.Source(str(source), "a", ""), 0, "")
    noise = tmp_path / "noise.wav"
    soundfile.write(noise, np.random.default_rng(1).uniform(-1, 1, 3001), 16000, subtype="PCM_16")
    equal = Resynthesis.equal_codes(model, [job, job], [source, noise], args, torch.device("cpu"))
    codes = [
        VQVAENet.condition_of(model.net, torch.from_numpy(Resynthesis.padded(read_wave(path), 320))[None])[1]
        for path in (source, noise)
    ]
    assert equal[0] == 1 and equal[1] == pytest.approx((codes[0] == codes[1]).float().mean().item())
    assert len(set(codes[0][0].tolist())) > 1


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp-2m"])
def test_recordings_do_not_depend_on_batches(here, tmp_path, sampler):
    given = {"sampler": sampler, "time_map": "square", "label": "carl", "seconds": 0.1}
    # three recordings of one length, each from its own noise, and one of another
    files = [here / "talk" / name for name in ("19/b.wav", "anna/a.wav", "anna/a.wav", "anna/a.wav")]
    one, three = (run(here, tmp_path / f"{n}", **given, input_file=files, batch_size=n) for n in (1, 3))
    for x, y in zip(one, three):
        np.testing.assert_allclose(x, y, atol=1e-3)
    assert np.abs(one[1] - one[2]).max() > 0.01


def test_an_interrupted_run_gives_the_same_files(here, tmp_path, monkeypatch):
    run(here, tmp_path / "a", batch_size=2, format="wav")
    write, made = SampleFolder.write, []

    def counted(self, index, *rest):
        if len(made) == 3:
            made.append(None)
            raise KeyboardInterrupt
        made.append(index)
        write(self, index, *rest)

    monkeypatch.setattr(SampleFolder, "write", counted)
    with pytest.raises(KeyboardInterrupt):
        run(here, tmp_path / "b", batch_size=2, format="wav")
    run(here, tmp_path / "b", batch_size=2, format="wav")
    assert made == [0, 1, 2, None, 3]
    for path in (tmp_path / "a").iterdir():
        if path.name != "options.json":
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with pytest.raises(
        ValueError, match="holds samples with another list .4 recordings and voices.*give another output_file"
    ):
        run(here, tmp_path / "b", batch_size=2, format="wav", label="anna")


def test_conditions_have_an_effect(here, tmp_path):
    one = {"input_file": here / "talk" / "anna" / "a.wav", "format": None}
    plain = run(here, tmp_path / "a.npz", "free.pt", **one, label="anna")
    assert np.array_equal(
        plain, run(here, tmp_path / "b.npz", "free.pt", **one, label=0, guide_label_scale=0, guide_vq_scale=0)
    )
    for number, changes in enumerate(
        (
            {"label": "carl"}, {"label": None}, {"label": 0, "guide_label_scale": 1}, {"label": 0, "guide_vq_scale": 1},
            {"label": 0, "no_vq": True}, {"label": 0, "seed": 1}, {"label": 0, "constrain": False},
        )
    ):  # fmt: skip
        other = run(here, tmp_path / f"{number}.npz", "free.pt", **one, **changes)
        assert other.shape == plain.shape and np.abs(other - plain).max() > 1e-3, changes


def test_guidance_by_the_encoder_predictor(here, tmp_path, capsys):
    soundfile.write(tmp_path / "x.wav", 0.1 * np.random.default_rng(2).standard_normal(1280), 16000)
    one = {"input_file": tmp_path / "x.wav", "format": None, "label": 0}
    one |= {"enc_pred_path": here / "recogniser.pt"}
    nothing = run(here, tmp_path / "a.npz", **one, enc_pred_scale=0)
    assert "was trained on the codes of another file, other.pt" in capsys.readouterr().out
    strong = run(here, tmp_path / "b.npz", **one, enc_pred_scale=100)
    at_x = run(here, tmp_path / "c.npz", **one, enc_pred_scale=100, guide_at="x")
    assert np.abs(strong - nothing).max() > 1e-3 and np.abs(strong - at_x).max() > 1e-3
    np.testing.assert_allclose(nothing, run(here, tmp_path / "d.npz", **{**one, "enc_pred_path": None}), atol=1e-4)


def test_sampling_leaves_the_network_in_evaluation_mode(here, tmp_path, monkeypatch):
    loaded, load = [], VQVAENet.load
    monkeypatch.setattr(VQVAENet, "load", lambda *given: loaded.append(load(*given)) or loaded[-1])
    before = checkpoint.read(here / "plain.pt")["state_dict"]
    run(here, tmp_path / "a", check_vq=True, label=1)
    net = loaded[0][0]
    assert not any(module.training for module in net.network.modules())
    for name, tensor in net.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# ---------------------------------------------------------------- windows


def test_windows_cover_a_wave_and_overlap():
    for length, size in ((64000, 0), (3200, 6400), (12800, 6400), (12480, 3200), (1600, 320), (9920, 640)):
        own, starts = Resynthesis.windows_of(length, size, 320)
        seen = np.zeros(length, int)
        for start in starts:
            assert start % 320 == 0 and start + own <= length
            seen[start : start + own] += 1
        assert seen.min() >= 1 and len(set(starts)) == len(starts) and own % 320 == 0
        assert len(starts) <= max(1, -(-length // max(own - max(own // 8, 320), 320)))


def test_windows_are_faded_into_each_other():
    starts, size, x = [0, 70, 110], 80, torch.randn(2, 1, 190)
    same = Resynthesis.faded([lambda x, t: 3 * x] * 3, starts, size)
    torch.testing.assert_close(same(x, None), 3 * x)
    steps = Resynthesis.faded([lambda x, t, n=n: torch.full_like(x, n) for n in range(3)], starts, size)(x, None)[0, 0]
    assert (steps[:70] == 0).all() and steps[80:110].unique().tolist() == [1] and (steps[150:] == 2).all()
    assert (steps[70:81].diff() > 0).all()


def test_a_window_longer_than_the_recording_is_none(here, tmp_path):
    one = {"input_file": here / "talk" / "anna" / "a.wav", "format": None, "label": 0}
    whole = run(here, tmp_path / "a.npz", **one, seconds=0)
    assert np.array_equal(whole, run(here, tmp_path / "b.npz", **one))
    assert np.abs(whole - run(here, tmp_path / "c.npz", **one, seconds=0.1)).max() > 1e-3


def test_a_sheet_has_empty_places(tmp_path):
    spectrogram_sheet(tmp_path / "s.png", [np.ones(800), None, np.ones(800)], ["a", "", "b"])
    assert (tmp_path / "s.png").stat().st_size > 3000


# ---------------------------------------------------------------- what labels and codes are worth


def evaluate(path, target, **changes):
    given = {"nDataLoaderThread": 0, "device": "cpu", "save_path": target, "length": 1280, "num_windows": 7, **changes}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    eval_vqvae.main([str(path), "tones", *words])
    return json.loads((target / "report.json").read_text())


@pytest.mark.parametrize("none_label", [False, True])
def test_losses_are_those_of_a_direct_computation(tmp_path, none_label, capsys):
    names = ["1000Hz", "300Hz", "500Hz"]
    path = wave_models.vqvae(tmp_path / "m.pt", speakers=names, none_label=none_label, schedule="cos")
    found, four = evaluate(path, tmp_path / "a", batch_size=1), evaluate(path, tmp_path / "b", batch_size=4)
    for kind in ("true", "shuffled", "no_codes", "latents", *(("none",) if none_label else ())):
        assert found[kind]["mean"] == pytest.approx(four[kind]["mean"], rel=1e-5), kind
    assert ("none" in found) == none_label and found["codes"] == four["codes"]
    assert "loss without codes" in capsys.readouterr().out
    network, _ = VQVAENet.DiffusionNet.load_network(path, "vqvae")
    data = Tones(samples=1280)
    losses, codes = {"true": [], "no_codes": []}, []
    for number in range(7):
        index = number * 30 // 7
        item, generator = data[index], torch.Generator().manual_seed(sample_seed(0, number))
        torch.rand(3, generator=generator)
        eps = torch.randn(1280, generator=generator)[None, None]
        t = torch.tensor([(0.5 + number * (5**0.5 - 1) / 2) % 1], dtype=torch.float32)
        label = torch.tensor([names.index(data.speakers[item["label"]]) + none_label])
        clean = item["samples"][None, None]
        with torch.no_grad():
            noised = objective.noised(clean, t, eps, "cos")
            out = network(noised, t, clean, label)
            losses["true"].append((out.prediction - eps).square().mean().item())
            cond = torch.zeros_like(out.embedded)
            losses["no_codes"].append(
                (network.predictor(noised, t, label=label, cond=cond) - eps).square().mean().item()
            )
            codes.append(out.codes)
    for kind, values in losses.items():
        assert found[kind]["mean"] == pytest.approx(np.mean(values), rel=1e-4), kind
    counts = torch.bincount(torch.cat(codes).flatten(), minlength=8)
    assert found["codes"]["used"] == (counts > 0).sum() and found["codes"]["positions"] == 7 * 4
    assert found["codes"]["perplexity"] == pytest.approx(vq.perplexity(counts).item())


def test_a_network_without_labels_is_evaluated_and_says_again(here, tmp_path):
    path = wave_models.vqvae(tmp_path / "m.pt", labels=False)
    found = evaluate(path, tmp_path / "a")
    assert "shuffled" not in found and found["worse_no_codes"]["mean"] != 0
    one = {"input_file": here / "talk" / "anna" / "a.wav", "format": None}
    assert len(run(tmp_path, tmp_path / "x.npz", "m.pt", **one)) == 3001
