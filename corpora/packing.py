"""Write packed audio (audio/packed.py): every recording of a list, decoded once, as 16-bit samples at 16 kHz.
Entry point: pack(names, root, folder, workers); finished parts are kept, so that a run cut off goes on.
"""

import os
from pathlib import Path

import numpy as np

from audio import packed
from audio.io import read_audio
from audio.lists import join
from audio.names import Names
from corpora.disk import claim, full_disk_named, write_whole
from corpora.progress import in_parallel

# Recordings in a part: some hundred MB of utterances, and 273 open files for a million of them.
PART = 4000
BAD_FILES = "bad_files.txt"


def pack(names: Names, root: str, folder: str | Path, workers: int = 0) -> str:
    """Pack the recordings `names` found below `root` into `folder`; return a line that says what was done.

    Unreadable recordings are left out, counted and listed in bad_files.txt. `workers`: processes, 0 for one per core.

    Raises:
        ValueError: the folder holds parts of another list, or nothing could be read.
        OSError: the disk is full; the parts written stay and the same command goes on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _, again = names.repeated()
    rows = np.setdiff1d(np.arange(len(names)), again)
    plan = {"recordings": len(rows), "list": f"{int(names.keys()[rows].sum()):016x}", "root": root, "part": PART}
    claim(folder / "plan.json", plan, "packed audio of another list or folder: choose another --pack_to")
    jobs = [(names, rows[first : first + PART], root, folder, n) for n, first in enumerate(range(0, len(rows), PART))]
    todo = [job for job in jobs if not _lengths_file(folder, job[-1]).is_file()]
    for _ in in_parallel(_write_part, todo, workers, "packed audio", "part"):
        pass
    return _write_index(folder, names, rows, len(jobs))


def _lengths_file(folder, part):
    return folder / f"{packed.part_name(part)}.lengths.npy"


def _write_part(job):
    """Write one part, then its table of lengths (-1: not readable), whose presence marks the part as finished."""
    names, rows, root, folder, part = job
    target = folder / packed.part_name(part)
    temporary = target.with_name(target.name + ".tmp")
    lengths, problems = np.full(len(rows), -1, np.int64), []
    with full_disk_named(target), open(temporary, "wb") as file:
        for place, row in enumerate(rows):
            try:
                wave = packed.to_int16(read_audio(join(root, names[row])))
            except ValueError as error:
                problems.append(f"{names[row]}\t{error}\n")
                continue
            file.write(wave.data)
            lengths[place] = len(wave)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, target)
    (folder / f"{target.name}.bad").write_text("".join(problems), encoding="utf-8")
    marker = _lengths_file(folder, part)
    with open(marker.with_suffix(".tmp"), "wb") as file:
        np.save(file, lengths)
    os.replace(marker.with_suffix(".tmp"), marker)


def _write_index(folder, names, rows, count):
    """Write index.npz, the last file of a pack, and bad_files.txt."""
    lengths = [np.load(_lengths_file(folder, part), allow_pickle=False) for part in range(count)]
    bad = "".join((folder / f"{packed.part_name(part)}.bad").read_text(encoding="utf-8") for part in range(count))
    offsets = np.concatenate([np.cumsum(np.maximum(each, 0)) - np.maximum(each, 0) for each in lengths])
    parts = np.repeat(np.arange(count, dtype=np.int32), [len(each) for each in lengths])
    lengths = np.concatenate(lengths)
    good = lengths >= 0
    write_whole(folder / BAD_FILES, bad.encode())
    if not good.any():
        raise ValueError(f"none of {len(rows)} recordings could be read: {bad.splitlines()[0].split(chr(9))[1]}")
    kept = rows[good]
    sizes = names.ends[kept] - names.starts[kept]
    ends = np.cumsum(sizes)
    place = np.arange(int(ends[-1])) - np.repeat(ends - sizes, sizes) + np.repeat(names.starts[kept], sizes)
    temporary = folder / "index.tmp.npz"
    np.savez(
        temporary, format=packed.FORMAT, parts=parts[good], offsets=offsets[good], lengths=lengths[good],
        names=names.buffer[place], starts=ends - sizes, ends=ends,
    )  # fmt: skip
    os.replace(temporary, folder / packed.INDEX)
    hours = lengths[good].sum() / 16000 / 3600
    skipped = f"; {int((~good).sum())} not readable, see {folder / BAD_FILES}" if bad else ""
    return f"{folder}: {int(good.sum())} recordings, {hours:.2f} hours{skipped}"
