"""Published weights of wav2vec 2.0: files of Hugging Face and torchaudio, and torchaudio's pipelines."""

import json

import pytest
import torch
from golden_recipes import golden_dir
from test_wav2vec2 import LAYER_NORM, make, waves

from audio.backend import load_torchaudio
from engine import checkpoint
from models.blocks import wav2vec2_weights
from models.blocks.wav2vec2_build import REGULARISATION, SIZES, build
from models.Wav2Vec2 import MainModel


def published_names():
    """Return [{"hf": name, "torchaudio": name or None, "shape": sizes}] of all tensors of the base model."""
    return json.loads((golden_dir("lowresource") / "hf_to_torchaudio.json").read_text())["names"]


def hugging_face(network, old=True, prefix="wav2vec2."):
    """Return the weights of `network` as Hugging Face stores them, with what pre-training adds."""
    names = {entry["torchaudio"]: entry["hf"] for entry in published_names()}
    state = network.wav2vec2.state_dict()
    found = {}
    for name, tensor in state.items():
        name = names.get(name) or name.replace("encoder.feature_projection", "feature_projection").replace(
            "encoder.transformer", "encoder"
        )
        if not old:
            name = name.replace("weight_g", "parametrizations.weight.original0")
            name = name.replace("weight_v", "parametrizations.weight.original1")
        found[prefix + name] = tensor
    others = ("quantizer.codevectors", "project_q.weight", "project_hid.bias", "lm_head.weight", "classifier.bias")
    return (
        found
        | {f"{prefix}masked_spec_embed": network.masked_spec_embed.detach()}
        | {name: torch.zeros(3, 2) for name in others}
    )


def test_all_names_of_the_published_model():
    entries = published_names()
    weights = {"wav2vec2." + entry["hf"]: torch.empty(entry["shape"], device="meta") for entry in entries}
    kwargs, renamed = MainModel.from_foreign(weights)
    assert kwargs == {"size": "base"} and len(renamed) == len(entries) == 211
    for entry in entries:
        own = entry["hf"] if entry["torchaudio"] is None else f"wav2vec2.{entry['torchaudio']}"
        assert list(renamed[own].shape) == entry["shape"]
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in MainModel().state_dict().items()}
    assert {name: tensor.shape for name, tensor in renamed.items()} == expected


def write_bin(path, weights):
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def write_pt(path, weights):
    torch.save(weights, path)


def write_safetensors(path, weights):
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


@pytest.mark.parametrize("write, suffix", [(write_bin, "bin"), (write_pt, "pt"), (write_safetensors, "safetensors")])
@pytest.mark.parametrize("old, prefix, sizes", [(True, "wav2vec2.", {}), (False, "", LAYER_NORM)])
def test_files_of_hugging_face(tmp_path, write, suffix, old, prefix, sizes):
    trained = make(seed=4, sizes=sizes).eval()
    path = tmp_path / f"model.{suffix}"
    write(path, hugging_face(trained, old, prefix))
    weights, card = checkpoint.weights_of(checkpoint.read(path), path)
    assert not card
    kwargs, renamed = MainModel.from_foreign({n.removeprefix("__S__."): t for n, t in weights.items()})
    if sizes:  # shapes do not tell the number of heads
        kwargs["sizes"]["encoder_num_heads"] = 4
        assert kwargs == {"size": "base", "sizes": {**SIZES["tiny"], **sizes}}
    else:
        assert kwargs == {"size": "tiny"}
    network = MainModel(**kwargs).eval()
    network.load_state_dict(renamed)
    assert torch.equal(network(waves()), trained(waves()))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_files_of_torchaudio_fine_tuned_ones_too(prefix):
    trained = make(seed=4).eval()
    weights = {f"{prefix}{name}": tensor for name, tensor in trained.wav2vec2.state_dict().items()}
    kwargs, renamed = MainModel.from_foreign(weights | {f"{prefix}aux.weight": torch.zeros(29, 96)})
    network = MainModel(**kwargs).eval()
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    assert kwargs == {"size": "tiny"} and not unexpected
    assert missing and all(name.startswith(MainModel.MISSING_OK) for name in missing)
    assert torch.equal(network(waves()), trained(waves()))


def test_weights_of_something_else_are_not_known():
    weights = make().wav2vec2.state_dict()
    assert MainModel.from_foreign({"encoder.weight": torch.zeros(2)}) is None
    for name in (
        "encoder.feature_projection.projection.weight",
        "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1",
        "feature_extractor.conv_layers.1.conv.weight",
    ):
        assert MainModel.from_foreign(weights) is not None
        assert MainModel.from_foreign(weights | {name: torch.zeros(3)}) is None, name


@pytest.mark.parametrize("size", ["base", "large", "large_lv60"])
def test_sizes_are_torchaudios_and_are_recognised(size):
    builders = {"base": "wav2vec2_base", "large": "wav2vec2_large", "large_lv60": "wav2vec2_large_lv60k"}
    with torch.device("meta"):
        reference = getattr(load_torchaudio().models, builders[size])()
        own = MainModel(size=size)
    names = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in own.wav2vec2.state_dict().items()} == names
    layers = [m.encoder.transformer.layers[0] for m in (reference, own.wav2vec2)]
    assert layers[0].attention.num_heads == layers[1].attention.num_heads
    assert layers[0].layer_norm_first == layers[1].layer_norm_first
    assert MainModel.from_foreign(reference.state_dict())[0] == {"size": size}


def test_own_checkpoints_keep_the_weight_norm_and_old_names_load():
    trained, other = make(seed=4), make(seed=5)
    state = trained.state_dict()
    position = "wav2vec2.encoder.transformer.pos_conv_embed.conv."
    old = {
        n.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): t
        for n, t in state.items()
    }
    assert f"{position}weight_g" in old and f"{position}parametrizations.weight.original0" in state
    for weights in (state, old):
        other = make(seed=5).eval()
        other.load_state_dict(weights)
        assert torch.equal(other(waves()), trained.eval()(waves()))


def test_pipelines_without_a_network(monkeypatch):
    with pytest.raises(ValueError, match="WAV2VEC2_NOSUCH.*WAV2VEC2_BASE, "):
        MainModel.pretrained("WAV2VEC2_NOSUCH")
    pipeline = type(load_torchaudio().pipelines.WAV2VEC2_BASE)

    def refuse(self, **_):
        raise OSError("<urlopen error [Errno -3]\nTemporary failure in name resolution>")

    monkeypatch.setattr(pipeline, "get_model", refuse)
    with pytest.raises(ValueError, match="cannot be downloaded.*name resolution.*--initial_model") as caught:
        MainModel.pretrained("WAV2VEC2_BASE")
    assert "\n" not in str(caught.value)
    small = build(SIZES["tiny"], REGULARISATION["none"])
    monkeypatch.setattr(pipeline, "get_model", lambda self, **_: small)
    kwargs, renamed = MainModel.from_foreign(wav2vec2_weights.pretrained("WAV2VEC2_BASE"))
    assert kwargs == {"size": "tiny"} and len(renamed) == len(small.state_dict())
