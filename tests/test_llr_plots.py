"""Plots of likelihood ratios, and the cost against the prior that one of them shows."""

import numpy as np
import pytest

from scoring import llr_plots, metrics


@pytest.fixture(scope="module")
def trials():
    """Return LLRs that are calibrated by construction (normal, variance twice the mean), and their labels."""
    draw = np.random.default_rng(0)
    labels = np.repeat([1, 0], (400, 1200))
    return np.where(labels, 4.0, -4.0) + np.sqrt(8) * draw.standard_normal(1600), labels


def test_cross_entropy_at_even_odds_is_cllr(trials):
    assert llr_plots.empirical_cross_entropy(*trials, 0.0)[0] == pytest.approx(metrics.cllr(*trials))
    assert llr_plots.least_cross_entropy(*trials, 0.0)[0] == pytest.approx(metrics.min_cllr(*trials))


def test_least_cross_entropy_lies_below_every_rising_map(trials):
    llrs, labels = trials
    odds = np.linspace(-7, 7, 29)
    least = llr_plots.least_cross_entropy(llrs, labels, odds)
    for shown in (llrs, 0.3 * llrs + 1, llrs**3):
        assert np.all(least <= llr_plots.empirical_cross_entropy(shown, labels, odds) + 1e-12)
        assert llr_plots.least_cross_entropy(shown, labels, odds) == pytest.approx(least)


def test_saying_nothing_costs_the_entropy_of_the_prior():
    cost = llr_plots.empirical_cross_entropy([0, 0], [1, 0], np.log([1, 9]))
    assert cost == pytest.approx([1, -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))])


def test_separated_and_huge_ratios_cost_what_they_should():
    assert llr_plots.least_cross_entropy([1, 2], [0, 1], 0.0)[0] == 0
    # 5000 nats in the wrong direction: no overflow
    assert llr_plots.empirical_cross_entropy([-5000, -5000], [1, 0], 0.0)[0] == pytest.approx(2500 / np.log(2))


@pytest.mark.parametrize("draw", (llr_plots.tippett_plot, llr_plots.ece_plot))
def test_plots(draw, trials, tmp_path):
    llrs, labels = trials
    draw(tmp_path / "new" / "p.png", {"a": trials, "all alike": (np.zeros(1600), labels)})
    assert (tmp_path / "new" / "p.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no system"):
        draw(tmp_path / "p.png", {})
    with pytest.raises(ValueError, match="no impostor"):
        draw(tmp_path / "p.png", {"a": (llrs[:400], labels[:400])})
