"""Vector quantiser: nearest codes, gradients, learning, revival of dead codes (over ranks too), counts of use."""

import os

import pytest
import torch
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from models.blocks import vq


def trained(module, batches, revive=True, lr=0.02):
    """Train a quantiser on `batches` (each (batch, channels, T)); return the losses and how many codes were revived."""
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    losses, revived = [], 0
    for x in batches:
        loss = vq.vq_loss(x, module(x).embedded)
        optimizer.zero_grad()
        loss.backward()
        for parameter in module.parameters():
            if distributed.is_initialized():
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()
        optimizer.step()
        if revive:
            revived += vq.revive(module, optimizer, draws=torch.rand(len(module.dictionary))).sum().item()
        losses.append(loss.item())
    return losses, revived


def mixture(count, centres=12, channels=6, steps=8, seed=0):
    """Return `count` batches (4, channels, steps) of rows near well separated centres, and the centres."""
    draw = torch.Generator().manual_seed(seed)
    at = 5 * torch.randn(centres, channels, generator=draw)
    batches = []
    for _ in range(count):
        rows = at[torch.randint(centres, (4, steps), generator=draw)]
        batches.append((rows + 0.1 * torch.randn(rows.shape, generator=draw)).transpose(1, 2))
    return batches, at


# ---------------------------------------------------------------- codes and gradients


