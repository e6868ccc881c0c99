"""Likelihood ratios of comparisons of binary voice attributes: a sum of one term per attribute, natural logarithms.
Entry points: fit_model, score_pairs, score_all, partials, case_terms; Side, single, pooled; read_model, write_model.

All in float64. The LLR models are sums over attributes of joint[a_e + a_t] - own[a_e] - own[a_t], where a counts the
activations of a side: all against all is one matrix product for single recordings, a few for several.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from scoring.attribute_terms import SINGLE_ONLY, tables
from scoring.embeddings import read_meta, read_npz, write_npz
from scoring.population import Population, constant, drop_out, fit_beta, fit_maxllr, typicality
from scoring.trials import product_scores

KINDS = ("dna", "speech", "maxllr", "beta", "cosine")
PARAMETERS = {
    "dna": {"typicality": 1, "drop_out": 1}, "speech": {"typicality": 1, "drop_out": 1},
    "maxllr": {"f": 1, "p": 1, "q": 1}, "beta": {"alpha": 2}, "cosine": {},
}  # fmt: skip
VERSION = 1
# What is gathered at a time: trials of tables with more rows than this (270 MB at 512 attributes), and look-ups (1 MB,
# the cache of a core).
MOST_TRIALS, LOOKUPS = 2**15, 2**17
# All against all takes a fiftieth of the time per comparison (less for several recordings), CELLS of it at a time.
DENSE, CELLS = 50, 2**22


@dataclass
class AttributeModel:
    """`kind` of KINDS; `parameters` {name: (n, ...) float64} as in PARAMETERS; `used` (n,) bool, others contribute 0;
    `meta` of plain data: attributes, drop_in, population, encoder."""

    kind: str
    parameters: dict[str, np.ndarray]
    used: np.ndarray
    meta: dict = field(default_factory=dict)

    def describe(self) -> str:
        """Return one line: kind, attributes used, population."""
        at = f", drop-in {self.meta['drop_in']:g}" if self.kind in SINGLE_ONLY else ""
        return (
            f"{self.kind}: {int(self.used.sum())} of {len(self.used)} attributes used{at}, population of "
            f"{self.meta.get('speakers', 'unknown')} speakers, {self.meta.get('recordings', 'unknown')} recordings"
        )


@dataclass
class Side:
    """One side of comparisons: `active` (rows, n) integers, activations summed over the recordings of a row;
    `recordings` (rows,) how many those are."""

    active: np.ndarray
    recordings: np.ndarray

    def take(self, rows) -> "Side":
        """Return some of the rows."""
        return Side(self.active[rows], self.recordings[rows])


def single(bits: np.ndarray) -> Side:
    """Return a side of one recording a row from bits (rows, n)."""
    return Side(np.asarray(bits), np.ones(len(bits), dtype=np.int64))


def pooled(bits: np.ndarray, members: list) -> Side:
    """Return a side whose rows pool the recordings `members` (lists of rows of bits, none empty)."""
    recordings = np.array([len(rows) for rows in members], dtype=np.int64)
    if not len(recordings) or not recordings.all():
        raise ValueError("a side of a comparison needs a recording")
    if (recordings == 1).all():
        return single(bits[np.concatenate(members)])
    starts = np.cumsum(recordings) - recordings
    return Side(np.add.reduceat(bits[np.concatenate(members)], starts, axis=0, dtype=np.int64), recordings)


# ---------------------------------------------------------------- fit


def fit_model(
    kind: str,
    pop: Population,
    drop_in: float = 0.12,
    iterations: int = 100,
    least_typicality: float = 1e-4,
    start: tuple[float, float, float] = (0.5, 0.9, 0.1),
    eps: float = 1e-8,
) -> AttributeModel:
    """Fit a model of KINDS to a population.

    Args:
        drop_in: of dna and speech; their attributes below `least_typicality` contribute nothing.
        iterations: of the EM of maxllr, which starts from f, p, q = `start`, and of the fixed point of beta.
        eps: added to counts and variances where beta starts.

    maxllr and beta leave out constant attributes, of which the population says nothing.
    """
    meta = {"speakers": len(pop.speakers), "recordings": int(pop.recordings.sum())}
    if kind in SINGLE_ONLY:
        return published_model(kind, typicality(pop), drop_out(pop), drop_in, least_typicality, meta)
    if kind == "maxllr":
        parameters, used = fit_maxllr(pop, *start, iterations), ~constant(pop)
    elif kind == "beta":
        parameters, used = {"alpha": fit_beta(pop, iterations, eps)}, ~constant(pop)
    elif kind == "cosine":
        parameters, used = {}, np.ones(pop.active.shape[1], dtype=bool)
    else:
        raise ValueError(f"model {kind!r} is none of {', '.join(KINDS)}")
    return AttributeModel(kind, parameters, used, {**_about(kind, used), **meta})


def published_model(
    kind: str, typical: np.ndarray, dropped: np.ndarray, drop_in: float, least_typicality: float = 1e-4, meta=None
) -> AttributeModel:
    """Return a dna or speech model of given typicality and drop-out (n,).

    Raises:
        ValueError: lengths differ, or drop_in is no probability.
    """
    typical, dropped = np.asarray(typical, dtype=np.float64), np.asarray(dropped, dtype=np.float64)
    if typical.shape != dropped.shape or typical.ndim != 1:
        raise ValueError(f"typicality {typical.shape} and drop-out {dropped.shape} are of different attributes")
    if not 0 <= drop_in <= 1:
        raise ValueError(f"drop-in {drop_in:g} is no probability")
    used = typical >= max(least_typicality, 1e-12)
    about = {**_about(kind, used), "drop_in": drop_in, **(meta or {})}
    return AttributeModel(kind, {"typicality": typical, "drop_out": dropped}, used, about)


def _about(kind: str, used: np.ndarray) -> dict:
    return {"kind": kind, "attributes": len(used), "version": VERSION}


def fingerprint(model: AttributeModel) -> str:
    """Return 12 hexadecimal digits that tell apart models that score differently."""
    about = {name: model.meta.get(name) for name in ("kind", "drop_in", "encoder_sha256")}
    digest = hashlib.sha256(json.dumps(about).encode() + model.used.tobytes())
    for name in sorted(model.parameters):
        digest.update(np.ascontiguousarray(model.parameters[name]).tobytes())
    return digest.hexdigest()[:12]


# ---------------------------------------------------------------- terms


def case_terms(model: AttributeModel) -> np.ndarray:
    """Return the terms (n, 2, 2) of one recording a side: [attribute, enrolment, test], index 0 = active.

    Raises:
        ValueError: cosine, whose terms depend on all attributes.
    """
    if model.kind == "cosine":
        raise ValueError("cosine has no terms by case: those of one attribute depend on all others")
    joint, own, _ = tables(model, 1, 1)
    shown = 1 - np.arange(2)  # activations at index 0, 1
    return joint[:, shown[:, None] + shown] - own[:, shown, None] - own[:, None, shown]


def partials(model: AttributeModel, enrol: Side, test: Side) -> np.ndarray:
    """Return the terms (rows, n) of comparisons row by row; each row sums to its score.

    Those of cosine, a product of two cosines, are half of what an attribute adds to each times the other one: they add
    up, but are no evidence by themselves.
    """
    _check(model, enrol, test)
    if len(enrol.active) != len(test.active):
        raise ValueError(f"{len(enrol.active)} rows of enrolment for {len(test.active)} of test")
    first, second = enrol.active.astype(np.int64), test.active.astype(np.int64)
    if model.kind == "cosine":
        shown, absent = (a * b for a, b in zip(_directions(model, enrol), _directions(model, test)))
        return 0.5 * (shown * absent.sum(1, keepdims=True) + absent * shown.sum(1, keepdims=True))
    terms = np.empty(first.shape)
    for e, t, rows in _groups(enrol.recordings, test.recordings):
        joint, own_e, own_t = tables(model, e, t)
        a, b = first[rows], second[rows]
        terms[rows] = _look_up(joint, a + b) - _look_up(own_e, a) - _look_up(own_t, b)
    return terms


def _directions(model: AttributeModel, side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Return activations and non-activations (rows, n) at unit length, 0 for attributes that are not used."""
    made = []
    for counts in (side.active, side.recordings[:, None] - side.active):
        counts = counts * model.used.astype(np.float64)
        made.append(counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12))
    return made[0], made[1]


