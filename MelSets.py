"""Chunks of log-mel features with what is said of them on the command line: what autoencoders are trained on.
Entry points: add_arguments, RANGES, check, read_sets, make_loaders.
"""

from pathlib import Path

import AutoencoderNet
import DatasetLoader
from audio.bad_files import BadFiles
from audio.log_mel import GRIDS
from audio.mel_sampler import TRAINING_SHARE
from audio.noisy_versions import CLEAN_SHARE, KINDS, NoisyVersions
from engine import distributed
from engine.args import add_bool

BINS = 80
# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "batch_size": (1, None), "longer_than_frames": (-1, None), "least_utterances": (1, None), "train_share": (0, 1),
    "iters_per_epoch": (1e-6, None), "mel_dither": (0, None), "nDataLoaderThread": (0, 1024), "max_bad_files": (0, 100),
    "clean_share": (0, 1),
}  # fmt: skip
# flags that work with another one only
NEEDED = {
    "musan_path": "denoising", "rir_path": "denoising", "noise_kinds": "denoising", "clean_share": "denoising",
    "valid_path": "valid_list", "valid_mel_cache": "mel_cache",
}  # fmt: skip


def add_arguments(parser):
    """Add the flags that say what is trained on and in what portions."""
    data = parser.add_argument_group("data")
    data.add_argument("--train_list", default="data/train_list.txt", help="lines `speaker path`, or folder of speakers")
    data.add_argument("--train_path", default="data/voxceleb2", help="prefix of the paths in --train_list")
    data.add_argument("--valid_list", default="", help="chooses best.pt, in place of a share of --train_list")
    data.add_argument("--valid_path", default="", help="prefix of the paths in --valid_list")
    data.add_argument("--train_share", type=float, default=TRAINING_SHARE, help="of each speaker's utterances")
    data.add_argument("--mel_cache", default="", help="folder of dataprep.py --mel_cache: features in place of waves")
    data.add_argument("--valid_mel_cache", default="", help="one that chooses best.pt, in place of a share of it")
    data.add_argument("--mel_grid", choices=GRIDS, default="511", help="FFT bin j lies at j/511 of the rate, or j/512")
    data.add_argument("--mel_dither", type=float, default=1.0, help="noise added, in steps of 16-bit samples")
    data.add_argument(
        "--chunk_frames", type=int, nargs="+", default=[400],
        help="length of the chunks in frames of 10 ms, or least and most: then each batch has its own",
    )  # fmt: skip
    data.add_argument(
        "--longer_than_frames", type=int, default=-1,
        help="utterances of so many frames or fewer are not used (-1: the longest --chunk_frames)",
    )  # fmt: skip
    data.add_argument("--least_utterances", type=int, default=8, help="speakers with fewer others are not used")
    data.add_argument("--batch_size", type=int, default=64, help="chunks per process and batch")
    data.add_argument("--iters_per_epoch", type=float, default=1.0, help="chunks of an epoch for each utterance")
    data.add_argument("--nDataLoaderThread", type=int, default=DatasetLoader.default_workers(), help="loader processes")
    data.add_argument("--max_bad_files", type=float, default=1.0, help="unreadable recordings that are borne, in %%")
    noise = parser.add_argument_group("noise")
    add_bool(noise, "--denoising", help="noisy features go in, those of the clean wave are to come out")
    noise.add_argument("--musan_path", default="data/musan_split", help="folder of {noise,music,speech}/*/*/*.wav")
    noise.add_argument("--rir_path", default="data/RIRS_NOISES", help="folder of room responses")
    noise.add_argument("--noise_kinds", nargs="+", choices=KINDS, default=list(KINDS), help="drawn alike")
    noise.add_argument("--clean_share", type=float, default=round(CLEAN_SHARE, 4), help="of chunks that stay clean")


def check(args, given: dict):
    """Refuse flags of the data that lack or exclude each other (a ValueError says which).

    Args:
        given: as engine.args.parse returns it.
    """
    lengths = args.chunk_frames
    if len(lengths) > 2 or lengths != sorted(lengths) or lengths[0] < 1:
        raise ValueError(f"--chunk_frames {' '.join(map(str, lengths))}: one length, or the least and the most")
    for name, other in NEEDED.items():
        if given.get(name, "config") != "config" and not getattr(args, other):
            raise ValueError(f"--{name} works with --{other}")
    if args.mel_cache and args.denoising:
        raise ValueError("--denoising makes noisy versions of waves: leave --mel_cache out")
    if args.mel_cache and args.valid_list:
        raise ValueError("--valid_list is of waves: with --mel_cache give --valid_mel_cache")
    idle = ["train_list", "train_path"] if args.mel_cache else []
    idle += ["train_share"] if args.valid_list or args.valid_mel_cache else []
    for name in idle:
        if given.get(name, "config") != "config":
            raise ValueError(f"--{name} does nothing with {'--mel_cache' if args.mel_cache else '--valid_list'}")


def front_end_options(args) -> dict:
    """Return the options of AutoencoderNet.Features that the flags ask for."""
    return AutoencoderNet.options_of(args.mel_grid, args.mel_dither, BINS)


def read_sets(args, say):
    """Return the chunks to train on and those that choose best.pt.

    Raises:
        FileNotFoundError, ValueError: nothing to train or to validate on, or no noise.
    """
    noisy = None
    if args.denoising:
        noisy = NoisyVersions(args.musan_path, args.rir_path, args.seed, args.noise_kinds, args.clean_share)
    longer = args.chunk_frames[-1] if args.longer_than_frames < 0 else args.longer_than_frames
    first = args.train_list, longer, args.least_utterances
    kept = {"cache": args.mel_cache, "noisy": noisy, "say": say}
    if not (args.valid_list or args.valid_mel_cache):
        return DatasetLoader.mel_chunks(*first, args.seed, args.train_path, **kept, share=args.train_share)
    train_set = DatasetLoader.mel_utterances(*first, args.train_path, **kept)
    kept["cache"] = args.valid_mel_cache
    return train_set, DatasetLoader.mel_utterances(args.valid_list, longer, 1, args.valid_path, **kept)


def make_loaders(sets, args, device):
    """Return this rank's batches to train on, and the fixed ones that choose best.pt."""
    front_end = AutoencoderNet.Features(front_end_options(args)).front_end
    rank, world = distributed.rank(), distributed.world_size()
    bad = BadFiles(Path(args.save_path) / "bad_files.txt", len(sets[0]) / world, args.max_bad_files)
    least, most = args.chunk_frames[0], args.chunk_frames[-1]
    shared = {"seed": args.seed, "workers": args.nDataLoaderThread, "device": device, "bad_files": bad}
    train_loader = DatasetLoader.mel_loader(
        sets[0], front_end, args.batch_size, least, most, world_size=world, rank=rank,
        iters_per_epoch=args.iters_per_epoch, **shared,
    )  # fmt: skip
    return train_loader, DatasetLoader.mel_loader(sets[1], front_end, args.batch_size, most, train=False, **shared)
