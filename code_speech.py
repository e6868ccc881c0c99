"""Speech to codes of a few hundred bits a second and back to features; latents to a file; features from no speech.

    python code_speech.py vqvae.pt --encode speech.wav --out speech.codes
    python code_speech.py vqvae.pt --decode speech.codes --out speech.npz --wav --mean_of speech.wav
    python code_speech.py vae.pt --encode data/list.txt --input_path data --latents exps/latents
    python code_speech.py vae.pt --sample 4 --frames 400 --out exps/samples

Of several recordings --out is a folder. Decoded features are normalised, as the network was trained on them: neither
codes nor samples know how loud and how coloured a recording is, so a wave of them takes its mean from --mean_of.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch

import AutoencoderEvaluation
import CodeFiles
import Reconstruction
from audio import lists
from audio.companding import write_samples
from audio.griffin_lim import wave_of
from audio.inputs import READABLE, read_inputs
from audio.io import read_audio
from engine import distributed
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import run_main
from scoring import compression
from scoring.embeddings import whole_file
from scoring.reconstruction_plots import draw_features

RANGES = {"sample": (1, 10**6), "frames": (1, 10**6), "longest_seconds": (0, None), "seed": (0, None)}


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="autoencoder of train_autoencoder.py")
    parser.add_argument("--ema", default=None, metavar="RATE", help="averaged weights to take (none: the last step's)")
    parser.add_argument("--encode", default="", help="an audio file, or a list of `speaker file` or `file`")
    parser.add_argument("--input_path", default="", help="prefix of the paths in the list of --encode")
    parser.add_argument("--decode", nargs="+", default=[], help="files of --out or --latents, or folders of them")
    parser.add_argument("--sample", type=int, default=None, help="draw so many features from the prior")
    parser.add_argument("--frames", type=int, default=400, help="length of a sample, frames of 10 ms")
    parser.add_argument(
        "--prior", choices=("uniform", "empirical"), default="uniform",
        help="of the codes: all alike, or as often as in training",
    )  # fmt: skip
    parser.add_argument("--out", default="", help="codes (.codes) or features (.npz) of one recording, else a folder")
    parser.add_argument(
        "--latents", default="", help="folder for an .npz of latents or codes of each; or an .npz of all"
    )
    add_bool(parser, "--wav", help="a wave of what is decoded or drawn, too, by Griffin-Lim")
    parser.add_argument("--mean_of", default="", help="recording whose mean features a wave gets")
    parser.add_argument("--longest_seconds", type=float, default=60.0, help="longer ones in pieces (0: none)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--device", default="", help="cuda, cuda:1 or cpu (default: cuda where available, else cpu)")
    parser.set_defaults(gpu_id=0)
    return parser


def main(argv=None):
    """Read the flags and run."""
    args, given = parse(make_flags(), argv)
    check_ranges(args, RANGES)
    check_together(args, given)
    device = distributed.device_of(args)
    _, _, net, _, features = AutoencoderEvaluation.load(args.checkpoint, device, args.ema)
    check_network(args, given, net)
    mean = mean_features(args.mean_of, features, device) if args.wav else None
    sha256 = CodeFiles.model_hash(net)
    if args.encode:
        encode(args, net, features, device, sha256)
    elif args.decode:
        decode(args, net, features, device, sha256, mean)
    else:
        sample(args, net, features, sha256, mean)


def check_together(args, given):
    """Refuse flags that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    asked = [name for name in ("encode", "decode", "sample") if getattr(args, name)]
    if len(asked) != 1:
        raise ValueError(f"give one of --encode, --decode and --sample, not {' and '.join(asked) or 'none'}")
    for name, needed in (
        ("input_path", "encode"), ("latents", "encode"), ("frames", "sample"), ("prior", "sample"), ("seed", "sample"),
        ("mean_of", "wav"), ("wav", "mean_of"),
    ):  # fmt: skip
        if name in given and getattr(args, name) and not getattr(args, needed):
            raise ValueError(f"--{name} needs --{needed}")
    if args.encode and args.wav:
        raise ValueError("--wav is of what is decoded or drawn: leave it out of --encode")
    if not args.out and not args.latents:
        raise ValueError("--out is required: where to write")
    if 0 < args.longest_seconds < Reconstruction.LEAST_PIECE_SECONDS:
        least = Reconstruction.LEAST_PIECE_SECONDS
        raise ValueError(f"--longest_seconds {args.longest_seconds:g}: must be 0 or at least {least}")


def check_network(args, given, net):
    """Refuse what this network has not.

    Raises:
        ValueError: codes or their prior of a network without, or samples of one without a prior.
    """
    quantised = hasattr(net, "quantiser")
    if args.encode and args.out and not quantised:
        raise ValueError(f"{args.checkpoint} has latents and no codes: give --latents in place of --out")
    if args.sample and not hasattr(net, "sample"):
        raise ValueError(f"{args.checkpoint}: an AE has no prior to draw from; take a VAE or a VQ-VAE")
    if "prior" in given and not quantised:
        raise ValueError("--prior is that of codes: this network draws from N(0, I)")


