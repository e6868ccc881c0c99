"""Embed the recordings of a list, folder or CSV and write one table (.npz) of names, vectors and seconds.

    python extract_embeddings.py --initial_model exps/exp1/checkpoints/best.pt --list L --path D --out exps/test.npz

Recordings are embedded whole, unless crops or windows are asked for; only pieces of one length go through the network
together, so that no embedding depends on its neighbours. The same command goes on where it was stopped.
"""

import hashlib
import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch
from tqdm import tqdm

import DatasetLoader
import SpeakerNet
from audio import lists
from audio.inputs import READABLE, read_inputs
from audio.io import SAMPLE_RATE, AudioFile
from audio.metadata import Metadata, write_metadata
from audio.pieces import Cut, Pieces, batches_of
from engine import distributed, registry, wespeaker
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import make_folder, run_main
from scoring import vector_tree, vectors
from scoring.embeddings import Table, read_table
from scoring.parts import Parts
from scoring.vector_tree import VectorTree
from scoring.vectors import FORMATS

LEAST_SECONDS = 0.5  # a shorter recording is repeated up to this
GPU_BATCH_SECONDS = 240.0  # fills a card with a network of 20 M parameters
RANGES = {
    "crop_seconds": (0, None), "num_crops": (1, 10000), "window_seconds": (0, None), "hop_seconds": (0, None),
    "batch_seconds": (0, None), "nDataLoaderThread": (0, 1024), "nOut": (1, None), "n_mels": (1, None),
    "sinc_stride": (1, None), "wav_scale": (1e-6, 1e9), "nproc": (0, None),
}  # fmt: skip

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--list",
        default="",
        metavar="FILE",
        help="files to embed: lines `file`, `speaker file` or `label file file`; a CSV file with columns id, audio (or "
        "path), speaker; or one audio file",
    )
    parser.add_argument("--folder", default="", help="embed all WAV, FLAC, OGG, Opus and MP3 files below it instead")
    parser.add_argument(
        "--path",
        default="",
        help="prefix of the files in --list (default for a CSV file: its folder); names stay as they are in the list",
    )
    parser.add_argument("--out", default="", metavar="FILE.npz", help="the table")
    parser.add_argument(
        "--vectors_to",
        default="",
        metavar="beside|DIR",
        help="write one vector file per recording too, <stem>_emb beside its audio or in a tree below DIR, with a CSV "
        "file of what lies where; vectors that are there are read and not computed again",
    )
    parser.add_argument("--vector_format", choices=FORMATS, default="npy", help="of --vectors_to")
    add_bool(parser, "--force", help="compute anew what is there already: table and vectors")
    parser.add_argument("--crop_seconds", type=float, default=0.0, help="mean over crops of so many seconds (0: off)")
    parser.add_argument("--num_crops", type=int, default=10, help="evenly spaced crops per file of --crop_seconds")
    parser.add_argument(
        "--window_seconds",
        type=float,
        default=0.0,
        help="mean over windows of files that are longer, read one by one, so that hours need no memory (0: off)",
    )
    parser.add_argument("--hop_seconds", type=float, default=0.0, help="step between windows (0: --window_seconds)")
    parser.add_argument(
        "--max_seconds",
        type=float,
        nargs="*",
        default=[],
        help="use only the first so many seconds; a table each, FILE_2s.npz and so on",
    )
    parser.add_argument(
        "--batch_seconds",
        type=float,
        default=None,
        help="seconds of pieces of one length embedded together (default: 240 on a GPU; 0 on a CPU, one by one, which "
        "gives the same bits whatever the other files are)",
    )
    parser.add_argument(
        "--nDataLoaderThread", type=int, default=DatasetLoader.default_workers(), help="loader processes per process"
    )
    SpeakerNet.add_network_arguments(parser)
    distributed.add_arguments(parser)
    return parser


def main(argv=None):
    """Read the flags and run on as many processes as they say."""

    def extend(parser, first):
        if first.model:
            registry.add_arguments(parser, [registry.load("models", first.model, "speaker")])

    args, given = parse(make_flags(), argv, extend)
    args.given = given
    check_ranges(args, RANGES)
    check_together(args)
    return distributed.launch(extract, args)


