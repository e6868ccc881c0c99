"""What a tar shard of the webdataset library holds: which samples, of which speakers, at which bytes.
Entry point: read_index(path), from the file beside the shard where that is of its present size and time.
"""

import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio.names import Names

FORMAT = 1
INDEX = ".index.npz"
AUDIO = (".wav", ".flac", ".ogg", ".mp3")
# Where the speaker of a sample may stand, the first found counts; a text counts last, and only if it is one word.
LABELS = (".json", ".cls", ".spk", ".txt")
SPEAKER_KEYS = ("speaker_id", "speaker", "spk_id", "spk", "label")
# A longer member is no label.
MOST_LABEL_BYTES = 1 << 20
# The header of a WAV file is looked for in so many bytes; one that is longer is left to soundfile.
HEADER_BYTES = 512
BLOCK = tarfile.BLOCKSIZE


class Index(NamedTuple):
    """The samples of a shard: member names, speakers, where the member lies (bytes); `first` is the byte of the first
    sample of 16-bit PCM at 16 kHz with one channel, which has `samples`, or -1 for all else."""

    names: Names
    speakers: Names
    offsets: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    samples: np.ndarray


def build_index(path: str | Path) -> Index:
    """Read the headers of a shard, and its labels.

    Raises:
        ValueError: compressed, no tar file, truncated or damaged (the message says where).
    """
    found, labels = [], {}
    with open(path, "rb") as file:
        handle, size = file.fileno(), os.fstat(file.fileno()).st_size
        if os.pread(handle, 2, 0) == b"\x1f\x8b":
            raise ValueError(f"{path}: compressed, so that no sample can be read by its offset: {advice(path)}")
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    stem, suffix = os.path.splitext(member.name.removeprefix("./"))
                    suffix = suffix.lower()
                    if not member.isreg() or member.sparse:
                        continue
                    if suffix in AUDIO:
                        found.append((member.name.removeprefix("./"), stem, member.offset_data, member.size))
                    elif suffix in LABELS and member.size <= MOST_LABEL_BYTES:
                        labels[stem, suffix] = os.pread(handle, member.size, member.offset_data)
                end = tar.offset
        except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, MemoryError) as error:
            raise ValueError(f"{path}: a truncated or damaged shard ({error or type(error).__name__})") from None
        # tarfile takes a header that is cut off or wrong for the end of the archive
        if os.pread(handle, BLOCK, end) != bytes(BLOCK):
            state = "truncated" if end + BLOCK > size else "damaged"
            raise ValueError(f"{path}: a {state} shard, without the mark of its end at byte {end} of {size}")
        pcm = [_pcm(os.pread(handle, min(HEADER_BYTES, size), offset), size) for _, _, offset, size in found]
    names, stems, offsets, sizes = zip(*found) if found else ((), (), (), ())
    offsets = np.array(offsets, np.int64)
    skip, samples = np.array(pcm, np.int64).reshape(-1, 2).T
    speakers = Names.of([_speaker(stem, labels) for stem in stems])
    first = np.where(skip < 0, -1, offsets + skip)
    return Index(Names.of(list(names)), speakers, offsets, np.array(sizes, np.int64), first, samples.copy())


def _pcm(header, size):
    """Return first byte and number of the samples of a WAV file of 16-bit PCM, 16 kHz, one channel; else -1, 0."""
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return -1, 0
    place, form = 12, None
    while place + 8 <= len(header):
        name, length = header[place : place + 4], int.from_bytes(header[place + 4 : place + 8], "little")
        place += 8
        if name == b"fmt " and place + 16 <= len(header):
            form = struct.unpack_from("<HHIIHH", header, place)
        if name == b"data":
            whole = form == (1, 1, 16000, 32000, 2, 16) and 0 < length <= size - place
            return (place, length // 2) if whole else (-1, 0)
        place += length + length % 2
    return -1, 0


def _speaker(stem, labels):
    """Return the speaker of a sample from its labels, else from the first folder of its key, else an empty text."""
    folder, base = os.path.split(stem)
    # the library ends a key at the first dot of the file's name
    for key in dict.fromkeys((stem, os.path.join(folder, base.partition(".")[0]))):
        for suffix in LABELS[:3]:
            name = _label(labels.get((key, suffix)), suffix)
            if name:
                return name
    words = labels.get((stem, ".txt"), b"").decode(errors="replace").split()
    first = stem.split("/")[0] if folder else ""
    return first or (words[0] if len(words) == 1 else "")


def _label(content, suffix):
    if content is None:
        return ""
    try:
        text = content.decode().strip()
        value = json.loads(text) if suffix == ".json" else text
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, dict):
        value = next((value[key] for key in SPEAKER_KEYS if key in value), "")
    name = str(value) if isinstance(value, (str, int)) else ""
    return name if name.split() == [name] else ""


def read_index(path: str | Path) -> Index:
    """Return the index of a shard, from the file beside it where that is of its present size and time, else made anew.

    A folder that cannot be written to is no matter.

    Raises:
        ValueError: compressed, no tar file, truncated or damaged.
    """
    beside = Path(f"{path}{INDEX}")
    state = os.stat(path)
    stamp = np.array([FORMAT, state.st_size, state.st_mtime_ns], np.int64)
    try:
        with np.load(beside, allow_pickle=False) as stored:
            if (stored["stamp"] == stamp).all():
                names, speakers = (Names(*(stored[f"{n}_{part}"] for part in ("buffer", "starts", "ends")))
                                   for n in ("names", "speakers"))  # fmt: skip
                return Index(names, speakers, *(stored[name] for name in Index._fields[2:]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    index = build_index(path)
    arrays = {name: getattr(index, name) for name in Index._fields[2:]}
    for name in ("names", "speakers"):
        arrays |= {f"{name}_{part}": getattr(getattr(index, name), part) for part in ("buffer", "starts", "ends")}
    temporary = Path(f"{path}.{os.getpid()}.tmp.npz")
    try:
        np.savez(temporary, stamp=stamp, **arrays)
        os.replace(temporary, beside)
    except OSError:
        temporary.unlink(missing_ok=True)
    return index


def advice(spec: str | Path) -> str:
    """Return how compressed shards are unpacked."""
    files = f"{spec}/*.tar.gz" if os.path.isdir(spec) else spec if str(spec).endswith(".gz") else f"-S .tar {spec}"
    return f"unpack once with `gunzip {files}`"
