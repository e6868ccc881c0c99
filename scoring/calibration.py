"""Calibration and fusion: scores of one or several systems to natural-log likelihood ratios by logistic regression.
Entry points: fit, Calibration.apply, probability; quality_terms; write_calibration, read_calibration.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from scoring.metrics import check_costs, check_trials, cllr, min_cllr

MOST_STEPS = 100  # of Newton; a fit that has an end finds it in about ten
GRADIENT = 1e-9  # norm of the gradient at which the fit counts as done
ROUNDING = 1e-14  # by which share the loss may rise: near its end a good step changes it by less than a digit
# Weight of half the squared scales (of standardised inputs) where the classes are separated and no fit would end.
RIDGE = 1e-3
MEASURES = ("seconds", "magnitude", "cohort")


@dataclass
class Calibration:
    """llr = sum of scales * inputs + offset.

    inputs: names of the columns, systems first. fitted_on: list, hash, trials and what else describes the fit.
    """

    inputs: list[str]
    scales: list[float]
    offset: float
    prior: float
    fitted_on: dict

    def apply(self, columns: np.ndarray) -> np.ndarray:
        """Return the natural-log likelihood ratios (trials,) of `columns` (trials, inputs)."""
        columns = as_columns(columns)
        if columns.shape[1] != len(self.scales):
            raise ValueError(f"{columns.shape[1]} inputs, the calibration has {len(self.scales)}: {self.inputs}")
        return columns @ np.array(self.scales) + self.offset

    def describe(self) -> str:
        """Return one line: formula, prior, what it was fitted on."""
        terms = " ".join(f"{scale:+.4g} {name}" for name, scale in zip(self.inputs, self.scales))
        separable = ", the classes are separated: scales held by a ridge" if self.fitted_on.get("ridge") else ""
        return (
            f"llr = {terms} {self.offset:+.4g}, fitted at prior {self.prior:g} on {self.fitted_on.get('list')} "
            f"({self.fitted_on.get('trials')} trials, sha256 {self.fitted_on.get('hash')}){separable}"
        )


def as_columns(values) -> np.ndarray:
    """Return scores (trials,) or columns (trials, inputs) as columns in float64."""
    values = np.asarray(values, dtype=np.float64)
    return values[:, None] if values.ndim == 1 else values


def fit(
    columns, labels, inputs: list[str], prior: float = 0.5, about: dict | None = None, strength: float | None = None
) -> Calibration:
    """Fit scales and offset by logistic regression, both classes weighted to `prior` of a target.

    Minimises prior * mean ln(1 + exp(-(llr + logit prior))) over targets and its counterpart over impostors, by
    Newton's method. Separated classes have no such minimum; then a small ridge holds the scales, and `fitted_on` and
    describe() say so.

    Args:
        columns: (trials,) or (trials, inputs) scores and quality terms.
        about: what to store of the list: list, hash.
        strength: inverse strength C of a regularisation, as in scikit-learn: the scales, of inputs as they are, are
            held by sum of their squares / (2 C trials). None for none.

    Raises:
        ValueError: one class is missing, a column is constant or repeats others, or the fit does not end.

    Bruemmer and du Preez, Application-independent evaluation of speaker detection, 2006 (objective).
    """
    columns = as_columns(columns)
    check_costs(prior, 1, 1)
    for column in columns.T:
        check_trials(column, labels)
    labels = np.asarray(labels) == 1
    centre, spread = columns.mean(0), columns.std(0)
    if (spread < 1e-12 * np.maximum(1, np.abs(centre))).any():
        name = inputs[int(np.argmin(spread))]
        raise ValueError(f"calibration: {name} has one value on all {len(labels)} trials; leave it out")
    standard = np.column_stack([(columns - centre) / spread, np.ones(len(columns))])
    if np.linalg.cond(standard.T @ standard) > 1e12:
        raise ValueError(f"calibration: {', '.join(inputs)} hold the same twice; leave one out")
    ridge = 0.0 if strength is None else 1 / (strength * len(labels) * spread**2)
    weights, steps = _newton(standard, labels, prior, ridge)
    if strength is not None:
        ridge = 0.0  # of the kind that is told
    elif weights is None or (standard @ weights)[labels].min() >= (standard @ weights)[~labels].max():
        ridge = RIDGE
        weights, steps = _newton(standard, labels, prior, ridge)
    if weights is None:
        raise ValueError(f"calibration: no end after {MOST_STEPS} steps; are the scores on a sensible scale?")
    scales = weights[:-1] / spread
    offset = float(weights[-1] - scales @ centre)
    llrs = columns @ scales + offset
    fitted = {
        **(about or {}), "trials": len(labels), "targets": int(labels.sum()), "steps": steps, "ridge": ridge,
        "cllr": cllr(llrs, labels), "min_cllr": min_cllr(llrs, labels),
        **({} if strength is None else {"strength": strength}),
    }  # fmt: skip
    return Calibration(list(inputs), scales.tolist(), offset, prior, fitted)


def _newton(standard, labels, prior, ridge):
    """Return (weights, steps) of the least weighted logistic loss; weights are None where it has no end."""
    share = np.where(labels, prior / labels.sum(), (1 - prior) / (~labels).sum())
    shift, sign = np.log(prior / (1 - prior)), np.where(labels, 1.0, -1.0)
    penalty = np.zeros(standard.shape[1])
    penalty[:-1] = ridge  # the offset is free

    def loss(weights):
        return share @ np.logaddexp(0, -sign * (standard @ weights + shift)) + penalty @ weights**2 / 2

    weights = np.zeros(standard.shape[1])
    value = loss(weights)
    for step in range(1, MOST_STEPS + 1):
        posterior = expit(standard @ weights + shift)
        gradient = standard.T @ (share * (posterior - labels)) + penalty * weights
        if np.linalg.norm(gradient) < GRADIENT and np.abs(weights).max() < 1e3:
            return weights, step
        curve = standard.T * (share * posterior * (1 - posterior)) @ standard + np.diag(penalty)
        if not np.linalg.cond(curve) < 1e14:
            return None, step
        move = np.linalg.solve(curve, gradient)
        for _ in range(40):  # halved until the loss falls
            changed = loss(weights - move)
            if changed <= value + ROUNDING * abs(value):
                break
            move = move / 2
        else:  # at the limit of double precision
            return (weights, step) if np.linalg.norm(gradient) < 1e-6 else (None, step)
        weights, value = weights - move, changed
    return None, MOST_STEPS


def probability(llrs, prior: float) -> np.ndarray:
    """Return the probability of "same speaker" where it was `prior` before the recordings were compared."""
    check_costs(prior, 1, 1)
    return expit(np.asarray(llrs) + np.log(prior / (1 - prior)))


def quality_terms(measures: dict[str, np.ndarray], pairs: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return names and columns (trials, 2 per measure) of quality measures of files: the mean of both sides and their
    absolute difference, so that the order of the sides does not matter.

    Args:
        measures: {name: (files,)}, e.g. log seconds, magnitude of the embedding, mean cohort score.
    """
    names, columns = [], []
    for name, values in measures.items():
        sides = np.asarray(values, dtype=np.float64)[pairs]
        names += [f"{name} mean", f"{name} difference"]
        columns += [sides.mean(1), np.abs(sides[:, 0] - sides[:, 1])]
    return names, np.column_stack(columns) if columns else np.empty((len(pairs), 0))


