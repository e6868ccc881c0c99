"""What score_attributes.py test writes of the scores of a list: score files, error rates, plots.
Entry points: Scored, write_fitted, write_scored, measure, write_plots, write_results.
"""

import csv
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scoring import attribute_plots, calibration, llr_plots, metrics, plots, population, summary, trials
from scoring.attribute_systems import EMBEDDINGS
from scoring.embeddings import write_text
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


def write_fitted(folder: Path, calibrations: dict, fusions: dict):
    """Print and write calibrations (JSON) and the weights of fusions (CSV) by system and kind."""
    for system, found in calibrations.items():
        print(f"{system}: {found.describe()}")
        calibration.write_calibration(folder / f"calibration_{_word(system)}.json", found)
    for kind, found in fusions.items():
        print(f"{kind}: {found.describe()}")
        columns = {"mean": found.mean, "deviation": found.deviation, "weight": found.weights}
        population.write_attributes(folder / f"fusion_{kind}.csv", columns)


def write_scored(folder: Path, scored: Scored):
    """Write a file of lines `score enrolment test` for each system, and one CSV of all scores."""
    names, pairs = scored.cells.names()
    for (system, kind), scores in scored.made.items():
        trials.write_scores(folder / f"scores_{scored.name}_{_word(system, kind)}.txt", scores, pairs, names)
    columns = [_word(*key) for key in scored.made]
    shown = [[f"{score:.6g}" for score in scores.tolist()] for scores in scored.made.values()]
    labels = [] if scored.labels is None else [scored.labels.tolist()]
    first, second = ([names[i] for i in side] for side in pairs.T.tolist())
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["enrollment", "test", *([] if scored.labels is None else ["label"]), *columns])
    writer.writerows(zip(first, second, *labels, *shown))
    write_text(folder / f"scores_{scored.name}.csv", text.getvalue())


def _word(system: str, kind: str = "raw") -> str:
    """Return a system as a word of a file's name."""
    return "_".join([*system.split(), *(["calibrated"] if kind == "calibrated" else [])])


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


def write_plots(folder: Path, scored: Scored, drawn: int, terms: dict):
    """Draw DET curves of all systems, Tippett and ECE plots of those that give likelihood ratios, and the partial LLRs
    of `drawn` trials by case, where there are some; see attribute_plots.single_terms."""
    # a calibration changes no rate
    rates = {key[0]: (scores, scored.labels) for key, scores in scored.made.items() if key[1] != "calibrated"}
    plots.det_plot(folder / f"det_{scored.name}.png", rates)
    done = [key for key in scored.made if key[1] != "raw"] or [key for key in scored.made if "cosine" not in key[0]]
    ratios = {_word(*key).replace("_", " "): (scored.made[key], scored.labels) for key in done}
    if ratios:
        llr_plots.tippett_plot(folder / f"tippett_{scored.name}.png", ratios)
        llr_plots.ece_plot(folder / f"ece_{scored.name}.png", ratios)
    if drawn and terms:
        attribute_plots.partials_plot(folder / f"partials_{scored.name}.png", drawn, terms)


def _binary_loss(rows: list[dict], codes: str, embeddings: str) -> dict[str, float | None]:
    """Return by list the share of the EER that the codes lose: EER of their cosine / EER of the embeddings' - 1; None
    where the embeddings make no error."""
    eers = {(row["list"], row["system"]): row["eer"] for row in rows if row["scores"] == "raw"}
    names = {name for name, system in eers if system == embeddings}
    return {
        name: eers[name, codes] / eers[name, embeddings] - 1 if eers[name, embeddings] > 0 else None
        for name in sorted(names)
    }


def write_results(folder: Path, rows: list[dict], about: dict, replicates: int):
    """Print and write the table of rows, what the codes lose, and metrics.json with `about` in it."""
    values, lost = {**about, "rows": rows}, {}
    if rows:
        text = summary.markdown(rows, FIRST)
        unit = "speakers (trials, where those are unknown)"
        note = f"95 % intervals: {replicates} bootstrap replicates over {unit}\n" if replicates else ""
        note += "Cllr in bits takes scores for natural-log likelihood ratios, which cosines and raw dna, speech are not"
        print(f"\n{text}\n\n{note}")
        summary.write_rows(folder / "results.csv", rows, FIRST)
        write_text(folder / "results.md", f"{text}\n\n{note}\n")
        lost = _binary_loss(rows, "cosine", EMBEDDINGS)
    for name, loss in lost.items():
        share = "the embeddings make no error" if loss is None else f"EER of the codes' cosine {100 * loss:+.1f} %"
        print(f"{name}: cost of going binary: {share}")
    write_text(
        folder / "metrics.json",
        json.dumps({**values, "eer_lost_by_going_binary": lost}, indent=2, allow_nan=False) + "\n",
    )
    told = ", results.csv, results.md, det_*, tippett_*, ece_*, partials_* (.png)" if rows else ""
    print(f"written: {folder}/metrics.json, scores_*{told}")
