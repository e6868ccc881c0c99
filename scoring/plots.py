"""Plots of scores and of training, each written as one PNG.
Entry points: det_plot, score_histogram, seconds_curve, training_curves, compare_curves, moving_average.
"""

import json
import re
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

from scoring.metrics import Counts, check_trials, count_accepted, eer_of, min_dcf_of, rates

# Marks of the probit axes in percent.
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99, 99.5, 99.9)
# Scalars of metrics.jsonl that come first, with panel title and axis label; the keys of one panel share its axis.
PANELS = (
    (("loss",), "Loss", "loss"),
    (("accuracy",), "Accuracy", "accuracy (%)"),
    (("veer", "train_eer"), "Equal error rate", "EER (%)"),
    (("mindcf",), "Detection cost", "minDCF"),
    (("elbo", "valid_elbo"), "Evidence lower bound", "nats per dimension"),
    (("mse", "valid_mse"), "Mean squared error", "MSE"),
    (("perplexity", "epoch_perplexity", "valid_perplexity"), "Perplexity of the codes", "perplexity"),
    (("codes_used", "valid_codes_used"), "Codes used", "codes"),
    (("lr",), "Learning rate", "learning rate"),
)
MOST_PANELS = 12


def _figure(width: float, height: float):
    """Return a figure drawn without pyplot, so that no state or window system is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def det_plot(path, systems: dict, p_target: float = 0.05, c_miss: float = 1, c_fa: float = 1) -> None:
    """Draw miss rate against false acceptance rate on normal deviate axes, with the points of EER and minDCF.

    Args:
        systems: {name: (scores, labels)}.

    Martin et al., The DET curve in assessment of detection task performance, Eurospeech 1997.
    """
    if not systems:
        raise ValueError("det_plot: no system to draw")
    figure = _figure(6.4, 6.4)
    axes = figure.add_subplot()
    all_counts = {name: count_accepted(scores, labels) for name, (scores, labels) in systems.items()}
    # Half an error of the larger class: lower rates cannot be seen in the data.
    floor = min(0.5 / max(c.targets[-1], c.impostors[-1]) for c in all_counts.values())
    low = min(max(floor, TICKS[0] / 200), 0.01)
    high = min(1 - low, max(0.6, *(1.5 * eer_of(c)[0] / 100 for c in all_counts.values())))
    for number, (name, counts) in enumerate(all_counts.items()):
        _draw_det(axes, f"C{number}", name, counts, low, high, (p_target, c_miss, c_fa))
    ticks = [t for t in TICKS if low <= t / 100 <= high]
    axes.plot(*[ndtri([low, high])] * 2, color="0.75", linewidth=0.8, zorder=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ndtri(np.array(ticks) / 100), [f"{t:g}" for t in ticks])
    axes.set(xlim=ndtri([low, high]), ylim=ndtri([low, high]), aspect="equal")
    axes.set(xlabel="false acceptance rate (%)", ylabel="miss rate (%)")
    axes.tick_params(axis="x", rotation=45)
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend(loc="upper right", fontsize=8, framealpha=0.95)
    axes.set_title(
        f"DET: circle EER, triangle minDCF (p_target {p_target:g}, costs {c_miss:g} and {c_fa:g})", fontsize=9
    )
    _save(figure, path)


def _draw_det(axes, colour: str, name: str, counts: Counts, low: float, high: float, costs) -> None:
    """Draw the curve and the two points of one system; rates below the axes and points beside them lie on the edge."""
    thresholds, fpr, fnr = rates(counts)
    value, at = eer_of(counts)
    cost, cost_at = min_dcf_of(counts, *costs)
    label = f"{name}: EER {value:.3g} %, minDCF {cost:.3g}"
    # A few hundred points evenly spaced on both axes look the same as ten million.
    grid = ndtr(np.linspace(ndtri(low), ndtri(high), 600))
    near = [np.searchsorted(fpr, grid, side=side) - (side == "right") for side in ("left", "right")]
    near += [
        len(fnr) - 1 - np.searchsorted(fnr[::-1], grid, side=side) + (side == "right") for side in ("left", "right")
    ]
    shown = np.unique(np.clip(np.concatenate([*near, [0, len(fpr) - 1]]), 0, len(fpr) - 1))

    x, y = (ndtri(np.clip(rate[shown], low, 1 - 1e-9)) for rate in (fpr, fnr))
    axes.step(x, y, where="post", color=colour, linewidth=1.5, label=label)
    for threshold, marker in ((at, "o"), (cost_at, "^")):
        i = np.flatnonzero(thresholds == threshold)[0]
        point = ndtri(np.clip([fpr[i], fnr[i]], low, high))
        axes.plot(*point, marker, color=colour, markeredgecolor="black", clip_on=False, zorder=5)


def score_histogram(path, scores, labels, threshold: float | None = None) -> None:
    """Draw the densities of target and impostor scores, and a threshold."""
    scores, labels, _ = check_trials(scores, labels)
    figure = _figure(7, 4.2)
    axes = figure.add_subplot()
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, int(np.clip(np.sqrt(len(scores)), 10, 120)) + 1)
    for value, name, colour in ((0, "impostors", "C1"), (1, "targets", "C0")):
        part = scores[labels == value]
        label = f"{name} ({len(part)}, mean {part.mean():.3g})"
        axes.hist(part, edges, density=True, histtype="stepfilled", alpha=0.45, color=colour, label=label)
    if threshold is not None and np.isfinite(threshold):
        axes.axvline(threshold, color="black", linewidth=1, linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="score (higher = same speaker)", ylabel="density (1 / unit of score)")
    axes.set_ylim(top=1.15 * axes.get_ylim()[1])  # room for the legend
    axes.set_title("Scores of the trials", fontsize=10)
    axes.legend(fontsize=8, loc="upper center", ncols=3)
    axes.set_axisbelow(True)
    axes.grid(color="0.92", linewidth=0.6)
    _save(figure, path)


def seconds_curve(path, rows: list[dict]) -> None:
    """Draw the EER against seconds of speech; rows hold seconds, eer and perhaps eer_interval, in percent."""
    figure = _figure(5.4, 3.8)
    axes = figure.add_subplot()
    seconds, values = ([row[key] for row in rows] for key in ("seconds", "eer"))
    axes.plot(seconds, values, "o-", color="C0")
    if all("eer_interval" in row for row in rows):
        low, high = zip(*(row["eer_interval"] for row in rows))
        axes.fill_between(seconds, low, high, color="C0", alpha=0.2, linewidth=0, label="95 % interval")
        axes.legend(fontsize=8)
    axes.set_xscale("log")
    axes.set_xticks(seconds, [f"{value:g}" for value in seconds])
    axes.minorticks_off()
    axes.set(xlabel="seconds of speech on both sides", ylabel="EER (%)")
    axes.set_ylim(bottom=0)
    axes.grid(color="0.92", linewidth=0.6)
    _save(figure, path)


def read_metrics(path) -> list[dict]:
    """Read the JSON objects of metrics.jsonl; a last line cut off by a crash is left out.

    Raises:
        ValueError: any other line is no JSON object, with its number, or nothing was recorded.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines) and records:
                break
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object: {line[:60]!r}")
        records.append(record)
    if not records:
        raise ValueError(f"{path}: nothing recorded")
    return records


