"""Grids of runs: configs x rows x the product of lists of values, from the command line or a YAML file.
Entry points: read_sweep(path), split_set(text), expand(configs, sets, rows, common, tag).
"""

import csv
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from engine.args import MOST_CONFIG_BYTES, nearest, read_config, short

# What a sweep file may hold; `options` are flags of sweep.py, the rest describes the runs.
PARTS = ("text", "tag", "configs", "with", "set", "rows", "options")
# Keys that the sweep itself gives to each run.
RESERVED = ("save_path", "config", "set")
MOST_RUNS = 1000  # a slip of the product; Slurm's default limit of an array too
MOST_NAME_CHARACTERS = 80


class Run(NamedTuple):
    """One run: the name of its folder, the config it began from, its label, what the sweep varies, all its settings."""

    name: str
    config: str
    tag: str
    values: dict
    settings: dict


def split_set(text: str) -> tuple[str, list[str]]:
    """Split `key=v1,v2` into the key and its values; a value that holds a comma stands in double quotes.

    Raises:
        ValueError: there is no `=`, or a value is empty.
    """
    key, equals, values = text.partition("=")
    key = key.strip().lstrip("-")
    items = next(csv.reader([values], skipinitialspace=True), [])
    items = [item.strip() for item in items]
    if not (equals and key and items and all(items)):
        raise ValueError(f"--set {short(text)}: write it as key=value1,value2")
    return key, items


def read_sweep(path: str | Path) -> dict:
    """Read a sweep file; return its parts with `configs` as paths from here, and nothing left out.

    Raises:
        ValueError: it is no YAML, or a part is not of its form; the message names the file and the part.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--sweep {path}: no such file")
    if path.stat().st_size > MOST_CONFIG_BYTES:
        raise ValueError(f"--sweep {path}: {path.stat().st_size} bytes are too many for a sweep file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        twice = _given_twice(yaml.compose(text, yaml.SafeLoader))
        content = {} if twice else yaml.safe_load(text) or {}
    except Exception as error:  # constructors of dates, numbers, ... raise whatever Python raises on a wrong text
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    if twice:
        raise ValueError(f"{path}: {twice}")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a sweep file is a mapping of {', '.join(PARTS)}")
    for key in content:
        if key not in PARTS:
            raise ValueError(f"{path}: unknown part {short(key)}{nearest(str(key), PARTS)}; it has: {', '.join(PARTS)}")
    read = {part: _part(path, part, content.get(part)) for part in PARTS}
    read["configs"] = [os.path.normpath(path.parent / config) for config in read["configs"]]
    return read


def _part(path, part, content):
    """Return a part of a sweep file after a check of its form; what is absent is empty."""
    if part in ("text", "tag"):
        if content is not None and not _is_single(content):
            raise ValueError(f"{path}: {part}: one line of text is needed")
        return "" if content is None else str(content)
    if part == "configs":
        configs = [content] if isinstance(content, str) else content or []
        if not isinstance(configs, list) or not all(isinstance(config, str) for config in configs):
            raise ValueError(f"{path}: configs: a list of files is needed, named from the folder of the sweep file")
        return configs
    if part == "rows":
        if content is not None and not (isinstance(content, list) and all(isinstance(row, dict) for row in content)):
            raise ValueError(f"{path}: rows: a list of mappings of keys to values is needed")
        for row in content or []:
            _check_values(path, part, row)
        return content or []
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path}: {part}: a mapping of keys to values is needed")
    if part != "set":
        _check_values(path, part, content or {})
        return content or {}
    lists = {str(key): value if isinstance(value, list) else [value] for key, value in (content or {}).items()}
    for key, values in lists.items():
        if not values:
            raise ValueError(f"{path}: set: {key}: no value")
        for value in values:
            _check_values(path, part, {key: value})
    return lists


def _check_values(path, part, values):
    for key, value in values.items():
        items = value if isinstance(value, list) else [value]
        if not isinstance(key, str) or not all(_is_single(item) for item in items):
            raise ValueError(f"{path}: {part}: {short(key)}: a text, a number, true or false is needed")


def _is_single(value) -> bool:
    return isinstance(value, str | int | float | bool)


def _given_twice(node) -> str:
    """Return what to say of a key that a YAML mapping has twice, of which YAML would drop one, or nothing."""
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_given_twice, node.value)), "")
    if not isinstance(node, yaml.MappingNode):
        return ""
    seen = set()
    for key, value in node.value:
        if key.value in seen:
            return f"{short(key.value)}: given twice, line {key.start_mark.line + 1}"
        seen.add(key.value if isinstance(key.value, str) else id(key))
        inner = _given_twice(value)
        if inner:
            return inner
    return ""


def expand(
    configs: Sequence[str],
    sets: Mapping[str, Sequence],
    rows: Sequence[Mapping] = (),
    common: Mapping | None = None,
    tag: str = "",
) -> list[Run]:
    """Return the runs: for each config, each row, each point of the product of `sets`, whose last key varies fastest.

    Args:
        sets: {key: values}.
        rows: settings that belong together; a row's `tag` names it.
        common: settings of all runs.

    Raises:
        ValueError: a key is given in two places, is the sweep's own, two runs are the same, or there are too many.
    """
    rows = rows or [{}]
    in_rows = list(dict.fromkeys(key for row in rows for key in row if key != "tag"))
    for key in [*sets, *in_rows, *(common or {})]:
        if key in RESERVED:
            raise ValueError(f"{key} cannot be swept: the sweep gives each run its own")
        if sum(key in part for part in (sets, in_rows, common or {})) > 1:
            raise ValueError(f"{key} is given in two of set, rows and with: leave it in one")
    points = list(itertools.islice(itertools.product(*sets.values()), MOST_RUNS + 1))
    if len(configs) * len(rows) * len(points) > MOST_RUNS:
        raise ValueError(f"more than {MOST_RUNS} runs; make it several sweeps")
    runs, seen = [], {}
    for config in configs:
        base = read_config(config)
        for row in rows:
            label = str(row.get("tag", tag))
            for point in points:
                varied = {**{key: row[key] for key in row if key != "tag"}, **dict(zip(sets, point))}
                settings = merge(base, common or {}, varied, {"tag": label} if label else {})
                shown = {key: settings.get(key, "") for key in [*in_rows, *sets]}
                parts = [Path(config).stem] if len(configs) > 1 else []
                parts += [label] if "tag" in row else [f"{key}{row[key]}" for key in row]
                parts += [f"{key}{value}" for (key, values), value in zip(sets.items(), point) if len(values) > 1]
                name = f"{len(runs):03d}_{plain_name('-'.join(parts) or label or Path(config).stem)}"
                same = seen.setdefault(repr(sorted(settings.items())), name)
                if same != name:
                    raise ValueError(f"{same} and {name} are the same run: a value or a config is given twice")
                runs.append(Run(name, config, label, shown, settings))
    return runs


def merge(*layers: Mapping) -> dict:
    """Lay settings over each other; later ones win and stand later, so that aliases of a flag behave alike."""
    merged = {}
    for layer in layers:
        for key, value in layer.items():
            merged.pop(key, None)
            merged[key] = value
    return {key: value for key, value in merged.items() if key not in RESERVED}


def plain_name(text: str) -> str:
    """Return `text` as a name that needs no quotes in a shell, cut to 80 characters."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text)[:MOST_NAME_CHARACTERS]
