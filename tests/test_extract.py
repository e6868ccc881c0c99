"""Extraction of embeddings: independence of neighbours, crops and windows, resuming, bad files, several processes.

Vector files of utterances: test_extract_vectors.py."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from tree import run

import extract_embeddings
import SpeakerNet
from audio.io import AudioFile, read_audio
from audio.pieces import Cut, read_piece
from engine import checkpoint
from engine.log import run_main
from scoring.embeddings import read_table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Save a small network with random weights as a checkpoint of ours."""
    from models.FastECAPA import MainModel

    torch.manual_seed(0)
    kwargs = {"nOut": 16, "n_mels": 40, "channels": 32}
    net = SpeakerNet.SpeakerNet(MainModel(**kwargs), wav_scale=32768.0)
    path = tmp_path_factory.mktemp("model") / "best.pt"
    meta = {"wav_scale": 32768.0, "test_normalize": True}
    checkpoint.write(
        path, {"class": "models.FastECAPA", "kwargs": kwargs, "state_dict": net.state_dict(), "meta": meta}
    )
    return path


def flags(model, corpus, out, **changes):
    given = {
        "initial_model": model, "list": corpus / "trials.txt", "path": corpus / "wav", "out": out, "device": "cpu",
        "nDataLoaderThread": 0, **changes,
    }  # fmt: skip
    pairs = ([f"--{name}", *(value if isinstance(value, list) else [value])] for name, value in given.items())
    return [str(word) for pair in pairs for word in pair if word is not None]


def extract(*given, **changes):
    assert extract_embeddings.main(flags(*given, **changes)) == 0
    return read_table(given[2])


def lengths(folder, seconds):
    """Write one file of noise for each of `seconds` and the list of them."""
    draw = np.random.default_rng(0)
    names = [f"spk{i % 3}/s1/{i:03d}.wav" for i in range(len(seconds))]
    for name, length in zip(names, seconds):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, 0.1 * draw.standard_normal(round(16000 * length)), 16000, subtype="PCM_16")
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return names


def test_an_embedding_never_depends_on_its_neighbours(model, tmp_path):
    names = lengths(tmp_path, [1.0] * 6 + [1.5] * 3 + [0.7, 2.0])
    given = {"list": tmp_path / "list.txt", "path": tmp_path}
    together = extract(model, tmp_path, tmp_path / "a.npz", **given)
    batched = extract(model, tmp_path, tmp_path / "b.npz", batch_seconds=10, **given)
    net = SpeakerNet.load(model)
    assert together.names.astype(str).tolist() == sorted(names)
    for row, name in enumerate(sorted(names)):
        with torch.inference_mode():
            alone = net(torch.from_numpy(read_audio(tmp_path / name))[None])[0].numpy()
        assert np.array_equal(together.vectors[row], alone)
        # other sizes of a matrix product add in another order
        np.testing.assert_allclose(batched.vectors[row], alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max())
    np.testing.assert_allclose(together.seconds, [AudioFile(str(tmp_path / n)).samples / 16000 for n in sorted(names)])


def test_the_table_says_what_made_it(model, tiny_corpus, tmp_path):
    table = extract(model, tiny_corpus, tmp_path / "t.npz")
    assert table.meta["checkpoint"] == "best.pt" and len(table.meta["sha256"]) == 12
    assert table.meta["class"] == "models.FastECAPA" and table.meta["wav_scale"] == 32768.0
    assert table.meta["options"]["crop_seconds"] == 0 and table.meta["bad_files"] == 0
    assert not (tmp_path / "t.npz.parts").exists()


def test_train_list_plain_list_csv_and_folder_name_the_same_files(model, tiny_corpus, tmp_path):
    names = sorted(str(p.relative_to(tiny_corpus / "wav")) for p in (tiny_corpus / "wav").rglob("*.wav"))
    (tmp_path / "plain.txt").write_text("\n".join(names))
    (tmp_path / "files.csv").write_text("speaker,path\n" + "".join(f"x,{name}\n" for name in names))
    tables = [
        extract(model, tiny_corpus, tmp_path / "1.npz", list=tiny_corpus / "train.txt"),
        extract(model, tiny_corpus, tmp_path / "2.npz", list=tmp_path / "plain.txt"),
        extract(model, tiny_corpus, tmp_path / "3.npz", list=tmp_path / "files.csv"),
        extract(model, tiny_corpus, tmp_path / "4.npz", list="", folder=tiny_corpus / "wav", path=""),
    ]
    for table in tables:
        assert table.names.astype(str).tolist() == names
        assert np.array_equal(table.vectors, tables[0].vectors)


