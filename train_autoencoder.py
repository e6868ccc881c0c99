"""Train an autoencoder of log-mel features, AE, VAE or VQ-VAE, or one that takes noise away (--denoising).

    python train_autoencoder.py --config configs/generative/demo_vae.yaml
    python train_autoencoder.py --model VQVAE --groups 8 --codewords 512 --encoder transformer --encoder_options heads=8

The page in order: flags, what is printed, the run. The run folder --save_path gets args.yaml, metrics.jsonl, tb/,
checkpoints/, reconstructions/ and result/. The same command goes on where it was stopped. A YAML file of
configs/generative/ has all arguments of a published network.
"""

import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import torch

import AutoencoderNet
import LatentFigures
import MelSets
import Reconstruction
import TrainingRun
from engine import checkpoint, distributed, registry, run
from engine.args import add_bool, check_ranges, make_parser, parse, stored_args
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything
from models.blocks.gaussians import warm_up

# what a run cannot change when it goes on, and likewise of the network's arguments
FIXED = ("bins", "front_end", "denoising")
NETWORK = ("encoder", "decoder", "encoder_options", "decoder_options", "latent_channels", "groups", "codewords")

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    MelSets.add_arguments(parser)
    AutoencoderNet.add_arguments(parser)
    run.add_arguments(parser)
    parser.set_defaults(
        lr=0.01, betas=[0.9, 0.95], weight_decay=1e-5, scheduler="hold_exponential", warmup_steps=8000,
        hold_steps=16000, decay_steps=16000, test_interval=1, sync_bn=None,
    )  # fmt: skip
    parser.add_argument(
        "--effective_batch", type=int, default=0,
        help="chunks of an optimiser step over all processes, about: sets --accumulate (0: as that says)",
    )  # fmt: skip
    parser.add_argument("--initial_model", default="", metavar="FILE", help="start anew from the weights of this file")
    parser.add_argument("--tag", default="", help="a word kept with the run, for tables of many runs")
    add_bool(parser, "--dry_run", help="check the flags and stop")
    parser.add_argument("--save_path", default="exps/autoencoder", help="run folder")
    distributed.add_arguments(parser)
    return parser


def read_flags(argv=None):
    """Return the flags of a command line after all checks that need no data."""
    args, given = parse(
        make_flags(), argv,
        extend=lambda p, first: registry.add_arguments(p, AutoencoderNet.chosen_classes(first).values()),
    )  # fmt: skip
    check_ranges(args, {**run.RANGES, **MelSets.RANGES, **AutoencoderNet.RANGES, "effective_batch": (0, None)})
    if args.effective_batch and given.get("accumulate", "config") != "config":
        raise ValueError("--effective_batch sets --accumulate: give one of them")
    if args.channels_last:
        raise ValueError("--channels_last does nothing here, where networks choose their layout: leave it out")
    AutoencoderNet.check(args, given, MelSets.BINS)
    MelSets.check(args, given)
    return args


def main(argv=None):
    """Read the flags and train on as many processes as they say."""
    args = read_flags(argv)
    return 0 if args.dry_run else distributed.launch(train, args)


# ---------------------------------------------------------------- what is printed


def describe(net, notes: list[str], args, log, device):
    """Print what is trained on what."""
    for line in notes:
        log.line(line)
    size, world = Reconstruction.size_of(net), distributed.world_size()
    log.line(
        f"{args.model}{' (denoising)' if args.denoising else ''}, encoder {args.encoder}, decoder "
        f"{args.decoder or args.encoder}: {size['parameters']:,} parameters"
    )
    rate = f", {size['bits_per_second']:g} bits per second" if "bits_per_second" in size else ""
    what = "codes" if rate else "numbers"
    log.line(f"latents: {size['latents']:g} {what} per second{rate}, compression {size['compression']:.5g}")
    log.line(
        f"global batch: {args.batch_size * world} chunks of {' to '.join(map(str, args.chunk_frames))} frames x "
        f"{args.accumulate} batches per step on {world} process(es), {device}, "
        f"{'bfloat16 or float16' if args.mixedprec else 'float32'}"
    )


# ---------------------------------------------------------------- run


def train(args):
    """Train on one process or as one rank of several; return the exit code."""
    started = time.time()
    seed_everything(args.seed)  # of the first weights; draws in training differ between ranks
    device, world, notes = distributed.device_of(args), distributed.world_size(), []
    if args.effective_batch:
        args.accumulate = max(1, round(args.effective_batch / (args.batch_size * world)))
    if args.sync_bn is None:
        args.sync_bn = world > 1 and device.type == "cuda"
    net, kwargs = AutoencoderNet.build(args, MelSets.BINS)
    if hasattr(net, "quantiser"):
        positions = torch.Size(net.pair.shape(args.chunk_frames[0])).numel()
        net.quantiser.check_start(args.batch_size * world * positions)
    sets = MelSets.read_sets(args, notes.append)
    net.to(device)
    seed_everything(args.seed + distributed.rank())
    loader, valid_loader = MelSets.make_loaders(sets, args, device)
    log = RunLog(args.save_path, writes=distributed.is_main())
    describe(net, notes, args, log, device)
    lists = [{"name": part.listed.name, "hash": part.listed.hash, "utterances": len(part)} for part in sets]
    meta = {
        "bins": MelSets.BINS, "front_end": MelSets.front_end_options(args),
        "chunk_frames": [args.chunk_frames[0], args.chunk_frames[-1]], "denoising": args.denoising,
        **{name: kwargs[name] for name in NETWORK if name in kwargs},
        "lists": dict(zip(("train", "valid"), lists)), "args": stored_args(args), "versions": versions(),
    }  # fmt: skip
    card = {"class": f"models.{args.model}", "kwargs": kwargs, "meta": meta}
    tracker = LatentFigures.tracker_of(net, device)
    trackers, warms = {"": tracker} if tracker else {}, args.kl_warmup_steps and AutoencoderNet.takes_kl_weight(args)

    def start():
        weights = AutoencoderNet.load(args.initial_model)[0].state_dict()
        return "; ".join(checkpoint.load_weights(net, weights, args.initial_model))

    fixed = (*FIXED, *(name for name in NETWORK if name in kwargs))
    state, freezer = TrainingRun.prepare(
        net, args, device, len(loader), card, trackers, fixed, log, start, ema_warm_up=True
    )  # fmt: skip

    def before_step(step):
        if state.batch == 0 and hasattr(net, "quantiser"):
            net.quantiser.reset_usage()

    def step(batch):
        x, target, mask, *_ = batch
        weight = {"kl_weight": warm_up(state.step, args.kl_warmup_steps, args.kl_weight)} if warms else {}
        out = state.parallel(x, target, mask, **weight)
        if tracker:
            tracker.add(out, mask)
        return out.loss.mean(), LatentFigures.scalars(out)

    def after_step(number):
        if hasattr(net, "quantiser"):
            LatentFigures.restart_codes(net, state, tracker)

    def show(x, target):
        LatentFigures.picture(net, x, target, Path(args.save_path), log, state.step)

    def judge():
        return LatentFigures.validate(net, valid_loader, show)

    return TrainingRun.fit(
        state, freezer, loader, step, judge, log, args, started, before_step=before_step, after_step=after_step
    )  # fmt: skip


if __name__ == "__main__":
    run_main(main)
