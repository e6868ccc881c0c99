"""Plots of attributes: how common against how stable in a population, and what they add to the ratios of trials.
Entry points: population_plot, single_terms, partials_plot.
"""

import numpy as np

from scoring import plots
from scoring.likelihood import AttributeModel, Side, partials

MOST_TRIALS = 2000  # drawn for the boxes: a million terms with 512 attributes
CASES = ("11", "00", "mixed")  # both recordings have the attribute, neither has it, one has it


def population_plot(path, typicality: np.ndarray, drop_out: np.ndarray, counted: np.ndarray) -> None:
    """Draw the typicality (n,) of attributes against their drop-out, a point each; `counted` (n,) bool are chosen."""
    figure = plots._figure(5.6, 4.6)
    axes = figure.add_subplot()
    for chosen, name, colour in ((counted, "counted", "C0"), (~counted, "left out by the flags", "0.6")):
        if chosen.any():
            label = f"{name} ({int(chosen.sum())})"
            axes.plot(drop_out[chosen], typicality[chosen], ".", color=colour, alpha=0.6, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(
        xlabel="drop-out (share of an owner's recordings without it)", ylabel="typicality (share of speaker pairs)"
    )
    spread = min(typicality.std(), drop_out.std()) > 0
    related = f", correlation {np.corrcoef(typicality, drop_out)[0, 1]:.2f}" if spread else ""
    axes.set_title(f"{len(typicality)} attributes{related}", fontsize=10)
    axes.grid(color="0.92", linewidth=0.6)
    axes.legend(fontsize=8)
    plots._save(figure, path)


def single_terms(
    models: dict[str, AttributeModel], enrol: Side, test: Side, pairs: np.ndarray, seed: int
) -> tuple[int, dict[str, list[np.ndarray]]]:
    """Return how many trials were drawn, at most MOST_TRIALS of those of single recordings, and of each model but
    cosine the terms of the attributes that it uses, {kind: one array for each of CASES}."""
    single = np.flatnonzero((enrol.recordings[pairs[:, 0]] == 1) & (test.recordings[pairs[:, 1]] == 1))
    drawn = pairs[np.random.default_rng(seed).permutation(single)[:MOST_TRIALS]]
    sides = enrol.take(drawn[:, 0]), test.take(drawn[:, 1])
    shown = sides[0].active.astype(int) + sides[1].active
    found = {}
    for kind, model in models.items():
        if kind != "cosine":
            terms = partials(model, *sides)
            found[kind] = [terms[(shown == count) & model.used] for count in (2, 0, 1)]
    return len(drawn), found


def partials_plot(path, trials: int, terms: dict[str, list[np.ndarray]]) -> None:
    """Draw box plots of the terms that single_terms returns, a panel for each model."""
    if not terms:
        raise ValueError("partials_plot: no model to draw")
    figure = plots._figure(1 + 2.4 * len(terms), 4)
    axes = None
    for number, (kind, parts) in enumerate(terms.items(), 1):
        axes = figure.add_subplot(1, len(terms), number, sharey=axes)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.boxplot(parts, whis=(5, 95), showfliers=False, widths=0.6)
        labels = [f"{case}\n{np.median(part):+.2f}" if len(part) else case for case, part in zip(CASES, parts)]
        axes.set_xticks(range(1, 4), labels, fontsize=8)
        axes.set_title(kind, fontsize=10)
        axes.grid(axis="y", color="0.92", linewidth=0.6)
        if number == 1:
            axes.set_ylabel("partial LLR (natural logarithm)")
    drawn = f"{trials} trials of single recordings (at most {MOST_TRIALS} are drawn)"
    figure.suptitle(f"{drawn}; boxes: quartiles, numbers: medians, whiskers: 5 % to 95 %", fontsize=9)
    plots._save(figure, path)
