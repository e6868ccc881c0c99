"""Pictures of waves: a sheet of spectrograms, by which generated speech is judged at a glance.
Entry point: spectrogram_sheet(path, waves, titles).
"""

import numpy as np

from scoring import plots

# 25 ms windows every 10 ms at 16 kHz show harmonics and formants of speech alike.
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
RANGE_DB = 80  # shown below the loudest point of each picture
COLUMNS = 4


def log_power(wave: np.ndarray, rate: int = 16000) -> np.ndarray:
    """Return the power (frequencies, frames) in dB, 0 at the loudest point, of Hann windows of `wave` (samples,)."""
    size, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    wave = np.pad(np.asarray(wave, np.float32), (0, max(0, size - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)).T ** 2
    loudest = max(float(power.max()), 1e-12)  # digital silence is drawn as silence
    return np.maximum(10 * np.log10(np.maximum(power, 1e-30) / loudest), -RANGE_DB)


def spectrogram_sheet(path, waves: list, titles: list[str], rate: int = 16000) -> None:
    """Draw the spectrogram of every wave, four in a row, each with its peak amplitude beside its title.

    Args:
        waves: (samples,) each, in [-1, 1], or None for a place that stays empty; rate: in Hz.
    """
    if not waves:
        raise ValueError("spectrogram_sheet: no wave to draw")
    columns = min(COLUMNS, len(waves))
    rows = -(-len(waves) // columns)
    figure = plots._figure(4.0 * columns, 2.2 * rows)
    for number, (wave, title) in enumerate(zip(waves, titles, strict=True), 1):
        if wave is None:
            continue
        axes = figure.add_subplot(rows, columns, number)
        picture = log_power(wave, rate)
        extent = (0, len(wave) / rate, 0, rate / 2000)
        axes.imshow(
            picture, origin="lower", aspect="auto", extent=extent, vmin=-RANGE_DB, vmax=0, cmap="magma",
            interpolation="nearest",
        )  # fmt: skip
        axes.set_title(f"{title}, peak {np.abs(wave).max():.2f}", fontsize=8)
        axes.tick_params(labelsize=7)
        if number > len(waves) - columns:
            axes.set_xlabel("time (s)", fontsize=8)
        if number % columns == 1 or columns == 1:
            axes.set_ylabel("frequency (kHz)", fontsize=8)
    plots._save(figure, path)
