"""Explanations of comparisons, cards of attributes and their pages: sums that hold, associations that are there."""

import csv
import html.parser
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_extract import model as verifier  # noqa: F401, a fixture

import extract_embeddings
import score_attributes
import train_attributes
from engine import foreign
from models.AttributeEncoder import MainModel
from scoring import calibration, charts, explanation, likelihood, page
from scoring.codes import Codes, write_codes
from scoring.embeddings import read_table, write_text
from scoring.explanation_page import Development, Recording, comparison_page
from scoring.population import population

SPEAKERS, EACH, N = 20, 6, 24


def codes(seed=0):
    """Return bits (recordings, N) of speakers with stable attributes, and the speaker of each."""
    draw = np.random.default_rng(seed)
    own = draw.random((SPEAKERS, N)) < draw.uniform(0.15, 0.8, N)
    labels = np.repeat(np.arange(SPEAKERS), EACH)
    flips = draw.random((len(labels), N)) < 0.15
    bits = (own[labels] ^ flips).astype(np.uint8)
    bits[:, 3], bits[:, 5] = 0, 1
    return bits, labels


def fitted(kind):
    bits, labels = codes()
    return likelihood.fit_model(kind, population(bits, labels, [f"s{i}" for i in range(SPEAKERS)])), bits


CALIBRATED = calibration.Calibration(["x"], [0.25], -1.5, 0.5, {"trials": 300, "targets": 100})

# ---------------------------------------------------------------- one comparison


@pytest.mark.parametrize("kind", likelihood.KINDS)
def test_rows_add_up_to_the_score_and_to_the_calibrated_one(kind):
    model, bits = fitted(kind)
    enrol, test = likelihood.single(bits[:1]), likelihood.single(bits[9:10])
    score = likelihood.score_all(model, enrol, test)[0, 0]
    raw = explanation.explain_comparison(model, enrol, test)
    assert raw.llr == pytest.approx(score) and raw.calibrated is None and raw.final == raw.llr
    assert sum(row["llr"] for row in raw.rows) == pytest.approx(score)
    told = explanation.explain_comparison(model, enrol, test, CALIBRATED)
    assert told.calibrated == pytest.approx(CALIBRATED.apply([score])[0])
    assert sum(row["llr_calibrated"] for row in told.rows) == pytest.approx(told.calibrated)
    assert sum(row["llr"] for row in told.rows) == pytest.approx(score)
    assert sum(value for _, value in told.shares()) == pytest.approx(told.final)
    assert len(told.rows) == N + 1 and told.rows[-1]["attribute"] == explanation.OFFSET
    sizes = [abs(row["llr"]) for row in raw.rows]
    assert all(a >= b for a, b in pairwise(sizes))
    assert [row["rank"] for row in raw.rows] == list(range(1, N + 1))
    for row in raw.rows:
        assert row["case"] == f"{bits[0, row['attribute']]}{bits[9, row['attribute']]}"


def test_several_recordings_a_side_and_calibrations_of_several_inputs():
    model, bits = fitted("beta")
    enrol, test = (likelihood.pooled(bits, [rows]) for rows in ([0, 1, 2], [30, 31]))
    told = explanation.explain_comparison(model, enrol, test)
    assert told.llr == pytest.approx(likelihood.score_all(model, enrol, test)[0, 0])
    row = next(row for row in told.rows if row["attribute"] == 7)
    assert row["case"] == f"{bits[:3, 7].sum()}/3 {bits[30:32, 7].sum()}/2"
    two = calibration.Calibration(["a", "b"], [1.0, 1.0], 0.0, 0.5, {})
    with pytest.raises(ValueError, match="has 2 inputs"):
        explanation.explain_comparison(model, enrol, test, two)


def test_the_table_reads_back(tmp_path):
    model, bits = fitted("dna")
    told = explanation.explain_comparison(model, likelihood.single(bits[:1]), likelihood.single(bits[1:2]), CALIBRATED)
    explanation.write_explanation(tmp_path / "e.csv", told)
    rows = list(csv.DictReader(open(tmp_path / "e.csv", newline="")))
    assert sum(float(row["llr_calibrated"]) for row in rows) == pytest.approx(told.calibrated)
    assert {row["case"] for row in rows} <= {"11", "00", "10", "01", ""}
    assert float(rows[0]["typicality"]) == model.parameters["typicality"][int(rows[0]["attribute"])]


def test_words_change_at_their_thresholds_in_both_directions():
    assert "neither" in explanation.verbal(0.0)
    for least, word in explanation.SCALE:
        at = np.log(least)
        assert explanation.verbal(at + 1e-9).startswith(f"{word} support")
        assert not explanation.verbal(at - 1e-9).startswith(f"{word} support")
        assert explanation.verbal(-at - 1e-9).startswith(f"{word} support")
        assert "same speaker" in explanation.verbal(at + 1) and "different speakers" in explanation.verbal(-at - 1)
    assert explanation.verbal(5000).startswith("extremely strong")
    shown = [explanation.ratio_text(np.log(10) * x) for x in (-700, -2, 0, 2.5, 3.04, 12)]
    assert shown == ["10^-700.0", "0.01", "1", "316", "1 100", "10^12.0"]


