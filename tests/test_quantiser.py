"""Product quantiser of latents: assignment, gradients, averages, what counts, start, dead codewords, use, two ranks."""

import os

import pytest
import torch
from conftest import DATA
from test_vq import Largest, mixture
from torch import distributed

from audio.io import read_audio
from audio.log_mel import LogMel, sliding_normalisation
from engine.registry import load
from models.blocks.quantiser import Quantiser, epoch_usage, index_prior, objective, restart_dead, start_rows

VQVAE = "VQVAE"


def latents(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def started(*args, **options):
    """Return a quantiser in training mode whose codebook is random and not taken from the first batch."""
    torch.manual_seed(1)
    return Quantiser(*args, **{"start": "normal", **options}).train()


# ---------------------------------------------------------------- codes, losses, gradients


def test_every_group_takes_its_nearest_codeword_without_a_tensor_of_all_differences():
    module, z = started(24, 40, 3).eval(), latents(2, 24, 50)
    with Largest() as largest:
        found = module(z)
    assert largest.elements <= 3 * 100 * 40
    rows = z.view(2, 3, 8, 50).permute(0, 1, 3, 2).double()
    brute = (rows[:, :, :, None] - module.codebook[:, None].double()).square().sum(-1)
    assert torch.equal(found.codes, brute.argmin(-1)) and torch.equal(found.codes, module.assign(z))
    assert torch.equal(found.z_q, module.embed(found.codes))
    torch.testing.assert_close(found.mse, brute.amin(-1).mean((0, 2)).float() / 8)
    torch.testing.assert_close(found.loss, 0.25 * brute.amin(-1).mean((1, 2)).float() / 8)
    torch.testing.assert_close(found.kl, torch.full((2,), 3 * 50 * torch.tensor(40.0).log()))


def test_a_large_table_of_products_is_made_in_parts(monkeypatch):
    module, z = started(8, 16, 2).eval(), latents(2, 8, 50)
    whole = module(z)
    monkeypatch.setattr("models.blocks.quantiser.TABLE", 2 * 16 * 7)
    for a, b in zip(whole, module(z)):
        torch.testing.assert_close(a, b)


def test_positions_on_two_axes_are_those_on_one():
    flat, square = started(6, 5, 3), started(6, 5, 3)
    z = latents(2, 6, 4, 7)
    a, b = flat(z.flatten(2)), square(z)
    assert b.codes.shape == (2, 3, 4, 7) and torch.equal(b.codes.flatten(2), a.codes)
    assert torch.equal(b.z_q.flatten(2), a.z_q) and torch.equal(a.loss, b.loss)
    assert torch.equal(flat.codebook, square.codebook)
    strange = z.transpose(2, 3).contiguous().transpose(2, 3)  # not contiguous
    assert torch.equal(square.eval()(strange).codes, square(z).codes)


def test_gradients_go_where_they_should():
    z, upstream = latents(2, 6, 9).requires_grad_(), latents(2, 6, 9, seed=1)
    module = started(6, 7, 2)
    assert not list(module.parameters())
    (module(z).z_q * upstream).sum().backward()
    assert torch.equal(z.grad, upstream)
    module = started(6, 7, 2, update="gradient")
    z.grad = None
    found = module(z)
    (found.z_q * upstream).sum().backward()
    assert torch.equal(z.grad, upstream) and module.codebook.grad is None
    module(z).loss.sum().backward()
    used = torch.zeros(2, 7, dtype=torch.bool)
    for group in range(2):
        used[group, found.codes[:, group].unique()] = True
    assert torch.equal(module.codebook.grad.any(2), used)
    whole = started(6, 7, 2, update="gradient", group_reduction="sum")
    torch.testing.assert_close(whole(z).loss, 2 * module(z).loss)


def test_perplexity_of_probabilities_has_a_gradient_and_that_of_assignments_none():
    z = latents(4, 6, 30).requires_grad_()
    hard, soft = started(6, 7, 2)(z), started(6, 7, 2, soft_perplexity=True)(z)
    assert not hard.log_perplexity.requires_grad
    soft.log_perplexity.backward()
    assert z.grad.any() and 0 < hard.log_perplexity < soft.log_perplexity < torch.tensor(7.0).log()


def test_quantiser_stays_in_float32_under_autocast():
    module, z = started(16, 32, 2).eval(), latents(2, 16, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(z)
    assert found.z_q.dtype == found.loss.dtype == torch.float32 and torch.equal(found.codes, module(z).codes)


# ---------------------------------------------------------------- what counts


def test_positions_that_do_not_count_change_nothing():
    part, whole = started(6, 5, 2, soft_perplexity=True), started(6, 5, 2, soft_perplexity=True)
    z = latents(3, 6, 8)
    counted = torch.arange(8) < torch.tensor([8, 5, 0])[:, None]
    z[1, :, 5:], z[2] = 50, -50
    found = part(z, counted)
    for row, count in ((0, 8), (1, 5)):
        alone = started(6, 5, 2)(z[row : row + 1, :, :count])
        torch.testing.assert_close(found.loss[row], alone.loss[0])
        torch.testing.assert_close(found.kl[row], alone.kl[0])
    assert found.loss[2] == found.kl[2] == 0
    kept = torch.cat([z[0], z[1, :, :5]], 1)[None]
    alone = whole(kept)
    torch.testing.assert_close(found.log_perplexity, alone.log_perplexity)
    torch.testing.assert_close(found.mse, alone.mse)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(part.state_dict()[name], tensor)
    assert part.usage.sum() == 2 * 13


def test_a_batch_that_overflowed_leaves_the_codebook_whole():
    module, z = started(6, 5, 2), latents(2, 6, 8)
    z[0, 1, 3], z[1, 5, 0] = float("nan"), float("inf")
    module(z)
    assert all(torch.isfinite(tensor.double()).all() for tensor in module.state_dict().values())
    assert module.usage.sum() == 2 * 14


def test_averages_go_to_the_centres_of_the_data():
    batches, centres = mixture(200)
    torch.manual_seed(0)
    module, losses = Quantiser(6, 24, decay=0.9).train(), []
    for step, x in enumerate(batches):
        losses.append(module(x).loss.mean().item())
        restart_dead(module, step)
    assert torch.cdist(centres, module.codebook[0]).amin(1).max() < 0.2 and losses[-1] < 0.01
    torch.testing.assert_close(module.codebook, module.accumulators / module.counts[..., None])


# ---------------------------------------------------------------- start and dead codewords


def test_the_codebook_starts_from_the_first_training_batch():
    z = latents(4, 6, 20)
    torch.manual_seed(0)
    module = Quantiser(6, 16, 2)
    before = module.codebook.clone()
    module.eval()(z)
    assert torch.equal(module.codebook, before) and not module.started
    rows = z.view(4, 2, 3, 20).permute(1, 0, 3, 2).flatten(1, 2)
    counted = torch.arange(20) < 12
    for start in ("kmeans++", "sample"):
        module = Quantiser(6, 16, 2, start=start, decay=1.0).train()  # the averages stand still
        module(z, counted.expand(4, 20))
        places = torch.cdist(module.codebook, rows).argmin(2)
        torch.testing.assert_close(module.codebook, rows.gather(1, places[..., None].expand(-1, -1, 3)))
        assert (places % 20 < 12).all()  # none that does not count
        assert all(len(place.unique()) == 16 for place in places) and module.counts.allclose(torch.ones(2, 16))
    other = Quantiser(6, 16, 2).train()
    other.load_state_dict(module.state_dict())
    other(latents(4, 6, 20, seed=5))
    assert other.usage.sum() > module.usage.sum() and other.started
    torch.testing.assert_close(other.codebook, module.codebook, atol=0.5, rtol=0)  # not drawn again


def test_spread_draws_find_every_cluster():
    centres = 20 * torch.eye(8)
    rows = torch.cat([centres[:1].repeat(200, 1), centres[1:]])  # seven clusters of one row each
    rows = (rows + 0.01 * latents(*rows.shape))[None]
    spread = start_rows(rows, 8, True, 0)
    assert torch.cdist(centres, spread[0]).amin(1).max() < 1
    assert torch.equal(spread, start_rows(rows, 8, True, 0)) and not torch.equal(spread, start_rows(rows, 8, True, 1))
    assert torch.cdist(centres, start_rows(rows, 8, False, 0)[0]).amin(1).max() > 10


def test_a_codebook_larger_than_the_first_batch_is_refused():
    module = Quantiser(6, 33, 2).train()
    counted = torch.arange(20) < torch.tensor([20, 12])[:, None]
    with pytest.raises(ValueError, match="33 codewords cannot start from the 32 positions of the first batch"):
        module(latents(2, 6, 20), counted)
    module.check_start(33)
    module(latents(2, 6, 20))
    started(6, 33, 2).check_start(2)
    started(6, 33, 2)(latents(1, 6, 2))


def test_dead_codewords_restart_from_rows_by_their_distance():
    module = started(4, 6, 2, dead_after=2)
    with torch.no_grad():
        module.codebook[:, 1:] += 100
        module.accumulators.copy_(module.codebook)
    z = latents(2, 4, 30)
    counted = torch.arange(30).expand(2, 30) < 20
    with pytest.raises(ValueError, match="only after a batch"):
        restart_dead(module, 0)
    module(z, counted)
    assert not restart_dead(module, 1).any()
    module(z, counted)
    before, again = module.codebook.clone(), started(4, 6, 2, dead_after=2)
    again.load_state_dict(module.state_dict())
    again.last = module.last
    dead = restart_dead(module, 2)
    assert torch.equal(dead, torch.tensor([False] + 5 * [True]).expand(2, 6))
    assert torch.equal(module.codebook[:, 0], before[:, 0]) and module.counts[dead].eq(1).all()
    rows = z[..., :20].reshape(2, 2, 2, 20).permute(1, 0, 3, 2).flatten(1, 2)
    same = (module.codebook[:, 1:, None] == rows[:, None]).all(3)
    assert same.any(2).all()  # rows, and such that count
    assert not restart_dead(module, 3).any()
    restart_dead(again, 2)
    assert torch.equal(again.codebook, module.codebook)  # the step decides the draws
    assert module(z, counted).log_perplexity > 1


def test_restart_with_nothing_that_counts_leaves_the_codebook():
    module = started(4, 6, 2, dead_after=1)
    before = module.codebook.clone()
    module(latents(1, 4, 5), torch.zeros(1, 5, dtype=torch.bool))
    assert not restart_dead(module, 0).any()
    torch.testing.assert_close(module.codebook, before)


def test_restart_of_parameters_resets_their_moments():
    module = started(4, 6, 2, dead_after=1, update="gradient")
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    module(latents(1, 4, 3)).loss.mean().backward()
    optimizer.step()
    optimizer.state[module.codebook]["exp_avg"].fill_(7.0)
    dead = restart_dead(module, 0, optimizer)
    assert dead.any() and not dead.all()
    assert torch.equal(optimizer.state[module.codebook]["exp_avg"][..., 0] == 0, dead)


def test_use_is_counted_over_an_epoch():
    module = started(4, 6, 2)
    for seed in range(3):
        module(latents(2, 4, 30, seed=seed))
    module.eval()(latents(2, 4, 30))
    assert module.usage.sum(1).tolist() == [180, 180]
    found = epoch_usage(module)
    assert torch.equal(found["used"], (module.usage > 0).sum(1))
    assert (found["perplexity"] > 1).all() and (found["perplexity"] <= found["used"]).all()
    torch.testing.assert_close(index_prior(module, "empirical").sum(1), torch.ones(2))
    assert index_prior(module).eq(1 / 6).all()
    module.reset_usage()
    assert epoch_usage(module)["used"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="uniform or empirical"):
        index_prior(module, "learned")


def test_perplexity_of_real_speech_is_high_from_the_first_step():
    files = sorted((DATA / "so762" / "audio").rglob("*.flac"))[:12] or sorted((DATA / "so762").rglob("*.wav"))[:12]
    if not files:
        pytest.skip("no recordings below $VOXLAB_DATA/so762")
    waves = torch.stack([torch.from_numpy(read_audio(path)[:32000]) for path in files])
    mel = sliding_normalisation(LogMel()(waves))
    sizes = {"stem_channels": 32, "repeats": [1, 1], "channels": 32, "kernels": 3, "strides": [2, 2]}
    torch.manual_seed(0)
    network = load("models", VQVAE)(
        encoder_options={**sizes, "stem_kernel": 5}, decoder_options={**sizes, "stem_kernel": 3},
        latent_channels=16, codewords=512, groups=2,
    ).train()  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    perplexities = []
    for step in range(60):
        if step == 50:
            network.quantiser.reset_usage()
        out = network(mel)
        optimizer.zero_grad()
        out.loss.mean().backward()
        optimizer.step()
        restart_dead(network.quantiser, step)
        perplexities.append(out.log_perplexity.exp().item())
    found = epoch_usage(network.quantiser)
    assert min(perplexities) > 10 and perplexities[-1] > 100
    assert found["used"].min() > 0.5 * 512  # of 600 positions


# ---------------------------------------------------------------- objective and wrong options


def test_the_objective_is_one_number_a_sample():
    log_px, kl = latents(3), torch.tensor([0.1, 0.2, 0.3])
    elbo, loss = objective(log_px, kl, torch.tensor([1.0, 2.0, 3.0]), torch.tensor(5.0), 0.5, 0.1)
    torch.testing.assert_close(elbo, log_px - 0.5 * kl)
    torch.testing.assert_close(loss, -elbo + torch.tensor([0.5, 1.5, 2.5]))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"groups": 4}, "6 latent channels are no multiple of 4 groups"),
        ({"codewords": 0}, "at least 1"),
        ({"update": "sgd"}, "update sgd.*ema, gradient"),
        ({"start": "zeros"}, r"start zeros.*kmeans\+\+, sample, normal"),
        ({"group_reduction": "max"}, "mean, sum"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Quantiser(6, **options)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="latents of 5 channels, a quantiser of 6"):
        started(6, 4)(latents(1, 5, 3))
    with pytest.raises(ValueError, match=r"codes of shape \(2, 3, 7\), expected \(batch, 2, positions\)"):
        started(6, 4, 2).embed(torch.zeros(2, 3, 7, dtype=torch.int64))


