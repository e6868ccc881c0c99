"""Generate speech with a diffusion model: one file, or a folder of samples with a table of how each was made.

    python sample_diffusion.py --checkpoint_path exps/unet/checkpoints/last.pt --num_samples 100 --sample_path samples

The same command goes on where it was stopped. Sample i depends on (--seed, i) alone, whatever the batches, and however
many processes share the work (--distributed). Flags may be written with hyphens too, as --num-samples.
"""

import contextlib
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import torch
from tqdm import tqdm

import DiffusionNet
import SampleConditions
from audio.companding import ENCODINGS
from audio.sample_folder import FORMATS, SampleFolder, read_wave, write_wave
from diffusion import guidance, samplers, schedules
from engine import checkpoint, distributed
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import run_main
from models.blocks.waves import check_length

RANGES = {
    "steps": (1, 100000), "batch_size": (1, None), "num_samples": (1, 10**6), "length": (1, None), "eta": (0, 1),
    "seed": (0, None), "sheet": (0, 400), "nproc": (0, None), "target_class": (0, None),
}  # fmt: skip
# which samplers know an option
OPTION_OF = {"sigma_large": ("ddpm",), "eta": ("ddim",), "guide_at": ("ddpm", "ddim")}


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint_path", default="model_diffusion.pt", help="diffusion model, ours or the original")
    parser.add_argument("--ema", default=None, metavar="RATE", help="averaged weights to take (none: the last step's)")
    parser.add_argument("--noise_schedule", default="", help="of an old file that does not say: exp or cos")
    parser.add_argument(
        "--encoding", choices=ENCODINGS, default=None, help="of the samples that the model makes (default: as it says)"
    )
    out = parser.add_argument_group("what is written")
    out.add_argument("--sample_path", default="sample.wav", help="the file, or with --num_samples the folder")
    out.add_argument("--num_samples", type=int, default=None, help="samples in the folder (default: one file)")
    out.add_argument("--format", choices=FORMATS, default="wav", help="of the samples in the folder")
    out.add_argument("--length", type=int, default=None, help="in samples at 16 kHz (default: as trained, 64000 = 4 s)")
    out.add_argument(
        "--sheet", type=int, nargs="?", const=16, default=0, metavar="K",
        help="draw spectrograms of the first K samples (16 without a number) into <sample_path>.png",
    )  # fmt: skip
    sampler = parser.add_argument_group("sampler")
    known = tuple(samplers.SAMPLERS)
    sampler.add_argument(
        "--sampler", type=lambda name: name.replace("-", "_"), choices=known, default="ddpm",
        help="ddpm: ancestral; ddim, heun, dpmpp_2m: deterministic, in fewer steps",
    )  # fmt: skip
    sampler.add_argument("--steps", "--sample_steps", type=int, default=100, help="steps from noise to speech")
    sampler.add_argument(
        "--time_map", "--schedule", default="linear",
        help="times of the steps: linear, square (t = s^2), log_snr, or a number p for t = s^p",
    )  # fmt: skip
    add_bool(sampler, "--sigma_large", help="ddpm: add noise of the larger variance, beta")
    sampler.add_argument("--eta", type=float, default=0.0, help="ddim: share of the ancestral noise, 0 to 1")
    add_bool(sampler, "--constrain", help="keep predictions free of DC and within [-1, 1]")
    sampler.add_argument("--seed", type=int, default=0, help="of all random draws, with the number of a sample")
    SampleConditions.add_arguments(parser.add_argument_group("condition"))
    guide = parser.add_argument_group("guidance by a classifier")
    guide.add_argument("--classifier_path", default="", help="speaker classifier of noised waves (train_classifier.py)")
    guide.add_argument("--classifier_scale", type=float, default=1.0, help="factor on its gradient")
    guide.add_argument("--classifier_ema", default=None, metavar="RATE", help="as --ema, of the classifier")
    add_bool(guide, "--grad_checkpoint", help="compute the classifier's activations twice, for memory")
    guide.add_argument(
        "--guide_at", choices=("mean", "x"), default=None,
        help="take the gradient at the predicted mean and the next time (ddpm's default), or where the step begins",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=1, help="samples made together, per process")
    add_bool(parser, "--compile", help="compile the networks first: minutes, then faster on a GPU")
    distributed.add_arguments(parser)
    return parser


