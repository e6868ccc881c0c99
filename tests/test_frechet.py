"""Class and Frechet score: exact values, how sure they are, statistics files, and the command that compares two."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import stat_compare
from scoring.feature_statistics import cautions, check_same_judge, gather, read_statistics, write_statistics
from scoring.frechet import (
    class_score,
    class_score_measured,
    extrapolated,
    frechet,
    frechet_measured,
    halves,
    influence,
    moments,
    precision_recall,
    resampled,
)


def log_probs_of(count, classes, scale=2.0, seed=0):
    logits = scale * np.random.default_rng(seed).standard_normal((count, classes))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def one_hot(labels, classes):
    """Return log-probabilities of 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.log(np.eye(classes)[labels])


def mixed(count, size, seed, scale=1.0, shift=0.0):
    """Return correlated features (count, size)."""
    draw = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((size, size)) / np.sqrt(size)
    return scale * draw.standard_normal((count, size)) @ mix + shift


# ---------------------------------------------------------------- class score


def test_the_class_score_lies_between_one_and_the_classes():
    assert class_score(one_hot(np.arange(40) % 4, 4)) == pytest.approx(4)
    assert class_score(one_hot(np.zeros(40, int), 4)) == pytest.approx(1)
    assert class_score(np.log(np.full((10, 5), 0.2))) == pytest.approx(1)
    log_p = log_probs_of(200, 10)
    p = np.exp(log_p)
    expected = np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    assert class_score(log_p) == pytest.approx(expected, rel=1e-12) and 1 < expected < 10


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_probabilities_that_underflow_or_are_zero_count_nothing(scale):
    score = class_score(-scale * (1 - np.eye(3)[np.arange(30) % 3]).astype(np.float32))
    assert score == pytest.approx(3)
    never = one_hot(np.arange(30) % 2, 3)  # a class that no sample has
    assert class_score(never) == pytest.approx(2)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[np.nan, 0.0]], "row 0 of the log-probabilities sums to nan"),
        ([[0.0, -np.inf], [1.0, 1.0]], "row 1 of the log-probabilities sums to 5.43656"),
        ([[np.inf, 0.0]], "row 0 of the log-probabilities sums to inf"),
        ([0.0, -1.0], "must be .samples, classes., not .2,."),
        (np.zeros((0, 3)), "must be .samples, classes., not .0, 3."),
    ],
)
def test_what_are_no_log_probabilities_is_told(rows, message):
    with pytest.raises(ValueError, match=message):
        class_score(np.array(rows))


# ---------------------------------------------------------------- Frechet score


def test_the_frechet_score_of_gaussians_is_exact():
    draw = np.random.default_rng(0)
    one, two, shift = draw.uniform(0.1, 2, 20), draw.uniform(0.1, 2, 20), draw.standard_normal(20)
    expected = (shift**2).sum() + ((np.sqrt(one) - np.sqrt(two)) ** 2).sum()
    turn = np.linalg.qr(draw.standard_normal((20, 20)))[0]
    sides = np.zeros(20), turn @ np.diag(one) @ turn.T, turn @ shift, turn @ np.diag(two) @ turn.T
    assert frechet(*sides) == pytest.approx(expected, rel=1e-10)
    assert frechet(*sides[2:], *sides[:2]) == pytest.approx(expected, rel=1e-10)
    assert frechet(*sides[:2], *sides[:2]) == pytest.approx(0, abs=1e-10)


def test_singular_covariances_give_what_the_samples_give_in_their_own_span():
    one, two = mixed(20, 64, 0), mixed(30, 64, 1, 1.3)
    basis = np.linalg.qr(np.concatenate([one, two]).T)[0]
    lifted, within = (frechet(*moments(a), *moments(b)) for a, b in ((one, two), (one @ basis, two @ basis)))
    assert lifted == pytest.approx(within, rel=1e-8) and np.isfinite(lifted)
    assert frechet(*moments(one), *moments(one)) == pytest.approx(0, abs=1e-6)
    assert frechet(np.zeros(3), np.zeros((3, 3)), np.ones(3), np.eye(3)) == pytest.approx(6)


def test_sides_that_do_not_fit_or_are_not_finite_are_told():
    eye = np.eye(3)
    with pytest.raises(ValueError, match=r"of shapes \(3,\), \(3, 3\) and \(2,\), \(2, 2\) cannot be compared"):
        frechet(np.zeros(3), eye, np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="not finite"):
        frechet(np.zeros(3), eye, np.array([0, np.nan, 0]), eye)
    with pytest.raises(ValueError, match="at least two samples"):
        moments(np.zeros((1, 3)))