# ---------------------------------------------------------------- two ranks


def learn(share=slice(None)):
    """Train a quantiser and a projection on a share of each batch; return its state and the gradients of the last."""
    torch.manual_seed(3)
    project = torch.nn.Linear(6, 6)
    module = Quantiser(6, 10, 2, dead_after=2, soft_perplexity=True).train()
    revived = 0
    for step, x in enumerate(mixture(12)[0]):
        counted = torch.arange(8).expand(4, 8) < torch.tensor([8, 3, 6, 5])[:, None]
        found = module(project(x[share].transpose(1, 2)).transpose(1, 2), counted[share])
        project.zero_grad()
        (found.loss.mean() + found.z_q.square().mean() - found.log_perplexity).backward()
        revived += restart_dead(module, step).sum().item()
    gradient = project.weight.grad
    if distributed.is_initialized():
        distributed.all_reduce(gradient)
        gradient /= distributed.get_world_size()
    return module.state_dict(), gradient, revived


def worker(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(learn(slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that is torn down


def test_two_ranks_hold_the_codebook_of_one(tmp_path):
    torch.multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])  # to the last bit
    state, gradient, revived = learn()
    assert first[2] == second[2] == revived > 0
    for name, tensor in state.items():
        torch.testing.assert_close(first[0][name], tensor, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first[1], gradient, rtol=1e-3, atol=1e-5)


def test_positions_that_do_not_count_have_their_own_codes():
    quantiser = Quantiser(4, 8, 2, start="normal").eval()
    z = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    some, none = torch.arange(9)[None] < 4, torch.zeros(1, 9, dtype=torch.bool)
    for counted in (some, none):
        found = quantiser(z, counted)
        assert torch.equal(found.codes, quantiser.assign(z)) and torch.equal(found.z_q, quantiser(z).z_q)
