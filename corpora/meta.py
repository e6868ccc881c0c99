"""Tables of speakers: VoxCeleb's meta files brought into one form, and the sex of each speaker from any table.
Entry points: normalise_meta(path), read_sexes(path).
"""

import csv
import io
from pathlib import Path

# Headings in small letters without blanks, as the tables of different sources have them.
SPEAKER = ("voxceleb_id", "voxceleb1id", "voxceleb2id", "speaker", "speaker_id", "id")
SEX = ("gender", "sex")
NORMAL = {
    "voxceleb_id": SPEAKER,
    "vggface_id": ("vggface_id", "vggface1id", "vggface2id"),
    "gender": SEX,
    "nationality": ("nationality",),
    "set": ("set",),
}
WORDS = {"m": "m", "male": "m", "f": "f", "female": "f"}


def _read(path):
    """Return (headings in small letters without blanks, rows of cells without outer blanks, with line numbers)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (a table of speakers)")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in first else ",")
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: no row of a table ({error})") from None
    rows = [row for row in rows if any(row[1])]
    if not rows:
        raise ValueError(f"{path}: holds no heading and no speaker")
    heading = ["".join(cell.lower().split()) for cell in rows[0][1]]
    for number, cells in rows[1:]:
        if len(cells) != len(heading):
            raise ValueError(f"{path}, line {number}: {len(cells)} cells, the heading has {len(heading)}")
    return path, heading, rows[1:]


def _column(path, heading, names):
    found = [i for i, name in enumerate(heading) if name in names]
    if not found:
        raise ValueError(f"{path}: no column {' or '.join(names)} among {', '.join(heading)[:80]}")
    return found[0]


def read_sexes(path: str | Path) -> dict[str, str]:
    """Return {speaker: "f" or "m"} from a table with commas or tabs and columns such as speaker and gender.

    Raises:
        FileNotFoundError, ValueError: missing, without such columns, or a sex that is neither (with the line's number).
    """
    path, heading, rows = _read(path)
    speaker, sex = _column(path, heading, SPEAKER), _column(path, heading, SEX)
    sexes = {}
    for number, cells in rows:
        word = WORDS.get(cells[sex].lower())
        if word is None:
            raise ValueError(f"{path}, line {number}: sex {cells[sex][:20]!r} is neither m nor f")
        if sexes.setdefault(cells[speaker], word) != word:
            raise ValueError(f"{path}, line {number}: {cells[speaker]} has two sexes")
    return sexes


def normalise_meta(path: str | Path) -> str:
    """Return the text of a VoxCeleb meta file as CSV with the columns voxceleb_id, vggface_id, gender, nationality
    (where there is one), set; what is in this form already comes out the same.

    Raises:
        FileNotFoundError, ValueError: missing, or not such a table.
    """
    path, heading, rows = _read(path)
    columns = {name: _column(path, heading, also) for name, also in NORMAL.items() if name != "nationality"}
    if "nationality" in heading:
        columns["nationality"] = heading.index("nationality")
    names = [name for name in NORMAL if name in columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([cells[columns[name]] for name in names] for _, cells in rows)
    return out.getvalue()
