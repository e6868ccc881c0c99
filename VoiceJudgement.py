"""Whether swapped voices sound like the wanted speaker or still like the source, as a verification network hears them.
Entry points: add_arguments, check, real_speech, judge.
"""

from pathlib import Path

import numpy as np

import Resynthesis
import SpeakerNet
from engine import distributed
from scoring.intended_speaker import row_cosines, speaker_models
from scoring.summary import write_rows

RANGES = {"nDataLoaderThread": (0, 1024)}


def add_arguments(group):
    """Add the flags of the judgement."""
    group.add_argument("--verifier", default="", help="checkpoint of a speaker network that hears the results")
    group.add_argument(
        "--speakers_list", nargs="+", default=[], metavar="PATH",
        help="real speech of the voices, lines `speaker file` (default: that in --to)",
    )  # fmt: skip
    group.add_argument("--nDataLoaderThread", type=int, default=0, help="loader processes of the verifier")


def check(args):
    """Raise ValueError where flags lack or exclude each other."""
    for name in ("speakers_list", "nDataLoaderThread"):
        if name in args.given and not args.verifier:
            raise ValueError(f"--{name} needs --verifier")
    if args.verifier and (args.format == "npz" or args.out.endswith(".npz")):
        raise ValueError("--verifier reads audio: make .wav or .flac files, not .npz")


def real_speech(jobs: list[Resynthesis.Job], voices: dict[int, list[str]], args, say) -> dict[str, list[str]]:
    """Return {voice: real recordings} of all voices of the jobs, targets and sources; errors as in check_files.

    A source whose speaker nothing is known of is a voice of its own, by its path.

    Raises:
        ValueError: a target without real speech.
    """
    known = {job.speaker: list(voices[job.label]) for job in jobs}
    if args.speakers_list:
        for source in Resynthesis.find_sources(args.speakers_list, "--speakers_list", args.data_path, say):
            if not source.speaker:
                raise ValueError(f"--speakers_list: nothing says who speaks in {source.name}; write `speaker file`")
            known.setdefault(source.speaker, []).append(source.path)
    for job in jobs:
        if not known[job.speaker]:
            raise ValueError(f"--verifier: no real speech of voice {job.speaker}: name it in --speakers_list")
    own = {job.source.path: [job.source.path] for job in jobs if job.source.speaker not in known}
    used = {name for job in jobs for name in (job.speaker, job.source.speaker)}
    return {**{name: paths for name, paths in known.items() if name in used}, **own}


def judge(verifier, jobs: list[Resynthesis.Job], paths: list[Path], real: dict[str, list[str]], args, device):
    """Say how near the results come to their voices, and write it for each into judgement.csv in the folder, or
    <out>.csv."""
    place, args.eval_batch_files = {name: number for number, name in enumerate(real)}, args.batch_size
    heard = [path for own in real.values() for path in own]
    table = SpeakerNet.embed_files(verifier, [*map(str, paths), *heard], args, device, (0, 1))
    vectors = SpeakerNet.file_means(table).numpy()
    speakers = np.repeat(np.arange(len(real)), [len(own) for own in real.values()])
    models, results = speaker_models(vectors[len(paths) :], speakers), vectors[: len(paths)]
    wanted = np.array([place[job.speaker] for job in jobs])
    own = np.array([place.get(job.source.speaker, place.get(job.source.path)) for job in jobs])
    target, source = models[wanted], models[own]
    near, left, before = row_cosines(results, target), row_cosines(results, source), row_cosines(source, target)
    if not distributed.is_main():
        return
    swapped = wanted != own
    print(
        f"verifier: cosine to the wanted voice {near.mean():.3f} (that of the source {before.mean():.3f}), to the "
        f"source's {left.mean():.3f}; nearer to the wanted one: {int((near > left)[swapped].sum())} of "
        f"{int(swapped.sum())} swapped"
    )
    rows = [
        {"audio": path.name, "source": job.source.name, "source_speaker": job.source.speaker, "speaker": job.speaker,
         "cosine_wanted": f"{a:.5f}", "cosine_source": f"{b:.5f}", "cosine_before": f"{c:.5f}"}
        for path, job, a, b, c in zip(paths, jobs, near, left, before)
    ]  # fmt: skip
    out = Path(args.out)
    file = out / "judgement.csv" if out.is_dir() else out.with_suffix(".csv")
    write_rows(file, rows, tuple(rows[0]), ())
    print(f"written: {file}")
