"""Masks of random spans over frames or channels, wav2vec 2.0's augmentation while it trains.
Entry point: span_mask; everything is drawn on the device, without a loop over spans and without waiting for it.
"""

import torch


def span_mask(rows, size, probability, span, least=0, lengths=None, device=None, generator=None):
    """Return a mask (rows, size), True in random spans of `span` places that may overlap.

    A row of n valid places gets floor(probability * n / span + u) spans, at least `least` and at most n // span, with
    one u from [0, 1) for all rows; their starts are drawn without replacement from 0 .. n - span (Baevski et al. 2020,
    arXiv 2006.11477, appendix A).

    Args:
        lengths: valid places of each row (rows,), all where None.
    """
    starts = size - span + 1
    if starts < 1:
        return torch.zeros(rows, size, dtype=torch.bool, device=device)
    if lengths is None:
        lengths = torch.full((rows,), size, device=device)
    count = (probability * lengths / span + torch.rand((), device=device, generator=generator)).long()
    count = torch.minimum(count.clamp(min=least), lengths // span)
    draw = torch.rand(rows, starts, device=device, generator=generator)
    impossible = torch.arange(starts, device=device) > (lengths - span).unsqueeze(1)
    order = draw.masked_fill(impossible, 2.0).argsort(1).argsort(1)
    begun = (order < count.unsqueeze(1)).int().cumsum(1)
    # A place is covered if more spans have begun up to it than had begun `span` places before.
    begun = torch.cat([begun, begun[:, -1:].expand(-1, span - 1)], dim=1)
    before = torch.nn.functional.pad(begun, (span, 0))[:, :size]
    return begun > before