def check_together(args):
    """Refuse flags that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    if not args.initial_model:
        raise ValueError("--initial_model is required: the checkpoint to embed with")
    if bool(args.list) == bool(args.folder):
        raise ValueError("give either --list or --folder: the recordings to embed")
    if not args.out.endswith(".npz"):
        raise ValueError(f"--out {args.out or '(missing)'}: the table's name must end in .npz")
    if args.path and (args.folder or args.list.lower().endswith(READABLE)):
        raise ValueError(f"--path {args.path} is the prefix of the files in a list: leave it out")
    if "vector_format" in args.given and not args.vectors_to:
        raise ValueError("--vector_format needs --vectors_to")
    if args.vectors_to and len(args.max_seconds) > 1:
        raise ValueError("--vectors_to takes one number in --max_seconds: a recording has one vector file")
    if args.crop_seconds and args.window_seconds:
        raise ValueError("--crop_seconds and --window_seconds exclude each other")
    if args.hop_seconds and not args.window_seconds:
        raise ValueError("--hop_seconds needs --window_seconds")
    if any(seconds <= 0 for seconds in args.max_seconds) or len(set(args.max_seconds)) < len(args.max_seconds):
        raise ValueError(f"--max_seconds {' '.join(map(str, args.max_seconds))}: different numbers above 0")
    for name in ("crop_seconds", "window_seconds"):
        if 0 < getattr(args, name) < LEAST_SECONDS:
            raise ValueError(f"--{name} {getattr(args, name)}: must be at least {LEAST_SECONDS}")


# ---------------------------------------------------------------- extraction


@dataclass
class Job:
    """What the steps of an extraction share; `paths` are those of `recordings`, `tree` None without --vectors_to."""

    net: SpeakerNet.SpeakerNet
    recordings: Metadata
    paths: list[str]
    cut: Cut
    tree: VectorTree | None
    device: torch.device
    args: Namespace


def extract(args):
    """Make the table, or one for each of --max_seconds, as one process or one rank of several."""
    device = distributed.device_of(args)
    recordings, root, notes = read_inputs(args.list, args.folder, args.path)
    paths = [lists.join(root, path) for path in recordings.audio]
    folder, stems = vector_tree.place(args.vectors_to, recordings.ids, paths, root) if args.vectors_to else ("", [])
    say = print if distributed.is_main() else lambda line: None
    net, card = SpeakerNet.load_any(args.initial_model, args, device, say)
    for line in notes:
        say(line)
    make_folder(Path(args.out).parent)
    listed = [root, *recordings.ids, *(recordings.audio if recordings.audio != recordings.ids else [])]
    sources = wespeaker.files_of(args.initial_model)
    maker = {
        "checkpoint": Path(args.initial_model).name,
        "sha256": hash_of(b"".join(file.read_bytes() for file in sources) or args.initial_model.encode()),
        "class": card["class"] if card else type(net.__S__).__module__,
        "wav_scale": float(net.wav_scale),
    }
    identity = {**maker, "list": hash_of("\n".join(listed).encode()), "files": len(paths)}
    least = max(round(LEAST_SECONDS * SAMPLE_RATE), getattr(net.__S__, "LEAST_SAMPLES", 0))
    for most in args.max_seconds or [0.0]:
        out = Path(args.out).with_stem(Path(args.out).stem + (f"_{most:g}s" if most else ""))
        seconds = (most, args.crop_seconds, args.window_seconds, args.hop_seconds)
        most_samples, crop, window, hop = (round(SAMPLE_RATE * s) for s in seconds)
        crop, window = (max(count, least) if count else 0 for count in (crop, window))
        cut = Cut(least, most_samples, crop, args.num_crops if crop else 1, window, hop)
        options = {
            "max_seconds": most, "crop_seconds": args.crop_seconds, "num_crops": cut.crops,
            "window_seconds": args.window_seconds, "hop_seconds": args.hop_seconds, "mixedprec": args.mixedprec,
        }  # fmt: skip
        tree = VectorTree(folder, stems, args.vector_format, {**maker, "options": options}) if folder else None
        job = Job(net, recordings, paths, cut, tree, device, args)
        make_table(job, Parts(out, recordings.ids, {**identity, "options": options}), say)
    return 0


def hash_of(data: bytes) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 sum."""
    return hashlib.sha256(data).hexdigest()[:12]