def main(argv=None):
    """Read the flags and run on as many processes as they say."""
    args, given = parse(make_flags(), argv)
    args.given = given
    check_ranges(args, RANGES)
    check_together(args)
    return distributed.launch(sample, args)


def check_together(args):
    """Refuse flags that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    args.time_map = schedules.check_time_map(args.time_map)
    if args.noise_schedule:
        schedules.check_schedule(args.noise_schedule)
    for name, own in OPTION_OF.items():
        if name in args.given and args.sampler not in own:
            raise ValueError(f"--{name} is of --sampler {' and '.join(own)}, not {args.sampler}")
    for name in ("classifier_scale", "classifier_ema", "grad_checkpoint", "guide_at"):
        if name in args.given and not args.classifier_path:
            raise ValueError(f"--{name} needs --classifier_path")
    form = Path(args.sample_path).suffix.lower().removeprefix(".")
    if args.num_samples is None:
        if form not in FORMATS or ("format" in args.given and form != args.format):
            ending = args.format if "format" in args.given else ", .".join(FORMATS)
            raise ValueError(f"--sample_path {args.sample_path}: one sample's file must end in .{ending}")
        args.format = form
    elif form in FORMATS:
        raise ValueError(f"--sample_path {args.sample_path}: with --num_samples it is a folder, not a file")
    SampleConditions.check(args)


# ---------------------------------------------------------------- sampling


def sample(args):
    """Make the samples as one process or as one rank of several."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    net, card = DiffusionNet.load(args.checkpoint_path, device, args.ema, args.noise_schedule)
    meta = card["meta"]
    args.encoding = DiffusionNet.encoding_of(card, args.encoding, args.checkpoint_path)
    length = args.length or meta["window"]
    with named("--length", args.length is not None):
        check_length(length, net.rate)
    classifier = None
    if args.classifier_path:
        classifier, classifier_card = DiffusionNet.load_network(
            args.classifier_path, "classifier", device, args.classifier_ema
        )
        classifier.requires_grad_(False).checkpoint_activations = args.grad_checkpoint
        DiffusionNet.encoding_of(classifier_card, args.encoding, args.classifier_path)
    wanted = SampleConditions.conditions(args, net, card, classifier and (classifier, classifier_card))
    DiffusionNet.predict(net, *wanted.rows([0])[:2], *wanted.scales(args.guidance_scale))  # refuses what it cannot do
    options = describe(args, meta, length, wanted)
    say(f"{args.checkpoint_path}: {options['model']}; {wanted.describe()}")
    if args.compile:
        net.predictor.compile()
        if classifier is not None:
            classifier.compile()
    make = partial(batch_of, net, classifier, wanted, length, args, device)
    if args.num_samples is None:
        if distributed.is_main():
            write_wave(args.sample_path, make([0])[0], args.encoding)
            told = {name: value for name, value in row_of(args, options, wanted, 0).items() if value != ""}
            print(", ".join(f"{name} {value}" for name, value in told.items()))
            finish(args, [Path(args.sample_path)])
        return
    folder = SampleFolder(args.sample_path, args.format, options, partial(row_of, args, options, wanted))
    distributed.from_main(folder.begin)
    fill(folder, make, args, say)
    distributed.gather_objects(None)  # the samples of all ranks are there
    if distributed.is_main():
        folder.write_manifest()
        finish(args, [folder.path(index) for index in range(args.num_samples)])


