"""Judge speech by a speaker classifier: statistics of samples or of real windows, for class and Frechet scores.

    python stat_generate.py samples.npz --checkpoint_path classifier.pt --sample_dir samples
    python stat_generate.py real.npz --checkpoint_path classifier.pt --data_dir data/dev-clean --num_samples 10000

With --verifier and --speakers_list a verification network tells samples by the intended speaker from others, too.
Compare files of equal numbers of samples with stat_compare.py. Flags may be written with hyphens, as --sample-dir.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch
from tqdm import tqdm

import DatasetLoader
import DiffusionNet
import SpeakerNet
from audio.companding import ENCODINGS, encode
from audio.inputs import READABLE, read_inputs
from audio.io import SAMPLE_RATE
from audio.lists import evenly, join
from audio.metadata import read_metadata
from audio.sample_folder import MANIFEST, read_wave
from audio.windows import SPACING_SECONDS, WINDOW_SECONDS
from engine import checkpoint, distributed
from engine.args import check_ranges, make_parser, parse
from engine.log import run_main
from scoring import intended_speaker, intervals, metrics
from scoring.feature_statistics import cautions, gather, write_statistics
from scoring.frechet import class_score_measured

MOST_WINDOWS = 10000  # of a data set, unless --num_samples says more: as many as the published scores are of
RANGES = {
    "batch_size": (1, None), "num_samples": (2, None), "seconds": (0, None), "spacing_seconds": (1e-4, None),
    "bootstrap": (0, 10**6), "nDataLoaderThread": (0, 1024), "eval_frames": (0, 10**6),
}  # fmt: skip


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("output_path", metavar="STATISTICS.npz", help="the file to write")
    parser.add_argument("--checkpoint_path", default="model_classifier.pt", help="classifier, ours or the original")
    parser.add_argument("--ema", default=None, metavar="RATE", help="averaged weights to take (none: the last step's)")
    parser.add_argument("--sample_dir", default="", help="folder of samples: its manifest.csv, or all audio in it")
    parser.add_argument("--data_dir", nargs="+", default=[], help="real speech: a folder of speakers, a list, `tones`")
    parser.add_argument("--data_path", default="", help="prefix of the paths in lists of --data_dir")
    parser.add_argument(
        "--num_samples", type=int, default=None, help="so many, evenly spaced (default: all; of --data_dir 10000)"
    )
    parser.add_argument(
        "--seconds", type=float, default=WINDOW_SECONDS,
        help="length that is judged: longer files are cut, shorter ones padded with zeros (0: whole samples)",
    )  # fmt: skip
    parser.add_argument("--spacing_seconds", type=float, default=SPACING_SECONDS, help="between windows of --data_dir")
    parser.add_argument(
        "--encoding", choices=ENCODINGS, default=None, help="that the classifier was trained on (default: as it says)"
    )
    parser.add_argument("--batch_size", type=int, default=4, help="samples judged together")
    parser.add_argument("--bootstrap", type=int, default=1000, help="replicates for the 95 %% intervals (0: none)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    verifier = parser.add_argument_group("does the intended speaker speak?")
    verifier.add_argument("--verifier", default="", help="checkpoint of a speaker network that hears the samples")
    verifier.add_argument(
        "--speakers_list", default="", help="real utterances, lines `speaker file` or a CSV, of the intended speakers"
    )
    verifier.add_argument("--speakers_path", default="", help="prefix of the paths in --speakers_list")
    verifier.add_argument(
        "--eval_frames",
        type=int,
        default=0,
        help="crop that the verifier hears in frames of 10 ms (0: whole files)",
    )
    parser.add_argument(
        "--nDataLoaderThread", type=int, default=DatasetLoader.default_workers(), help="loader processes"
    )
    distributed.add_arguments(parser)
    return parser


def main(argv=None):
    """Read the flags, judge, write."""
    args, given = parse(make_flags(), argv)
    check_ranges(args, RANGES)
    if bool(args.sample_dir) == bool(args.data_dir):
        raise ValueError("give either --sample_dir or --data_dir: what is judged")
    if not args.output_path.endswith(".npz"):
        raise ValueError(f"{args.output_path}: the name of a statistics file ends in .npz")
    for name in ("data_path", "spacing_seconds"):
        if name in given and not args.data_dir:
            raise ValueError(f"--{name} needs --data_dir")
    if bool(args.verifier) != bool(args.speakers_list):
        raise ValueError("--verifier and --speakers_list go together: the network, and what the speakers sound like")
    if args.verifier and not args.sample_dir:
        raise ValueError("--verifier hears samples: give --sample_dir")
    for name in ("speakers_path", "eval_frames"):
        if name in given and not args.verifier:
            raise ValueError(f"--{name} needs --verifier")
    if args.data_dir and args.seconds == 0:
        raise ValueError("--seconds 0: windows of --data_dir have a length")
    return distributed.launch(judge, args)


# ---------------------------------------------------------------- what is judged


def find_samples(args) -> list[str]:
    """Return the files of --sample_dir, of its manifest where there is one, evenly spaced where there are too many.

    Raises:
        FileNotFoundError, ValueError: no such folder, or fewer than two files in it.
    """
    folder = Path(args.sample_dir)
    if (folder / MANIFEST).is_file():
        names = read_metadata(folder / MANIFEST).audio
    elif not folder.is_dir():
        raise FileNotFoundError(f"--sample_dir {folder}: no such folder")
    else:
        suffixes = (*READABLE, ".npz")
        names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != ".")
    if len(names) < max(2, args.num_samples or 2):
        raise ValueError(f"--sample_dir {folder}: {len(names)} samples, {args.num_samples or 2} are needed")
    return [str(folder / names[i]) for i in evenly(len(names), args.num_samples or 0)]


def sample_batches(paths: list[str], args, rate: int, encoding: str) -> DatasetLoader.Batches:
    """Return batches of samples of one length, longer ones cut, shorter ones padded; of --seconds 0, of equal ones."""
    samples = round(args.seconds * SAMPLE_RATE)

    def read(number):
        wave = encode(read_wave(paths[number], 0, samples or None), encoding)
        return np.pad(wave, (0, max(0, (samples or rate) - len(wave))))

    groups = {}
    for number, path in enumerate(paths):
        groups.setdefault(samples or len(read_wave(path)), []).append(number)
    size = args.batch_size
    return DatasetLoader.Batches(
        read, [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
    )


def window_batches(args, encoding: str, say) -> tuple[DatasetLoader.Batches, list[str]]:
    """Return batches of windows of --data_dir, evenly spaced, and who speaks in each window."""
    data = DatasetLoader.wave_windows(args.data_dir, args.seconds, args.spacing_seconds, encoding, args.data_path, say)
    count = args.num_samples or min(MOST_WINDOWS, len(data))
    if len(data) < count:
        raise ValueError(f"--num_samples {count}: there are {len(data)} windows; give a smaller --spacing_seconds")
    numbers = list(evenly(len(data), count))
    say(f"{count} of {len(data)} windows, evenly spaced")
    batches = [numbers[i : i + args.batch_size] for i in range(0, count, args.batch_size)]
    who = [data.speakers[label] for label in data.labels[numbers]]
    return DatasetLoader.Batches(lambda number: data[number]["samples"], batches), who


def told_speakers(args, paths: list[str]) -> list[str]:
    """Return whom each sample is of by the manifest of --sample_dir, "" for nobody; empty without manifest."""
    manifest = Path(args.sample_dir, MANIFEST)
    if not manifest.is_file():
        return []
    told = read_metadata(manifest)
    speaker_of = dict(zip(told.audio, told.speakers or [""] * len(told.audio)))
    return [speaker_of[Path(path).name] for path in paths]


# ---------------------------------------------------------------- judging


def judge(args):
    """Judge samples or windows as one process or one rank of several; rank 0 writes their statistics."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    paths = find_samples(args) if args.sample_dir else []
    intended = intended_speakers(args, paths) if args.verifier else None
    network, card = DiffusionNet.load_network(args.checkpoint_path, "classifier", device, args.ema)
    encoding = DiffusionNet.encoding_of(card, args.encoding, args.checkpoint_path)
    if 0 < args.seconds * SAMPLE_RATE < network.rate:
        raise ValueError(f"--seconds {args.seconds:g}: the classifier needs at least {network.rate / SAMPLE_RATE:g}")
    if paths:
        batches, who = sample_batches(paths, args, network.rate, encoding), told_speakers(args, paths)
    else:
        batches, who = window_batches(args, encoding, say)
    features, log_probs = classify(network, batches, args, device)
    verified = verify(args, paths, intended, device, say) if intended else {}
    if not distributed.is_main():
        return
    meta = {
        "checkpoint": Path(args.checkpoint_path).name, "sha256": checkpoint.file_hash(args.checkpoint_path),
        "ema": args.ema, "class": card["class"], "source": args.sample_dir or " ".join(args.data_dir),
        "seconds": args.seconds, "encoding": encoding, "mixedprec": args.mixedprec, **verified,
        **recognised(who, card["meta"].get("speakers") or [], log_probs),
    }  # fmt: skip
    score = class_score_measured(log_probs, args.bootstrap, args.seed)
    span = f" (95 % interval {score.interval[0]:.4g} to {score.interval[1]:.4g})" if score.interval else ""
    print(f"classifier score: {score.value:.6g}{span}, {len(features)} samples, {log_probs.shape[1]} classes")
    found = gather(features, log_probs, meta)
    found.path = args.output_path
    for line in cautions(found):
        print(line)
    write_statistics(args.output_path, found, score.value)
    print(f"written: {found.describe()}")


