"""What goes wrong with large files: a sum that differs, too little space, a disk that fills up.
Entry points: sum_of, kind_of_sum, require_space, full_disk_named, write_whole, claim.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 20
# What long jobs yield: what is being done, bytes done, bytes in all where known.
Progress = Iterator[tuple[str, int, int | None]]


def kind_of_sum(digits: str) -> str:
    """Return what a sum in hexadecimal digits is, by their number: "MD5" or "SHA-256"."""
    return "SHA-256" if len(digits) == 64 else "MD5"


def sum_of(path: Path, kind: str = "MD5") -> Progress:
    """Read a file with progress; the generator's return value (`yield from`) is its sum in hexadecimal digits."""
    digest = hashlib.sha256() if kind == "SHA-256" else hashlib.md5(usedforsecurity=False)
    done, total = 0, path.stat().st_size
    with open(path, "rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            done += len(data)
            yield "checking", done, total
    return digest.hexdigest()


def require_space(folder: Path, size: int, what: str):
    """Raise OSError where the disk of `folder` has less than `size` bytes left for `what`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{folder}: {what} needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: make room, or choose another "
            "--save_path"
        )


def write_whole(path: Path, data: bytes):
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def claim(path: Path, plan: dict, other: str):
    """Write down what a folder is for; ValueError with `other`, what it holds, where it is for something else."""
    if not path.is_file():
        write_whole(path, json.dumps(plan).encode())
        return
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == plan
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"{path.parent} already holds {other}")


@contextmanager
def full_disk_named(path: Path):
    """Turn the errors of a full disk or quota while `path` is written into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                f"{path}: the disk is full; what is finished is kept: make room and run the same command again"
            ) from None
        raise
