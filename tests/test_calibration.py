"""Calibration: the fit finds its optimum, separable and degenerate scores, fusion, files."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize

from scoring import calibration, metrics


def gaussian(count=4000, separation=2.0, seed=0, targets=0.3):
    """Draw scores that are their own natural-log likelihood ratios, and labels."""
    draw = np.random.default_rng(seed)
    labels = (draw.random(count) < targets).astype(int)
    return draw.normal(np.where(labels == 1, separation, -separation), np.sqrt(2 * separation)), labels


def test_it_undoes_scale_and_offset():
    scores, labels = gaussian(20_000)
    for prior in (0.5, 0.05):
        found = calibration.fit(0.1 * scores + 0.3, labels, ["cosine"], prior)
        assert abs(found.scales[0] - 10) < 0.7 and abs(found.offset + 3) < 0.3
    llrs = found.apply(0.1 * scores + 0.3)
    assert metrics.cllr(llrs, labels) < metrics.min_cllr(llrs, labels) + 0.01
    assert abs(metrics.act_dcf(llrs, labels, 0.05) - metrics.min_dcf(llrs, labels, 0.05)[0]) < 0.02


def test_a_fit_ends_where_rounding_hides_the_last_digits():
    # at the fourth step the gradient is 2e-9 and a whole step leaves the loss at the last digit above
    draw = np.random.default_rng(3)
    scores = np.concatenate([draw.normal(3, 2, 80), draw.normal(-2, 2, 300)])
    found = calibration.fit(scores, np.repeat([1, 0], [80, 300]), ["a"], strength=1e-3)
    assert 0.04 < found.scales[0] < 0.63 and found.fitted_on["steps"] < 10


@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_the_fit_is_the_optimum_of_its_objective(prior):
    scores, labels = gaussian(500)
    columns = np.column_stack([scores, scores + np.random.default_rng(1).normal(0, 3, 500)])
    found = calibration.fit(columns, labels, ["a", "b"], prior)

    def loss(weights):
        llr = columns @ weights[:2] + weights[2] + np.log(prior / (1 - prior))
        miss, alarm = np.logaddexp(0, -llr[labels == 1]).mean(), np.logaddexp(0, llr[labels == 0]).mean()
        return prior * miss + (1 - prior) * alarm

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose([*found.scales, found.offset], best.x, rtol=1e-3, atol=1e-4)


def test_the_share_of_targets_does_not_matter():
    many, few = gaussian(40_000, targets=0.5), gaussian(40_000, targets=0.03, seed=1)
    a, b = (calibration.fit(*drawn, ["s"]) for drawn in (many, few))
    assert abs(a.scales[0] - b.scales[0]) < 0.1 and abs(a.offset - b.offset) < 0.15


@pytest.mark.parametrize("gap", [0.0, 5.0])
def test_separated_classes_have_an_end_and_are_told(gap):
    labels = np.repeat([0, 1], 50)
    scores = np.r_[np.linspace(0, 1, 50), np.linspace(1 + gap, 2 + gap, 50)]
    found = calibration.fit(scores, labels, ["s"])
    assert found.fitted_on["ridge"] > 0 and "separated" in found.describe()
    assert np.isfinite(found.scales).all() and 0 < found.scales[0] < 1000
    assert metrics.cllr(found.apply(scores), labels) < 0.2


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_scores_does_not_matter(scale):
    scores, labels = gaussian(1000)
    found = calibration.fit(scale * scores, labels, ["s"])
    np.testing.assert_allclose(found.apply(scale * scores), calibration.fit(scores, labels, ["s"]).apply(scores), 1e-6)


def test_fusion_is_better_than_its_parts():
    truth, labels = gaussian(20_000)
    draw = np.random.default_rng(5)
    systems = truth[:, None] + draw.normal(0, 2.5, (20_000, 2))
    fit, test = np.arange(20_000) < 10_000, np.arange(20_000) >= 10_000
    fused = calibration.fit(systems[fit], labels[fit], ["a", "b"])
    costs = [metrics.cllr(calibration.fit(systems[fit, i], labels[fit], ["x"]).apply(systems[test, i]), labels[test])
             for i in (0, 1)]  # fmt: skip
    assert metrics.cllr(fused.apply(systems[test]), labels[test]) < min(costs) - 0.03


def test_what_cannot_be_fitted_is_refused():
    scores, labels = gaussian(200)
    for columns, wrong, message in (
        (scores, np.ones(200), "no impostor among 200 trials"),
        (np.column_stack([scores, np.ones(200)]), labels, "b has one value on all 200 trials"),
        (np.column_stack([scores, 2 * scores + 1]), labels, "a, b hold the same twice"),
        (np.where(np.arange(200) == 3, np.nan, scores), labels, "trial 4 of 200 is not a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            calibration.fit(columns, wrong, ["a", "b"])
    with pytest.raises(ValueError, match="p_target 1.0"):
        calibration.fit(scores, labels, ["a"], prior=1.0)
    with pytest.raises(ValueError, match="2 inputs, the calibration has 1"):
        calibration.fit(scores, labels, ["a"]).apply(np.ones((3, 2)))


def test_probabilities():
    np.testing.assert_allclose(calibration.probability([0.0, np.log(3)], 0.5), [0.5, 0.75])
    np.testing.assert_allclose(calibration.probability([0.0, np.log(99)], 0.01), [0.01, 0.5])


def test_quality_terms_do_not_see_the_order_of_the_sides():
    pairs = np.array([[0, 1], [1, 0], [2, 2]])
    names, columns = calibration.quality_terms({"seconds": np.array([1.0, 3, 5])}, pairs)
    assert names == ["seconds mean", "seconds difference"] and columns.tolist() == [[2, 2], [2, 2], [5, 0]]
    assert calibration.quality_terms({}, pairs)[1].shape == (3, 0)


def test_a_calibration_comes_back_and_knows_its_list(tmp_path):
    scores, labels = gaussian(300)
    found = calibration.fit(scores, labels, ["cosine"], about={"list": "dev.txt", "hash": "abc"})
    calibration.write_calibration(tmp_path / "c.json", found)
    assert calibration.read_calibration(tmp_path / "c.json") == found
    assert "dev.txt" in found.describe() and found.fitted_on["trials"] == 300
    with pytest.raises(ValueError, match="t.txt is the list that the calibration was fitted on"):
        calibration.check_other_list("abc", "abc", "t.txt", False)
    calibration.check_other_list("abc", "abc", "t.txt", True)
    calibration.check_other_list("abc", "abd", "t.txt", False)


@pytest.mark.parametrize("change, message", [
    (lambda v: v.pop("offset"), "'offset' is missing"),
    (lambda v: v.update(scales="1"), "'scales' is missing or of another kind"),
    (lambda v: v.update(scales=[1.0, 2.0]), "2 scales for 1 inputs"),
    (lambda v: v.update(scales=["x"]), "must be finite numbers"),
    (lambda v: v.update(offset=float("nan")), "must be finite numbers"),
])  # fmt: skip
def test_a_damaged_calibration_is_refused(tmp_path, change, message):
    values = {"inputs": ["a"], "scales": [1.0], "offset": 0.0, "prior": 0.5, "fitted_on": {}}
    change(values)
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        calibration.read_calibration(tmp_path / "c.json")
