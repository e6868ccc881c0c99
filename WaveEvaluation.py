"""What the evaluations of waveform models share: windows, fixed noise, losses with true, other and no conditions.
Entry points: add_arguments, read, speaker_rows, labels_among, measure, figures, print_table, write_report.
"""

import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import DatasetLoader
import DiffusionNet
import WaveSets
from audio.companding import ENCODINGS
from audio.io import SAMPLE_RATE
from audio.lists import evenly
from audio.windows import SPACING_SECONDS
from diffusion.samplers import sample_seed
from engine import checkpoint, distributed
from engine.log import make_folder
from models.blocks.waves import check_length
from scoring.embeddings import whole_file

# numbers that make sense, see engine.args.check_ranges
RANGES = {
    "batch_size": (1, None), "num_windows": (1, None), "buckets": (1, 1000), "seed": (0, None),
    "spacing_seconds": (1e-4, None), "nDataLoaderThread": (0, 1024),
}  # fmt: skip


def add_arguments(parser, kind: str):
    """Add the flags of an evaluation of a `kind` of model."""
    parser.add_argument("checkpoint_path", help=f"{kind}, ours or the original")
    parser.add_argument("data_dir", nargs="+", help="folder of speakers, list of lines `speaker file`, or tones")
    parser.add_argument("--ema", default=None, metavar="RATE", help="averaged weights to take (none: the last step's)")
    parser.add_argument("--noise_schedule", default="", help="of an old file that does not say: exp or cos")
    parser.add_argument("--data_path", default="", help="prefix of the paths in lists")
    parser.add_argument("--num_windows", type=int, default=None, help="so many, evenly spaced (default: all)")
    parser.add_argument("--length", type=int, default=None, help="of a window in samples (default: as trained)")
    parser.add_argument("--spacing_seconds", type=float, default=SPACING_SECONDS, help="between windows of a recording")
    parser.add_argument(
        "--encoding", choices=ENCODINGS, default=None, help="that the model was trained on (default: as it says)"
    )
    parser.add_argument("--buckets", type=int, default=4, help="equal parts of the times in [0, 1]")
    parser.add_argument("--seed", type=int, default=0, help="of times, noise and shuffling")
    parser.add_argument("--batch_size", type=int, default=4, help="windows together, per process")
    parser.add_argument(
        "--nDataLoaderThread", type=int, default=DatasetLoader.default_workers(), help="loader processes"
    )
    parser.add_argument("--save_path", default="", help="folder for report.json")
    distributed.add_arguments(parser)


def read(args, card: dict, rate: int, say):
    """Return the data, the numbers of the windows that are measured, and their length in samples.

    Raises:
        FileNotFoundError, ValueError: no such data, or a length that is no multiple of `rate`.
    """
    encoding = DiffusionNet.encoding_of(card, args.encoding, args.checkpoint_path)
    length = args.length or card["meta"]["window"]
    check_length(length, rate)
    sizes = (length + 0.5) / SAMPLE_RATE, args.spacing_seconds  # half a sample more, lest rounding make it one less
    data = DatasetLoader.wave_windows(args.data_dir, *sizes, encoding, args.data_path, say)
    return data, list(evenly(len(data), args.num_windows or 0)), length


# ---------------------------------------------------------------- conditions


def speaker_rows(who: np.ndarray, seed: int) -> np.ndarray | None:
    """Return for each window (windows,) another one, of another speaker; None where there is a single speaker."""
    generator, other = np.random.default_rng(seed), np.full(len(who), -1)
    for speaker in np.unique(who):
        candidates = np.flatnonzero(who != speaker)
        if len(candidates):
            other[who == speaker] = generator.choice(candidates, int((who == speaker).sum()))
    return other if (other >= 0).all() else None


def labels_among(known: list[str] | None, count: int, speakers: list[str]) -> np.ndarray:
    """Return the model's label of each of `speakers`, (speakers,): of the same name, else of the same number.

    Raises:
        ValueError: it has none.
    """
    if not known and len(speakers) > count:
        raise ValueError(f"the data has {len(speakers)} speakers, but the model the labels 0 to {count - 1}")
    place = {name: label for label, name in enumerate(known or speakers)}
    absent = [name for name in speakers if name not in place]
    if absent:
        raise ValueError(f"speaker {absent[0]} (of {len(absent)}) is none of the {count} that the model was trained on")
    return np.array([place[name] for name in speakers])


