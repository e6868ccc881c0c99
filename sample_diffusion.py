"""Generate speech with a diffusion model: one file, or a folder of samples with a table of how each was made.

    python sample_diffusion.py --checkpoint_path exps/unet/checkpoints/last.pt --num_samples 100 --sample_path samples

The same command goes on where it was stopped. Sample i depends on (--seed, i) alone, whatever the batches, and however
many processes share the work (--distributed). Flags may be written with hyphens too, as --num-samples.
"""

import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import DiffusionNet
import SampleConditions
import WaveSampling
from audio.companding import ENCODINGS
from audio.sample_folder import FORMATS, SampleFolder
from diffusion import guidance, samplers
from engine import distributed
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import run_main
from models.blocks.waves import check_length

RANGES = {**WaveSampling.RANGES, "num_samples": (1, 10**6), "length": (1, None), "target_class": (0, None)}


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
    WaveSampling.add_sheet(out)
    WaveSampling.add_arguments(parser.add_argument_group("sampler"))
    SampleConditions.add_arguments(parser.add_argument_group("condition"))
    guide = parser.add_argument_group("guidance by a classifier")
    guide.add_argument("--classifier_path", default="", help="speaker classifier of noised waves (train_classifier.py)")
    guide.add_argument("--classifier_scale", type=float, default=1.0, help="factor on its gradient")
    guide.add_argument("--classifier_ema", default=None, metavar="RATE", help="as --ema, of the classifier")
    add_bool(guide, "--grad_checkpoint", help="compute the classifier's activations twice, for memory")
    WaveSampling.add_guide_at(guide)
    WaveSampling.add_compute(parser)
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
    WaveSampling.check(args, "classifier_path")
    for name in ("classifier_scale", "classifier_ema", "grad_checkpoint"):
        if name in args.given and not args.classifier_path:
            raise ValueError(f"--{name} needs --classifier_path")
    if args.num_samples is None:
        args.format = WaveSampling.check_file(args, "--sample_path", args.sample_path)
    elif Path(args.sample_path).suffix.lower().removeprefix(".") in FORMATS:
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
    with WaveSampling.named("--length", args.length is not None):
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
        WaveSampling.write_one(args.sample_path, make, row_of(args, options, wanted, 0), args)
        paths = [Path(args.sample_path)]
    else:
        folder = SampleFolder(args.sample_path, args.format, options, partial(row_of, args, options, wanted))
        WaveSampling.write_folder(folder, args.num_samples, make, args, say)
        paths = [folder.path(index) for index in range(args.num_samples)]
    if distributed.is_main():
        print(f"written: {args.sample_path}" + f": {args.num_samples} samples" * (args.num_samples is not None))
        if args.sheet:
            shown = paths[: args.sheet]
            WaveSampling.draw_sheet(args.sample_path, shown, [path.stem for path in shown])


def batch_of(net, classifier, wanted, length: int, args, device, indices: list[int]):
    """Return the samples of `indices`, a float32 array (samples, length) as the network sees waves."""
    seeds = [samplers.sample_seed(args.seed, index) for index in indices]
    noise = samplers.noise_of(seeds, (1, length), device)
    label, vector, target = wanted.rows(indices)
    predict = DiffusionNet.predict(net, label, vector, *wanted.scales(args.guidance_scale))
    guide = None
    if classifier is not None:
        logits = WaveSampling.within(classifier, args)
        guide = guidance.recogniser_guide(logits, target.to(device), args.classifier_scale)
    x = WaveSampling.run(predict, noise, args, net.schedule, guide)
    return x[:, 0].float().cpu().numpy()


# ---------------------------------------------------------------- what is recorded


def describe(args, meta: dict, length: int, wanted) -> dict:
    """Return all that a sample depends on beside its number, as plain data."""
    own = {"length": length, "guidance_scale": args.guidance_scale, **wanted.identity()}
    guide = WaveSampling.guide_record(
        args, "classifier", args.classifier_path, args.classifier_scale, classifier_ema=args.classifier_ema
    )
    return {**WaveSampling.record(args, meta["schedule"]), **own, **guide}


def row_of(args, options: dict, wanted, index: int) -> dict:
    """Return the row of sample `index` in the table."""
    return {
        **wanted.row(index), "seed": args.seed, "index": index, "sampler": args.sampler, "steps": args.steps,
        "time_map": args.time_map, "guidance_scale": args.guidance_scale,
        "classifier_scale": args.classifier_scale if args.classifier_path else "", "checkpoint": options["model"],
    }  # fmt: skip


if __name__ == "__main__":
    run_main(main)
