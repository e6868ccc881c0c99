"""Features kept on disk: normalised log-mel frames and speech decisions of a list, written once, read by memory maps.
Entry points: write_cache, MelCache.

A folder holds frames.bin (frames, bins) of float16 or float32, speech.bin (frames,) of 0 and 1, and index.npz, which
is written last: without it the folder is no cache.
"""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from audio.io import read_audio
from audio.lists import TrainList
from audio.log_mel import frames_of, sliding_normalisation
from audio.names import Names

INDEX, FRAMES, SPEECH = "index.npz", "frames.bin", "speech.bin"
FORMAT = 1
TYPES = ("float16", "float32")
# samples whose features are computed at once
BATCH_SAMPLES = 16000 * 120


def write_cache(
    folder: str | Path, listed: TrainList, front_end, device="cpu", dtype: str = "float16", seconds=None, say=print
):
    """Write the features of every utterance of a list that can be read; yield (done, utterances).

    Args:
        front_end: an audio.log_mel.LogMel. seconds: (utterances,) durations; those of one length are computed together.

    Raises:
        ValueError: a type of numbers that is not kept, or nothing can be read.
    """
    if dtype not in TYPES:
        raise ValueError(f"features cannot be kept as {dtype}, choose from {', '.join(TYPES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    front_end, bad, kept, counts, speech_counts, done = front_end.to(device), [], [], [], [], 0
    parts = [folder / f".{name}.{os.getpid()}.part" for name in (FRAMES, SPEECH)]
    order = np.arange(len(listed.paths)) if seconds is None else np.argsort(seconds, kind="stable")
    try:
        with open(parts[0], "wb") as frames_file, open(parts[1], "wb") as speech_file:
            for rows, waves in _batches(listed, order, bad):
                for mel, speech in features_of(waves, front_end, device):
                    frames_file.write(np.ascontiguousarray(mel.T, np.dtype(dtype).newbyteorder("<")))
                    speech_file.write(speech.astype(np.uint8))
                    counts.append(len(speech))
                    speech_counts.append(int(speech.sum()))
                kept += rows
                done += len(rows)
                yield done + len(bad), len(listed.paths)
        if not kept:
            raise ValueError(f"{listed.name}: no recording can be read, e.g. {bad[0]}")
        os.replace(parts[0], folder / FRAMES)
        os.replace(parts[1], folder / SPEECH)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    _write_index(folder, listed, front_end, dtype, np.array(kept), np.array(counts), np.array(speech_counts))
    for reason in bad[:3]:
        say(f"warning: {reason}")
    say(
        f"{folder}: {len(kept)} utterances, {sum(counts)} frames, {100 * sum(speech_counts) / sum(counts):.1f} % speech"
        + (f"; {len(bad)} recordings cannot be read and are left out" if bad else "")
    )


def _batches(listed, order, bad):
    """Yield utterances and their waves, few at a time; reasons of those that cannot be read are appended to `bad`."""
    rows, waves, width = [], [], 0
    for row in order.tolist():
        try:
            wave = read_audio(listed.path(row))
            if frames_of(len(wave)) < 1:
                raise ValueError(f"{listed.path(row)}: {len(wave)} samples are too few for a frame of features")
        except ValueError as error:
            bad.append(str(error))
            continue
        if waves and max(width, len(wave)) * (len(waves) + 1) > BATCH_SAMPLES:
            yield rows, waves
            rows, waves, width = [], [], 0
        rows.append(row)
        waves.append(wave)
        width = max(width, len(wave))
    if waves:
        yield rows, waves


def features_of(waves: list[np.ndarray], front_end, device="cpu") -> list[tuple[np.ndarray, np.ndarray]]:
    """Return of each wave (samples,) its normalised features (bins, frames) float32 and speech decisions (frames,)."""
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(batch, waves):
        row[: len(wave)] = torch.from_numpy(wave)
    mel, speech = front_end.with_speech(batch.to(device), lengths.to(device))
    counts = front_end.frames(lengths)
    mel = sliding_normalisation(mel, counts.to(device)).cpu().numpy()
    speech = speech.cpu().numpy()
    return [(mel[row, :, :count], speech[row, :count]) for row, count in enumerate(counts.tolist())]


def _write_index(folder, listed, front_end, dtype, kept, counts, speech):
    arrays = {
        "names": np.frombuffer("\0".join(listed.paths[row] for row in kept.tolist()).encode(), np.uint8),
        "speakers": np.frombuffer("\0".join(listed.speakers).encode(), np.uint8),
        "labels": listed.labels[kept], "counts": counts, "speech": speech, "format": np.array(FORMAT),
        "type": np.array(dtype), "front_end": np.array(json.dumps(front_end.options)), "hash": np.array(listed.hash),
    }  # fmt: skip
    content = io.BytesIO()
    np.savez(content, **arrays)
    part = folder / f".{INDEX}.{os.getpid()}.part"
    part.write_bytes(content.getvalue())
    os.replace(part, folder / INDEX)


class MelCache:
    """An open cache: utterance i has `counts[i]` frames, of which `speech[i]` are speech; see names and labels.

    Raises:
        ValueError: the folder holds no complete cache, or a file is shorter than the index says.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            with np.load(self.folder / INDEX, allow_pickle=False) as arrays:
                if int(arrays["format"]) != FORMAT:
                    raise ValueError(f"is of format {arrays['format']}, {FORMAT} is read")
                self.names, self.speakers = (
                    arrays[name].tobytes().decode().split("\0") for name in ("names", "speakers")
                )
                self.labels, self.counts, self.speech = (arrays[name] for name in ("labels", "counts", "speech"))
                self.hash, self.type = str(arrays["hash"]), str(arrays["type"])
                self.options = json.loads(str(arrays["front_end"]))
        except FileNotFoundError:
            raise ValueError(
                f"{self.folder}: holds no cache of features ({INDEX} is missing); dataprep.py --mel_cache writes one"
            ) from None
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.folder / INDEX}: {error}") from None
        self.offsets = np.cumsum(self.counts) - self.counts
        frames = int(self.counts.sum())
        kind = np.dtype(self.type).newbyteorder("<")
        self.bins = self.options["bins"]
        for name, size in ((FRAMES, frames * self.bins * kind.itemsize), (SPEECH, frames)):
            path = self.folder / name
            there = path.stat().st_size if path.is_file() else 0
            if there != size:
                raise ValueError(f"{path}: has {there} bytes, the index promises {size}: write the cache anew")
        self.frames = np.memmap(self.folder / FRAMES, kind, "r", shape=(frames, self.bins))
        self.is_speech = np.memmap(self.folder / SPEECH, np.uint8, "r", shape=(frames,))

    def __len__(self):
        return len(self.counts)

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return all frames of an utterance, (bins, frames) float32, and which are speech, (frames,) bool."""
        first, last = self.offsets[row], self.offsets[row] + self.counts[row]
        return self.frames[first:last].T.astype(np.float32), self.is_speech[first:last].astype(bool)

    def chunk(self, row: int, frames: int, u: float) -> np.ndarray:
        """Return `frames` speech frames of an utterance that follow each other, (bins, frames) float32.

        `u` from [0, 1) says where; silence between them is dropped first.
        """
        first, last = self.offsets[row], self.offsets[row] + self.counts[row]
        speech = np.flatnonzero(self.is_speech[first:last])
        start = int(u * (len(speech) - frames + 1))
        rows = speech[start : start + frames]
        piece = np.asarray(self.frames[first + rows[0] : first + rows[-1] + 1])[rows - rows[0]]
        return piece.T.astype(np.float32)

    def as_list(self) -> TrainList:
        """Return the utterances as a list whose root is the cache."""
        names = Names.of(self.names)
        return TrainList(str(self.folder), str(self.folder), names, self.labels, self.speakers, self.hash)

    def describe(self) -> str:
        """Return one line: utterances, speakers, frames, share of speech, front end."""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        total = int(self.counts.sum())
        return (
            f"{self.as_list().describe()}, {total} frames, {100 * self.speech.sum() / total:.1f} % speech, "
            f"{self.type} ({options})"
        )
