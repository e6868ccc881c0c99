"""How long recordings are, from their headers, remembered from run to run for files of the same size and time.
Entry points: durations(root, names, ...), stamps_of, cache_places; read_index, write_index (the reference's file).
"""

import hashlib
import io
import json
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from audio.io import AudioFile
from audio.lists import join

CACHE = ".voxlab_durations.npz"  # in the folder itself, hidden from everything that looks for recordings
FORMAT = 1
INDEX = "index.json"
# So many headers are read first; if one took longer than this, the storage is slow and many are asked for at once.
FIRST, SLOW_SECONDS, THREADS = 200, 0.001, 16


def stamps_of(paths: list[str]) -> np.ndarray:
    """Return size in bytes and time of change in ns of files, (files, 2) int64, -1 where there is no such file."""
    stamps = np.full((len(paths), 2), -1, np.int64)
    for row, path in enumerate(paths):
        try:
            state = os.stat(path)
            stamps[row] = state.st_size, state.st_mtime_ns
        except OSError:
            pass  # absent, or within packed audio or shards
    return stamps


def measure(path: str) -> float | str:
    """Return the seconds of a recording to a hundredth, as in the reference's index, or why it cannot be read."""
    try:
        with AudioFile(path) as audio:
            return round(audio.file.frames / audio.rate, 2)
    except ValueError as error:
        return str(error)


def measure_all(paths: list[str]) -> list[float | str]:
    """Return what measure() gives for every path; slow storage is asked for many headers at once."""
    began = time.perf_counter()
    found = [measure(path) for path in paths[:FIRST]]
    rest = paths[FIRST:]
    if not rest or time.perf_counter() - began < FIRST * SLOW_SECONDS:
        return found + [measure(path) for path in rest]
    with ThreadPoolExecutor(THREADS) as pool:
        return found + list(pool.map(measure, rest))


def durations(
    root: str, names: list[str], stamps: np.ndarray, places: list[Path], known: dict[str, float] | None = None
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Return the seconds of recordings, (files,) float64, NaN where one cannot be read, and (path, reason) of these.

    Headers are read only of files that no cache knows with their present size and time.

    Args:
        root: prefix of `names`.
        stamps: as stamps_of gives them; files without a stamp (-1) are read each time.
        places: files of the cache, all read; the first that can be written takes what is new.
        known: {name: seconds} to be believed in place of a header.
    """
    stored, known = {}, known or {}
    for place in reversed(places):
        stored |= _read_cache(place)
    seconds, unread = np.full(len(names), np.nan), []
    for row, (name, (size, changed)) in enumerate(zip(names, stamps.tolist())):
        entry = stored.get(name)
        if entry is not None and entry[:2] == (size, changed) and 0 <= entry[2] < np.inf:
            seconds[row] = entry[2]
        elif name in known:
            seconds[row] = known[name]
        else:
            unread.append(row)
    bad = []
    paths = [join(root, names[row]) for row in unread]
    for row, path, found in zip(unread, paths, measure_all(paths)):
        if isinstance(found, str):
            bad.append((path, found))
        else:
            seconds[row] = found
    kept = np.flatnonzero(~np.isnan(seconds) & (stamps[:, 0] >= 0))
    if len(unread) > len(bad) or {names[row] for row in kept} != stored.keys():
        _write_cache(places, [names[row] for row in kept], stamps[kept], seconds[kept])
    return seconds, bad


# ---------------------------------------------------------------- the cache


def cache_places(root: str | Path, inside: bool = True) -> list[Path]:
    """Return where the durations of a folder (`inside`) or list are kept, the first choice first.

    In the folder, unless it is read-only, and else below $XDG_CACHE_HOME, by default ~/.cache.
    """
    root = os.path.abspath(root)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    elsewhere = base / "voxlab" / f"durations-{hashlib.sha256(root.encode()).hexdigest()[:16]}.npz"
    return [Path(root) / CACHE, elsewhere] if inside else [elsewhere]


def _read_cache(path):
    """Return {path: (size, time, seconds)} of a cache; an absent, damaged or foreign file is an empty one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["format"]) != FORMAT:
                return {}
            names = arrays["names"].tobytes().decode().split("\0")
            rows = zip(*(arrays[name].tolist() for name in ("sizes", "times", "seconds")), strict=True)
            return dict(zip(names, rows, strict=True)) if names != [""] else {}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return {}


def _write_cache(places, names, stamps, seconds):
    """Write a cache to the first place that takes it, whole or not at all; none taking it is no matter."""
    arrays = {"names": np.frombuffer("\0".join(names).encode(), np.uint8), "sizes": stamps[:, 0],
              "times": stamps[:, 1], "seconds": seconds, "format": np.array(FORMAT)}  # fmt: skip
    content = io.BytesIO()
    np.savez(content, **arrays)
    for place in places:
        try:
            if place.name == CACHE:
                if not os.stat(place.parent).st_mode & 0o222:
                    continue  # meant to be read only, though the superuser could write
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(place, content.getvalue())
            return
        except OSError:
            continue


def _write_whole(path, data):
    """Write bytes whole or not at all."""
    part = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------- the reference's index.json


def flatten(tree: dict, above: str = "") -> dict[str, float]:
    """Return {path: seconds} of nested objects of names with the seconds at each leaf, in their order.

    Raises:
        ValueError: something else at a leaf.
    """
    found = {}
    for name, value in tree.items():
        path = f"{above}/{name}" if above else name
        if isinstance(value, dict):
            found |= flatten(value, path)
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"{path}: {str(value)[:40]!r} is no duration in seconds")
        else:
            found[path] = float(value)
    return found


def read_index(path: str | Path) -> dict[str, float]:
    """Return {path below the folder: seconds} of an index.json.

    Raises:
        FileNotFoundError, ValueError: missing, or no index.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("it holds no object")
        return flatten(tree)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no index of durations ({str(error)[:100] or type(error).__name__})") from None


def write_index(path: str | Path, names: list[str], seconds):
    """Write an index.json of `names` (paths below the folder) and their seconds, whole or not at all."""
    tree = {}
    for name, value in zip(names, np.asarray(seconds, float).tolist(), strict=True):
        *folders, leaf = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    _write_whole(Path(path), json.dumps(tree).encode())
