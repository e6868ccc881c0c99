"""Stored cases of all areas: where they lie, their arguments, inputs and weights, what must come out.
Entry points: golden_dir, load_cases, check_arguments, make_inputs, fill_modules, check_contract, compare_case, stored.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA
from golden.fill import fill, noise, values


def golden_dir(area):
    """Return the folder of `area`: below $VOXLAB_GOLDEN, by default tests/golden."""
    return Path(os.environ.get("VOXLAB_GOLDEN", Path(__file__).resolve().parent / "golden")) / area


def load_cases(area):
    """Return [(section, case)] of the index of `area`; a section is a list of cases or has one, the rest are notes."""
    index = json.loads((golden_dir(area) / "index.json").read_text())
    sections = {name: c.get("cases", []) if isinstance(c, dict) else c for name, c in index.items()}
    return [(name, case) for name, cases in sections.items() if isinstance(cases, list) for case in cases]


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


def _uniform(name, shape):
    """Return the standard normal distribution function of noise."""
    return torch.special.ndtr(torch.from_numpy(noise(name, shape, 1.0)).double()).float().numpy()


def _uniform_sequence(name, steps, shape):
    return [_uniform(name.replace("{step}", str(step)), shape) for step in range(steps)]


def _noise_wavs(name, steps, shape, scale, scale_step, write_scale, read_scale, sample_rate):
    """Return the 16-bit samples of files; what they are read back as is the reader's business."""
    assert read_scale == 32768 and sample_rate == 16000, f"files of {sample_rate} Hz divided by {read_scale}"
    waves = [noise(name.replace("{step}", str(i)), shape, scale + i * scale_step) for i in range(steps)]
    return [np.rint(np.clip(wave, -1, 1) * write_scale).astype(np.int16) for wave in waves]


def _tree(tree, unit):
    assert unit == "seconds", f"durations in {unit}"
    return tree


def _decaying_noise(name, shape, scale, decay_samples, set=()):
    wave = (noise(name, shape, scale) * np.exp(-np.arange(shape[-1]) / decay_samples)).astype(np.float32)
    for index, value in set:
        wave[index] = value
    return wave


def _affine_mod(multiplier, offset, modulus, shape, dtype="int64"):
    assert dtype == "int64" and len(shape) == 1, f"affine_mod of type {dtype}, shape {shape}"
    return (multiplier * np.arange(shape[0], dtype=np.int64) + offset) % modulus


def _file(path, below):
    assert below == "data folder", f"a file below {below}"
    if not (DATA / path).is_file():
        pytest.skip(f"{path} is absent below $VOXLAB_DATA")
    return DATA / path


def _permuted_counts(counts, order_name):
    labels = np.repeat(np.arange(len(counts)), counts)
    return labels[np.argsort(noise(order_name, (len(labels),), 1.0), kind="stable")]


RECIPES = {
    "noise": noise,
    "noise_am": _noise_am,
    "noise_int16": _noise_int16,
    "noise_sequence": _noise_sequence,
    "uniform": _uniform,
    "uniform_sequence": _uniform_sequence,
    "noise_wavs": _noise_wavs,
    "tree": _tree,
    "none": lambda: None,
    "noise_sum": lambda terms: functools.reduce(np.add, [noise(**term) for term in terms]),
    "decaying_noise": _decaying_noise,
    "permuted_counts": _permuted_counts,
    "list": lambda values: np.array(values, np.int64 if all(integer(v) for v in np.ravel(values).tolist()) else float),
    "constant": lambda value: value,
    "affine_mod": _affine_mod,
    "values": lambda name, shape: values(name, tuple(shape)).astype(np.float32),
    "file": _file,
}


def _scale(x, by, row=None, axis=0, start=None, stop=None):
    x[_part(x, row, axis, start, stop)] *= by


def _set(x, value, row=None, axis=0, start=None, stop=None):
    x[_part(x, row, axis, start, stop)] = value


def _part(x, row, axis, start, stop):
    return row if row is not None else (slice(None),) * (axis % x.ndim) + (slice(start, stop),)


def _add_sine(x, amplitude, frequency_hz, sample_rate, dtype):
    x += (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(x.shape[-1]) / sample_rate)).astype(dtype)


def _add_constant(x, value):
    x += x.dtype.type(value)


def _set_elements(x, indices, values):
    x.flat[indices] = values


def _clip(x, min, max):
    np.clip(x, min, max, out=x)


def _add_ramp(x, axis, dtype, **ends):
    """Add a line from `from` to `to` along `axis`."""
    assert set(ends) == {"from", "to"}, ends
    ramp = np.linspace(ends["from"], ends["to"], x.shape[axis]).astype(dtype)
    x += ramp.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def _abs_add(x, value):
    x[...] = x.dtype.type(value) + np.abs(x)


def _scale_add(x, by, add):
    x *= x.dtype.type(by)
    x += x.dtype.type(add)


# change an array in place
EDITS = {
    "scale_row": _scale, "scale_range": _scale, "set_row": _set, "set_range": _set, "add_sine": _add_sine,
    "add_constant": _add_constant, "set_elements": _set_elements, "clip": _clip, "scale_add": _scale_add,
    "add_ramp": _add_ramp, "abs_add": _abs_add,
}  # fmt: skip


def _make(area, case, recipe, arguments):
    if recipe == "stored":
        return archive(area, case["file"])[arguments["array"]]
    if recipe == "packed":
        bits = archive(area, arguments.get("file", case["file"]))[arguments["array"]]
        return np.unpackbits(bits, axis=-1)[..., : arguments["columns"]].astype(np.float32)
    return RECIPES[recipe](**arguments)


