"""Waveform VQ-VAE: encoders, lengths, conditions, labels added to a trained network, files and contracts."""

import json

import pytest
import torch
from golden_recipes import golden_dir

from audio.companding import mu_law
from diffusion import objective
from DiffusionNet import load_network
from engine import checkpoint
from models.blocks import labels, vq
from models.blocks.wave_encoders import ENCODERS, make_encoder
from models.EncoderPredictor import MainModel as EncoderPredictor
from models.UNet import MainModel as UNet
from models.WaveVQVAE import MainModel as VQVAE

SMALL = {
    "base_channels": 4, "enc_name": "conv-mfcc-linear", "cond_mult": 2, "dictionary_size": 8, "pred_name": "wavegrad",
}  # fmt: skip


@torch.no_grad()
def stirred(network, seed=0):
    """Return `network` with noise in place of what starts at zero, so that every part of it matters."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return network


# ---------------------------------------------------------------- encoders


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_has_one_position_per_rate(name):
    encoder = make_encoder(name, 4, 2).eval()
    x = 0.1 * torch.randn(1, 1, 2 * 1280)
    with torch.no_grad():
        plain = encoder(x)
    assert plain.shape == (1, 8, x.shape[2] // encoder.rate)
    encoder = stirred(encoder)
    x.requires_grad_()
    encoder(x).square().sum().backward()
    expected, x.grad = x.grad, None
    encoder.checkpoint_activations = True
    encoder(x).square().sum().backward()
    assert x.grad.any()
    torch.testing.assert_close(x.grad, expected)


def test_a_clip_does_not_depend_on_its_batch():
    encoder = stirred(make_encoder("conv-mfcc-ulaw-v2", 4, 2)).eval()
    quiet, loud = 0.001 * torch.randn(1, 1, 3200), 0.5 * torch.randn(1, 1, 3200)
    both = torch.cat([quiet, loud])
    with torch.no_grad():
        alone = encoder(quiet)
        torch.testing.assert_close(encoder(both)[:1], alone, rtol=1e-4, atol=1e-3)
        encoder.mfcc.floor_of_batch = True  # as the encoder was published
        assert (encoder(both)[:1] - alone).abs().max() > 0.05 * alone.abs().max()


def test_companded_and_linear_waves_give_the_same_latents():
    linear, companded = (stirred(make_encoder(f"conv-mfcc-{name}", 4, 2)).eval() for name in ("linear", "ulaw"))
    companded.load_state_dict(linear.state_dict())
    x = (0.3 * torch.randn(2, 1, 3200)).clamp(-1, 1)
    with torch.no_grad():
        torch.testing.assert_close(companded(mu_law(x)), linear(x), rtol=1e-3, atol=1e-3)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="encoder nosuch: one of unet, .*conv-mfcc-linear"):
        make_encoder("nosuch", 4)
    with pytest.raises(ValueError, match="predictor nosuch: one of unet, wavegrad"):
        VQVAE(4, pred_name="nosuch")
    with pytest.raises(ValueError, match="dropout 0.1: the predictor wavegrad has none"):
        VQVAE(4, pred_name="wavegrad", dropout=0.1)
    with pytest.raises(ValueError, match="160 samples: cepstral coefficients need at least 161"):
        make_encoder("conv-mfcc-linear", 4)(torch.zeros(1, 1, 160))


# ---------------------------------------------------------------- the whole network


@pytest.mark.parametrize("enc_name, rate", [("unet128", 256), ("conv-mfcc-ulaw", 1280)])
def test_length_must_divide_by_both_rates(enc_name, rate):
    network = VQVAE(4, enc_name, 2, 8, "unet")
    assert network.rate == rate
    x = torch.zeros(1, 1, 3 * rate - 64)
    with pytest.raises(ValueError, match=f"multiple of {rate}; the next good ones are {2 * rate} or {3 * rate}"):
        network(x, torch.zeros(1), x)
    with pytest.raises(ValueError, match=f"multiple of {network.encoder.rate}"):
        network.encode(x[..., 1:])
    other = EncoderPredictor(4, 320, 8, 8)
    with pytest.raises(ValueError, match="multiple of 1280; the next good ones are 1280 or 2560"):
        other(torch.zeros(1, 1, 1281), torch.zeros(1))


def test_codes_and_label_reach_the_prediction():
    network = stirred(VQVAE(**SMALL, num_labels=3)).eval()
    torch.manual_seed(0)
    given = network.example(2)
    with torch.no_grad():
        out = network(**given)
        assert torch.equal(out.codes, network.encode(given["clean"])) and out.codes.shape == (2, 2)
        assert torch.equal(out.latents, network.latents(given["clean"]))
        assert torch.equal(out.embedded, network.vq.embed(out.codes))
        without = network(**given, no_vq_prob=0.5, no_vq_draws=torch.tensor([0.4, 0.6]))
        alone = network.predictor(given["x"], given["t"], label=given["label"], cond=torch.zeros_like(out.embedded))
        moved = network(**given, jitter=1.0, jitter_draws=torch.full((2, 1, 2), 0.2))
        other = network(**given | {"label": torch.tensor([2, 1])})
    torch.testing.assert_close(without.prediction[0], alone[0])
    torch.testing.assert_close(without.prediction[1], out.prediction[1])
    assert not torch.allclose(alone[0], out.prediction[0])
    assert torch.equal(moved.latents, out.latents[..., [0, 0]])  # jittered before the quantiser
    assert not torch.allclose(other.prediction[0], out.prediction[0])
    torch.testing.assert_close(other.prediction[1], out.prediction[1])
    with pytest.raises(ValueError, match="label 3: this network has the labels 0 to 2"):
        network(**given | {"label": torch.tensor([3, 0])})
    with pytest.raises(ValueError, match="needs labels"):
        network(given["x"], given["t"], given["clean"])


def test_encoder_predictor_learns_where_the_tone_is():
    torch.manual_seed(0)
    network = EncoderPredictor(4, 256, 3, 8)
    targets = torch.tensor([[0, 1], [2, 1]])
    pitch = torch.tensor([0.0, 0.1, 1.0])[targets].repeat_interleave(256, 1)
    x = torch.sin(pitch.cumsum(1))[:, None]
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for _ in range(14):
        loss = torch.nn.functional.cross_entropy(network(x, torch.zeros(2)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_finds_codes_though_all_latents_start_alike():
    torch.manual_seed(0)
    network = VQVAE(**SMALL, dead_rate=5)
    tones = torch.tensor([300.0, 1000.0, 3000.0, 6000.0]) * 2 * torch.pi / 16000
    x = 0.5 * torch.sin(tones[:, None] * torch.arange(640))[:, None]
    optimizer, errors, used = torch.optim.AdamW(network.parameters(), lr=3e-3), [], []
    for _ in range(24):
        t, eps = torch.rand(4), torch.randn(x.shape)
        out = network(objective.noised(x, t, eps, "exp"), t, x)
        error = (out.prediction - eps).square().mean()
        loss = error + vq.vq_loss(out.latents, out.embedded)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        vq.revive(network.vq, optimizer)
        errors.append(error.item())
        used.append(len(out.codes.unique()))
    assert used[0] == 1 and used[-1] >= 4
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])


def test_start_from_a_predictor_or_a_vqvae():
    network, other = VQVAE(**SMALL, num_labels=3), stirred(VQVAE(**SMALL, num_labels=3), seed=1)
    parameters = dict(other.named_parameters())
    assert network.start_from(other.predictor.state_dict()) == len(list(other.predictor.parameters()))
    same = {name for name, p in network.named_parameters() if torch.equal(p, parameters[name])}
    assert {name for name in parameters if name.startswith("predictor.")} <= same and "vq.dictionary" not in same
    assert network.start_from(other.state_dict()) == len(parameters)
    assert all(torch.equal(p, parameters[name]) for name, p in network.named_parameters())
    with pytest.raises(ValueError, match="label_emb.weight is .* there and .* here"):
        VQVAE(**SMALL, num_labels=4).start_from(other.state_dict())


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("pred_name", ["unet", "wavegrad"])
def test_added_speakers_leave_the_old_ones_as_they_are(pred_name):
    options = SMALL | {"pred_name": pred_name}
    network = stirred(VQVAE(**options, num_labels=3)).eval()
    torch.manual_seed(0)
    given = network.example(2)
    weights, count = labels.add_labels(network.state_dict(), 2, torch.Generator().manual_seed(0))
    more = VQVAE(**options, num_labels=count).eval()
    more.load_state_dict(weights)
    shifted, count_shifted = labels.add_none_label(network.state_dict())
    free = VQVAE(**options, num_labels=count_shifted).eval()
    free.load_state_dict(shifted)
    assert (count, count_shifted) == (5, 4)
    with torch.no_grad():
        expected = network(**given).prediction
        assert torch.equal(more(**given).prediction, expected)
        assert torch.equal(free(**given | {"label": given["label"] + 1}).prediction, expected)
        none = free(**given | {"label": torch.zeros(2, dtype=torch.int64)}).prediction
        assert torch.isfinite(none).all() and not torch.allclose(none, expected)
        new = more(**given | {"label": torch.tensor([3, 4])}).prediction
        assert not torch.allclose(new, expected)
    names = labels.train_labels_only(more)
    assert len(names) == (1 if pred_name == "unet" else 15)
    before = {name: tensor.clone() for name, tensor in more.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in more.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    more.train()(**given | {"label": torch.tensor([3, 4])}).prediction.square().mean().backward()
    optimizer.step()
    after = more.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(names)
    assert all(torch.equal(after[name][:3], before[name][:3]) for name in names)


def test_labels_of_a_network_without_any():
    with pytest.raises(ValueError, match="has no labels"):
        labels.add_labels(UNet(4, (1, 2)).state_dict(), 2)
    with pytest.raises(ValueError, match="0 labels to add"):
        labels.add_labels(UNet(4, (1, 2), num_labels=2).state_dict(), 0)


# ---------------------------------------------------------------- files and contracts


@pytest.mark.parametrize(
    "options",
    [
        {"pred_name": "unet", "enc_name": "conv-mfcc-ulaw", "num_labels": 3, "dropout": 0.1},
        {"pred_name": "wavegrad", "enc_name": "conv-mfcc-ulaw-v2"},
    ],
)
def test_original_layout_of_the_vqvae(options, tmp_path):
    network = VQVAE(**SMALL | options).eval()
    written = network.to_original("cos")
    checkpoint.write(tmp_path / "model.pt", written)
    again, card = load_network(tmp_path / "model.pt", "vqvae")
    given = network.example(1)
    with torch.no_grad():
        assert torch.equal(again(**given).prediction, network(**given).prediction)
    assert card["meta"]["schedule"] == "cos" and again.to_original("cos")["kwargs"] == written["kwargs"]
    assert VQVAE.from_foreign(written["state_dict"]) is None  # the weights do not say which encoder it is
    for task in ("diffusion", "encoder_predictor", "classifier"):
        with pytest.raises(ValueError, match=f"is no network for the task {task}"):
            load_network(tmp_path / "model.pt", task)


def test_original_layout_of_the_encoder_predictor(tmp_path):
    network = EncoderPredictor(4, 320, 8, 8)
    checkpoint.write(tmp_path / "model.pt", network.to_original())
    again, _ = load_network(tmp_path / "model.pt", "encoder_predictor")
    assert again.to_original()["kwargs"] == network.to_original()["kwargs"]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters()))
    for task in ("diffusion", "vqvae"):
        with pytest.raises(ValueError, match=f"is no network for the task {task}"):
            load_network(tmp_path / "model.pt", task)


CONTRACTS = sorted(
    path.stem
    for pattern in ("encoder_*.json", "vqvae_*.json")
    for path in (golden_dir("diffusion") / "contracts").glob(pattern)
)


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract(name):
    contract = json.loads((golden_dir("diffusion") / "contracts" / f"{name}.json").read_text())
    kwargs = contract["kwargs"]
    if kwargs is None:
        network = make_encoder(name.removeprefix("encoder_"), 32, 16)
    elif "enc_name" in kwargs:
        network = VQVAE(**{k: v for k, v in kwargs.items() if k not in ("schedule_name", "cond_channels")})
    else:
        network = EncoderPredictor(**kwargs)
    parameters = [[name, list(p.shape)] for name, p in network.named_parameters()]
    assert parameters == contract["parameters"]
    assert sum(p.numel() for p in network.parameters()) == contract["count"]
    buffers = [[name, list(b.shape), str(b.dtype).removeprefix("torch.")] for name, b in network.named_buffers()]
    assert buffers == contract["buffers"]
    assert [name for name, p in network.named_parameters() if not p.any()] == contract["zero_at_init"]
    if kwargs is not None:
        assert network.to_original()["kwargs"] == kwargs
