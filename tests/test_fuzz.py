"""Damaged and hostile lists, configs, score files and audio: a reader succeeds or says in one line what is wrong."""

import io
import struct

import numpy as np
import pytest
import soundfile
from fuzz import fuzz, mutated, outcome

import DatasetLoader
import trainSpeakerNet
import tuneThreshold
from audio.io import AudioFile, read_audio
from audio.lists import read_train_list, read_trial_list
from engine.args import parse
from scoring.trials import match_scores, read_labelled_scores, read_scores


def speaker_lists():
    """Return a train list and a trial list as bytes."""
    files = [f"spk{i % 5}/s{i % 2}/{i:05d}.wav" for i in range(20)]
    train = "".join(f"{file.split('/')[0]} {file}\n" for file in files)
    trials = "".join(f"{i % 2} {files[i]} {files[(3 * i + 1) % 20]}\n" for i in range(20))
    return train.encode(), trials.encode()


def test_train_lists(tmp_path):
    fuzz(read_train_list, tmp_path / "train.txt", speaker_lists()[0], 400)


def test_trial_lists(tmp_path):
    fuzz(read_trial_list, tmp_path / "trials.txt", speaker_lists()[1], 400)


CONFIG = b"""# a config
model: ResNetSE34L
trainfunc: aamsoftmax
lr: 1e-3
margin: 0.2
batch_size: 16
augment: yes
spec_augment: false
sampler: speakers
speed_perturb: 0.9,1.1
nClasses: 0x10
"""
PARSER, SCORE_PARSER = trainSpeakerNet.make_flags(), tuneThreshold.arguments()


def parse_config(path):
    parse(PARSER, ["--config", str(path)])


def test_configs(tmp_path):
    fuzz(parse_config, tmp_path / "c.yaml", CONFIG, 250)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)
HOSTILE_CONFIGS = {
    "lists in lists": BOMB,
    "a bomb as numbers": BOMB + "dcf_p_target: *m\n",
    "merged mappings": "a: &a {x: 1}\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 9)}]}}\n" for i in range(12)
    ),
    "itself": "seed: &a [*a]\n",
    "deep": "seed: " + "[" * 20000,
    "deep mappings": "{seed: " * 5000,
    "a long key": "k" * 500000 + ": 1\n",
    "a long value": "seed: " + "9" * 500000 + "\n",
    "a long name": "sampler: " + "9" * 500000 + "\n",
    "too long": "# " + "x" * 2**20 + "\n",
    "code": "seed: !!python/object/apply:os.system ['touch ran']\n",
    "a module": "seed: !!python/module:os\n",
    "a name": "seed: !!python/name:os.system\n",
    "no date": "seed: 2001-99-99\n",
    "no number": "seed: !!int ''\n",
    "no boolean": "seed: !!bool x\n",
    "no time": "seed: !!timestamp x\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "twice": "seed: 1\nseed: 2\n",
    "a key of keys": "? [a, b]\n: 1\n",
    "a set": "!!set {seed}\n",
    "a number": "7\n",
    "sixty times sixty": "seed: " + "1:" * 20000 + "1\n",
    "infinite": "lr: .inf\n",
    "UTF-16": "seed: 1\n".encode("utf-16"),
    "a byte 0": b"seed: 1\0\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_hostile_configs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, text = tmp_path / "c.yaml", HOSTILE_CONFIGS[name]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert outcome(parse_config, path)
    assert outcome(lambda p: parse(SCORE_PARSER, ["scores.txt", "--config", str(p)]), path)
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_score_files(tmp_path):
    lines = "".join(f"{0.1 * i - 1:.8g} spk{i % 3}/a{i}.wav spk{i % 2}/b.wav\n" for i in range(20))
    names = sorted({name for line in lines.splitlines() for name in line.split()[1:]})
    pairs = [[names.index(name) for name in line.split()[1:]] for line in lines.splitlines()]

    def matched(path):
        match_scores(read_scores(path), names, pairs, "trials.txt")

    fuzz(matched, tmp_path / "scores.txt", lines.encode(), 400)
    labelled = "".join(f"{i % 2} {0.1 * i:.8g}\n" for i in range(20))
    fuzz(read_labelled_scores, tmp_path / "labelled.txt", labelled.encode(), 300)


def read_all_ways(path):
    """Read a file as training and evaluation do."""
    read_audio(path)
    with AudioFile(path) as audio:
        audio.read(audio.samples // 2, 1000)
    DatasetLoader.load_eval_crops(str(path), 20, 3)


@pytest.mark.parametrize(
    "suffix, settings",
    [
        ("wav", {"subtype": "PCM_16"}),
        ("wav", {"subtype": "FLOAT", "samplerate": 44100}),
        ("wav", {"subtype": "IMA_ADPCM"}),
        ("flac", {}),
        ("ogg", {}),
    ],
)
def test_audio(tmp_path, suffix, settings):
    wave = 0.1 * np.random.default_rng(0).standard_normal((3000, 2))
    memory = io.BytesIO()
    soundfile.write(memory, wave, **{"samplerate": 16000, **settings}, format=suffix.upper())
    data = memory.getvalue()
    # most damages belong into the header: a flipped bit of the samples is a success
    fuzz(read_all_ways, tmp_path / f"a.{suffix}", data, 60)
    draw = np.random.default_rng(1)
    for _ in range(150):
        (tmp_path / f"a.{suffix}").write_bytes(mutated(data[:120], draw) + data[120:])
        outcome(read_all_ways, tmp_path / f"a.{suffix}")


def flac_of(rate, samples):
    """Return a FLAC file whose header promises another rate (20 bits) and number of samples (36 bits)."""
    memory = io.BytesIO()
    soundfile.write(memory, np.zeros(3000), 16000, format="FLAC")
    data = bytearray(memory.getvalue())
    fields = int.from_bytes(data[18:26], "big")
    fields = rate << 44 | fields >> 36 << 36 & (1 << 44) - 1 | samples
    data[18:26] = fields.to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize("rate, samples", [(16000, 2**36 - 1), (16000, 2**28), (44100, 2**36 - 1), (1, 3000)])
def test_headers_that_promise_too_much(tmp_path, rate, samples):
    (tmp_path / "a.flac").write_bytes(flac_of(rate, samples))
    assert outcome(read_audio, tmp_path / "a.flac")
    wave = np.zeros(3000)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = struct.pack("<I", 600011)  # a prime: the filter would have 12 million taps
    (tmp_path / "a.wav").write_bytes(data)
    assert "sampling rate" in outcome(read_audio, tmp_path / "a.wav")