def make_inputs(area, case, roles, optional=None):
    """Return {role: array} of a case: all of `roles` and what is there of `optional`, {role: names of recipes allowed}.

    An unknown role, recipe, argument of a recipe or edit fails; the edits come last, in their order. A recipe `file`
    gives the path of a recording and skips the test where it is absent.
    """
    given, allowed = set(case["input_map"]), {**roles, **(optional or {})}
    assert set(roles) <= given <= set(allowed), f"inputs {sorted(given)}, expected {sorted(roles)}"
    made = {}
    for role, entry in case["input_map"].items():
        recipe, arguments = entry["recipe"], {k: v for k, v in entry.items() if k != "recipe"}
        assert recipe in allowed[role], f"recipe {recipe} for {role}"
        made[role] = _make(area, case, recipe, arguments)
    for edit in case.get("inputs_edit") or []:
        name, operation = edit["input"], edit["op"]
        arguments = {k: v for k, v in edit.items() if k not in ("input", "op")}
        if operation == "to_float64":
            made[name] = np.asarray(made[name], np.float64)
        elif operation == "matmul_noise":
            made[name] = (made[name] @ noise(**arguments)).astype(np.float32)
        elif operation == "add_input":
            made[name] = made[name] + edit["by"] * made[edit["other"]]
        else:
            assert operation in EDITS, f"unknown edit {operation}"
            made[name] = made[name].copy()
            EDITS[operation](made[name], **arguments)
    return made


# ---------------------------------------------------------------- weights and results


@torch.no_grad()
def fill_modules(case, **modules):
    """Give `modules`, which must be those that the case names, their deterministic weights; none where it has none.

    Where the case says what names begin with, a module is filled as a part of that name of a larger one.
    """
    source = dict(case["weights_from"])
    part = source.pop("names_begin_with", "").removesuffix(".")
    expected = {"mode": "fill", "modules": list(modules)} if modules else {"mode": "none"}
    assert source == expected, f"weights {source}, expected {expected}"
    for module in modules.values():
        fill(torch.nn.ModuleDict({part: module}) if part else module)
        for golden, own in case.get("rename", {}).items():
            for name, parameter in module.named_parameters():
                if name == own:
                    parameter.copy_(torch.from_numpy(values(golden, tuple(parameter.shape))))


def check_contract(area, case, module):
    """Fail unless `module` has the parameters, in their order, and buffers that the case's state-dict file lists.

    A case without such a file passes; the number of parameters is compared where it is given.
    """
    golden = {own: name for name, own in case.get("rename", {}).items()}
    parameters = [[golden.get(name, name), list(p.shape)] for name, p in module.named_parameters()]
    entries = {golden.get(name, name): list(t.shape) for name, t in module.state_dict().items()}
    count = case.get("n_parameters", case.get("parameters"))
    if count is not None:
        assert sum(p.numel() for p in module.parameters()) == count
    file = case.get("state_dict_file", case.get("state_dict"))
    if file is None:
        return
    contract = json.loads((golden_dir(area) / file).read_text()) if isinstance(file, str) else file
    if "parameters" in contract:
        # each a dictionary, or a list of names with shapes (and types)
        expected, buffers = (
            part if isinstance(part, dict) else {name: shape for name, shape, *_ in part}
            for part in (contract["parameters"], contract["buffers"])
        )
        assert parameters == [[name, shape] for name, shape in expected.items()]
        contract = {**expected, **buffers}
    assert entries == contract.get("keys", contract)


def gradient_norms(area, case, module):
    """Return the norms, accumulated in float64, of the gradients of all parameters in the order the case names."""
    order = case["gradient_order"]
    own = case.get("rename", {})
    names = json.loads((golden_dir(area) / order["file"]).read_text())[order["key"]]
    return np.array([module.get_parameter(own.get(name, name)).grad.double().norm().item() for name in names])


def compare_case(area, case, produced):
    """Fail unless every array that the case compares is among `produced` (tensors or arrays) and matches.

    Matching: equal shapes and |got - expected| <= atol * scale + rtol * |expected|, scale 1 or the maximum or standard
    deviation of what is expected; with `only` at those flat indices alone.
    """
    expected = archive(area, case["file"])
    if "id" in case:
        expected = expected | stored(area, case)  # in some areas without the id of the case in front
    missing = set(case["compare"]) - set(produced)
    assert not missing, f"not computed: {sorted(missing)}"
    for name, tolerance in case["compare"].items():
        check_arguments(
            tolerance, {"rtol": number, "atol": number}, {"scale": one_of("max", "std", 1), "only": list_of(integer)}
        )
        wanted, got = expected[name], produced[name]
        got = got.detach().cpu().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
        assert got.shape == wanted.shape, f"{name}: shape {got.shape}, expected {wanted.shape}"
        kind = tolerance.get("scale", 1)
        scale = 1.0 if kind == 1 else np.abs(wanted).max() if kind == "max" else wanted.std()
        chosen = tolerance.get("only", slice(None))
        got, wanted = got.ravel()[chosen], wanted.ravel()[chosen]
        if wanted.dtype.kind in "iubUS" and not tolerance["atol"] and not tolerance["rtol"]:
            np.testing.assert_array_equal(got, wanted, err_msg=name)
            continue
        np.testing.assert_allclose(
            got.astype(np.float64),
            wanted.astype(np.float64),
            tolerance["rtol"],
            tolerance["atol"] * scale,
            err_msg=name,
        )