# ---------------------------------------------------------------- scores


def score_all(model: AttributeModel, enrol: Side, test: Side) -> np.ndarray:
    """Return the scores (rows of enrol, rows of test) of all comparisons."""
    _check(model, enrol, test)
    if model.kind == "cosine":
        sides = zip(_directions(model, enrol), _directions(model, test))
        shown, absent = (torch.from_numpy(a) @ torch.from_numpy(b).T for a, b in sides)
        return shown.mul_(absent).numpy()
    scores = np.empty((len(enrol.active), len(test.active)))
    for e in np.unique(enrol.recordings).tolist():
        for t in np.unique(test.recordings).tolist():
            rows, columns = np.flatnonzero(enrol.recordings == e), np.flatnonzero(test.recordings == t)
            joint, own_e, own_t = (table[model.used] for table in tables(model, e, t))
            a, b = enrol.active[rows][:, model.used], test.active[columns][:, model.used]
            # one product for each activation of the side that has fewer recordings
            made = _all_of(joint, own_e, own_t, a, b) if e <= t else _all_of(joint, own_t, own_e, b, a).T
            if made.shape == scores.shape:
                return made
            scores[np.ix_(rows, columns)] = made
    return scores


def _all_of(joint, own_a, own_b, a, b) -> np.ndarray:
    """Return the scores (rows of a, rows of b): a sum over k of products of [a = k] with joint[k + b] - joint[b]."""
    base = _look_up(joint, b)
    offset_a, offset_b = -_look_up(own_a, a).sum(1), (base - _look_up(own_b, b)).sum(1)
    scores = None
    for k in range(1, own_a.shape[1]):
        chosen = (a == k).astype(np.float64)
        weights = _look_up(joint[:, k:], b) - base
        if scores is None:  # the sums of the two sides ride along as two more columns
            chosen = np.column_stack([chosen, offset_a, np.ones(len(a))])
            weights = np.column_stack([weights, np.ones(len(b)), offset_b])
            scores = torch.from_numpy(chosen) @ torch.from_numpy(weights).T
        elif chosen.any():
            scores.addmm_(torch.from_numpy(chosen), torch.from_numpy(weights).T)
    return scores.numpy()