def test_cuts():
    assert Cut().starts(20000)[0].tolist() == [0] and Cut().starts(20000)[1] == 20000
    assert Cut(least=8000).starts(300)[1] == 8000
    starts, count = Cut(window=1000, hop=400).starts(2300)
    assert starts.tolist() == [0, 400, 800, 1200, 1300] and count == 1000
    assert Cut(window=1000).starts(1000)[0].tolist() == [0]
    assert Cut(most=500, window=1000, least=1).starts(3000) == (np.zeros(1), 500)
    starts, count = Cut(crop=1000, crops=3).starts(3000)
    assert starts.tolist() == [0, 1000, 2000] and count == 1000


def test_a_piece_beyond_the_end_repeats_the_recording(tmp_path):
    lengths(tmp_path, [0.1])
    with AudioFile(str(tmp_path / "spk0/s1/000.wav")) as audio:
        whole = audio.read()
        assert np.array_equal(read_piece(audio, 0, 4000, 1600), np.resize(whole, 4000))
        assert np.array_equal(read_piece(audio, 1, 4000, 800), np.resize(whole[:800], 4001)[1:])
        assert np.array_equal(read_piece(audio, 100, 50, 1600), whole[100:150])


def test_windows_and_crops_are_averaged(model, tmp_path):
    lengths(tmp_path, [2.5])
    given = {"list": tmp_path / "list.txt", "path": tmp_path}
    net, wave = SpeakerNet.load(model), torch.from_numpy(read_audio(tmp_path / "spk0/s1/000.wav"))
    windows = extract(model, tmp_path, tmp_path / "w.npz", window_seconds=1, **given)
    crops = extract(model, tmp_path, tmp_path / "c.npz", crop_seconds=1, num_crops=2, **given)
    with torch.inference_mode():
        pieces = [net(wave[None, start : start + 16000])[0] for start in (0, 16000, 24000)]
    np.testing.assert_allclose(windows.vectors[0], torch.stack(pieces).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(crops.vectors[0], (pieces[0] + pieces[2]) / 2, rtol=1e-4, atol=1e-5)


def test_the_first_seconds_give_a_table_each(model, tmp_path):
    lengths(tmp_path, [0.8, 2.5])
    given = {"list": tmp_path / "list.txt", "path": tmp_path, "max_seconds": [1, 2]}
    assert extract_embeddings.main(flags(model, tmp_path, tmp_path / "t.npz", **given)) == 0
    one, two = read_table(tmp_path / "t_1s.npz"), read_table(tmp_path / "t_2s.npz")
    assert one.seconds.tolist() == [np.float32(0.8), 1.0] and two.seconds.tolist() == [np.float32(0.8), 2.0]
    assert np.array_equal(one.vectors[0], two.vectors[0]) and not np.array_equal(one.vectors[1], two.vectors[1])
    wave = torch.from_numpy(read_audio(tmp_path / "spk1/s1/001.wav"))[None, :16000]
    with torch.inference_mode():
        assert np.array_equal(one.vectors[1], SpeakerNet.load(model)(wave)[0].numpy())


def test_bad_files_are_left_out_counted_and_listed(model, tiny_corpus, tmp_path, capsys):
    wav = shutil.copytree(tiny_corpus / "wav", tmp_path / "wav")
    (wav / "spk3/s1/00002.wav").write_bytes(b"no audio")
    cut = wav / "spk4/s1/00001.wav"
    cut.write_bytes(cut.read_bytes()[:5000])
    table = extract(model, tiny_corpus, tmp_path / "t.npz", path=wav, list=tiny_corpus / "train.txt")
    assert len(table.names) >= 30 and b"spk3/s1/00002.wav" not in table.names and table.meta["bad_files"] >= 1
    listed = (tmp_path / "t.bad_files.txt").read_text()
    assert "spk3/s1/00002.wav\t" in listed and "cannot be read as audio" in listed
    assert f"warning: {table.meta['bad_files']} of 32 files left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no embedding of spk3/s1/00002.wav"):
        table.rows(["spk0/s1/00000.wav", "spk3/s1/00002.wav"])


