"""The binary autoencoder: its threshold, its initial weights, its files."""

import math

import pytest
import torch
from conftest import DATA
from torch import nn

from engine import checkpoint, foreign
from models.AttributeEncoder import MainModel
from models.blocks.straight_through import binarise

NAMES = (
    *("encoder.0.weight", "encoder.0.bias", "encoder.2.weight", "encoder.2.bias", "encoder.2.running_mean"),
    *("encoder.2.running_var", "encoder.2.num_batches_tracked", "encoder.3.weight", "encoder.3.bias"),
    *("decoder.0.weight", "decoder.0.bias", "decoder.2.weight", "decoder.2.bias"),
)


def make(input_dim=6, internal_dim=10, seed=0):
    torch.manual_seed(seed)
    return MainModel(input_dim, internal_dim)


def same(network, other):
    weights, others = network.state_dict(), other.state_dict()
    return list(weights) == list(others) and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_threshold(dtype):
    z = torch.tensor([-2.0, -1e-30, -0.0, 0.0, 1e-30, 2.0], dtype=dtype, requires_grad=True)
    code = binarise(z)
    assert code.dtype == dtype and code.tolist() == [0, 0, 0, 0, 1, 1]
    upstream = torch.tensor([3.0, -0.5, 0.25, -1.5, 1.0, 0.0], dtype=dtype)
    code.backward(upstream)
    assert z.grad.tolist() == [1, -0.5, 0.25, -1, 1, 0]


def test_decoder_sees_only_bits():
    network = make().eval()
    x = torch.randn(5, 6)
    reconstruction, code, z = network(x)
    assert torch.equal(code, (z > 0).float()) and z.abs().max() < 1
    assert torch.equal(network.decoder(code), reconstruction) and torch.equal(network.encode(x), code)


def test_initial_weights():
    network = make(256, 512)
    for layer in (module for module in network.modules() if isinstance(module, nn.Linear)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.02)
        assert layer.bias.abs().max() <= 1 / math.sqrt(layer.in_features) and layer.bias.std() > 0
    assert sum(p.numel() for p in network.parameters()) == 789_248
    with pytest.raises(ValueError, match="internal_dim 0"):
        MainModel(4, 0)


LAYOUTS = {
    "plain": lambda weights: weights,
    "under DDP": lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
    "ours": lambda weights: {
        "class": "models.AttributeEncoder",
        "kwargs": {"input_dim": 6, "internal_dim": 10},
        "meta": {},
        "state_dict": {f"__S__.{name}": tensor for name, tensor in weights.items()} | {"__L__.W": torch.zeros(3)},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_and_written_plain(layout, tmp_path):
    network = make()
    checkpoint.write(tmp_path / "some.pt", LAYOUTS[layout](dict(network.train().state_dict())))
    found, card = foreign.read_network(tmp_path / "some.pt", "attributes")
    assert same(found, network) and bool(card) == (layout == "ours")
    foreign.write_plain(tmp_path / "plain.pt", found)
    plain = torch.load(tmp_path / "plain.pt", weights_only=True)
    assert tuple(plain) == NAMES and all(tensor.device.type == "cpu" for tensor in plain.values())
    again = make(seed=1)
    again.load_state_dict(plain)
    assert same(again, network)


def broken(change):
    weights = dict(make().state_dict())
    change(weights)
    return weights


WRONG = {
    "no network for the task attributes; known here: AttributeEncoder": broken(lambda w: w.pop("decoder.2.bias")),
    "decoder.2.weight is .6, 9. there and .6, 10. here": broken(
        lambda w: w.update({"decoder.2.weight": torch.zeros(6, 9)})
    ),
    "not finite, in .*encoder.0.weight": broken(lambda w: w["encoder.0.weight"].fill_(math.nan)),
    "cannot be rebuilt from .* ResNet34 is for the task speaker": {
        **LAYOUTS["ours"](make().state_dict()),
        "class": "models.ResNet34",
    },
    "cannot be rebuilt from .*wide": {**LAYOUTS["ours"](make().state_dict()), "kwargs": {"wide": 3}},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_files_are_named(message, tmp_path):
    checkpoint.write(tmp_path / "wrong.pt", dict(WRONG[message]))
    with pytest.raises(ValueError, match=message) as error:
        foreign.read_network(tmp_path / "wrong.pt", "attributes")
    assert "wrong.pt" in str(error.value)


def test_published_weights_are_read_and_written_as_they_are(tmp_path):
    path = DATA / "BAE_mse.pt"
    if not path.is_file():
        pytest.skip("BAE_mse.pt is absent below $VOXLAB_DATA")
    network, _ = foreign.read_network(path, "attributes")
    foreign.write_plain(tmp_path / "again.pt", network)
    published, again = (checkpoint.read(file) for file in (path, tmp_path / "again.pt"))
    assert list(published) == list(again) == list(NAMES) and published["encoder.2.num_batches_tracked"] == 37600
    assert all(
        torch.equal(published[name], again[name]) and again[name].dtype == published[name].dtype for name in NAMES
    )