def make_table(job: Job, parts: Parts, say):
    """Embed what is missing of a table; put it together on rank 0."""
    if job.args.force:
        distributed.from_main(parts.discard)
    complete = distributed.from_main(parts.complete)
    if job.tree:
        distributed.from_main(lambda: job.tree.begin(job.args.force))
    if complete:
        say(f"{parts.out} is complete already")
    else:
        headers = {}
        if not distributed.from_main(parts.begun):
            samples, headers = read_headers(job.paths)
            if distributed.is_main():
                parts.begin(samples)
        distributed.gather_objects(None)  # the plan is there
        if not distributed.is_main():
            parts.begun()
        missing = parts.missing()
        if len(missing) < len(parts.parts):
            say(f"{parts.folder}: {len(parts.parts) - len(missing)} of {len(parts.parts)} parts are there already")
        distributed.gather_objects(None)  # all ranks have looked before one writes
        read = embed_parts(job, parts, missing[distributed.rank() :: distributed.world_size()])
        read = sum(distributed.gather_objects(read))
        if job.tree:
            say(f"{job.tree.folder}: {read} of {len(job.paths)} vectors were there already")
        distributed.from_main(lambda: finish(job.cut, parts, headers))
    if job.tree:
        distributed.from_main(lambda: export(job, read_table(parts.out), parts.out))


