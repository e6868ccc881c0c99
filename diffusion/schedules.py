"""How much signal is left at a time of the diffusion process, and the times that a sampler visits.
Entry points: SCHEDULES, alpha_bar, time_grid, time_of.

Time runs from 0 (clean) to 1 (noise). alpha_bar is the variance of the signal, 1 - alpha_bar that of the noise.
"""

import math

import torch

TIME_MAPS = ("linear", "square", "log_snr")
ALPHA_FINAL = 1e-5  # signal that exp leaves at t = 1


def exp(t: torch.Tensor, alpha_final: float = ALPHA_FINAL) -> torch.Tensor:
    """Return exp(-k t^2), which falls to `alpha_final` at t = 1."""
    return torch.exp(math.log(alpha_final) * t.square())


def cos(t: torch.Tensor) -> torch.Tensor:
    """Return cos(pi t / 2)^2 (Nichol and Dhariwal 2102.09672, eq. 17, without their offset)."""
    return torch.cos(math.pi / 2 * t).square()


SCHEDULES = {"exp": exp, "cos": cos}
# Where sampling begins. cos leaves no signal at t = 1, where x0 = (x - sigma eps) / alpha would multiply an error of
# eps by 1e7. At 0.98 alpha_bar is 0.001: the wave there has a variance within 0.1 % of the 1 that it is drawn with.
FIRST_TIMES = {"exp": 1.0, "cos": 0.98}


def alpha_bar(schedule: str, t: torch.Tensor, **options) -> torch.Tensor:
    """Return the variance of the signal at times `t` of any shape, in [0, 1].

    Args:
        options: what the schedule takes, `alpha_final` of exp.

    Raises:
        ValueError: there is no such schedule.
    """
    return SCHEDULES[check_schedule(schedule)](t, **options)


def check_schedule(schedule: str) -> str:
    """Return `schedule`; a ValueError lists the names where it is none of them."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r}: one of {', '.join(SCHEDULES)}")
    return schedule


def check_time_map(time_map: str | float) -> str | float:
    """Return `time_map` as one of TIME_MAPS or as a power; text is compared with names and numbers, never evaluated.

    Raises:
        ValueError: it is neither.
    """
    if time_map in TIME_MAPS:
        return time_map
    try:
        power = float(time_map)
    except (TypeError, ValueError):
        power = math.nan
    if not 0 < power < math.inf:
        raise ValueError(f"time map {time_map!r}: one of {', '.join(TIME_MAPS)}, or a number p above 0 for t = s^p")
    return power


def time_grid(
    time_map: str | float,
    steps: int,
    schedule: str = "exp",
    first: float | None = None,
    last: float = 1e-3,
) -> torch.Tensor:
    """Return the times (steps + 1,), float64 on the CPU, from the first one down to 0, that a sampler visits.

    With s = i / steps, i = steps ... 0, so never below 0: `linear` t = first s, `square` t = first s^2, a number p
    t = first s^p. `log_snr` has equal steps of the log signal-to-noise ratio down to the time `last`, then 0.

    Args:
        first: where to begin, by default FIRST_TIMES of the schedule.
        last: last time above 0 of log_snr, whose ratio is infinite at 0; 0.001 is noise at -49 dB (exp).

    Raises:
        ValueError: there is no such time map or schedule, or steps or times are out of range.
    """
    time_map, first = check_time_map(time_map), FIRST_TIMES[check_schedule(schedule)] if first is None else first
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: at least 1")
    if not 0 < first <= 1:
        raise ValueError(f"first time {first}: above 0, at most 1")
    if time_map == "log_snr":
        return _equal_log_snr(steps, schedule, first, last)
    s = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    return first * s ** {"linear": 1.0, "square": 2.0}.get(time_map, time_map)


def time_of(log_snr: torch.Tensor, schedule: str) -> torch.Tensor:
    """Return the times at which ln(a / (1 - a)), the log signal-to-noise ratio, is `log_snr`."""
    if check_schedule(schedule) == "cos":
        return 2 / math.pi * torch.atan(torch.exp(-log_snr / 2))
    return torch.sqrt(torch.nn.functional.softplus(-log_snr) / -math.log(ALPHA_FINAL))


def _equal_log_snr(steps, schedule, first, last):
    if not 0 < last < first:
        raise ValueError(f"last time {last}: between 0 and the first time, {first}")
    # lambda = ln(alpha / sigma), half the log ratio
    signal = alpha_bar(schedule, torch.tensor([first, last], dtype=torch.float64))
    high, low = (0.5 * torch.logit(signal)).tolist()
    log_ratio = torch.linspace(high, low, steps, dtype=torch.float64)
    times = time_of(2 * log_ratio, schedule)
    times[0] = first
    return torch.cat([times, times.new_zeros(1)])