def test_a_killed_extraction_goes_on_and_ends_alike(model, tiny_corpus, tmp_path):
    wanted = extract(model, tiny_corpus, tmp_path / "whole.npz", list=tiny_corpus / "train.txt")
    command = [
        sys.executable, ROOT / "extract_embeddings.py",
        *flags(model, tiny_corpus, tmp_path / "t.npz", list=tiny_corpus / "train.txt"),
    ]  # fmt: skip
    # the second part is never written: the process is killed by itself when it tries
    killer = (
        "import os, signal, sys, extract_embeddings, scoring.parts as parts\n"
        "write = parts.Parts.write\n"
        "def once(self, part, *rest):\n"
        "    if part == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, part, *rest)\n"
        "parts.Parts.write = once\n"
        "extract_embeddings.main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = list(map(str, command[2:]))
    done = subprocess.run([sys.executable, "-c", killer, *words], env=environment, capture_output=True, timeout=100)
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "t.npz").exists()
    assert (tmp_path / "t.npz.parts" / "part_000000.npz").is_file()
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 parts are there already" in done.stdout
    table = read_table(tmp_path / "t.npz")
    assert np.array_equal(table.names, wanted.names) and np.array_equal(table.vectors, wanted.vectors)


def test_a_complete_table_is_kept_and_another_checkpoint_refused(model, tiny_corpus, tmp_path, capsys):
    extract(model, tiny_corpus, tmp_path / "t.npz")
    before = (tmp_path / "t.npz").stat().st_mtime_ns
    extract(model, tiny_corpus, tmp_path / "t.npz")
    assert (tmp_path / "t.npz").stat().st_mtime_ns == before and "is complete already" in capsys.readouterr().out
    payload = torch.load(model, weights_only=True)
    next(iter(payload["state_dict"].values())).add_(1)
    torch.save(payload, tmp_path / "best.pt")
    (tmp_path / "l.txt").write_text("spk0/s1/00000.wav\n")
    for changes, key in (
        ({"initial_model": tmp_path / "best.pt"}, "sha256"),
        ({"list": tmp_path / "l.txt"}, "list"),
        ({"crop_seconds": 0.5}, "options"),
    ):
        with pytest.raises(ValueError, match=f"made with another {key}"):
            extract(model, tiny_corpus, tmp_path / "t.npz", **changes)


def test_two_processes_give_the_same_table(model, tiny_corpus, tmp_path):
    alone = extract(model, tiny_corpus, tmp_path / "a.npz", list=tiny_corpus / "train.txt")
    tree = {"vectors_to": tmp_path / "tree"}
    extract(model, tiny_corpus, tmp_path / "few.npz", **tree)  # trials: all files; all but one vector are then removed
    for path in sorted((tmp_path / "tree").rglob("*_emb.npy"))[1:]:
        path.unlink()
    words = flags(
        model, tiny_corpus, tmp_path / "b.npz", list=tiny_corpus / "train.txt", distributed="True", nproc=2, **tree
    )
    done = run(ROOT, "extract_embeddings.py", *words)
    assert done.returncode == 0, done.stderr
    assert "tree: 1 of 32 vectors were there already" in done.stdout
    assert len(list((tmp_path / "tree").rglob("*_emb.npy"))) == 32
    both = read_table(tmp_path / "b.npz")
    assert np.array_equal(alone.names, both.names) and np.array_equal(alone.vectors, both.vectors)
    assert alone.meta == both.meta


def test_an_hour_is_read_in_windows_without_its_memory(model, tmp_path, monkeypatch):
    lengths(tmp_path, [30.0])
    most = []
    read = AudioFile.read
    monkeypatch.setattr(
        AudioFile, "read", lambda self, start=0, count=None: most.append(count) or read(self, start, count)
    )
    extract(model, tmp_path, tmp_path / "t.npz", list=tmp_path / "list.txt", path=tmp_path, window_seconds=2)
    assert most == [32000] * 15


def test_all_files_bad_is_an_error(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("gone1.wav\ngone2.wav\n")
    words = flags(model, tmp_path, tmp_path / "t.npz", list=tmp_path / "a.txt", path=tmp_path)
    monkeypatch.setattr(sys, "argv", ["extract_embeddings.py", *words])
    with pytest.raises(SystemExit) as ended:
        run_main(extract_embeddings.main)
    errors = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and errors[-1].startswith("error: none of 2 files could be embedded")
