"""Linear discriminant analysis, within-class whitening and two-covariance PLDA on embeddings with speaker labels.
Entry points: fit, Backend.project, Backend.scores; write_backend, read_backend.

A small set of speakers is no obstacle: covariances are smoothed as Ledoit and Wolf (2004) propose.
"""

import json
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from scoring import embeddings, norms
from scoring.trials import product_scores

ITERATIONS = 20  # of the EM algorithm, which starts near its end


class Backend(NamedTuple):
    """`mean` (dim,) and `matrix` (dim, d) of the projection; of PLDA its `centre` (d,), `basis` (d, d), in which the
    within-speaker covariance is the identity, and `between` (d,), the variances between speakers (empty: no PLDA)."""

    mean: np.ndarray
    matrix: np.ndarray
    centre: np.ndarray
    basis: np.ndarray
    between: np.ndarray
    meta: dict

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Return embeddings (files, dim) centred, projected and of unit length (files, d) float32."""
        if vectors.shape[1] != len(self.mean):
            raise ValueError(f"embeddings of {vectors.shape[1]} numbers, the backend was fitted on {len(self.mean)}")
        return norms.unit_length((vectors - self.mean) @ self.matrix)

    def factors(self, projected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return two matrices (files, d + 2) whose row products left[i] @ right[j] are the log-likelihood ratios.

        With u the vectors in the basis and b the variances between speakers, the covariance of two vectors of one
        speaker is [[1 + b, b], [b, 1 + b]] in each coordinate; hence
        llr = sum ln(1 + b) - ln(1 + 2b) / 2 - (u^2 + v^2) b^2 / (2 (1 + b) (1 + 2b)) + u v b / (1 + 2b).

        Ioffe, Probabilistic linear discriminant analysis, ECCV 2006; Bruemmer and de Villiers, The speaker partitioning
        problem, Odyssey 2010 (two-covariance model).
        """
        b = self.between
        u = (projected - self.centre) @ self.basis
        own = -np.square(u) @ (b**2 / (2 * (1 + b) * (1 + 2 * b)))
        own += np.sum(np.log1p(b) - np.log1p(2 * b) / 2) / 2  # half of the constant on each side
        crossed = u * np.sqrt(b / (1 + 2 * b))
        one = np.ones_like(own)
        left, right = np.column_stack([crossed, own, one]), np.column_stack([crossed, one, own])
        return left.astype(np.float32), right.astype(np.float32)

    def scores(self, projected: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Return the natural-log likelihood ratios (trials,): one speaker against two, one recording on each side."""
        left, right = self.factors(projected)
        # One table of both kinds of rows; the trials take their second row from its second half.
        return product_scores(np.concatenate([left, right]), np.asarray(pairs) + [0, len(left)])


def scatter(vectors: np.ndarray, labels: np.ndarray):
    """Return means (speakers, dim), counts (speakers,) and residuals (files, dim) of labelled embeddings.

    Raises:
        ValueError: fewer than 2 speakers, or none with 2 files: nothing tells speakers from recordings.
    """
    speakers, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(speakers) < 2 or counts.max() < 2:
        raise ValueError(
            f"{len(vectors)} embeddings of {len(speakers)} speaker(s), at most {counts.max()} each: LDA, whitening and "
            "PLDA need 2 speakers, and some with 2 files"
        )
    means = np.zeros((len(speakers), vectors.shape[1]))
    np.add.at(means, index, vectors)
    means /= counts[:, None]
    return means, counts, vectors - means[index]


def smoothed(rows: np.ndarray, freedom: int) -> tuple[np.ndarray, float]:
    """Return the covariance (dim, dim) of centred rows, shrunk towards a multiple of the identity, and by how much.

    Args:
        freedom: what the sum of squares is divided by, rows less the means that were estimated.

    Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
    """
    from sklearn.covariance import ledoit_wolf

    if not np.square(rows).sum():
        raise ValueError("all embeddings of a speaker are the same: there is nothing to fit on")
    covariance, shrinkage = ledoit_wolf(rows, assume_centered=True)
    return covariance * len(rows) / max(1, freedom), float(shrinkage)


def _shrink(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """Return a covariance moved towards a multiple of the identity of the same trace."""
    size = len(covariance)
    return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / size * np.eye(size)


def lda(means: np.ndarray, counts: np.ndarray, residuals: np.ndarray, dims: int) -> np.ndarray:
    """Return the projection (dim, dims) on the directions of largest variance between over within speakers.

    The within-speaker covariance of what is projected is the identity.
    """
    most = min(means.shape[1], len(means) - 1)
    if not 1 <= dims <= most:
        raise ValueError(
            f"--lda {dims}: {len(means)} speakers and {means.shape[1]} numbers an embedding allow 1 to {most}"
        )
    within, _ = smoothed(residuals, len(residuals) - len(means))
    centred = (means - np.average(means, axis=0, weights=counts)) * np.sqrt(counts[:, None])
    return eigh(centred.T @ centred, within)[1][:, ::-1][:, :dims]


def whitening(means: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return the projection (dim, dim) after which the within-speaker covariance is the identity.

    Hatch, Kajarekar, Stolcke, Within-class covariance normalization, Interspeech 2006.
    """
    values, directions = np.linalg.eigh(smoothed(residuals, len(residuals) - len(means))[0])
    return directions / np.sqrt(values)


def plda(vectors: np.ndarray, labels: np.ndarray, iterations: int = ITERATIONS):
    """Fit x = centre + speaker + residue with Gaussian speakers and residues; return centre, basis and between.

    EM with exact posteriors for speakers of different numbers of files. The scatter of the residuals is shrunk before,
    the covariance between speakers at the end, as far as Ledoit and Wolf find for residuals and speaker means.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    means, counts, residuals = scatter(vectors, labels)
    files, speakers = len(vectors), len(means)
    centre = means.mean(0)
    within, _ = smoothed(residuals, files - speakers)
    spread, between_shrinkage = smoothed(means - centre, speakers - 1)
    # the means spread by speakers and by what is left of the residues; half of it remains where that leaves nothing
    values, directions = eigh(spread - within * np.mean(1 / counts), within)
    between = within @ directions * np.maximum(values, 1e-3) @ directions.T @ within
    inner = within * (files - speakers)
    for _ in range(iterations):
        values, basis = eigh(between, within)
        values = np.maximum(values, 0)
        dual = within @ basis  # basis.T @ dual is the identity: it takes coordinates back
        seen = (means - centre) @ basis
        variance = values / (1 + counts[:, None] * values)  # posterior of each speaker, coordinate by coordinate
        expected = counts[:, None] * variance * seen
        left = seen - expected
        between = dual @ (expected.T @ expected / speakers + np.diag(variance.mean(0))) @ dual.T
        own = (left * counts[:, None]).T @ left + np.diag((counts[:, None] * variance).sum(0))
        within = (inner + dual @ own @ dual.T) / files
        centre = centre + (counts[:, None] * left).sum(0) / files @ dual.T
    values, basis = eigh(_shrink(between, between_shrinkage), within)
    return centre, basis, np.maximum(values, 0)


def fit(vectors: np.ndarray, labels: np.ndarray, kind: str = "whitened", dims: int = 0, with_plda: bool = False):
    """Fit a backend on embeddings (files, dim) with speaker labels (files,).

    Args:
        kind: the projection, "centred" (none), "whitened" or "lda" to `dims` numbers; then unit length.
        with_plda: PLDA on what is projected.

    Raises:
        ValueError: too few speakers or files, or more dimensions than they allow.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    means, counts, residuals = scatter(vectors, labels)
    matrices = {
        "centred": lambda: np.eye(vectors.shape[1]),
        "whitened": lambda: whitening(means, residuals),
        "lda": lambda: lda(means, counts, residuals, dims),
    }
    matrix = matrices[kind]()
    meta = {"projection": kind, "dimensions": matrix.shape[1], "speakers": len(means), "files": len(vectors)}
    backend = Backend(vectors.mean(0), matrix, np.empty(0), np.empty((0, 0)), np.empty(0), meta)
    if not with_plda:
        return backend
    centre, basis, between = plda(backend.project(vectors), labels)
    return backend._replace(centre=centre, basis=basis, between=between)


def write_backend(path, backend: Backend):
    """Write a backend as .npz of plain arrays."""
    arrays = backend._asdict()
    embeddings.write_npz(path, **{**arrays, "meta": np.array(json.dumps(arrays["meta"]))})


def read_backend(path) -> Backend:
    """Read a backend; errors as in embeddings.read_npz."""
    shapes = {"mean": 1, "matrix": 2, "centre": 1, "basis": 2, "between": 1}
    arrays = embeddings.read_npz(path, {**{name: ("f", n) for name, n in shapes.items()}, "meta": ("U", 0)})
    size, plda_size = arrays["matrix"].shape[1], len(arrays["between"])
    fits = len(arrays["mean"]) == len(arrays["matrix"]) and plda_size in (0, size)
    if not fits or len(arrays["centre"]) != plda_size or arrays["basis"].shape != (plda_size, plda_size):
        raise ValueError(f"{path}: the sizes of its arrays do not agree")
    return Backend(**{**arrays, "meta": embeddings.read_meta(path, arrays["meta"])})
