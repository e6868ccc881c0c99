"""What the scripts that sample waves share: the flags of the sampler, a run of it, a folder that is filled, the record.
Entry points: add_arguments, add_guide_at, add_compute, check, run, record, write_one, write_folder, draw_sheet.
"""

import contextlib
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from audio.sample_folder import FORMATS, SampleFolder, read_wave, write_wave
from diffusion import samplers, schedules
from engine import checkpoint, distributed
from engine.args import add_bool

# numbers that make sense, see engine.args.check_ranges
RANGES = {
    "steps": (1, 100000), "batch_size": (1, None), "eta": (0, 1), "seed": (0, None), "sheet": (0, 400),
    "nproc": (0, None),
}  # fmt: skip
# which samplers know an option
OPTION_OF = {"sigma_large": ("ddpm",), "eta": ("ddim",), "guide_at": ("ddpm", "ddim")}


def add_arguments(group, constrain: bool = False):
    """Add the flags of the sampler; `constrain` is the default of --constrain."""
    known = tuple(samplers.SAMPLERS)
    group.add_argument(
        "--sampler", type=lambda name: name.replace("-", "_"), choices=known, default="ddpm",
        help="ddpm: ancestral; ddim, heun, dpmpp_2m: deterministic, in fewer steps",
    )  # fmt: skip
    group.add_argument("--steps", "--sample_steps", type=int, default=100, help="steps from noise to speech")
    group.add_argument(
        "--time_map", "--schedule", default="linear",
        help="times of the steps: linear, square (t = s^2), log_snr, or a number p for t = s^p",
    )  # fmt: skip
    add_bool(group, "--sigma_large", help="ddpm: add noise of the larger variance, beta")
    group.add_argument("--eta", type=float, default=0.0, help="ddim: share of the ancestral noise, 0 to 1")
    add_bool(group, "--constrain", default=constrain, help="keep predictions free of DC and within [-1, 1]")
    group.add_argument("--seed", type=int, default=0, help="of all random draws, with the number of a sample")


def add_guide_at(group):
    """Add the flag of where a network that guides is asked."""
    group.add_argument(
        "--guide_at", choices=("mean", "x"), default=None,
        help="take the gradient at the predicted mean and the next time (ddpm's default), or where the step begins",
    )  # fmt: skip


def add_sheet(group):
    """Add the flag of the spectrogram sheet."""
    group.add_argument(
        "--sheet", type=int, nargs="?", const=16, default=0, metavar="K",
        help="draw spectrograms of the first K samples (16 without a number) into <output>.png",
    )  # fmt: skip


def add_compute(parser):
    """Add the flags of batches, compilation, device and processes."""
    parser.add_argument("--batch_size", type=int, default=1, help="samples made together, per process")
    add_bool(parser, "--compile", help="compile the networks first: minutes, then faster on a GPU")
    distributed.add_arguments(parser)


def check(args, guide: str = ""):
    """Refuse options of another sampler and unknown names; make --time_map what schedules.time_grid takes.

    Args:
        guide: name of the flag that gives the network that guides, without which --guide_at is refused.

    Raises:
        ValueError: which, and what to do.
    """
    args.time_map = schedules.check_time_map(args.time_map)
    if args.noise_schedule:
        schedules.check_schedule(args.noise_schedule)
    for name, own in OPTION_OF.items():
        if name in args.given and args.sampler not in own:
            raise ValueError(f"--{name} is of --sampler {' and '.join(own)}, not {args.sampler}")
    if "guide_at" in args.given and not getattr(args, guide):
        raise ValueError(f"--guide_at needs --{guide}")


def check_file(args, flag: str, path: str) -> str:
    """Return the format that the ending of one sample's file says.

    Raises:
        ValueError: no such format, or not that of --format.
    """
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in FORMATS or ("format" in args.given and form != args.format):
        ending = args.format if "format" in args.given else ", .".join(FORMATS)
        raise ValueError(f"{flag} {path}: one sample's file must end in .{ending}")
    return form


# ---------------------------------------------------------------- sampling


