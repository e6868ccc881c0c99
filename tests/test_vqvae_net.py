"""VQ-VAEs as scripts use them: losses, conditions, predictions with and without guidance, files that do not say all."""

import pytest
import torch
import wave_models

import VQVAENet
import WaveSets
from diffusion import objective
from engine import checkpoint
from models.blocks import vq


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    wave_models.vqvae(folder / "plain.pt")
    wave_models.vqvae(folder / "free.pt", none_label=True, no_vq_prob=0.1)
    wave_models.vqvae(folder / "nobody.pt", labels=False)
    return folder


@pytest.fixture
def free(folder):
    return VQVAENet.load(folder / "free.pt")[0]


LABEL = torch.tensor([0, 2])


@pytest.fixture
def given():
    draw = torch.Generator().manual_seed(0)
    x0, eps = 0.3 * torch.randn(2, 1280, generator=draw), torch.randn(2, 1280, generator=draw)
    return x0, torch.tensor([0.2, 0.7]), eps


# ---------------------------------------------------------------- losses


def test_losses_are_those_of_the_process_and_of_the_quantiser(free, given):
    x0, t, eps = given
    losses, loss, codes = free(x0, t, eps, LABEL)
    cond, expected = VQVAENet.condition_of(free, x0)
    assert torch.equal(codes, expected) and codes.shape == (2, 4)
    noised = objective.noised(x0[:, None], t, eps[:, None], "exp")
    said = free.predictor(noised, t, label=LABEL + 1, cond=cond)
    torch.testing.assert_close(losses, (said[:, 0] - eps).square().mean(1))
    torch.testing.assert_close(losses, VQVAENet.losses_given(free, x0, t, eps, LABEL, cond))
    latents, _ = VQVAENet.condition_of(free, x0, quantise=False)
    torch.testing.assert_close(loss, 1.25 * (latents - cond).square().mean())
    free.revival = 0.5
    more = free(x0, t, eps, LABEL)[1] - loss
    torch.testing.assert_close(more, 0.5 * vq.revival_loss(latents, free.vq.dictionary))


def test_in_training_draws_decide_what_is_left_out(free, given):
    x0, t, eps = given
    cond, _ = VQVAENet.condition_of(free, x0)
    free.train().no_class_prob, free.no_vq_prob, free.jitter = 0.5, 0.5, 0.5
    kept = torch.ones(2, 6)
    torch.testing.assert_close(free(x0, t, eps, LABEL, kept)[0], VQVAENet.losses_given(free, x0, t, eps, LABEL, cond))
    without = kept.clone()
    without[:, :2] = 0.1
    losses = free(x0, t, eps, LABEL, without)[0]
    nobody = torch.full((2,), -1)  # one below the first speaker is "none"
    torch.testing.assert_close(losses, VQVAENet.losses_given(free, x0, t, eps, nobody))
    moved = kept.clone()
    moved[:, 2:] = 0.1  # every position takes its left neighbour's latent
    left = torch.cat([cond[..., :1], cond[..., :-1]], -1)
    losses = free(x0, t, eps, LABEL, moved)[0]
    torch.testing.assert_close(losses, VQVAENet.losses_given(free, x0, t, eps, LABEL, left))


def test_a_window_keeps_its_draws_when_more_are_asked_for():
    t, u, eps = WaveSets.draw([3, 4], 50, "cpu")
    again = WaveSets.draw([4, 3], 50, "cpu", more=7)
    assert again[1].shape == (2, 9) and not torch.equal(again[1][0, 2:], again[1][1, 2:])
    for one, other in zip((t, u, eps), (again[0], again[1][:, :2], again[2])):
        assert torch.equal(one.flip(0), other)


# ---------------------------------------------------------------- predictions


