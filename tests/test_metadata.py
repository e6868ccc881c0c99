"""Tables of recordings and of comparisons: what is kept, what is refused, and the list forms of the project."""

import time

import numpy as np
import pytest
from conftest import DATA

from audio.metadata import Comparisons, read_comparisons, read_metadata, write_metadata


def written(folder, text, name="m.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def test_ids_and_speakers_stay_text_and_in_order(tmp_path):
    found = read_metadata(
        written(tmp_path, "\ufeffspeaker,id,audio,age\r\n007,0010,b/2.wav,31\r\n\r\n7,010,a.wav,\r\n")
    )
    assert found.ids == ["0010", "010"] and found.speakers == ["007", "7"]
    assert found.audio == ["b/2.wav", "a.wav"] and found.columns == {"age": ["31", ""]}
    assert "2 recordings of 2 speakers" in found.describe() and len(found.hash) == 12


def test_ids_without_their_column_are_the_paths(tmp_path):
    found = read_metadata(written(tmp_path, 'path,gender\nx y.wav,f\n"a,b.wav",m\n'))
    assert found.ids == found.audio == ["x y.wav", "a,b.wav"] and not found.speakers
    with pytest.raises(ValueError, match="m.csv: no column speaker"):
        found.require_speakers()
    both = read_metadata(written(tmp_path, "id,audio,path\n1,a,p\n"))
    assert both.audio == ["a"] and both.columns == {"path": ["p"]}
    assert read_metadata(written(tmp_path, "id\n1\n")).audio == [""]


def test_lists_give_the_same(tmp_path):
    found = read_metadata(written(tmp_path, "s1 b.wav\n\ns1\ta.wav\n", "l.txt"))
    assert found.ids == found.audio == ["b.wav", "a.wav"] and found.require_speakers() == ["s1", "s1"]
    assert not read_metadata(written(tmp_path, "b.wav\na.wav\n", "l.txt")).speakers


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "holds no recording"),
        ("id,audio\n", "holds no recording"),
        ("name,age\na,1\n", "none of the columns id, audio, path"),
        ("id,audio\na,1.wav\nb,2.wav\n\na,3.wav\n", "line 5: id a is given twice .before in line 2"),
        ("id,audio\n,1.wav\n", "line 2: no id"),
        ("id,audio\na,1.wav,x\n", "line 2: expected 2 columns"),
        ("id,id\na,1\n", "line 1: two columns 'id'"),
        ('id,audio\n"a,1.wav\n', "no columns separated by ','"),
        (b"id\n\xff\n", "not a text file in UTF-8"),
        (b"id\na\0\n", "it holds a byte 0"),
    ],
)
def test_wrong_tables(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"m.csv.*{message}"):
        read_metadata(written(tmp_path, text))


def test_wrong_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv: no such file"):
        read_metadata(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="l.txt, line 3: id a.wav is given twice .before in line 1"):
        read_metadata(written(tmp_path, "s a.wav\ns b.wav\nt a.wav\n", "l.txt"))
    with pytest.raises(ValueError, match="line 1: expected `speaker file`, `file` or `label file file`"):
        read_metadata(written(tmp_path, "1 a b c\n", "l.txt"))
    with pytest.raises(ValueError, match="line 1: expected `label file file` with label 0 or 1"):
        read_metadata(written(tmp_path, "2 a b\n", "l.txt"))
    with pytest.raises(ValueError, match="m.csv: no speaker of b"):
        read_metadata(written(tmp_path, "id,speaker\na,s\nb,\n")).require_speakers()


def test_what_is_written_is_read_again(tmp_path):
    found = read_metadata(written(tmp_path, 'id,audio,speaker,note\n01,a.wav,s,"x, ""y"""\n02,b.wav,t,\n'))
    for name in ("again.csv", "again.tsv"):
        write_metadata(tmp_path / name, found)
        again = read_metadata(tmp_path / name)
        assert (again.ids, again.audio, again.speakers, again.columns) == (
            found.ids, found.audio, found.speakers, found.columns,
        )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.csv", "again.tsv", "m.csv"]


