"""The margin of a margin loss as a function of the optimiser step.
Entry point: margin_at.
"""


def margin_at(
    step: int,
    steps_per_epoch: int,
    start_epoch: float,
    end_epoch: float,
    initial: float,
    final: float,
    growth: str = "exp",
) -> float:
    """Return the margin of `step` (0, 1, ...): `initial` up to the start epoch, `final` from the end epoch on.

    Epochs count from 1. Between them it grows with u, the share of the way: by u ("linear") or, fast at first, by
    1 - 1000^-u ("exp").

    Raises:
        ValueError: the growth is neither, or the end lies before the start.
    """
    if growth not in ("exp", "linear"):
        raise ValueError(f"--margin_growth {growth}: one of exp, linear")
    if end_epoch < start_epoch:
        raise ValueError(f"--margin_end_epoch {end_epoch} lies before --margin_start_epoch {start_epoch}")
    start, end = (start_epoch - 1) * steps_per_epoch, (end_epoch - 1) * steps_per_epoch
    if step >= end:
        return final
    if step < start:
        return initial
    u = (step - start) / (end - start)
    return initial + (final - initial) * (u if growth == "linear" else 1 - 1000.0**-u)
