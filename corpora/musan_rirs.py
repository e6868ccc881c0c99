"""MUSAN and RIRS_NOISES: what of their archives is wanted, and MUSAN cut into windows that are read quickly.
Entry points: place, musan_files, split.
"""

import wave
from pathlib import Path, PurePosixPath

from corpora.disk import full_disk_named

WANTED = (
    "RIRS_NOISES/simulated_rirs/mediumroom/",
    "RIRS_NOISES/simulated_rirs/smallroom/",
    "musan/",
)
WINDOW_SECONDS, STEP_SECONDS = 5, 3


def place(name: str) -> str | None:
    """Return where a member goes: its own path for MUSAN and the smaller simulated rooms, None for all else."""
    name = PurePosixPath(name).as_posix()
    return name if name.startswith(WANTED) else None


def musan_files(save_path: Path) -> list[Path]:
    """Return the files musan/category/source/*.wav, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted((save_path / "musan").glob("*/*/*.wav"))
    if not files:
        raise FileNotFoundError(f"{save_path}/musan: holds no */*/*.wav file, though its archive is unpacked")
    return files


def split(path: Path) -> int:
    """Cut musan/.../file.wav into windows of 5 s every 3 s; return how many there are, none of a shorter file.

    They are musan_split/.../file/<start second, five digits>.wav, with the samples and the rate of the source. The last
    window that is full counts. Windows that are there already are left alone.

    Raises:
        ValueError: the file is no PCM WAV file, or is cut off.
    """
    folder = path.parents[3] / "musan_split" / path.relative_to(path.parents[2]).with_suffix("")
    try:
        with wave.open(str(path), "rb") as source:
            rate, frame_bytes = source.getframerate(), source.getnchannels() * source.getsampwidth()
            starts = range(0, source.getnframes() - WINDOW_SECONDS * rate + 1, STEP_SECONDS * rate)
            for start in starts:
                target = folder / f"{start // rate:05d}.wav"
                if target.is_file():
                    continue
                source.setpos(start)
                frames = source.readframes(WINDOW_SECONDS * rate)
                if len(frames) != WINDOW_SECONDS * rate * frame_bytes:
                    raise EOFError("it ends before its header says")
                _write(target, frames, source.getparams())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as a PCM WAV file ({error or 'it ends too early'})") from None
    return len(starts)


def _write(target, frames, parameters):
    """Write a window whole or not at all."""
    temporary = target.with_suffix(".tmp")
    with full_disk_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(temporary), "wb") as file:
            file.setparams(parameters)
            file.writeframes(frames)
    temporary.replace(target)
