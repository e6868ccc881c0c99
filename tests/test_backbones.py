"""Tests generated over every file in backbones/, a newly dropped-in one included, some of the convolutional ones."""

import csv
import inspect
import itertools
import json
from pathlib import Path

import pytest
import torch

from engine import registry
from models.blocks.activations import ACTIVATIONS
from models.blocks.conv_stack import NORMS
from models.blocks.residual import PATHS
from models.blocks.subpixel import SubPixelConv

NAMES = registry.names("backbones")
CONVOLUTIONAL = ("dc1d", "dc2d", "resnet1d", "resnet2d")
ROLES = tuple(itertools.product(NAMES, ("encoder", "decoder")))
# all residues of 8, the ends of the range, one frame around multiples
FRAMES = (1, 2, 3, 7, 8, 9, 16, 17, 29, 61, 101, 202, 403, 404, 1237, 2000)
BINS = 8


def make(name, role, in_channels=6, seed=0, **options):
    """Return a small network of backbones/`name`.py."""
    torch.manual_seed(seed)
    cls = registry.load_backbone(name)[role == "decoder"]
    return cls(in_channels, **{**getattr(cls, "TEST_OPTIONS", {}), **options})


def inputs(network, batch, frames, channels=6):
    torch.manual_seed(frames)
    return torch.randn(batch, channels, *((BINS,) if network.DIMS == 2 else ()), frames)