# ---------------------------------------------------------------- pages


class Reader(html.parser.HTMLParser):
    """Fails on tags that do not match; keeps text, ids, links and sources."""

    VOID = ("meta", "link", "img", "line", "polyline", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.ids, self.links, self.sources, self.tags = [], "", set(), [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.add(tag)
        self.ids.add(given.get("id"))
        self.sources.append(given.get("src"))
        self.links.append(given.get("href"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text


EVIL = "<script>alert(1)</script>\"'&"


def check(text):
    """Return a page read, which needs nothing from outside and runs nothing."""
    found = Reader(text)
    assert "script" not in found.tags
    assert all(source is None or source.startswith("data:") for source in found.sources)
    inner = [link[1:] for link in found.links if link and link.startswith("#")]
    assert set(inner) <= found.ids
    assert all(link is None or link.startswith(("#", "data:")) for link in found.links)
    return found


def test_page_of_a_comparison_says_what_it_must_and_escapes_everything():
    model, bits = fitted("maxllr")
    enrol, test = likelihood.single(bits[:1]), likelihood.single(bits[1:2])
    told = explanation.explain_comparison(model, enrol, test, CALIBRATED)
    sides = [Recording(EVIL, b"RIFF", "audio/wav")], [Recording("b")]
    draw = np.random.default_rng(0)
    known = Development(draw.standard_normal(60), np.arange(60) % 2, EVIL)
    found = check(comparison_page(told, sides, {EVIL: EVIL}, CALIBRATED, known, EVIL))
    assert found.text.count(EVIL) >= 4
    assert explanation.verbal(told.calibrated) in found.text and f"{told.calibrated:+.3f}" in found.text
    assert "not the probability" in found.text and "no recording to play" in found.text
    assert [s for s in found.sources if s] == ["data:audio/wav;base64,UklGRg=="]
    assert found.text.count("calibration") > 2
    far = calibration.Calibration(["x"], [1.0], 99.0, 0.5, {"trials": 300, "targets": 100})
    told = explanation.explain_comparison(model, enrol, test, far)
    assert "beyond 200" in check(comparison_page(told, sides, {}, far)).text


@pytest.mark.parametrize("kind", ("dna", "cosine"))
def test_page_without_calibration_warns(kind):
    model, bits = fitted(kind)
    told = explanation.explain_comparison(model, likelihood.single(bits[:1]), likelihood.single(bits[1:2]))
    text = check(comparison_page(told, ([Recording("a")], [Recording("b")]), {})).text
    assert "--calibration" in text and "In words" not in text


def test_charts_stay_in_their_frames():
    drawn = charts.bars([("a", 3.0, "+3"), ("b", -1.0, "-1"), (EVIL, 0.0, "0")], EVIL)
    starts = [float(part.split("%")[0]) for part in drawn.split("left:")[1:]]
    assert min(starts) >= 0 and max(starts) <= 100 and "<script" not in drawn
    for y in ([1.0, 1.0, 1.0], [0.0, 1e9, -3.0], [1e-9, 2e-9, 3e-9]):
        drawn = charts.lines([("a", [0, 1, 2], y), ("b", [0, 1, 2], y)], "x", "y", EVIL, marks=[(1, "m")])
        for points in drawn.split('points="')[1:]:
            for point in points.split('"')[0].split():
                across, down = map(float, point.split(","))
                assert 0 <= across <= charts.WIDTH and 0 <= down <= charts.HEIGHT
        Reader(drawn)
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10] and charts.ticks(3, 3) == [3]
    assert charts.ticks(-0.21, 0.19) == pytest.approx([-0.2, -0.1, 0, 0.1])


def test_tables_show_numbers_and_gaps(tmp_path):
    made = page.table(["name", "value"], [["a", 1.5], ["b", None], ["c", float("nan")]], "of things")
    assert "".join(Reader(made).text.split()) == "ofthingsnamevaluea1.500bc"
    write_text(tmp_path / "new" / "p.html", page.page("t", [made]))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p.html"]


# ---------------------------------------------------------------- the command


def explain(**given):
    words = [[f"--{name}", str(value)] for name, value in given.items()]
    score_attributes.main(["explain", *(word for pair in words for word in pair)])


@pytest.fixture(scope="module")
def place(tiny_corpus, verifier, tmp_path_factory):  # noqa: F811
    """Return a folder with an encoder, the codes of the tiny corpus, models, a calibration and a table of speakers."""
    folder = tmp_path_factory.mktemp("explain")
    table = folder / "e.npz"
    given = ["--initial_model", verifier, "--list", tiny_corpus / "train.txt", "--path", tiny_corpus / "wav"]
    given += ["--out", table, "--device", "cpu", "--nDataLoaderThread", 0]
    assert extract_embeddings.main([str(word) for word in given]) == 0
    torch.manual_seed(0)
    encoder = MainModel(16, 16).eval()
    with torch.no_grad():  # centred, so that most bits vary
        encoder.encoder[0].bias[:] = -encoder.encoder[0].weight @ torch.from_numpy(read_table(table).vectors.mean(0))
        encoder.encoder[3].bias.zero_()
    foreign.write_plain(folder / "encoder.pt", encoder)
    given = ["--binarize", "--initial_model", folder / "encoder.pt", "--embeddings", table, "--out", folder / "c.npz"]
    train_attributes.main([str(word) for word in given])
    given = ["fit", "--codes", folder / "c.npz", "--list", tiny_corpus / "train.txt", "--out", folder / "models"]
    score_attributes.main([str(word) for word in given])
    made = calibration.Calibration(["beta"], [0.5], 0.25, 0.5, {"trials": 48, "targets": 24})
    calibration.write_calibration(folder / "beta.json", made)
    rows = "".join(f"spk{i},{'fm'[i % 2]},{10 + i}\n" for i in range(8))
    (folder / "speakers.csv").write_text("speaker,gender,age\n" + rows)
    return folder


def test_two_recordings_get_the_ratio_that_their_codes_get(place, tiny_corpus, verifier, capsys):  # noqa: F811
    ids = "spk1/s1/00000.wav", "spk1/s1/00002.wav,spk1/s1/00003.wav"
    common = {"model": place / "models" / "beta.npz", "calibration": place / "beta.json"}
    dev = {"dev_trials": tiny_corpus / "trials.txt", "dev_codes": place / "c.npz"}
    explain(
        **common, codes=place / "c.npz", enrol=ids[0], test=ids[1], audio_path=tiny_corpus / "wav",
        save_path=place / "by_id", **dev,
    )  # fmt: skip
    paths = [",".join(str(tiny_corpus / "wav" / name) for name in side.split(",")) for side in ids]
    explain(
        **common, initial_model=verifier, encoder=place / "encoder.pt", enrol=paths[0], test=paths[1], device="cpu",
        save_path=place / "by_file",
    )  # fmt: skip
    tables = [(place / name / "explanation.csv").read_text() for name in ("by_id", "by_file")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    told = sum(float(row["llr_calibrated"]) for row in rows)
    assert capsys.readouterr().out.count(f"LLR {told:+.4f} (calibrated)") == 2
    for name in ("by_id", "by_file"):
        found = check((place / name / "explanation.html").read_text())
        assert len([s for s in found.sources if s and s.startswith("data:audio/flac")]) == 3


def test_a_comparison_of_a_list_by_its_number(place, tiny_corpus, capsys):
    given = {"model": place / "models" / "dna.npz", "codes": place / "c.npz", "save_path": place / "listed"}
    explain(**given, test_list=tiny_corpus / "trials.txt", trial=3)
    first, second = (tiny_corpus / "trials.txt").read_text().splitlines()[2].split()[1:]
    out = capsys.readouterr().out
    assert f"{first} against {second}: LLR " in out and "without --calibration" in out
    text = check((place / "listed" / "explanation.html").read_text()).text
    assert "--audio_path is not given" in text


def test_cards_of_the_tiny_corpus(place, tiny_corpus, capsys):
    given = {"codes": place / "c.npz", "list": tiny_corpus / "train.txt", "save_path": place / "cards"}
    explain(**given, cards="all", audio_path=tiny_corpus / "wav", speakers=place / "speakers.csv")
    rows = list(csv.DictReader(open(place / "cards" / "cards.csv", newline="")))
    assert [row["attribute"] for row in rows] == [str(i) for i in range(16)]
    assert "d gender = m" in rows[0] and "d level_db" in rows[0] and "d age" in rows[0]
    found = check((place / "cards" / "cards.html").read_text())
    assert {f"a{i}" for i in range(16)} <= found.ids and "chance" in found.text
    assert len((place / "cards" / "acoustics.csv").read_text().splitlines()) == 33
    explain(**given, cards="3,1", audio_path="/nowhere", speakers=place / "speakers.csv")
    assert "holds the measures of all 32 recordings" in capsys.readouterr().out
    again = list(csv.DictReader(open(place / "cards" / "cards.csv", newline="")))
    assert again == [rows[3], rows[1]]
    explain(**given, cards="2")
    text = check((place / "cards" / "cards.html").read_text()).text
    assert "no measures of the recordings are known" in text


def test_codes_that_are_not_the_models_are_refused(place, tiny_corpus):
    bits, labels = codes()
    other = Codes(np.array([b"a", b"b"]), bits[:2], np.ones(2, np.float32), {})
    write_codes(place / "other.npz", other)
    with pytest.raises(ValueError, match="24 attributes"):
        explain(model=place / "models" / "beta.npz", codes=place / "other.npz", enrol="a", test="b")
