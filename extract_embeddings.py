"""Embed the recordings of a list, folder or CSV and write one table (.npz) of names, vectors and seconds.

    python extract_embeddings.py --initial_model exps/exp1/checkpoints/best.pt --list L --path D --out exps/test.npz

Recordings are embedded whole, unless crops or windows are asked for; only pieces of one length go through the network
together, so that no embedding depends on its neighbours. The same command goes on where it was stopped.
"""

import csv
import hashlib
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

import DatasetLoader
import SpeakerNet
from audio import lists
from audio.io import SAMPLE_RATE, AudioFile
from audio.pieces import Cut, read_piece
from engine import distributed, registry
from engine.args import check_ranges, make_parser, parse
from engine.log import make_folder, run_main
from scoring.parts import Parts

SUFFIXES = (".wav", ".flac", ".ogg")
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
        help="files to embed: lines `file`, `speaker file` or `label file file`, or a CSV file with a column `path`",
    )
    parser.add_argument("--folder", default="", help="embed all WAV, FLAC and OGG files below it instead")
    parser.add_argument("--path", default="", help="prefix of the files in --list; names stay as they are in the list")
    parser.add_argument("--out", default="", metavar="FILE.npz", help="the table")
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
    if args.crop_seconds and args.window_seconds:
        raise ValueError("--crop_seconds and --window_seconds exclude each other")
    if args.hop_seconds and not args.window_seconds:
        raise ValueError("--hop_seconds needs --window_seconds")
    if any(seconds <= 0 for seconds in args.max_seconds) or len(set(args.max_seconds)) < len(args.max_seconds):
        raise ValueError(f"--max_seconds {' '.join(map(str, args.max_seconds))}: different numbers above 0")
    for name in ("crop_seconds", "window_seconds"):
        if 0 < getattr(args, name) < LEAST_SECONDS:
            raise ValueError(f"--{name} {getattr(args, name)}: must be at least {LEAST_SECONDS}")