def score_pairs(model: AttributeModel, enrol: Side, test: Side, pairs: np.ndarray) -> np.ndarray:
    """Return the scores (trials,) of comparisons `pairs` (trials, 2): a row of enrol with a row of test."""
    _check(model, enrol, test)
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or (pairs.max(0) >= (len(enrol.active), len(test.active))).any()):
        raise ValueError(f"pairs name rows up to {pairs.max(0)}, sides have {len(enrol.active)}, {len(test.active)}")
    scores, many = np.empty(len(pairs)), max(len(enrol.active), len(test.active)) > MOST_TRIALS
    for e, t, chosen in _groups(enrol.recordings[pairs[:, 0]], test.recordings[pairs[:, 1]]):
        step = MOST_TRIALS if many else len(chosen)
        for i in range(0, len(chosen), step):
            part = chosen[i : i + step]
            (rows, first), (columns, second) = (np.unique(side, return_inverse=True) for side in pairs[part].T)
            index = np.column_stack([first.reshape(-1), second.reshape(-1)])
            scores[part] = _scores_of(model, e, t, enrol.take(rows), test.take(columns), index)
    return scores


def _scores_of(model, e: int, t: int, enrol: Side, test: Side, pairs: np.ndarray) -> np.ndarray:
    """Return the scores (trials,) of pairs of rows of e recordings with rows of t."""
    if len(enrol.active) * len(test.active) * min(e, t) <= DENSE * len(pairs):
        return _of_all(model, enrol, test, pairs)
    if model.kind == "cosine":
        shown, absent = zip(_directions(model, enrol), _directions(model, test))
        return _dots(*shown, pairs) * _dots(*absent, pairs)
    joint, own_e, own_t = (table[model.used] for table in tables(model, e, t))
    a, b = enrol.active[:, model.used].astype(np.int64), test.active[:, model.used].astype(np.int64)
    offset_a, offset_b = -_look_up(own_e, a).sum(1), -_look_up(own_t, b).sum(1)
    if e == t == 1:
        base = _look_up(joint, b)
        offset_b += base.sum(1)
        scores = _dots(a.astype(np.float64), _look_up(joint[:, 1:], b) - base, pairs)
    else:
        scores = _looked_up(joint, a, b, pairs)
    return scores + offset_a[pairs[:, 0]] + offset_b[pairs[:, 1]]


