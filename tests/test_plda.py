"""LDA, whitening and PLDA: they recover what the data was drawn from, and score as the Gaussian densities say."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from scoring import metrics, norms, plda


def drawn(speakers, dim, most=6, seed=0):
    """Draw embeddings, labels, and the covariances between and within speakers."""
    draw = np.random.default_rng(seed)
    between, within = (m @ m.T / dim + 0.2 * np.eye(dim) for m in draw.standard_normal((2, dim, dim)))
    labels = np.repeat(np.arange(speakers), draw.integers(1, most, speakers))
    voices = draw.multivariate_normal(np.ones(dim), between, speakers)
    return voices[labels] + draw.multivariate_normal(np.zeros(dim), within, len(labels)), labels, between, within


def covariances(basis, between):
    """Return the covariances between and within speakers that a basis and variances stand for."""
    back = np.linalg.inv(basis)
    return back.T @ np.diag(between) @ back, back.T @ back


def test_plda_recovers_the_covariances():
    vectors, labels, between, within = drawn(4000, 4)
    centre, basis, variances = plda.plda(vectors, labels)
    found = covariances(basis, variances)
    np.testing.assert_allclose(centre, 1, atol=0.06)
    np.testing.assert_allclose(found[0], between, atol=0.08)
    np.testing.assert_allclose(found[1], within, atol=0.05)


def test_em_never_lowers_the_likelihood():
    vectors, labels, _, _ = drawn(60, 5)

    def likelihood(iterations):
        centre, basis, variances = plda.plda(vectors, labels, iterations)
        between, within = covariances(basis, variances)
        total = 0.0
        for speaker in np.unique(labels):
            own = vectors[labels == speaker] - centre
            blocks = np.kron(np.eye(len(own)), within) + np.kron(np.ones((len(own),) * 2), between)
            total += multivariate_normal(np.zeros(own.size), blocks).logpdf(own.ravel())
        return total

    # the shrinkage at the end differs little between the two
    assert likelihood(20) > likelihood(1) - 0.5


def test_scores_are_the_ratio_of_the_densities():
    vectors, labels, _, _ = drawn(50, 4)
    centre, basis, variances = plda.plda(vectors, labels)
    between, within = covariances(basis, variances)
    backend = plda.Backend(np.zeros(4), np.eye(4), centre, basis, variances, {})
    pairs = np.array([[0, 1], [5, 9], [3, 3], [9, 5]])
    total = between + within
    joint = multivariate_normal(np.tile(centre, 2), np.block([[total, between], [between, total]]))
    alone = multivariate_normal(centre, total)
    wanted = [joint.logpdf(np.r_[vectors[a], vectors[b]]) - alone.logpdf(vectors[a]) - alone.logpdf(vectors[b])
              for a, b in pairs]  # fmt: skip
    np.testing.assert_allclose(backend.scores(vectors, pairs), wanted, rtol=1e-4, atol=1e-4)
    left, right = backend.factors(vectors)
    np.testing.assert_allclose((left[pairs[:, 0]] * right[pairs[:, 1]]).sum(1), wanted, rtol=1e-4, atol=1e-4)


def test_ratios_of_the_model_are_calibrated():
    vectors, labels, _, _ = drawn(1500, 4, most=4)
    fit, test = labels < 1000, labels >= 1000
    centre, basis, variances = plda.plda(vectors[fit], labels[fit])
    backend = plda.Backend(np.zeros(4), np.eye(4), centre, basis, variances, {})
    pairs = np.random.default_rng(1).integers(0, test.sum(), (200_000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    same = labels[test][pairs[:, 0]] == labels[test][pairs[:, 1]]
    scores = backend.scores(vectors[test], pairs)
    assert metrics.cllr(scores, same) < metrics.min_cllr(scores, same) + 0.1 < 1


def test_whitening_and_lda_make_the_covariance_within_speakers_the_identity():
    vectors, labels, _, _ = drawn(3000, 5)
    means, counts, residuals = plda.scatter(vectors, labels)
    for matrix in (plda.whitening(means, residuals), plda.lda(means, counts, residuals, 3)):
        moved = residuals @ matrix
        within = moved.T @ moved / (len(residuals) - len(means))
        np.testing.assert_allclose(within, np.eye(matrix.shape[1]), atol=0.02)
    spread = np.var(means @ plda.lda(means, counts, residuals, 5), axis=0)
    assert (np.diff(spread) < 0.05).all()  # the directions that tell most come first


def noisy(speakers, seed):
    """Draw 40 numbers an embedding of which the last 30, the louder ones, tell nothing of the speaker."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(speakers), 6)
    voice = np.concatenate([draw.standard_normal((speakers, 10)), np.zeros((speakers, 30))], axis=1)
    return voice[labels] + draw.standard_normal((len(labels), 40)) * np.r_[np.full(10, 0.4), np.full(30, 2.0)], labels


@pytest.mark.parametrize("kind, dims, with_plda", [
    ("whitened", 0, False), ("lda", 8, False), ("centred", 0, True), ("whitened", 0, True), ("lda", 8, True),
])  # fmt: skip
@pytest.mark.parametrize("speakers, share", [(12, 1.0), (80, 0.8)])
def test_a_backend_helps_also_with_fewer_speakers_than_numbers(kind, dims, with_plda, speakers, share):
    (train, train_labels), (vectors, labels) = noisy(speakers, 0), noisy(40, 1)
    backend = plda.fit(train, train_labels, kind, dims, with_plda)
    pairs = np.column_stack(np.triu_indices(len(vectors), 1))
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    projected = backend.project(vectors)
    scores = backend.scores(projected, pairs) if with_plda else norms.score_and_normalise(projected, pairs)
    before = metrics.eer(norms.score_and_normalise(vectors, pairs), same)[0]
    assert metrics.eer(scores, same)[0] < share * before


def test_a_backend_comes_back(tmp_path):
    vectors, labels = noisy(20, 0)
    for with_plda in (False, True):
        backend = plda.fit(vectors, labels, "lda", 5, with_plda)
        plda.write_backend(tmp_path / "b.npz", backend)
        found = plda.read_backend(tmp_path / "b.npz")
        assert found.meta == backend.meta == {"projection": "lda", "dimensions": 5, "speakers": 20, "files": 120}
        assert np.array_equal(found.project(vectors), backend.project(vectors))
    pairs = np.array([[0, 1], [0, 9]])
    assert np.array_equal(found.scores(found.project(vectors), pairs), backend.scores(backend.project(vectors), pairs))
    with np.load(tmp_path / "b.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "b.npz", **{**arrays, "mean": arrays["mean"][:3]})
    with pytest.raises(ValueError, match="b.npz: the sizes of its arrays do not agree"):
        plda.read_backend(tmp_path / "b.npz")


def test_too_little_to_fit_on_is_refused():
    vectors, labels = noisy(20, 0)
    for part, message in ((labels == 0, "need 2 speakers"), (np.arange(120) % 6 == 0, "some with 2 files")):
        with pytest.raises(ValueError, match=message):
            plda.fit(vectors[part], labels[part])
    with pytest.raises(ValueError, match="--lda 30: 20 speakers .* allow 1 to 19"):
        plda.fit(vectors, labels, "lda", 30)
    with pytest.raises(ValueError, match="embeddings of 7 numbers, the backend was fitted on 40"):
        plda.fit(vectors, labels).project(np.ones((2, 7)))
    with pytest.raises(ValueError, match="nothing to fit on"):
        plda.fit(np.repeat(np.eye(3), 2, axis=0), np.repeat(np.arange(3), 2))
