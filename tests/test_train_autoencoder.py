"""The trainer of autoencoders of features: it learns, goes on to the last bit, is the same on ranks; its configs."""

import csv
import json
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from test_resume import STEPS, differences
from tree import copy_tree
from warm import until, warm

import AutoencoderNet
import LatentFigures
import MelSets
import train_autoencoder
import TrainingRun
from audio.log_mel import LogMel
from audio.mel_cache import write_cache
from audio.wave_sources import find_recordings
from engine import checkpoint, registry
from engine.args import read_config
from engine.log import RunLog

SCRIPT = "train_autoencoder.py"
# The end of a run draws pictures, which has no part in this.
NO_END = "import TrainingRun, LatentFigures as L; TrainingRun.finish = L.picture = lambda *a: {}\n"
ENCODER = {"stem_channels": 16, "stem_kernel": 5, "repeats": [1, 1], "channels": 16, "kernels": 3, "strides": [1, 2]}
SMALL = {
    "model": "VQVAE", "encoder_options": json.dumps(ENCODER), "latent_channels": 8, "groups": 2, "codewords": 12,
    "chunk_frames": 32, "least_utterances": 2, "train_share": 0.75, "batch_size": 4, "lr": 3e-3, "warmup_steps": 0,
    "nDataLoaderThread": 0, "device": "cpu",
    "iters_per_epoch": 9,
}  # fmt: skip
OF_CODES = ("groups", "codewords")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three speakers of four utterances of 0.5 to 0.9 s: hums that come and go in noise, and no silence."""
    folder = tmp_path_factory.mktemp("voices")
    draw, lines = np.random.default_rng(5), []
    for number in range(12):
        time = np.arange(8000 + 480 * number) / 16000
        hum = sum(np.sin(2 * np.pi * f * time) for f in (200 + 50 * (number % 3)) * np.arange(1, 12))
        wave = 0.02 * hum * (1 + np.sin(30 * time + number)) + 0.02 * draw.standard_normal(len(time))
        name = f"s{number % 3}/{number}.wav"
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, wave, 16000, subtype="PCM_16")
        lines.append(f"s{number % 3} {name}")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """Noise, music, speech, and a room that rings after 100 samples."""
    folder, draw = tmp_path_factory.mktemp("noises"), np.random.default_rng(1)
    for kind in ("noise", "music", "speech"):
        for file in range(8):
            path = folder / f"musan/{kind}/set/{file}/0.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, 0.1 * draw.standard_normal(8000), 16000)
    (folder / "rirs/smallroom/a").mkdir(parents=True)
    response = np.zeros(1000)
    response[[100, 700]] = 0.8, 0.4
    soundfile.write(folder / "rirs/smallroom/a/1.wav", response, 16000)
    return folder


def words(corpus, folder, **changes):
    """Return the flags of a short training; None leaves one out, True is a bare flag."""
    given = {**SMALL, "train_list": corpus / "list.txt", "train_path": corpus, "save_path": folder, **changes}
    found = []
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        found += [] if value is None else [f"--{name}", *([] if value is True else map(str, values))]
    return found


def fit(corpus, folder, whole=False, **changes):
    """Train in this process, without the pictures and the archive of the code unless `whole`."""
    with pytest.MonkeyPatch.context() as patch:
        if not whole:
            patch.setattr(TrainingRun, "finish", lambda *a: {})
            patch.setattr(LatentFigures, "picture", lambda *a: None)
            patch.setattr(RunLog, "record", lambda *a: None)
        assert train_autoencoder.main(words(corpus, folder, **changes)) == 0
    return folder


def entries(folder, key="loss"):
    return [e for e in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if key in e]


def last(folder):
    return checkpoint.read(folder / "checkpoints" / "last.pt")


def of(model, **changes):
    """Return the changes that make SMALL a network without codes."""
    return {"model": model, **dict.fromkeys(OF_CODES), **changes}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with warm(copy_tree(tmp_path_factory.mktemp("tree"))) as started:
        yield started


# ---------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    return fit(
        corpus, tmp_path_factory.mktemp("trained"), whole=True, max_steps=120, log_interval=1, ema="0.9",
        test_interval_steps=60,
    )  # fmt: skip


def test_a_vqvae_learns_and_no_step_is_dead(trained, corpus):
    args = train_autoencoder.read_flags(words(corpus, trained))
    _, loader = MelSets.make_loaders(MelSets.read_sets(args, print), args, torch.device("cpu"))
    trivial = torch.cat([batch.target for batch in loader]).square().mean()
    first, best = entries(trained, "valid_mse")
    assert best["valid_mse"] < 0.7 * trivial and best["valid_loss"] < first["valid_loss"]
    recorded = entries(trained)
    # 64 positions and 12 codewords from the first step on
    assert min(e["perplexity"] for e in recorded) > 4 and recorded[-1]["codes_used"] == 12
    assert recorded[-1]["epoch_perplexity/001"] <= recorded[-1]["codes_used/001"] == 12
    last_one = recorded[-1]
    parts = last_one["vq_loss"] - last_one["elbo"] - 0.1 * np.log(last_one["perplexity"])
    assert last_one["loss"] == pytest.approx(parts, rel=1e-4) and best["valid_codes_used"] > 6
    assert (trained / "reconstructions" / "step_000120.png").is_file()
    lines = (trained / "result" / "scores.txt").read_text()
    assert "compression 714.09" in lines and "358.496 bits per second" in lines and "1 speakers" not in lines


def test_a_checkpoint_says_what_it_is(trained):
    path = trained / "checkpoints" / "last.pt"
    net, card = AutoencoderNet.load(path)
    meta = card["meta"]
    assert card["class"] == "models.VQVAE" and not net.training and meta["bins"] == 80 and meta["denoising"] is False
    assert meta["chunk_frames"] == [32, 32] and meta["lists"]["train"]["utterances"] == 9
    assert len(meta["lists"]["valid"]["hash"]) == 12 and meta["args"]["encoder_options"] == ENCODER
    average = last(trained)["training"]["ema"][0.9]
    assert torch.equal(net.quantiser.codebook, average["quantiser.codebook"])
    own = AutoencoderNet.load(path, ema="none")[0]
    # what the averages knew before the codebook had begun has gone
    assert torch.allclose(net.quantiser.codebook, own.quantiser.codebook, atol=0.5)
    features = AutoencoderNet.features_of(card)
    assert features.front_end.options == LogMel().options
    mel, speech = features(0.1 * torch.randn(2, 8000), torch.tensor([8000, 4000]))
    assert mel.shape == (2, 80, 50) and net.reconstruct(mel).shape == mel.shape and not speech[1, 25:].any()


def test_the_weight_of_the_divergence_rises(corpus, tmp_path):
    flags = of("VAE", max_steps=3, log_interval=1, kl_warmup_steps=2, kl_weight=0.5)
    recorded = entries(fit(corpus, tmp_path, **flags))
    for entry, weight in zip(recorded, (0, 0.25, 0.5)):
        assert entry["loss"] == pytest.approx(weight * entry["kldiv_z"] - entry["log_px"], rel=1e-5)
        assert entry["elbo"] == pytest.approx(entry["log_px"] - 0.5 * entry["kldiv_z"], rel=1e-5)
        # 8 channels at 16 positions for 80 bins of 32 frames
        channels = [entry[f"kl_channel/{row:03d}"] for row in range(8)]
        assert sum(channels) * 16 == pytest.approx(entry["kldiv_z"] * 80 * 32, rel=1e-5)
        assert entry["collapsed_channels"] == sum(channel < 0.01 for channel in channels)
    assert entries(tmp_path, "valid_kldiv_z")[-1]["valid_collapsed_channels"] == 0


def test_weights_of_another_run_and_changed_flags(trained, corpus, tmp_path):
    path = trained / "checkpoints" / "last.pt"
    folder = fit(corpus, tmp_path, initial_model=path, max_steps=1, lr=0.0, final_lr=0.0)
    before, after = AutoencoderNet.load(path)[0].state_dict(), last(folder)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    with pytest.raises(ValueError, match="was trained with denoising False, this command says True"):
        fit(corpus, tmp_path, max_steps=2, lr=0.0, final_lr=0.0, denoising=True, noise_kinds="reverb",
            rir_path=rooms(tmp_path))  # fmt: skip
    with pytest.raises(ValueError, match="was trained with encoder_options"):
        fit(corpus, tmp_path, max_steps=2, lr=0.0, final_lr=0.0, encoder_options=json.dumps(ENCODER | {"dropout": 0.1}))


def rooms(folder):
    (folder / "rooms").mkdir()
    soundfile.write(folder / "rooms" / "a.wav", np.eye(1, 100)[0], 16000)
    return folder / "rooms"


# ---------------------------------------------------------------- data


def test_noisy_features_go_in_and_clean_ones_are_to_come_out(corpus, noises, tmp_path, monkeypatch):
    seen, forward = [], registry.load("models", "AE").forward

    def shown(self, x, target=None, mask=None):
        out = forward(self, x, target, mask)
        seen.append((x, target, mask, out.mse, out.mean))
        return out

    monkeypatch.setattr(registry.load("models", "AE"), "forward", shown)
    flags = of("dae", max_steps=2, musan_path=noises / "musan", rir_path=noises / "rirs", clean_share=0.0,
               noise_kinds=["reverb", "reverb+speech"])  # fmt: skip
    folder = fit(corpus, tmp_path / "a", **flags)
    assert last(folder)["meta"]["denoising"] and len(seen) > 2
    for x, target, mask, mse, mean in seen:
        assert x.shape == target.shape and (x - target).square().mean((1, 2)).min() > 1e-3
        torch.testing.assert_close(mse, ((mean - target).square() * mask[:, None]).sum((1, 2)) / (80 * mask.sum(1)))
    noisy = [target for _, target, *_ in seen[:2]]
    seen.clear()
    fit(corpus, tmp_path / "b", **of("AE", max_steps=2))
    for (x, target, *_), before in zip(seen, noisy):
        assert torch.equal(x, target)
        torch.testing.assert_close(target, before, rtol=1e-4, atol=1e-4)


def test_a_cache_of_features_trains_alike(corpus, tmp_path):
    found = find_recordings(str(corpus / "list.txt"), str(corpus))
    for _ in write_cache(
        tmp_path / "mel", found.list, LogMel(), "cpu", "float32", found.seconds, say=lambda line: None
    ):
        pass
    flags = {"max_steps": 4, "log_interval": 1, "optimizer": "sgd", "lr": 1e-3, "final_lr": 0.0, "betas": None}
    waves = entries(fit(corpus, tmp_path / "a", **flags))
    flags |= {"mel_cache": tmp_path / "mel", "train_list": None, "train_path": None}
    cached = entries(fit(corpus, tmp_path / "b", **flags))
    for one, other in zip(waves, cached, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_lengths_batches_and_a_list_to_validate_on(corpus, tmp_path, capsys):
    lines = (corpus / "list.txt").read_text().splitlines()
    (tmp_path / "valid.txt").write_text("\n".join(lines[-2:]))
    folder = fit(
        corpus, tmp_path / "a", **of("AE", chunk_frames=[20, 40]), max_steps=2, effective_batch=7,
        valid_list=tmp_path / "valid.txt", valid_path=corpus, train_share=None,
    )  # fmt: skip
    meta, text = last(folder)["meta"], capsys.readouterr().out
    assert meta["chunk_frames"] == [20, 40] and meta["lists"]["valid"]["utterances"] == 2
    assert "chunks of 20 to 40 frames x 2 batches per step" in text and "dropped" not in text
    assert last(folder)["training"]["counters"]["samples"] == 16
    again = train_autoencoder.read_flags(["--config", str(folder / "again.yaml")] if write_again(folder) else [])
    assert again.encoder_options == ENCODER and again.chunk_frames == [20, 40]


def write_again(folder):
    """Write what a run keeps of its flags as a config."""
    from engine.args import write_args

    args = train_autoencoder.read_flags(words(Path("x"), folder, **of("AE", chunk_frames=[20, 40])))
    write_args(folder / "again.yaml", args, {})
    return True


# ---------------------------------------------------------------- resume and ranks


def test_killed_it_goes_on_to_the_last_bit(server, corpus, tmp_path):
    def launch(folder, code=""):
        flags = words(
            corpus, folder, max_steps=14, accumulate=2, batch_size=2, ema="0.9", save_steps=4, dead_after=2,
            test_interval_steps=7, log_interval=4, mixedprec=True, iters_per_epoch=3, diversity_weight=0.2,
            chunk_frames=[24, 32],
        )  # fmt: skip
        return server.launch(*flags, script=SCRIPT, code=NO_END + code)

    whole, stopped = launch(tmp_path / "whole"), launch(tmp_path / "run", STEPS.format(seconds=0.02))
    until(stopped, "STEP 8")
    stopped.kill()
    assert server.wait(stopped)[0] == -signal.SIGKILL
    code, text = server.wait(whole)
    assert code == 0, text
    assert 7 <= last(tmp_path / "run")["training"]["counters"]["step"] < 14
    code, text = server.wait(launch(tmp_path / "run"))
    assert code == 0 and "resumed from" in text, text
    assert differences(last(tmp_path / "whole"), last(tmp_path / "run")) == []
    names = ("loss", "codes_used", "epoch_perplexity", "dead_codes")
    ends = [[e[name] for e in entries(tmp_path / f) for name in names] for f in ("whole", "run")]
    assert ends[0] == ends[1] and sum(ends[0][3::4]) > 0


def test_two_ranks_equal_one_with_the_global_batch(server, corpus, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # each rank shows its own codebook
    shows = "import hashlib, train_autoencoder as T\nfit = T.TrainingRun.fit\n" + (
        "def shown(state, *a, **k):\n"
        "    code = fit(state, *a, **k)\n"
        "    rows = state.module.quantiser.codebook.numpy().tobytes()\n"
        "    print('CODES', hashlib.sha256(rows).hexdigest())\n"
        "    return code\n"
        "T.TrainingRun.fit = shown\n"
    )
    runs = []
    options = json.dumps(ENCODER | {"norm": "group"})
    for folder, size, ranks in (("one", 4, [None]), ("two", 2, ["0", "1"])):
        flags = words(
            corpus, tmp_path / folder, batch_size=size, encoder_options=options, optimizer="sgd", lr=0.01, max_steps=6,
            dead_after=1, ema="0.5", log_interval=2, soft_perplexity=True, betas=None,
        )  # fmt: skip
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
        assert (tensor.float() - b["state_dict"][name].float()).norm() <= 1e-4 * tensor.float().norm() + 1e-6, name
    for one, two in zip(entries(tmp_path / "one"), entries(tmp_path / "two"), strict=True):
        for key in one.keys() - {"utterances_per_second", "data_wait_percent", "grad_norm"}:
            assert two[key] == pytest.approx(one[key], rel=1e-3), key


# ---------------------------------------------------------------- names and configs


def test_other_names_of_networks_and_options_in_words():
    plain = "stem_channels=8,stem_kernel=3,repeats=[1, 1],channels=8,kernels=3,strides=[1,2]"
    args = train_autoencoder.read_flags(["--model_type", "vqdvae", "--encoder_options", plain])
    assert (args.model, args.denoising, args.encoder_options["strides"]) == ("VQVAE", True, [1, 2])
    args = train_autoencoder.read_flags(["--model", "vae", "--encoder_options", plain, "--decoder_options", plain])
    assert (args.model, args.denoising) == ("VAE", False)


TABLE = Path(__file__).resolve().parent / "golden" / "generative_configs.csv"
FOLDER = ROOT / "configs" / "generative"
ROWS = {row["name"]: row for row in csv.DictReader(TABLE.open(encoding="utf-8"))}


def test_every_published_configuration_is_there_with_its_figures(monkeypatch):
    built, build = [], AutoencoderNet.build
    monkeypatch.setattr(AutoencoderNet, "build", lambda *a: built.append(build(*a)[0]) or (built[-1], {}))
    assert {path.stem for path in FOLDER.glob("config_*.yaml")} == set(ROWS)
    for name, row in ROWS.items():
        path = FOLDER / f"{name}.yaml"
        text = " ".join(line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# "))
        args = train_autoencoder.read_flags(["--config", str(path)])
        assert sum(p.numel() for p in built.pop().parameters()) == int(row["parameters"]), name
        schedule = json.loads(row["schedule"])
        assert [args.warmup_steps, args.hold_steps, args.decay_steps, args.decay_rate, args.final_lr] == [
            schedule[key] for key in ("warmup_steps", "hold_steps", "decay_steps", "decay_rate", "min_lr")
        ]
        assert (args.optimizer, args.lr, args.weight_decay) == (row["optimizer"], float(row["lr"]), 1e-5)
        assert args.betas == json.loads(row["betas"]) and args.amsgrad == (row["amsgrad"] == "true")
        assert args.decoupled_weight_decay == (row["optimizer"] == "radam")
        assert (args.batch_size, args.effective_batch) == (int(row["batch_per_gpu"]), int(row["effective_batch"]))
        assert (args.max_epoch, args.chunk_frames) == (int(row["epochs"]), [int(row["chunk_frames"])])
        assert args.denoising == row["model_type"].endswith("dvae") * (row["training_data"] != "clean")
        figures = [row[key] for key in ("elbo", "mse", "l1", "eer") if row[key]]
        assert all(
            figure in text for figure in (*figures, f"compression {row['compression']},", row["evaluated_epoch"])
        )


@pytest.mark.parametrize(
    "path", [p for p in sorted(FOLDER.glob("*.yaml")) if p.stem not in ROWS and "verifier" not in p.stem],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_every_other_config_is_taken(path):
    assert path.read_text().startswith("# "), "a config begins with what to expect of it"
    assert train_autoencoder.read_flags(["--config", str(path)]).model == read_config(path)["model"]