@pytest.mark.parametrize("name, role", ROLES)
def test_any_number_of_frames_gives_as_many_as_announced(name, role):
    network = make(name, role).eval()
    for frames in FRAMES:
        with torch.no_grad():
            out = network(inputs(network, 1, frames))
        expected = frames * network.stride if role == "decoder" else -(-frames // network.stride)
        assert out.shape[1] == network.out_channels and torch.isfinite(out).all()
        assert out.shape[-1] == network.out_frames(frames) == expected, frames
        if network.DIMS == 2:
            step = network.frequency_stride
            assert out.shape[2] == (BINS * step if role == "decoder" else BINS // step)
    assert torch.equal(
        torch.as_tensor(network.out_frames(torch.tensor(FRAMES))), torch.tensor([network.out_frames(f) for f in FRAMES])
    )


@pytest.mark.parametrize("name, role", ROLES)
def test_every_parameter_receives_a_gradient_and_so_does_the_input(name, role):
    network = make(name, role).train()
    x = inputs(network, 3, 21).requires_grad_()
    out = network(x)
    (out * torch.randn_like(out)).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        # a bias before a batch norm or below a softmax gets zeros but for rounding, never None
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name
        if parameter.dim() > 1:
            assert parameter.grad.any(), parameter_name
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name, role", ROLES)
def test_a_row_of_a_batch_equals_a_batch_of_one_and_strides_do_not_matter(name, role):
    network = make(name, role).eval()
    x = inputs(network, 3, 53)
    with torch.no_grad():
        whole = network(x)
        torch.testing.assert_close(network(x[1:2]), whole[1:2], rtol=1e-4, atol=1e-5)
        turned = x.transpose(1, -1).contiguous().transpose(1, -1)
        assert not turned.is_contiguous()
        torch.testing.assert_close(network(turned), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, role", ROLES)
def test_autocast_stays_finite_and_weights_go_round(name, role):
    network, other = make(name, role).eval(), make(name, role, seed=1).eval()
    other.load_state_dict(network.state_dict())
    x = inputs(network, 2, 40)
    with torch.no_grad():
        assert torch.equal(network(x), other(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.isfinite(network(x)).all()


# ---------------------------------------------------------------- convolutional networks


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_decoded_frames_belong_to_the_frames_that_were_encoded(name):
    # averages everywhere: what comes out of an impulse is a hill around it
    encoder = make(name, "encoder", 1, activation="relu", norm="none")
    decoder = make(name, "decoder", encoder.out_channels, activation="relu", norm="none")
    for key, parameter in (*encoder.named_parameters(), *decoder.named_parameters()):
        torch.nn.init.constant_(parameter, 0 if key.endswith("bias") else 1 / parameter[0].numel())
    step, middle = encoder.stride, 200

    def response(frame, frames):
        x = torch.zeros(1, 1, *((BINS,) if encoder.DIMS == 2 else ()), frames)
        x[..., frame] = 1
        with torch.no_grad():
            return decoder(encoder(x))[..., :frames].flatten(0, -2).sum(0)

    for frames in range(400, 400 + step):
        shifted = response(middle + step, frames)
        torch.testing.assert_close(shifted[step:], response(middle, frames)[:-step], rtol=1e-4, atol=1e-6)
    at, centres = torch.arange(frames), []
    for frame in range(middle, middle + step):
        out = response(frame, frames)
        centres.append(((out * at).sum() / out.sum()).item())
        assert abs(centres[-1] - frame) < step, f"an impulse at {frame} comes out around {centres[-1]}"
    # a position begins at its frame and is repeated behind it
    late = sum(centres) / step - (middle + (step - 1) / 2)
    assert abs(late - (step - 1) / 2) < 0.5


def sharp(network):
    """Return `network` with norms (and biases) times 8, so that activations see what is far from zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.mul_(8)
    return network.train()


@pytest.mark.parametrize(
    "name, repeats, context",
    [("dc1d", [1, 1, 1, 1], 10), ("dc1d", [2, 2, 3, 2], 29), ("resnet1d", [1, 1, 1, 1], 25),
     ("resnet1d", [1, 2, 3, 2], 61), ("resnet1d", [3, 4, 6, 3], 113), ("resnet2d", [2, 2, 2, 2], 55)],
)  # fmt: skip
def test_a_position_sees_as_many_frames_to_either_side_as_published(name, repeats, context):
    options = {"stem_channels": 1, "channels": 1, "norm": "none", "activation": "relu"}
    network = make(name, "encoder", 1, repeats=repeats, **options)
    for key, parameter in network.named_parameters():
        torch.nn.init.constant_(parameter, 0 if key.endswith("bias") else 1 / parameter[0].numel())
    x = torch.ones(1, 1, *((BINS,) if network.DIMS == 2 else ()), 320).requires_grad_()
    network(x)[..., 20].sum().backward()
    seen = x.grad.flatten(0, -2).sum(0).nonzero().flatten()
    assert (seen.min(), seen.max()) == (160 - context, 160 + context)


@pytest.mark.parametrize("name, role", itertools.product(CONVOLUTIONAL, ("encoder", "decoder")))
def test_every_option_builds_and_does_something(name, role):
    plain = make(name, role)
    x = inputs(plain, 4, 19)
    changes = [{"norm": norm} for norm in NORMS if norm != "batch"]
    changes += [{"activation": activation} for activation in ACTIVATIONS if activation != "relu6"]
    changes += [{"norm_before_activation": False}, {"norm_before_activation": False, "norm": "layer"}]
    changes += [{"dilations": 2}, {"dilations": [1, 2, 1, 3]}, {"se_reduction": 4}, {"head_channels": 5}]
    changes += [{"dropout": 0.3}, {"stem_stride": 2}, {"kernels": [3, 5, 1, 3]}, {"strides": [3, 1, 2, 1]}]
    if name.startswith("resnet"):
        changes += [{"block": block} for block in PATHS if block != "basic"]
        changes += [{"drop_connect": 0.5}]
    reference = sharp(plain)(x)
    for change in changes:
        network = sharp(make(name, role, **change))
        out = network(x)
        assert torch.isfinite(out).all() and out.shape[-1] == network.out_frames(19), change
        assert out.shape[1] == network.out_channels == change.get("head_channels", 8)
        assert out.shape != reference.shape or not torch.allclose(out, reference), f"{change} does nothing"
        with torch.autocast("cpu", torch.bfloat16):
            network(x).float().square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters()), change


def test_drop_outs_are_those_of_training_and_whole_channels_or_samples():
    x = torch.randn(64, 6, 16)
    network = make("dc1d", "encoder", dropout=0.5)
    assert torch.equal(network.eval()(x), network(x)) and not torch.equal(network.train()(x), network(x))
    dropped = (network(x) == 0).all(dim=2)
    assert 0.4 < dropped.float().mean() < 0.75
    paths = make("resnet1d", "encoder", repeats=[1], channels=8, strides=[1], kernels=3, drop_connect=0.5)
    with torch.no_grad():
        # a shortcut alone is left of the block of a sample that leaves the path out
        same = (paths.train()(x) - paths.stem(x.unsqueeze(2)).squeeze(2)).abs().amax((1, 2)) < 1e-4
    assert 0.3 < same.float().mean() < 0.7


@pytest.mark.parametrize("dims, upsampling", [(1, 2), (1, 3), (2, 2), (2, 3)])
def test_a_sub_pixel_convolution_starts_as_nearest_neighbour(dims, upsampling):
    torch.manual_seed(0)
    layer = SubPixelConv(5, 4, (3, 3) if dims == 2 else (1, 3), upsampling, dims, padding=(dims - 1, 1))
    x = torch.randn(2, 5, 6 if dims == 2 else 1, 7)
    y = layer(x)
    low = torch.nn.functional.conv2d(
        x, layer.weight[:: layer.phases] if dims == 2 else layer.weight[:4],
        layer.bias[:: layer.phases] if dims == 2 else layer.bias[:4], padding=layer.padding,
    )  # fmt: skip
    expected = low.repeat_interleave(upsampling, 3)
    torch.testing.assert_close(y, expected.repeat_interleave(upsampling, 2) if dims == 2 else expected)
    assert len(torch.unique(low[0, :, 0, 0])) == 4, "channels start apart from each other"
    # fan-out of one phase: the variance of Kaiming's initialisation
    wide = SubPixelConv(64, 64, (1, 3), 2, 1)
    assert abs(wide.weight.std() - (2 / (64 * 3)) ** 0.5) < 0.005


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_initialisation_is_kaiming_fan_out(name):
    network = make(name, "decoder", stem_channels=64, channels=64, head_channels=8)
    for key, module in network.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module is not network.head:
            phases = getattr(module, "phases", 1)
            fan_out = module.weight.shape[0] / phases * module.weight[0, 0].numel()
            assert abs(module.weight.std() / (2 / fan_out) ** 0.5 - 1) < 0.1, key


WRONG = (
    ({"kernels": 4}, "kernel 4 must be odd"),
    ({"strides": [1, 2]}, "strides has 2 values, repeats has 4"),
    ({"channels": [8, 8, 0, 8]}, "channels 0 must be"),
    ({"activation": "rely"}, "activation 'rely' is unknown, choose from relu6"),
    ({"norm": "batchnorm"}, "norm 'batchnorm' is unknown, choose from batch"),
    ({"dropout": 1.0}, "dropout 1.0 must be"),
    ({"se_reduction": 16}, "se_reduction 16 must be between 1 and"),
    ({"stem_stride": 0}, "stem_stride 0 must be"),
)


@pytest.mark.parametrize("options, message", WRONG)
def test_wrong_options_are_one_clear_error(options, message):
    for name in CONVOLUTIONAL:
        with pytest.raises(ValueError, match=message) as caught:
            make(name, "encoder", **options)
        assert "\n" not in str(caught.value)


def test_what_residual_networks_alone_take_is_refused_elsewhere():
    for options, message in (({"block": "wide"}, "block 'wide' is unknown"), ({"drop_connect": 1}, "drop_connect 1")):
        with pytest.raises(ValueError, match=message):
            make("resnet1d", "encoder", **options)
        assert not set(options) & set(inspect.signature(registry.load_backbone("dc1d")[0]).parameters)
    with pytest.raises(ValueError, match="channels 6 must be a multiple of 4"):
        make("resnet2d", "encoder", block="bottleneck", channels=6)
    with pytest.raises(ValueError, match=r"\(2, 5, 9\): \(batch, 6, frames\) is needed"):
        make("dc1d", "encoder")(torch.zeros(2, 5, 9))
    with pytest.raises(ValueError, match="bins, frames"):
        make("dc2d", "encoder")(torch.zeros(2, 6, 9))


def published():
    """Return the rows of the published configurations whose networks are convolutional, one of every size."""
    path = Path(__file__).resolve().parent / "golden" / "generative_configs.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["backbone"] in CONVOLUTIONAL]
    return list(
        {(r["backbone"], r["encoder"], r["decoder"], r["likelihood"], r["parameters"]): r for r in rows}.values()
    )


@pytest.mark.parametrize("row", published(), ids=lambda row: row["name"].removeprefix("config_")[:48])
def test_published_sizes_follow_from_encoder_decoder_and_projections(row):
    with torch.device("meta"):
        pair = [
            cls(**json.loads(row[role]))
            for cls, role in zip(registry.load_backbone(row["backbone"]), ("encoder", "decoder"))
        ]
    encoder, decoder = pair
    channels = int(row["latent_dim"])
    bins = 80 if decoder.DIMS == 1 else 1  # a picture has one channel
    moments = 2 if row["likelihood"] == "predicted" else 1
    count = sum(parameter.numel() for network in pair for parameter in network.parameters())
    count += (encoder.out_channels + 1) * channels + (decoder.out_channels + 1) * bins * moments
    count += 0 if row["likelihood"] == "predicted" else bins  # log-variance of the likelihood
    count += 0 if "vq" in row["model_type"] else channels  # log-variance of the posterior
    assert count == int(row["parameters"])