def test_guidance_goes_away_from_what_is_said_without(free, given):
    x, t, _ = given
    cond, _ = VQVAENet.condition_of(free, x)
    full = VQVAENet.predict(free, cond, LABEL)(x, t)
    assert torch.equal(full, VQVAENet.predict(free, cond, LABEL)(x[:, None], t)[:, 0])
    nobody, silent = VQVAENet.predict(free, cond)(x, t), VQVAENet.predict(free, None, LABEL)(x, t)
    assert not torch.allclose(full, nobody) and not torch.allclose(full, silent)
    guided = VQVAENet.predict(free, cond, LABEL, label_scale=2.0, vq_scale=0.5)(x, t)
    torch.testing.assert_close(guided, full + 2 * (full - nobody) + 0.5 * (full - silent), rtol=1e-4, atol=1e-4)
    neither = VQVAENet.predict(free, None)(x, t)
    said = free.predictor(x[:, None], t, label=torch.zeros(2, dtype=torch.int64), cond=torch.zeros_like(cond))
    torch.testing.assert_close(neither, said[:, 0])


@pytest.mark.parametrize(
    "name, cond, options, message",
    [
        ("free", False, {"vq_scale": 1.0}, "guidance by codes needs codes to guide to"),
        ("free", True, {"label_scale": 1.0}, "guidance by label needs label to guide to"),
        ("plain", True, {"label": LABEL, "label_scale": 1.0}, "trained without --no_class_prob"),
        ("plain", True, {"label": LABEL, "vq_scale": 1.0}, "trained without --no_vq_prob"),
        ("plain", False, {"label": LABEL}, "needs codes for each sample"),
        ("plain", True, {}, "needs a label for each sample"),
        ("nobody", True, {"label": LABEL}, "trained without labels"),
        ("free", True, {"label": LABEL + 1}, "label 3: this network has the labels 0 to 2"),
    ],
)
def test_what_a_network_was_not_trained_for_is_refused(name, cond, options, message, folder, given):
    net, _ = VQVAENet.load(folder / f"{name}.pt")
    cond = VQVAENet.condition_of(net, given[0])[0] if cond else None
    with pytest.raises(ValueError, match=message):
        VQVAENet.predict(net, cond, **options)


# ---------------------------------------------------------------- files


def test_a_file_of_the_original_does_not_say_whether_it_has_a_label_for_none(folder, given, tmp_path):
    ours, card = VQVAENet.load(folder / "free.pt")
    assert ours.speakers == 3 and card["meta"]["none_label"]
    checkpoint.write(tmp_path / "x.pt", VQVAENet.original_payload(ours))
    theirs, card = VQVAENet.load(tmp_path / "x.pt")
    assert theirs.speakers == 4 and card["meta"]["no_vq_prob"] is None and "encoding" in card["meta"]["assumed"]
    told, _ = VQVAENet.load(tmp_path / "x.pt", none_label=True)
    x, t, _ = given
    cond, _ = VQVAENet.condition_of(ours, x)
    options = {"label": LABEL, "label_scale": 1.0, "vq_scale": 1.0}
    said = [VQVAENet.predict(net, cond, **options)(x, t) for net in (ours, told)]
    assert torch.equal(*said)
    with pytest.raises(ValueError, match="was trained with a label for no speaker"):
        VQVAENet.load(folder / "free.pt", none_label=False)
    with pytest.raises(ValueError, match="was trained with schedule exp, not cos"):
        VQVAENet.load(tmp_path / "x.pt", schedule="cos")
    checkpoint.write(tmp_path / "y.pt", VQVAENet.original_payload(ours, {"none_label": True, "no_vq_prob": 0.1}))
    assert VQVAENet.load(tmp_path / "y.pt")[0].speakers == 3


def test_labels_that_cannot_be_left_out(folder):
    network = VQVAENet.load(folder / "nobody.pt")[0].network
    with pytest.raises(ValueError, match="without labels has none for no speaker"):
        VQVAENet.VQVAENet(network, none_label=True)
    with pytest.raises(ValueError, match="only where a label stands for none"):
        VQVAENet.VQVAENet(network, no_class_prob=0.1)
