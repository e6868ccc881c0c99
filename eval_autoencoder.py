"""Measure autoencoders of features: reconstruction, codes in use, and the EER of what is left; a table of several.

    python eval_autoencoder.py exps/*/checkpoints/best.pt --test_list data/voxceleb1.txt --test_path data/voxceleb1 \\
        --verifier exps/verifier/checkpoints/last.pt --trials data/veri_test.txt --save_path exps/table

Whole recordings, all frames, decoded frame n beside frame n of the input; the verifier hears frames of speech alone.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch

import AutoencoderEvaluation
import AutoencoderPictures
import DatasetLoader
import Reconstruction
from audio import lists
from audio.noisy_versions import KINDS, NoisyVersions
from AutoencoderEvaluation import Recordings, Subject
from engine import checkpoint, distributed
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import make_folder, run_main
from engine.sweep_table import write_csv
from MelVerifier import MelVerifier, equal_error_rate
from scoring import compression, metrics, reconstruction, reconstruction_plots, trials
from scoring.embeddings import write_text

RANGES = {
    "nDataLoaderThread": (0, 1024), "longest_seconds": (0, None), "pictures": (0, 10000), "wavs": (0, 10000),
    "bootstrap": (0, 10**6), "seed": (0, None), "num_files": (0, None),
}  # fmt: skip


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="+", help="autoencoders of train_autoencoder.py")
    parser.add_argument("--ema", default=None, metavar="RATE", help="averaged weights to take (none: the last step's)")
    parser.add_argument("--test_list", default="", help="lines `speaker file`, `file` or `label file file`")
    parser.add_argument("--test_path", default="", help="prefix of the paths in --test_list and --trials")
    parser.add_argument("--num_files", type=int, default=0, help="so many of --test_list, evenly spaced (0: all)")
    parser.add_argument("--save_path", default="exps/autoencoder_table", help="folder for tables and pictures")
    add_bool(parser, "--speech_only", help="score frames of speech alone, not all frames")
    add_bool(parser, "--sample_latents", help="VAEs: scores from one sample of the latents too (default: their mean)")
    parser.add_argument(
        "--longest_seconds", type=float, default=60.0,
        help="longer recordings are reconstructed in pieces of so many seconds, 2 s of which at either end only tell "
        "the network what lies around (0: all in one)",
    )  # fmt: skip
    judged = parser.add_argument_group("verification")
    judged.add_argument("--verifier", default="", help="checkpoint of a speaker network on the same features")
    judged.add_argument("--trials", default="", help="lines `label file file`: the EER of what is left")
    judged.add_argument("--eer_method", choices=metrics.EER_METHODS, default="nearest", help="how the EER is read off")
    judged.add_argument("--bootstrap", type=int, default=1000, help="draws of speakers for the interval (0: none)")
    noise = parser.add_argument_group("noisy input, clean target")
    add_bool(noise, "--noisy", help="also measure noisy versions against the clean features, by noise and ratio")
    noise.add_argument(
        "--noise_kinds", nargs="+", default=["noise", "music", "speech", "reverb"], choices=KINDS, metavar="KIND",
        help=f"of {', '.join(KINDS)}",
    )  # fmt: skip
    noise.add_argument("--snr_db", nargs="+", type=float, default=[0, 5, 10, 15], help="of each file that is added, dB")
    noise.add_argument("--musan_path", default="data/musan_split", help="folder of {noise,music,speech}/*/*/*.wav")
    noise.add_argument("--rir_path", default="data/RIRS_NOISES", help="folder of room responses")
    shown = parser.add_argument_group("pictures and sounds")
    shown.add_argument("--pictures", type=int, default=0, help="pictures of so many recordings")
    shown.add_argument("--wavs", type=int, default=0, help="originals and reconstructions of so many, by Griffin-Lim")
    parser.add_argument("--seed", type=int, default=0, help="of sampled latents, noise and the interval")
    parser.add_argument(
        "--nDataLoaderThread", type=int, default=DatasetLoader.default_workers(), help="loader processes"
    )
    distributed.add_arguments(parser)
    return parser


def main(argv=None):
    """Read the flags and run on as many processes as they say."""
    args, given = parse(make_flags(), argv)
    check_ranges(args, RANGES)
    check_together(args, given)
    return distributed.launch(evaluate, args)


def check_together(args, given):
    """Refuse flags that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    if not args.test_list:
        raise ValueError("--test_list is required: recordings to reconstruct, lines `speaker file`")
    for name, needed in (
        *((name, "verifier") for name in ("trials", "eer_method", "bootstrap")),
        *((name, "noisy") for name in ("noise_kinds", "snr_db", "musan_path", "rir_path")),
        ("verifier", "trials"),
    ):
        if name in given and getattr(args, name) and not getattr(args, needed):
            raise ValueError(f"--{name} needs --{needed}")
    if args.mixedprec:
        raise ValueError("--mixedprec is of training: scores are measured in float32")
    if any(abs(ratio) > 100 for ratio in args.snr_db):
        raise ValueError(f"--snr_db {' '.join(map(str, args.snr_db))}: must be from -100 to 100")
    if 0 < args.longest_seconds < Reconstruction.LEAST_PIECE_SECONDS:
        least = Reconstruction.LEAST_PIECE_SECONDS
        raise ValueError(f"--longest_seconds {args.longest_seconds:g}: must be 0 or at least {least}")