def fill(folder: SampleFolder, make, args, say):
    """Make what is missing of the folder: whole batches of fixed numbers, dealt out to the ranks.

    A batch of which a file is missing is made whole again, so that a file is the same to the last bit whatever was
    there before: the size of a batch changes how a CPU rounds.
    """
    starts = range(0, args.num_samples, args.batch_size)
    batches = [range(start, min(start + args.batch_size, args.num_samples)) for start in starts]
    missing = distributed.from_main(lambda: folder.missing(args.num_samples))
    if len(missing) < args.num_samples:
        say(f"{folder.folder}: {args.num_samples - len(missing)} of {args.num_samples} samples are there already")
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


def batch_of(net, classifier, wanted, length: int, args, device, indices: list[int]):
    """Return the samples of `indices`, a float32 array (samples, length) as the network sees waves."""
    seeds = [samplers.sample_seed(args.seed, index) for index in indices]
    noise = samplers.noise_of(seeds, (1, length), device)
    label, vector, target = wanted.rows(indices)
    precision = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=args.mixedprec)
    predict = within(precision, DiffusionNet.predict(net, label, vector, *wanted.scales(args.guidance_scale)))
    options = {name: getattr(args, name) for name, own in OPTION_OF.items() if args.sampler in own}
    if options.get("guide_at", "") is None:
        del options["guide_at"]
    if classifier is not None:
        logits = within(precision, classifier)
        options["guide"] = guidance.recogniser_guide(logits, target.to(device), args.classifier_scale)
    times = schedules.time_grid(args.time_map, args.steps, net.schedule)
    signal = partial(schedules.alpha_bar, net.schedule)
    x = samplers.SAMPLERS[args.sampler](predict, noise(), times, signal, noise, args.constrain, **options)
    return x[:, 0].float().cpu().numpy()


def within(context, function):
    """Return `function` called within context()."""

    def call(*given, **named):
        with context():
            return function(*given, **named)

    return call


# ---------------------------------------------------------------- what is recorded


def describe(args, meta: dict, length: int, wanted) -> dict:
    """Return all that a sample depends on beside its number, as plain data."""
    options = {
        "model": named_file(args.checkpoint_path), "ema": args.ema,
        "noise_schedule": meta["schedule"], "encoding": args.encoding, "length": length, "sampler": args.sampler,
        "steps": args.steps, "time_map": args.time_map, "sigma_large": args.sigma_large, "eta": args.eta,
        "constrain": args.constrain, "seed": args.seed, "mixedprec": args.mixedprec,
        "guidance_scale": args.guidance_scale, **wanted.identity(),
    }  # fmt: skip
    if args.classifier_path:
        options |= {
            "classifier": named_file(args.classifier_path),
            "classifier_ema": args.classifier_ema, "classifier_scale": args.classifier_scale,
            "guide_at": args.guide_at or ("mean" if args.sampler == "ddpm" else "x"),
        }  # fmt: skip
    return options


def named_file(path: str) -> str:
    """Return the name and the hash of a checkpoint."""
    return f"{Path(path).name} (sha256 {checkpoint.file_hash(path)})"


def row_of(args, options: dict, wanted, index: int) -> dict:
    """Return the row of sample `index` in the table."""
    return {
        **wanted.row(index), "seed": args.seed, "index": index, "sampler": args.sampler, "steps": args.steps,
        "time_map": args.time_map, "guidance_scale": args.guidance_scale,
        "classifier_scale": args.classifier_scale if args.classifier_path else "", "checkpoint": options["model"],
    }  # fmt: skip


def finish(args, paths: list[Path]):
    """Draw the sheet; say where the samples are."""
    target = args.sample_path if args.num_samples is None else f"{args.sample_path}: {args.num_samples} samples"
    print(f"written: {target}")
    if args.sheet:
        from scoring.spectrograms import spectrogram_sheet

        shown = paths[: args.sheet]
        sheet = Path(args.sample_path).with_suffix(".png")
        spectrogram_sheet(sheet, [read_wave(path) for path in shown], [path.stem for path in shown])
        print(f"spectrograms: {sheet}")


@contextlib.contextmanager
def named(flag: str, given: bool):
    """Put the flag in front of a ValueError where it was given."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{flag} {error}" if given else str(error)) from None


if __name__ == "__main__":
    run_main(main)