def run(predict, noise, args, schedule: str, guide=None) -> torch.Tensor:
    """Return clean waves by the sampler of the flags.

    Args:
        predict: function of x and t (batch,) that returns the noise in x.
        noise: function of the step that draws noise (diffusion.samplers.noise_of), first that at the first time.
        guide: of diffusion.guidance, or None.
    """
    options = {name: getattr(args, name) for name, own in OPTION_OF.items() if args.sampler in own}
    if options.get("guide_at", "") is None:
        del options["guide_at"]
    times, signal = schedules.time_grid(args.time_map, args.steps, schedule), partial(schedules.alpha_bar, schedule)
    sampler = samplers.SAMPLERS[args.sampler]
    predict = within(predict, args)
    return sampler(predict, noise(), times, signal, noise, args.constrain, guide=guide, **options)


def within(function, args):
    """Return `function` of tensors called in the precision of --mixedprec."""

    def call(x, *given, **named):
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=args.mixedprec):
            return function(x, *given, **named)

    return call


def record(args, schedule: str) -> dict:
    """Return what of the network and the sampler a sample depends on, as plain data."""
    return {
        "model": named_file(args.checkpoint_path), "ema": args.ema, "noise_schedule": schedule,
        "encoding": args.encoding, "sampler": args.sampler, "steps": args.steps, "time_map": args.time_map,
        "sigma_large": args.sigma_large, "eta": args.eta, "constrain": args.constrain, "seed": args.seed,
        "mixedprec": args.mixedprec,
    }  # fmt: skip


def guide_record(args, kind: str, path: str, scale: float, **more) -> dict:
    """Return what of a network that guides a sample depends on; {} where there is none."""
    if not path:
        return {}
    place = args.guide_at or ("mean" if args.sampler == "ddpm" else "x")
    return {kind: named_file(path), f"{kind}_scale": scale, "guide_at": place, **more}


def named_file(path: str) -> str:
    """Return the name and the hash of a checkpoint."""
    return f"{Path(path).name} (sha256 {checkpoint.file_hash(path)})"


# ---------------------------------------------------------------- files


def write_one(path: str, make, row: dict, args):
    """Make sample 0 and write it to `path`, on the first rank; print its row in words."""
    if distributed.is_main():
        write_wave(path, make([0])[0], args.encoding)
        print(", ".join(f"{name} {value}" for name, value in row.items() if value != ""))


def write_folder(folder: SampleFolder, count: int, make, args, say):
    """Make what is missing of `count` samples: whole batches of fixed numbers, dealt out to the ranks.

    A batch of which a file is missing is made whole again, so that a file is the same to the last bit whatever was
    there before: the size of a batch changes how a CPU rounds.

    Args:
        make: function of a list of numbers that returns their waves (samples,) as the network sees them.
    """
    distributed.from_main(folder.begin)
    starts = range(0, count, args.batch_size)
    batches = [range(start, min(start + args.batch_size, count)) for start in starts]
    missing = distributed.from_main(lambda: folder.missing(count))
    if len(missing) < count:
        say(f"{folder.folder}: {count - len(missing)} of {count} samples are there already")
    rank, world = distributed.rank(), distributed.world_size()
    own = [batch for batch in batches if missing.intersection(batch)][rank::world]
    total = sum(len(missing.intersection(batch)) for batch in own)
    with tqdm(total=total, desc="samples", unit="sample", disable=None if rank == 0 else True) as progress:
        for batch in own:
            for index, wave in zip(batch, make(list(batch))):
                if index in missing:
                    folder.write(index, wave, args.encoding)
                    progress.update()
            if rank == 0:
                folder.write_manifest()
    distributed.gather_objects(None)  # the samples of all ranks are there
    if distributed.is_main():
        folder.write_manifest()


def draw_sheet(output: str, paths: list, titles: list[str]):
    """Draw the spectrograms of files, None for an empty place, into <output>.png and say so."""
    from scoring.spectrograms import spectrogram_sheet

    sheet = Path(output).with_suffix(".png")
    spectrogram_sheet(sheet, [path and read_wave(path) for path in paths], titles)
    print(f"spectrograms: {sheet}")


@contextlib.contextmanager
def named(flag: str, given: bool = True):
    """Put the flag in front of a ValueError where it was given."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{flag} {error}" if given else str(error)) from None
