"""Measure a diffusion model's loss on speech: by time, against shuffled conditions, as a bound in bits per sample.

    python eval_diffusion.py exps/diffusion/checkpoints/best.pt data/dev-clean --num_windows 500

Time and noise of a window follow from (--seed, its number) alone, so that two models are measured on the same. Flags
may be written with hyphens too, as --batch-size.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch
from tqdm import tqdm

import DatasetLoader
import DiffusionNet
import SampleConditions
import WaveSets
from audio.companding import ENCODINGS
from audio.io import SAMPLE_RATE
from audio.lists import evenly
from audio.windows import SPACING_SECONDS
from diffusion import bound, objective, schedules
from diffusion.samplers import sample_seed
from engine import checkpoint, distributed
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import make_folder, run_main
from models.blocks.waves import check_length
from scoring.embeddings import whole_file

RANGES = {
    "batch_size": (1, None), "num_windows": (1, None), "buckets": (1, 1000), "seed": (0, None),
    "spacing_seconds": (1e-4, None), "nDataLoaderThread": (0, 1024),
}  # fmt: skip
WORDS = {
    "true": "loss", "shuffled": "loss with label and vector of another speaker",
    "none": "loss without label and vector",
    "worse_shuffled": "which is worse by", "worse_none": "which is worse by",
    "bits": "variational bound in bits per 16-bit sample",
}  # fmt: skip


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("checkpoint_path", help="diffusion model, ours or the original")
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
    parser.add_argument(
        "--cond_embeddings", nargs="+", default=[], metavar="FILE.npz", help="tables with a vector per utterance"
    )
    parser.add_argument("--buckets", type=int, default=4, help="equal parts of the times in [0, 1]")
    add_bool(parser, "--bits", help="the variational bound too, in bits per 16-bit sample: a second pass")
    parser.add_argument("--seed", type=int, default=0, help="of times, noise and shuffling")
    parser.add_argument("--batch_size", type=int, default=4, help="windows together, per process")
    parser.add_argument(
        "--nDataLoaderThread", type=int, default=DatasetLoader.default_workers(), help="loader processes"
    )
    parser.add_argument("--save_path", default="", help="folder for report.json")
    distributed.add_arguments(parser)
    return parser


def main(argv=None):
    """Read the flags and run on as many processes as they say."""
    args, _ = parse(make_flags(), argv)
    check_ranges(args, RANGES)
    return distributed.launch(evaluate, args)


def evaluate(args):
    """Measure as one process or one rank of several; rank 0 prints and keeps the figures."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    net, card = DiffusionNet.load(args.checkpoint_path, device, args.ema, args.noise_schedule)
    meta, encoding = card["meta"], DiffusionNet.encoding_of(card, args.encoding, args.checkpoint_path)
    length = args.length or meta["window"]
    check_length(length, net.rate)
    sizes = (length + 0.5) / SAMPLE_RATE, args.spacing_seconds  # half a sample more, lest rounding make it one less
    data = DatasetLoader.wave_windows(args.data_dir, *sizes, encoding, args.data_path, say)
    windows = list(evenly(len(data), args.num_windows or 0))
    conditions = conditions_of(args, net, meta, data, windows)
    found = measure(net, data, windows, conditions, args, device)
    if not distributed.is_main():
        return
    report = summary(found, args, net.schedule)
    print(f"{len(windows)} of {len(data)} windows of {length} samples, target {net.target}, noise of seed {args.seed}")
    for name, values in report.items():
        parts = "".join(f", {part} {value:.5f}" for part, value in values.get("by_time", {}).items())
        print(f"{WORDS[name]} {values['mean']:.5f} +- {values['standard_error']:.5f}{parts}")
    if args.save_path:
        make_folder(args.save_path)
        about = {"checkpoint": Path(args.checkpoint_path).name, "sha256": checkpoint.file_hash(args.checkpoint_path)}
        about |= {"ema": args.ema, "windows": len(windows), "length": length, "seed": args.seed, "target": net.target}
        with whole_file(Path(args.save_path, "report.json")) as file:
            file.write(json.dumps({**about, **report}, indent=1).encode())
        print(f"written: {Path(args.save_path, 'report.json')}")


