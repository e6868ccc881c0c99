"""Waveform networks: sizes, names and files of the original layout, conditions, lengths, recomputed activations."""

import json
import math

import numpy as np
import pytest
import torch
from golden.fill import fill, noise
from golden_recipes import golden_dir
from torch.nn import functional

from engine import checkpoint, foreign, registry
from models.blocks import wave_ops, waves

GOLDEN = golden_dir("diffusion")
SMALL = {"base_channels": 8, "channel_mult": (1, 2, 2), "middle_dilations": (2,), "depth_mult": 1}


def network(name, seed=0, **options):
    torch.manual_seed(seed)
    return registry.load("models", name)(**options)


def on_meta(name, **options):
    """Return a network of names and shapes alone."""
    with torch.device("meta"):
        return registry.load("models", name)(**options)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def contract(name):
    return json.loads((GOLDEN / "contracts" / f"{name}.json").read_text())


# ---------------------------------------------------------------- sizes and names


@pytest.mark.parametrize(
    "channels,expected",
    [(16, 3_339_921), (32, 13_286_689), (48, 29_840_305), (64, 53_000_769), (128, 211_711_105)],
)
def test_parameters_of_the_unet(channels, expected):
    module = on_meta("UNet", base_channels=channels)
    assert count(module) == expected and len(module.state_dict()) == 720 and module.rate == 256
    assert count(on_meta("UNet", base_channels=channels, num_labels=921)) == expected + 4 * channels * 921


def test_parameters_of_the_others():
    assert count(on_meta("WaveGrad")) == 53_828_673
    classifier = on_meta("WaveClassifier", num_labels=921)
    assert count(classifier) == 4_767_257 and classifier.rate == 512


@pytest.mark.parametrize(
    "name,model,options",
    [
        ("unet32", "UNet", {}),
        ("unet64", "UNet", {"base_channels": 64}),
        ("unet32_dropout", "UNet", {"dropout": 0.1}),
        ("unet32_labels_921", "UNet", {"num_labels": 921}),
        ("wavegrad32", "WaveGrad", {}),
        ("classifier_921", "WaveClassifier", {"num_labels": 921}),
    ],
)
def test_names_shapes_and_order(name, model, options):
    expected = contract(name)
    module, prefix = on_meta(model, **options), "" if model == "WaveClassifier" else "predictor."
    assert [[prefix + n, list(p.shape)] for n, p in module.named_parameters()] == expected["parameters"]
    assert [prefix + n for n in module.state_dict()] == [n for n, _ in expected["parameters"]]
    # which layers start at zero does not depend on the width
    small = network(model, **{**options, "base_channels": 8})
    assert {prefix + n for n, p in small.named_parameters() if not p.any()} == set(expected["zero_at_init"])
    payload = small.to_original()
    assert list(payload["state_dict"]) == [n for n, _ in expected["parameters"]]
    stated = json.loads(json.dumps(payload["kwargs"]))
    assert stated == {**expected["kwargs"], "base_channels": 8} and list(stated) == list(payload["kwargs"])


def test_a_vector_adds_its_layer_and_nothing_else():
    plain, given = network("UNet", **SMALL), network("UNet", **SMALL, cond_dim=24)
    added = [name for name in given.state_dict() if name not in plain.state_dict()]
    assert added == ["vector_embed.weight", "vector_embed.bias"]
    assert given.vector_embed.weight.shape == (32, 24)


def test_initial_scale_of_the_conditions():
    torch.manual_seed(0)
    block = waves.ResBlock(8, 64)
    limit = 0.1 / math.sqrt(64)
    for parameter in block.cond_layers.parameters():
        assert 0.8 * limit < parameter.abs().max() <= limit


def test_first_level_of_any_width():
    module = network("UNet", **{**SMALL, "channel_mult": (3, 2)})
    assert module(torch.randn(1, 1, 8), torch.rand(1)).shape == (1, 1, 8)


# ---------------------------------------------------------------- files


