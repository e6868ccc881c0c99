"""The embedding table: one .npz with names, vectors, seconds and what made them.
Entry points: write_table, read_table, Table.rows(names), joined, check_source, speaker_means.
"""

import json
import os
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

# The meta that two tables must share for their embeddings to be used together.
SOURCE = ("sha256", "wav_scale", "encoder_sha256")


class ByName:
    """What tables of recordings have in common: `names` (files,) as bytes, `path`, arrays of a row for each name."""

    KIND, ITEM = "table", "row"

    def rows(self, names: list[str]) -> np.ndarray:
        """Return the rows of `names` (len(names),).

        Raises:
            ValueError: some are not in the table; the first is named, and how many there are.
        """
        return find_rows(self.names, names, f"{self.path or self.KIND}: no {self.ITEM}")

    def take(self, names: list[str]):
        """Return the part of the table for `names`, in their order; errors as in rows."""
        rows = self.rows(names)
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)


@dataclass
class Table(ByName):
    """`names` (files,) as bytes, `vectors` (files, dim) float32, `seconds` of speech used (files,) float32, `meta` of
    plain data: checkpoint, its hash, class, wav_scale, options; encoder and its hash where bits were rebuilt."""

    names: np.ndarray
    vectors: np.ndarray
    seconds: np.ndarray
    meta: dict
    path: str = ""

    KIND, ITEM = "embeddings", "embedding"

    def describe(self) -> str:
        """Return one line: file, files, dimensions, checkpoint."""
        return f"{self.path}: {len(self.names)} embeddings of {self.vectors.shape[1]} numbers by {made_by(self.meta)}"


def made_by(meta: dict) -> str:
    """Return the checkpoint that made embeddings, from their `meta`, in words."""
    made = f"{meta.get('checkpoint', 'unknown checkpoint')} (sha256 {meta.get('sha256', 'unknown')})"
    if "encoder_sha256" not in meta:
        return made
    return f"{made}, rebuilt from the bits of {meta.get('encoder')} (sha256 {meta['encoder_sha256']})"


def check_source(
    meta: dict, path: str | Path, other: dict, other_path: str | Path, allow: str = "--allow_other_embeddings"
):
    """Refuse to use embeddings together that were made by different networks or at another sample scale.

    Args:
        meta, other: the meta of two tables; a file that says nothing of its embeddings' origin has an empty one.
        allow: the flag that lifts the refusal.

    Raises:
        ValueError: what made each, and what to do.
    """
    if any(meta.get(key) != other.get(key) for key in SOURCE):
        one, two = (f"{made_by(made)} at wav_scale {made.get('wav_scale', 'unknown')}" for made in (meta, other))
        raise ValueError(
            f"{path} holds or wants embeddings by {one}, {other_path} by {two}: extract both alike, or give {allow}"
        )


def find_rows(held: np.ndarray, names: list[str], what: str) -> np.ndarray:
    """Return the rows of `names` in the table of names `held` (files,) bytes, an array (len(names),).

    Args:
        what: the file and what it lacks, for the error: "e.npz: no embedding".

    Raises:
        ValueError: some are not there; the first is named, and how many there are.
    """
    wanted = np.array([name.encode() for name in names], dtype=np.bytes_)
    order = np.argsort(held, kind="stable")
    place = np.searchsorted(held, wanted, sorter=order)
    found = order[np.minimum(place, len(order) - 1)]
    missing = np.flatnonzero(held[found] != wanted)
    if len(missing):
        raise ValueError(
            f"{what} of {names[missing[0]]} (of {len(missing)} of {len(names)} files); extract them with the same "
            "--list, and see its bad_files"
        )
    return found


@contextmanager
def whole_file(path: str | Path, sync: bool = True):
    """Open a file for writing bytes that appears complete or not at all.

    Args:
        sync: wait until the disk has it, too slow for a million small files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str):
    """Write text in UTF-8; the file appears complete or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_npz(path: str | Path, **arrays):
    """Write arrays as .npz; the file appears complete or not at all."""
    with whole_file(path) as file:
        np.savez(file, **arrays)


def read_npz(path: str | Path, wanted: dict[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """Read the arrays {name: (kinds of dtype, dimensions)} of an .npz.

    Raises:
        FileNotFoundError, ValueError: no such file; not an .npz, damaged, or an array is absent or of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            absent = [name for name in wanted if name not in archive]
            arrays = {} if absent else {name: archive[name] for name in wanted}
    except (ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path}: damaged or not an .npz file ({reason})") from None
    if absent:
        raise ValueError(f"{path}: not a file of this kind, it holds no {absent[0]!r}")
    for name, (kinds, dimensions) in wanted.items():
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != dimensions:
            raise ValueError(f"{path}: its {name!r} is {array.dtype} with {array.ndim} dimensions")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path}: its {name!r} holds numbers that are not finite")
    return arrays


def read_meta(path, text: np.ndarray) -> dict:
    """Return the JSON object of a file's `meta` entry."""
    try:
        meta = json.loads(str(text))
    except json.JSONDecodeError:
        meta = None
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: its 'meta' is no JSON object")
    return meta


def write_table(path: str | Path, table: Table):
    """Write a table, whole or not at all."""
    write_npz(
        path, names=table.names, vectors=table.vectors, seconds=table.seconds, meta=np.array(json.dumps(table.meta))
    )


def read_table(path: str | Path) -> Table:
    """Read a table.

    Raises:
        FileNotFoundError, ValueError: missing, damaged, no table, empty, or with numbers that are not finite.
    """
    arrays = read_npz(path, {"names": ("S", 1), "vectors": ("f", 2), "seconds": ("f", 1), "meta": ("U", 0)})
    names, vectors, seconds = arrays["names"], arrays["vectors"], arrays["seconds"]
    if not len(names) == len(vectors) == len(seconds) or not vectors.size:
        raise ValueError(f"{path}: {len(names)} names, {vectors.shape} vectors, {len(seconds)} seconds do not agree")
    return Table(names, vectors.astype(np.float32), seconds, read_meta(path, arrays["meta"]), str(path))


def joined(tables: list[Table]) -> Table:
    """Return tables of different recordings as one, with the meta of the first.

    Raises:
        ValueError: their embeddings are of different sizes, or a recording is in two of them.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables:
        if table.vectors.shape[1] != first.vectors.shape[1]:
            raise ValueError(
                f"{table.path}: embeddings of {table.vectors.shape[1]} numbers, {first.path}: of "
                f"{first.vectors.shape[1]}"
            )
    names, vectors, seconds = (
        np.concatenate([getattr(table, name) for table in tables]) for name in ("names", "vectors", "seconds")
    )
    distinct, counts = np.unique(names, return_counts=True)
    if len(distinct) < len(names):
        raise ValueError(f"{tables[-1].path}: {distinct[counts > 1][0].decode()} is in an earlier table too")
    return Table(names, vectors, seconds, first.meta, ", ".join(table.path for table in tables))


def speaker_means(vectors: np.ndarray, labels: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean embeddings (speakers kept, dim) float32 and the labels kept: speakers of at least `least` files.

    Args:
        labels: (files,) integers, the speaker of each embedding.

    Raises:
        ValueError: no speaker has so many.
    """
    kept, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(kept), vectors.shape[1]))
    np.add.at(sums, index.reshape(-1), vectors)
    enough = counts >= least
    if not enough.any():
        raise ValueError(f"none of {len(kept)} speakers has {least} files or more")
    return (sums[enough] / counts[enough, None]).astype(np.float32), kept[enough]
