"""What score_attributes.py test writes of the scores of a list: score files, error rates, plots.
Entry points: Scored, write_scored, measure, write_plots, binary_loss.
"""

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scoring import llr_plots, metrics, plots, summary, trials
from scoring.sides import Cells

FIRST = ("list", "system", "scores")  # leading columns of a row of error rates
PRIORS = (0.01, 0.05)


class Scored(NamedTuple):
    """Scores of a list: `made` {(system, "raw" | "calibrated" | "fused"): scores (trials,)}; `sides` (trials, 2)
    integers, the speakers, or None."""

    name: str
    cells: Cells
    labels: np.ndarray | None
    sides: np.ndarray | None
    made: dict[tuple[str, str], np.ndarray]


def write_scored(folder: Path, scored: Scored):
    """Write a file of lines `score enrolment test` for each system, and one CSV of all scores."""
    names, pairs = scored.cells.names()
    for (system, kind), scores in scored.made.items():
        trials.write_scores(folder / f"scores_{scored.name}_{_word(system, kind)}.txt", scores, pairs, names)
    columns = [_word(*key) for key in scored.made]
    path = folder / f"scores_{scored.name}.csv"
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["enrollment", "test", *([] if scored.labels is None else ["label"]), *columns])
        shown = [[f"{score:.6g}" for score in scores.tolist()] for scores in scored.made.values()]
        labels = [] if scored.labels is None else [scored.labels.tolist()]
        first, second = ([names[i] for i in side] for side in pairs.T.tolist())
        writer.writerows(zip(first, second, *labels, *shown))
    os.replace(part, path)


def _word(system: str, kind: str) -> str:
    """Return a system as a word of a file's name."""
    return "_".join([*system.split(), *([] if kind == "raw" else [kind])])


def measure(scored: Scored, eer_method: str, replicates: int, seed: int) -> list[dict]:
    """Return a row of figures of summary.COLUMNS for each system, with raw minDCF and the decisions at the EER."""
    rows = []
    for (system, kind), scores in scored.made.items():
        row = {"list": scored.name, "system": system, "scores": kind}
        row |= summary.figures(scores, scored.labels, scored.sides, eer_method, replicates, seed)
        counts = metrics.count_accepted(scores, scored.labels)
        row |= {f"raw_mindcf{prior:g}": metrics.raw_min_dcf_of(counts, prior) for prior in PRIORS}
        threshold = min(metrics.eer_of(counts, eer_method)[1], float(counts.thresholds[0]))  # infinite: rejects all
        row["at_eer"] = metrics.decisions(scores, scored.labels, threshold)
        rows.append(row)
    return rows


def write_plots(folder: Path, scored: Scored):
    """Draw DET curves of all systems, Tippett and ECE plots of those that give likelihood ratios."""
    rates = {system: key for key in scored.made for system in key[:1] if key[1] != "calibrated"}
    plots.det_plot(
        folder / f"det_{scored.name}.png", {name: (scored.made[key], scored.labels) for name, key in rates.items()}
    )
    done = [key for key in scored.made if key[1] != "raw"] or [key for key in scored.made if "cosine" not in key[0]]
    ratios = {" ".join(key): (scored.made[key], scored.labels) for key in done}
    if ratios:
        llr_plots.tippett_plot(folder / f"tippett_{scored.name}.png", ratios)
        llr_plots.ece_plot(folder / f"ece_{scored.name}.png", ratios)


def binary_loss(rows: list[dict], codes: str, embeddings: str) -> dict[str, float | None]:
    """Return by list the share of the EER that the codes lose: EER of their cosine / EER of the embeddings' - 1; None
    where the embeddings make no error."""
    eers = {(row["list"], row["system"]): row["eer"] for row in rows if row["scores"] == "raw"}
    names = {name for name, system in eers if system == embeddings}
    return {
        name: eers[name, codes] / eers[name, embeddings] - 1 if eers[name, embeddings] > 0 else None
        for name in sorted(names)
    }
