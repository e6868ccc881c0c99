"""The code table: the binary voice attributes of recordings, one .npz with 64 bytes per recording of 512 attributes.
Entry points: write_codes, read_codes, Codes.rows(names), Codes.take(names), pack, unpack.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoring.embeddings import ByName, made_by, read_meta, read_npz, write_npz


@dataclass
class Codes(ByName):
    """`names` (files,) as bytes, `bits` (files, attributes) uint8 of 0 and 1, `seconds` of speech used (files,)
    float32, `meta` of plain data: encoder, its hash, attributes, and `embeddings`, the meta of their table."""

    names: np.ndarray
    bits: np.ndarray
    seconds: np.ndarray
    meta: dict
    path: str = ""

    KIND, ITEM = "codes", "code"

    def describe(self) -> str:
        """Return one line: file, files, attributes, encoder, and what made the embeddings."""
        encoder = f"{self.meta.get('encoder', 'unknown encoder')} (sha256 {self.meta.get('encoder_sha256', 'unknown')})"
        source = made_by(self.meta.get("embeddings", {}))
        return f"{self.path}: {len(self.names)} codes of {self.bits.shape[1]} attributes by {encoder} on {source}"


def require_binary(bits: np.ndarray, source: str) -> np.ndarray:
    """Return `bits` as uint8.

    Raises:
        ValueError: a value is neither 0 nor 1; `source` and its place are named.
    """
    bits = np.asarray(bits)
    if bits.dtype == bool:
        return bits.astype(np.uint8)
    wrong = (bits != 0) & (bits != 1)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{source}: not binary, {bits[place]} at {list(place)}; codes hold 0 and 1 only")
    return bits.astype(np.uint8)


def pack(bits: np.ndarray) -> np.ndarray:
    """Return `bits` (files, attributes) as (files, ceil(attributes / 8)) uint8, first attribute in the highest bit.

    Raises:
        ValueError: a value is neither 0 nor 1.
    """
    return np.packbits(require_binary(bits, "codes"), axis=1)


def unpack(packed: np.ndarray, attributes: int) -> np.ndarray:
    """Return packed codes as (files, attributes) uint8 of 0 and 1."""
    return np.unpackbits(packed, axis=1, count=attributes)


def write_codes(path: str | Path, codes: Codes):
    """Write a code table, whole or not at all.

    Raises:
        ValueError: a bit is neither 0 nor 1.
    """
    write_npz(
        path,
        names=codes.names,
        packed=pack(codes.bits),
        attributes=np.array(codes.bits.shape[1]),
        seconds=codes.seconds,
        meta=np.array(json.dumps(codes.meta)),
    )


def read_codes(path: str | Path) -> Codes:
    """Read a code table.

    Raises:
        FileNotFoundError, ValueError: missing, damaged, no code table, empty, or of sizes that do not agree.
    """
    wanted = {"names": ("S", 1), "packed": ("u", 2), "attributes": ("iu", 0), "seconds": ("f", 1), "meta": ("U", 0)}
    arrays = read_npz(path, wanted)
    names, packed, seconds, attributes = (arrays[key] for key in ("names", "packed", "seconds", "attributes"))
    sizes = len(names) == len(packed) == len(seconds) and packed.shape[1] == -(-int(attributes) // 8)
    if not sizes or not packed.size or packed.dtype != np.uint8:
        raise ValueError(
            f"{path}: {len(names)} names, {packed.shape} {packed.dtype} codes of {int(attributes)} attributes and "
            f"{len(seconds)} seconds do not agree"
        )
    bits = unpack(packed, int(attributes))
    if (np.packbits(bits, axis=1) != packed).any():
        raise ValueError(f"{path}: not binary codes of {int(attributes)} attributes, bits after the last are set")
    return Codes(names, bits, seconds, read_meta(path, arrays["meta"]), str(path))
