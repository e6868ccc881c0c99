"""Results of a sweep as tables: one row per run, sorted, and the spread over seeds.
Entry points: collect(folder, metric), summarise(rows), curves(rows, metric, key), write_csv, markdown.
"""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine import result, sweep_folder

# Metrics come in this order, then by name.
FIRST_METRICS = ("val_eer", "test_eer_original", "test_eer_extended", "test_eer_hard")
SEED = "seed"


class Table(NamedTuple):
    """Rows as dictionaries, the swept keys and the metrics among their columns, and the metric they are sorted by."""

    rows: list[dict]
    keys: list[str]
    metrics: list[str]
    metric: str


def collect(folder: str | Path, metric: str = "") -> Table:
    """Return the runs of a sweep's folder, best first by `metric` (default: val_eer, else the first test EER).

    A run that diverged counts as EER 1; runs without the metric stand last.

    Raises:
        ValueError: the folder holds no sweep, or no run has that metric though one is finished.
    """
    folder = Path(folder)
    plan = sweep_folder.read_plan(folder)
    if plan is None:
        raise ValueError(f"{folder}: no sweep there ({sweep_folder.PLAN} is missing)")
    keys = list(dict.fromkeys(key for entry in plan["runs"] for key in entry["values"]))
    results = {entry["run"]: result.read(folder / entry["run"]) or {} for entry in plan["runs"]}
    measured = {
        name: {k: v for k, v in (r.get("metrics") or {}).items() if _is_number(v)} for name, r in results.items()
    }
    names = sorted({name for values in measured.values() for name in values})
    metrics = [m for m in FIRST_METRICS if m in names] + [m for m in names if m not in FIRST_METRICS]
    if metric and metrics and metric not in metrics:
        raise ValueError(f"--sort_by {metric}: no run has it; they have: {', '.join(metrics)}")
    metric = metric or next((m for m in metrics if "eer" in m), "val_eer")
    metrics = metrics or [metric]
    rows = []
    for entry in plan["runs"]:
        name, found = entry["run"], results[entry["run"]]
        settings = sweep_folder.settings_of(folder, name)
        values = measured[name]
        if found.get("status") == "diverged":
            values = {m: 1.0 for m in metrics if "eer" in m} | values
        row = {"best": "", "run": name, "config": entry["config"], "tag": entry["tag"]}
        row |= {key: entry["values"].get(key, settings.get(key, "")) for key in keys}
        row |= {"status": sweep_folder.state_of(folder / name), "max_steps": settings.get("max_steps", "")}
        row |= {"best_step": found.get("best_step"), **{m: values.get(m) for m in metrics}}
        row |= {k: found.get(k) for k in ("seconds", "revision", "error")}
        rows.append(row)
    rows.sort(key=lambda row: (row.get(metric) is None, row.get(metric) or 0, row["run"]))
    if rows and rows[0]["status"] == "done" and rows[0].get(metric) is not None:
        rows[0]["best"] = "*"
    return Table(rows, keys, metrics, metric)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def summarise(table: Table) -> list[dict]:
    """Return one row per setting apart from the seed: number of runs, and of each metric mean, std, min and max.

    The standard deviation is the unbiased one, empty for a single run. The row with the lowest mean is marked.
    """
    groups = {}
    by = ["config", "tag", *(key for key in table.keys if key != SEED)]
    for row in table.rows:
        groups.setdefault(tuple(str(row[key]) for key in by), []).append(row)
    summary = []
    for members in groups.values():
        line = {"best": "", **{key: members[0][key] for key in by}}
        line["runs"] = sum(row["status"] in ("done", "diverged") for row in members)
        line["missing"] = len(members) - line["runs"]
        for metric in table.metrics:
            values = [row[metric] for row in members if row.get(metric) is not None]
            line[f"{metric}_mean"] = statistics.fmean(values) if values else None
            line[f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 else None
            line[f"{metric}_min"], line[f"{metric}_max"] = (min(values), max(values)) if values else (None, None)
        summary.append(line)
    mean = f"{table.metric}_mean"
    summary.sort(key=lambda line: (line.get(mean) is None, line.get(mean) or 0))
    if summary and summary[0].get(mean) is not None:
        summary[0]["best"] = "*"
    return summary


def curves(table: Table, key: str) -> dict[str, dict[float, list[float]]]:
    """Return {label of the other settings: {value of `key`: metric of each run}}, or nothing where `key` was fixed."""
    if key not in table.keys:
        return {}
    others = [k for k in ("config", "tag", *table.keys) if k not in (key, SEED)]
    others = [k for k in others if len({str(row[k]) for row in table.rows}) > 1]
    lines = {}
    for row in table.rows:
        if row.get(table.metric) is not None and row[key] != "":
            label = ", ".join(Path(row[k]).stem if k == "config" else f"{k} {row[k]}" for k in others)
            lines.setdefault(label, {}).setdefault(float(row[key]), []).append(row[table.metric])
    return lines if len({x for line in lines.values() for x in line}) > 1 else {}


def write_csv(path: str | Path, rows: Sequence[dict]):
    """Write rows as CSV under the columns of all of them; what is absent is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    sweep_folder.write_text(Path(path), text.getvalue())


def markdown(table: Table, title: str = "") -> str:
    """Return the summary as a Markdown table: EERs in percent as mean ± std (least to most)."""
    summary = summarise(table)
    by = [key for key in ("config", "tag", *(k for k in table.keys if k != SEED))]
    by = [key for key in by if key not in ("config", "tag") or len({line[key] for line in summary}) > 1]
    metrics = [m for m in table.metrics if "eer" in m or "dcf" in m]
    head = [*by, "runs", *(f"{m} (%)" if "eer" in m else m for m in metrics)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for line in summary:
        runs = f"{line['runs']}" + (f" ({line['missing']} missing)" if line["missing"] else "")
        cells = [*(str(line[key]) for key in by), runs, *(_spread(line, m) for m in metrics)]
        cells = [f"**{cell}**" for cell in cells] if line["best"] else cells
        lines.append(f"| {' | '.join(cells)} |")
    return (f"{title}\n\n" if title else "") + "\n".join(lines) + "\n"


def _spread(line, metric) -> str:
    mean, deviation, least, most = (line[f"{metric}_{part}"] for part in ("mean", "std", "min", "max"))
    if mean is None:
        return ""
    factor, digits = (100, 2) if "eer" in metric else (1, 3)
    text = f"{factor * mean:.{digits}f}"
    if deviation is None:
        return text
    return f"{text} ± {factor * deviation:.{digits}f} ({factor * least:.{digits}f} to {factor * most:.{digits}f})"