def _of_all(model, enrol: Side, test: Side, pairs: np.ndarray) -> np.ndarray:
    """Return the scores (trials,) of pairs, taken out of all against all, some rows of enrolment at a time."""
    order, scores = np.argsort(pairs[:, 0], kind="stable"), np.empty(len(pairs))
    step = max(1, CELLS // len(test.active))
    starts = np.arange(0, len(enrol.active), step)
    ends = np.searchsorted(pairs[order, 0], starts + step)
    for row, begin, end in zip(starts, [0, *ends], ends):
        chosen = order[begin:end]
        part = score_all(model, enrol.take(slice(row, row + step)), test)
        scores[chosen] = part[pairs[chosen, 0] - row, pairs[chosen, 1]]
    return scores


def _dots(a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the dot products (trials,) of rows of a with rows of b."""
    return product_scores(np.concatenate([a, b]), pairs + np.array([0, len(a)]), torch.float64)


def _looked_up(joint, a, b, pairs) -> np.ndarray:
    """Return the sums (trials,) over attributes of joint at the activations of both sides."""
    flat, a = joint.reshape(-1), a + np.arange(len(joint)) * joint.shape[1]
    scores, step = np.empty(len(pairs)), max(1, LOOKUPS // max(len(joint), 1))
    for i in range(0, len(pairs), step):
        first, second = pairs[i : i + step].T
        scores[i : i + step] = flat.take(a[first] + b[second]).sum(1)
    return scores


def _look_up(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return table[attribute, counts[row, attribute]] (rows, n)."""
    return table[np.arange(len(table)), counts]


def _groups(e: np.ndarray, t: np.ndarray):
    """Yield the numbers of recordings of both sides and the rows that have them."""
    both, index = np.unique(np.stack([e, t], 1), axis=0, return_inverse=True)
    for number, (first, second) in enumerate(both.tolist()):
        yield first, second, np.flatnonzero(index.reshape(-1) == number)


def _check(model: AttributeModel, *sides: Side):
    """Refuse sides that the model cannot compare.

    Raises:
        ValueError: other attributes, counts beyond the recordings, or several recordings for a model of single ones.
    """
    for side in sides:
        if side.active.ndim != 2 or side.active.shape[1] != len(model.used):
            raise ValueError(f"codes {side.active.shape} for a model of {len(model.used)} attributes")
        if side.recordings.shape != (len(side.active),) or (side.recordings < 1).any():
            raise ValueError("every row of a side needs one recording or more")
        if side.active.size and ((side.active < 0) | (side.active > side.recordings[:, None])).any():
            raise ValueError("codes are not binary: an attribute is active in less than 0 or more than all recordings")
        if model.kind in SINGLE_ONLY and (side.recordings > 1).any():
            raise ValueError(
                f"{model.kind} compares one recording with one; a side here pools {side.recordings.max()} "
                "(maxllr, beta and cosine take several)"
            )


# ---------------------------------------------------------------- files


def write_model(path: str | Path, model: AttributeModel):
    """Write a model as .npz, whole or not at all."""
    write_npz(path, used=model.used, meta=np.array(json.dumps(model.meta)), **model.parameters)


def read_model(path: str | Path) -> AttributeModel:
    """Read a model.

    Raises:
        FileNotFoundError, ValueError: missing, damaged, no model, of another version, or with values out of range.
    """
    arrays = read_npz(path, {"used": ("b", 1), "meta": ("U", 0)})
    used, meta = arrays["used"], read_meta(path, arrays["meta"])
    kind = meta.get("kind")
    if kind not in KINDS or meta.get("version") != VERSION:
        raise ValueError(f"{path}: a model {kind!r} of version {meta.get('version')}; this program reads {VERSION}")
    parameters = read_npz(path, {name: ("f", dimensions) for name, dimensions in PARAMETERS[kind].items()})
    for name, values in parameters.items():
        if len(values) != len(used) or values.shape[1:] not in ((), (2,)) or (values < 0).any():
            raise ValueError(f"{path}: its {name!r} {values.shape} is not of {len(used)} attributes, or below 0")
    if kind in SINGLE_ONLY and not (isinstance(meta.get("drop_in"), (int, float)) and 0 <= meta["drop_in"] <= 1):
        raise ValueError(f"{path}: its drop-in {meta.get('drop_in')!r} is no probability")
    return AttributeModel(kind, parameters, used, meta)


def read_models(paths: list[str]) -> dict[str, AttributeModel]:
    """Return the models {kind: model} of files, and of folders that hold files named by their kind.

    Raises:
        FileNotFoundError, ValueError: no model there, two of a kind, or of different populations.
    """
    found = {}
    for path in map(Path, paths):
        inside = [path / f"{kind}.npz" for kind in KINDS if (path / f"{kind}.npz").is_file()]
        if path.is_dir() and not inside:
            raise FileNotFoundError(f"{path}: holds no model, {', '.join(KINDS)} (.npz); make some with fit")
        for file in inside or [path]:
            model = read_model(file)
            if model.kind in found:
                raise ValueError(f"{file}: a second model of kind {model.kind}; give one of each")
            found[model.kind] = model
    made = {(len(m.used), m.meta.get("encoder_sha256"), m.meta.get("list_hash")) for m in found.values()}
    if len(made) > 1:
        raise ValueError(f"{', '.join(map(str, paths))}: models of different populations or encoders; fit all anew")
    return found
