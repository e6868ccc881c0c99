"""An embedding table that grows part by part in a folder, so that a stopped extraction goes on where it was.
Entry points: Parts(out, names, identity) with complete, discard, begun, begin, missing, write, finish.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from scoring.embeddings import Table, read_meta, read_npz, read_table, write_npz, write_table

# A part holds a 64th of the files, within these limits: what is lost by a kill.
LEAST_FILES, MOST_FILES = 16, 1000


class Parts:
    """The parts of the table `out`, in the folder `out`.parts.

    Args:
        names: of all files, sorted.
        identity: plain data that must be the same when a stopped extraction goes on; it becomes the table's meta.
    """

    def __init__(self, out: str | Path, names: list[str], identity: dict):
        self.out, self.names, self.identity = Path(out), names, identity
        self.folder = self.out.with_name(self.out.name + ".parts")
        self.samples, self.parts = None, []

    def complete(self) -> bool:
        """Tell whether the table is there already.

        Raises:
            ValueError: there is one by another checkpoint, list or option.
        """
        if not self.out.is_file():
            return False
        self._compare(read_table(self.out).meta, self.out)
        return True

    def discard(self):
        """Delete the table and its parts."""
        self.out.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def begun(self) -> bool:
        """Tell whether there are parts to go on with; read their plan.

        Raises:
            ValueError: they are by another checkpoint, list or option, or the plan is damaged.
        """
        plan = self.folder / "plan.npz"
        if not plan.is_file():
            return False
        arrays = read_npz(plan, {"samples": ("i", 1), "meta": ("U", 0)})
        self._compare(read_meta(plan, arrays["meta"]), self.folder)
        if len(arrays["samples"]) != len(self.names):
            raise ValueError(f"{plan}: damaged; remove {self.folder}")
        self._divide(arrays["samples"])
        return True

    def begin(self, samples: np.ndarray):
        """Write the plan for files of so many `samples` (files,), 0 for one that cannot be read."""
        write_npz(self.folder / "plan.npz", samples=samples, meta=np.array(json.dumps(self.identity)))
        self._divide(samples)

    def _divide(self, samples: np.ndarray):
        """Divide the readable files into parts, longest first, files of one length side by side."""
        self.samples = samples
        order = np.argsort(-samples, kind="stable")[: np.count_nonzero(samples)]
        size = int(np.clip(len(order) // 64, LEAST_FILES, MOST_FILES))
        self.parts = [order[i : i + size] for i in range(0, len(order), size)]

    def _compare(self, before: dict, where: Path):
        for key, value in self.identity.items():
            if before.get(key) != value:
                raise ValueError(
                    f"{where} was made with another {key} ({before.get(key)}, now {value}): give another --out, or "
                    "--force to make it anew"
                )

    def _file(self, part: int) -> Path:
        return self.folder / f"part_{part:06d}.npz"

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are not there yet."""
        return [part for part in range(len(self.parts)) if not self._file(part).is_file()]

    def write(self, part: int, vectors: np.ndarray, seconds: np.ndarray, bad: dict[int, str]):
        """Write a part: the vectors (files, dim) and seconds (files,) of self.parts[part]; `bad`: {file: reason}."""
        reasons = json.dumps({"bad": {str(file): reason for file, reason in bad.items()}})
        write_npz(self._file(part), vectors=vectors, seconds=seconds, meta=np.array(reasons))

    def finish(self, bad: dict[int, str]) -> dict[str, str]:
        """Put all parts together, write the table and bad_files, remove the parts; return {name: reason} of bad files.

        Raises:
            ValueError: not a single file could be embedded (nothing is left behind).
        """
        bad, found = dict(bad), []
        for number, files in enumerate(self.parts):
            arrays = read_npz(self._file(number), {"vectors": ("f", 2), "seconds": ("f", 1), "meta": ("U", 0)})
            reasons = read_meta(self._file(number), arrays["meta"])["bad"]
            bad |= {int(file): reason for file, reason in reasons.items()}
            good = ~np.isin(files, [int(file) for file in reasons])
            if good.any():
                found.append((files[good], arrays["vectors"][good], arrays["seconds"][good]))
        named = {self.names[file]: reason for file, reason in sorted(bad.items())}
        if not found:
            shutil.rmtree(self.folder)
            reason = next(iter(named.values()))
            raise ValueError(f"none of {len(self.names)} files could be embedded, e.g. {reason}")
        files, vectors, seconds = (np.concatenate(column) for column in zip(*found))
        order = np.argsort(files)
        names = np.array([self.names[file].encode() for file in files[order]], dtype=np.bytes_)
        meta = {**self.identity, "bad_files": len(bad)}
        listed = self.out.with_suffix(".bad_files.txt")
        listed.unlink(missing_ok=True)
        if named:
            listed.write_text("".join(f"{name}\t{reason}\n" for name, reason in named.items()), encoding="utf-8")
        write_table(self.out, Table(names, vectors[order], seconds[order].astype(np.float32), meta))
        shutil.rmtree(self.folder)
        return named
