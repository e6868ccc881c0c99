"""Cards of attributes: measures of recordings, what holds of a population, what an attribute goes with."""

from itertools import pairwise

import numpy as np
import pytest
from test_explanation import SPEAKERS, codes
from test_stepwise import data

from audio.acoustic_table import read_acoustics, write_acoustics
from audio.acoustics import MEASURES
from scoring import attribute_cards
from scoring.attribute_cards import associate, describe_population, make_measures


def test_measures_from_numbers_and_words():
    numbers = {"f0": np.array([100.0, np.nan, 300, 120]), "flat": np.full(4, 2.0), "none": np.full(4, np.nan)}
    texts = {
        "age": ["10", "", "30", "20"], "gender": ["f", "m", "m", "f"], "city": ["a", "b", "c", "a"],
        "id": [f"n{i}" for i in range(4)],
    }  # fmt: skip
    found = make_measures(numbers, texts)
    assert found.names == [
        "f0",
        "age",
        "gender = m",
        "city = a",
        "city = b",
        "city = c",
        "id = n0",
        "id = n1",
        "id = n2",
        "id = n3",
    ]
    assert found.values[:, :3].tolist() == [[100, 10, 0], [120, 20, 1], [300, 30, 1], [120, 20, 0]]
    assert found.gaps == {"f0": 1, "age": 1} and set(found.left_out) == {"flat", "none"}
    two = make_measures({}, {"sex": ["f", "", "m", "m", ""]})  # unknown is neither
    assert two.gaps == {"sex = m": 2} and two.values[:, 0].tolist() == [0, 1, 1, 1, 1]
    many = make_measures({}, {"id": [f"n{i}" for i in range(30)]})
    assert not many.names and "30 different words" in many.left_out["id"]


def test_description_of_a_population_against_brute_force():
    bits, labels = codes()
    measures = make_measures({"a": bits[:, 0] + np.random.default_rng(0).standard_normal(len(bits))}, {})
    found = describe_population(bits, labels, [f"s{i}" for i in range(SPEAKERS)], measures)
    same = labels[:, None] == labels[None]
    pairs = np.triu(np.ones(same.shape, bool), 1)
    equal = bits[:, None, 0] == bits[None, :, 0]
    assert found.agreement[0] == pytest.approx(equal[pairs & same].mean())
    assert found.agreement_between[0] == pytest.approx(equal[pairs & ~same].mean())
    one, zero = (measures.values[bits[:, 0] == v, 0] for v in (1, 0))
    pooled = ((len(one) - 1) * one.var(ddof=1) + (len(zero) - 1) * zero.var(ddof=1)) / (len(bits) - 2)
    assert found.effects[0, 0] == pytest.approx((one.mean() - zero.mean()) / np.sqrt(pooled))
    assert [found.state(i) for i in (0, 3, 5)] == ["shared", "dead", "constant"]
    assert (found.effects[[3, 5]] == 0).all()
    who = attribute_cards.owners(found, 0)
    assert all(a == bits[labels == int(name[1:]), 0].sum() > 0 for name, a, _ in who)
    near = attribute_cards.neighbours(found, 0)
    assert 0 not in dict(near) and all(a[1] >= b[1] for a, b in pairwise(near))


def test_an_attribute_that_follows_a_measure_is_told_and_one_that_does_not_is_chance():
    x, classes = data(600, shift=2.0)
    labels = np.arange(600) // 6
    bits = np.stack([classes, np.random.default_rng(0).permutation(classes), np.zeros(600)], 1).astype(np.uint8)
    measures = make_measures({f"m{i}": x[:, i] for i in range(8)}, {})
    cards = [associate(i, bits, labels, measures) for i in range(3)]
    assert {measures.names[v] for v in cards[0].entered.order} >= {"m5"} and cards[0].accuracy > 0.8
    assert cards[0].control <= 2 and abs(cards[1].accuracy - 0.5) < 0.1
    assert cards[0].rows == 200 and "only 0 recordings with it" in cards[2].reason
    chance = attribute_cards.chance_of(cards, measures)
    assert (chance.tests, chance.attributes, chance.expected) == (16, 2, pytest.approx(0.16))
    assert chance.corrected == 1 and chance.found >= 2
    again = associate(0, bits, labels, measures)
    assert again.accuracy == cards[0].accuracy and again.entered.order.tolist() == cards[0].entered.order.tolist()
    assert associate(0, bits, labels, make_measures({}, {})).reason


def test_acoustic_tables_read_back_or_say_what_they_are_not(tmp_path):
    path, values = tmp_path / "a.csv", np.random.default_rng(0).standard_normal((3, len(MEASURES)))
    values[1, 2] = np.nan
    assert read_acoustics(path, ["a"]) is None
    write_acoustics(path, ["a", "b,c", "d"], values)
    assert read_acoustics(path, ["d", "b,c"]) == pytest.approx(values[[2, 1]], rel=0, abs=0, nan_ok=True)
    assert read_acoustics(path, ["a", "e"]) is None
    path.write_text("id,x\na,1\n")
    assert read_acoustics(path, ["a"]) is None  # of other measures
    for text in ("id,x\na,word\n", "id,x\na,1,2\n", b"\xff\xfe"):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=r"a\.csv: not a table of acoustic"):
            read_acoustics(path, ["a"])
