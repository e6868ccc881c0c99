"""Train a diffusion model of speech: a network that predicts the noise in noised waves.

    python train_diffusion.py data/LibriSpeech/train-clean-100 --model UNet --base_channels 32 --save_path exps/unet32
    python train_diffusion.py tones --base_channels 8 --max_steps 300

The page in order: flags, training, validation. The run folder --save_path gets args.yaml, metrics.jsonl, tb/,
checkpoints/ and result/. The same command goes on where it was stopped. Flags may be written with hyphens too.
"""

import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import torch

import DiffusionNet
import SampleConditions
import TrainingRun
import TrainingSamples
import WaveSets
import WaveTraining
from diffusion import objective
from engine import checkpoint, distributed, registry
from engine.args import add_bool, check_ranges, make_parser, parse, stored_args
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything
from models.blocks import original

# what a run cannot change when it goes on
FIXED = (
    *("schedule", "target", "encoding", "window", "speakers", "class_cond", "cond_dropout", "cond", "base_channels"),
    "dropout",
)

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    WaveTraining.add_arguments(parser, DiffusionNet.TASK, "UNet", "exps/diffusion")
    model = parser.add_argument_group("diffusion")
    model.add_argument("--dropout", type=float, default=0.0, help="in every block of the U-Net")
    model.add_argument(
        "--target", choices=objective.TARGETS, default="eps", help="what the network predicts; published ones: eps"
    )
    add_bool(model, "--class_cond", help="tell the network who speaks: a label for each speaker")
    model.add_argument(
        "--cond_embeddings", nargs="+", default=[], metavar="FILE.npz",
        help="tables of embeddings or codes: tell the network the vector of each utterance, found by its name",
    )  # fmt: skip
    model.add_argument(
        "--cond_dropout", type=float, default=0.0,
        help="share of labels, and of vectors, left out in training, for classifier-free guidance: label 0 is then "
        "none (the speakers' follow from 1), and a vector of zeros is none",
    )  # fmt: skip
    TrainingSamples.add_arguments(model)
    return parser


def read_flags(argv=None):
    """Return the flags of a command line after all checks that need no data."""
    args, given = parse(
        make_flags(), argv,
        extend=lambda p, first: registry.add_arguments(
            p, WaveTraining.chosen_classes(first, DiffusionNet.TASK).values()
        ),
    )  # fmt: skip
    ranges = {**TrainingSamples.RANGES, "dropout": (0, 0.999), "cond_dropout": (0, 0.999)}
    check_ranges(args, {**WaveTraining.RANGES, **ranges})
    TrainingSamples.check(args, given)
    if args.cond_dropout and not (args.class_cond or args.cond_embeddings):
        raise ValueError("--cond_dropout leaves out labels and vectors: give --class_cond or --cond_embeddings")
    options = {
        "base_channels": ("base_channels", args.base_channels), "dropout": ("dropout", args.dropout),
        "class_cond": ("num_labels", 1 if args.class_cond else None),
        "cond_embeddings": ("cond_dim", 1 if args.cond_embeddings else None),
    }  # fmt: skip
    WaveTraining.check(args, given, DiffusionNet.TASK, options)
    if args.original_files and (args.target != "eps" or args.cond_embeddings):
        raise ValueError("--original_files: the original layout knows only --target eps, without --cond_embeddings")
    return args


def main(argv=None):
    """Read the flags and train on as many processes as they say."""
    args = read_flags(argv)
    return 0 if args.dry_run else distributed.launch(train, args)


# ---------------------------------------------------------------- training


