"""The table of acoustic measures of recordings, a CSV that is made once and read again.
Entry points: read_acoustics, write_acoustics.
"""

import csv
import os
from pathlib import Path

import numpy as np

from audio.acoustics import MEASURES

COLUMNS = ("id", *MEASURES)


def write_acoustics(path: str | Path, ids: list[str], values: np.ndarray):
    """Write the measures (recordings, MEASURES) of recordings, whole or not at all; NaN is an empty cell."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, row in zip(ids, values):
            writer.writerow([name, *("" if np.isnan(value) else repr(float(value)) for value in row)])
    os.replace(part, path)


def read_acoustics(path: str | Path, ids: list[str]) -> np.ndarray | None:
    """Return the measures (recordings, MEASURES) of `ids` from a table; None where there is no table of all of them.

    Raises:
        ValueError: the file is there, and no such table.
    """
    if not Path(path).is_file():
        return None
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        found = {row[0]: [float(cell) if cell else np.nan for cell in row[1:]] for row in rows}
        fits = all(len(row) == len(header) for row in rows)
    except (UnicodeDecodeError, csv.Error, ValueError, IndexError):
        header, fits = None, False
    if not fits:
        raise ValueError(f"{path}: not a table of acoustic measures; remove it, and it is made anew")
    if tuple(header) != COLUMNS or not set(ids) <= set(found):
        return None
    return np.array([found[name] for name in ids], dtype=np.float64)
