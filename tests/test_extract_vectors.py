"""Extraction to a file per utterance: what is finished is read, nothing is mixed; inputs of all kinds, WeSpeaker."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from test_extract import extract, flags, model  # noqa: F401  (a fixture)

import extract_embeddings
import SpeakerNet
from audio.inputs import read_inputs
from audio.metadata import read_metadata
from engine.args import make_parser, parse
from models.ResNet18 import MainModel
from scoring import vectors
from scoring.parts import Parts


def files_of(folder, form="npy"):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(f"*_emb.{form}"))


@pytest.fixture
def corpus(tiny_corpus, tmp_path):
    """Copy the audio of one speaker, to write beside it."""
    shutil.copytree(tiny_corpus / "wav" / "spk0", tmp_path / "wav" / "spk0")
    return tmp_path / "wav"


@pytest.fixture
def passes(monkeypatch):
    """Count what goes through the network."""
    seen, forward = [], SpeakerNet.SpeakerNet.forward
    monkeypatch.setattr(
        SpeakerNet.SpeakerNet, "forward", lambda self, wave: seen.append(wave.abs().sum() > 0) or forward(self, wave)
    )
    return seen


@pytest.mark.parametrize("form", vectors.FORMATS)
def test_finished_vectors_are_read_and_give_the_same_table(model, corpus, tmp_path, capsys, passes, form):  # noqa: F811
    given = {"list": "", "path": "", "folder": corpus}
    tree = {"vectors_to": tmp_path / "tree", "vector_format": form}
    plain = extract(model, corpus, tmp_path / "plain.npz", **given)
    first = extract(model, corpus, tmp_path / "a.npz", **given, **tree)
    names = [name.decode() for name in first.names]
    assert files_of(tmp_path / "tree", form) == [name.replace(".wav", f"_emb.{form}") for name in names]
    del passes[:]
    again = extract(model, corpus, tmp_path / "b.npz", **given, **tree)
    assert not any(passes) and "tree: 4 of 4 vectors were there already" in capsys.readouterr().out
    for table in (first, again):
        assert np.array_equal(table.names, plain.names) and np.array_equal(table.vectors, plain.vectors)
        assert np.array_equal(table.seconds, plain.seconds) and table.meta == plain.meta
    stored = json.loads((tmp_path / "tree" / "vectors.json").read_text())
    assert stored["wav_scale"] == 32768.0 and stored["sha256"] == plain.meta["sha256"]


def test_beside_the_audio_and_its_csv_as_the_next_input(model, corpus, tmp_path, passes):  # noqa: F811
    (tmp_path / "l.txt").write_text("".join(f"s {p.relative_to(corpus)}\n" for p in sorted(corpus.rglob("*.wav"))))
    given = {"list": tmp_path / "l.txt", "path": corpus, "vectors_to": "beside"}
    table = extract(model, corpus, tmp_path / "t.npz", **given)
    assert files_of(corpus) == [name.decode().replace(".wav", "_emb.npy") for name in table.names]
    assert (corpus / "vectors.json").is_file()
    listed = read_metadata(tmp_path / "t.vectors.csv")
    assert listed.ids == table.names.astype(str).tolist() and listed.speakers == ["s"] * 4
    assert np.array_equal(vectors.read_vectors(listed.columns["embedding"], "emb"), table.vectors)
    del passes[:]
    again = extract(model, corpus, tmp_path / "u.npz", list=tmp_path / "t.vectors.csv", path="")
    assert len(passes) == 4
    assert np.array_equal(again.names, table.names) and np.array_equal(again.vectors, table.vectors)


def test_an_interrupted_run_goes_on_from_its_vectors(model, tiny_corpus, tmp_path, monkeypatch, capsys):  # noqa: F811
    given = {"list": tiny_corpus / "train.txt", "vectors_to": tmp_path / "tree"}
    wanted = extract(model, tiny_corpus, tmp_path / "w.npz", list=given["list"])
    write = Parts.write

    def stopped(self, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        write(self, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "write", stopped)
        extract(model, tiny_corpus, tmp_path / "t.npz", **given)
    done = len(files_of(tmp_path / "tree"))
    assert done == 32  # those of the second part were written before the part itself
    shutil.rmtree(tmp_path / "t.npz.parts")
    for name in files_of(tmp_path / "tree")[::3]:
        (tmp_path / "tree" / name).unlink()
    table = extract(model, tiny_corpus, tmp_path / "t.npz", **given)
    assert "tree: 21 of 32 vectors were there already" in capsys.readouterr().out
    assert np.array_equal(table.vectors, wanted.vectors) and len(files_of(tmp_path / "tree")) == 32


def test_vectors_of_a_table_that_is_complete(model, corpus, tmp_path, passes):  # noqa: F811
    given = {"list": "", "path": "", "folder": corpus}
    table = extract(model, corpus, tmp_path / "t.npz", **given)
    del passes[:]
    extract(model, corpus, tmp_path / "t.npz", **given, vectors_to=tmp_path / "tree")
    assert not passes
    paths = [str(tmp_path / "tree" / name) for name in files_of(tmp_path / "tree")]
    assert np.array_equal(vectors.read_vectors(paths, "emb"), table.vectors)


def changed(model, path):  # noqa: F811
    """Write the checkpoint with one weight changed."""
    payload = torch.load(model, weights_only=True)
    next(iter(payload["state_dict"].values())).add_(1)
    torch.save(payload, path)
    return path


def test_nothing_is_mixed_and_force_makes_anew(model, corpus, tmp_path, passes):  # noqa: F811
    given = {"list": "", "path": "", "folder": corpus, "vectors_to": tmp_path / "tree"}
    first = extract(model, corpus, tmp_path / "a.npz", **given)
    other = changed(model, tmp_path / "other.pt")
    for source, changes, key in ((other, {}, "checkpoint"), (model, {"crop_seconds": 0.6}, "options")):
        with pytest.raises(ValueError, match=f"vectors.json: the vectors there were made with another {key}"):
            extract(source, corpus, tmp_path / "b.npz", **given, **changes)
    # made anew by the same network, as text this time
    del passes[:]
    again = extract(model, corpus, tmp_path / "a.npz", **given, force=True, vector_format="txt")
    assert sum(map(bool, passes)) == 4 and np.array_equal(again.vectors, first.vectors)
    assert not files_of(tmp_path / "tree") and len(files_of(tmp_path / "tree", "txt")) == 4
    forced = extract(other, corpus, tmp_path / "a.npz", **given, force=True)
    assert not np.array_equal(forced.vectors, first.vectors)
    assert json.loads((tmp_path / "tree" / "vectors.json").read_text())["checkpoint"] == "other.pt"
    # vectors of recordings outside the list would keep the other network's
    (tmp_path / "l.txt").write_text(first.names[0].decode())
    few = {**given, "folder": "", "list": tmp_path / "l.txt", "path": corpus}
    with pytest.raises(ValueError, match="holds vectors of other recordings, not made like these"):
        extract(model, corpus, tmp_path / "c.npz", **few, force=True)
    assert len(files_of(tmp_path / "tree")) == 4
    (tmp_path / "tree" / "vectors.json").unlink()
    with pytest.raises(ValueError, match="_emb.npy: nothing says what made it"):
        extract(model, corpus, tmp_path / "c.npz", **few)


@pytest.mark.parametrize(
    "array,message",
    [(np.zeros(5), "its shape is .5,., .16,. is expected"), (np.full(16, np.nan), "numbers that are not finite")],
)
def test_a_wrong_vector_is_named(model, corpus, tmp_path, array, message):  # noqa: F811
    given = {"list": "", "path": "", "folder": corpus, "vectors_to": tmp_path / "tree"}
    extract(model, corpus, tmp_path / "a.npz", **given)
    name = files_of(tmp_path / "tree")[2]
    np.save(tmp_path / "tree" / name, array)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        extract(model, corpus, tmp_path / "b.npz", **given)


def test_a_bad_file_gets_no_vector(model, corpus, tmp_path):  # noqa: F811
    bad = sorted(corpus.rglob("*.wav"))[1]
    bad.write_bytes(b"no audio")
    table = extract(model, corpus, tmp_path / "a.npz", list="", path="", folder=corpus, vectors_to="beside")
    assert len(table.names) == len(files_of(corpus)) == 3 and not bad.with_name(f"{bad.stem}_emb.npy").exists()
    assert len(read_metadata(tmp_path / "a.vectors.csv").ids) == 3


# ---------------------------------------------------------------- inputs


def test_a_csv_has_ids_and_its_own_folder(model, corpus, tmp_path):  # noqa: F811
    first, second = (p.relative_to(corpus) for p in sorted(corpus.rglob("*.wav"))[:2])
    (corpus / "m.csv").write_text(f"id,audio,speaker\n002,{second},s\n001,{first},s\n")
    table = extract(model, corpus, tmp_path / "a.npz", list=corpus / "m.csv", path="")
    assert table.names.tolist() == [b"001", b"002"]
    plain = extract(model, corpus, tmp_path / "b.npz", list="", path="", folder=corpus)
    assert np.array_equal(table.vectors, plain.take([str(first), str(second)]).vectors)
    with pytest.raises(ValueError, match="none of 2 files could be embedded"):
        extract(model, corpus, tmp_path / "c.npz", list=corpus / "m.csv", path="/nowhere")


def test_one_audio_file_and_other_formats(model, corpus, tmp_path):  # noqa: F811
    path = sorted(corpus.rglob("*.wav"))[0]
    table = extract(model, corpus, tmp_path / "a.npz", list=path, path="", vectors_to="beside")
    assert table.names.tolist() == [path.stem.encode()] and path.with_name(f"{path.stem}_emb.npy").is_file()
    wave, rate = soundfile.read(path)
    folder = tmp_path / "formats"
    folder.mkdir()
    for name, options in {
        "a.flac": {},
        "b.ogg": {},
        "c.mp3": {},
        "d.opus": {"format": "OGG", "subtype": "OPUS"},
    }.items():
        soundfile.write(folder / name, wave, rate, **options)
    (folder / "e.M4A").touch()
    found, root, notes = read_inputs("", str(folder), "")
    assert found.ids == ["a.flac", "b.ogg", "c.mp3", "d.opus"] and root == str(folder)
    assert "1 .m4a files cannot be read: convert them first" in notes[0]
    formats = extract(model, corpus, tmp_path / "b.npz", list="", path="", folder=folder)
    cosine = formats.vectors @ table.vectors[0] / np.linalg.norm(formats.vectors, axis=1)
    assert (cosine / np.linalg.norm(table.vectors) > 0.7).all() and cosine[0] > cosine[2]
    (folder / "l.txt").write_text("a.flac\ne.M4A\n")
    with pytest.raises(ValueError, match="l.txt: 1 of 2 files, e.g. e.M4A, cannot be read: convert them first"):
        read_inputs(str(folder / "l.txt"), "", "")


# ---------------------------------------------------------------- folders of WeSpeaker


def wespeaker(folder, name="avg_model.pt", config=None, pooling="TSTP", **changes):
    """Write a small WeSpeaker-like folder; return it and its network."""
    torch.manual_seed(0)
    network = MainModel(nOut=8, n_mels=16, width=4, encoder_type=pooling, **changes).eval()
    weights = {**network.state_dict(), "projection.weight": torch.zeros(12, 8)}
    for key in weights:
        if key.endswith("num_batches_tracked"):
            weights[key] = weights[key].float()
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / name)
    described = {"feat_dim": 16, "embed_dim": 8, "pooling_func": pooling, "two_emb_layer": False}
    fbank = {"num_mel_bins": 16, "frame_length": 25, "frame_shift": 10, "dither": 1.0}
    values = {"model": "ResNet18", "model_args": described, "dataset_args": {"fbank_args": fbank, "cmvn": True}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**values, **(config or {})}))
    return folder, network


@pytest.mark.parametrize("name", ["avg_model.pt", "avg_models", "avg_model"])
@pytest.mark.parametrize("pooling", ["TSTP", "TAP", "TSDP", "ASTP"])
def test_a_folder_of_wespeaker_loads(tmp_path, name, pooling):
    folder, network = wespeaker(tmp_path / "w", name, pooling=pooling)
    wave = 0.1 * torch.randn(2, 8000)
    net = SpeakerNet.load(folder)
    with torch.inference_mode():
        assert torch.equal(net(wave), network(wave * 32768))
        assert torch.equal(SpeakerNet.load(folder, wav_scale=1.0)(wave), network(wave))


def test_variance_is_normalised_where_the_config_says(tmp_path):
    folder, network = wespeaker(tmp_path / "w", config={"dataset_args": {"cmvn_args": {"norm_var": True}}})
    with torch.inference_mode():
        features = SpeakerNet.load(folder).__S__.features(1000 * torch.randn(1, 16000))
        plain = network.features(1000 * torch.randn(1, 16000))
    torch.testing.assert_close(features.std(2), torch.ones(1, 16), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain.std(2), torch.ones(1, 16), rtol=1e-2)


ARGUMENTS = {"feat_dim": 16, "embed_dim": 8, "pooling_func": "TSTP", "two_emb_layer": False}


@pytest.mark.parametrize(
    "config,message",
    [
        ({"model": "ResNet99"}, "model: 'ResNet99', nearest: .*; one of ResNet101, "),
        ({"model": "ECAPA"}, "model: 'ECAPA'.*one of ResNet101, "),
        ({"model": "ResNet34"}, "model: ResNet34, but .*avg_model.pt holds the weights of another network"),
        ({"model_args": {**ARGUMENTS, "embed_dim": 9}}, "model_args do not fit .*avg_model.pt: embed_dim 9 .there 8"),
        (
            {"model_args": {**ARGUMENTS, "feat_dim": 24}, "dataset_args": {}},
            "model_args do not fit .*feat_dim 24 .there 16",
        ),
        ({"model_args": {**ARGUMENTS, "two_emb_layer": True}}, "model_args do not fit .*two_emb_layer True"),
        (
            {"model_args": {**ARGUMENTS, "pooling_func": "ASTP"}},
            "model_args do not fit .*pooling_func ASTP .there TSTP",
        ),
        ({"model_args": {**ARGUMENTS, "pooling_func": "MAX"}}, "model_args: encoder_type 'MAX' is unknown"),
        ({"model_args": {**ARGUMENTS, "embed_dim": "many"}}, "model_args: embed_dim: 'many' is no int"),
        ({"model_args": {"width": 3}}, "model_args: 'width' is unknown; known: feat_dim"),
        ({"model_args": [1]}, "model_args: .1. is no mapping"),
        ({"dataset_args": {"fbank_args": {"frame_shift": 20}}}, "fbank_args: frame_shift: 20, but 10 is needed"),
        ({"dataset_args": {"fbank_args": {"num_mel_bins": 80}}}, "fbank_args: num_mel_bins: 80, but 16 is needed"),
    ],
)
def test_folders_of_wespeaker_that_do_not_fit(tmp_path, config, message):
    folder, _ = wespeaker(tmp_path / "w", config=config)
    with pytest.raises(ValueError, match=f"w/config.yaml: {message}"):
        SpeakerNet.load(folder)


def test_folders_of_wespeaker_that_lack_a_file(tmp_path):
    folder, _ = wespeaker(tmp_path / "w")
    (folder / "avg_model.pt").rename(folder / "model_1.pt")
    with pytest.raises(FileNotFoundError, match="w: a folder without avg_model.pt, avg_models.pt"):
        SpeakerNet.load(folder)
    (folder / "model_1.pt").rename(folder / "avg_model")
    for text in ("model: [", "- 1", "!!python/object:os.system {}"):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match="w/config.yaml: not"):
            SpeakerNet.load(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="config.yaml: no such file; the folder of a WeSpeaker model"):
        SpeakerNet.load(folder)


def test_extraction_and_training_take_the_folder(corpus, tmp_path, capsys):
    folder, network = wespeaker(tmp_path / "w")
    table = extract(folder, corpus, tmp_path / "a.npz", list="", path="", folder=corpus, wav_scale=1, nOut=3)
    assert table.meta["wav_scale"] == 1.0 and table.meta["checkpoint"] == "w" and table.vectors.shape == (4, 8)
    assert "warning: --nOut ignored" in capsys.readouterr().out
    wave, _ = soundfile.read(corpus / table.names[0].decode(), dtype="float32")
    with torch.inference_mode():
        assert np.array_equal(table.vectors[0], network(torch.from_numpy(wave)[None])[0].numpy())
    words = flags(folder, corpus, tmp_path / "b.npz", list="", path="", folder=corpus, n_mels=16, nOut=8)
    words += ["--model", "ResNet18"]
    with pytest.raises(ValueError, match="does not fit this network"):  # --model describes the width of 32 channels
        extract_embeddings.main(words)
    parser = make_parser("")
    MainModel.add_arguments(parser)
    assert parse(parser, ["--normalize_var"])[0].normalize_var is True
