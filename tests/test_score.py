"""score.py from tables of random embeddings: every step, calibration on another list, fusion, groups, seconds."""

import csv
import json

import numpy as np
import pytest
import torch

import score
from audio import lists
from engine import checkpoint
from scoring import calibration, metrics, norms, plda, trials
from scoring.embeddings import Table, read_table, write_table

DIM = 12


def corpus(folder, name, speakers, files, seed, noise=1.0):
    """Write a table of speakers on a shifted mean, its train list and a trial list; half the numbers are noise only."""
    draw = np.random.default_rng(seed)
    loudness = np.repeat([1.6, 0.0], DIM // 2)
    names = [f"{name}{s:02d}/s1/{i}.wav" for s in range(speakers) for i in range(files)]
    voices = np.repeat(loudness * draw.standard_normal((speakers, DIM)), files, axis=0)
    vectors = 2 + voices + noise * draw.standard_normal((len(names), DIM))
    write_table(
        folder / f"{name}.npz",
        Table(np.array([n.encode() for n in names]), vectors.astype(np.float32),
              draw.uniform(2, 9, len(names)).astype(np.float32), {"checkpoint": "best.pt", "sha256": "abc"}),
    )  # fmt: skip
    (folder / f"{name}_train.txt").write_text("".join(f"{n.split('/')[0]} {n}\n" for n in names))
    lines = []
    for first in range(len(names)):
        for second in draw.choice(len(names), 6):
            lines.append((first // files == second // files, names[first], names[second]))
        other = first // files * files + (first + 1) % files
        lines.append((True, names[first], names[other]))
    (folder / f"{name}.txt").write_text("".join(f"{int(same)} {a} {b}\n" for same, a, b in lines))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    corpus(folder, "train", 40, 6, 0)
    corpus(folder, "dev", 12, 6, 1)
    corpus(folder, "test", 14, 6, 2)
    with open(folder / "speakers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["speaker", "gender", "age"])
        writer.writerows([f"test{s:02d}", "fm"[s % 2], 10 + 3 * s] for s in range(14))
    return folder


def run(place, out, *flags):
    words = ["--embeddings", place / "test.npz", "--test_list", place / "test.txt", "--save_path", out, *flags]
    score.main([*map(str, words), "--bootstrap", "20"])
    return json.loads((out / "report.json").read_text())


def cohort(place):
    return ["--cohort", place / "train.npz", "--cohort_list", place / "train_train.txt"]


def backend(place):
    return ["--backend_table", place / "train.npz", "--backend_list", place / "train_train.txt"]


def dev(place):
    return ["--calibrate_list", place / "dev.txt", "--calibrate_embeddings", place / "dev.npz"]


def scores_of(out, step):
    return trials.read_scores(out / f"scores_{step}.txt").scores


def test_every_step_is_what_its_module_computes(place, tmp_path, capsys):
    flags = ["--mean_from", place / "train.npz", *cohort(place), "--score_norm", "as-norm", "--cohort_size", "10"]
    report = run(place, tmp_path, *flags, *dev(place), "--llr_prior", "0.01")
    listed = lists.read_trial_list(place / "test.txt")
    vectors = read_table(place / "test.npz").take(listed.names).vectors
    train = read_table(place / "train.npz").vectors
    mean = train.mean(0, dtype=np.float64)
    members = norms.centre(train.reshape(40, 6, DIM).mean(1), mean)
    centred = norms.centre(vectors, mean)
    wanted = {
        "raw": norms.score_and_normalise(vectors, listed.pairs),
        "mean-subtracted": norms.score_and_normalise(centred, listed.pairs),
        "as-norm": norms.score_and_normalise(centred, listed.pairs, members, "as-norm", 10),
    }
    for step, expected in wanted.items():
        np.testing.assert_allclose(scores_of(tmp_path, step), expected, rtol=1e-5, atol=1e-5)
    assert [row["step"] for row in report["steps"]] == [*wanted, "calibrated"]
    for row in report["steps"]:
        found = scores_of(tmp_path, row["step"])
        assert abs(row["eer"] - metrics.eer(found, listed.labels)[0]) < 1e-9
        assert abs(row["cllr"] - metrics.cllr(found, listed.labels)) < 1e-6
        assert row["eer_interval"][0] <= row["eer_interval"][1]
    last = report["steps"][-1]
    assert last["cllr"] < last["min_cllr"] + 0.15 and report["steps"][0]["cllr"] > last["cllr"]
    output = capsys.readouterr().out
    assert "cohort 40 speakers of train.npz by train_train.txt, top 10, as-norm, EER nearest" in output
    assert "| calibrated " in output and (tmp_path / "table.md").read_text().count("\n| ") == 5
    rows = list(csv.DictReader(open(tmp_path / "table.csv")))
    assert float(rows[0]["eer_low"]) <= float(rows[0]["eer"]) and (tmp_path / "det.png").stat().st_size > 5000
    probabilities = scores_of(tmp_path, "calibrated")
    np.testing.assert_allclose(
        trials.read_scores(tmp_path / "probabilities.txt").scores,
        calibration.probability(probabilities, 0.01), rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("flags, steps", [
    (["--whiten"], ["raw", "whitened"]),
    (["--lda", "5"], ["raw", "lda"]),
    (["--lda", "5", "--score", "plda"], ["raw", "lda", "plda"]),
    (["--score", "plda", "--score_norm", "s-norm"], ["raw", "whitened", "plda", "s-norm"]),
    (["--score", "plda", "--score_norm", "as-norm2", "--cohort_size", "9"], ["raw", "whitened", "plda", "as-norm2"]),
])  # fmt: skip
def test_backends(place, tmp_path, flags, steps):
    report = run(place, tmp_path / "a", *flags, *cohort(place), *backend(place))
    assert [row["step"] for row in report["steps"]] == steps
    # the stored backend gives the same scores without the training data
    kept = [f for f in flags if f not in ("--whiten", "--lda", "5")]
    run(place, tmp_path / "b", *kept, *cohort(place), "--backend", tmp_path / "a" / "backend.npz")
    assert np.array_equal(scores_of(tmp_path / "a", steps[-1]), scores_of(tmp_path / "b", steps[-1]))
    listed = lists.read_trial_list(place / "test.txt")
    stored = plda.read_backend(tmp_path / "a" / "backend.npz")
    projected = stored.project(read_table(place / "test.npz").take(listed.names).vectors)
    found = scores_of(tmp_path / "a", steps[1])
    np.testing.assert_allclose(found, norms.score_and_normalise(projected, listed.pairs), rtol=1e-5, atol=1e-5)
    if "plda" in steps:
        found = scores_of(tmp_path / "a", "plda")
        np.testing.assert_allclose(found, stored.scores(projected, listed.pairs), rtol=1e-5, atol=1e-5)


def test_plda_scores_are_normalised_by_plda_scores_of_the_cohort(place, tmp_path):
    run(place, tmp_path, "--score", "plda", "--score_norm", "z-norm", *cohort(place), *backend(place))
    listed = lists.read_trial_list(place / "test.txt")
    stored = plda.read_backend(tmp_path / "backend.npz")
    projected = stored.project(read_table(place / "test.npz").take(listed.names).vectors)
    members = stored.project(read_table(place / "train.npz").vectors.reshape(40, 6, DIM).mean(1))
    everything = np.concatenate([projected, members])
    a = listed.pairs[5, 0]
    own = stored.scores(everything, np.column_stack([np.full(40, a), len(projected) + np.arange(40)]))
    raw = scores_of(tmp_path, "plda")[5]
    assert abs(scores_of(tmp_path, "z-norm")[5] - (raw - own.mean()) / own.std(ddof=1)) < 1e-3


def test_a_cohort_in_a_checkpoint_is_the_cohort_of_the_table(place, tmp_path):
    means = torch.from_numpy(read_table(place / "train.npz").vectors.reshape(40, 6, DIM).mean(1))
    card = {"embeddings": means, "mean": means.mean(0), "std": means.std(0), "speakers": [f"s{i}" for i in range(40)]}
    checkpoint.write(tmp_path / "x.pt", {"class": "models.X", "kwargs": {}, "state_dict": {}, "meta": {"cohort": card}})
    run(
        place, tmp_path / "a", "--score_norm", "s-norm", "--cohort", tmp_path / "x.pt", "--mean_from", tmp_path / "x.pt"
    )
    run(place, tmp_path / "b", "--score_norm", "s-norm", *cohort(place))
    run(place, tmp_path / "c", "--score_norm", "s-norm", *cohort(place), "--mean_from", place / "train.npz")
    assert not np.allclose(scores_of(tmp_path / "a", "s-norm"), scores_of(tmp_path / "b", "s-norm"), atol=1e-3)
    np.testing.assert_allclose(scores_of(tmp_path / "a", "s-norm"), scores_of(tmp_path / "c", "s-norm"), atol=1e-4)


def test_a_calibration_is_applied_to_another_list_and_refused_on_its_own(place, tmp_path, capsys):
    run(place, tmp_path / "a", *dev(place))
    report = run(place, tmp_path / "b", "--calibration", tmp_path / "a" / "calibration.json")
    assert np.array_equal(scores_of(tmp_path / "a", "calibrated"), scores_of(tmp_path / "b", "calibrated"))
    assert report["calibration"]["list"] == "dev.txt"
    own = ["--embeddings", place / "dev.npz", "--test_list", place / "dev.txt"]
    for flags in (["--calibration", tmp_path / "a" / "calibration.json"], ["--calibrate_list", place / "dev.txt"]):
        with pytest.raises(ValueError, match="is the list that the calibration was fitted on"):
            run(place, tmp_path / "c", *own, *flags)
        run(place, tmp_path / "c", *own, *flags, "--allow_same_list")
    with pytest.raises(ValueError, match="the calibration is of raw; these flags give s-norm"):
        flags = ["--score_norm", "s-norm", *cohort(place), "--calibration", tmp_path / "a" / "calibration.json"]
        run(place, tmp_path / "d", *flags)
    assert "warning" not in capsys.readouterr().out


def test_quality_measures_and_fusion_enter_the_calibration(place, tmp_path):
    flags = [*cohort(place), "--quality", "seconds,magnitude,cohort", *dev(place)]
    report = run(place, tmp_path / "q", *flags)
    assert all(name in report["calibration"]["formula"] for name in ("seconds mean", "cohort difference"))
    # a second system that errs elsewhere
    draw = np.random.default_rng(3)
    for name in ("dev", "test"):
        listed = lists.read_trial_list(place / f"{name}.txt")
        noisy = listed.labels + 0.6 * draw.standard_normal(len(listed.labels))
        order = draw.permutation(len(noisy))  # another order of the trials
        trials.write_scores(tmp_path / f"{name}.scores", noisy[order], listed.pairs[order], listed.names)
    fuse = ["--fuse", tmp_path / "test.scores", "--calibrate_fuse", tmp_path / "dev.scores"]
    alone, fused = (run(place, tmp_path / "f", *dev(place), *more)["steps"][-1] for more in ([], fuse))
    assert fused["cllr"] < alone["cllr"] - 0.05


def test_groups_of_speakers(place, tmp_path, capsys):
    report = run(place, tmp_path, "--speakers", place / "speakers.csv", "--subgroups", "gender,age:20:30")
    rows = {(row["column"], row["group"]): row for row in report["subgroups"]}
    assert set(rows) >= {
        ("gender", "f"),
        ("gender", "f with m"),
        ("age", "< 20"),
        ("age", "20 to 30"),
        ("age", ">= 30"),
    }
    for column in ("gender", "age"):
        own = [row for row in report["subgroups"] if row["column"] == column]
        assert sum(r["targets"] for r in own) == report["steps"][0]["targets"]
        assert sum(r["impostors"] for r in own) == report["steps"][0]["impostors"]
    crossed, inside = rows["gender", "f with m"], rows["gender", "f"]
    assert crossed["targets"] == 0 and "eer" not in crossed and "miss" not in crossed and "false_accept" in crossed
    assert inside["eer_interval"][0] <= inside["eer"] <= inside["eer_interval"][1]
    assert "by groups of speakers, raw" in capsys.readouterr().out and (tmp_path / "subgroups.csv").exists()


def test_eer_against_seconds(place, tmp_path):
    table, draw = read_table(place / "test.npz"), np.random.default_rng(0)
    for seconds, noise in ((2, 2.0), (5, 0.5)):
        vectors = table.vectors + noise * draw.standard_normal(table.vectors.shape).astype(np.float32)
        write_table(tmp_path / f"{seconds}.npz", Table(table.names, vectors, table.seconds, table.meta))
    tables = [f"5={tmp_path}/5.npz", f"2={tmp_path}/2.npz"]
    report = run(place, tmp_path, *dev(place), "--short_embeddings", *tables)
    assert [row["seconds"] for row in report["seconds"]] == [2.0, 5.0]
    assert report["seconds"][0]["eer"] > report["seconds"][1]["eer"] > report["steps"][-1]["eer"]
    assert (tmp_path / "seconds.png").stat().st_size > 5000 and (tmp_path / "seconds.csv").exists()


def test_a_list_without_labels_gets_scores_only(place, tmp_path, capsys):
    lines = (place / "test.txt").read_text().splitlines()
    (tmp_path / "t.txt").write_text("".join(line[2:] + "\n" for line in lines))
    words = ["--embeddings", place / "test.npz", "--test_list", tmp_path / "t.txt", "--save_path", tmp_path / "out"]
    score.main([*map(str, words), *map(str, dev(place))])
    assert len(scores_of(tmp_path / "out", "calibrated")) == len(lines)
    assert "has no labels" in capsys.readouterr().out and not (tmp_path / "out" / "report.json").exists()
