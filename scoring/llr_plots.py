"""Plots of likelihood ratios: shares of trials beyond a value (Tippett), and cost against the prior (ECE).
Entry points: tippett_plot, ece_plot, empirical_cross_entropy, least_cross_entropy.
"""

import numpy as np

from scoring import plots
from scoring.metrics import check_trials, cllr, count_accepted, hull, min_cllr

LN10 = np.log(10)
# Priors of the ECE plot: log10 odds from 1 in 1000 to 1000 to 1.
LOG10_ODDS = np.linspace(-3, 3, 121)
MOST_POINTS = 1000  # of a curve: more cannot be seen


def tippett_plot(path, systems: dict) -> None:
    """Draw the share of trials whose LLR exceeds a value, same-speaker and different-speaker trials apart.

    Args:
        systems: {name: (natural-log likelihood ratios, labels)}.

    The legend has the rates of misleading evidence: same-speaker trials below 0, different-speaker trials above 0.
    Meuwly and Drygajlo, Forensic speaker recognition based on a Bayesian framework, Odyssey 2001.
    """
    if not systems:
        raise ValueError("tippett_plot: no system to draw")
    figure = plots._figure(7, 4.6)
    axes = figure.add_subplot()
    low, high = 0.0, 0.0
    for number, (name, (llrs, labels)) in enumerate(systems.items()):
        llrs, labels, _ = check_trials(llrs, labels)
        misleading = 100 * (llrs[labels == 1] < 0).mean(), 100 * (llrs[labels == 0] > 0).mean()
        words = f"{name}: {misleading[0]:.3g} % and {misleading[1]:.3g} %"
        for value, style, label in ((1, "-", words), (0, "--", None)):
            part = np.sort(llrs[labels == value]) / LN10
            kept = np.unique(np.linspace(0, len(part) - 1, MOST_POINTS).astype(int))
            # After the k-th smallest of N values, a share of 1 - k/N still lies above.
            shares = 100 * (1 - (kept + 1) / len(part))
            axes.step(part[kept], shares, style, where="post", color=f"C{number % 10}", linewidth=1.4, label=label)
            # One trial far out must not press all others together.
            ends = np.quantile(part, [0.002, 0.998])
            low, high = min(low, ends[0]), max(high, ends[1])
    axes.axvline(0, color="black", linewidth=0.8)
    margin = 0.04 * (high - low) or 1.0
    axes.set(xlim=(low - margin, high + margin), ylim=(-1, 101))
    axes.set(xlabel="log10 of the likelihood ratio", ylabel="share of trials above (%)")
    top = axes.secondary_xaxis("top", functions=(lambda x: x * LN10, lambda x: x / LN10))
    top.set_xlabel("natural logarithm (LLR)", fontsize=8)
    top.tick_params(labelsize=8)
    axes.grid(color="0.92", linewidth=0.6)
    title = "solid: same speaker, dashed: different speakers; shares on the wrong side of 0"
    figure.legend(title=title, title_fontsize=8, fontsize=8, loc="outside lower center", ncols=min(2, len(systems)))
    plots._save(figure, path)


def empirical_cross_entropy(llrs, labels, log_odds) -> np.ndarray:
    """Return the cost in bits (priors,) of natural-log likelihood ratios at prior log odds (priors,), natural log.

    At log odds 0 it is Cllr. Ramos et al., Deconstructing cross-entropy for probabilistic binary classifiers, 2018.
    """
    llrs, labels, _ = check_trials(llrs, labels)
    return _cost(llrs[labels == 1], llrs[labels == 0], np.atleast_1d(np.asarray(log_odds, dtype=np.float64)))


def least_cross_entropy(scores, labels, log_odds) -> np.ndarray:
    """Return the cost in bits (priors,) after the best rising map of the scores (pooled adjacent violators)."""
    blocks = hull(count_accepted(scores, labels))
    targets, impostors = np.diff(blocks.targets, prepend=0), np.diff(blocks.impostors, prepend=0)
    # Blocks of one kind of trial have an infinite LLR of the right sign, which costs nothing.
    with np.errstate(divide="ignore"):
        llrs = np.log(targets / blocks.targets[-1]) - np.log(impostors / blocks.impostors[-1])
    log_odds = np.atleast_1d(np.asarray(log_odds, dtype=np.float64))
    with_targets, with_impostors = targets > 0, impostors > 0
    weights = targets[with_targets], impostors[with_impostors]
    return _cost(llrs[with_targets], llrs[with_impostors], log_odds, *weights)


def _cost(targets, impostors, log_odds, target_weights=None, impostor_weights=None) -> np.ndarray:
    """Return the prior-weighted mean of -log2 of the posterior of the truth; weights: how many trials a value is of."""
    costs = np.empty(len(log_odds))
    for i, odds in enumerate(log_odds.tolist()):
        miss = np.average(np.logaddexp(0, -targets - odds), weights=target_weights)
        alarm = np.average(np.logaddexp(0, impostors + odds), weights=impostor_weights)
        prior = 1 / (1 + np.exp(-odds))
        costs[i] = (prior * miss + (1 - prior) * alarm) / np.log(2)
    return costs


def ece_plot(path, systems: dict) -> None:
    """Draw the empirical cross-entropy against the prior odds, with its least value and what saying nothing costs.

    Args:
        systems: {name: (natural-log likelihood ratios, labels)}.
    """
    if not systems:
        raise ValueError("ece_plot: no system to draw")
    figure = plots._figure(7, 4.6)
    axes = figure.add_subplot()
    odds, highest = LOG10_ODDS * LN10, 0.0
    for number, (name, (llrs, labels)) in enumerate(systems.items()):
        colour = f"C{number % 10}"
        words = f"{name}: Cllr {cllr(llrs, labels):.3g}, least {min_cllr(llrs, labels):.3g}"
        costs = empirical_cross_entropy(llrs, labels, odds)
        highest = max(highest, costs.max())
        axes.plot(LOG10_ODDS, costs, color=colour, linewidth=1.5, label=words)
        axes.plot(LOG10_ODDS, least_cross_entropy(llrs, labels, odds), "--", color=colour, linewidth=1.2)
    prior = 1 / (1 + np.exp(-odds))
    neutral = -(prior * np.log2(prior) + (1 - prior) * np.log2(1 - prior))
    axes.plot(LOG10_ODDS, neutral, ":", color="black", linewidth=1.4, label="saying nothing (LR = 1)")
    axes.plot([], [], "--", color="0.4", linewidth=1.2, label="dashed: after the best calibration")
    # Ratios that are not calibrated cost many bits; above 1.3 bits no system is worth telling from another, and good
    # ones shall not lie on the floor.
    axes.set(xlim=LOG10_ODDS[[0, -1]], ylim=(0, np.clip(2 * highest, 0.2, 1.3)))
    axes.axvline(0, color="0.75", linewidth=0.8, zorder=0)
    axes.set(xlabel="log10 of the prior odds of `same speaker`", ylabel="empirical cross-entropy (bit)")
    axes.grid(color="0.92", linewidth=0.6)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    plots._save(figure, path)
