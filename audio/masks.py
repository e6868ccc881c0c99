"""SpecAugment: random stretches of time and of bands of the features set to 0.

Entry point: spec_augment."""

import torch


def spec_augment(
    features, time_masks, time_mask_frames, freq_masks, freq_mask_bands, probability, generator=None,
    time_masks_least=None, freq_masks_least=None,
):  # fmt: skip
    """Return `features` (batch, bands, frames) with random stretches of time and of bands set to 0.

    Every item is masked with `probability`, and then by all its masks: each has an integer width uniform in 0..maximum
    (`time_mask_frames` or `freq_mask_bands`) and a start uniform in 0..size - width. An item gets `time_masks` and
    `freq_masks` of them or, where a least number is given, one uniform between the two. A fixed number of time masks
    is for few and wide ones, none of which may hide more than a fifth of the frames.
    `generator` may live on the CPU or on the device of `features`; without one the global one of that device draws.
    SpecAugment without time warping (Park et al., Interspeech 2019, arXiv 1904.08779).
    """
    batch, bands, frames = features.shape
    masks = time_masks + freq_masks
    if masks == 0:
        return features
    source = features.device if generator is None else generator.device
    counted = 0 if time_masks_least is None and freq_masks_least is None else 2
    draws = torch.rand(batch, 2 * masks + 1 + counted, generator=generator, device=source).to(features.device)
    width_draw, start_draw, chosen = draws[:, :masks], draws[:, masks : 2 * masks], draws[:, 2 * masks, None]
    count_draw, hidden = draws[:, 2 * masks + 1 :], torch.zeros(1, 1, 1, dtype=torch.bool, device=features.device)
    if time_masks:
        widest = min(time_mask_frames, frames // 5 if time_masks_least is None else frames)
        width = _widths(width_draw[:, :time_masks], widest, time_masks_least, count_draw[:, :1])
        time = _stretches(width, start_draw[:, :time_masks], frames)
        hidden = hidden | (time & (chosen < probability)).unsqueeze(1)
    if freq_masks:
        widest = min(freq_mask_bands, bands)
        width = _widths(width_draw[:, time_masks:], widest, freq_masks_least, count_draw[:, 1:])
        freq = _stretches(width, start_draw[:, time_masks:], bands)
        hidden = hidden | (freq & (chosen < probability)).unsqueeze(2)
    return features.masked_fill(hidden, 0.0)


def _widths(width_draw, widest, least, count_draw):
    """Turn uniform draws (batch, masks) into widths, 0 for masks beyond a number uniform between `least` and all."""
    width = (width_draw * (widest + 1)).floor()
    if least is None:
        return width
    masks = width.shape[1]
    count = least + (count_draw * (masks - least + 1)).floor()
    return width.masked_fill(torch.arange(masks, device=width.device) >= count, 0.0)


def _stretches(width, start_draw, size):
    """Return a boolean (batch, size), True inside any of the masks of `width` (batch, masks)."""
    start = (start_draw * (size - width + 1)).floor()
    position = torch.arange(size, device=width.device)
    inside = (position >= start.unsqueeze(2)) & (position < (start + width).unsqueeze(2))
    return inside.any(dim=1)