@torch.inference_mode()
def classify(network, batches, args, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Return features (samples, dim) and log-probabilities (samples, classes) of clean waves in the order of their
    numbers, on every rank, of which each does a share.

    Raises:
        ValueError: some are not finite.
    """
    rank, world = distributed.rank(), distributed.world_size()
    own = DatasetLoader.Batches(batches.read, batches.batches[rank::world])
    found = []
    total = sum(map(len, own.batches))
    with tqdm(total=total, desc="samples", unit="sample", disable=True if rank else None, leave=False) as progress:
        for wave in DatasetLoader.batch_loader(own, args.nDataLoaderThread) if own.batches else ():
            wave = wave.to(device, non_blocking=True)[:, None]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.mixedprec):
                features = network.features(wave, wave.new_zeros(len(wave)))
                logits = network.out(features)
            found.append((features.float(), logits.double().log_softmax(1)))
            progress.update(len(wave))
    parts = [torch.cat(part).cpu().numpy() for part in zip(*found)]
    gathered = [part for part in distributed.gather_objects(parts) if part]
    features, log_probs = (np.concatenate(part) for part in zip(*gathered))
    if not (np.isfinite(features).all() and np.isfinite(log_probs).all()):
        raise ValueError("the classifier's numbers are not finite: take an earlier checkpoint")
    numbers = [number for r in range(world) for batch in batches.batches[r::world] for number in batch]
    order = np.argsort(numbers)
    return features[order], log_probs[order]


def recognised(who: list[str], speakers: list[str], log_probs: np.ndarray) -> dict:
    """Say how many samples or windows the classifier takes for the speaker that they are of; return the figures.

    Args:
        who: the speaker of each, "" where unknown. speakers: names of the classes.
    """
    known = [row for row, name in enumerate(who) if name in speakers]
    if not known:
        return {}
    classes = np.array([speakers.index(who[row]) for row in known])
    accuracy = 100 * float((log_probs[known].argmax(1) == classes).mean())
    print(f"taken for the speaker they are of: {accuracy:.1f} % of {len(known)}, {100 / len(speakers):.2g} % by chance")
    return {"accuracy": accuracy, "accuracy_of": len(known)}


# ---------------------------------------------------------------- the intended speaker


def intended_speakers(args, paths: list[str]) -> tuple:
    """Return the intended speaker of each sample, and paths and speakers of the real utterances, of these speakers.

    Raises:
        FileNotFoundError, ValueError: no manifest or list, or one that does not name the speakers.
    """
    manifest = Path(args.sample_dir, MANIFEST)
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file; it names the intended speaker of each sample")
    told = read_metadata(manifest)
    speaker_of = dict(zip(told.audio, told.require_speakers()))
    wrong = [path for path in paths if path.endswith(".npz")]
    if wrong:
        raise ValueError(f"{wrong[0]}: --verifier reads audio: make the samples with --format wav or flac")
    intended = [speaker_of[Path(path).name] for path in paths]
    real, prefix, _ = read_inputs(args.speakers_list, "", args.speakers_path)
    kept = [row for row, speaker in enumerate(real.require_speakers()) if speaker in set(intended)]
    absent = sorted(set(intended) - {real.speakers[row] for row in kept})
    if absent:
        raise ValueError(f"{args.speakers_list}: no utterance of speaker {absent[0]}, whom samples are of")
    if len(set(intended)) < 2:
        raise ValueError(f"{manifest}: samples of one speaker, {intended[0]}: two are needed to tell them apart")
    return intended, [join(prefix, real.audio[row]) for row in kept], [real.speakers[row] for row in kept]


def verify(args, paths: list[str], intended: tuple, device: torch.device, say) -> dict:
    """Say how well a verification network tells the intended speaker of samples from the others; return the figures."""
    wanted, real_paths, real_speakers = intended
    names, speakers = np.unique(real_speakers, return_inverse=True)
    net = SpeakerNet.load(args.verifier, device)
    args.eval_batch_files = args.batch_size
    samples, real = (
        SpeakerNet.file_means(SpeakerNet.embed_files(net, files, args, device, (args.eval_frames, 1))).numpy()
        for files in (paths, real_paths)
    )
    entries = {"verifier": Path(args.verifier).name, "verifier_sha256": checkpoint.file_hash(args.verifier)}
    for key, what, trials in (
        (
            "eer_generated",
            f"{len(paths)} samples",
            intended_speaker.sample_trials(samples, np.searchsorted(names, wanted), real, speakers),
        ),
        ("eer_real", "real utterances themselves", intended_speaker.real_trials(real, speakers)),
    ):
        if not distributed.is_main() or len(set(trials.labels.tolist())) < 2:  # a single utterance of each speaker
            continue
        entries[key], span = float(metrics.eer(trials.scores, trials.labels)[0]), ""
        if args.bootstrap:
            interval = intervals.bootstrap_interval(*trials, replicates=args.bootstrap, seed=args.seed)
            entries[f"{key}_interval"] = [float(interval.low), float(interval.high)]
            span = f" (95 % interval {interval.low:.2f} to {interval.high:.2f}, {interval})"
        against = f"{what} against {len(real_paths)} real utterances of {len(names)} speakers"
        say(f"verifier EER: {entries[key]:.2f} %{span}, {against}")
    return entries


if __name__ == "__main__":
    run_main(main)
