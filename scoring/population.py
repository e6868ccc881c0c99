"""What a reference population says of binary attributes: counts per speaker and the parameters fitted to them.
Entry points: population, typicality, drop_out, fit_maxllr, fit_beta; read_published, write_published.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from scoring.embeddings import write_text

# Probabilities of MaxLLR stay this far from 0 and 1: one recording then carries at most 13.8 nats.
PROBABILITY_MARGIN = 1e-6
# Beta parameters: below, an attribute is all or nothing (a mismatch then costs at most 13.8 nats); above, it says
# nothing of speakers.
ALPHA_LEAST, ALPHA_MOST = 1e-6, 1e6
PUBLISHED_LINE = re.compile(r"^\s*BA(\d+)\s*:\s*(\S+)\s*$")


@dataclass
class Population:
    """`speakers` (K names); `active` (K, n) int64, recordings of each speaker that have the attribute; `recordings`
    (K,) int64 of each speaker."""

    speakers: list[str]
    active: np.ndarray
    recordings: np.ndarray

    def describe(self) -> str:
        """Return one line: speakers, recordings, attributes."""
        return (
            f"{len(self.speakers)} speakers, {int(self.recordings.sum())} recordings, {self.active.shape[1]} attributes"
        )


def population(bits: np.ndarray, labels: np.ndarray, names: list[str]) -> Population:
    """Count the activations of every speaker.

    Args:
        bits: (recordings, n) of 0 and 1.
        labels: (recordings,) integers, the speaker of each as an index into `names`.

    Raises:
        ValueError: shapes that do not fit, fewer than two speakers, or a speaker without a recording.
    """
    bits, labels = np.asarray(bits), np.asarray(labels)
    if bits.ndim != 2 or labels.shape != (len(bits),):
        raise ValueError(f"population: bits {bits.shape} and labels {labels.shape} do not fit")
    recordings = np.bincount(labels, minlength=len(names))
    if len(names) < 2 or len(recordings) > len(names) or not recordings.all():
        raise ValueError(
            f"population: {len(names)} speakers, {int((recordings > 0).sum())} with a recording; it takes two or more, "
            "each with one"
        )
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(recordings) - recordings
    return Population(list(names), np.add.reduceat(bits[order], starts, axis=0, dtype=np.int64), recordings)


# ---------------------------------------------------------------- what an attribute is like


def having(pop: Population) -> np.ndarray:
    """Return how many speakers have each attribute (n,): in at least one recording."""
    return (pop.active > 0).sum(0)


def constant(pop: Population) -> np.ndarray:
    """Return which attributes (n,) are the same in every recording: never or always there."""
    total = pop.active.sum(0)
    return (total == 0) | (total == pop.recordings.sum())


def typicality(pop: Population) -> np.ndarray:
    """Return the share of speaker pairs that both have the attribute (n,), Ben-Amor and Bonastre 2022."""
    count, speakers = having(pop).astype(np.float64), len(pop.speakers)
    return count * (count - 1) / (speakers * (speakers - 1))


def drop_out(pop: Population) -> np.ndarray:
    """Return the mean share of recordings that lack the attribute, over the speakers who have it (n,); 1 for none."""
    share = 1 - pop.active / pop.recordings[:, None]
    owns = pop.active > 0
    count = owns.sum(0)
    return np.where(count > 0, (share * owns).sum(0) / np.maximum(count, 1), 1.0)


# ---------------------------------------------------------------- fitted parameters


def fit_maxllr(
    pop: Population, f: float = 0.5, p: float = 0.9, q: float = 0.1, iterations: int = 100
) -> dict[str, np.ndarray]:
    """Fit f p^a (1-p)^b + (1-f) q^a (1-q)^b to a activations and b non-activations of speakers, by EM.

    f: share of speakers who own the attribute; p, q: how often an owner's, another's recording shows it; p >= q.

    Args:
        f, p, q: where every attribute starts.

    Returns:
        {"f", "p", "q"}: (n,) each, within PROBABILITY_MARGIN of neither 0 nor 1.
    """
    if not (0 < f < 1 and 0 < q < p < 1):
        raise ValueError(f"MaxLLR starts from f {f:g}, p {p:g}, q {q:g}: 0 < f < 1 and 0 < q < p < 1 are needed")
    active, total = pop.active.astype(np.float64), pop.recordings.astype(np.float64)
    f, p, q = (np.full(active.shape[1], value) for value in (f, p, q))
    for _ in range(iterations):
        # posterior that a speaker owns the attribute, from log odds: a probability of 800 recordings would underflow
        weight, base = np.log(p / q) - np.log1p(-p) + np.log1p(-q), np.log1p(-p) - np.log1p(-q)
        own = expit(np.log(f) - np.log1p(-f) + active * weight + total[:, None] * base)
        shown, seen = (active * own).sum(0), total @ own
        p = bounded(shown / np.maximum(seen, 1e-300))
        q = bounded((active.sum(0) - shown) / np.maximum(total.sum() - seen, 1e-300))
        f = bounded(own.mean(0))
    turned = p < q  # the same mixture with its parts named the other way round
    return {"f": np.where(turned, 1 - f, f), "p": np.maximum(p, q), "q": np.minimum(p, q)}


def bounded(share: np.ndarray) -> np.ndarray:
    """Return probabilities kept PROBABILITY_MARGIN away from 0 and 1."""
    return np.clip(share, PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)


def fit_beta(pop: Population, iterations: int = 100, eps: float = 1e-8) -> np.ndarray:
    """Fit alpha (n, 2) of a beta-binomial to the activations and non-activations of speakers.

    From moments, with one precision for all attributes (the geometric mean of theirs), by the fixed point of Minka,
    Estimating a Dirichlet distribution, 2000. Constant attributes, which have no such fit, count in no mean and get
    bounded values.
    """
    counts = np.stack([pop.active, pop.recordings[:, None] - pop.active], axis=-1)  # (K, n, 2)
    share = counts / (pop.recordings[:, None, None] + eps)
    mean, variance = share.mean(0), share.var(0, ddof=1)
    precision = (mean * (1 - mean) + 2 * eps) / (variance + eps) - 1
    fitting = ~constant(pop)
    # an attribute that is all or nothing for every speaker has none above 0
    common = np.exp(np.log(np.maximum(precision[fitting], 1e-3)).mean()) if fitting.any() else 1.0
    alpha = np.clip(mean * common + eps, ALPHA_LEAST, ALPHA_MOST)
    most = int(pop.recordings.max())
    more = np.stack([_more_than(counts[..., k], most) for k in range(2)], axis=-1)  # (most, n, 2)
    all_more = _more_than(pop.recordings[:, None], most)  # (most, 1)
    steps = np.arange(most)[:, None]
    for _ in range(iterations):
        # sum over speakers of psi(c + alpha) - psi(alpha) = sum over j of (speakers with c > j) / (alpha + j)
        numerator = (more / (alpha + steps[..., None])).sum(0)
        denominator = (all_more / (alpha.sum(-1) + steps)).sum(0)
        alpha = np.clip(alpha * numerator / denominator[:, None], ALPHA_LEAST, ALPHA_MOST)
    return alpha


def _more_than(counts: np.ndarray, most: int) -> np.ndarray:
    """Return how many of the rows of counts (K, n), none above `most`, are above 0, 1, 2, ... (most, n)."""
    rows, columns = counts.shape
    flat = (counts * columns + np.arange(columns)).reshape(-1)
    histogram = np.bincount(flat, minlength=(most + 1) * columns).reshape(most + 1, columns)
    return rows - np.cumsum(histogram, axis=0)[:most]


# ---------------------------------------------------------------- published text files


def read_published(path: str | Path, attributes: int | None = None) -> np.ndarray:
    """Read one value between 0 and 1 per attribute (n,) of lines `BA7 : 0.650510`, attributes counted from 0.

    Attributes that the file leaves out are 0; without `attributes` the last one it names is the last there is.

    Raises:
        FileNotFoundError, ValueError: missing, a line of another form, an attribute twice or too large, no line.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file (lines `BA7 : 0.650510`)")
    found = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        match = PUBLISHED_LINE.match(line)
        try:
            attribute, value = int(match[1]), float(match[2])
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {number}: expected `BA7 : 0.650510`, found {line.strip()[:60]!r}") from None
        if not 0 <= value <= 1:
            raise ValueError(f"{path}, line {number}: {value} is no share between 0 and 1")
        if attribute in found or attribute >= 2**20:
            raise ValueError(f"{path}, line {number}: attribute {attribute} is there twice or too large")
        found[attribute] = value
    if not found:
        raise ValueError(f"{path}: holds no line `BA7 : 0.650510`")
    if attributes is not None and max(found) >= attributes:
        raise ValueError(f"{path}: names attribute {max(found)} of {attributes}, counted from 0")
    values = np.zeros(attributes or max(found) + 1)
    values[list(found)] = list(found.values())
    return values


def write_published(path: str | Path, values: np.ndarray):
    """Write one value per attribute as lines `BA7 : 0.650510`, whole or not at all."""
    write_text(path, "".join(f"BA{i} : {value:.6f}\n" for i, value in enumerate(values)))


# ---------------------------------------------------------------- table of attributes


def count_attributes(pop: Population) -> dict[str, int]:
    """Return how many attributes are live (a speaker has it), shared (several have it), dead (none) and constant (in
    every recording)."""
    count = having(pop)
    always = pop.active.sum(0) == pop.recordings.sum()
    numbers = {"live": count > 0, "shared": count > 1, "dead": count == 0, "constant": always}
    return {name: int(which.sum()) for name, which in numbers.items()}


def write_attributes(path: str | Path, columns: dict[str, np.ndarray]):
    """Write a CSV of one line an attribute, counted from 0, whole or not at all."""
    cells = [
        [f"{value:.6g}" if values.dtype.kind == "f" else str(int(value)) for value in values]
        for values in map(np.asarray, columns.values())
    ]
    lines = [",".join(["attribute", *columns]), *(f"{i},{','.join(row)}" for i, row in enumerate(zip(*cells)))]
    write_text(path, "\n".join(lines) + "\n")
