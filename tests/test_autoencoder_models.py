"""AE, VAE and VQ-VAE of features: lengths, alignment, what counts, sampling, codes, published configurations."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from audio.code_stream import from_bytes, to_bytes
from engine.registry import load
from models.blocks.gaussians import Gaussian, Normal, free_bits, kl_divergence, log_density, warm_up
from scoring import compression

VQVAE = "VQVAE"
MODELS = ("AE", "VAE", VQVAE)
STRIDED = {"stem_channels": 6, "repeats": [1, 1, 1, 1], "channels": 6, "kernels": 3, "strides": [1, 2, 2, 2]}
SQUARE = {"stem_channels": 4, "repeats": [1, 1], "channels": 4, "kernels": 3, "strides": [1, 2]}


def make(name, sizes=None, seed=0, **options):
    """Return a small network in eval mode; `sizes` of its encoder and decoder, by default of stride 2."""
    torch.manual_seed(seed)
    cls = load("models", name)
    given = {**cls.TEST_OPTIONS, **options}
    if sizes is not None:
        given |= {"encoder_options": {**sizes, "stem_kernel": 5}, "decoder_options": {**sizes, "stem_kernel": 3}}
    return cls(**given).eval()


def features(batch=2, frames=24, bins=10, seed=0):
    return torch.randn(batch, bins, frames, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- lengths and alignment


@pytest.mark.parametrize("name", MODELS)
def test_a_reconstruction_has_the_frames_of_its_input(name):
    model = make(name, STRIDED)
    with torch.no_grad():
        for frames in [*range(1, 34), 400, 701, 1237, 2000]:
            x = features(1, frames)
            assert model.reconstruct(x).shape == x.shape
            assert model.pair.shape(frames) == (math.ceil(frames / 8),) == model.encode(x).shape[2:]


REACH = 88  # frames: more than encoder and decoder of STRIDED see to either side


def test_the_end_of_the_input_shifts_nothing():
    model, x = make("AE", STRIDED), features(1, 160)
    with torch.no_grad():
        whole = model.reconstruct(x)
        for frames in (121, 122, 124, 127, 128):
            part = model.reconstruct(x[..., :frames])[..., : frames - REACH]
            torch.testing.assert_close(part, whole[..., : frames - REACH], atol=1e-5, rtol=1e-4)


def test_a_shifted_input_gives_a_shifted_output():
    model, x = make("AE", STRIDED), features(1, 300)
    with torch.no_grad():
        whole = model.reconstruct(x)
        for shift in (8, 16, 64):
            moved = model.reconstruct(x[..., shift:])[..., REACH:140]
            torch.testing.assert_close(moved, whole[..., shift + REACH : shift + 140], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_pictures_are_cut_in_both_axes(name):
    model = make(name, SQUARE, encoder="dc2d", bins=11)
    example = model.example(2)
    with torch.no_grad():
        out = model(**example)
        assert out.mean.shape == example["x"].shape
        z = model.encode(example["x"])
        assert z.shape[2:] == model.pair.shape(13) == (6, 7)
        assert model.decode(z).shape == (2, 11, 14) and model.decode(z, 13).shape == (2, 11, 13)
        if name != "AE":
            assert model.likelihood.logvar.numel() == 1
            assert model.sample(2, 13).shape == (2, 11, 13)


# ---------------------------------------------------------------- what counts


@pytest.mark.parametrize("name", MODELS)
def test_per_sample_values_are_those_of_the_sample_and_of_frames_that_count(name):
    model = make(name, **({} if name == "AE" else {"kl_weight": 0.5}))
    x, clean = features(3, 13), features(3, 13, seed=1)
    counts = torch.tensor([13, 6, 1])
    mask = torch.arange(13) < counts[:, None]
    other = torch.where(mask[:, None], clean, 1e4)  # what the target is elsewhere
    with torch.no_grad():
        out, same = model(x, clean, mask), model(x, other, mask)
    for field, a, b in zip(out._fields, out, same):
        if field not in ("codes", "log_perplexity", "mean", "kl_per_channel"):
            assert a.shape == (3,), field
        assert torch.equal(a, b), field
    for row, count in enumerate(counts):
        difference = (out.mean - clean)[row, :, :count]
        torch.testing.assert_close(out.mse[row], difference.square().mean())
        torch.testing.assert_close(out.l1[row], difference.abs().mean())
        if name != "AE":
            std = model.distribution(torch.zeros(1, model.pair.latent_channels, 7), 13).std[0]
            expected = torch.distributions.Normal(out.mean[row, :, :count], std).log_prob(clean[row, :, :count])
            torch.testing.assert_close(out.log_px[row], expected.mean())
            torch.testing.assert_close(out.elbo[row], out.log_px[row] - 0.5 * out.kl[row])
    if name == VQVAE:
        positions = torch.tensor([7, 3, 1])
        torch.testing.assert_close(out.kl, 2 * positions * math.log(4) / (10 * counts))
        torch.testing.assert_close(out.loss, -out.elbo + out.vq_loss)
    if name == "VAE":
        q = model.posterior(model.pair.encode(x))
        expected = torch.distributions.kl_divergence(torch.distributions.Normal(*q), torch.distributions.Normal(0, 1))
        for row, positions in enumerate((7, 3, 1)):
            kl = expected[row, :, :positions].sum()
            torch.testing.assert_close(out.kl[row], kl / (10 * counts[row]))
            torch.testing.assert_close(out.kl_per_channel[row].sum(), kl)


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_of_silence_costs_nothing(name):
    model = make(name).train()
    out = model(features(2, 13), mask=torch.zeros(2, 13, dtype=torch.bool).index_fill_(0, torch.tensor(0), True))
    assert all(torch.isfinite(value).all() for value in out if value.is_floating_point())
    assert out.mse[1] == 0 and out.loss[1] == 0
    out.loss.mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_denoising_is_measured_on_the_clean_target(name):
    model, noisy, clean = make(name), features(2, 13), features(2, 13, seed=1)
    with torch.no_grad():
        out, plain = model(noisy, clean), model(noisy)
    assert torch.equal(out.mean, plain.mean) and not torch.equal(out.mse, plain.mse)
    torch.testing.assert_close(out.mse, (out.mean - clean).square().mean((1, 2)))


@pytest.mark.parametrize("name", MODELS)
def test_features_with_frames_first_in_memory_pass(name):
    model, x = make(name), features(2, 13)
    strange = x.transpose(1, 2).contiguous().transpose(1, 2)
    with torch.no_grad():
        for a, b in zip(model(x), model(strange)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss(name):
    model = make(name).train()
    x = features(8, 1).expand(-1, -1, 24) + 0.1 * features(8, 24, seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    errors = []
    for _ in range(25):
        out = model(x)
        optimizer.zero_grad()
        out.loss.mean().backward()
        optimizer.step()
        errors.append(out.mse.mean().item())
    assert errors[-1] < 0.7 * errors[0]


# ---------------------------------------------------------------- distributions


def test_variances_and_their_limits():
    hidden = features(2, 5, 4)
    for kind, size in (("identity", 1), ("global_diagonal", 3), ("diagonal", 2 * 3 * 5)):
        torch.manual_seed(0)
        module = Gaussian(4, 3, kind=kind, most_std=1.0, least_std=0.2)
        if kind == "global_diagonal":
            module.logvar.data.copy_(torch.tensor([3.0, -1.0, -9.0])[:, None])
        normal = module(hidden)
        assert normal.std.numel() == size and normal.std.min() >= 0.2 and normal.std.max() <= 1
        direct = torch.distributions.Normal(normal.mean, normal.std.expand_as(normal.mean))
        torch.testing.assert_close(log_density(normal.mean + 1, normal), direct.log_prob(normal.mean + 1))
        standard = torch.distributions.Normal(0.0, 1.0)
        torch.testing.assert_close(kl_divergence(normal), torch.distributions.kl_divergence(direct, standard))
    p = Normal(features(2, 5, 3), 0.5 + features(2, 5, 3, 1).abs())
    expected = torch.distributions.kl_divergence(direct, torch.distributions.Normal(*p))
    torch.testing.assert_close(kl_divergence(normal, p), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(hidden).mean.dtype == torch.float32
    with pytest.raises(ValueError, match="covariance full: one of identity"):
        Gaussian(4, 3, kind="full")
    with pytest.raises(ValueError, match="between 2 and 1"):
        Gaussian(4, 3, most_std=1, least_std=2)


@pytest.mark.parametrize("encoder", ["resnet1d", "dc2d"])
@pytest.mark.parametrize("posterior", ["identity", "global_diagonal", "diagonal"])
@pytest.mark.parametrize("likelihood", ["identity", "normal-glob-diag-cov", "normal-diag-cov"])
def test_every_posterior_goes_with_every_likelihood(encoder, posterior, likelihood):
    sizes = SQUARE if encoder == "dc2d" else None
    model = make("VAE", sizes, encoder=encoder, posterior=posterior, likelihood=likelihood).train()
    out = model(**model.example(2))
    out.loss.mean().backward()
    assert out.mean.shape == (2, 10, 13) and all(p.grad is not None for p in model.parameters())
    assert (out.kl > 0).all() and model.distribution(model.encode(out.mean), 13).std.dim() == 3


def test_latents_are_sampled_in_training_and_at_the_mean_otherwise():
    model, x = make("VAE"), features(2, 13)
    with torch.no_grad():
        out, again = model(x), model(x)
        assert torch.equal(out.mean, again.mean) and torch.equal(out.mean, model.reconstruct(x))
        zero, drawn = model(x, eps=torch.zeros(2, 4, 7)), model(x, eps=torch.ones(2, 4, 7))
        assert torch.equal(zero.mean, out.mean) and not torch.equal(drawn.mean, out.mean)
        assert torch.equal(drawn.kl, out.kl)
        torch.manual_seed(0)
        sampled = model.reconstruct(x, sample=True)
        assert not torch.equal(sampled, out.mean)
        with pytest.raises(ValueError, match=r"eps of shape \(1, 4, 7\)"):
            model(x, eps=torch.zeros(1, 4, 7))
        one, other = model.encode(x)
        between = model.decode(torch.lerp(one, other, 0.5)[None], 13)
        assert between.shape == (1, 10, 13)
        draws = [model.sample(2, 13, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_the_weight_of_the_divergence_and_free_bits():
    assert [warm_up(step, 4, 0.5) for step in (0, 1, 4, 9)] == [0, 0.125, 0.5, 0.5] and warm_up(0, 0) == 1
    kl = torch.tensor([[0.1, 3.0]])
    assert free_bits(kl, 0.5).tolist() == [[0.5, 3.0]] and free_bits(kl, 0) is kl
    x, model = features(2, 13), make("VAE", kl_weight=0.5)
    with torch.no_grad():
        out, none = model(x), model(x, kl_weight=0.0)
        torch.testing.assert_close(out.loss, -out.elbo)
        torch.testing.assert_close(none.loss, -none.log_px)
        assert torch.equal(none.elbo, out.elbo)
        model.free_bits = 100.0
        floor = 4 * 7 * 100.0 / (10 * 13)
        torch.testing.assert_close(model(x).loss, -out.log_px + 0.5 * floor)


# ---------------------------------------------------------------- codes


def trained_vqvae(**options):
    model = make(VQVAE, **options).train()
    model(features(4, 16))
    return model.eval()


@pytest.mark.parametrize("sizes,encoder", [(None, "resnet1d"), (SQUARE, "dc2d")])
def test_an_utterance_goes_through_bytes(sizes, encoder):
    model, x = trained_vqvae(sizes=sizes, encoder=encoder, codewords=5), features(1, 21)
    with torch.no_grad():
        codes = model.encode(x)
        data = to_bytes(codes[0].numpy(), 5, 21, "ab" * 32)
        back = from_bytes(data, "ab" * 32)
        assert back.frames == 21 and back.codewords == 5 and np.array_equal(back.codes, codes[0].numpy())
        assert torch.equal(model.decode(torch.from_numpy(back.codes)[None], back.frames), model.reconstruct(x))
        z = model.quantiser.embed(codes)
        assert torch.equal(model.decode(z, 21), model.reconstruct(x))  # latents, too


def test_codes_are_drawn_by_their_prior():
    model = trained_vqvae()
    with torch.no_grad():
        model.quantiser.counts.copy_(torch.tensor([[0.0, 0, 0, 1], [1, 0, 1, 0]]))
        draws = [model.sample_codes(3, 400, torch.Generator().manual_seed(0), p) for p in ("uniform", "empirical")]
        assert draws[0].shape == (3, 2, 200) and draws[0].flatten().bincount().min() > 200
        assert draws[1][:, 0].unique().tolist() == [3] and draws[1][:, 1].unique().tolist() == [0, 2]
        assert model.sample(2, 13, prior="empirical").shape == (2, 10, 13)


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize("name", MODELS)
def test_wrong_inputs_are_named(name):
    model, x = make(name), features(2, 13)
    with pytest.raises(ValueError, match=r"shape \(2, 9, 13\), expected \(batch, 10 bins, frames\)"):
        model(x[:, :9])
    with pytest.raises(ValueError, match=r"target of shape \(2, 10, 12\)"):
        model(x, x[..., :12])
    with pytest.raises(ValueError, match=r"mask of shape \(2, 12\)"):
        model(x, mask=torch.ones(2, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"latents at \(7,\) positions, those of 15 frames are at \(8,\)"):
        model.decode(model.encode(x), 15)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"encoder": "resnet3d"}, "--encoder resnet3d: not found, nearest: resnet"),
        ({"decoder": "lstm"}, "--decoder lstm: not found"),
        ({"decoder": "resnet2d"}, "encoder resnet1d spans 1 axes, decoder resnet2d 2"),
        ({"decoder_options": {**SQUARE, "stem_kernel": 3, "strides": [1, 1]}}, "shortens 2 times.*lengthens 1"),
        ({"encoder_options": {**SQUARE, "stem_kernel": 5, "heads": 2}}, "options of encoder resnet1d: .*heads"),
        ({"encoder_options": {"stem_kernel": 5}}, "options of encoder resnet1d: .*stem_channels"),
        ({"encoder_options": {**SQUARE, "stem_kernel": 5, "in_channels": 3}}, "options of encoder.*in_channels"),
        ({"likelihood": "laplace"}, "likelihood laplace: one of identity, normal-glob"),
        ({"kl_weight": -1.0}, "kl_weight -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make("VAE", **options)
    if "kl_weight" not in options:
        with pytest.raises(ValueError, match=message):
            make(VQVAE, **options)


def test_wrong_options_of_one_model():
    with pytest.raises(ValueError, match="loss huber: one of mse, l1, smooth_l1"):
        make("AE", loss="huber")
    with pytest.raises(ValueError, match="6 latent channels are no multiple of 4 groups"):
        make(VQVAE, groups=4)


# ---------------------------------------------------------------- published configurations

TABLE = Path(__file__).resolve().parent / "golden" / "generative_configs.csv"
ROWS = list(csv.DictReader(TABLE.open(encoding="utf-8")))
LIKELIHOODS = {
    "global": "normal-glob-diag-cov", "scalar": "normal-glob-diag-cov", "predicted": "normal-diag-cov",
}  # fmt: skip


def network_options(published):
    """Return the constructor arguments of a network of the table, and its input channels."""
    given = json.loads(published)
    if "in_features" not in given:
        return given.pop("in_channels"), given
    channels, positions = given.pop("in_features"), "relative" if given.pop("relative") else "absolute"
    assert given.pop("pos_dropout") == given["dropout"] and given.pop("conv_repeats", 1) == 1
    local, context = given.pop("attention") == "local", given.pop("att_context")
    assert local == (context is not None)
    given |= {"attention_dropout": given.pop("att_dropout"), "context": context, "positions": positions}
    return channels, given


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_published_configuration(row):
    latent, quantised = int(row["latent_dim"]), row["model_type"].startswith("vq")
    (bins, encoder), (channels, decoder) = network_options(row["encoder"]), network_options(row["decoder"])
    options = {"encoder": row["backbone"], "encoder_options": encoder, "decoder_options": decoder}
    options |= {"latent_channels": latent, "likelihood": LIKELIHOODS[row["likelihood"]]}
    if quantised:
        options |= {"codewords": int(row["codebook_size"]), "groups": int(row["groups"])}
    with torch.device("meta"):
        model = load("models", VQVAE if quantised else "VAE")(**options)
    assert channels == latent and bins == (80 if model.pair.dims == 1 else 1)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == int(row["parameters"])
    stride, published = model.pair.stride, float(row["compression"])
    if quantised:
        quantiser = model.quantiser
        assert quantiser.codebook.numel() == 512 * latent
        ratio = compression.ratio_of_codes(80, quantiser.groups, quantiser.codewords, stride)
        rate = compression.bits_per_second(quantiser.groups, quantiser.codewords, stride)
        assert rate == pytest.approx(100 * 80 * 32 / ratio)
        assert rate == {8: 112.5 * quantiser.groups, 1: 7200}[stride]
    else:
        ratio = compression.ratio_of_floats(80, latent, stride, model.pair.encoder.frequency_stride)
    assert published in (ratio, round(ratio), math.floor(ratio)) or ratio == pytest.approx(published)


def test_every_configuration_is_there():
    assert len(ROWS) == len({row["name"] for row in ROWS}) == 35
