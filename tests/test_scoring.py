"""Error rates against brute force, intervals against direct resampling, the command tuneThreshold.py and the plots.
Entry point: pytest tests/test_scoring.py.
"""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_curve

import tuneThreshold
from scoring import metrics, plots, trials
from scoring.intervals import bootstrap_interval
from scoring.metrics import EER_METHODS, cllr, eer, min_cllr, min_dcf, operating_points

COSTS = [(0.05, 1, 1), (0.01, 1, 1), (0.5, 1, 1), (0.2, 10, 3)]


def random_set(seed: int, count: int = 60, decimals: int | None = None):
    """Return scores and labels of overlapping classes, tied where rounded; both classes present."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    labels[:2] = 0, 1
    scores = generator.standard_normal(count) + 1.5 * labels
    return scores if decimals is None else scores.round(decimals), labels


SETS = [random_set(s, n, d) for s, (n, d) in enumerate([(2, None), (7, 0), (60, None), (60, 1), (61, 0), (300, 1)] * 5)]


def brute_points(scores, labels):
    """Count (threshold, fpr, fnr) one threshold at a time."""
    points = []
    for threshold in [np.inf, *sorted(set(scores.tolist()), reverse=True)]:
        accepted = scores >= threshold
        points.append((threshold, np.mean(accepted[labels == 0]), np.mean(~accepted[labels == 1])))
    return np.array(points)


@pytest.mark.parametrize("scores, labels", SETS)
def test_points_and_dcf_equal_brute_force(scores, labels):
    points = brute_points(scores, labels)
    np.testing.assert_allclose(np.stack(operating_points(scores, labels), 1), points, atol=1e-12)
    for p, c_miss, c_fa in COSTS:
        costs = (c_miss * p * points[:, 2] + c_fa * (1 - p) * points[:, 1]) / min(c_miss * p, c_fa * (1 - p))
        value, threshold = min_dcf(scores, labels, p, c_miss, c_fa)
        assert value == pytest.approx(costs.min(), abs=1e-12)
        assert costs[points[:, 0] == threshold] == pytest.approx(value)
        eta = np.log(c_fa * (1 - p) / (c_miss * p))
        miss, alarm = np.mean(scores[labels == 1] < eta), np.mean(scores[labels == 0] >= eta)
        actual = metrics.act_dcf(scores, labels, p, c_miss, c_fa)
        assert actual == pytest.approx((c_miss * p * miss + c_fa * (1 - p) * alarm) / min(c_miss * p, c_fa * (1 - p)))
        assert actual >= value - 1e-12


@pytest.mark.parametrize("scores, labels", SETS)
def test_eer_methods_equal_their_definitions(scores, labels):
    _, fpr, fnr = brute_points(scores, labels).T
    fpr_kept, tpr_kept, _ = roc_curve(labels, scores)
    i = np.argmin(np.abs(1 - tpr_kept - fpr_kept))
    assert eer(scores, labels)[0] == pytest.approx(100 * max(fpr_kept[i], 1 - tpr_kept[i]), abs=1e-10)

    crossing = next(i for i in range(len(fpr)) if fpr[i] >= fnr[i])
    before, after = fpr[crossing - 1] - fnr[crossing - 1], fpr[crossing] - fnr[crossing]
    value = fpr[crossing - 1] + before / (before - after) * (fpr[crossing] - fpr[crossing - 1])
    assert eer(scores, labels, "interpolated")[0] == pytest.approx(100 * value, abs=1e-10)

    nearest = np.abs(fpr - fnr)
    i = max(i for i in range(len(fpr)) if nearest[i] <= nearest.min() + 1e-9)
    assert eer(scores, labels, "midpoint")[0] == pytest.approx(50 * (fpr[i] + fnr[i]), abs=1e-10)

    # The hull's EER is the largest of the least average errors over all priors; the grid bounds it from below.
    priors = np.linspace(0, 1, 2001)[:, None]
    least = np.min(priors * fnr + (1 - priors) * fpr, axis=1).max()
    assert 100 * least - 1e-9 <= eer(scores, labels, "hull")[0] <= 100 * least + 0.1


@pytest.mark.parametrize("scores, labels", SETS)
def test_order_of_trials_and_rising_maps_do_not_matter(scores, labels):
    order = np.random.default_rng(0).permutation(len(scores))
    for method in EER_METHODS:
        value = eer(scores, labels, method)[0]
        assert eer(scores[order], labels[order], method)[0] == value
        assert eer(np.exp(scores), labels, method)[0] == value
    assert eer(scores, labels, "hull")[0] <= eer(scores, labels, "interpolated")[0] + 1e-9
    assert min_cllr(scores[order], labels[order]) == min_cllr(3 * scores - 7, labels) == min_cllr(scores, labels)
    assert cllr(scores[order], labels[order]) == pytest.approx(cllr(scores, labels))


@pytest.mark.parametrize("scores, labels", SETS)
def test_min_cllr_is_the_cllr_of_the_best_calibration(scores, labels):
    value = min_cllr(scores, labels)
    assert -1e-12 <= value <= min(1 + 1e-12, cllr(scores, labels))
    # Pool adjacent violators one by one: [targets, impostors] of every group of tied scores, rising.
    blocks = []
    for score in sorted(set(scores.tolist())):
        blocks.append([np.sum(labels[scores == score] == k) for k in (1, 0)])
        while len(blocks) > 1 and blocks[-2][0] * sum(blocks[-1]) >= blocks[-1][0] * sum(blocks[-2]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    targets, impostors = np.sum(blocks, axis=0)
    cost = 0.0
    for t, i in blocks:
        if t and i:
            odds = t / i / (targets / impostors)
            cost += t / targets * np.log2(1 + 1 / odds) + i / impostors * np.log2(1 + odds)
    assert value == pytest.approx(cost / 2, abs=1e-12)


def test_known_values():
    scores, labels = np.array([-3.0, -1, 2, 4]), np.array([0, 0, 1, 1])
    for method in EER_METHODS:
        assert eer(scores, labels, method)[0] == 0
        assert eer(-scores, labels, method)[0] == (50 if method == "hull" else 100)
    assert min_dcf(scores, labels)[0] == 0 and min_dcf(scores, labels)[1] == 2
    assert min_cllr(scores, labels) == 0
    zeros = np.zeros(4)
    assert cllr(zeros, labels) == pytest.approx(1) and metrics.act_dcf(zeros, labels) == 1
    assert min_cllr(zeros, labels) == pytest.approx(1)
    assert cllr(np.array([-1e4, -1e4, 1e4, -1e4]), labels) == pytest.approx(1e4 / 4 / np.log(2))  # no overflow
    # Ties move together: the two orders within the tied scores must not count as operating points.
    assert min_dcf([1.0, 1, 0, 2], [0, 1, 0, 1], 0.5)[0] == 0.5


def test_two_points_equally_near():
    # After three targets the difference of the rates is -1/4, after two tied impostors more it is +1/4.
    scores, labels = [5.0, 4, 3, 2, 2, 1, 0, -1], [1, 1, 1, 0, 0, 1, 0, 0]
    assert eer(scores, labels, "nearest") == (25, 3)
    assert eer(scores, labels, "midpoint") == (37.5, 2)
    assert eer(scores, labels, "interpolated") == (25, 2)


def test_shuffled_labels_give_half():
    generator = np.random.default_rng(3)
    scores, labels = generator.standard_normal(20_000), generator.integers(0, 2, 20_000)
    for method in EER_METHODS:
        assert eer(scores, labels, method)[0] == pytest.approx(50, abs=1.5)
    assert min_dcf(scores, labels)[0] > 0.98 and min_cllr(scores, labels) > 0.99


@pytest.mark.parametrize("scores, labels", SETS[:12])
def test_weights_are_copies(scores, labels):
    weights = np.random.default_rng(5).integers(0, 4, len(scores))
    weights[:2] = 2  # both classes
    copies = np.repeat(scores, weights), np.repeat(labels, weights)
    for method in EER_METHODS:
        assert eer(scores, labels, method, weights)[0] == pytest.approx(eer(*copies, method)[0], abs=1e-10)
        assert eer(scores, labels, method, 0.1 * weights)[0] == pytest.approx(eer(*copies, method)[0], abs=1e-9)
    assert min_dcf(scores, labels, weights=weights) == pytest.approx(min_dcf(*copies))
    assert min_cllr(scores, labels, weights) == pytest.approx(min_cllr(*copies), abs=1e-10)


@pytest.mark.parametrize(
    "measure", [eer, min_dcf, cllr, min_cllr, metrics.act_dcf, operating_points, bootstrap_interval]
)
@pytest.mark.parametrize(
    "scores, labels, word",
    [
        ([1.0, 2.0], [1, 1], "no impostor"),
        ([1.0, 2.0], [0, 0], "no target"),
        ([], [], "no target"),
        ([1.0, np.nan, 2.0], [0, 1, 1], "trial 2 of 3"),
        ([1.0, np.inf], [0, 1], "not a finite"),
        ([1.0, 2.0, 3.0], [0, 1], "same length"),
        ([[1.0, 2.0]], [[0, 1]], "two lists"),
        ([1.0, 2.0], [0, 2], "neither 1"),
        ([1.0, 2.0], [0, np.nan], "neither 1"),
    ],
)
def test_bad_trials_are_named(measure, scores, labels, word):
    with pytest.raises(ValueError, match=word):
        measure(scores, labels)


def test_bad_settings_are_named():
    scores, labels = [1.0, 2.0], [0, 1]
    with pytest.raises(ValueError, match="median"):
        eer(scores, labels, "median")
    for p, c_miss, c_fa in ((0, 1, 1), (1, 1, 1), (0.1, 0, 1), (0.1, 1, -1), (float("nan"), 1, 1)):
        with pytest.raises(ValueError, match="p_target"):
            min_dcf(scores, labels, p, c_miss, c_fa)
    for weights, word in (([1.0], "1 weights"), ([1.0, -1.0], "negative"), ([0.0, 1.0], "no impostor")):
        with pytest.raises(ValueError, match=word):
            eer(scores, labels, weights=weights)


def speaker_trials(seed: int, speakers: int = 12, count: int = 400):
    generator = np.random.default_rng(seed)
    sides = generator.integers(0, speakers, (count, 2))
    sides[::2, 1] = sides[::2, 0]
    labels = (sides[:, 0] == sides[:, 1]).astype(int)
    voice = generator.standard_normal(speakers)
    scores = (generator.standard_normal(count) + 1.5 * labels + voice[sides].sum(1) * 0.5).round(1)
    return scores, labels, sides


def test_bootstrap_equals_resampling_trial_lists():
    scores, labels, sides = speaker_trials(0)
    sides = 7 * sides + 3  # any integers may name the speakers
    names = np.unique(sides)
    generator, expected = np.random.default_rng(4), []
    for _ in range(20):
        drawn = names[generator.integers(0, len(names), len(names))]
        chosen = []
        for trial, (a, b) in enumerate(sides):
            # Every copy of speaker a meets every copy of b; a copy's trials with itself stay its own.
            copies = sum(a == x and b == y for x in drawn for y in drawn) if a != b else sum(a == x for x in drawn)
            chosen += [trial] * copies
        expected.append(eer(scores[chosen], labels[chosen])[0])
    got = bootstrap_interval(scores, labels, sides, replicates=20, seed=4, level=0.5)
    np.testing.assert_allclose([got.low, got.high], np.quantile(expected, [0.25, 0.75]), atol=1e-9)
    assert (got.replicates, got.redrawn, got.unit) == (20, 0, "speakers")


def test_bootstrap_is_seeded_covers_and_says_what_it_resampled():
    scores, labels, sides = speaker_trials(1)
    first = bootstrap_interval(scores, labels, sides, seed=1, replicates=300)
    assert first == bootstrap_interval(scores, labels, sides, seed=1, replicates=300)
    assert first != bootstrap_interval(scores, labels, sides, seed=2, replicates=300)
    assert first.low < eer(scores, labels)[0] < first.high
    narrow = bootstrap_interval(scores, labels, sides, seed=1, replicates=300, level=0.5)
    assert first.low < narrow.low < narrow.high < first.high
    plain = bootstrap_interval(scores, labels, seed=1, replicates=300)
    assert plain.unit == "trials" and "speakers unknown" in str(plain)
    assert plain.high - plain.low < first.high - first.low  # trials of one speaker are alike
    both = bootstrap_interval(
        scores, labels, sides, lambda c: np.array([metrics.eer_of(c)[0], metrics.min_dcf_of(c)[0]]), 300, 1
    )
    dcf = bootstrap_interval(scores, labels, sides, "min_dcf", 300, 1)
    np.testing.assert_array_equal(both.low, [first.low, dcf.low])
    # Order of the trials changes nothing.
    order = np.random.default_rng(0).permutation(len(scores))
    assert bootstrap_interval(scores[order], labels[order], sides[order], seed=1, replicates=300) == first


def test_bootstrap_counts_redraws_and_refuses_bad_settings():
    scores, labels, sides = [0.0, 1, 2, 3], [0, 1, 1, 0], np.array([[0, 1], [0, 0], [1, 1], [1, 0]])
    result = bootstrap_interval(scores, labels, sides, replicates=200)
    assert 120 < result.redrawn < 300  # half of all draws hold one of the two speakers twice: no impostor is left
    assert f"{result.redrawn} redrawn" in str(result)
    for bad in ([[0, 1]], [[0.5, 1]] * 4, [0, 1, 1, 0]):
        with pytest.raises(ValueError, match="sides"):
            bootstrap_interval(scores, labels, bad)
    for setting, word in (({"replicates": 0}, "replicates"), ({"level": 1.0}, "level"), ({"metric": "auc"}, "auc")):
        with pytest.raises(ValueError, match=word):
            bootstrap_interval(scores, labels, **setting)


def test_original_functions_equal_brute_force():
    scores, labels = random_set(9, 200)
    order = np.argsort(scores)
    fnrs, fprs, thresholds = tuneThreshold.ComputeErrorRates(scores, labels)
    misses = np.cumsum(labels[order]) / labels.sum()
    alarms = 1 - np.cumsum(1 - labels[order]) / (1 - labels).sum()
    np.testing.assert_allclose(fnrs, [0, *misses], atol=1e-12)
    np.testing.assert_allclose(fprs, [1, *alarms], atol=1e-12)
    np.testing.assert_array_equal(thresholds, [-np.inf, *scores[order]])
    for p, c_miss, c_fa in COSTS:
        value, threshold = tuneThreshold.ComputeMinDcf(fnrs, fprs, thresholds, p, c_miss, c_fa)
        assert value == pytest.approx(min_dcf(scores, labels, p, c_miss, c_fa)[0], abs=1e-12)
        assert threshold in thresholds
    tuned, value, fpr, fnr = tuneThreshold.tuneThresholdfromScore(scores, labels, [1, 0.1], [0.05])
    assert value == eer(scores, labels)[0]
    assert tuned[1][1:] == [1, 0] and tuned[1][0] == scores.min()
    for (threshold, fa, fr), rate, target in ((tuned[0], fnr, 0.05), (tuned[2], fpr, 0.1)):
        assert np.mean(scores[labels == 0] >= threshold) == pytest.approx(fa)
        assert np.mean(scores[labels == 1] < threshold) == pytest.approx(fr)
        assert abs((fr if rate is fnr else fa) - target) == np.abs(rate - target).min()
    assert len(tuneThreshold.tuneThresholdfromScore(scores, labels, [0.1])[0]) == 1


@pytest.fixture
def score_files(tmp_path):
    """A trial list and its scores, the scores in another order; returns their paths, scores and labels."""
    scores, labels, sides = speaker_trials(2)
    names = [f"id{speaker:02d}/v/{number}.wav" for speaker in range(12) for number in range(40)]
    pairs = sides * 40 + np.arange(len(sides))[:, None] % 40
    listing = [f"{label} {names[a]} {names[b]}\n" for label, (a, b) in zip(labels, pairs, strict=True)]
    (tmp_path / "trials.txt").write_text("".join(listing))
    order = np.random.default_rng(0).permutation(len(scores))
    trials.write_scores(tmp_path / "scores.txt", scores[order], pairs[order], names)
    return tmp_path / "scores.txt", tmp_path / "trials.txt", scores, labels, sides


def is_picture(path) -> bool:
    """Return whether a PNG shows more than one colour in many places."""
    from matplotlib.image import imread

    return path.read_bytes().startswith(b"\x89PNG") and (np.ptp(imread(path)[..., :3], axis=2) > 0.1).sum() > 200


def test_command_prints_and_writes_the_figures(score_files, tmp_path, capsys):
    path, listing, scores, labels, sides = score_files
    command = f"{path} --test_list {listing} --dcf_p_target 0.01 0.05 --llr --bootstrap 50 --seed 3"
    command += f" --target_fa 0.1 --target_fr 0.2 --eer_method hull --save_path {tmp_path}/out"
    tuneThreshold.main(command.split())
    printed = capsys.readouterr().out
    value = eer(scores, labels, "hull")[0]
    interval = bootstrap_interval(
        scores, labels, sides, lambda counts: metrics.eer_of(counts, "hull")[0], replicates=50, seed=3
    )
    assert f"EER {value:.4f} % [{interval.low:.4f}, {interval.high:.4f}], method hull" in printed
    assert "50 bootstrap replicates over speakers" in printed and "actDCF" in printed
    assert f"min-Cllr {min_cllr(scores, labels):.5f} bits, Cllr {cllr(scores, labels):.5f} bits" in printed
    assert f"minDCF {min_dcf(scores, labels, 0.01)[0]:.5f}" in printed and "false acceptance rate 10 %" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["eer"]["percent"] == value and len(report["dcf"]) == len(report["operating_points"]) == 2
    assert report["dcf"][1]["min"] == min_dcf(scores, labels)[0]
    assert is_picture(tmp_path / "out" / "det.png") and is_picture(tmp_path / "out" / "histogram.png")


def test_command_takes_labelled_scores(tmp_path, capsys):
    scores, labels = random_set(1)
    path = tmp_path / "labelled.txt"
    path.write_text("".join(f"{label} {score!r}\n" for label, score in zip(labels, scores.tolist(), strict=True)))
    tuneThreshold.main([str(path), "--bootstrap", "20"])
    printed = capsys.readouterr().out
    assert f"EER {eer(scores, labels)[0]:.4f} % [" in printed and "over trials (speakers unknown)" in printed
    assert "Cllr" in printed and "actDCF" not in printed and "method nearest" in printed
    tuneThreshold.main([str(path), "--bootstrap", "0"])
    assert "[" not in capsys.readouterr().out


def test_command_names_what_is_wrong(score_files, tmp_path):
    path, listing, *_ = score_files
    unlabelled, one_class, short = (tmp_path / name for name in ("unlabelled.txt", "one.txt", "short.txt"))
    unlabelled.write_text("".join(line.split(maxsplit=1)[1] for line in listing.read_text().splitlines(True)))
    one_class.write_text("1 0.5\n1 0.7\n")
    short.write_text("".join(listing.read_text().splitlines(True)[:-1]))
    for arguments, word in (
        ([path], "line 1: 3 words.*--test_list"),
        ([path, "--test_list", unlabelled], "no labels"),
        ([path, "--test_list", short], "is no trial of|scores for the"),
        ([path, "--test_list", listing, "--dcf_p_target", "2"], "p_target 2"),
        ([path, "--test_list", listing, "--target_fa", "10"], "fractions"),
        ([one_class], "one.txt: no impostor"),
    ):
        with pytest.raises(ValueError, match=word):
            tuneThreshold.main([str(a) for a in arguments])
    with pytest.raises(FileNotFoundError, match="nosuch"):
        tuneThreshold.main([str(tmp_path / "nosuch")])


def test_plots_show_degenerate_sets_too(tmp_path):
    scores, labels = random_set(2, 500)
    systems = {"usual": (scores, labels), "separated": ([0.0, 1], [0, 1]), "inverted": ([1.0, 0], [0, 1])}
    plots.det_plot(tmp_path / "det.png", {**systems, "one score": ([1.0, 1, 1], [0, 1, 1])})
    plots.score_histogram(tmp_path / "flat.png", [1.0, 1, 1], [0, 1, 1], threshold=np.inf)
    plots.score_histogram(tmp_path / "usual.png", scores, labels, 0.5)
    assert all(is_picture(tmp_path / f"{name}.png") for name in ("det", "flat", "usual"))
    with pytest.raises(ValueError, match="no system"):
        plots.det_plot(tmp_path / "none.png", {})


def test_training_curves_read_what_a_crash_left(tmp_path):
    log, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    rows = [{"step": 10 * i, "epoch": i, "loss": 5 / (i + 1), "lr": 1e-3, "margin": None} for i in range(5)]
    rows.append({"step": 40, "epoch": 4, "veer": 7.5, "note": "text"})
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "lo')
    plots.training_curves(picture, log)
    assert is_picture(picture)
    for text, word in (
        ("", "nothing recorded"),
        ('{"step": 1}\n', "no scalar"),
        ('{"loss": 1}\nbroken\n{"loss": 2}\n', "line 2"),
        ("[1, 2]\n", "line 1"),
    ):
        log.write_text(text)
        with pytest.raises(ValueError, match=word):
            plots.training_curves(picture, log)