def read_log(path) -> list[dict]:
    """Read the lines `step 12: loss=0.93286 q0=0.96154` of a log of vq-voice-swap as records; others are passed over.

    Raises:
        ValueError: there is no such line.
    """
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"step (\d+): (.*)", line)
        pairs = [word.partition("=") for word in found[2].split()] if found else []
        try:
            values = {name: float(value) for name, _, value in pairs}
        except ValueError:  # a line cut off by a crash
            continue
        if values:
            records.append({"step": int(found[1]), **values})
    if not records:
        raise ValueError(f"{path}: no line as `step 12: loss=0.93286`")
    return records


def _scalars(records) -> dict[str, list]:
    """Return {name: [(step, value), ...]} of the finite scalars of records."""
    curves = {}
    for position, record in enumerate(records):
        for key, value in record.items():
            if key not in ("step", "epoch", "samples") and isinstance(value, (int, float)) and np.isfinite(value):
                curves.setdefault(key, []).append((record.get("step", position), value))
    return curves


def moving_average(values, window: int) -> np.ndarray:
    """Return the mean of the last `window` of `values` (points,) at each point, of fewer at the start."""
    values = np.asarray(values, dtype=np.float64)
    if window < 1:
        raise ValueError(f"a moving average over {window} points: at least 1")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)


