"""The demo corpus on disk: synthetic voices, and noise and rooms to augment them with; made in parts, restartable.
Entry points: plan(parameters, save_path) -> jobs, and write(job).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio.recording import SAMPLE_RATE, coloured_noise, music, noise_curve, room_response, write_wave
from audio.synth import VERSION, draw_speaker, speak, synthesise

VOICES, NOISES, ROOMS = "synthetic", "synthetic_noise", "synthetic_rooms"
NOISE_SECONDS = 4.0
# files of each kind of noise in two folders each, and of rooms
NOISE_FILES, ROOM_FILES = 8, 24
# Babble is spoken by speakers beyond any of the corpus.
FIRST_BABBLER = 1_000_000


class Parameters(NamedTuple):
    """What determines every sample of the corpus, together with the version of the synthesis."""

    speakers: int
    sessions: int
    utterances: int
    seconds: float
    seed: int


class Job(NamedTuple):
    """Files to be made by one call: kind of sound, numbers that key its draws, paths of its files."""

    kind: str
    key: tuple[int, ...]
    paths: list[Path]
    parameters: Parameters


def plan(parameters: Parameters, save_path: str | Path) -> list[Job]:
    """Return the jobs whose files are not there yet, and note the parameters in corpus.json.

    Raises:
        ValueError: the folder was made with other parameters, or is none of ours; or a parameter is out of range.
    """
    for name, least in (("speakers", 1), ("sessions", 1), ("utterances", 1), ("seconds", 0.5), ("seed", 0)):
        if getattr(parameters, name) < least:
            raise ValueError(f"--{name} {getattr(parameters, name)}: must be at least {least}")
    save_path = Path(save_path)
    for folder in (VOICES, NOISES, ROOMS):
        claim(save_path / folder, {"version": VERSION, **parameters._asdict()})
    jobs = []
    for speaker in range(parameters.speakers):
        for session in range(parameters.sessions):
            folder = save_path / VOICES / f"spk{speaker:04d}" / f"session{session}"
            paths = [folder / f"{number:05d}.wav" for number in range(parameters.utterances)]
            jobs.append(Job("voice", (speaker, session), paths, parameters))
    for kind in ("noise", "music", "speech"):
        for half in range(2):
            folder = save_path / NOISES / kind / "synthetic" / f"part{half}"
            paths = [folder / f"{number:05d}.wav" for number in range(NOISE_FILES // 2)]
            jobs.append(Job(kind, (half,), paths, parameters))
    for half in range(2):
        paths = [save_path / ROOMS / f"size{half}" / "room" / f"{n:05d}.wav" for n in range(ROOM_FILES // 2)]
        jobs.append(Job("room", (half,), paths, parameters))
    return [job for job in jobs if not all(path.is_file() for path in job.paths)]


def claim(folder: Path, card: dict):
    """Make `folder` with its corpus.json, or check that it is the one that `card` describes."""
    path = folder / "corpus.json"
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder}: has files but no corpus.json, so it is no synthetic corpus: move it away")
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
        return
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path}: is damaged; delete {folder}") from None
    differ = [f"{key} {made.get(key)} there, {value} wanted" for key, value in card.items() if made.get(key) != value]
    if differ:
        raise ValueError(
            f"{folder}: was made with others ({'; '.join(differ)}): delete it or choose another --save_path"
        )


def write(job: Job) -> int:
    """Make the files of a job that are not there yet; return how many."""
    made = 0
    for number, path in enumerate(job.paths):
        if path.is_file():
            continue
        write_wave(path, sound(job, number))
        made += 1
    return made


def sound(job: Job, number: int) -> np.ndarray:
    """Return the wave (samples,) of file `number` of a job."""
    parameters = job.parameters
    if job.kind == "voice":
        speaker, session = job.key
        return synthesise(draw_speaker(parameters.seed, speaker), session, number, parameters.seconds, parameters.seed)
    kinds = ("noise", "music", "speech", "room")
    key = (kinds.index(job.kind), *job.key, number)
    draw, samples = np.random.default_rng([parameters.seed, 3, *key]), round(NOISE_SECONDS * SAMPLE_RATE)
    if job.kind == "room":
        wave = room_response(draw, draw.uniform(0.1, 0.3) * (1 + job.key[0]), draw.uniform(-3, 10))
    elif job.kind == "noise":
        wave = coloured_noise(draw, samples, noise_curve(draw))
    elif job.kind == "music":
        wave = music(draw, samples)
    else:
        babbler = FIRST_BABBLER + NOISE_FILES * job.key[0] + number
        wave = speak(draw_speaker(parameters.seed, babbler), NOISE_SECONDS, draw)
    return 0.5 * wave / np.abs(wave).max()
