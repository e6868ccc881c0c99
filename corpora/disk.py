"""What goes wrong with large files: a sum that differs, too little space, a disk that fills up.
Entry points: md5_of, require_space, full_disk_named.
"""

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 20
# What long jobs yield: what is being done, bytes done, bytes in all where known.
Progress = Iterator[tuple[str, int, int | None]]


def md5_of(path: Path) -> Progress:
    """Read a file with progress; the generator's return value (`yield from`) is its MD5 in hexadecimal digits."""
    digest, done, total = hashlib.md5(usedforsecurity=False), 0, path.stat().st_size
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
