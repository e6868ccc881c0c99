"""Stored cases of all areas: where they lie, which arguments they may have, how their inputs are made.
Entry points: golden_dir, load_cases, check_arguments, make_inputs, stored.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
from golden.fill import noise


def golden_dir(area):
    """Return the folder of `area`: below $VOXLAB_GOLDEN, by default tests/golden."""
    return Path(os.environ.get("VOXLAB_GOLDEN", Path(__file__).resolve().parent / "golden")) / area


def load_cases(area):
    """Return [(section, case)] of the index of `area`; a section is a list of cases or has one; texts are notes."""
    index = json.loads((golden_dir(area) / "index.json").read_text())
    sections = {name: content for name, content in index.items() if not isinstance(content, str)}
    return [(name, case) for name, c in sections.items() for case in (c["cases"] if isinstance(c, dict) else c)]


@functools.cache
def archive(area, file):
    """Return {name: array} of one .npz file."""
    with np.load(golden_dir(area) / file) as arrays:
        return dict(arrays)


def stored(area, case):
    """Return {quantity: array} of a case."""
    start = f"{case['id']}."
    return {name.removeprefix(start): a for name, a in archive(area, case["file"]).items() if name.startswith(start)}


# ---------------------------------------------------------------- arguments


def boolean(value):
    return isinstance(value, bool)


def integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def one_of(*values):
    return lambda value: value in values


def list_of(kind):
    return lambda value: isinstance(value, list) and all(kind(v) for v in value)


def check_arguments(given, required, optional=None):
    """Fail unless `given` has all of `required` and nothing beyond `optional`, each value as its check says."""
    allowed = {**required, **(optional or {})}
    assert set(given) <= set(allowed), f"unknown arguments {sorted(set(given) - set(allowed))}"
    assert set(required) <= set(given), f"missing arguments {sorted(set(required) - set(given))}"
    for name, value in given.items():
        assert allowed[name](value), f"{name} = {value!r} is not allowed"


# ---------------------------------------------------------------- inputs


def _noise_am(name, shape, scale):
    wave = noise(name, shape, scale)
    row, time = np.arange(shape[0])[:, None], np.arange(shape[1]) / 16000
    return (wave * (0.2 + np.abs(np.sin(2 * np.pi * (3 + row) * time)))).astype(np.float32)


def _noise_int16(name, shape, scale):
    return np.clip(np.round(noise(name, shape, scale) * 32768), -32768, 32767).astype(np.int16)


def _noise_sequence(name, steps, shape, scale):
    return [noise(name.replace("{step}", str(step)), shape, scale) for step in range(steps)]


def _decaying_noise(name, shape, scale, decay_samples, set=()):
    wave = (noise(name, shape, scale) * np.exp(-np.arange(shape[-1]) / decay_samples)).astype(np.float32)
    for index, value in set:
        wave[index] = value
    return wave


def _permuted_counts(counts, order_name):
    labels = np.repeat(np.arange(len(counts)), counts)
    return labels[np.argsort(noise(order_name, (len(labels),), 1.0), kind="stable")]


RECIPES = {
    "noise": noise,
    "noise_am": _noise_am,
    "noise_int16": _noise_int16,
    "noise_sequence": _noise_sequence,
    "noise_sum": lambda terms: functools.reduce(np.add, [noise(**term) for term in terms]),
    "decaying_noise": _decaying_noise,
    "permuted_counts": _permuted_counts,
    "list": lambda values: np.array(values, np.int64 if all(integer(v) for v in np.ravel(values).tolist()) else float),
    "constant": lambda value: value,
}


def make_inputs(area, case, roles):
    """Return {role: array} of a case, whose roles must be those of `roles`, {role: names of the recipes allowed}.

    An unknown role, recipe, argument of a recipe or edit fails; the edits come last, in their order.
    """
    assert set(case["input_map"]) == set(roles), f"inputs {sorted(case['input_map'])}, expected {sorted(roles)}"
    made = {}
    for role, entry in case["input_map"].items():
        recipe, values = entry["recipe"], {k: v for k, v in entry.items() if k != "recipe"}
        assert recipe in roles[role], f"recipe {recipe} for {role}"
        made[role] = archive(area, case["file"])[values["array"]] if recipe == "stored" else RECIPES[recipe](**values)
    for edit in case.get("inputs_edit") or []:
        name, operation = edit["input"], edit["op"]
        if operation == "to_float64":
            made[name] = np.asarray(made[name], np.float64)
        else:
            assert operation == "add_input", f"unknown edit {operation}"
            made[name] = made[name] + edit["by"] * made[edit["other"]]
    return made