def evaluate(args):
    """Measure as one process or one rank of several; rank 0 prints and writes."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    folder = Path(args.save_path)
    verifier = MelVerifier(args.verifier, device) if args.verifier else None
    subjects = AutoencoderEvaluation.load_all(args.checkpoint, args.ema, verifier)
    if args.sample_latents and not any(hasattr(subject.net, "posterior") for subject in subjects):
        raise ValueError("--sample_latents: none of these networks is a VAE, whose latents have a distribution")
    test = read_trials(args) if verifier else None
    found = read_recordings(args, test, say)
    conditions = noisy_conditions(args)
    make_folder(folder)

    originals, rows, errors = {}, [], {}
    for subject in subjects:
        say(f"\n{describe(subject)}")
        key = json.dumps(subject.features.options, sort_keys=True)
        if key not in originals:
            originals[key] = AutoencoderEvaluation.hear_all(subject.features, found, verifier, args, device)
        measured, sums = AutoencoderEvaluation.measure_all(subject, found, args, device, verifier)
        if distributed.is_main():
            rows.append(row_of(subject, found, measured, sums, args, folder))
            errors[subject.name] = measured["bin_errors"].mean(0)
            if verifier:
                rows[-1] |= rates_of(originals[key], test, args, folder, "originals", "eer_original")
                rows[-1] |= rates_of(measured, test, args, folder, subject.name, "eer")
            AutoencoderPictures.draw(subject, found, args, device, folder / subject.name)
    noisy_rows = measure_noisy(subjects, found, conditions, verifier, test, args, device, folder)
    if distributed.is_main():
        variance = next(iter(originals.values()))["variance"].mean(0)
        reconstruction_plots.draw_bins(folder / "bins.png", errors, variance)
        report(rows, noisy_rows, found, test, args, folder)


# ---------------------------------------------------------------- what is measured


def read_trials(args) -> lists.TrialList:
    """Return the trials.

    Raises:
        FileNotFoundError, ValueError: no such list, or no error rate can be had from it.
    """
    test = lists.read_trial_list(args.trials)
    if test.labels is None:
        raise ValueError(f"--trials {args.trials}: has no labels, no error rate can be had from it")
    lists.check_trials(test)
    return test


def read_recordings(args, test, say) -> Recordings:
    """Return the recordings of both lists, after a look at their headers.

    Raises:
        FileNotFoundError, ValueError: no such list, or recordings that cannot be read.
    """
    names, _ = lists.read_files(args.test_list)
    scored = [names[i] for i in lists.evenly(len(names), args.num_files)]
    judged = [] if test is None else test.names
    both = sorted({*scored, *judged})
    paths = [lists.join(args.test_path, name) for name in both]
    for line in lists.check_files("test_list", paths):
        say(line)
    say(f"{args.test_list}: {len(scored)} of {len(names)} recordings are scored")
    return Recordings(both, paths, np.isin(both, scored), np.isin(both, judged))


def noisy_conditions(args) -> list[tuple[str, float | None, NoisyVersions]]:
    """Return (kind, ratio in dB, or None of rooms alone, what makes noisy versions) of --noisy."""
    if not args.noisy:
        return []
    found = []
    for kind in args.noise_kinds:
        for ratio in [None] if kind == "reverb" else args.snr_db:
            versions = NoisyVersions(args.musan_path, args.rir_path, args.seed, (kind,), 0.0, ratio)
            found.append((kind, ratio, versions))
    return found


def measure_noisy(subjects, found, conditions, verifier, test, args, device, folder) -> list[dict]:
    """Return rows of scores on noisy versions against clean ones, first of what no network does to them."""
    rows = []
    for kind, ratio, versions in conditions:
        about = {"noise": kind, "snr_db": ratio}
        name = kind if ratio is None else f"{kind}_{ratio:g}db"
        heard = {}
        for subject in subjects:
            key = json.dumps(subject.features.options, sort_keys=True)
            if key not in heard:
                heard[key] = AutoencoderEvaluation.hear_all(subject.features, found, verifier, args, device, versions)
                rows.append(noisy_row(about, "noisy input", heard[key], test, args, folder, name))
            measured, _ = AutoencoderEvaluation.measure_all(subject, found, args, device, verifier, versions)
            rows.append(noisy_row(about, subject.name, measured, test, args, folder, name))
    return rows


def noisy_row(about, configuration, measured, test, args, folder, name) -> dict:
    """Return a row of the table of noisy versions."""
    scores = reconstruction.summary({key: measured[key] for key in ("mse", "l1", "elbo") if key in measured})
    row = {**about, "configuration": configuration, "scores": scores}
    if test is not None and distributed.is_main():
        row |= rates_of(measured, test, args, folder, f"{configuration.replace(' ', '_')}_{name}", "eer")
    return row


def rates_of(measured: dict, test, args, folder, name: str, key: str) -> dict:
    """Write the scores of the trials; return {key: EER in percent, key_interval: [low, high]}.

    The judged recordings are those of the trials, in the order of their names.
    """
    scores, found = equal_error_rate(torch.from_numpy(measured["vector"]), test, args)
    trials.write_scores(folder / "trials" / f"scores_{name}.txt", scores, test.pairs, test.names)
    return {key: found["eer"]} | ({f"{key}_interval": found["eer_interval"]} if "eer_interval" in found else {})


# ---------------------------------------------------------------- report


def describe(subject: Subject) -> str:
    """Return a line: name, class, size, compression."""
    size, meta = Reconstruction.size_of(subject.net), subject.card["meta"]
    rate = f", {size['bits_per_second']:g} bits/s" if "bits_per_second" in size else ""
    kind = f"{'denoising ' * bool(meta.get('denoising'))}{subject.card['class'].rpartition('.')[2]}"
    return (
        f"{subject.name}: {kind}, {size['parameters']:,} parameters, {size['latents']:g} "
        f"{'codes' if rate else 'numbers'} a second{rate}, compression {size['compression']:.4g}"
    )


def row_of(subject: Subject, found: Recordings, measured: dict, sums: dict, args, folder: Path) -> dict:
    """Write scores.csv and summary.json of a network, draw the use of its codes; return its row of the table."""
    scored = [name for name, kept in zip(found.names, found.scored) if kept]
    numbers = {name: values for name, values in measured.items() if values.ndim == 1}
    write_csv(
        make(folder / subject.name) / "scores.csv",
        [{"file": name, **{key: float(v[i]) for key, v in numbers.items()}} for i, name in enumerate(scored)],
    )
    scores = reconstruction.summary({key: v for key, v in numbers.items() if key not in ("frames", "speech")})
    row = {"configuration": subject.name, "class": subject.card["class"], **Reconstruction.size_of(subject.net)}
    row["scores"] = scores
    if "usage" in sums:
        usage, net = sums["usage"], subject.net
        share = Reconstruction.log_perplexity(torch.from_numpy(usage))
        row["usage"] = {
            "perplexity": float(np.exp(share)), "codewords": usage.shape[1], "used": (usage > 0).sum(1).tolist(),
            "dead": int((usage == 0).sum()),
            "perplexities": [
                float(np.exp(Reconstruction.log_perplexity(torch.from_numpy(group[None])))) for group in usage
            ],
        }  # fmt: skip
        row["entropy_bits_per_second"] = compression.entropy_bits_per_second(
            usage, net.pair.stride, Reconstruction.bands_of(net)
        )
        reconstruction_plots.draw_usage(folder / subject.name / "usage.png", usage, subject.name)
        print(
            f"codes: {int((usage > 0).sum())} of {usage.size} used, perplexity {row['usage']['perplexity']:.1f} of "
            f"{usage.shape[1]}, {row['entropy_bits_per_second']:.1f} bits/s if coded by their entropy"
        )
    if "kl_per_channel" in sums:
        each = sums["kl_per_channel"] / sums["positions"]
        row["idle_channels"] = int((each < AutoencoderEvaluation.IDLE_NATS).sum())
        row["kl_of_channels"] = each.tolist()
        print(f"latents: {row['idle_channels']} of {len(each)} channels carry nothing (KL below 0.01 nats)")
    print(", ".join(f"{key} {mean:.4f}{'' if d is None else f' ({d:.4f})'}" for key, (mean, d) in scores.items()))
    return row


def make(folder: Path) -> Path:
    """Make a folder and return it."""
    make_folder(folder)
    return folder


def report(rows, noisy_rows, found: Recordings, test, args, folder: Path):
    """Print and write the tables."""
    frames = "frames of speech" if args.speech_only else "all frames"
    lines = [
        f"{int(found.scored.sum())} recordings of {Path(args.test_list).name}, {frames}, means (standard deviations) "
        "over recordings"
    ]
    if test is not None:
        lines.append(
            trials.protocol_line(
                f"{Path(test.name).name} (sha256 {test.hash})", len(test.pairs), len(test.names), 1, 0, "cosine",
                True, None, args.eer_method,
            ) + f", frames of speech, verifier sha256 {checkpoint.file_hash(args.verifier)[:12]}"
        )  # fmt: skip
        if args.bootstrap:
            unit = "trials (the paths name no speakers)" if test.sides() is None else "speakers"
            lines.append(f"95 % intervals: {args.bootstrap} bootstrap replicates over {unit}")
    text = "\n".join([*lines, "", reconstruction.table(rows), ""])
    write_csv(folder / "table.csv", [reconstruction.csv_row(row) for row in rows])
    if noisy_rows:
        text += f"\nnoisy input, clean target, noise of seed {args.seed}\n\n{reconstruction.noisy_table(noisy_rows)}\n"
        write_csv(folder / "noisy.csv", [reconstruction.csv_row(row) for row in noisy_rows])
    print(f"\n{text}")
    write_text(folder / "table.md", text)
    write_text(folder / "report.json", json.dumps({"about": lines, "rows": rows, "noisy": noisy_rows}, indent=1))
    print(f"written: {folder}/table.md, table.csv, report.json{', noisy.csv' * bool(noisy_rows)}, bins.png; of each "
          "network scores.csv")  # fmt: skip


if __name__ == "__main__":
    run_main(main)
