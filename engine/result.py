"""What became of a run, in one small file of its folder that tables of many runs are made from: result.json.
Entry points: write, read, set_name.
"""

import json
import math
import os
from pathlib import Path

FILE = "result.json"
# How the published VoxCeleb1 lists are called, cleaned or not.
SETS = {"veri_test": "original", "list_test_all": "extended", "list_test_hard": "hard"}


def set_name(test_list: str | Path) -> str:
    """Return what a test list is called in results: original, extended, hard, or the stem of the file."""
    stem = Path(test_list).stem
    return SETS.get(stem.removesuffix("2"), stem)


def write(folder: str | Path, status: str, metrics: dict[str, float], error: str | None = None, **fields):
    """Write result.json whole or not at all.

    Args:
        status: done, diverged (loss or embeddings not finite) or failed.
        metrics: e.g. val_eer, test_eer_original (fractions).
        fields: seconds, revision, step, best_step, ...
    """
    path = Path(folder) / FILE
    values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # JSON has no NaN
    text = json.dumps({"status": status, **fields, "metrics": values, "error": error}, indent=1)
    temporary = path.with_name(f".{FILE}.part")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read(folder: str | Path) -> dict | None:
    """Return what result.json of a run folder holds, or None where there is none yet.

    Raises:
        ValueError: the file is not what write() makes.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(found["status"], str) and isinstance(found["metrics"], dict)):
            raise KeyError("status")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{path}: not the result of a run; remove it to have the run made again") from None
    return found
