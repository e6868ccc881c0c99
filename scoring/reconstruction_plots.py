"""Pictures of what autoencoders make of features: originals beside reconstructions, errors by bin, use of codebooks.
Entry points: draw_reconstruction, draw_features, draw_bins, draw_usage.
"""

import numpy as np

from scoring import plots

SHOWN_FRAMES = 400
FRAME_SECONDS = 0.01
INCHES = 1.7  # height of a panel
OUTLIERS = 0.5  # percent of the original at either end that the scale of colours leaves out


def draw_reconstruction(path, panels: dict[str, np.ndarray], latents: np.ndarray, codewords: int = 0, title: str = ""):
    """Draw features one above the other, then the difference of the second to the first, then the latents.

    The first SHOWN_FRAMES are shown. All features have the scale of colours of the first, the difference has its width.

    Args:
        panels: {title: features (bins, frames)}, the original first, then the reconstruction and what else there is.
        latents: (rows, positions), which span as much time; codewords: their number where these are codes.
    """
    original, made = list(panels.values())[:2]
    frames = original.shape[1]
    shown = min(SHOWN_FRAMES, frames)
    low, high = np.percentile(original[:, :shown], (OUTLIERS, 100 - OUTLIERS))
    width = max((high - low) / 2, 1e-6)
    figure = plots._figure(9.0, INCHES * (len(panels) + 2))
    rows = figure.subplots(len(panels) + 2, 1, sharex=True)
    extent = (0, shown * FRAME_SECONDS)
    for axes, (name, mel) in zip(rows, panels.items()):
        _panel(figure, axes, mel[:, :shown], name, "mel bin", (*extent, 0, len(mel)), low, high, "magma")
    difference = (made - original)[:, :shown]
    error = f"difference, mean square {np.square(difference).mean():.2f}"
    _panel(figure, rows[-2], difference, error, "mel bin", (*extent, 0, len(original)), -width, width, "RdBu_r")
    # a position of the latents may begin within what is shown and end behind it
    positions = latents.shape[1]
    each = -(-frames // positions)
    kept = latents[:, : -(-shown // each)]
    seconds = (0, kept.shape[1] * each * FRAME_SECONDS, 0, len(latents))
    if codewords:
        scale, name, row = (0, codewords - 1, "viridis"), f"codes of {len(latents)} groups", "group"
    else:
        most = max(float(np.percentile(np.abs(kept), 99)), 1e-6)
        scale, name, row = (-most, most, "RdBu_r"), f"latents, {len(latents)} numbers at a position", "channel"
    _panel(figure, rows[-1], kept, name, row, seconds, *scale)
    rows[-1].set_xlim(extent)
    rows[-1].set_xlabel("time (s)", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    plots._save(figure, path)


def draw_features(path, panels: dict[str, np.ndarray]):
    """Draw features {title: (bins, frames)} one above the other, all with the scale of colours of the first."""
    low, high = np.percentile(next(iter(panels.values())), (OUTLIERS, 100 - OUTLIERS))
    figure = plots._figure(9.0, INCHES * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, mel) in zip(rows, panels.items()):
        extent = (0, mel.shape[1] * FRAME_SECONDS, 0, len(mel))
        _panel(figure, axes, mel, name, "mel bin", extent, low, high, "magma")
    rows[-1].set_xlabel("time (s)", fontsize=8)
    plots._save(figure, path)


def _panel(figure, axes, picture, name, row, extent, low, high, colours):
    image = axes.imshow(
        picture, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap=colours,
        interpolation="nearest",
    )  # fmt: skip
    axes.set_title(name, fontsize=8, loc="left", pad=3)
    axes.set_ylabel(row, fontsize=8)
    axes.tick_params(labelsize=7)
    figure.colorbar(image, ax=axes, pad=0.01, aspect=12).ax.tick_params(labelsize=7)


def draw_bins(path, errors: dict[str, np.ndarray], variance: np.ndarray):
    """Draw the mean squared error of each mel bin (bins,) of every network, below the variance of the originals."""
    figure = plots._figure(8.0, 4.2)
    axes = figure.add_subplot()
    axes.plot(variance, color="0.6", linestyle="--", label="variance of the originals")
    for name, values in errors.items():
        axes.plot(values, label=f"{name}, mean {np.mean(values):.2f}")
    axes.set_xlabel("mel bin")
    axes.set_ylabel("mean squared error")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    plots._save(figure, path)


def draw_usage(path, usage: np.ndarray, title: str = ""):
    """Draw how often the codewords of each group occur, most frequent first; `usage` (groups, codewords) are counts."""
    share = np.sort(usage / np.maximum(usage.sum(1, keepdims=True), 1), axis=1)[:, ::-1]
    figure = plots._figure(8.0, 4.2)
    axes = figure.add_subplot()
    rank = np.arange(1, usage.shape[1] + 1)
    named = len(share) <= 8  # a legend of more tells nothing
    for number, row in enumerate(share):
        entropy = -np.sum(row * np.log(np.where(row > 0, row, 1)))
        label = f"group {number}: {(row > 0).sum()} used, perplexity {np.exp(entropy):.0f}" if named else None
        style = {"color": f"C{number}"} if named else {"color": "C0", "alpha": 0.3}
        axes.step(rank, np.where(row > 0, row, np.nan), where="mid", linewidth=1, label=label, **style)
    axes.axhline(1 / usage.shape[1], color="0.6", linestyle="--", label="all alike")
    axes.set_yscale("log")
    axes.set_xlim(0.5, usage.shape[1] + 0.5)
    axes.set_xlabel("codewords, most frequent first")
    axes.set_ylabel("share of the positions")
    axes.set_title(title or f"{len(share)} groups", fontsize=9)
    axes.legend(fontsize=7)
    plots._save(figure, path)