class Largest(TorchDispatchMode):
    """Note the largest number of elements of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_codes_are_the_nearest_ones_without_a_tensor_of_all_differences():
    torch.manual_seed(0)
    module = vq.VQ(24, 40).eval()
    x = torch.randn(3, 24, 50)
    with Largest() as largest, torch.no_grad():
        found = module(x)
    assert largest.elements <= max(150 * 40, x.numel())
    rows = x.transpose(1, 2)
    brute = (rows[:, :, None].double() - module.dictionary.double()).square().sum(-1)
    assert torch.equal(found.codes, brute.argmin(-1))
    assert torch.equal(found.embedded, module.dictionary[found.codes].transpose(1, 2))
    assert torch.equal(found.embedded, module.embed(found.codes))
    torch.testing.assert_close(vq.distances(rows.flatten(0, 1), module.dictionary), brute.amin(-1).flatten().float())


def test_the_first_of_equal_codes_is_taken():
    module = vq.VQ(4, 6)
    with torch.no_grad():
        module.dictionary[4] = module.dictionary[2]
    assert (module(module.dictionary[4].expand(2, 3, 4).transpose(1, 2)).codes == 2).all()


def test_gradients_go_where_they_should():
    torch.manual_seed(0)
    module, x = vq.VQ(5, 7), torch.randn(2, 5, 9, requires_grad=True)
    found, upstream = module(x), torch.randn(2, 5, 9)
    assert torch.equal(found.passthrough, found.embedded)  # the decoder is given the codes to the last bit
    (found.passthrough * upstream).sum().backward()
    assert torch.equal(x.grad, upstream) and module.dictionary.grad is None
    x.grad = None
    vq.vq_loss(x, module(x).embedded, commitment=0.0).backward()
    used = found.codes.unique()
    assert not x.grad.any() and set(module.dictionary.grad.any(1).nonzero()[:, 0].tolist()) == set(used.tolist())
    module.dictionary.grad = None
    vq.revival_loss(x, module.dictionary).backward()
    assert x.grad.any() and module.dictionary.grad.any(1).all()


def test_revival_loss_is_the_mean_over_pairs():
    torch.manual_seed(0)
    x, dictionary = torch.randn(2, 5, 9), torch.randn(7, 5)
    pairs = torch.cdist(x.transpose(1, 2).flatten(0, 1).double(), dictionary.double()).square()
    torch.testing.assert_close(vq.revival_loss(x, dictionary), pairs.mean().float())


def test_quantiser_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    module, x = vq.VQ(16, 32).eval(), torch.randn(2, 16, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(x)
    assert found.passthrough.dtype == torch.float32 and torch.equal(found.codes, module(x).codes)
    with pytest.raises(ValueError, match="latents of 3 channels, codes of 16"):
        module(torch.randn(1, 3, 5))


# ---------------------------------------------------------------- use and revival


def test_counts_of_use():
    torch.manual_seed(0)
    module = vq.VQ(4, 6, dead_rate=3)
    assert module.usage_count.tolist() == [3] * 6 and module.usage_count.dtype == torch.int64
    x = module.dictionary.detach()[[1, 4]].T[None]
    for expected in (2, 1, 0, 0):
        module(x)
        assert module.usage_count.tolist() == [expected, 3, expected, expected, 3, expected]
    before = module.state_dict()["usage_count"].clone()
    module.eval()(torch.randn(1, 4, 9))
    module.train().dictionary.requires_grad_(False)
    module(torch.randn(1, 4, 9))
    assert torch.equal(module.usage_count, before)  # neither evaluation nor a frozen dictionary counts
    module = vq.VQ(4, 6, dead_rate=2)
    module.load_state_dict({"dictionary": module.dictionary, "usage_count": torch.full((6,), 100)})
    module(x)
    assert module.usage_count.max() == 2  # counts of a run with another rate


def test_learning_lowers_the_loss_and_dead_codes_come_to_life():
    batches, centres = mixture(150)
    results = {}
    for revive in (False, True):
        torch.manual_seed(1)
        module = vq.VQ(6, 24, dead_rate=8)
        with torch.no_grad():
            module.dictionary[1:].add_(100)  # all but one code start where no input is
        losses, revived = trained(module, batches, revive)
        counts = vq.count_codes(module.eval()(torch.cat(batches[-20:])).codes, 24)
        results[revive] = losses[-1] / losses[0], revived, (counts > 0).sum().item(), vq.perplexity(counts).item()
    loss, revived, used, perplexity = results[True]
    assert loss < 0.02 and revived >= 23 and used > 12 and perplexity > 12
    assert torch.cdist(centres, module.dictionary.detach()).amin(1).max() < 0.3  # a code at every centre
    loss, revived, used, perplexity = results[False]
    assert loss > 0.3 and revived == 0 and used == 1 and perplexity == pytest.approx(1)


def test_revival_resets_moments_and_moves_averages_of_these_codes_alone():
    torch.manual_seed(0)
    module, x = vq.VQ(4, 6, dead_rate=50), torch.randn(2, 4, 10)
    optimizer = torch.optim.AdamW([*module.parameters(), torch.nn.Parameter(torch.zeros(6, 4))], lr=0.1)
    vq.vq_loss(x, module(x).embedded).backward()
    optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[module.dictionary][name].fill_(7.0)
    dead = torch.tensor([True, False, False, True, False, False])
    module.usage_count[dead] = 0
    average, before = torch.zeros(6, 4), module.dictionary.detach().clone()
    assert torch.equal(vq.revive(module, optimizer, [average]), dead)
    assert torch.equal((module.dictionary != before).any(1), dead)
    assert torch.equal(average, torch.where(dead[:, None], module.dictionary, 0.0))
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(
            optimizer.state[module.dictionary][name], torch.where(dead[:, None], 0.0, torch.full((6, 4), 7.0))
        )
    assert module.usage_count[dead].tolist() == [50, 50]
    assert not vq.revive(module).any()  # nothing is dead any more
    with pytest.raises(ValueError, match="only after a batch in training"):
        vq.revive(vq.VQ(4, 6))


def test_rows_are_drawn_by_their_distance():
    module = vq.VQ(1, 4)
    with torch.no_grad():
        module.dictionary.fill_(100.0)[0] = 0.0
    rows = torch.tensor([0.0, 1.0, 2.0, 3.0])
    module(rows.view(1, 1, 4))
    expected = torch.tensor([0, 1, 4, 9]) / 14
    torch.testing.assert_close(
        vq.revival_probabilities(vq.distances(rows[:, None], module.dictionary)).float(), expected
    )
    start, drawn, torch_draws = module.dictionary.detach().clone(), torch.zeros(4), torch.Generator().manual_seed(0)
    for _ in range(2000):
        module.dictionary.data.copy_(start)
        module.usage_count.fill_(5)[1:] = 0
        vq.revive(module, draws=torch.rand(4, generator=torch_draws))
        drawn += torch.bincount(module.dictionary[1:, 0].long(), minlength=4)
    torch.testing.assert_close(drawn / drawn.sum(), expected, atol=0.015, rtol=0)
    assert drawn[0] == 0  # it lies on a code


def test_revival_with_nothing_to_go_by():
    module = vq.VQ(2, 5)
    on_codes = module.dictionary.detach()[[0, 1, 2]].T[None].contiguous()
    module(on_codes)
    module.usage_count[3:] = 0
    vq.revive(module)  # all rows lie on codes: the distances sum to 0
    assert torch.isfinite(module.dictionary).all() and (module.dictionary[3] == module.dictionary[:3]).all(1).any()
    broken = torch.randn(1, 2, 6)
    broken[0, 0, :5] = torch.tensor([float("nan"), float("inf"), -float("inf"), float("nan"), float("inf")])
    module(broken)
    module.usage_count.zero_()
    vq.revive(module)  # a batch that overflowed
    assert (module.dictionary == broken[0, :, 5]).all()
    flat = vq.VQ(3, 20)
    flat(1e3 + torch.randn(1, 3, 20))
    flat.usage_count.zero_()
    vq.revive(flat, draws=torch.full((20,), 0.5))
    assert len(flat.dictionary.unique(dim=0)) == 20  # draws are stratified: rows alike are taken once each


def test_perplexity():
    counts = vq.count_codes(torch.tensor([[0, 3], [3, 0]]), 5)
    assert counts.tolist() == [2, 0, 0, 2, 0] and vq.perplexity(counts).item() == pytest.approx(2)
    assert vq.perplexity(torch.ones(8, dtype=torch.int64)).item() == pytest.approx(8)
    assert torch.isfinite(vq.perplexity(torch.zeros(8, dtype=torch.int64)))
    with pytest.raises(ValueError, match="0 codes"):
        vq.VQ(4, 0)


# ---------------------------------------------------------------- jitter and dropout


def test_jitter_takes_neighbours_at_its_rate():
    torch.manual_seed(0)
    x = torch.arange(2000.0).expand(2, 3, 2000)
    moved = vq.jitter(x, 0.3) - x
    assert set(moved.unique().tolist()) == {-1.0, 0.0, 1.0} and torch.equal(moved[:, 0], moved[:, 2])
    assert not torch.equal(moved[0], moved[1])
    for step in (-1.0, 1.0):
        assert (moved == step).float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert vq.jitter(x, 0.0) is x
    ends = vq.jitter(torch.arange(3.0).view(1, 1, 3), 1.0, torch.tensor([[[0.1, 0.9, 0.9]]]))
    assert ends.flatten().tolist() == [0.0, 2.0, 2.0]


def test_dropped_codes_are_zero_for_the_whole_clip():
    torch.manual_seed(0)
    cond = torch.randn(1000, 2, 3)
    kept = vq.drop_codes(cond, 0.2)
    whole = (kept == cond).flatten(1).all(1)
    assert not kept[~whole].any() and whole.float().mean().item() == pytest.approx(0.8, abs=0.04)
    assert vq.drop_codes(cond, 0.0) is cond
    kept = vq.drop_codes(cond[:2], 0.5, torch.tensor([0.5, 0.51]))
    assert not kept[0].any() and torch.equal(kept[1], cond[1])


# ---------------------------------------------------------------- two ranks


def both_ranks():
    """Return quantiser and batches of the comparison: codes that must be revived from rows of either rank."""
    torch.manual_seed(3)
    module = vq.VQ(6, 12, dead_rate=4)
    with torch.no_grad():
        module.dictionary[1:].add_(100)
    return module, mixture(40)[0]


def worker(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    module, batches = both_ranks()
    torch.manual_seed(11 + 100 * rank)  # the draws of rank 0 count
    share = slice(2 * rank, 2 * rank + 2)
    _, revived = trained(module, [x[share] for x in batches])
    counts = vq.count_codes(module.eval()(batches[0][share]).codes, 12)
    torch.save([module.state_dict(), revived, counts], f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that is torn down


def test_two_ranks_hold_one_codebook(tmp_path):
    torch.multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first[1] == second[1] >= 11
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])  # to the last bit
    module, batches = both_ranks()
    torch.manual_seed(11)
    _, revived = trained(module, batches)
    assert revived == first[1] and torch.equal(module.usage_count, first[0]["usage_count"])
    torch.testing.assert_close(first[0]["dictionary"], module.state_dict()["dictionary"], rtol=1e-4, atol=1e-4)
    counts = vq.count_codes(module.eval()(batches[0]).codes, 12)
    assert torch.equal(first[2], counts) and torch.equal(second[2], counts)