def summary(found: dict[str, np.ndarray], args, schedule: str) -> dict:
    """Return {name in WORDS: mean, standard error and, of losses, the means by time} of what measure() gives."""

    def figures(values):
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        return {"mean": float(values.mean()), "standard_error": float(spread / np.sqrt(len(values)))}

    report, bucket = {}, np.minimum((found["t"] * args.buckets).astype(int), args.buckets - 1)
    for kind in ("true", "shuffled", "none"):
        if kind in found:
            present = np.unique(bucket)
            by_time = {f"q{part}": float(found[kind][bucket == part].mean()) for part in present.tolist()}
            report[kind] = {**figures(found[kind]), "by_time": by_time}
        if kind in found and kind != "true":
            report[f"worse_{kind}"] = figures(found[kind] - found["true"])
    if args.bits:
        bits = bound.bits_per_sample(torch.from_numpy(found["bound"]), torch.from_numpy(found["power"]), schedule)
        report["bits"] = figures(bits.numpy())
    return report


# ---------------------------------------------------------------- conditions


def conditions_of(args, net, meta: dict, data, windows: list[int]) -> dict[str, tuple]:
    """Return {"true", "shuffled", "none": (labels (windows,), vectors (windows, dim))}, each None where not taken.

    Shuffled are the label and vector of another window, of another speaker where there is one. None is measured where
    the model was trained to do without.

    Raises:
        ValueError: speakers that the model does not know, or vectors that are missing or superfluous.
    """
    if net.cond_dim is None and args.cond_embeddings:
        raise ValueError(f"{args.checkpoint_path} was trained without vectors: leave out --cond_embeddings")
    if net.cond_dim is not None and not args.cond_embeddings:
        raise ValueError(f"{args.checkpoint_path} was trained with vectors: give --cond_embeddings")
    who, labels, vectors = data.labels[windows], None, None
    if net.speakers is not None:
        labels = torch.from_numpy(labels_among(meta.get("speakers"), net.speakers, data.speakers)[who])
    if net.cond_dim is not None:
        table = SampleConditions.read_tables(args.cond_embeddings)(data.names())
        utterances = data.windows.locate(windows)[0] if hasattr(data, "windows") else np.array(windows)
        vectors = table[torch.from_numpy(utterances)]
    if labels is None and vectors is None:
        return {"true": (None, None)}
    generator, other = np.random.default_rng(args.seed), np.full(len(who), -1)
    for speaker in np.unique(who):
        candidates = np.flatnonzero(who != speaker)
        if len(candidates):
            other[who == speaker] = generator.choice(candidates, int((who == speaker).sum()))
    kinds = {"true": (labels, vectors)}
    if (other >= 0).all():
        kinds["shuffled"] = tuple(None if values is None else values[other] for values in (labels, vectors))
    if net.cond_dropout > 0:
        kinds["none"] = (None, None)
    return kinds


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
def measure(net, data, windows, conditions, args, device) -> dict[str, np.ndarray]:
    """Return the time `t` of each window, its loss with each of `conditions` and, of --bits, the squared error of the
    noise at a time of the bound, `bound`, and the mean square of the clean window, `power`; all (windows,)."""
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
            # evenly over [0, 1] for any number of windows
            u = torch.tensor([(0.5 + n * WaveSets.GOLDEN) % 1 for n in numbers], dtype=torch.float64)
            values = {"number": torch.tensor(numbers), "t": u}
            for kind, given in conditions.items():
                values[kind] = losses(
                    net, x0, u, eps, [g if g is None else g[numbers] for g in given], net.target, args
                )
            if args.bits:
                t, given = bound.bound_times(u, net.schedule), next(iter(conditions.values()))
                values["bound"] = losses(net, x0, t, eps, [g if g is None else g[numbers] for g in given], "eps", args)
                values["power"] = x0.double().square().mean((1, 2))
            rows.append({name: value.cpu().numpy() for name, value in values.items()})
            progress.update(len(numbers))
    rows = [row for part in distributed.gather_objects(rows) for row in part]
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.argsort(found.pop("number"))
    return {name: values[order] for name, values in found.items()}


def losses(net, x0, t, eps, given, target: str, args) -> torch.Tensor:
    """Return the squared error of each window (batch,) float64, at times `t`, of the noise or of the model's target."""
    label, vector = given
    eps = eps[:, None]
    with torch.autocast(x0.device.type, dtype=torch.bfloat16, enabled=args.mixedprec):
        noise = DiffusionNet.predict(net, label, vector)

        def predict(x, times):
            answer = noise(x, times).to(x.dtype)
            if target == "eps":
                return answer
            signal = schedules.alpha_bar(net.schedule, times.double())
            return objective.to_target(objective.eps_to_x0(x, answer, signal), answer, signal, target)

        return objective.losses(predict, x0, t.to(x0.device, torch.float32), eps, net.schedule, target).double()


if __name__ == "__main__":
    run_main(main)
