"""The folder of a sweep: its plan, one folder per run with settings, log, lock and result.
Entry points: plan(folder, runs), read_plan(folder), state_of(run folder), take_lock(path).
"""

import fcntl
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from engine import result
from engine.sweeps import Run

PLAN, SETTINGS, LOG, LOCK = "sweep.json", "run.yaml", "log.txt", "lock"


def write_text(path: Path, text: str):
    """Write a text file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_plan(folder: str | Path) -> dict | None:
    """Return {"text", "runs": [{"run", "config", "tag", "values"}]} of a sweep's folder, or None where there is none.

    Raises:
        ValueError: the plan cannot be read.
    """
    path = Path(folder) / PLAN
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if not all({"run", "config", "tag", "values"} <= set(entry) for entry in plan["runs"]):
            raise KeyError("runs")
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the plan of a sweep; choose another --out") from None
    return plan


def plan(folder: str | Path, runs: Sequence[Run], text: str = "") -> list[Run]:
    """Write the plan and a settings file per run; runs that the folder already has keep their names.

    A grid may be extended: new runs are numbered after the old ones. Returns `runs` under the names they have there.

    Raises:
        ValueError: the folder holds runs that are not among these.
    """
    folder = Path(folder)
    known = read_plan(folder)
    entries = known["runs"] if known else []
    names = {_key(_settings(folder, entry["run"])): entry["run"] for entry in entries}
    named, new = [], []
    for run in runs:
        name = names.pop(_key(run.settings), None)
        if name is None:
            name = f"{len(entries) + len(new):03d}_{run.name.partition('_')[2]}"
            new.append(name)
        named.append(run._replace(name=name))
    if names:
        raise ValueError(
            f"--out {folder} holds another sweep: {next(iter(names.values()))} is not among these runs (or its config "
            "has changed since); choose another --out"
        )
    for run in named:
        if run.name in new:
            (folder / run.name).mkdir(parents=True, exist_ok=True)
            notes = f"# {run.config}" + "".join(f", {key}={value}" for key, value in run.values.items()) + "\n"
            write_text(folder / run.name / SETTINGS, notes + yaml.safe_dump(run.settings, sort_keys=False))
    # last: a sweep killed before this line begins anew
    ordered = sorted(named, key=lambda run: int(run.name.partition("_")[0]))
    entries = [{"run": run.name, "config": run.config, "tag": run.tag, "values": run.values} for run in ordered]
    write_text(folder / PLAN, json.dumps({"text": text, "runs": entries}, indent=1) + "\n")
    return named


def _settings(folder, name):
    path = folder / name / SETTINGS
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}); choose another --out") from None


def _key(settings) -> str:
    # as text: a number of a YAML file and the same number of a command line are one setting
    return repr(sorted((key, str(value)) for key, value in settings.items()))


def settings_of(folder: str | Path, name: str) -> dict:
    """Return the settings that a run was given."""
    return _settings(Path(folder), name)


def state_of(folder: str | Path) -> str:
    """Return done, diverged, failed, unfinished (was begun and has no result) or waiting."""
    found = result.read(folder)
    if found is not None:
        return found["status"]
    return "unfinished" if (Path(folder) / LOG).exists() else "waiting"


def set_aside(folder: str | Path):
    """Take a failed run's result out of the way, so that the next one cannot be mistaken for it."""
    path = Path(folder) / result.FILE
    if path.exists():
        os.replace(path, path.with_name(f"result_{time.strftime('%Y%m%d%H%M%S')}.json"))


def take_lock(path: str | Path) -> int | None:
    """Return the descriptor of a locked file, or None where another process holds it.

    The lock is the kernel's: it lasts as long as a process that inherited the descriptor lives, and no longer.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
