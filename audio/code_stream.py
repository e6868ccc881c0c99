"""The bytes of an utterance's codes: a header of 32 bytes, then every code in as few bits as its codebook needs.
Entry points: to_bytes, from_bytes.
"""

import struct
from typing import NamedTuple

import numpy as np

MAGIC = b"VXC1"
HEADER = struct.Struct("<4sIIIHH4x8s")
LARGEST = 2**31  # codewords, frames, positions


class Utterance(NamedTuple):
    """`codes` int64 (groups, positions) or (groups, bands, positions); how many `codewords` there are, of `frames`."""

    codes: np.ndarray
    codewords: int
    frames: int


def bits_per_code(codewords: int) -> int:
    """Return how many bits a code takes: log2 of the codewords, rounded up."""
    return max(1, (codewords - 1).bit_length())


def to_bytes(codes: np.ndarray, codewords: int, frames: int, model_sha256: str = "") -> bytes:
    """Return the bytes of `codes` (groups, positions) or (groups, bands, positions) of one utterance of `frames`.

    model_sha256: hexadecimal, of the model that made them; 8 bytes of it are kept, zeros for none.

    Raises:
        ValueError: codes of another shape or range, or more of them than the header can hold.
    """
    codes = np.asarray(codes)
    if codes.ndim not in (2, 3) or codes.dtype.kind not in "iu" or not codes.size:
        raise ValueError(f"codes of shape {codes.shape}, type {codes.dtype}: integers (groups, [bands,] positions)")
    if not 1 <= codewords < LARGEST or codes.min() < 0 or codes.max() >= codewords:
        raise ValueError(f"codes from {codes.min()} to {codes.max()}: must be from 0 to {codewords - 1}")
    groups, positions = codes.shape[0], codes.shape[-1]
    bands = codes.shape[1] if codes.ndim == 3 else 0  # 0: no axis of bands
    if groups >= 2**16 or bands >= 2**16 or not 1 <= frames < LARGEST:
        raise ValueError(f"{groups} groups, {bands} bands, {frames} frames: the header cannot hold them")
    head = HEADER.pack(MAGIC, codewords, frames, positions, groups, bands, _short(model_sha256))
    shifts = np.arange(bits_per_code(codewords))[::-1]
    bits = (codes.reshape(-1, 1).astype(np.int64) >> shifts) & 1
    return head + np.packbits(bits.astype(np.uint8)).tobytes()


def from_bytes(data: bytes, model_sha256: str = "") -> Utterance:
    """Return the codes that to_bytes packed.

    Raises:
        ValueError: these are not codes, some are missing, or they are of another model than `model_sha256`, where both
            are known.
    """
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise ValueError("not a stream of codes: it does not begin with " + MAGIC.decode())
    _, codewords, frames, positions, groups, bands, made_by = HEADER.unpack_from(data)
    wanted = _short(model_sha256)
    if any(wanted) and any(made_by) and wanted != made_by:
        raise ValueError(f"codes of the model {made_by.hex()}, this one is {wanted.hex()}")
    width, count = bits_per_code(codewords), groups * max(bands, 1) * positions
    size = HEADER.size + (count * width + 7) // 8
    if not count or len(data) != size:
        raise ValueError(f"a stream of codes of {len(data)} bytes, its header says {size}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=HEADER.size), count=count * width)
    codes = bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width)[::-1])
    if codes.max() >= codewords:
        raise ValueError(f"a stream with code {codes.max()}, there are {codewords} codewords")
    return Utterance(codes.reshape(groups, bands, positions) if bands else codes.reshape(groups, -1), codewords, frames)


def _short(sha256):
    try:
        return bytes.fromhex(sha256)[:8].ljust(8, b"\0")
    except ValueError:
        raise ValueError(f"model hash {sha256!r} is not hexadecimal") from None
