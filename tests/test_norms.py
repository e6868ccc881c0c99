"""Normalisation of scores by a cohort against its definition trial by trial; centring; the embedding table."""

import json

import numpy as np
import pytest

from scoring import norms
from scoring.embeddings import Table, read_table, speaker_means, write_table
from scoring.trials import product_scores


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0)
    vectors, cohort = draw.standard_normal((30, 8)), draw.standard_normal((50, 8)) + 0.2
    return vectors, cohort, draw.integers(0, 30, (200, 2))


def by_definition(vectors, cohort, pairs, method, top):
    """Return the scores of specification and papers, one trial at a time, in double precision."""
    files, members = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, cohort))
    found = []
    for e, t in pairs:
        score, own = files[e] @ files[t], [members @ files[e], members @ files[t]]
        order = [np.argsort(-s)[: top or len(members)] for s in own]
        chosen = order[::-1] if method == "as-norm2" else order
        z, t = ((score - s[c].mean()) / (s[c].std(ddof=1) + 1e-9) for s, c in zip(own, chosen))
        found.append({"z-norm": z, "t-norm": t}.get(method, (z + t) / 2))
    return np.array(found)


@pytest.mark.parametrize("method", norms.METHODS[1:])
@pytest.mark.parametrize("top", [0, 7])
def test_every_method_is_its_definition(data, method, top):
    vectors, cohort, pairs = data
    scores = norms.score_and_normalise(vectors, pairs, cohort, method, top)
    np.testing.assert_allclose(scores, by_definition(vectors, cohort, pairs, method, top), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("method", ["as-norm", "as-norm2"])
def test_blocks_do_not_change_a_score(data, method, monkeypatch):
    vectors, cohort, pairs = data
    whole = norms.score_and_normalise(vectors, pairs, cohort, method, 7)
    monkeypatch.setattr(norms, "BLOCK_NUMBERS", 120)  # two or three files a block
    np.testing.assert_allclose(
        norms.score_and_normalise(vectors, pairs, cohort, method, 7), whole, rtol=1e-4, atol=1e-5
    )


def test_properties(data):
    vectors, cohort, pairs = data
    z, t, s = (norms.score_and_normalise(vectors, pairs, cohort, m) for m in ("z-norm", "t-norm", "s-norm"))
    np.testing.assert_allclose(s, (z + t) / 2)
    np.testing.assert_allclose(norms.score_and_normalise(vectors, pairs[:, ::-1], cohort, "z-norm"), t)
    for method in ("s-norm", "as-norm", "as-norm2"):  # the sides may change places, embeddings their length
        here = norms.score_and_normalise(vectors, pairs, cohort, method, 9)
        there = norms.score_and_normalise(3 * vectors, pairs[:, ::-1], cohort, method, 9)
        np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-4)
    # the scores of a random file with the cohort have mean 0 and deviation 1 after z-norm over it
    every = np.column_stack([np.full(50, 0), 1 + np.arange(50)])
    files = np.concatenate([vectors[:1], cohort])
    scores = norms.score_and_normalise(files, every, cohort, "z-norm")
    assert abs(scores.mean()) < 1e-5 and abs(scores.std(ddof=1) - 1) < 1e-4


def test_the_size_of_a_cohort():
    assert norms.cohort_size("as-norm", None, 5994) == 300
    assert norms.cohort_size("as-norm", 400, 5994) == 400
    assert norms.cohort_size("as-norm2", None, 100) == 0  # all of 100
    assert norms.cohort_size("s-norm", None, 5994) == 0


def test_what_no_statistics_can_be_had_from_is_refused(data):
    vectors, cohort, pairs = data
    for part, message in ((cohort[:1], "a cohort of 1"), (cohort[:, :5], "same number of columns")):
        with pytest.raises(ValueError, match=message):
            norms.score_and_normalise(vectors, pairs, part, "s-norm")
    broken = cohort.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="cohort: row 3 is not finite"):
        norms.score_and_normalise(vectors, pairs, broken, "s-norm")
    with pytest.raises(ValueError, match="none of none, z-norm"):
        norms.score_and_normalise(vectors, pairs, cohort, "x-norm")