# ---------------------------------------------------------------- measuring


@torch.inference_mode()
def measure(data, windows: list[int], of_batch, args, device) -> dict[str, np.ndarray]:
    """Return the time `t` (windows,) of each window and what of_batch finds, in the order of the windows, on all ranks.

    Args:
        of_batch: function of the numbers of windows, clean waves (batch, 1, samples), times (batch,) float64 and noise
            of the waves' shape that returns {name: tensor (batch, ...)}. A window's time and noise follow from the
            seed and its number alone, the times evenly over [0, 1] for any number of windows.
    """
    rank, world = distributed.rank(), distributed.world_size()
    starts = range(0, len(windows), args.batch_size)
    batches = [list(range(s, min(s + args.batch_size, len(windows)))) for s in starts][rank::world]
    waves = DatasetLoader.Batches(lambda number: data[windows[number]]["samples"], batches)
    rows = []
    with tqdm(total=sum(map(len, batches)), unit="window", disable=True if rank else None, leave=False) as progress:
        loader = DatasetLoader.batch_loader(waves, args.nDataLoaderThread) if batches else ()
        for numbers, samples in zip(batches, loader):
            x0 = samples.to(device)[:, None]
            _, _, eps = WaveSets.draw([sample_seed(args.seed, n) for n in numbers], x0.shape[-1], device)
            t = torch.tensor([(0.5 + n * WaveSets.GOLDEN) % 1 for n in numbers], dtype=torch.float64)
            values = {"number": torch.tensor(numbers), "t": t, **of_batch(numbers, x0, t, eps[:, None])}
            rows.append({name: value.cpu().numpy() for name, value in values.items()})
            progress.update(len(numbers))
    rows = [row for part in distributed.gather_objects(rows) for row in part]
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.argsort(found.pop("number"))
    return {name: values[order] for name, values in found.items()}


def mean_of(values: np.ndarray) -> dict:
    """Return the mean and its standard error, as plain numbers."""
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "standard_error": float(spread / np.sqrt(len(values)))}


def figures(found: dict[str, np.ndarray], kinds, buckets: int) -> dict:
    """Return {kind: mean, standard error, means by time} and {worse_<kind>: ...}, against the first of `kinds`."""
    report, bucket = {}, np.minimum((found["t"] * buckets).astype(int), buckets - 1)
    present = np.unique(bucket).tolist()
    first, *others = [kind for kind in kinds if kind in found]
    for kind in (first, *others):
        by_time = {f"q{part}": float(found[kind][bucket == part].mean()) for part in present}
        report[kind] = {**mean_of(found[kind]), "by_time": by_time}
        if kind != first:
            report[f"worse_{kind}"] = mean_of(found[kind] - found[first])
    return report


def print_table(report: dict, words: dict[str, str]):
    """Print what figures() and mean_of() give, one a line, called as `words` say."""
    parts = sorted({part for values in report.values() for part in values.get("by_time", {})}, key=lambda q: int(q[1:]))
    wide = max(len(words[name]) for name in report)
    print(" " * wide, "   mean      +-   ", *(f"{part:>8}" for part in parts))
    for name, values in report.items():
        by_time = values.get("by_time", {})
        cells = [f"{by_time[part]:8.5f}" if part in by_time else "" for part in parts]
        row = " ".join([f"{words[name]:{wide}} {values['mean']:8.5f} {values['standard_error']:8.5f}  ", *cells])
        print(row.rstrip())


def write_report(args, about: dict, report: dict):
    """Write report.json into --save_path, where that is given, with what it is of."""
    if not args.save_path:
        return
    make_folder(args.save_path)
    own = {"checkpoint": Path(args.checkpoint_path).name, "sha256": checkpoint.file_hash(args.checkpoint_path)}
    with whole_file(Path(args.save_path, "report.json")) as file:
        file.write(json.dumps({**own, "ema": args.ema, "seed": args.seed, **about, **report}, indent=1).encode())
    print(f"written: {Path(args.save_path, 'report.json')}")
