"""The part lists in lists/: which files a corpus comes in, their MD5, how split archives are joined.
Entry points: voxceleb_archives, augment_archives, chosen_lists, url_of.
"""

import re
from argparse import ArgumentTypeError
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

# the names that papers on little data use for the evaluation lists
ALIASES = {"original": "O", "extended": "E", "hard": "H"}
ALIASES |= {f"{alias}-clean": f"{name}-clean" for alias, name in ALIASES.items()}

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "")  # what --download took while there was one corpus

# beside the code, wherever the script is started
LISTS = Path(__file__).resolve().parent.parent / "lists"


class Part(NamedTuple):
    """A file to download: its name on disk, where it lies (a URL, or a path below the prefix), its MD5."""

    name: str
    source: str
    md5: str


class Archive(NamedTuple):
    """An archive and what is downloaded for it: itself, or the sorted `parts` that are joined."""

    name: str
    md5: str
    parts: list[Part]

    @property
    def split(self) -> bool:
        """Tell whether the archive has to be joined."""
        return [part.name for part in self.parts] != [self.name]


class List(NamedTuple):
    """A train or trial list: its name on the command line, the file (the sum an MD5, a SHA-256 or empty), its lines."""

    name: str
    part: Part
    lines: int


def _rows(path: Path, form: str):
    """Yield ("file, line n", fields) of each row with fields; `form` names them, [so] where optional; # comments."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such part list (see --parts_path)")
    most = len(form.split())
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        where = f"{path}, line {number}"
        if not most - form.count("[") <= len(fields) <= most:
            raise ValueError(f"{where}: expected `{form}`, found {line.strip()[:80]!r}")
        yield where, fields


def _part(where, source, md5, sha256=False):
    name = PurePosixPath(urlsplit(source).path).name
    if not name or name.startswith("."):
        raise ValueError(f"{where}: {source!r} names no file")
    if md5 and not re.fullmatch("[0-9a-f]{32}" + ("|[0-9a-f]{64}" if sha256 else ""), md5):
        also = ", nor a SHA-256 of 64" if sha256 else ""
        raise ValueError(f"{where}: {md5!r} is no MD5 of 32 hexadecimal digits{also}")
    return Part(name, source, md5)


def read_archives(parts_file: Path, joins_file: Path | None = None) -> list[Archive]:
    """Read lines `name-or-URL md5` and, of archives that come in parts, lines `pattern archive md5`.

    Raises:
        FileNotFoundError, ValueError: missing or malformed (with the line's number), or a pattern fits no part.
    """
    parts = [_part(where, *fields) for where, fields in _rows(parts_file, "name-or-URL md5")]
    archives, joined = [], set()
    for where, (pattern, name, md5) in _rows(joins_file, "pattern archive md5") if joins_file else ():
        own = sorted(part for part in parts if fnmatchcase(part.name, pattern))
        if not own:
            raise ValueError(f"{where}: {pattern!r} fits no file of {parts_file}")
        archives.append(Archive(_part(where, name, md5).name, md5, own))
        joined.update(part.name for part in own)
    return archives + [Archive(part.name, part.md5, [part]) for part in parts if part.name not in joined]


def read_lists(path: Path) -> list[List]:
    """Read lines `name name-or-URL lines [sum]`, the sum an MD5 or a SHA-256.

    Raises:
        FileNotFoundError, ValueError: missing or malformed (with the line's number).
    """
    lists = []
    for where, (name, source, lines, *digest) in _rows(path, "name name-or-URL lines [sum]"):
        if not lines.isdigit():
            raise ValueError(f"{where}: {lines!r} is no number of lines")
        lists.append(List(name, _part(where, source, digest[0] if digest else "", sha256=True), int(lines)))
    return lists


# ---------------------------------------------------------------- what the flags choose


def corpus_of(text: str) -> str:
    """Return the corpus that --download names, "" for none; True is voxceleb, the only one there was.

    Raises:
        ArgumentTypeError: another one.
    """
    word = str(text).strip().lower()
    known = {**dict.fromkeys(("voxceleb", *TRUE), "voxceleb"), "librispeech": "librispeech", **dict.fromkeys(FALSE, "")}
    if word not in known:
        raise ArgumentTypeError(f"{str(text)[:80]!r} is none of voxceleb, librispeech")
    return known[word]


def add_arguments(parser, stages):
    """Add the flags that choose among the part lists, and --download among the stages."""
    stages.add_argument(
        "--download",
        type=corpus_of,
        nargs="?",
        const="voxceleb",
        default="",
        metavar="CORPUS",
        help="fetch a corpus and check every file: voxceleb (1 and 2; also without a name), or librispeech, which is "
        "unpacked into LibriSpeech/ too; --archives chooses its parts",
    )
    group = parser.add_argument_group("parts")
    group.add_argument(
        "--archives",
        default="*",
        metavar="PATTERN",
        help="only these: of VoxCeleb 'vox1_*' or vox1_test_wav.zip, of LibriSpeech 'train-clean-*,dev-clean'",
    )
    group.add_argument(
        "--parts_path", default="", metavar="FOLDER", help="part lists with the MD5 sums (default: lists/ of voxlab)"
    )


def voxceleb_archives(folder: str, pattern: str) -> list[Archive]:
    """Return the archives of VoxCeleb whose names fit `pattern`; ValueError where none does."""
    folder = Path(folder or LISTS)
    archives = read_archives(folder / "fileparts.txt", folder / "files.txt")
    chosen = [archive for archive in archives if fnmatchcase(archive.name, pattern)]
    if not chosen:
        raise ValueError(f"--archives {pattern}: fits none of {', '.join(archive.name for archive in archives)}")
    return chosen


def augment_archives(folder: str) -> list[Archive]:
    """Return the archives of noise and rooms."""
    return read_archives(Path(folder or LISTS) / "augment.txt")


def chosen_lists(folder: str, names: str) -> list[List]:
    """Return the lists of a comma-separated text: by name (O-clean, original-clean), by file
    (veri_test2), or all.

    Raises:
        ValueError: an unknown name; the message has those there are.
    """
    known = read_lists(Path(folder or LISTS) / "trials.txt")
    by_name = {key: item for item in known for key in (item.name, item.part.name, item.part.name.split(".")[0])}
    by_name |= {alias: by_name[name] for alias, name in ALIASES.items() if name in by_name}
    chosen = []
    for name in (name.strip() for name in names.split(",")):
        if name == "all":
            return known
        if name not in by_name:
            there = ", ".join(f"{item.name} ({item.part.name})" for item in known)
            raise ValueError(f"--download_lists {name!r}: there are all, {there}")
        chosen.append(by_name[name])
    return chosen


def url_of(part: Part, prefix: str) -> str:
    """Return where a part is fetched: its own URL, or `prefix` with {name} replaced, or with its path appended."""
    if "://" in part.source:
        return part.source
    if "{name}" in prefix:
        return prefix.replace("{name}", part.source)
    return f"{prefix.rstrip('/')}/{part.source}"
