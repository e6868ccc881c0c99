"""Masks of random spans and poolings over time, the blocks of wav2vec 2.0."""

import json

import pytest
import torch
from golden_recipes import golden_dir
from torch import nn

from models.blocks.span_masks import span_mask
from models.blocks.time_pooling import POOLINGS, QUANTILES, TimePooling

# ---------------------------------------------------------------- masks


def test_masks_have_the_measured_share_and_runs():
    content = json.loads((golden_dir("lowresource") / "masking.json").read_text())
    for measured in content["wav2vec2_masking"]["measured"]:
        (rows, size), draws = measured["shape"], 400
        generator = torch.Generator().manual_seed(3)
        options = measured["prob"], measured["length"], measured["min_masks"]
        masks = torch.stack([span_mask(rows, size, *options, generator=generator) for _ in range(draws)])
        shares = masks.float().mean((1, 2))
        assert abs(shares.mean() - measured["mean_fraction"]) < 0.01
        assert abs(shares.std() - measured["std_fraction_of_batch_mean"]) < 0.005
        runs = nn.functional.pad(masks.int(), (1, 0)).diff(dim=2).clamp(min=0).sum(2)
        assert abs(runs.float().mean() / measured["mean_runs_per_row"] - 1) < 0.03


def test_masks_are_spans_of_distinct_starts_within_their_rows():
    mask = span_mask(400, 99, 0.05, 10, least=2)
    # two spans, of which the starts differ, wherever they lie
    assert mask.sum(1).min() >= 11 and mask.sum(1).max() == 20
    assert mask[:, 0].any() and mask[:, -1].any()
    assert span_mask(400, 99, 1.0, 10).sum(1).max() <= 90  # no more than 9 spans fit
    assert span_mask(9, 25, 0.0, 10, least=5).sum(1).max() <= 20 and not span_mask(9, 25, 0.0, 10).any()
    assert not span_mask(4, 9, 0.5, 10, least=2).any()
    lengths = torch.tensor([99, 60, 12, 10, 9])
    mask = span_mask(5, 99, 0.5, 10, 2, lengths)
    assert not (mask & (torch.arange(99) >= lengths[:, None])).any()
    assert mask.any(1).tolist() == [True, True, True, True, False] and mask[3].sum() == 10
    same = [span_mask(4, 99, 0.5, 10, 2, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*same)


# ---------------------------------------------------------------- poolings


@pytest.mark.parametrize("name", POOLINGS)
def test_padding_changes_no_pooling(name):
    torch.manual_seed(0)
    pool, x = TimePooling(name, 6).eval(), torch.randn(3, 11, 6)
    lengths = torch.tensor([11, 5, 1])
    padded = x.masked_fill(torch.arange(11)[:, None] >= lengths[:, None, None], 1e3)
    found = pool(padded, lengths)
    assert found.shape == (3, 6 * POOLINGS[name]) and found.isfinite().all()
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row : row + 1], pool(x[row : row + 1, :length]), rtol=1e-4, atol=1e-5)


def test_poolings_against_torch():
    x = torch.randn(4, 13, 5, dtype=torch.float64)
    expected = {
        "mean": x.mean(1), "max": x.amax(1), "first": x[:, 0], "middle": x[:, 6], "last": x[:, 12], "random": x[:, 6],
        "mean+std": torch.cat([x.mean(1), x.std(1)], 1),
        "quantile": torch.quantile(x, torch.tensor(QUANTILES, dtype=x.dtype), 1).transpose(0, 1).flatten(1),
    }  # fmt: skip
    for name, values in expected.items():
        torch.testing.assert_close(TimePooling(name, 5).eval()(x), values.float())
    drawn = torch.stack([TimePooling("random", 5)(x.float())[:, 0] for _ in range(200)])
    assert all(len(drawn[:, row].unique()) == 13 for row in range(4))
    lengths = torch.tensor([1, 2, 3, 13])
    drawn = torch.stack([TimePooling("random", 5)(x.float(), lengths)[:, 0] for _ in range(200)])
    assert [len(drawn[:, row].unique()) for row in range(4)] == lengths.tolist()
