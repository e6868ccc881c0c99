"""Train a speaker classifier of noised waves, which guides sampling and judges samples.

    python train_classifier.py data/LibriSpeech/train-clean-360 --pretrained_path exps/unet32/checkpoints/last.pt
    python train_classifier.py tones --base_channels 8 --max_steps 500

The page in order: flags, training, accuracy on held-out utterances by noise. The run folder --save_path gets args.yaml,
metrics.jsonl, tb/, checkpoints/ and result/. The same command goes on where it was stopped.
"""

import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import torch
from torch.nn import functional

import DiffusionNet
import WaveSets
import WaveTraining
from diffusion import objective
from engine import distributed, registry
from engine.args import check_ranges, make_parser, parse, stored_args
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything

TASK = "classifier"
FIXED = ("schedule", "encoding", "speakers", "base_channels")
# times at which the accuracy is measured: clean, and the beginning of the other three quarters
LEVELS = (0.0, 0.25, 0.5, 0.75)


# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    WaveTraining.add_arguments(parser, TASK, "WaveClassifier", "exps/classifier")
    group = parser.add_argument_group("classifier")
    group.add_argument(
        "--curriculum_start", type=float, default=30.0,
        help="power of the uniform draw that the first times are: nearly clean waves above 1",
    )  # fmt: skip
    group.add_argument(
        "--curriculum_steps", type=int, default=0, help="optimiser steps in which it falls to 1 (0: no curriculum)"
    )
    group.add_argument(
        "--valid_share", type=float, default=0.05, help="of the utterances, held out where there is no --valid_list"
    )
    return parser


def read_flags(argv=None):
    """Return the flags of a command line after all checks that need no data."""
    args, given = parse(
        make_flags(), argv,
        extend=lambda p, first: registry.add_arguments(p, WaveTraining.chosen_classes(first, TASK).values()),
    )  # fmt: skip
    ranges = {"curriculum_start": (1, None), "curriculum_steps": (0, None), "valid_share": (0, 0.5)}
    check_ranges(args, {**WaveTraining.RANGES, **ranges})
    if "curriculum_start" in given and not args.curriculum_steps:
        raise ValueError("--curriculum_start works with --curriculum_steps")
    if args.valid_list and "valid_share" in given:
        raise ValueError("--valid_share holds out utterances where there is no --valid_list: leave one out")
    options = {"base_channels": ("base_channels", args.base_channels), "data_dir": ("num_labels", 2)}
    WaveTraining.check(args, given, TASK, options)
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
    sets = WaveSets.read_sets(args, labelled=True, share=args.valid_share)
    if len(sets.train.speakers) < 2:
        raise ValueError(f"{' '.join(args.data_dir)} is of one speaker: there is nothing to tell apart")
    cls = registry.load("models", args.model, TASK)
    kwargs = registry.arguments_of(cls, {**stored_args(args), "num_labels": len(sets.train.speakers)})
    net = cls(**kwargs).to(device)
    net.checkpoint_activations = args.grad_checkpoint
    loader = WaveSets.make_loader(sets, args, device)
    log = RunLog(args.save_path, writes=distributed.is_main())
    WaveTraining.describe(net, sets, args, log, device)
    meta = {
        "schedule": args.schedule, "encoding": args.encoding, "sample_rate": WaveTraining.SAMPLE_RATE,
        "window": sets.train.samples, "speakers": list(sets.train.speakers), "base_channels": args.base_channels,
        "args": stored_args(args), "versions": versions(),
    }  # fmt: skip
    card = {"class": f"models.{args.model}", "kwargs": kwargs, "meta": meta}

    def start():
        return WaveTraining.start_from(net, args.initial_model, weights_to_start, net.start_from)

    trackers = {"": objective.TimeBuckets(device=device), "accuracy_": objective.TimeBuckets(device=device)}
    state, freezer = WaveTraining.prepare(net, args, device, len(loader), card, trackers, FIXED, log, start)

    def step(batch):
        samples, label, u, eps, *_ = batch
        t = objective.curriculum_times(u, state.step, args.curriculum_start, args.curriculum_steps)
        logits = state.parallel(objective.noised(samples[:, None], t, eps[:, None], args.schedule), t)
        losses = functional.cross_entropy(logits.float(), label, reduction="none")
        hits = (logits.argmax(1) == label).float()
        WaveTraining.track(trackers[""], t, losses)
        WaveTraining.track(trackers["accuracy_"], t, 100 * hits)
        return losses.mean(), {"accuracy": 100 * hits.mean()}

    def judge():
        return validate(net, sets, args, device)

    def original(weights):
        return WaveTraining.original_payload(net.to_original(), {"step": state.step, **meta}, weights)

    return WaveTraining.fit(state, freezer, loader, step, judge, sets, log, args, started, original)


def weights_to_start(path):
    """Return the weights of a U-Net, of a diffusion model's file of any layout."""
    network, card = DiffusionNet.load_network(path, DiffusionNet.TASK)
    if not hasattr(network, "down_blocks"):
        raise ValueError(f"{path} is of {card['class'].removeprefix('models.')}: a classifier begins as a UNet does")
    return network.state_dict()


# ---------------------------------------------------------------- held-out utterances


@torch.no_grad()
def validate(net, sets, args, device) -> dict[str, float]:
    """Return the loss and the accuracy, in %, of fixed windows at LEVELS of noise; the network must be in evaluation
    mode."""
    losses, hits, count = torch.zeros(len(LEVELS), device=device), torch.zeros(len(LEVELS), device=device), 0
    for samples, label, _, eps, _ in WaveSets.fixed_batches(sets, args, device):
        for number, level in enumerate(LEVELS):
            t = samples.new_full((len(samples),), level)
            logits = net(objective.noised(samples[:, None], t, eps[:, None], args.schedule), t).float()
            losses[number] += functional.cross_entropy(logits, label, reduction="sum")
            hits[number] += (logits.argmax(1) == label).sum()
        count += len(label)
    losses, hits = (losses / count).tolist(), (100 * hits / count).tolist()
    figures = {"valid_loss": sum(losses) / len(LEVELS)}
    figures |= {f"valid_accuracy_t{level:g}": share for level, share in zip(LEVELS, hits)}
    return {**figures, "choose": figures["valid_loss"]}


if __name__ == "__main__":
    run_main(main)