def tiny(name, change=lambda payload: payload):
    payload = checkpoint.read(GOLDEN / "checkpoints" / f"{name}.pt")
    card = json.loads((GOLDEN / "checkpoints" / f"{name}.json").read_text())
    with np.load(GOLDEN / "checkpoints" / f"{name}.npz") as arrays:
        expected = torch.from_numpy(arrays["out"])
    x = torch.from_numpy(noise(card["input"]["noise"], tuple(card["input"]["shape"]), card["input"]["scale"]))
    return change(payload), (x, torch.tensor(card["t"])), expected, card["tolerance"]


def without(payload, key):
    return {**payload, "kwargs": {k: v for k, v in payload["kwargs"].items() if k != key}}


VARIANTS = {
    "as it is": lambda payload: payload,
    "dropout as a number": lambda payload: {**payload, "kwargs": {**payload["kwargs"], "dropout": 0.0}},
    "no dropout": lambda payload: without(payload, "dropout"),
    "bare": lambda payload: {n.removeprefix("predictor."): tensor for n, tensor in payload["state_dict"].items()},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_file_of_a_unet(variant, tmp_path):
    payload, inputs, expected, tolerance = tiny("tiny_unet", VARIANTS[variant])
    checkpoint.write(tmp_path / "model.pt", payload)
    module, _ = foreign.read_network(tmp_path / "model.pt", "diffusion")
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(*inputs), expected, **tolerance)
    kwargs, weights = type(module).from_foreign(payload.get("state_dict", payload), payload.get("kwargs"))
    assert (kwargs["base_channels"], kwargs["dropout"], kwargs["num_labels"]) == (1, 0.0, None)
    assert set(weights) == set(module.state_dict())


def test_file_of_a_classifier():
    payload, inputs, expected, tolerance = tiny("tiny_classifier")
    module, _ = foreign.read_network(GOLDEN / "checkpoints" / "tiny_classifier.pt", "classifier")
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(*inputs), expected, **tolerance)
    assert module.to_original()["kwargs"] == payload["kwargs"]


ORIGINALS = [
    ("UNet", {"base_channels": 4, "num_labels": 3, "cond_channels": 5, "dropout": 0.2}),
    ("WaveGrad", {"base_channels": 4, "cond_mult": 2, "num_labels": 3}),
    ("WaveClassifier", {"base_channels": 4, "num_labels": 3, "channel_mult": (1, 3), "depth_mult": 1}),
]


@pytest.mark.parametrize("name,options", ORIGINALS)
def test_round_trip_in_the_original_layout(name, options, tmp_path):
    module = fill(network(name, **options)).eval()
    checkpoint.write(tmp_path / "model.pt", module.to_original())
    payload = checkpoint.read(tmp_path / "model.pt")
    kwargs, weights = type(module).from_foreign(payload["state_dict"], payload["kwargs"])
    again = network(name, seed=1, **kwargs).eval()
    again.load_state_dict(weights)
    assert again.to_original()["kwargs"] == payload["kwargs"]
    given = module.example(2)
    with torch.no_grad():
        assert torch.equal(module(**given), again(**given))


def test_schedule_is_written():
    assert network("UNet", base_channels=4).to_original("cos")["kwargs"]["schedule_name"] == "cos"


@pytest.mark.parametrize("options", [{"cond_dim": 3}, {"channel_mult": (1, 2)}, {"out_channels": 2}])
def test_what_the_original_layout_cannot_say(options):
    with pytest.raises(ValueError, match="original layout"):
        network("UNet", **{"base_channels": 4, **options}).to_original()


def test_weights_of_another_network_are_not_recognised():
    known = [registry.load("models", name) for name, _ in ORIGINALS]
    files = [network(name, **options).to_original()["state_dict"] for name, options in ORIGINALS]
    for cls, own in zip(known, files):
        for weights in files:
            assert (cls.from_foreign(weights) is None) == (weights is not own)
        assert cls.from_foreign({"encoder.weight": torch.zeros(2)}) is None
        assert cls.from_foreign({**own, "vq.dictionary": torch.zeros(2, 2)}) is None or "stem.in_conv.weight" in own
        for name in own:
            if name.endswith(("in_conv.weight", "d_blocks.0.weight")):
                assert cls.from_foreign({**own, name: torch.zeros(3)}) is None