def mean_features(path: str, features, device) -> torch.Tensor:
    """Return the mean over time (bins, 1) of the features of a recording, before they are normalised."""
    lists.check_files("--mean_of", [path])
    return features.front_end(torch.from_numpy(read_audio(path)).to(device)[None])[0].mean(1, keepdim=True)


# ---------------------------------------------------------------- encode


def encode(args, net, features, device, sha256: str):
    """Write codes and latents of recordings; print and check how many bits they take."""
    found, prefix, _ = read_inputs(args.encode, "", args.input_path)
    paths = [lists.join(prefix, name) for name in found.audio]
    for line in lists.check_files("--encode", paths):
        print(line)
    alone, one_archive = args.encode.lower().endswith(READABLE), args.latents.lower().endswith(".npz")
    frames, bits, total, archive, longest = 0, 0, 0, {}, round(100 * args.longest_seconds)
    for name, path in zip(found.ids, paths):
        x, _ = AutoencoderEvaluation.features_of(read_audio(path), features, device, path)
        latents, count = Reconstruction.encode(net, x, longest), x.shape[2]
        frames += count
        if args.out:
            data = CodeFiles.pack(net, latents, count, sha256)
            bits, total = bits + CodeFiles.size_of(data), total + len(data)
            target = Path(args.out) if alone else Path(args.out, name).with_suffix(CodeFiles.CODES)
            with whole_file(target, sync=False) as file:
                file.write(data)
        values = latents[0].cpu().numpy()
        if one_archive:
            archive[f"latents/{name}"] = values
            archive.setdefault("frames", []).append(count)
        elif args.latents:
            target = Path(args.latents, name).with_suffix(".npz")
            CodeFiles.write_arrays(target, latents=values, frames=np.array(count), model=np.array(sha256))
    if one_archive:
        CodeFiles.write_arrays(args.latents, **archive, names=np.array(found.ids), model=np.array(sha256))
    seconds = frames / compression.FRAMES_PER_SECOND
    print(f"{len(paths)} recordings, {seconds:.2f} s, written: {' and '.join(filter(None, (args.out, args.latents)))}")
    if args.out:
        stated, size = CodeFiles.rate_of(net), 32 * net.bins * frames / bits
        print(
            f"{total} bytes, of which {total - bits // 8} are headers; codes {bits / seconds:.1f} bits/s, whole "
            f"positions and bytes of {stated:g} bits/s; compression {size:.1f} of float32 features"
        )


# ---------------------------------------------------------------- decode and draw


def decode(args, net, features, device, sha256: str, mean):
    """Write the features of codes or latents, and waves of them."""
    paths = []
    for given in map(Path, args.decode):
        below = sorted(p for p in given.rglob("*") if p.suffix in (CodeFiles.CODES, ".npz")) if given.is_dir() else None
        if below == []:
            raise ValueError(f"{given}: holds no {CodeFiles.CODES} or .npz file")
        paths += [(path, path.relative_to(given)) for path in below] if below else [(given, Path(given.name))]
    alone = len(paths) == 1 and args.out.lower().endswith(".npz")
    for path, name in paths:
        found = CodeFiles.unpack(net, path, sha256)
        made = Reconstruction.decode(net, found.values.to(device), found.frames, round(100 * args.longest_seconds))
        target = Path(args.out) if alone else Path(args.out, name).with_suffix(".npz")
        write_features(target, made[0], features, sha256, mean)
    print(f"{len(paths)} recordings decoded, written: {args.out}")


@torch.inference_mode()
def sample(args, net, features, sha256: str, mean):
    """Write features drawn from the prior and a picture of the first ones, and waves of them."""
    generator, drawn = torch.Generator().manual_seed(args.seed), []
    given = {"prior": args.prior} if hasattr(net, "quantiser") else {}
    for number in range(args.sample):
        mel = net.sample(1, args.frames, generator, **given)[0]
        write_features(Path(args.out, f"sample_{number:06d}.npz"), mel, features, sha256, mean)
        drawn += [mel.cpu().numpy()] if number < 8 else []  # as many as a picture shows well
    draw_features(Path(args.out, "samples.png"), {f"sample {number}": mel for number, mel in enumerate(drawn)})
    print(f"{args.sample} samples of {args.frames} frames, written: {args.out}")


def write_features(path: Path, mel, features, sha256: str, mean):
    """Write features (bins, frames) as `mel`, and beside them a wave where there is a mean."""
    CodeFiles.write_arrays(path, mel=mel.cpu().numpy(), model=np.array(sha256))
    if mean is not None:
        write_samples(path.with_suffix(".wav"), wave_of(mel + mean, features.front_end))


if __name__ == "__main__":
    run_main(main)
