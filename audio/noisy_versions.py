"""Noisy versions of speech for denoising: reverberation, noise, music, babble and their combinations, aligned with it.
Entry point: NoisyVersions(musan_path, rir_path, seed), called with a piece of speech and the numbers of its draw.

The kinds and distributions are those of the offline copies of x-vector systems (Snyder et al., ICASSP 2018; rooms: Ko
et al., ICASSP 2017), drawn anew for every chunk.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from audio.augment import ADDITIVE, find_files, mix, reverberate
from audio.io import SAMPLE_RATE, AudioFile, read_audio

KINDS = ("reverb", "noise", "music", "speech", "reverb+noise", "reverb+music", "reverb+speech")
CLEAN_SHARE = 1 / 6
SNR_DB = {"noise": (15, 10, 5, 0, 13, 8), "music": (15, 10, 8, 5), "speech": (20, 17, 15, 13, 10)}
GAP_SAMPLES = SAMPLE_RATE  # between noises
ROOM_SHARES = {"real": 0.2, "small": 0.4, "medium": 0.4}
CACHE_SAMPLES = 16 * 2**20  # of room responses kept in memory by a process, 64 MiB
FLOOR = 1e-4 / 32768**2  # of powers: silence is not amplified without bound


def room_size(path: str) -> str | None:
    """Return "small" or "medium" for a simulated room, None for a large one, "real" for any other response."""
    for size in ("small", "medium", "large"):
        if f"/{size}room" in path:
            return None if size == "large" else size
    return "real"


def find_rooms(folder: str) -> dict[str, list[str]]:
    """Return the room responses below `folder` by size; recordings of noise among the real ones are left out.

    Raises:
        ValueError: there is none.
    """
    rooms = {size: [] for size in ROOM_SHARES}
    for path in sorted(Path(folder).rglob("*.wav")):
        size = room_size(str(path))
        if size and not (size == "real" and "noise" in path.name):
            rooms[size].append(str(path))
    found = {size: paths for size, paths in rooms.items() if paths}
    if not found:
        reason = "holds no .wav file of a room" if Path(folder).is_dir() else "does not exist"
        raise ValueError(f"--rir_path: {folder} {reason} (dataprep.py --help says how to get them)")
    return found


class NoisyVersions:
    """Make noisy versions of speech in [-1, 1]; one sixth stay clean, the seven KINDS are alike for the others.

    Args:
        kinds: those to draw from, by default all; clean_share: what stays clean.
        snr_db: ratio of every file that is added, in place of those of SNR_DB; None for these.

    Raises:
        ValueError: an unknown kind, or a folder is missing or holds too few files (told before the work).
    """

    def __init__(
        self, musan_path: str, rir_path: str, seed: int = 0, kinds=KINDS, clean_share: float = CLEAN_SHARE,
        snr_db: float | None = None,
    ):  # fmt: skip
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise ValueError(f"kind of noise {', '.join(unknown) or 'none'}: choose from {', '.join(KINDS)}")
        self.seed, self.kinds, self.clean_share = seed, tuple(kinds), clean_share
        self.ratios = SNR_DB if snr_db is None else dict.fromkeys(SNR_DB, (snr_db,))
        wanted = {part for kind in kinds for part in kind.split("+")}
        self.files = {}
        for kind in sorted(wanted - {"reverb"}):
            most = ADDITIVE[kind][0][1]
            self.files[kind] = find_files(f"{musan_path}/{kind}/*/*/*.wav", "--musan_path", most)
        self.rooms = find_rooms(rir_path) if "reverb" in wanted else {}
        self.sizes = list(self.rooms)
        shares = np.array([ROOM_SHARES[size] for size in self.sizes])
        self.size_shares = shares / shares.sum() if len(shares) else shares
        self.responses, self.kept_samples = OrderedDict(), 0

    def describe(self) -> str:
        """Return one line: files of each kind."""
        counts = {**{kind: len(files) for kind, files in self.files.items()}}
        counts |= {f"{size} rooms": len(paths) for size, paths in self.rooms.items()}
        return f"noisy versions ({', '.join(self.kinds)}) of {', '.join(f'{n} {name}' for name, n in counts.items())}"

    def __call__(self, clean: np.ndarray, epoch: int, number: int) -> tuple[np.ndarray, int]:
        """Return the noisy version (samples,) float32 of item `number` of `epoch`, and its kind, -1 for clean."""
        draw = np.random.default_rng([self.seed, epoch, number, 0x0153])
        if draw.random() < self.clean_share:
            return clean, -1
        kind = int(draw.integers(len(self.kinds)))
        wave = clean
        for part in self.kinds[kind].split("+"):
            wave = self._reverberated(wave, draw) if part == "reverb" else self._with(part, wave, draw)
        return wave.astype(np.float32), kind

    def _reverberated(self, wave, draw):
        size = self.sizes[draw.choice(len(self.sizes), p=self.size_shares)]
        response, delay = self._response(self.rooms[size][draw.integers(len(self.rooms[size]))])
        # what comes directly stays where it was
        return reverberate(np.pad(wave, (0, delay)), response)[delay:]

    def _response(self, path):
        if path in self.responses:
            self.responses.move_to_end(path)
            return self.responses[path]
        response = read_audio(path)
        if not response.any():
            raise ValueError(f"{path}: a room response of silence; remove it from --rir_path")
        self.responses[path] = response, int(np.abs(response).argmax())
        self.kept_samples += len(response)
        while self.kept_samples > CACHE_SAMPLES and len(self.responses) > 1:
            self.kept_samples -= len(self.responses.popitem(last=False)[1][0])
        return self.responses[path]

    def _with(self, kind, wave, draw):
        """Add music or speakers that repeat to the length, or noises that follow each other, each at its own ratio."""
        files, ratios = self.files[kind], self.ratios[kind]
        if kind == "noise":
            return self._noises(files, ratios, wave, draw)
        fewest, most = ADDITIVE[kind][0]
        picks = draw.choice(len(files), int(draw.integers(fewest, most + 1)), replace=False)
        noises = [_repeated(files[pick].decode(), len(wave), draw.random()) for pick in picks]
        return mix(wave, noises, draw.choice(ratios, len(noises)), FLOOR)

    def _noises(self, files, ratios, wave, draw):
        out, power, first = wave.astype(np.float64), np.mean(wave.astype(np.float64) ** 2) + FLOOR, True
        start = 0
        while start < len(wave):
            with AudioFile(files[draw.integers(len(files))].decode()) as audio:
                # the piece begins anywhere in the sequence of noises and gaps
                skipped = int(draw.random() * (audio.samples + GAP_SAMPLES)) if first else 0
                count = min(audio.samples - skipped, len(wave) - start)
                noise = audio.read(skipped, count).astype(np.float64) if count > 0 else np.zeros(0)
                if len(noise):
                    level = np.sqrt(power / (np.mean(noise**2) + FLOOR)) * 10 ** (-draw.choice(ratios) / 20)
                    out[start : start + len(noise)] += level * noise
                start, first = start + audio.samples - skipped + GAP_SAMPLES, False
        return out


def _repeated(path, samples, u):
    """Read `samples` of a file from a random place `u` in [0, 1), from its beginning again after its end."""
    with AudioFile(path) as audio:
        start = int(u * audio.samples)
        if start + samples <= audio.samples:
            return audio.read(start, samples)
        return np.resize(np.roll(audio.read(), -start), samples)
