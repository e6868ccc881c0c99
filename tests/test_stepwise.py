"""Stepwise discriminant analysis against its determinants, grouped accuracy, dependence of attributes."""

import time

import numpy as np
import pytest

from scoring import stepwise


def data(rows=300, variables=8, seed=0, shift=1.0):
    """Return x and classes where variables 2 and 5 tell the class and 7 repeats 2."""
    draw = np.random.default_rng(seed)
    classes = (np.arange(rows) % 3 == 0).astype(int)
    x = draw.standard_normal((rows, variables))
    x[:, 2] += shift * classes
    x[:, 5] += 0.6 * shift * classes + 0.5 * x[:, 2]
    x[:, 7] = 3 * x[:, 2] + 1
    return x, classes


def wilks(x, classes):
    """Return det W / det V by their definition."""
    w = sum(np.cov(x[classes == v].T, bias=True).reshape(x.shape[1], -1) * (classes == v).mean() for v in (0, 1))
    return np.linalg.det(w) / np.linalg.det(np.cov(x.T, bias=True).reshape(x.shape[1], -1))


def test_lambda_is_the_ratio_of_determinants_and_each_entry_the_best():
    x, classes = data()
    x = x[:, :7]
    found = stepwise.stepwise_lda(x, classes, 0.2)
    assert set(found.order[:2]) == {2, 5}
    for count in range(1, len(found.order) + 1):
        chosen = found.order[:count]
        assert found.wilks[count - 1] == pytest.approx(wilks(x[:, chosen], classes))
        for other in set(range(7)) - set(chosen.tolist()):
            tried = [*found.order[: count - 1], other]
            assert found.wilks[count - 1] <= wilks(x[:, tried], classes) + 1e-12
    before = np.concatenate([[1.0], found.wilks[:-1]])
    freedom = len(x) - 2 - np.arange(len(found.order))
    assert found.f == pytest.approx(freedom * (before / found.wilks - 1))


def test_p_value_is_that_of_the_t_test_for_the_first_variable():
    from scipy.stats import ttest_ind

    x, classes = data(shift=0.3)
    found = stepwise.stepwise_lda(x[:, [2]], classes, 1.0)
    assert found.p[0] == pytest.approx(ttest_ind(x[classes == 0, 2], x[classes == 1, 2]).pvalue)


def test_scale_and_offset_do_not_matter_and_repeats_do_not_enter():
    x, classes = data()
    found = stepwise.stepwise_lda(x, classes, 0.2)
    other = stepwise.stepwise_lda(x * 10.0 ** np.arange(-4, 4) + 7, classes, 0.2)
    repeats = {7: 2}
    assert [repeats.get(v, v) for v in found.order] == [repeats.get(v, v) for v in other.order]
    assert found.wilks == pytest.approx(other.wilks)
    assert not {2, 7} <= set(stepwise.stepwise_lda(x, classes, 1.0).order)


def test_constants_separation_and_few_rows():
    classes = np.array([0, 0, 0, 1, 1])
    assert len(stepwise.stepwise_lda(np.full((5, 2), 0.1), classes).order) == 0
    parted = stepwise.stepwise_lda(np.column_stack([classes * 2.0, [1, 2, 3, 4, 5]]), classes)
    assert parted.order.tolist() == [0] and parted.wilks[0] == pytest.approx(0, abs=1e-12) and parted.p[0] < 1e-20
    assert len(stepwise.stepwise_lda(np.eye(3), np.array([0, 1, 1]), 1.0).order) <= 1
    with pytest.raises(ValueError, match="needs a row"):
        stepwise.stepwise_lda(np.ones((3, 1)), np.zeros(3))


def test_chance_alone_enters_at_its_level():
    draw = np.random.default_rng(1)
    entered = [
        len(stepwise.stepwise_lda(draw.standard_normal((60, 1)), np.arange(60) % 2, 0.1).order) for _ in range(500)
    ]
    assert 0.06 < np.mean(entered) < 0.14


def test_grouped_accuracy_is_high_for_signal_and_chance_for_what_only_tells_speakers():
    x, classes = data(600, shift=2.5)
    speakers = np.arange(600) // 6
    assert stepwise.grouped_accuracy(x, classes, speakers) > 0.85
    # every speaker has one class and one value of each variable, which says nothing of other speakers
    draw = np.random.default_rng(2)
    speakers = np.arange(600) // 30
    x, classes = draw.standard_normal((20, 6))[speakers], (speakers % 2).astype(int)
    assert len(stepwise.stepwise_lda(x, classes).order) > 0
    assert stepwise.grouped_accuracy(x, classes, speakers) < 0.75
    assert np.isnan(stepwise.grouped_accuracy(x[:40], classes[:40], speakers[:40]))


def test_balanced_rows_and_exchanged_groups():
    draw = np.random.default_rng(0)
    classes = np.array([0] * 20 + [1] * 7)
    rows = stepwise.balanced_rows(classes, draw)
    assert len(set(rows)) == 14 and classes[rows].sum() == 7 and (np.diff(rows) > 0).all()
    assert len(stepwise.balanced_rows(classes, draw, most=3)) == 6
    groups = np.repeat(["a", "b", "c"], (5, 2, 9))
    taken = stepwise.exchange_groups(groups, draw)
    pairs = set(zip(groups.tolist(), groups[taken].tolist()))
    assert len(pairs) == 3 and all(one != other for one, other in pairs)


def test_dependence_is_that_of_the_counts():
    draw = np.random.default_rng(0)
    bits = (draw.random((400, 6)) < 0.4).astype(np.uint8)
    bits[:, 3] = bits[:, 0] ^ 1
    bits[:, 4] = 0
    bits[:, 5] = bits[:, 1] & bits[:, 2]
    found = stepwise.dependence(bits)
    table = np.histogram2d(bits[:, 1], bits[:, 5], 2)[0] / 400
    joint = -sum(p * np.log(p) for p in table.ravel() if p)
    assert found.joint[1, 5] == pytest.approx(joint)
    assert found.information[1, 5] == pytest.approx(found.entropy[1] + found.entropy[5] - joint)
    assert found.uncertainty[0, 3] == pytest.approx(1) and found.uncertainty[0, 0] == pytest.approx(1)
    assert (found.uncertainty[4] == 0).all() and found.entropy[4] == 0
    assert found.uncertainty[1, 2] < 0.05
    assert np.array_equal(found.uncertainty, found.uncertainty.T)


def test_dependence_of_all_pairs_of_512_attributes_is_quick(monkeypatch):
    bits = (np.random.default_rng(0).random((4000, 512)) < 0.4).astype(np.uint8)
    began = time.perf_counter()
    found = stepwise.dependence(bits)
    assert time.perf_counter() - began < 5
    monkeypatch.setattr(stepwise, "ROWS_AT_ONCE", 700)
    assert np.array_equal(found.joint, stepwise.dependence(bits).joint)