def test_missing_and_unexpected_names_are_listed(tmp_path):
    payload, *_ = tiny("tiny_unet")
    weights = {n: t for n, t in payload["state_dict"].items() if n != "predictor.out.1.bias"}
    checkpoint.write(tmp_path / "model.pt", {**payload, "state_dict": {**weights, "predictor.new": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"out\.1\.bias is missing.*new is not part") as error:
        foreign.read_network(tmp_path / "model.pt", "diffusion")
    assert "\n" not in str(error.value)


def test_classifier_starts_from_a_unet():
    unet, classifier = fill(network("UNet", base_channels=4)), network("WaveClassifier", base_channels=4, num_labels=3)
    before = {name: p.clone() for name, p in classifier.named_parameters()}
    blocks = sum(name.startswith("down_blocks.") for name, _ in unet.named_parameters())
    assert classifier.start_from(unet.state_dict()) == blocks + 6
    mine, theirs = classifier.stem.state_dict(), unet.state_dict()
    assert torch.equal(mine["in_conv.weight"], theirs["in_conv.weight"])
    assert torch.equal(mine["blocks.25.pre_cond.2.weight"], theirs["down_blocks.25.pre_cond.2.weight"])
    new = ("stem.blocks.26.", "stem.out.", "out.")
    for name, parameter in classifier.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith(new) or name.endswith("3.weight")
    with pytest.raises(ValueError, match="in_conv.weight|time_embed.proj.weight"):
        classifier.start_from(network("UNet", base_channels=8).state_dict())
    with pytest.raises(ValueError, match="dropout"):
        classifier.start_from(network("UNet", base_channels=4, dropout=0.1).state_dict())


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    "name,options,samples,message",
    [
        ("UNet", {"base_channels": 4}, 1000, "1000 samples.*256.*768 or 1024"),
        ("UNet", {"base_channels": 4}, 100, "100 samples.* one is 256$"),
        ("WaveGrad", {"base_channels": 4}, 100, "100 samples.*64.*64 or 128"),
        ("WaveClassifier", {"base_channels": 4, "num_labels": 2}, 511, "511 samples.*512"),
    ],
)
def test_wrong_lengths(name, options, samples, message):
    with pytest.raises(ValueError, match=message):
        network(name, **options)(torch.zeros(1, 1, samples), torch.zeros(1))


CONDITIONS = {"label": ("num_labels", 3), "cond": ("cond_channels", 4), "vector": ("cond_dim", 6)}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_is_given_exactly_when_set(condition):
    size, number = CONDITIONS[condition]
    plain, asking = network("UNet", **SMALL), network("UNet", **SMALL, **{size: number})
    given = asking.example(2)
    with pytest.raises(ValueError, match="without"):
        plain(**given)
    value = given.pop(condition)
    with pytest.raises(ValueError, match="needs"):
        asking(**given)
    with torch.no_grad():
        outputs = [fill(asking)(**given, **{condition: each}) for each in (value, value.flip(0), 0 * value)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3 and (outputs[0] - outputs[2]).abs().max() > 1e-3


def test_labels_of_wavegrad():
    with pytest.raises(ValueError, match="without labels"):
        network("WaveGrad", base_channels=4)(torch.zeros(1, 1, 64), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="needs labels"):
        network("WaveGrad", base_channels=4, num_labels=2)(torch.zeros(1, 1, 64), torch.zeros(1))


@pytest.mark.parametrize("label,message", [(3, "label 3: .* 0 to 2"), (-1, "label -1: .* 0 to 2")])
def test_label_beyond_the_classes(label, message):
    module = network("UNet", **SMALL, num_labels=3)
    with pytest.raises(ValueError, match=message):
        module(torch.zeros(2, 1, 64), torch.zeros(2), torch.tensor([0, label]))


def test_no_condition_of_wavegrad_is_zeros_of_any_length():
    module = fill(network("WaveGrad", base_channels=4, cond_mult=2)).eval()
    x, t = torch.randn(1, 1, 256), torch.rand(1)
    with torch.no_grad():
        plain, zeros = module(x, t), module(x, t, cond=torch.zeros(1, 8, 2))
        assert torch.equal(plain, zeros)
        cond = torch.randn(1, 8, 2)
        assert torch.equal(module(x, t, cond=cond), module(x, t, cond=cond.repeat_interleave(2, 2)))


@pytest.mark.parametrize("labels", [3, 921])
def test_first_loss_of_a_classifier_is_the_logarithm_of_its_classes(labels):
    module = network("WaveClassifier", base_channels=4, num_labels=labels)
    logits = module(torch.randn(3, 1, 700), torch.rand(3))
    assert not logits.any()
    loss = functional.cross_entropy(logits, torch.arange(3) % labels)
    assert loss.item() == pytest.approx(math.log(labels), rel=2e-7)


@pytest.mark.parametrize(
    "name,options",
    [("UNet", {"base_channels": 0}), ("WaveGrad", {"cond_mult": 0}), ("WaveClassifier", {"num_labels": 0})],
)
def test_wrong_sizes(name, options):
    with pytest.raises(ValueError, match="at least 1"):
        network(name, **options)
    with pytest.raises(ValueError, match="even"):
        waves.TimeEmbedding(2)
    with pytest.raises(ValueError, match="heads of 5"):
        waves.AttentionPool(8, 5, 4)


# ---------------------------------------------------------------- computing


@pytest.mark.parametrize(
    "name,options",
    [
        ("UNet", {**SMALL, "num_labels": 3, "dropout": 0.3}),
        ("WaveGrad", {"base_channels": 4, "num_labels": 3}),
        ("WaveClassifier", {"num_labels": 3, "base_channels": 8, "channel_mult": (1, 2)}),
    ],
)
def test_recomputed_activations_give_the_same_gradients(name, options):
    found = []
    for again in (False, True):
        module = fill(network(name, **options, checkpoint_activations=again)).train()
        torch.manual_seed(1)
        given = module.example(2)
        given["x"].requires_grad_()
        module(**given).square().mean().backward()
        found.append([given["x"].grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("name,options", [("UNet", SMALL), ("WaveClassifier", {"num_labels": 3, "base_channels": 8})])
def test_layouts_agree(name, options):
    module = fill(network(name, **options)).eval()
    given = module.example(2)
    with torch.no_grad():
        without_gradients = module(**given)
    assert without_gradients.is_contiguous()
    torch.testing.assert_close(without_gradients, module(**given).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("factor", [1 / 4, 0.5, 1, 2, 4])
def test_resize(factor):
    x = torch.randn(2, 3, 13)
    length = int(13 * factor)
    expected = x[..., : length * round(1 / factor)].unflatten(2, (length, -1)).mean(-1) if factor < 1 else None
    if factor >= 1:
        expected = x.repeat_interleave(int(factor), 2)
    torch.testing.assert_close(wave_ops.resize(x, factor), expected)
    with torch.no_grad():
        torch.testing.assert_close(wave_ops.leave(wave_ops.resize(wave_ops.enter(x), factor)), expected)


@pytest.mark.parametrize("channels,groups", [(8, 8), (24, 8), (32, 32), (48, 16), (256, 32), (1, 1)])
def test_groups(channels, groups):
    assert waves.group_norm(channels).num_groups == groups


def test_a_unet_learns_a_tone():
    module = network("UNet", **SMALL).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    generator, losses = torch.Generator().manual_seed(0), []
    wave = torch.sin(torch.arange(128) * 0.2)[None, None]
    for _ in range(50):
        t, eps = torch.rand(8, generator=generator), torch.randn(8, 1, 128, generator=generator)
        signal = torch.exp(-11.5 * t.square())[:, None, None]
        loss = (module(signal.sqrt() * wave + (1 - signal).sqrt() * eps, t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
