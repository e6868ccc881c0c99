"""Vector files of many recordings that one network made: what is there is used again, another network's are refused.
Entry point: VectorTree with begin, ready, read, write, fill.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoring import vectors
from scoring.embeddings import Table, whole_file

META = "vectors.json"  # in the tree's root: what made its vectors


@dataclass
class VectorTree:
    """The embeddings of recordings as files `stems`[i]_emb below `folder`, written in the format `form`.

    Args:
        identity: plain data, the same for all vectors of the folder: checkpoint and its hash, sample scale, options.
    """

    folder: str
    stems: list[str]
    form: str
    identity: dict

    def begin(self, force: bool = False):
        """Note in the folder what makes its vectors; with `force` delete those of these recordings first.

        Raises:
            ValueError: there are vectors by another checkpoint or with other options, or of unknown origin.
        """
        path = Path(self.folder) / META
        before = self._before(path)
        if force:
            other = None if before == self.identity else self._other()
            if other:
                raise ValueError(
                    f"{self.folder} holds vectors of other recordings, not made like these (e.g. {other}): "
                    "remove them or give another --vectors_to"
                )
            for stem in self.stems:
                vectors.remove(stem, "emb")
        elif before is None:
            found = next(filter(None, (vectors.find(stem, "emb") for stem in self.stems)), None)
            if found:
                raise ValueError(f"{found}: nothing says what made it ({path} is missing); --force makes it anew")
        else:
            for key, value in self.identity.items():
                if before.get(key) != value:
                    raise ValueError(
                        f"{path}: the vectors there were made with another {key} ({before.get(key)}, now {value}): "
                        "give another --vectors_to, or --force to make them anew"
                    )
        with whole_file(path) as file:
            file.write(json.dumps(self.identity, indent=1).encode())

    def _before(self, path):
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{path}: no JSON object; remove it and give --force to make the vectors anew")
        return found

    def _other(self):
        """Return a vector file below the folder that belongs to none of these recordings, or None."""
        own = set(self.stems)
        for path in Path(self.folder).rglob("*_emb.*"):
            if path.suffix in vectors.FOUND and str(path)[: -len(f"_emb{path.suffix}")] not in own:
                return path
        return None

    def ready(self, rows: np.ndarray) -> np.ndarray:
        """Tell for recordings `rows` whether their vector is there, (rows,) bool."""
        return np.array([vectors.find(self.stems[i], "emb") is not None for i in rows.tolist()], dtype=bool)

    def read(self, rows: np.ndarray, dim: int) -> np.ndarray:
        """Return the vectors (rows, dim) that are there; errors name the file."""
        return vectors.read_vectors([vectors.find(self.stems[i], "emb") for i in rows.tolist()], "emb", (dim,))

    def write(self, rows: np.ndarray, found: np.ndarray):
        """Write the vectors `found` (rows, dim) of recordings `rows`."""
        vectors.write_vectors([self.stems[i] for i in rows.tolist()], found, "emb", self.form)

    def fill(self, rows: np.ndarray, table: Table) -> int:
        """Write the vectors of `table`, of recordings `rows`, that are not there yet; return how many."""
        lacking = ~self.ready(rows)
        self.write(rows[lacking], table.vectors[lacking])
        return int(lacking.sum())


def place(where: str, ids: list[str], paths: list[str], root: str) -> tuple[str, list[str]]:
    """Return the folder that vectors are noted in, and the stem of each recording's vector file.

    Args:
        where: a folder, which gets a tree like the ids, or "beside": beside the audio files `paths`, which lie in
            `root` or, where it is "", in the folder that they all share.

    Raises:
        ValueError: two recordings would share a file, an id leads out of the folder, or the audio is no file.
    """
    if where != "beside":
        return os.path.normpath(where), vectors.stems(ids, os.path.normpath(where))
    if not any(map(os.path.isfile, paths)):
        raise ValueError(f"--vectors_to beside: {paths[0]} is no file of its own; give a folder for the vectors")
    return os.path.normpath(root or os.path.commonpath([os.path.dirname(path) for path in paths])), vectors.beside(
        paths
    )
