"""Tests generated over every file in models/, a newly dropped-in one included, and tests of the mel features."""

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from audio.backend import load_torchaudio
from audio.features import FLOOR, MelSpectrogram, PreEmphasis, SpeakerMel, instance_norm, mel_filterbank
from engine.registry import build, load, taken

FILES = sorted(p.stem for p in (Path(__file__).resolve().parent.parent / "models").glob("[!_]*.py"))
OPTIONS = {"nOut": 24, "encoder_type": "SAP", "n_mels": 40, "log_input": True, "sinc_stride": 10}


def make(name, seed=0, **options):
    """Return the network of models/`name`.py, a small one where it says how (TEST_OPTIONS), with its first encoder."""
    torch.manual_seed(seed)
    cls = load("models", name)
    small = getattr(cls, "TEST_OPTIONS", {})
    network = build(cls, {**OPTIONS, "encoder_type": encoders(name)[0], **small, **options})
    # a layer that starts at zero would hide what is before it: from the output, and from the gradient
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def encoders(name):
    """Return what the network takes as encoder_type; one name, which is not used, where it takes none."""
    cls = load("models", name)
    names = getattr(cls, "ENCODERS", ("SAP",))
    return names if "encoder_type" in (taken(cls) or ("encoder_type",)) else names[:1]


def inputs(network, batch):
    torch.manual_seed(5)
    if hasattr(network, "example"):
        return network.example(batch)
    return {"wave": 0.1 * torch.randn(batch, 16240)}


def row(example, index):
    """Return one row of every tensor of `example`, as a batch of one."""
    return {key: value[index : index + 1] if torch.is_tensor(value) else value for key, value in example.items()}


def floats(output):
    """Return the floating tensors of what a network returned: a tensor, or a tuple or dictionary of such."""
    if torch.is_tensor(output):
        return [output] if output.is_floating_point() else []
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else []
    return [tensor for value in values for tensor in floats(value)]


def is_speaker(name):
    return getattr(load("models", name), "TASK", "speaker") == "speaker"


SPLIT = [name for name in FILES if is_speaker(name) and hasattr(load("models", name), "embed")]


@pytest.mark.parametrize("name,encoder", [(name, encoder) for name in FILES for encoder in encoders(name)])
def test_every_parameter_receives_a_gradient(name, encoder):
    network = make(name, encoder_type=encoder).train()
    outputs = floats(network(**inputs(network, 3)))
    assert outputs and all(torch.isfinite(output).all() for output in outputs)
    if is_speaker(name):
        assert outputs[0].shape == (3, getattr(network, "embedding_size", OPTIONS["nOut"]))
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    unused = getattr(network, "UNUSED_PARAMETERS", ())
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.startswith(tuple(unused)):
            assert parameter.grad is None, f"{parameter_name} is used after all"
            continue
        assert parameter.grad is not None, f"{parameter_name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{parameter_name} has a gradient that is not finite"
    moved = [p.grad for p in network.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len(moved) >= 0.95 * sum(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", FILES)
def test_batch_of_one_equals_a_row(name):
    network = make(name).eval()
    example = inputs(network, 3)
    with torch.no_grad():
        together, alone = floats(network(**example)), floats(network(**row(example, 1)))
    for a, b in zip(together, alone):
        if a.dim():
            torch.testing.assert_close(a[1:2], b, atol=1e-4 * max(1.0, a.abs().max().item()), rtol=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_autocast_stays_finite(name):
    network = make(name).train()
    example = inputs(network, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = floats(network(**example))
        if is_speaker(name) and hasattr(network, "features"):
            assert network.features(**example).dtype == torch.float32
    assert all(torch.isfinite(output).all() for output in outputs)
    sum(output.float().square().sum() for output in outputs).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", FILES)
def test_state_dict_round_trip(name):
    network, other = make(name, seed=0).eval(), make(name, seed=1).eval()
    state = network.state_dict()
    assert all(tensor.is_contiguous() for tensor in state.values())  # safetensors takes no others
    example = inputs(network, 2)
    with torch.no_grad():
        before = floats(other(**example))
        other.load_state_dict(state)
        after = floats(other(**example))
        assert all(torch.equal(a, b) for a, b in zip(floats(network(**example)), after))
        # the divergence from a uniform prior of codes is the same for all weights, and no other output
        assert sum(torch.equal(b, c) for b, c in zip(after, before)) <= len(before) // 4


WITH_ENCODERS = [
    name
    for name in FILES
    if hasattr(load("models", name), "ENCODERS") and "encoder_type" in (taken(load("models", name)) or ())
]


@pytest.mark.parametrize("name", WITH_ENCODERS)
def test_unknown_encoder_names_the_valid_ones(name):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, encoders(name)))):
        make(name, encoder_type="NOSUCH")


@pytest.mark.parametrize("name", [name for name in FILES if hasattr(load("models", name), "LEAST_SAMPLES")])
def test_shortest_wave_and_silence(name):
    network = make(name).eval()
    least = network.LEAST_SAMPLES
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(2, least))).all()
        assert torch.isfinite(network(torch.zeros(2, least))).all()
        with pytest.raises(ValueError, match=f"{least - 1} samples.*{least}"):
            network(torch.randn(2, least - 1))


@pytest.mark.parametrize("name", SPLIT)
def test_forward_is_embed_of_features(name):
    network = make(name).eval()
    example = inputs(network, 2)
    with torch.no_grad():
        assert torch.equal(network(**example), network.embed(network.features(**example)))


