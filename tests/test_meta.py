"""Tables of speakers: every form of them comes into one, wrong ones are named."""

import pytest
from test_subsets import prepare  # noqa: F401

from corpora import meta


def test_meta_files_come_into_one_form_and_twice_is_harmless(tmp_path, prepare):  # noqa: F811
    one, two = tmp_path / "vox1_meta.csv", tmp_path / "vox2_meta.csv"
    one.write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n")
    two.write_text("VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \nid00015 ,n000015 ,f ,test \n")
    sexes = meta.read_sexes(two)
    for _ in range(2):
        prepare("--normalise_meta", one, two)
        assert one.read_text().splitlines() == [
            "voxceleb_id,vggface_id,gender,nationality,set",
            "id10001,A.J._Buckley,m,Ireland,dev",
        ]
        assert two.read_text() == "voxceleb_id,vggface_id,gender,set\nid00012,n000012,m,dev\nid00015,n000015,f,test\n"
    assert sexes == meta.read_sexes(two) == {"id00012": "m", "id00015": "f"}
    (tmp_path / "own.csv").write_text("speaker,gender,age\nx,Male,6\ny,female,7\n")
    assert meta.read_sexes(tmp_path / "own.csv") == {"x": "m", "y": "f"}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "holds no heading"),
        ("speaker,age\na,3\n", "no column gender or sex"),
        ("name,gender\na,m\n", "no column voxceleb_id or"),
        ("speaker,gender\na,m\nb,x\n", "line 3: sex 'x' is neither m nor f"),
        ("speaker,gender\na,m\na,f\n", "line 3: a has two sexes"),
        ("speaker,gender\na\n", "line 2: 1 cells, the heading has 2"),
    ],
)
def test_a_wrong_table_of_speakers_is_one_line(tmp_path, text, expected):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError) as error:
        meta.read_sexes(tmp_path / "t.csv")
    assert expected in str(error.value) and "t.csv" in str(error.value)