def read_inputs(args) -> tuple[list[str], str]:
    """Return the sorted names of the recordings and the prefix that makes them paths.

    Raises:
        FileNotFoundError, ValueError: no such list or folder, nothing in it, or no column `path`.
    """
    if args.folder:
        root = Path(args.folder)
        if not root.is_dir():
            raise FileNotFoundError(f"--folder {root}: no such folder")
        found = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"--folder {root}: holds no {', '.join(SUFFIXES)} file")
        return found, str(root)
    if not args.list.lower().endswith(".csv"):
        return lists.read_files(args.list)[0], args.path
    if not Path(args.list).is_file():
        raise FileNotFoundError(f"{args.list}: no such file")
    try:
        with open(args.list, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if "path" not in columns:
                raise ValueError(f"{args.list}: no column `path` (columns: {', '.join(columns)[:200]})")
            names = [(row["path"] or "").strip() for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{args.list}: not a CSV file in UTF-8 ({error})") from None
    if not names or not all(names):
        where = f", line {names.index('') + 2}" if names else ""
        raise ValueError(f"{args.list}{where}: no path")
    return sorted(set(names)), args.path


# ---------------------------------------------------------------- extraction


def extract(args):
    """Make the table, or one for each of --max_seconds, as one process or one rank of several."""
    device = distributed.device_of(args)
    names, root = read_inputs(args)
    say = print if distributed.is_main() else lambda line: None
    net, card = SpeakerNet.load_any(args.initial_model, args, device, say)
    make_folder(Path(args.out).parent)
    file = Path(args.initial_model)
    identity = {
        "checkpoint": file.name,
        "sha256": hash_of(file.read_bytes() if file.is_file() else args.initial_model.encode()),
        "class": card["class"] if card else type(net.__S__).__module__,
        "wav_scale": float(net.wav_scale),
        "list": hash_of("\n".join([root, *names]).encode()),
        "files": len(names),
    }
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
        make_table(net, Parts(out, names, {**identity, "options": options}), root, cut, args, device, say)
    return 0


def hash_of(data: bytes) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 sum."""
    return hashlib.sha256(data).hexdigest()[:12]


def make_table(net, parts: Parts, root: str, cut: Cut, args, device, say):
    """Embed what is missing of a table; put it together on rank 0."""
    if distributed.from_main(parts.complete):
        say(f"{parts.out} is complete already")
        return
    headers = {}
    if not distributed.from_main(parts.begun):
        samples, headers = read_headers(parts.names, root)
        if distributed.is_main():
            parts.begin(samples)
    distributed.gather_objects(None)  # the plan is there
    if not distributed.is_main():
        parts.begun()
    missing = parts.missing()
    if len(missing) < len(parts.parts):
        say(f"{parts.folder}: {len(parts.parts) - len(missing)} of {len(parts.parts)} parts are there already")
    distributed.gather_objects(None)  # all ranks have looked before one writes
    embed_parts(net, parts, missing[distributed.rank() :: distributed.world_size()], root, cut, args, device)
    distributed.gather_objects(None)
    error = None
    if distributed.is_main():
        unread = {file: "cannot be read as audio" for file in np.flatnonzero(parts.samples == 0).tolist()}
        try:
            tell(parts, cut, parts.finish(unread | headers))
        except ValueError as problem:
            error = problem
    distributed.stop_if_any_failed(error)


def read_headers(names: list[str], root: str) -> tuple[np.ndarray, dict[int, str]]:
    """Return the samples (files,) of all files, 0 for one that cannot be read, and {file: reason} of these.

    Every rank reads a share and gets all.
    """
    rank, world = distributed.rank(), distributed.world_size()
    samples, bad = np.zeros(len(names), dtype=np.int64), {}
    own = range(rank, len(names), world)
    for file in tqdm(own, desc="headers", unit="file", disable=True if rank else None, leave=False):
        try:
            with AudioFile(lists.join(root, names[file])) as audio:
                samples[file] = audio.samples
        except ValueError as error:
            bad[file] = str(error)
    for other, (part, reasons) in enumerate(distributed.gather_objects((samples[own], bad))):
        samples[other::world] = part
        bad |= reasons
    return samples, bad


class Pieces(Dataset):
    """Batches of pieces of one length: item i is {"wave" (pieces, count), "file" (pieces,), "bad" [(file, reason)]}.

    Args:
        used: (files,) samples of each file that count.
        batches: [(part, count, files, starts)].
    """

    def __init__(self, names: list[str], root: str, used: np.ndarray, batches: list[tuple]):
        self.names, self.root, self.used, self.batches = names, root, used, batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        _, count, files, starts = self.batches[index]
        waves, good, bad = [], [], []
        for file, start in zip(files.tolist(), starts.tolist()):
            try:
                with AudioFile(lists.join(self.root, self.names[file])) as audio:
                    waves.append(read_piece(audio, start, count, int(self.used[file])))
                good.append(file)
            except ValueError as error:
                bad.append((file, str(error)))
        wave = torch.from_numpy(np.stack(waves)) if waves else torch.empty(0, count)
        return {"wave": wave, "file": np.array(good, dtype=np.int64), "bad": bad}


def batches_of(parts: Parts, numbers: list[int], cut: Cut, most_samples: int) -> list[tuple]:
    """Return [(part, count, files, starts)]: pieces of one length and one part, at most `most_samples` together."""
    batches = []
    for number in numbers:
        groups = {}
        for file in parts.parts[number]:
            starts, count = cut.starts(int(parts.samples[file]))
            groups.setdefault(count, []).append((np.full(len(starts), file), starts))
        for count, pieces in groups.items():
            files, starts = (np.concatenate(column) for column in zip(*pieces))
            step = max(1, most_samples // count)
            batches += [(number, count, files[i : i + step], starts[i : i + step]) for i in range(0, len(files), step)]
    return batches


@torch.inference_mode()
def embed_parts(net, parts: Parts, numbers: list[int], root: str, cut: Cut, args, device):
    """Embed the files of some parts and write each part as soon as its last batch is done."""
    if not numbers:
        return
    seconds = args.batch_seconds
    if seconds is None:
        seconds = GPU_BATCH_SECONDS if device.type == "cuda" else 0.0
    batches = batches_of(parts, numbers, cut, round(seconds * SAMPLE_RATE))
    used = np.array([cut.used(int(n)) for n in parts.samples])
    loader = DatasetLoader.batch_loader(Pieces(parts.names, root, used, batches), args.nDataLoaderThread)
    last = {batch[0]: i for i, batch in enumerate(batches)}
    total = sum(len(parts.parts[number]) for number in numbers)
    progress = tqdm(total=total, desc="embeddings", unit="file", disable=None if distributed.is_main() else True)
    found, bad = [], {}
    for i, batch in enumerate(loader):
        bad |= dict(batch["bad"])
        if len(batch["file"]):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.mixedprec):
                vectors = net(batch["wave"].to(device, non_blocking=True))
            found.append((batch["file"], vectors.float()))
        number = batches[i][0]
        if last[number] == i:  # vectors stay on the device until here: nothing is waited for in between
            write_part(parts, number, used, found, bad)
            progress.update(len(parts.parts[number]))
            found, bad = [], {}
    progress.close()


def write_part(parts: Parts, number: int, used: np.ndarray, found: list[tuple], bad: dict[int, str]):
    """Write the mean vector of the pieces of each of a part's files; one that is not finite counts as bad."""
    files = parts.parts[number]
    owner = torch.from_numpy(np.concatenate([f for f, _ in found])) if found else torch.empty(0, dtype=torch.long)
    vectors = torch.cat([v for _, v in found]).cpu() if found else torch.empty(0, 0)
    place = torch.zeros(len(used), dtype=torch.long)
    place[torch.from_numpy(files)] = torch.arange(len(files))
    sums = torch.zeros(len(files), vectors.shape[1]).index_add_(0, place[owner], vectors)
    counts = torch.bincount(place[owner], minlength=len(files)).clamp(min=1)
    means = (sums / counts[:, None]).numpy()
    for i in np.flatnonzero(~np.isfinite(means).all(1)):
        bad.setdefault(int(files[i]), "its embedding is not finite")
    means[[i for i, file in enumerate(files.tolist()) if file in bad]] = 0
    parts.write(number, means, (used[files] / SAMPLE_RATE).astype(np.float32), bad)


def tell(parts: Parts, cut: Cut, bad: dict[str, str]):
    """Print what the table holds and what it lacks."""
    short = int(np.count_nonzero((parts.samples > 0) & (parts.samples < cut.least)))
    if short:
        print(f"{short} files shorter than {cut.least / SAMPLE_RATE:g} s were repeated up to that")
    if bad:
        listed = parts.out.with_suffix(".bad_files.txt")
        print(
            f"warning: {len(bad)} of {len(parts.names)} files left out, listed in {listed}: {next(iter(bad.values()))}"
        )
    print(f"{parts.out}: {len(parts.names) - len(bad)} embeddings")


if __name__ == "__main__":
    run_main(main)