@pytest.mark.parametrize("name", ["ResNetSE34L", "ResNetSE34V2"])
def test_memory_formats_agree(name):
    network = make(name, n_mels=40).eval()
    example = inputs(network, 2)
    with torch.no_grad():
        a = network(**example)
        b = network.to(memory_format=torch.channels_last)(**example)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_compiles_as_one_graph():
    network = make("ResNetSE34L", encoder_type="ASP").eval()
    example = inputs(network, 2)
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)(**example)
        torch.testing.assert_close(compiled, network(**example))


def test_training_lowers_a_loss():
    network = make("ResNetSE34L", nOut=4).train()
    tones = torch.sin(torch.arange(8240) * torch.tensor([0.05, 0.1, 0.2, 0.4])[:, None])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(16):
        loss = torch.nn.functional.cross_entropy(network(tones + 0.05 * torch.randn(4, 8240)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_wrong_band_counts():
    for name in ("ResNetSE34V2", "Res2NetSE34"):
        with pytest.raises(ValueError, match="n_mels 42 must be a multiple of 8"):
            make(name, n_mels=42)
    with pytest.warns(UserWarning, match="n_mels 64 is ignored"):
        network = make("VGGVox40", n_mels=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = make("VGGVox", n_mels=40)
    assert same.load_state_dict(network.state_dict())


def test_res2net_layouts():
    wide = make("Res2NetSE34", res2_expansion=4, res2_scale=3, res2_width=20)
    assert wide.layer1[0].conv3.out_channels == 128 and wide.layer1[1].conv1.in_channels == 128
    assert wide.layer4[0].conv1.out_channels == 3 * (256 * 20 // 64) and len(wide.layer2[1].convs) == 2
    assert wide.eval()(**inputs(wide, 1)).shape == (1, OPTIONS["nOut"])
    with pytest.raises(ValueError, match="res2_scale"):
        make("Res2NetSE34", res2_scale=1)


# ---- mel features


def direct_mel(wave, window, n_mels):
    """Return mel power by the defining sums in float64, for one wave (samples,)."""
    padded = np.pad(wave.astype(np.float64), 256, mode="reflect")
    n = np.arange(400)
    taper = (0.54 - 0.46 * np.cos(2 * np.pi * n / 400)) if window == "hamming" else 0.5 - 0.5 * np.cos(np.pi * n / 200)
    frames = [padded[start + 56 : start + 456] * taper for start in range(0, len(padded) - 511, 160)]
    power = np.abs(np.fft.rfft(np.stack(frames), 512)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), n_mels + 2)
    edges, hz = 700 * (10 ** (mel / 2595) - 1), np.linspace(0, 8000, 257)
    triangles = [np.interp(hz, edges[i : i + 3], [0, 1, 0]) for i in range(n_mels)]
    return np.stack(triangles) @ power.T


@pytest.mark.parametrize("window,n_mels", [("hamming", 40), ("hann", 40), ("hamming", 64)])
def test_mel_power_is_that_of_the_defining_sums(window, n_mels):
    wave = np.random.default_rng(1).standard_normal(4000).astype(np.float32)
    ours = MelSpectrogram(window, n_mels)(torch.from_numpy(wave)[None])[0].numpy()
    expected = direct_mel(wave, window, n_mels)
    assert ours.shape == expected.shape == (n_mels, 1 + 4000 // 160)
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=1e-4)


def test_mel_power_equals_torchaudio():
    torchaudio = load_torchaudio()
    reference = torchaudio.transforms.MelSpectrogram(16000, 512, 400, 160, n_mels=40, window_fn=torch.hamming_window)
    wave = torch.randn(2, 8240)
    torch.testing.assert_close(MelSpectrogram("hamming", 40)(wave), reference(wave), rtol=2e-3, atol=1e-3)
    assert load_torchaudio() is torchaudio


def test_filterbank_shape():
    bank = mel_filterbank(40)
    assert bank.shape == (257, 40) and bank.min() == 0 and bank.max() <= 1
    centres = bank.argmax(0)
    assert (centres.diff() >= 0).all() and (bank.sum(0) > 0).all()
    inner = bank[centres[0] + 1 : centres[-1]].sum(1)  # neighbours overlap to a sum of one
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_pre_emphasis_and_unknown_window():
    wave = torch.randn(2, 50)
    y = PreEmphasis()(wave)
    torch.testing.assert_close(y[:, 1:], wave[:, 1:] - 0.97 * wave[:, :-1])
    torch.testing.assert_close(y[:, 0], wave[:, 0] - 0.97 * wave[:, 1])
    with pytest.raises(ValueError, match="hamming, hann"):
        SpeakerMel(window="square")


def test_speaker_mel_floor_and_normalisation():
    front_end = SpeakerMel(True, "hamming", 64, True)
    assert torch.allclose(front_end.mel(torch.zeros(1, 1000)), torch.tensor(math.log(FLOOR)))
    features = front_end(torch.randn(2, 16000, requires_grad=True))
    assert not features.requires_grad and features.shape == (2, 64, 101)
    torch.testing.assert_close(features.mean(2), torch.zeros(2, 64), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.var(2, correction=0), torch.ones(2, 64), atol=1e-3, rtol=0)
    mel = torch.randn(2, 3, 40)
    torch.testing.assert_close(instance_norm(mel), torch.nn.functional.instance_norm(mel))
