"""SpecAugment: where, how wide and how many the masks are; the stored statistics of those for little data."""

import json

import pytest
import torch
from golden_recipes import golden_dir

from audio.masks import spec_augment

MASKS = dict(time_masks=1, time_mask_frames=10, freq_masks=1, freq_mask_bands=8)


def masked(mel=None, seed=0, **options):
    mel = torch.ones(2000, 40, 100) if mel is None else mel
    options = {**MASKS, "probability": 1.0, **options}
    return spec_augment(mel, **options, generator=torch.Generator().manual_seed(seed))


def test_spec_augment_leaves_alone_what_it_should():
    mel = torch.randn(50, 40, 100)
    before = mel.clone()
    assert torch.equal(masked(mel, probability=0.0), mel)
    assert torch.equal(masked(mel, time_masks=0, freq_masks=0), mel)
    result = masked(mel)
    assert torch.equal(mel, before)
    assert ((result == mel) | (result == 0)).all() and (result == 0).any()
    assert torch.equal(result, masked(mel)) and not torch.equal(result, masked(mel, seed=1))


def test_spec_augment_widths_and_starts_are_uniform():
    time = masked(freq_masks=0)[:, 0] == 0
    freq = masked(time_masks=0)[:, :, 0] == 0
    for hidden, widest in ((time, 10), (freq, 8)):
        widths = hidden.sum(1)
        share = torch.bincount(widths, minlength=widest + 1) / len(widths)
        assert len(share) == widest + 1  # never wider
        torch.testing.assert_close(share, torch.full_like(share, 1 / (widest + 1)), atol=0.03, rtol=0)
        assert (hidden.int().diff(dim=1).abs().sum(1) <= 2).all()  # one stretch
        size = hidden.shape[1]
        starts = hidden.int().argmax(1)[widths == 4]
        assert starts.min() <= 4 and starts.max() >= size - 8
        assert abs(starts.float().mean() - (size - 4) / 2) < 0.1 * size


def test_spec_augment_share_of_items_and_both_masks_at_once():
    result = masked(probability=0.6, time_mask_frames=20, freq_mask_bands=30)
    time, freq = (result == 0).all(1).any(1), (result == 0).all(2).any(1)
    touched = (result == 0).flatten(1).any(1).float().mean()
    assert abs(touched - 0.6 * (1 - 1 / (21 * 31))) < 0.04
    assert (time & freq).float().mean() > 0.5  # the masks of an item come together


def test_spec_augment_hides_at_most_a_fifth_of_the_time():
    hidden = masked(torch.ones(300, 8, 24), time_mask_frames=100, freq_masks=0)[:, 0] == 0
    assert hidden.sum(1).max() == 24 // 5
    several = masked(time_masks=3, freq_masks=0)[:, 0] == 0
    assert several.sum(1).max() > 10  # several masks may add up
    assert masked(torch.ones(4, 8, 3)).shape == (4, 8, 3)  # shorter than any mask
    assert (masked(torch.ones(300, 5, 50), freq_mask_bands=9) == 0).all(2).all(1).any()  # bands: all at most


COUNTED = dict(
    time_masks=10, time_masks_least=5, time_mask_frames=9, freq_masks=3, freq_masks_least=1, freq_mask_bands=3
)


def test_a_fixed_number_of_masks_is_drawn_as_stated():
    mel = torch.ones(1, 40, 100)
    hidden = masked(mel, seed=3, time_masks=2, freq_masks=1) == 0
    widths, starts, _ = torch.rand(1, 7, generator=torch.Generator().manual_seed(3))[0].split([3, 3, 1])
    expected = torch.zeros(1, 40, 100, dtype=torch.bool)
    for widest, size, axis, mask in ((10, 100, 2, 0), (10, 100, 2, 1), (8, 40, 1, 2)):
        width = int(widths[mask] * (widest + 1))
        expected.narrow(axis, int(starts[mask] * (size - width + 1)), width).fill_(True)
    assert torch.equal(hidden, expected)


def test_number_of_masks_is_uniform_between_least_and_most():
    hidden = masked(torch.ones(4000, 2, 2000), time_masks=4, time_masks_least=1, time_mask_frames=9, freq_masks=0) == 0
    frames = hidden[:, 0].sum(1).float()
    assert abs(frames.mean() - 2.5 * 4.5) < 0.4  # masks rarely overlap on so many frames
    runs = (hidden[:, 0].int().diff(dim=1) == 1).sum(1)
    assert runs.max() == 4 and (runs == 0).float().mean() < 0.06  # none at all: one mask of width 0
    none = masked(torch.ones(500, 4, 200), time_masks=2, time_masks_least=0, freq_masks=0, time_mask_frames=50) == 0
    assert 0.3 < 1 - none.flatten(1).any(1).float().mean() < 0.4  # 1/3, and a few of width 0


def statistics():
    """Return the stored statistics of masking features, a list of dictionaries."""
    content = json.loads((golden_dir("lowresource") / "masking.json").read_text())
    found = content["specaugment"] if "specaugment" in content else content["specaugment_on_features"]["measured"]
    return [found] if isinstance(found, dict) else found


@pytest.mark.parametrize("expected", statistics())
def test_stored_statistics_of_masking_for_little_data(expected):
    mel = torch.ones(expected["draws"], expected["features"], expected["frames"])
    times, freqs, shares = [], [], []
    for seed in (0, 1):
        zero = masked(mel, seed=seed, **COUNTED) == 0
        time, freq = zero.all(1), zero.all(2)
        assert torch.equal(zero, time.unsqueeze(1) | freq.unsqueeze(2))
        shares.append(zero.float().mean((1, 2)))
        times.append(time.sum(1).float())
        freqs.append(freq.sum(1).float())
    assert (mel == 1).all()
    time, freq, share = torch.cat(times), torch.cat(freqs), torch.cat(shares)
    assert abs(share.mean() - expected["mean_zero_fraction"]) < 0.01
    assert abs(share.std() - expected["std_zero_fraction"]) < 0.01
    assert time.mean() == pytest.approx(expected["mean_masked_frames"], rel=0.03)
    assert freq.mean() == pytest.approx(expected["mean_masked_features"], rel=0.03)
    assert abs((freq == 0).float().mean() - expected["fraction_without_any_feature_mask"]) < 0.01
    assert time.max() <= 90 and freq.max() <= 9