def test_comparisons_of_a_table(tmp_path):
    text = "n\tTest\tEnrollment\n1\tc\ta,b\n2\td, c\ta\n3\ta\ta\n"
    found = read_comparisons(written(tmp_path, text, "t.txt"))
    assert found.enrolment == [("a", "b"), ("a",), ("a",)] and found.test == [("c",), ("d", "c"), ("a",)]
    assert found.labels is None and found.names() == ["a", "b", "c", "d"]
    found.label({"a": "1", "b": "1", "c": "01", "d": "01"})
    assert found.labels.tolist() == [0, 0, 1] and "3 comparisons (1 targets)" in found.describe()
    for sep, name in ((",", "t.csv"), (";", "t.csv")):
        text = f'x{sep}y\n"a,b"{sep}c\n'
        unnamed = read_comparisons(written(tmp_path, text, name), sep)
        assert (unnamed.enrolment, unnamed.test) == ([("a", "b")], [("c",)])


def test_comparisons_of_the_lists_of_the_project(tmp_path):
    found = read_comparisons(written(tmp_path, "1 a b\n0 a c\n", "t.txt"))
    assert found.enrolment == [("a",), ("a",)] and found.test == [("b",), ("c",)] and found.labels.tolist() == [1, 0]
    found.label({})  # they have labels
    found = read_comparisons(written(tmp_path, "a b\na c\n", "t.txt"))
    found.label({"a": "1", "b": "2", "c": "1"})
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "text,message",
    [
        ("enrollment\ttest\na\t\n", "line 2: an id is missing"),
        ("enrollment\ttest\na,a\tb\n", "line 2: a cell names an id twice"),
        ("enrollment\ttest\na\tb\tc\n", "line 2: expected 2 columns"),
        ("enrollment\ttest\n", "holds no comparison"),
        ("a,b\n", "holds no comparison"),
        ("a,b\nc,d\n", "one column, 'a,b'; is it separated by"),
    ],
)
def test_wrong_comparisons(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"t.csv.*{message}"):
        read_comparisons(written(tmp_path, text, "t.csv"))


def test_labels_that_cannot_be_had(tmp_path):
    found = Comparisons("t.txt", "", [("a",), ("a", "b")], [("c",), ("c",)], lines=[2, 3])
    with pytest.raises(ValueError, match="t.txt, line 3: one side holds several speakers .1, 2"):
        found.label({"a": "1", "b": "2", "c": "1"})
    with pytest.raises(ValueError, match="t.txt, line 3: no speaker of b is known"):
        found.label({"a": "1", "c": "1"})


def test_a_million_recordings_take_seconds(tmp_path):
    rows = "".join(f"id{i:07d},spk{i % 5994:04d}/{i:07d}.wav,{i % 5994:05d}\n" for i in range(200_000))
    path = written(tmp_path, "id,audio,speaker\n" + rows)
    start = time.process_time()
    found = read_metadata(path)
    assert len(found.ids) == 200_000 and found.speakers[5993] == "05993"
    assert time.process_time() - start < 3  # a fifth of VoxCeleb2, on a slow machine


def test_the_sample_of_voxceleb():
    folder = DATA / "voxceleb_sample" / "voxceleb2"
    if not folder.is_dir():
        pytest.skip(f"no VoxCeleb sample in {DATA}")
    found = read_metadata(folder / "metadata.csv")
    assert len(found.ids) == 27 and len(set(found.require_speakers())) == 9
    trials = read_comparisons(folder / "trials.csv")
    trials.label(dict(zip(found.ids, found.speakers)))
    assert len(trials.labels) == 18 and np.count_nonzero(trials.labels) == 9


def test_a_trial_list_names_its_files_once_and_their_speakers_by_the_first_folder(tmp_path):
    path = tmp_path / "trials.txt"
    path.write_text("1 b/s/1.wav b/s/2.wav\n0 a/s/1.wav b/s/1.wav\n")
    found = read_metadata(path)
    assert found.ids == ["a/s/1.wav", "b/s/1.wav", "b/s/2.wav"] and found.speakers == ["a", "b", "b"]
    path.write_text("1 b1.wav b2.wav\n")
    with pytest.raises(ValueError, match="no column speaker"):
        read_metadata(path).require_speakers()
