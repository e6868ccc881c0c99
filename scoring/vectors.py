"""One vector file per utterance, `<stem>_emb` or `<stem>_ba` with .npy, .txt or .pkl, beside the audio or in a tree.
Entry points: stems, beside, find, write_vectors, read_vectors.
"""

import os
import pickle
from pathlib import Path

import numpy as np

from scoring.embeddings import whole_file

KINDS = {"emb": 1, "ba": 2}  # dimensions: an embedding (dim,); activation and non-activation of attributes (n, 2)
FORMATS = ("npy", "txt", "pkl")
FOUND = (".txt", ".npy", ".pkl")  # the first that is there counts
# endings that are no part of an utterance's stem
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".wma", ".aac")


def stem_of(name: str) -> str:
    """Return a name without the ending of an audio file; other dots are part of it."""
    base, suffix = os.path.splitext(name)
    return base if suffix.lower() in AUDIO_SUFFIXES else name


def stems(names: list[str], folder: str | Path) -> list[str]:
    """Return the stems of the vector files of `names` (ids or paths) in a tree below `folder`.

    Raises:
        ValueError: two names would give one file, or a name leads out of the folder.
    """
    found = [os.path.normpath(stem_of(name).lstrip("/")) for name in names]
    out = next((name for name, stem in zip(names, found) if stem in (".", "..") or stem.startswith("../")), None)
    if out is not None:
        raise ValueError(f"{out}: leads out of the tree of vectors {folder}; give another id")
    return _distinct(names, [os.path.join(folder, stem) for stem in found])


def beside(paths: list[str]) -> list[str]:
    """Return the stems of the vector files beside the audio files `paths`; errors as in stems."""
    return _distinct(paths, [os.path.normpath(stem_of(path)) for path in paths])


def _distinct(names, found):
    owner = {}
    for name, stem in zip(names, found):
        if stem in owner:
            raise ValueError(f"{owner[stem]} and {name} would share the vector file {stem}: rename one of them")
        owner[stem] = name
    return found


def find(stem: str, kind: str) -> str | None:
    """Return the vector file of a stem that is there, .txt before .npy before .pkl, or None."""
    paths = (f"{stem}_{kind}{suffix}" for suffix in FOUND)
    return next((path for path in paths if os.path.isfile(path)), None)


def remove(stem: str, kind: str):
    """Delete all vector files of a stem."""
    for suffix in FOUND:
        Path(f"{stem}_{kind}{suffix}").unlink(missing_ok=True)


def write_vectors(stems: list[str], vectors: np.ndarray, kind: str, form: str = "npy"):
    """Write `vectors` (files, ...) as float32, a file for each stem; each appears complete or not at all."""
    for stem, vector in zip(stems, np.asarray(vectors, dtype=np.float32), strict=True):
        with whole_file(f"{stem}_{kind}.{form}", sync=False) as file:
            if form == "npy":
                np.save(file, vector, allow_pickle=False)
            elif form == "txt":
                np.savetxt(file, vector, fmt="%.9g")  # nine digits keep every float32
            else:
                pickle.dump(vector, file, protocol=4)


def read_vectors(paths: list[str], kind: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read vector files as one array (files, ...) float32.

    Args:
        shape: that each must have; None: that of the first.

    Raises:
        ValueError: one cannot be read, is of another shape, or holds numbers that are not finite (it is named).
    """
    found = []
    for path in paths:
        vector = _read(path, KINDS[kind])
        shape = vector.shape if shape is None else shape
        if vector.shape != shape:
            raise ValueError(f"{path}: its shape is {vector.shape}, {tuple(shape)} is expected; --force makes it anew")
        found.append(vector)
    return np.stack(found) if found else np.empty((0, *(shape or (0,) * KINDS[kind])), np.float32)


def _read(path, dimensions):
    reader = {".npy": _read_npy, ".txt": _read_txt, ".pkl": _read_pickle}[Path(path).suffix]
    try:
        with open(path, "rb") as file:
            vector = reader(file, dimensions)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Exception as error:  # readers of damaged bytes raise all kinds
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a vector ({reason}); --force makes it anew") from None
    if not isinstance(vector, np.ndarray) or vector.dtype.kind not in "fiub":
        raise ValueError(f"{path}: holds no array of numbers")
    if vector.ndim != dimensions or not vector.size:
        raise ValueError(f"{path}: its shape is {vector.shape}, {dimensions} dimension(s) are expected")
    with np.errstate(over="ignore"):  # what became infinite is told below
        vector = vector.astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError(f"{path}: holds numbers that are not finite")
    return vector


def _read_npy(file, dimensions):
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_txt(file, dimensions):
    lines = file.read().decode().splitlines()
    if not any(lines):
        raise ValueError("it is empty")
    matrix = np.loadtxt(lines, ndmin=2)
    return matrix.reshape(-1) if dimensions == 1 and 1 in matrix.shape else matrix


def _read_pickle(file, dimensions):
    return _ArraysOnly(file).load()


# the functions that a pickled array asks for, private in numpy and moved by numpy 2
_REBUILD, _FROM_BYTES = np.empty(0).__reduce__()[0], np.empty(0).__reduce_ex__(5)[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "multiarray._reconstruct"): _REBUILD,
    ("numpy", "numeric._frombuffer"): _FROM_BYTES,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # bytes in old protocols
}


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled numpy arrays; whatever else a pickle asks for is refused, so that no code of it runs."""

    def find_class(self, module, name):
        """Return what stands for `name` in the pickle of an array."""
        for core in ("numpy.core.", "numpy._core."):
            if module.startswith(core):
                module, name = "numpy", f"{module.removeprefix(core)}.{name}"
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain numpy arrays are read")
        return _ALLOWED[module, name]