def check_other_list(fitted_hash: str, test_hash: str, name: str, allowed: bool):
    """Refuse a calibration fitted on the list it is to be applied to.

    Raises:
        ValueError: the hashes are the same and this is not allowed.
    """
    if fitted_hash == test_hash and not allowed:
        raise ValueError(
            f"{name} is the list that the calibration was fitted on: its Cllr would flatter; calibrate on another one, "
            "or give --allow_same_list"
        )


def write_calibration(path: str | Path, calibration: Calibration):
    """Write a calibration as JSON, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(asdict(calibration), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration.

    Raises:
        FileNotFoundError, ValueError: missing, no JSON, or not a calibration (the message names what is wrong).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"calibration {path}: no such file")
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path}: not JSON, so no calibration") from None
    kinds = {"inputs": list, "scales": list, "offset": (int, float), "prior": (int, float), "fitted_on": dict}
    for name, kind in kinds.items():
        if not isinstance(values, dict) or not isinstance(values.get(name), kind):
            raise ValueError(f"{path}: not a calibration, its {name!r} is missing or of another kind")
    numbers = [*values["scales"], values["offset"], values["prior"]]
    if not all(isinstance(n, (int, float)) and np.isfinite(n) for n in numbers):
        raise ValueError(f"{path}: scales, offset and prior must be finite numbers")
    if len(values["scales"]) != len(values["inputs"]) or not values["scales"]:
        raise ValueError(f"{path}: {len(values['scales'])} scales for {len(values['inputs'])} inputs")
    return Calibration(**{name: values[name] for name in kinds})
