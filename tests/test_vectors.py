"""Vector files: what is written is read again, pickles run no code, damaged files are named, names never collide."""

import os
import pickle
import pickletools

import numpy as np
import pytest

from scoring import vectors


@pytest.mark.parametrize("form", vectors.FORMATS)
@pytest.mark.parametrize("kind,shape", [("emb", (256,)), ("ba", (512, 2)), ("ba", (1, 2)), ("emb", (1,))])
def test_what_is_written_is_read_again(tmp_path, form, kind, shape):
    values = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32) * 1e-3
    stems = vectors.stems(["a/x.wav", "a/y.z", "/b/0.5"], tmp_path)
    vectors.write_vectors(stems, values, kind, form)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        f"a/x_{kind}.{form}", f"a/y.z_{kind}.{form}", f"b/0.5_{kind}.{form}"
    ]  # fmt: skip
    paths = [vectors.find(stem, kind) for stem in stems]
    assert np.array_equal(vectors.read_vectors(paths, kind, shape), values)


def test_text_wins_over_npy_over_pickle(tmp_path):
    stem = str(tmp_path / "x")
    assert vectors.find(stem, "emb") is None
    for number, form in enumerate(("pkl", "npy", "txt")):
        vectors.write_vectors([stem], np.full((1, 2), number), "emb", form)
        assert vectors.read_vectors([vectors.find(stem, "emb")], "emb")[0, 0] == number
    vectors.remove(stem, "emb")
    assert not list(tmp_path.iterdir())


def test_a_row_and_a_column_of_text_are_an_embedding(tmp_path):
    (tmp_path / "r_emb.txt").write_text("1 2 3\n")
    (tmp_path / "c_emb.txt").write_text("1\n2\n3\n")
    (tmp_path / "m_emb.txt").write_text("1 2\n3 4\n")
    paths = [str(tmp_path / f"{name}_emb.txt") for name in "rcm"]
    assert vectors.read_vectors(paths[:2], "emb").tolist() == [[1, 2, 3]] * 2
    with pytest.raises(ValueError, match="m_emb.txt: its shape is .2, 2., 1 dimension"):
        vectors.read_vectors(paths[2:], "emb")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", "CF")
def test_arrays_of_every_pickle_protocol_are_read(tmp_path, protocol, order):
    values = np.arange(6.0).reshape(3, 2).copy(order)
    (tmp_path / "x_ba.pkl").write_bytes(pickle.dumps(values, protocol))
    assert np.array_equal(vectors.read_vectors([tmp_path / "x_ba.pkl"], "ba")[0], values)


class Runs:
    """Makes a folder when unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_no_code_of_a_pickle_runs(tmp_path):
    path, target = tmp_path / "x_emb.pkl", tmp_path / "ran"
    inner = np.empty(1, dtype=object)
    inner[0] = Runs(target)
    for thing in (Runs(target), [1.0, Runs(target)], inner, {"a": Runs(target)}):
        path.write_bytes(pickle.dumps(thing))
        with pytest.raises(ValueError, match="x_emb.pkl: .*it asks for posix.mkdir; only plain numpy arrays"):
            vectors.read_vectors([path], "emb")
    assert not target.exists()
    for name in ("numpy.load", "numpy.core.multiarray.fromfile", "builtins.eval", "numpy._core.multiarray.ndarray"):
        module, _, function = name.rpartition(".")
        path.write_bytes(f"c{module}\n{function}\n.".encode())
        with pytest.raises(ValueError, match="only plain numpy arrays are read"):
            vectors.read_vectors([path], "emb")
    for thing in ([1.0, 2.0], "text", np.array(["a"]), np.array([{}], dtype=object), 3.0):
        path.write_bytes(pickle.dumps(thing))
        with pytest.raises(ValueError, match="x_emb.pkl: "):
            vectors.read_vectors([path], "emb")


def test_damaged_pickles_are_one_error(tmp_path):
    path, whole = tmp_path / "x_emb.pkl", pickle.dumps(np.arange(8.0, dtype=np.float32), 4)
    assert sum(1 for _ in pickletools.genops(whole)) > 10
    draw = np.random.default_rng(0)
    for cut in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[cut] = draw.integers(256)
        for data in (whole[:cut], bytes(changed)):
            path.write_bytes(data)
            try:
                vectors.read_vectors([path], "emb")
            except ValueError as error:
                assert str(error).startswith(str(path))


@pytest.mark.parametrize(
    "name,data,message",
    [
        ("x_emb.npy", b"\x93NUMPY", "cannot be read as a vector"),
        ("x_emb.npy", b"", "cannot be read as a vector"),
        ("x_emb.txt", b"1 2\nthree\n", "cannot be read as a vector"),
        ("x_emb.txt", b"", "it is empty"),
        ("x_emb.txt", b"1 nan\n", "not finite"),
        ("x_emb.txt", b"1 1e39\n", "not finite"),
        ("x_emb.txt", b"1 2 3\n", "x_emb.txt: its shape is .3,., .2,. is expected"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        vectors.read_vectors([str(tmp_path / name)], "emb", (2,))


def test_names_that_would_share_a_file_or_leave_the_tree(tmp_path):
    assert vectors.stems(["x.wav", "y.flac", "x.v1"], "t") == ["t/x", "t/y", "t/x.v1"]
    for names in (["a/x.wav", "a/x.flac"], ["a/x", "/a/x"], ["a/./x", "a/x"]):
        with pytest.raises(ValueError, match="would share the vector file t/a/x: rename one"):
            vectors.stems(names, "t")
    for name in ("../x.wav", "a/../../x", ".."):
        with pytest.raises(ValueError, match="leads out of the tree"):
            vectors.stems([name], "t")


def test_a_killed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "save", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        vectors.write_vectors([str(tmp_path / "x")], np.zeros((1, 2)), "emb")
    assert not list(tmp_path.iterdir())
