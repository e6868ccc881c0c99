"""score_attributes.py fit and test on planted codes: models, tables, calibration, fusion, several recordings a side."""

import csv
import json

import numpy as np
import pytest

import score_attributes
from audio.metadata import read_comparisons
from scoring import attribute_report, likelihood, metrics, population, trials
from scoring.codes import Codes, read_codes, write_codes
from scoring.embeddings import Table, write_table

N = 48
MADE = {"encoder": "bae.pt", "encoder_sha256": "abc", "attributes": N, "embeddings": {"sha256": "e1", "wav_scale": 1}}


def corpus(folder, name, speakers, files, seed):
    """Write codes of speakers, embeddings of them, their list and a list of trials."""
    draw = np.random.default_rng(seed)
    names = [f"{name}{s:02d}/s1/{i}.wav" for s in range(speakers) for i in range(files)]
    rates = np.repeat(np.where(draw.random((speakers, N)) < 0.5, 0.78, 0.22), files, axis=0)
    bits = (draw.random(rates.shape) < rates).astype(np.uint8)
    bits[:, 0] = 0
    seconds, ids = np.full(len(names), 3, np.float32), np.array([n.encode() for n in names])
    write_codes(folder / f"{name}.npz", Codes(ids, bits, seconds, MADE))
    vectors = (rates - 0.5 + 0.3 * draw.standard_normal(rates.shape)).astype(np.float32)
    write_table(folder / f"{name}_emb.npz", Table(ids, vectors, seconds, {"sha256": "e1", "wav_scale": 1}))
    (folder / f"{name}_list.txt").write_text("".join(f"{n.split('/')[0]} {n}\n" for n in names))
    (folder / f"{name}_list.csv").write_text("id,speaker\n" + "".join(f"{n},{n.split('/')[0]}\n" for n in names))
    pairs = [(a, b) for a in range(len(names)) for b in (*draw.choice(len(names), 4), a // files * files) if a != b]
    (folder / f"{name}.txt").write_text(
        "".join(f"{int(a // files == b // files)} {names[a]} {names[b]}\n" for a, b in pairs)
    )
    cells = [",".join(names[s * files : s * files + 2]) for s in range(speakers)]
    single = [names[s * files + 2] for s in range(speakers)]
    (folder / f"{name}_cells.tsv").write_text(
        "Test\tEnrollment\n" + "".join(f"{t}\t{e}\n" for e in cells for t in single)
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attributes")
    corpus(folder, "train", 40, 5, 0)
    corpus(folder, "dev", 14, 4, 1)
    corpus(folder, "eval", 14, 4, 2)
    score_attributes.main(fit_words(folder, folder / "models"))
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the plots, which take most of the time."""
    monkeypatch.setattr(attribute_report, "write_plots", lambda *given: None)


def fit_words(place, out, *flags):
    given = ["fit", "--codes", place / "train.npz", "--list", place / "train_list.txt", "--out", out, *flags]
    return list(map(str, given))


def run_test(place, out, *flags, models="models", listed=None):
    given = ["--model", place / models, "--codes", place / "eval.npz", "--save_path", out, "--bootstrap", "10"]
    words = ["test", *given, "--test_list", listed or place / "eval.txt", *flags]
    score_attributes.main(list(map(str, words)))
    return json.loads((out / "metrics.json").read_text(), parse_constant=lambda text: pytest.fail(text))


def dev(place):
    return ["--calibration_codes", place / "dev.npz", "--calibration_list", place / "dev.txt"]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- fit


def test_fit_writes_every_model_and_a_table_of_attributes(place, tmp_path, capsys):
    score_attributes.main(fit_words(place, tmp_path / "again"))
    said = capsys.readouterr().out
    assert "attributes: 47 live, 47 shared, 1 dead, 0 constant" in said and "never change" in said and ": 0\n" in said
    models = likelihood.read_models([tmp_path / "again"])
    assert set(models) == set(likelihood.KINDS)
    for kind, model in models.items():
        assert (
            model.meta["encoder_sha256"] == "abc" and model.meta["recordings"] == 200 and model.meta["speakers"] == 40
        )
        assert model.meta["list"] == "train_list.txt" and (kind == "cosine") == bool(model.used[0])
    rows = table(tmp_path / "again" / "population.csv")
    assert len(rows) == N and rows[0]["attribute"] == "0" and rows[0]["speakers"] == "0"
    assert float(rows[3]["p"]) == pytest.approx(models["maxllr"].parameters["p"][3], rel=1e-5)
    assert float(rows[3]["beta"]) == pytest.approx(models["beta"].parameters["alpha"][3, 1], rel=1e-5)
    assert (place / "models" / "population.png").stat().st_size > 10_000
    for path in (place / "models").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_table_of_metadata_gives_the_same_models(place, tmp_path):
    score_attributes.main(fit_words(place, tmp_path, "--list", place / "train_list.csv", "--models", "dna"))
    assert [path.name for path in tmp_path.glob("*.npz")] == ["dna.npz"]
    found, wanted = likelihood.read_models([tmp_path])["dna"], likelihood.read_models([place / "models"])["dna"]
    np.testing.assert_array_equal(found.parameters["typicality"], wanted.parameters["typicality"])


def test_ranges_choose_attributes_for_all_models(place, tmp_path):
    flags = ["--min_typicality", "0.5", "--max_typicality", "0.8", "--max_drop_out", "0.45"]
    score_attributes.main(fit_words(place, tmp_path, *flags))
    chosen = None
    for model in likelihood.read_models([tmp_path]).values():
        chosen = model.used if chosen is None else chosen
        np.testing.assert_array_equal(model.used, chosen)
    typical = population.read_published(place / "models" / "typicality.txt")
    dropped = population.read_published(place / "models" / "drop_out.txt")
    np.testing.assert_array_equal(chosen, (typical >= 0.5) & (typical <= 0.8) & (dropped <= 0.45))
    assert 0 < chosen.sum() < N


def test_published_values_replace_those_of_the_population(place, tmp_path):
    (tmp_path / "t.txt").write_text("BA1 : 0.5\nBA40 : 0.25\n")
    (tmp_path / "d.txt").write_text("BA1 : 0.1\nBA40 : 0.3\n")
    flags = ["--typicality", tmp_path / "t.txt", "--drop_out", tmp_path / "d.txt", "--drop_in", "0.3"]
    score_attributes.main(fit_words(place, tmp_path, *flags))
    model = likelihood.read_models([tmp_path])["speech"]
    assert np.flatnonzero(model.used).tolist() == [1, 40] and model.meta["drop_in"] == 0.3
    wanted = likelihood.published_model("speech", [0.25], [0.3], 0.3)
    np.testing.assert_allclose(likelihood.case_terms(model)[40], likelihood.case_terms(wanted)[0])


def test_a_drop_in_is_tuned_on_development_trials(place, tmp_path, capsys):
    flags = ["--tune_drop_in", "--dev_codes", place / "dev.npz", "--dev_trials", place / "dev.txt", "--models", "dna"]
    score_attributes.main(fit_words(place, tmp_path, *flags, "beta"))
    rows = table(tmp_path / "drop_in_dna.csv")
    best = min(rows, key=lambda row: float(row["cllr"]))
    models = likelihood.read_models([tmp_path])
    assert models["dna"].meta["drop_in"] == float(best["drop_in"]) and "tuned_on" not in models["beta"].meta
    assert f"drop-in {models['dna'].meta['drop_in']:g} has the least cllr" in capsys.readouterr().out


def test_speakers_of_one_recording_are_told(place, tmp_path, capsys):
    lines = (place / "train_list.txt").read_text().splitlines()
    (tmp_path / "l.txt").write_text("\n".join(lines[::5]))
    words = fit_words(place, tmp_path, "--list", tmp_path / "l.txt")
    with pytest.raises(ValueError, match="all 40 speakers have one recording"):
        score_attributes.main(words)
    score_attributes.main([*words, "--allow_single"])
    assert "warning: 40 of 40 speakers have one recording" in capsys.readouterr().out


# ---------------------------------------------------------------- test


def test_scores_and_error_rates_of_every_system(place, tmp_path, capsys):
    flags = ["--embeddings", place / "eval_emb.npz", "--calibration_embeddings", place / "dev_emb.npz"]
    report = run_test(place, tmp_path, *dev(place), *flags, "--fusion", "beta", "--fusion_strength", "0.1")
    systems = ["cosine of embeddings", "cosine", "dna", "speech", "maxllr", "beta"]
    wanted = [(name, kind) for name in systems for kind in ("raw", "calibrated")] + [("fusion of beta", "fused")]
    assert [(row["system"], row["scores"]) for row in report["rows"]] == wanted
    listed = read_comparisons(place / "eval.txt")
    codes = read_codes(place / "eval.npz")
    columns = table(tmp_path / "scores_eval.csv")
    assert [int(row["label"]) for row in columns] == listed.labels.tolist()
    rows = {(row["system"], row["scores"]): row for row in report["rows"]}
    for kind, model in likelihood.read_models([place / "models"]).items():
        sides = [codes.rows([cell[0] for cell in side]) for side in (listed.enrolment, listed.test)]
        scores = likelihood.partials(model, *(likelihood.single(codes.bits[side]) for side in sides)).sum(1)
        np.testing.assert_allclose([float(row[kind]) for row in columns], scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(trials.read_scores(tmp_path / f"scores_eval_{kind}.txt").scores, scores, rtol=1e-6)
        raw, calibrated = rows[kind, "raw"], rows[kind, "calibrated"]
        assert raw["eer"] == pytest.approx(metrics.eer(scores, listed.labels)[0]) == pytest.approx(calibrated["eer"])
        assert raw["cllr"] == pytest.approx(metrics.cllr(scores, listed.labels))
        assert calibrated["cllr"] < min(raw["cllr"], 1) and raw["eer_interval"][0] <= raw["eer"] + 1e-9
        assert raw["at_eer"]["TP"] + raw["at_eer"]["FN"] == listed.labels.sum()
    lost = rows["cosine", "raw"]["eer"] / rows["cosine of embeddings", "raw"]["eer"] - 1
    assert report["eer_lost_by_going_binary"]["eval"] == pytest.approx(lost)
    said = capsys.readouterr().out
    assert "| eval | fusion of beta" in said and f"cosine {100 * lost:+.1f} %" in said
    for name in ("det", "tippett", "ece", "partials"):
        assert (tmp_path / f"{name}_eval.png").stat().st_size > 10_000
    assert (
        (tmp_path / "results.md").read_text().count("\n| eval ") == len(wanted) == len(table(tmp_path / "results.csv"))
    )
    assert sum(float(row["weight"]) != 0 for row in table(tmp_path / "fusion_beta.csv")) > 0


def test_several_recordings_a_side_are_compared_by_their_counts(place, tmp_path, undrawn):
    score_attributes.main(fit_words(place, tmp_path / "m", "--models", "beta", "maxllr", "cosine"))
    flags = ["--list", place / "eval_list.csv", "--embeddings", place / "eval_emb.npz"]
    report = run_test(place, tmp_path, *flags, models=tmp_path / "m", listed=place / "eval_cells.tsv")
    rows = table(tmp_path / "scores_eval_cells.csv")
    assert len(rows) == 14 * 14 and sum(int(row["label"]) for row in rows) == 14
    codes = read_codes(place / "eval.npz")
    model = likelihood.read_models([tmp_path / "m"])["beta"]
    for row in rows[:40]:
        pooled, single = (codes.rows(row[key].split(",")) for key in ("enrollment", "test"))
        assert len(pooled) == 2 and len(single) == 1
        sides = likelihood.pooled(codes.bits, [pooled]), likelihood.pooled(codes.bits, [single])
        assert float(row["beta"]) == pytest.approx(likelihood.score_all(model, *sides)[0, 0], rel=1e-4)
    assert all(row["eer"] < 20 for row in report["rows"])


def test_a_list_without_labels_gives_scores_only(place, tmp_path, capsys):
    lines = [line.split(maxsplit=1)[1] for line in (place / "eval.txt").read_text().splitlines()]
    (tmp_path / "u.txt").write_text("\n".join(lines))
    report = run_test(place, tmp_path, "--enrol_codes", place / "eval.npz", listed=tmp_path / "u.txt")
    assert report["rows"] == [] and "has no labels" in capsys.readouterr().out
    assert len(table(tmp_path / "scores_u.csv")) == len(lines) and not list(tmp_path.glob("*.png"))


def test_two_lists_and_a_regularised_calibration(place, tmp_path, undrawn):
    (tmp_path / "half.txt").write_text("\n".join((place / "eval.txt").read_text().splitlines()[::2]))
    lists = [place / "eval.txt", tmp_path / "half.txt"]
    flags = [*dev(place), "--calibration_strength", "1e-5", "--allow_same_list"]
    words = ["test", "--model", place / "models" / "beta.npz", "--codes", place / "eval.npz", "--bootstrap", 0, *flags]
    score_attributes.main([*map(str, [*words, "--test_list", *lists, "--save_path", tmp_path])])
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["list"] for row in report["rows"]] == ["eval", "eval", "half", "half"]
    assert "eer_interval" not in report["rows"][0] and report["calibration"]["beta"]["strength"] == 1e-5
    held = json.loads((tmp_path / "calibration_beta.json").read_text())["scales"][0]
    assert 0 < held < 0.5  # 1e-5 holds the scale back


def test_a_word_that_is_no_command_is_told(capsys):
    for words, message in (
        ([], "a command is needed"),
        (["fitt"], "unknown command 'fitt': one of fit, test, explain"),
    ):
        with pytest.raises(ValueError, match=message):
            score_attributes.main(words)
    score_attributes.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in ("fit", "test", "explain"))