def test_centring_and_post_processing(data):
    vectors, cohort, pairs = data
    mean, deviation = norms.mean_and_deviation(cohort)
    centred = norms.centre(cohort, mean, deviation)
    np.testing.assert_allclose(centred.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(centred.std(0, ddof=1), 1, rtol=1e-5)
    treated = norms.post_processed(vectors, pairs, cohort)
    np.testing.assert_allclose(treated["l_normed"], treated["plain"], atol=1e-6)
    wanted = norms.score_and_normalise(norms.centre(vectors, mean, deviation), pairs, centred, "s-norm")
    np.testing.assert_allclose(treated["all"], wanted)


def test_products(data):
    vectors, _, pairs = data
    np.testing.assert_allclose(
        product_scores(vectors, pairs), (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1), 1e-4
    )


# ---------------------------------------------------------------- the embedding table


def a_table(count=6, dim=4):
    names = np.array([f"spk{i % 3}/ä{i}.wav".encode() for i in range(count)], dtype=np.bytes_)
    vectors = np.arange(count * dim, dtype=np.float32).reshape(count, dim)
    return Table(names, vectors, np.ones(count, np.float32), {"checkpoint": "x.pt"})


def test_a_table_comes_back(tmp_path):
    write_table(tmp_path / "t.npz", a_table())
    found = read_table(tmp_path / "t.npz")
    assert np.array_equal(found.names, a_table().names) and np.array_equal(found.vectors, a_table().vectors)
    assert found.meta == {"checkpoint": "x.pt"} and not list(tmp_path.glob(".*"))
    assert np.array_equal(found.take(["spk2/ä5.wav", "spk0/ä0.wav"]).vectors, a_table().vectors[[5, 0]])
    with pytest.raises(ValueError, match=r"no embedding of b.wav \(of 2 of 3 files\)"):
        found.rows(["spk0/ä0.wav", "b.wav", "a.wav"])


@pytest.mark.parametrize("name, change", [
    ("absent", lambda arrays: arrays.pop("vectors")),
    ("kind", lambda arrays: arrays.update(vectors=arrays["names"])),
    ("sizes", lambda arrays: arrays.update(names=arrays["names"][:2])),
    ("nan", lambda arrays: arrays.update(vectors=arrays["vectors"] * np.nan)),
    ("meta", lambda arrays: arrays.update(meta=np.array("[1]"))),
    ("empty", lambda arrays: arrays.update({key: arrays[key][:0] for key in ("names", "vectors", "seconds")})),
])  # fmt: skip
def test_a_table_that_is_none_is_refused(tmp_path, name, change):
    table = a_table()
    arrays = {"names": table.names, "vectors": table.vectors, "seconds": table.seconds}
    arrays["meta"] = np.array(json.dumps(table.meta))
    change(arrays)
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match="t.npz"):
        read_table(tmp_path / "t.npz")


def test_damaged_tables_and_pickles_are_refused(tmp_path):
    write_table(tmp_path / "t.npz", a_table(200, 50))
    whole = (tmp_path / "t.npz").read_bytes()
    np.savez(tmp_path / "p.npz", names=np.array([{}], dtype=object))
    for content in (whole[: len(whole) // 2], b"", b"text", whole[:100] + b"\0" * 9000 + whole[9100:]):
        (tmp_path / "t.npz").write_bytes(content)
        with pytest.raises(ValueError, match="t.npz"):
            read_table(tmp_path / "t.npz")
    with pytest.raises(ValueError, match="p.npz"):
        read_table(tmp_path / "p.npz")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "gone.npz")


def test_speaker_means_leave_out_single_files():
    means, kept = speaker_means(np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([7, 9, 7]))
    assert kept.tolist() == [7] and means.tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="none of 2 speakers has 3 files"):
        speaker_means(np.ones((3, 2)), np.array([7, 9, 7]), least=3)
