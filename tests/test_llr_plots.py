"""Plots of likelihood ratios, and the cost against the prior that one of them shows."""

import numpy as np
import pytest

from scoring import attribute_plots, likelihood, llr_plots, metrics, population


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


def test_partial_ratios_are_drawn_by_case(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2, (60, 7)).astype(np.uint8)
    bits[:, 3] = 0  # dead: no model uses it
    pop = population.population(bits, np.arange(60) % 12, [str(i) for i in range(12)])
    models = {kind: likelihood.fit_model(kind, pop) for kind in ("cosine", "dna", "beta")}
    enrol, test = likelihood.single(bits[:30]), likelihood.pooled(bits, [[0, 1], *([i] for i in range(30, 60))])
    pairs = np.stack([np.arange(30), np.arange(30)], 1)
    trials, terms = attribute_plots.single_terms(models, enrol, test, pairs, seed=0)
    assert trials == 29 and list(terms) == ["dna", "beta"]  # one row of test pools two recordings
    for kind, model in {kind: models[kind] for kind in terms}.items():
        table = likelihood.case_terms(model)[model.used]
        for part, cells in zip(terms[kind], ([(0, 0)], [(1, 1)], [(0, 1), (1, 0)])):
            assert len(part) and np.isclose(part[:, None], [table[:, a, b] for a, b in cells][0]).any(1).all()
        assert sum(map(len, terms[kind])) == 29 * 6
    monkeypatch.setattr(attribute_plots, "MOST_TRIALS", 10)
    assert attribute_plots.single_terms(models, enrol, test, pairs, seed=0)[0] == 10
    attribute_plots.partials_plot(tmp_path / "new" / "p.png", trials, terms)
    attribute_plots.partials_plot(tmp_path / "q.png", trials, {"dna": [np.ones(3), np.empty(0), np.ones(1)]})
    typical, dropped = population.typicality(pop), population.drop_out(pop)
    attribute_plots.population_plot(tmp_path / "r.png", typical, dropped, typical > 0.5)
    attribute_plots.population_plot(tmp_path / "s.png", np.ones(1), np.zeros(1), np.ones(1, bool))
    for path in (tmp_path / "new" / "p.png", *tmp_path.glob("*.png")):
        assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no model"):
        attribute_plots.partials_plot(tmp_path / "p.png", 0, {})