@pytest.mark.parametrize("count", [300, 20], ids=["many", "fewer than features"])
def test_the_influence_of_a_sample_is_the_derivative_by_its_weight(count):
    one, two = mixed(count, 30, 0), mixed(400, 30, 1, 1.2, 0.1)

    def weighted(weights):
        mean = weights @ one
        centred = one - mean
        return mean, (centred * weights[:, None]).T @ centred

    equal = np.full(count, 1 / count)
    mean, cov = weighted(equal)
    rates = influence(one, mean, cov, *moments(two))
    rates -= rates.mean()
    step, change = 1e-5, np.random.default_rng(2).standard_normal(count) / count
    change -= change.mean()
    sides = [frechet(*weighted(equal + sign * step * change), *moments(two)) for sign in (1, -1)]
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(rates @ change, rel=1e-3)


def test_the_interval_is_as_wide_as_the_score_varies_and_the_bias_is_taken_off():
    size, count = 24, 240
    exact = frechet(*moments(mixed(200_000, size, 0)), *moments(mixed(200_000, size, 1, 1.15)))
    values, corrected, widths, held = [], [], [], 0
    for trial in range(40):
        one, two = mixed(count, size, 10 + trial), mixed(count, size, 100 + trial, 1.15)
        found = frechet_measured((*moments(one), one), (*moments(two), two), 400, 2, trial)
        values.append(found.value)
        corrected.append(found.corrected)
        widths.append(found.interval[1] - found.interval[0])
        held += found.corrected_interval[0] <= exact <= found.corrected_interval[1]
    assert np.mean(values) > 1.5 * exact  # the bias of few samples
    assert abs(np.mean(corrected) - exact) < 0.15 * exact
    assert 0.6 < np.mean(widths) / (2 * 1.96 * np.std(values)) < 1.5
    assert held >= 32


def test_only_the_side_with_features_is_resampled_and_seeds_repeat():
    one, two = mixed(100, 8, 0), mixed(120, 8, 1, 1.3)
    sides = [(*moments(x), x) for x in (one, two)]
    both, first = frechet_measured(*sides, 300), frechet_measured(sides[0], (*sides[1][:2], None), 300)
    assert both.value == first.value and both == frechet_measured(*sides, 300)
    assert both.interval[1] - both.interval[0] > first.interval[1] - first.interval[0] > 0
    assert both.corrected < first.corrected < first.value
    none = frechet_measured((*sides[0][:2], None), (*sides[1][:2], None))
    assert none.value == both.value and none[1:] == (None, None, None)
    assert frechet_measured(*sides, 0, 0)[1:] == (None, None, None)
    assert frechet_measured((*moments(one[:3]), one[:3]), (*sides[1][:2], None)).interval is None


def test_halves_share_out_all_samples_and_a_straight_bias_is_taken_off():
    x = np.arange(22.0).reshape(11, 2)
    (mean, _), (other, _) = halves(x, 1, 0)
    np.testing.assert_allclose((6 * mean + 5 * other) / 11, x.mean(0))
    assert extrapolated(3 + 8 / 100, [3 + 8 / 50, 3 + 8 / 50]) == pytest.approx(3)


def test_bootstrap_means_vary_as_means_do():
    values = np.random.default_rng(0).standard_normal(400)
    deviations = resampled([values], 4000, 1)
    assert deviations.std() == pytest.approx(values.std() / 20, rel=0.05) and abs(deviations.mean()) < 0.005
    found = class_score_measured(log_probs_of(400, 8), 500, 3)
    assert found.interval[0] < found.value < found.interval[1] and found == class_score_measured(
        log_probs_of(400, 8), 500, 3
    )
    assert class_score_measured(log_probs_of(400, 8), 0).interval is None


def test_precision_and_recall_tell_apart_what_is_missing():
    draw = np.random.default_rng(0)
    real = np.concatenate([draw.standard_normal((150, 4)), draw.standard_normal((150, 4)) + 30])
    one_mode = draw.standard_normal((150, 4))
    precision, recall = precision_recall(real, one_mode)
    assert precision > 0.8 and 0.35 < recall < 0.55
    assert precision_recall(real, real + 1000) == (0, 0) and precision_recall(real, real) == (1, 1)
    with pytest.raises(ValueError, match="3 and 300 samples; more than 3 each are needed"):
        precision_recall(real[:3], real)


# ---------------------------------------------------------------- files


def stats(path, count=60, size=6, classes=4, seed=0, keep=True, **meta):
    found = gather(mixed(count, size, seed), log_probs_of(count, classes, seed=seed), meta, keep)
    write_statistics(path, found)
    return path