def read_headers(paths: list[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Return the samples (files,) of all files, 0 for one that cannot be read, and {file: reason} of these.

    Every rank reads a share and gets all.
    """
    rank, world = distributed.rank(), distributed.world_size()
    samples, bad = np.zeros(len(paths), dtype=np.int64), {}
    own = range(rank, len(paths), world)
    for file in tqdm(own, desc="headers", unit="file", disable=True if rank else None, leave=False):
        try:
            with AudioFile(paths[file]) as audio:
                samples[file] = audio.samples
        except ValueError as error:
            bad[file] = str(error)
    for other, (part, reasons) in enumerate(distributed.gather_objects((samples[own], bad))):
        samples[other::world] = part
        bad |= reasons
    return samples, bad


@torch.inference_mode()
def embed_parts(job: Job, parts: Parts, numbers: list[int]) -> int:
    """Embed the files of some parts and write each part as soon as its last batch is done.

    Files whose vector is in the tree are not embedded but read there; returns how many.
    """
    if not numbers:
        return 0
    seconds = job.args.batch_seconds
    if seconds is None:
        seconds = GPU_BATCH_SECONDS if job.device.type == "cuda" else 0.0
    every = [parts.parts[number] for number in numbers]
    ready = [job.tree.ready(files) if job.tree else np.zeros(len(files), dtype=bool) for files in every]
    batches = batches_of([f[~r] for f, r in zip(every, ready)], parts.samples, job.cut, round(seconds * SAMPLE_RATE))
    used = np.array([job.cut.used(int(n)) for n in parts.samples])
    last = {batch[0]: i for i, batch in enumerate(batches)}
    total = sum(map(len, every))
    progress = tqdm(total=total, desc="embeddings", unit="file", disable=None if distributed.is_main() else True)
    dim = 0
    if any(r.any() for r in ready):  # what the vectors there must have
        dim = job.net(torch.zeros(1, job.cut.least, device=job.device)).shape[1]
    for i, files in enumerate(every):
        if i not in last:
            write_part(job, parts, numbers[i], ready[i], dim, used, [], {})
            progress.update(len(files))
    found, bad = [], {}
    loader = DatasetLoader.batch_loader(Pieces(job.paths, used, batches), job.args.nDataLoaderThread) if batches else []
    for i, batch in enumerate(loader):
        bad |= dict(batch["bad"])
        if len(batch["file"]):
            with torch.autocast(job.device.type, dtype=torch.bfloat16, enabled=job.args.mixedprec):
                embedded = job.net(batch["wave"].to(job.device, non_blocking=True))
            found.append((batch["file"], embedded.float()))
        part = batches[i][0]
        if last[part] == i:  # vectors stay on the device until here: nothing is waited for in between
            write_part(job, parts, numbers[part], ready[part], dim, used, found, bad)
            progress.update(len(every[part]))
            found, bad = [], {}
    progress.close()
    return int(sum(r.sum() for r in ready))


def write_part(job: Job, parts: Parts, number: int, ready: np.ndarray, dim: int, used: np.ndarray, found, bad: dict):
    """Write the mean vector of the pieces of each of a part's files, or what is in the tree where it is `ready` there.

    One that is not finite counts as bad.
    """
    files = parts.parts[number]
    owner = torch.from_numpy(np.concatenate([f for f, _ in found])) if found else torch.empty(0, dtype=torch.long)
    pieces = torch.cat([v for _, v in found]).cpu() if found else torch.empty(0, dim)
    place = torch.zeros(len(used), dtype=torch.long)
    place[torch.from_numpy(files)] = torch.arange(len(files))
    sums = torch.zeros(len(files), pieces.shape[1]).index_add_(0, place[owner], pieces)
    counts = torch.bincount(place[owner], minlength=len(files)).clamp(min=1)
    means = (sums / counts[:, None]).numpy()
    for i in np.flatnonzero(~np.isfinite(means).all(1)):
        bad.setdefault(int(files[i]), "its embedding is not finite")
    wrong = np.isin(files, list(bad))
    means[wrong] = 0
    if job.tree:
        if ready.any():
            means[ready] = job.tree.read(files[ready], dim)
        job.tree.write(files[~ready & ~wrong], means[~ready & ~wrong])
    parts.write(number, means, (used[files] / SAMPLE_RATE).astype(np.float32), bad)


def finish(cut: Cut, parts: Parts, headers: dict[int, str]):
    """Write the table; print what it holds and what it lacks."""
    unread = {file: "cannot be read as audio" for file in np.flatnonzero(parts.samples == 0).tolist()}
    bad = parts.finish(unread | headers)
    short = int(np.count_nonzero((parts.samples > 0) & (parts.samples < cut.least)))
    if short:
        print(f"{short} files shorter than {cut.least / SAMPLE_RATE:g} s were repeated up to that")
    if bad:
        listed = parts.out.with_suffix(".bad_files.txt")
        print(
            f"warning: {len(bad)} of {len(parts.names)} files left out, listed in {listed}: {next(iter(bad.values()))}"
        )
    print(f"{parts.out}: {len(parts.names) - len(bad)} embeddings")


def export(job: Job, table: Table, out: Path):
    """Write the vectors that the tree lacks of a table, and the CSV file of what lies where."""
    rows_of = {name: row for row, name in enumerate(job.recordings.ids)}
    rows = np.array([rows_of[name.decode()] for name in table.names])
    job.tree.fill(rows, table)
    beside = job.args.vectors_to == "beside"
    manifest = out.with_suffix(".vectors.csv") if beside else Path(job.tree.folder, f"{out.stem}.vectors.csv")
    described = job.recordings.take(rows.tolist())
    described.audio = [os.path.abspath(job.paths[row]) for row in rows]
    paths = [os.path.abspath(vectors.find(job.tree.stems[row], "emb")) for row in rows]
    above = os.path.abspath(job.tree.folder) + os.sep
    described.columns["embedding"] = paths if beside else [path.removeprefix(above) for path in paths]
    write_metadata(manifest, described)
    print(f"{manifest}: id, audio, embedding of {len(rows)} recordings; can be given as --list")


if __name__ == "__main__":
    run_main(main)
