"""The table of error rates that score.py prints and writes: one row a step, with intervals over speakers.
Entry points: figures, markdown, write_rows.
"""

import csv
import os
from pathlib import Path

import numpy as np

from scoring import metrics
from scoring.intervals import bootstrap_interval

# Figures of a row: key, heading, digits.
COLUMNS = (
    ("eer", "EER %", 2), ("mindcf05", "minDCF(0.05)", 3), ("mindcf01", "minDCF(0.01)", 3), ("cllr", "Cllr", 3),
    ("min_cllr", "min-Cllr", 3),
)  # fmt: skip


def measure(counts: metrics.Counts, eer_method: str) -> np.ndarray:
    """Return the figures of COLUMNS: EER in percent, minDCF at costs 1, Cllr and min-Cllr in bits."""
    costs = [metrics.min_dcf_of(counts, prior)[0] for prior in (0.05, 0.01)]
    return np.array(
        [metrics.eer_of(counts, eer_method)[0], *costs, metrics.cllr_of(counts), metrics.min_cllr_of(counts)]
    )


def figures(scores, labels, sides, eer_method: str, replicates: int, seed: int) -> dict[str, float | list[float]]:
    """Return {"eer": value, "eer_interval": [low, high], ...} of COLUMNS, and "targets" and "impostors".

    Args:
        sides: speakers of both sides (trials, 2), or None; see intervals.bootstrap_interval.
        replicates: of the 95 % interval; 0 for none.
    """
    counts = metrics.count_accepted(scores, labels)
    row = dict(zip((key for key, _, _ in COLUMNS), measure(counts, eer_method).tolist()))
    row |= {"targets": int(counts.targets[-1]), "impostors": int(counts.impostors[-1])}
    if replicates:
        found = bootstrap_interval(
            scores, labels, sides, lambda drawn: measure(drawn, eer_method), replicates=replicates, seed=seed
        )
        row |= {f"{key}_interval": [float(found.low[i]), float(found.high[i])] for i, (key, _, _) in enumerate(COLUMNS)}
    return row


def _cell(row: dict, key: str, digits: int) -> str:
    if row.get(key) is None:
        return ""
    interval = row.get(f"{key}_interval")
    between = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return f"{row[key]:.{digits}f}{between}"


def markdown(rows: list[dict], first: tuple[str, ...], columns=COLUMNS) -> str:
    """Return rows as a Markdown table of aligned columns; `first`: keys of the leading columns."""
    shown = [(*first, *(heading for _, heading, _ in columns))]
    shown += [(*(str(row[key]) for key in first), *(_cell(row, key, n) for key, _, n in columns)) for row in rows]
    widths = [max(len(line[i]) for line in shown) for i in range(len(shown[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in shown]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def write_rows(path: str | Path, rows: list[dict], first: tuple[str, ...], columns=COLUMNS):
    """Write rows as CSV, an interval as two columns, whole or not at all."""
    keys = [*first, *(f"{key}{end}" for key, _, _ in columns for end in ("", "_low", "_high"))]
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore", restval="")
        writer.writeheader()
        for row in rows:
            ends = {
                f"{key}{end}": row[f"{key}_interval"][i]
                for key, _, _ in columns
                for i, end in enumerate(("_low", "_high"))
                if f"{key}_interval" in row
            }
            writer.writerow({**row, **ends})
    os.replace(part, path)
