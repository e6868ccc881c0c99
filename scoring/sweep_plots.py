"""Plot of what a sweep varied: equal error rate against learning rate, against steps.
Entry point: sweep_plot(path, panels, metric).
"""

import statistics

from scoring import plots

DIVERGED = 1.0  # the EER that stands for a run that diverged


def sweep_plot(path, panels: dict[str, dict[str, dict[float, list[float]]]], metric: str) -> None:
    """Draw a panel per varied quantity, a line per setting through the means over seeds, bars from least to most.

    Args:
        panels: {label of the axis: {label of the line: {x: EERs as fractions}}}; x is drawn on a logarithmic axis.

    Runs that diverged are crosses on the upper edge.
    """
    figure = plots._figure(5.6 * len(panels), 4.2)
    for number, (label, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        for colour, (name, points) in enumerate(sorted(lines.items())):
            _draw_line(axes, f"C{colour % 10}", name, points)
        values = sorted({x for points in lines.values() for x in points})
        if values[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{x:g}" for x in values], rotation=45 if len(values) > 6 else 0)
        axes.minorticks_off()
        axes.set(xlabel=label, ylabel=f"{metric.replace('_', ' ').replace('eer', 'EER')} (%)")
        axes.grid(color="0.92", linewidth=0.6)
        if len(lines) > 1:
            axes.legend(fontsize=7)
    plots._save(figure, path)


def _draw_line(axes, colour: str, name: str, points: dict[float, list[float]]) -> None:
    finite = {x: [100 * v for v in values if v < DIVERGED] for x, values in sorted(points.items())}
    shown = {x: values for x, values in finite.items() if values}
    means = [statistics.fmean(values) for values in shown.values()]
    below = [mean - min(values) for mean, values in zip(means, shown.values())]
    above = [max(values) - mean for mean, values in zip(means, shown.values())]
    axes.errorbar(list(shown), means, [below, above], marker="o", markersize=4, capsize=3, color=colour, label=name)
    lost = [x for x, values in points.items() if len(values) > len(finite[x])]
    if lost:
        edge = axes.get_xaxis_transform()
        axes.plot(lost, [1] * len(lost), "x", color=colour, transform=edge, clip_on=False, label=f"{name} diverged")
