"""Train a speaker classifier of noised waves, which guides sampling and judges samples.

    python train_classifier.py data/LibriSpeech/train-clean-360 --pretrained_path exps/unet32/checkpoints/last.pt
    python train_classifier.py tones --base_channels 8 --max_steps 500

The page in order: flags, training; WaveRecognition.py has the step, and the accuracy on held-out utterances by noise.
The run folder --save_path gets args.yaml, metrics.jsonl, tb/, checkpoints/ and result/. The same command goes on where
it was stopped.
"""

import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import DiffusionNet
import TrainingRun
import WaveRecognition
import WaveSets
import WaveTraining
from engine import distributed, registry
from engine.args import check_ranges, make_parser, parse, stored_args
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything

TASK = "classifier"
FIXED = ("schedule", "encoding", "speakers", "base_channels")


# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    WaveTraining.add_arguments(parser, TASK, "WaveClassifier", "exps/classifier")
    WaveRecognition.add_arguments(parser.add_argument_group("classifier"))
    return parser


def read_flags(argv=None):
    """Return the flags of a command line after all checks that need no data."""
    args, given = parse(
        make_flags(), argv,
        extend=lambda p, first: registry.add_arguments(p, WaveTraining.chosen_classes(first, TASK).values()),
    )  # fmt: skip
    check_ranges(args, {**WaveTraining.RANGES, **WaveRecognition.RANGES})
    WaveRecognition.check(args, given)
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

    trackers = WaveRecognition.trackers(device)
    state, freezer = TrainingRun.prepare(net, args, device, len(loader), card, trackers, FIXED, log, start)
    step = WaveRecognition.step_of(state, args, speaker)

    def judge():
        return WaveRecognition.validate(net, sets, args, device, speaker)

    def original(weights):
        return WaveTraining.original_payload(net.to_original(), {"step": state.step, **meta}, weights)

    return WaveTraining.fit(state, freezer, loader, step, judge, sets, log, args, started, original)


def speaker(samples, label):
    """Return what is to be recognised: who speaks."""
    return label


def weights_to_start(path):
    """Return the weights of a U-Net, of a diffusion model's file of any layout."""
    network, card = DiffusionNet.load_network(path, DiffusionNet.TASK)
    if not hasattr(network, "down_blocks"):
        raise ValueError(f"{path} is of {card['class'].removeprefix('models.')}: a classifier begins as a UNet does")
    return network.state_dict()


if __name__ == "__main__":
    run_main(main)