def test_a_statistics_file_has_what_the_reference_has_and_comes_back(tmp_path):
    path = stats(tmp_path / "s.npz", checkpoint="c.pt", sha256="abc")
    with np.load(path) as arrays:
        types = {name: (arrays[name].dtype, arrays[name].shape) for name in arrays}
        score = float(arrays["class_score"])
    assert types["mean"] == (np.float32, (6,)) and types["cov"] == (np.float64, (6, 6))
    assert types["probs"] == (np.float32, (60, 4)) and types["class_score"] == (np.float32, ())
    assert score == pytest.approx(class_score(log_probs_of(60, 4)), rel=1e-5)
    found = read_statistics(path)
    assert found.count == 60 and found.meta == {"checkpoint": "c.pt", "sha256": "abc"}
    np.testing.assert_allclose(found.features, mixed(60, 6, 0), rtol=1e-6)
    np.testing.assert_allclose(moments(found.features)[1], found.cov, rtol=1e-4, atol=1e-6)


def test_a_file_of_the_reference_with_mean_and_cov_alone_is_enough(tmp_path):
    np.savez(tmp_path / "bare.npz", mean=np.zeros(6, np.float32), cov=np.eye(6))
    found = read_statistics(tmp_path / "bare.npz")
    assert found.count is None and found.probs is None and cautions(found) == []
    with np.load(stats(tmp_path / "s.npz")) as arrays:
        named = ("mean", "cov", "probs", "class_score")
        np.savez(tmp_path / "old.npz", **{name: arrays[name] for name in named})
    assert read_statistics(tmp_path / "old.npz").count == 60


def test_cautions_say_the_numbers(tmp_path):
    few = read_statistics(stats(tmp_path / "few.npz", count=5, classes=8))
    many = read_statistics(stats(tmp_path / "many.npz", count=600))
    assert cautions(many) == []
    lines = cautions(few, many)
    assert len(lines) == 3 and all(line.startswith(("warning: ", "note: ")) for line in lines)
    assert "5 samples for 6 features: the covariance has rank 4 at most" in lines[0]
    assert "5 samples for 8 classes: the class score cannot be above 5" in lines[1]
    assert "5 and 600 samples: compare scores only with those of equal numbers" in lines[2]
    middle = read_statistics(stats(tmp_path / "middle.npz", count=59))
    assert "59 samples for 6 features: fewer than 60 make the Frechet score too high" in cautions(middle)[0]


def test_other_classifiers_are_refused_unless_that_is_wanted(tmp_path):
    one, two = (read_statistics(stats(tmp_path / f"{n}.npz", checkpoint=f"{n}.pt", sha256=n)) for n in "ab")
    with pytest.raises(ValueError, match="judged by a.pt .sha256 a., .*b.npz by b.pt .*--allow_other_classifier"):
        check_same_judge(one, two)
    check_same_judge(one, two, allow_other=True)
    two.meta = {}
    check_same_judge(one, two)


# ---------------------------------------------------------------- the command


def test_the_command_prints_and_writes_every_figure(tmp_path, capsys):
    one, two = stats(tmp_path / "a.npz", seed=0), stats(tmp_path / "b.npz", seed=1)
    stat_compare.main([str(one), str(two), "--precision_recall", "--save_path", str(tmp_path / "out")])
    text = capsys.readouterr().out
    value = frechet(*moments(mixed(60, 6, 0)), *moments(mixed(60, 6, 1)))
    assert float(re.search(r"^Frechet score: (\S+) \[", text, re.M)[1]) == pytest.approx(value, rel=1e-4)
    assert re.search(r"a.npz: 60 samples, 6 features, 4 classes, class score \d\.\d{4} \[", text)
    assert re.search(r"^bias-corrected Frechet score: \S+ \[.*2 splits into halves$", text, re.M)
    assert re.search(r"^precision [01]\.\d{4}, recall [01]\.\d{4}$", text, re.M)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["frechet_score"]["value"] == pytest.approx(value, rel=1e-5) and len(report["class_scores"]) == 2
    stat_compare.main([str(one), str(stats(tmp_path / "c.npz", keep=False)), "--bootstrap", "0", "--splits", "0"])
    assert "[" not in capsys.readouterr().out


def test_the_command_needs_neither_torch_nor_scipy(tmp_path):
    one, two = stats(tmp_path / "a.npz"), stats(tmp_path / "b.npz", seed=1)
    code = (
        f"import sys, stat_compare; stat_compare.main([{str(one)!r}, {str(two)!r}]); "
        "assert not {'torch', 'scipy', 'sklearn', 'matplotlib', 'soundfile'} & set(sys.modules), 'too much'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Frechet score: " in done.stdout, done.stderr