def training_curves(path, metrics_jsonl, window: int = 1) -> None:
    """Draw the scalars of a run's metrics.jsonl over optimiser steps, one panel each, those of PANELS first.

    Args:
        window: records that each point is the mean of.

    Raises:
        ValueError: the file is malformed or holds no scalar.
    """
    curves = _scalars(read_metrics(metrics_jsonl))
    if not curves:
        raise ValueError(f"{metrics_jsonl}: no scalar was recorded")
    panels = [panel for panel in PANELS if any(key in curves for key in panel[0])]
    first = {key for keys, _, _ in panels for key in keys}
    # those of single codebooks or channels, numbered, come last
    rest = sorted(curves.keys() - first, key=lambda key: (key.rpartition("/")[2].isdigit(), key))
    panels += [((key,), key.replace("_", " "), key) for key in rest]
    panels = panels[:MOST_PANELS]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _figure(4.2 * columns, 2.8 * rows)
    for number, (keys, title, label) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        drawn = [key for key in keys if key in curves]
        for key in drawn:
            steps, values = np.array(curves[key], dtype=float).T
            axes.plot(
                steps, moving_average(values, window), marker="." if len(steps) < 25 else None, linewidth=1.3, label=key
            )
        if len(drawn) > 1:
            axes.legend(fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="optimiser steps", ylabel=label)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(color="0.92", linewidth=0.6)
    _save(figure, path)


def compare_curves(path, runs: dict[str, list[dict]], fields: list[str], window: int = 1, limits: tuple = ()) -> None:
    """Draw a panel for each field, in it a line for each run over optimiser steps.

    Args:
        runs: {name: records of read_metrics or read_log}.
        fields: regular expressions; of several scalars that one matches, the mean is drawn.
        window: records that each point is the mean of.
        limits: most steps, least and largest value shown, None where the curves decide.

    Raises:
        ValueError: no run has a scalar that a field matches.
    """
    most, low, high = limits or (None, None, None)
    figure = _figure(5.6 * len(fields), 4.0)
    curves = {name: _scalars(records) for name, records in runs.items()}
    for number, field in enumerate(fields, 1):
        axes = figure.add_subplot(1, len(fields), number)
        for colour, (name, scalars) in enumerate(curves.items()):
            at = {}
            for key in scalars:
                for step, value in scalars[key] if re.fullmatch(field, key) else ():
                    if most is None or step <= most:
                        at.setdefault(step, []).append(value)
            if at:
                means = [np.mean(at[step]) for step in sorted(at)]
                axes.plot(sorted(at), moving_average(means, window), linewidth=1.3, color=f"C{colour % 10}", label=name)
        if not axes.lines:
            known = sorted({key for scalars in curves.values() for key in scalars})
            raise ValueError(f"no scalar is called {field}; there are: {', '.join(known)}")
        axes.set(xlabel="optimiser steps", ylabel=field)
        axes.set_ylim(low, high)
        axes.grid(color="0.92", linewidth=0.6)
        axes.legend(fontsize=7)
    _save(figure, path)
