"""Error rates by groups of speakers, e.g. gender and age: both sides in a group, and across two groups.
Entry points: read_speakers, parse_groups, report_groups.
"""

import csv
from pathlib import Path

import numpy as np

from scoring import metrics
from scoring.summary import figures

# A column of numbers with more values than this is divided at its median where no bounds are given.
MOST_VALUES = 8
# Columns of the table of groups beside those of scoring.summary.
COLUMNS = (("eer", "EER %", 2), ("false_accept", "false accept %", 2), ("miss", "miss %", 2))


def read_speakers(path: str | Path) -> dict[str, dict[str, str]]:
    """Read a CSV with a column `speaker` (or voxceleb_id) and any others: {speaker: {column: value}}.

    Raises:
        FileNotFoundError, ValueError: missing, no such column, a speaker twice.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--speakers {path}: no such file")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            key = next((name for name in ("speaker", "voxceleb_id") if name in columns), None)
            if key is None:
                raise ValueError(f"--speakers {path}: no column `speaker` (columns: {', '.join(columns)[:200]})")
            found = {}
            for number, row in enumerate(reader, 2):
                if row[key] in found:
                    raise ValueError(f"--speakers {path}, line {number}: {row[key]} stands there twice")
                found[row[key]] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--speakers {path}: not a CSV file in UTF-8 ({error})") from None
    return found


def parse_groups(text: str, speakers: dict[str, dict[str, str]]) -> dict[str, list[float]]:
    """Read `--subgroups gender,age:16:30`: {column: bounds of numbers}.

    Raises:
        ValueError: no such column, or bounds that are no rising numbers.
    """
    columns = next(iter(speakers.values())) if speakers else {}
    found = {}
    for part in text.split(","):
        name, *bounds = part.strip().split(":")
        if name not in columns:
            raise ValueError(f"--subgroups {name}: no such column of --speakers (columns: {', '.join(columns)[:200]})")
        try:
            found[name] = [float(bound) for bound in bounds]
        except ValueError:
            raise ValueError(f"--subgroups {part}: bounds are numbers, e.g. age:16:30") from None
        if found[name] != sorted(set(found[name])):
            raise ValueError(f"--subgroups {part}: bounds must rise")
    return found


def groups_of(values: list[str], bounds: list[float]) -> list[str]:
    """Return the group of every value: itself, or with bounds (or many numbers) the interval that it lies in."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        if bounds:
            raise ValueError(f"bounds {bounds} are given for a column that holds other than numbers") from None
        return values
    if not bounds and len(set(values)) > MOST_VALUES:
        bounds = [float(np.median(numbers))]
    if not bounds:
        return values
    names = [f"< {bounds[0]:g}", *(f"{a:g} to {b:g}" for a, b in zip(bounds, bounds[1:])), f">= {bounds[-1]:g}"]
    return [names[i] for i in np.searchsorted(bounds, numbers, side="right")]


def report_groups(
    scores, labels, sides: list[tuple[str, str]], speakers, chosen, eer_method, replicates, seed
) -> list[dict]:
    """Return a row for each group, both sides in it, and for each two groups, one side in each.

    A row holds the EER of its own trials where it has both kinds, and the rates of false acceptance and misses at the
    EER threshold of all trials, where a group that is treated worse shows.

    Args:
        sides: names of the speakers of both sides of every trial.
        chosen: {column: bounds} as parse_groups returns it.

    Raises:
        ValueError: a speaker of the trials is not in the table.
    """
    names = sorted({name for pair in sides for name in pair})
    missing = [name for name in names if name not in speakers]
    if missing:
        raise ValueError(
            f"--speakers: {len(missing)} of {len(names)} speakers of the trials are not in it: {missing[0]}"
        )
    index = {name: i for i, name in enumerate(names)}
    pairs = np.array([[index[a], index[b]] for a, b in sides])
    threshold = metrics.eer(scores, labels, eer_method)[1]
    rows = []
    for column, bounds in chosen.items():
        group = np.array(groups_of([speakers[name][column] or "unknown" for name in names], bounds))[pairs]
        values = sorted(set(group.ravel().tolist()))
        for i, one in enumerate(values):
            for other in values[i:]:
                here = ((group == (one, other)).all(1)) | ((group == (other, one)).all(1))
                if here.any():
                    name = one if one == other else f"{one} with {other}"
                    row = {"column": column, "group": name}
                    rows.append(
                        row | _row(scores[here], labels[here], pairs[here], threshold, eer_method, replicates, seed)
                    )
    return rows


def _row(scores, labels, pairs, threshold, eer_method, replicates, seed) -> dict:
    targets, impostors = int((labels == 1).sum()), int((labels == 0).sum())
    row = {"targets": targets, "impostors": impostors}
    if impostors:
        row["false_accept"] = 100 * float((scores[labels == 0] >= threshold).mean())
    if targets:
        row["miss"] = 100 * float((scores[labels == 1] < threshold).mean())
    if not (targets and impostors):
        return row
    found = figures(scores, labels, pairs, eer_method, replicates, seed)
    return row | {key: value for key, value in found.items() if key in ("eer", "eer_interval")}
