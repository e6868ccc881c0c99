"""Likelihood ratios of binary attributes: sums of terms, symmetry, degenerate attributes, fits, files, error rates."""

import itertools

import numpy as np
import pytest
from scipy.special import betaln, psi

from scoring import drop_in, fusion, likelihood, metrics, population, smoothed
from scoring.likelihood import KINDS, SINGLE_ONLY, Side

N = 24


def planted(seed, speakers=50, recordings=(2, 9), attributes=N, owns=0.9, others=0.1):
    """Return bits and labels of speakers who own half of the attributes, and show them in nearly all recordings."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(speakers), draw.integers(*recordings, speakers))
    rates = np.where(draw.random((speakers, attributes)) < 0.5, owns, others)
    return (draw.random((len(labels), attributes)) < rates[labels]).astype(np.uint8), labels


def count(bits, labels):
    return population.population(bits, labels, [f"s{i}" for i in range(labels.max() + 1)])


@pytest.fixture(scope="module")
def pop():
    """A population with a dead, an always active, a once active and an all-or-nothing attribute (0 to 3)."""
    bits, labels = planted(0)
    bits[:, 0], bits[:, 1], bits[:, 2], bits[:, 3] = 0, 1, 0, labels % 2
    bits[5, 2] = 1
    return count(bits, labels)


def side(draw, rows, most):
    recordings = draw.integers(1, most + 1, rows)
    return Side(draw.integers(0, recordings[:, None] + 1, (rows, N)), recordings)


def all_pairs(enrol, test):
    return np.stack(np.meshgrid(np.arange(len(enrol.active)), np.arange(len(test.active)), indexing="ij"), -1)


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize(
    "kind, most", [(kind, most) for kind in KINDS for most in (1, 4) if most == 1 or kind not in SINGLE_ONLY]
)
def test_all_ways_to_score_agree_and_terms_add_up(kind, most, pop):
    model, draw = likelihood.fit_model(kind, pop), np.random.default_rng(most)
    enrol, test = side(draw, 13, most), side(draw, 17, most)
    pairs = all_pairs(enrol, test).reshape(-1, 2)
    every = likelihood.score_all(model, enrol, test)
    listed = likelihood.score_pairs(model, enrol, test, pairs)
    terms = likelihood.partials(model, enrol.take(pairs[:, 0]), test.take(pairs[:, 1]))
    assert terms.shape == (len(pairs), N) and np.isfinite(terms).all()
    scale = np.abs(terms).sum(1)
    assert (np.abs(terms.sum(1) - listed) <= 1e-12 * scale).all()
    assert (np.abs(every.reshape(-1) - listed) <= 1e-12 * scale).all()
    assert not terms[:, ~model.used].any()
    turned = likelihood.score_all(model, test, enrol).T
    np.testing.assert_allclose(turned, every, rtol=0, atol=1e-12 * scale.max())


@pytest.mark.parametrize("kind, most", [("beta", 1), ("beta", 3), ("cosine", 2), ("dna", 1)])
def test_parts_of_a_list_give_the_scores_of_the_whole(kind, most, pop, monkeypatch):
    model, draw = likelihood.fit_model(kind, pop), np.random.default_rng(0)
    enrol, test = side(draw, 40, most), side(draw, 30, most)
    pairs = draw.integers(0, 30, (500, 2))
    terms = likelihood.partials(model, enrol.take(pairs[:, 0]), test.take(pairs[:, 1]))
    for sizes in ({"DENSE": 1000, "CELLS": 70}, {"DENSE": 0}, {"DENSE": 0, "MOST_TRIALS": 7, "LOOKUPS": 5 * N}):
        for name, value in sizes.items():
            monkeypatch.setattr(likelihood, name, value)
        found = likelihood.score_pairs(model, enrol, test, pairs)
        np.testing.assert_allclose(found, terms.sum(1), rtol=0, atol=1e-12 * np.abs(terms).sum(1).max())


@pytest.mark.parametrize("kind", ("maxllr", "beta"))
def test_ratios_are_those_of_the_formulas(kind, pop):
    model, draw = likelihood.fit_model(kind, pop), np.random.default_rng(3)
    enrol, test = side(draw, 6, 3), side(draw, 6, 3)

    def evidence(i, active, total):
        absent = total - active
        if kind == "beta":
            a, b = model.parameters["alpha"][i]
            return betaln(a + active, b + absent) - betaln(a, b)
        f, p, q = (model.parameters[name][i] for name in "fpq")
        return np.log(f * p**active * (1 - p) ** absent + (1 - f) * q**active * (1 - q) ** absent)

    for row in range(6):
        score = 0.0
        for i in np.flatnonzero(model.used):
            e, t = enrol.active[row, i], test.active[row, i]
            m, k = enrol.recordings[row], test.recordings[row]
            score += evidence(i, e + t, m + k) - evidence(i, e, m) - evidence(i, t, k)
        found = likelihood.score_pairs(model, enrol, test, [[row, row]])[0]
        assert found == pytest.approx(score, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("kind", ("dna", "speech", "maxllr", "beta"))
def test_terms_by_case_are_those_of_single_recordings(kind, pop):
    model = likelihood.fit_model(kind, pop)
    table = likelihood.case_terms(model)
    for e, t in itertools.product((0, 1), repeat=2):
        terms = likelihood.partials(model, *(likelihood.single(np.full((1, N), bit, np.uint8)) for bit in (e, t)))
        np.testing.assert_allclose(table[:, 1 - e, 1 - t], terms[0], atol=1e-12)


def test_cosine_has_no_terms_by_case(pop):
    with pytest.raises(ValueError, match="depend on all others"):
        likelihood.case_terms(likelihood.fit_model("cosine", pop))


def test_pooled_recordings_are_their_counts():
    bits = np.random.default_rng(0).integers(0, 2, (9, N)).astype(np.uint8)
    made = likelihood.pooled(bits, [np.array([3, 1]), np.array([0]), np.array([2, 5, 8])])
    assert made.recordings.tolist() == [2, 1, 3]
    np.testing.assert_array_equal(made.active[2], bits[[2, 5, 8]].sum(0))
    assert likelihood.pooled(bits, [np.array([4])]).active.dtype == np.uint8


@pytest.mark.parametrize("kind", ("maxllr", "beta", "cosine"))
def test_four_hundred_activations_and_absences_are_finite(kind, pop):
    model = likelihood.fit_model(kind, pop)
    many = Side(np.full((1, N), 400), np.array([800]))
    for other in (many, likelihood.single(np.ones((1, N), np.uint8)), Side(np.full((1, N), 800), np.array([800]))):
        assert np.isfinite(likelihood.score_all(model, many, other)).all()
        terms = likelihood.partials(model, many, other)
        assert terms.sum() == pytest.approx(likelihood.score_all(model, many, other)[0, 0], rel=1e-9)


@pytest.mark.parametrize("kind", ("dna", "speech", "maxllr", "beta"))
def test_a_planted_population_separates_other_speakers(kind):
    model = likelihood.fit_model(kind, count(*planted(1, attributes=80)))
    bits, labels = planted(2, speakers=20, attributes=80)
    scores = likelihood.score_all(model, likelihood.single(bits), likelihood.single(bits))
    first, second = np.triu_indices(len(bits), 1)
    same = (labels[first] == labels[second]).astype(int)
    assert metrics.eer(scores[first, second], same)[0] < 3
    if kind in ("maxllr", "beta"):  # independent attributes, the models' own assumption: calibrated as they are
        loss = metrics.cllr(scores[first, second], same) - metrics.min_cllr(scores[first, second], same)
        assert loss < 0.05


def test_more_recordings_tell_more():
    model = likelihood.fit_model("beta", count(*planted(1)))
    bits, labels = planted(2, speakers=30, recordings=(4, 5), owns=0.8, others=0.2)
    rows = [np.flatnonzero(labels == speaker) for speaker in range(30)]
    same = np.eye(30, dtype=int).reshape(-1)

    def error(recordings):
        sides = [
            likelihood.pooled(bits, [r[part] for r in rows])
            for part in (slice(0, recordings), slice(2, 2 + recordings))
        ]
        return metrics.min_cllr(likelihood.score_all(model, *sides).reshape(-1), same)

    assert error(2) < error(1)


# ---------------------------------------------------------------- what is refused


def test_sides_that_do_not_fit_are_refused(pop):
    model, bits = likelihood.fit_model("dna", pop), np.ones((3, N), np.uint8)
    good = likelihood.single(bits)
    for wrong, message in (
        (likelihood.single(bits[:, 1:]), "for a model of 24 attributes"),
        (likelihood.single(2 * bits), "not binary"),
        (Side(bits, np.array([1, 1, 2])), "a side here pools 2"),
        (Side(bits, np.zeros(3, int)), "needs one recording"),
    ):
        for score in (
            likelihood.score_all,
            lambda *sides: likelihood.score_pairs(*sides, [[0, 0]]),
            likelihood.partials,
        ):
            with pytest.raises(ValueError, match=message):
                score(model, good, wrong)
    with pytest.raises(ValueError, match="pairs name rows"):
        likelihood.score_pairs(model, good, good, [[0, 3]])


def test_populations_that_say_nothing_are_refused():
    bits = np.ones((4, 3), np.uint8)
    for labels, names in ((np.zeros(4, int), ["a"]), (np.array([0, 0, 1, 1]), ["a", "b", "c"])):
        with pytest.raises(ValueError, match="two or more, each with one"):
            population.population(bits, labels, names)


# ---------------------------------------------------------------- fits


def test_counts_typicality_and_drop_out_by_hand():
    bits = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1]], np.uint8)
    found = population.population(bits, np.array([1, 0, 1, 2, 2]), ["a", "b", "c"])
    np.testing.assert_array_equal(found.active, [[1, 1, 0], [1, 1, 0], [2, 0, 1]])
    np.testing.assert_array_equal(found.recordings, [1, 2, 2])
    np.testing.assert_allclose(population.typicality(found), [1, 1 / 3, 0])
    np.testing.assert_allclose(population.drop_out(found), [1 / 6, 1 / 4, 1 / 2])
    assert population.count_attributes(found) == {"live": 3, "shared": 2, "dead": 0, "constant": 0}


def test_em_finds_planted_parameters():
    draw = np.random.default_rng(0)
    own = draw.random((3000, 1)) < 0.3
    recordings = draw.integers(3, 8, 3000)
    active = draw.binomial(recordings[:, None], np.where(own, 0.8, 0.05))
    found = population.fit_maxllr(population.Population([""] * 3000, active, recordings))
    for name, wanted in (("f", 0.3), ("p", 0.8), ("q", 0.05)):
        assert found[name][0] == pytest.approx(wanted, abs=0.03)


def test_fixed_point_finds_planted_parameters():
    draw = np.random.default_rng(0)
    recordings = np.full(4000, 12)
    active = draw.binomial(12, draw.beta(0.7, 2.0, (4000, 2)))
    found = population.fit_beta(population.Population([""] * 4000, active, recordings), 300)
    np.testing.assert_allclose(found, [[0.7, 2.0]] * 2, rtol=0.08)


def test_fixed_point_follows_its_formula():
    draw = np.random.default_rng(0)
    recordings = draw.integers(1, 9, 12)
    active = draw.binomial(recordings[:, None], 0.2, (12, 3))
    assert active.max() < (recordings[:, None] - active).max()
    pop = population.Population([""] * 12, active, recordings)
    before, after = (population.fit_beta(pop, iterations) for iterations in (4, 5))
    counts = np.stack([active, recordings[:, None] - active], -1)
    whole, total = before.sum(-1), recordings[:, None]
    step = (psi(counts + before) - psi(before)).sum(0) / (psi(total + whole) - psi(whole)).sum(0)[:, None]
    np.testing.assert_allclose(after, before * step, rtol=1e-9)


def test_degenerate_attributes_leave_the_others_alone(pop):
    usual = np.arange(4, N)
    alone = population.Population(pop.speakers, pop.active[:, usual], pop.recordings)
    for name, values in population.fit_maxllr(pop).items():
        assert np.isfinite(values).all() and (values > 0).all() and (values < 1).all()
        np.testing.assert_array_equal(values[usual], population.fit_maxllr(alone)[name])
    fitted = population.fit_maxllr(pop)
    assert (fitted["p"] >= fitted["q"]).all()
    alpha = population.fit_beta(pop, 2000)
    assert np.isfinite(alpha).all() and (alpha > 0).all()
    # the start differs, the end does not
    np.testing.assert_allclose(alpha[usual], population.fit_beta(alone, 2000), rtol=1e-3)


def test_constant_attributes_count_in_no_fitted_model(pop):
    for kind in ("maxllr", "beta"):
        assert likelihood.fit_model(kind, pop).used[:4].tolist() == [False, False, True, True]
    assert likelihood.fit_model("dna", pop).used[:4].tolist() == [False, True, False, True]


def test_a_drop_in_is_chosen_where_the_cost_is_least():
    model = likelihood.fit_model("speech", count(*planted(1)))
    bits, labels = planted(2, speakers=15)
    sides = likelihood.single(bits)
    pairs = np.stack(np.triu_indices(len(bits), 1), 1)
    same = (labels[pairs[:, 0]] == labels[pairs[:, 1]]).astype(int)
    for criterion in drop_in.CRITERIA:
        best, rows = drop_in.search_drop_in(model, sides, sides, pairs, same, criterion, (0.05, 0.3, 0.9))
        assert best == min(rows, key=lambda row: row[criterion])["drop_in"]
        again = likelihood.fit_model("speech", count(*planted(1)), drop_in=best)
        scores = likelihood.score_pairs(again, sides, sides, pairs)
        assert metrics.cllr(scores, same) == pytest.approx([r["cllr"] for r in rows if r["drop_in"] == best][0])


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_from_its_file(kind, pop, tmp_path):
    model = likelihood.fit_model(kind, pop, drop_in=0.3)
    likelihood.write_model(tmp_path / "m.npz", model)
    found = likelihood.read_model(tmp_path / "m.npz")
    assert found.meta == model.meta and found.kind == kind
    np.testing.assert_array_equal(found.used, model.used)
    for name, values in model.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], values)


def test_damaged_models_are_refused(pop, tmp_path):
    model = likelihood.fit_model("dna", pop)
    for change, message in (
        ({"meta": {**model.meta, "version": 9}}, "of version 9"),
        ({"meta": {**model.meta, "drop_in": 2.0}}, "drop-in 2.0 is no probability"),
        ({"used": model.used[1:]}, "is not of 23 attributes"),
        ({"parameters": {"typicality": model.parameters["typicality"]}}, "no 'drop_out'"),
    ):
        changed = likelihood.AttributeModel(**{**vars(model), **change})
        likelihood.write_model(tmp_path / "m.npz", changed)
        with pytest.raises(ValueError, match=message):
            likelihood.read_model(tmp_path / "m.npz")


def test_published_values_come_back_from_their_file(tmp_path):
    values = np.array([0.65051, 0.0, 1.0, 0.25])
    population.write_published(tmp_path / "t.txt", values)
    assert (tmp_path / "t.txt").read_text().startswith("BA0 : 0.650510\n")
    np.testing.assert_allclose(population.read_published(tmp_path / "t.txt", 6), [*values, 0, 0])
    for text, message in (
        ("BA1 : x", "line 1: expected"), ("BA1 : 2", "no share"), ("BA1 : 0\nBA1 : 0", "line 2"), ("", "no line"),
        ("BA9 : 0.1", "attribute 9 of 6"),
    ):  # fmt: skip
        (tmp_path / "t.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            population.read_published(tmp_path / "t.txt", 6)


# ---------------------------------------------------------------- error rates, fusion


def test_smoothed_rates_exceed_the_plain_ones_and_near_them():
    draw = np.random.default_rng(0)
    labels = (np.arange(4000) % 4 == 0).astype(int)
    scores = draw.standard_normal(4000) + 2 * labels
    assert 0 < smoothed.smoothed_min_cllr(scores, labels) - metrics.min_cllr(scores, labels) < 0.01
    assert abs(smoothed.smoothed_hull_eer(scores, labels) - metrics.eer(scores, labels, "hull")[0]) < 0.3
    assert smoothed.smoothed_min_cllr(scores, labels, 0, 0) == pytest.approx(metrics.min_cllr(scores, labels))
    assert smoothed.smoothed_hull_eer(scores, labels, 0) == pytest.approx(metrics.eer(scores, labels, "hull")[0])
    assert (np.diff(smoothed.optimal_llrs(scores, labels)[np.argsort(scores)]) > 0).all()


def test_decisions_count_what_is_accepted():
    found = metrics.decisions([3, 2, 2, 1, 0, -1], [1, 1, 0, 1, 0, 0], 2)
    counted = {"TP": 2, "FP": 1, "FN": 1, "TN": 2, "DER": 2 / 6, "precision": 2 / 3, "F-score": 2 / 3, "MCC": 1 / 3}
    for name, value in counted.items():
        assert found[name] == pytest.approx(value), name
    nothing = metrics.decisions([0.0, 1.0], [1, 0], 5)
    assert nothing["precision"] == nothing["F-score"] == nothing["MCC"] == 0 and nothing["FRR"] == 1


def test_an_offset_without_penalty_is_the_log_odds_where_no_term_counts():
    draw = np.random.default_rng(0)
    terms, labels = draw.standard_normal((300, 5)), (np.arange(300) % 6 == 0).astype(int)
    fitted = fusion.fit_fusion(terms, labels, 0.003, balanced=False, penalise_offset=False)
    assert not fitted.weights.any() and fitted.offset == pytest.approx(np.log(50 / 250), abs=1e-3)
    assert fusion.fit_fusion(terms, labels, 0.003, balanced=False).offset > -1.5


def test_fusion_keeps_the_attributes_that_tell_speakers():
    draw = np.random.default_rng(0)
    sides = draw.integers(0, 40, (3000, 2))
    sides[::3, 1] = sides[::3, 0]
    labels = (sides[:, 0] == sides[:, 1]).astype(int)
    terms = draw.standard_normal((3000, 30))
    terms[:, :3] += 1.5 * labels[:, None]
    terms[:, 9] = 0.25
    strength, rows = fusion.choose_strength(terms, labels, sides, (1e-4, 1e-3, 1e-2, 0.1))
    assert strength == min(rows, key=lambda row: row["cllr"])["strength"] and strength > 1e-4
    fitted = fusion.fit_fusion(terms, labels, 0.003)
    assert fitted.weights[9] == 0 and (fitted.weights[:3] > 10 * np.abs(fitted.weights[3:]).max()).all()
    assert metrics.cllr(fitted.apply(terms), labels) < 0.6
    with pytest.raises(ValueError, match="too few for 5 folds"):
        fusion.choose_strength(terms[:6], labels[:6], sides[:6])
