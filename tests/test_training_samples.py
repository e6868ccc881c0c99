"""Samples drawn while a diffusion model trains: they are there, are those of sampling, and leave the run as it was."""

import socket
from functools import partial

import numpy as np
import pytest
from test_resume import differences
from test_train_diffusion import NO_END, last, server, small, tree  # noqa: F401
from wave_training import entries, train, words

import DiffusionNet
import train_diffusion
import TrainingSamples
from audio.sample_folder import read_wave, write_wave
from diffusion import samplers, schedules

SPEED = {"utterances_per_second", "data_wait_percent"}


def labelled(folder, **changes):
    given = {"class_cond": True, "cond_dropout": 0.3, "dropout": 0.1, "ema": "0.5", "max_steps": 6, "log_interval": 2}
    return train(folder, **{**given, **changes})


def test_they_do_not_disturb_the_run(tmp_path):
    plain = labelled(tmp_path / "plain")
    drawn = labelled(tmp_path / "drawn", sample_interval_steps=3, sample_count=2)
    names = {"step_0000003.png", "step_0000003_0.wav", "step_0000003_1.wav"}
    names |= {name.replace("3", "6", 1) for name in names}
    assert {path.name for path in (drawn / "samples").iterdir()} == names and not (plain / "samples").exists()
    a, b = last(plain), last(drawn)
    del a["meta"]["args"], b["meta"]["args"]
    assert differences(a, b) == []
    for one, other in zip(entries(plain), entries(drawn), strict=True):
        assert {k: v for k, v in one.items() if k not in SPEED} == {k: v for k, v in other.items() if k not in SPEED}


def test_a_sample_is_that_of_the_averaged_weights(tmp_path):
    run = train(tmp_path / "run", ema="0.5", max_steps=4, sample_interval_steps=4, sample_count=1)
    net, _ = DiffusionNet.load(run / "checkpoints" / "last.pt", ema="0.5")
    noise = samplers.noise_of([0], (1, 256))
    times = schedules.time_grid(TrainingSamples.TIME_MAP, TrainingSamples.STEPS, "exp")
    signal = partial(schedules.alpha_bar, "exp")
    wave = samplers.dpmpp_2m(DiffusionNet.predict(net), noise(), times, signal, constrain=True)[0, 0]
    write_wave(tmp_path / "x.wav", wave.numpy(), "linear")
    made = read_wave(run / "samples" / "step_0000004_0.wav")
    assert np.array_equal(made, read_wave(tmp_path / "x.wav")) and np.abs(made).max() > 0.01


def test_a_model_that_diverges_is_borne(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TrainingSamples, "make", lambda *a: (np.full((1, 256), np.nan, np.float32), ["x"]))
    train(tmp_path, max_steps=2, sample_interval_steps=1)
    assert "no samples at step 1: " in capsys.readouterr().out


def test_one_rank_draws_and_the_other_waits(server, tmp_path):  # noqa: F811
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    flags = words(tmp_path, batch_size=3, max_steps=2, sample_interval_steps=2, sample_count=1)
    slow = "import TrainingSamples as T, time\nmake = T.make\nT.make = lambda *a: (time.sleep(2), make(*a))[1]\n"
    flags += ["--silence_seconds", "1"]
    runs = [
        server.launch(
            *flags, script="train_diffusion.py", code=NO_END + slow, RANK=rank, LOCAL_RANK=rank, **environment
        )
        for rank in ("0", "1")
    ]
    for run in runs:
        code, text = server.wait(run)
        assert code == 0, text
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_a_count_without_an_interval_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--sample_count is of --sample_interval_steps: give that too"):
        train_diffusion.main(words(tmp_path, sample_count=2))