def train(args):
    """Train on one process or as one rank of several; return the exit code."""
    started = time.time()
    seed_everything(args.seed)  # of the first weights alone: draws of a step are those of its windows
    device = distributed.device_of(args)
    table = SampleConditions.read_tables(args.cond_embeddings)
    sets = WaveSets.read_sets(args, args.class_cond, vectors_of=table)
    network, kwargs = build_network(args, sets)
    cond = standard_of(sets.vectors[0], args)
    net = DiffusionNet.DiffusionNet(network, args.schedule, args.target, args.cond_dropout, cond).to(device)
    seed_everything(args.seed + distributed.rank())
    loader = WaveSets.make_loader(sets, args, device)
    log = RunLog(args.save_path, writes=distributed.is_main())
    WaveTraining.describe(network, sets, args, log, device)
    meta = {
        "schedule": args.schedule, "target": args.target, "encoding": args.encoding,
        "sample_rate": WaveTraining.SAMPLE_RATE, "window": sets.train.samples, "speakers": list(sets.train.speakers),
        "class_cond": args.class_cond, "cond_dropout": args.cond_dropout, "cond": cond, "dropout": args.dropout,
        "base_channels": args.base_channels, "args": stored_args(args), "versions": versions(),
    }  # fmt: skip
    card = {"class": f"models.{args.model}", "kwargs": kwargs, "meta": meta}

    def start():
        return WaveTraining.start_from(network, args.initial_model, weights_of, lambda w: copy_weights(network, w))

    buckets = {"": objective.TimeBuckets(device=device)}
    state, freezer = TrainingRun.prepare(net, args, device, len(loader), card, buckets, FIXED, log, start)

    def step(batch):
        samples, label, t, eps, u, vector = batch
        losses = state.parallel(samples, t, eps, *conditions(net, label, vector), u)
        WaveTraining.track(buckets[""], t, losses)
        return losses.mean(), {}

    def judge():
        return validate(net, sets, args, device)

    def payload_of(weights):
        payload = DiffusionNet.original_payload(net)
        return WaveTraining.original_payload(payload, {"step": state.step, **meta}, weights)

    def after():
        TrainingSamples.draw(state, sets, args, log)

    return WaveTraining.fit(state, freezer, loader, step, judge, sets, log, args, started, payload_of, after)


def conditions(net, label, vector):
    """Return label and vector for a network that takes them, None for those that it does not."""
    return (
        label if net.speakers is not None else None,
        vector if net.cond_dim is not None else None,
    )


def build_network(args, sets):
    """Return the network for the data, and the arguments that it was built with."""
    labels = len(sets.train.speakers) + (args.cond_dropout > 0) if args.class_cond else None
    options = {
        "base_channels": args.base_channels, "dropout": args.dropout, "num_labels": labels,
        "cond_dim": None if sets.vectors[0] is None else sets.vectors[0].shape[1],
    }  # fmt: skip
    cls = registry.load("models", args.model, DiffusionNet.TASK)
    kwargs = registry.arguments_of(cls, {**stored_args(args), **options})
    network = cls(**kwargs)
    network.checkpoint_activations = args.grad_checkpoint
    return network, kwargs


def standard_of(vectors, args):
    """Return what brings vectors to zero mean and about unit variance, as plain data; codes become -1 and 1."""
    if vectors is None:
        return None
    if bool(((vectors == 0) | (vectors == 1)).all()):
        mean, scale = torch.tensor([0.5]), 0.5
    else:
        mean = vectors.double().mean(0)
        scale = float((vectors - mean).square().mean().sqrt().clamp(min=1e-12))
    tables = [{"file": Path(p).name, "sha256": checkpoint.file_hash(p)} for p in args.cond_embeddings]
    return {"mean": mean.tolist(), "scale": scale, "tables": tables}


def weights_of(path):
    """Return the weights of the network of a diffusion model's file."""
    return DiffusionNet.load_network(path, DiffusionNet.TASK)[0].state_dict()


def copy_weights(network, weights):
    """Copy what both have; labels of a network without --cond_dropout follow the new label 0, "none"."""
    own = dict(network.named_parameters())
    for name in weights.keys() & own.keys():
        if name.endswith(("class_embed.weight", "label_emb.weight")) and len(own[name]) == len(weights[name]) + 1:
            weights[name] = torch.cat([own[name][:1].detach().to(weights[name]), weights[name]])
    return original.copy_matching(network, weights)


# ---------------------------------------------------------------- validation


def validate(net, sets, args, device) -> dict[str, float]:
    """Return the loss over fixed windows with all conditions; the network must be in evaluation mode."""

    def losses_of(samples, label, t, eps, vector):
        kept = torch.ones(len(samples), 2, device=device)  # no condition is left out
        return net(samples, t, eps, *conditions(net, label, vector), kept)

    return WaveSets.fixed_loss(losses_of, sets, args, device)


if __name__ == "__main__":
    run_main(main)
