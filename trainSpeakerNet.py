"""Train a speaker network on a list of utterances and judge it on a list of trials by EER and minDCF.

    python trainSpeakerNet.py --model ResNetSE34L --trainfunc aamsoftmax --train_list L --train_path D ...
    python trainSpeakerNet.py --eval --initial_model exps/exp1/checkpoints/best.pt --test_list T --test_path E

The page in order: flags, network and loss, training, evaluation. The run folder --save_path gets args.yaml,
metrics.jsonl, tb/, checkpoints/ and result/. The same command goes on where it was stopped.
"""

import os
from pathlib import Path

# Threads that wait must sleep and not spin: the loader needs the cores. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import DatasetLoader
import SpeakerNet
from audio import lists
from engine import checkpoint, distributed, loop, registry, run
from engine.args import add_bool, check_ranges, make_parser, parse, stored_args
from engine.interruption import Interruption
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything
from scheduler._margin import margin_at
from scoring import plots

# Flags that only the chosen classes read: one given for nothing is an error.
CLASS_FLAGS = (
    "encoder_type", "n_mels", "log_input", "sinc_stride", "margin", "scale", "hard_prob", "hard_rank", "sub_centres",
    "inter_topk", "inter_topk_margin", "continuous_fallback", "nClasses", "lr_decay", "warmup_epochs", "final_lr",
    "warm_from_zero", "lr_scale_by_batch", "plateau_patience", "momentum", "nesterov", "decoupled_weight_decay",
)  # fmt: skip
LOSS_RANGES = {
    "nClasses": (0, None), "hard_prob": (0, 1), "sub_centres": (1, None), "inter_topk": (0, None),
    "margin_start_epoch": (0, None), "margin_end_epoch": (0, None), "keep_head_rows": (0, None),
}  # fmt: skip

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser: the flags of the original trainer under their names, and ours."""
    parser = make_parser(__doc__.splitlines()[0])
    SpeakerNet.add_arguments(parser)
    DatasetLoader.add_arguments(parser)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--trainfunc", default="", help=f"one of: {', '.join(registry.names('loss'))}")
    loss.add_argument(
        "--nClasses", type=int, default=0, help="speakers of a softmax head (default: those of --train_list)"
    )
    loss.add_argument("--margin", type=float, default=0.1, help="radians for aamsoftmax, cosine for amsoftmax")
    loss.add_argument("--scale", type=float, default=30, help="factor on the cosines")
    loss.add_argument("--hard_prob", type=float, default=0.5, help="triplet: chance of a hard negative")
    loss.add_argument("--hard_rank", type=int, default=10, help="triplet: so many nearest are hard; below 0 semi-hard")
    loss.add_argument("--sub_centres", type=int, default=1, help="centres per class of aamsoftmax and amsoftmax")
    loss.add_argument("--inter_topk", type=int, default=0, help="penalise the so many nearest other classes (0: off)")
    loss.add_argument("--inter_topk_margin", type=float, default=0.06, help="margin of that penalty, radians")
    add_bool(loss, "--continuous_fallback", help="aamsoftmax beyond pi - margin: the form without a jump")
    loss.add_argument("--margin_start_epoch", type=int, default=0, help="epoch at which the margin begins to grow")
    loss.add_argument("--margin_end_epoch", type=int, default=0, help="epoch at which it is full (0: full at once)")
    loss.add_argument("--initial_margin", type=float, default=0.0, help="margin before it grows")
    loss.add_argument("--margin_growth", choices=("exp", "linear"), default="exp", help="how it grows")
    add_bool(loss, "--keep_head", help="the head of --initial_model must fit and is kept (large-margin fine-tuning)")
    loss.add_argument("--keep_head_rows", type=int, default=0, help="keep the first so many classes of a larger head")
    run.add_arguments(parser)
    parser.add_argument("--valid_list", default="", help="trial list that chooses best.pt; --test_list never does")
    parser.add_argument("--valid_path", default="", help="prefix of the paths in --valid_list (default: --test_path)")
    add_bool(parser, "--eval", help="evaluate --initial_model, or the run in --save_path, on --test_list and stop")
    add_bool(parser, "--eval_first", help="evaluate before the first step too")
    parser.add_argument("--save_path", default="exps/exp1", help="run folder")
    distributed.add_arguments(parser)
    return parser


def chosen_classes(args) -> dict:
    """Return {"--model X": class, ...} of what the names choose; --eval needs no more than a network."""
    chosen = [("models", args.model, "speaker"), ("loss", args.trainfunc, None)]
    if args.eval:
        chosen = [entry for entry in chosen if entry[1]]
    else:
        chosen += [("optimizer", args.optimizer, None), ("scheduler", args.scheduler, None)]
    return {f"{registry.FLAG[folder]} {name}": registry.load(folder, name, task) for folder, name, task in chosen}


def main():
    """Read the flags and run on as many processes as they say."""
    parser = make_flags()
    args, given = parse(parser, extend=lambda p, first: registry.add_arguments(p, chosen_classes(first).values()))
    if args.crop_seconds:
        args.max_frames = round(100 * args.crop_seconds)
    check_ranges(args, {**SpeakerNet.RANGES, **DatasetLoader.RANGES, **run.RANGES, **LOSS_RANGES})
    args.given = given
    for line in registry.check_taken(given, CLASS_FLAGS, chosen_classes(args)):
        print(line)
    return distributed.launch(evaluate_only if args.eval else train, args)


# ---------------------------------------------------------------- network and loss


def build_network(args):
    """Return the network that the flags describe, and its card for checkpoints."""
    cls = registry.load("models", args.model, "speaker")
    kwargs = registry.arguments_of(cls, stored_args(args))
    args.wav_scale = getattr(cls, "WAV_SCALE", 32768.0) if args.wav_scale is None else args.wav_scale
    return cls(**kwargs), {"class": f"models.{args.model}", "kwargs": kwargs}


def build_loss(args):
    """Return the loss with a head of as many classes as the training data has.

    Raises:
        ValueError: --nPerSpeaker does not suit it.
    """
    cls = registry.load("loss", args.trainfunc)
    least, most = getattr(cls, "MIN_UTTERANCES", 1), getattr(cls, "MAX_UTTERANCES", None)
    if args.nPerSpeaker < least or (most and args.nPerSpeaker > most):
        needed = f"exactly {least}" if least == most else f"at least {least}"
        raise ValueError(
            f"--trainfunc {args.trainfunc} needs {needed} utterances per speaker: --nPerSpeaker {args.nPerSpeaker}"
        )
    return registry.build(cls, {**vars(args), "nClasses": DatasetLoader.head_classes(args)})


def describe(net, args, log, device):
    """Print what is trained: size, cost, batch and precision."""
    parameters = sum(p.numel() for p in net.__S__.parameters())
    samples = 160 * args.max_frames + 240
    flops = SpeakerNet.flops(net, samples, device)
    world = distributed.world_size()
    log.line(f"{args.model}: {parameters:,} parameters, {flops / 1e9:.2f} GFLOP per crop of {samples / 16000:.2f} s")
    log.line(f"{args.trainfunc}: {sum(p.numel() for p in net.__L__.parameters()):,} parameters")
    speakers = args.batch_size * world
    precision = "mixed precision" if args.mixedprec else "float32"
    if device.type == "cuda" and not args.mixedprec:
        precision += " with TF32 products"
    log.line(
        f"global batch: {speakers} speakers x {args.nPerSpeaker} utterances x {args.accumulate} batches per step "
        f"on {world} process(es), {device}, {precision}"
    )


# ---------------------------------------------------------------- training


def train(args):
    """Train on one process or as one rank of several; return the exit code."""
    seed_everything(args.seed + distributed.rank())
    device = distributed.device_of(args)
    train_list = lists.read_train_list(args.train_list, args.train_path)
    test = lists.read_trial_list(args.test_list)
    valid = lists.read_trial_list(args.valid_list) if args.valid_list else None
    args.nClasses = args.nClasses or len(train_list.speakers)
    args.valid_path = args.valid_path or args.test_path

    network, card = build_network(args)
    loss = build_loss(args)
    masks = {
        "time_masks": args.time_masks,
        "time_mask_frames": args.time_mask_frames,
        "freq_masks": args.freq_masks,
        "freq_mask_bands": args.freq_mask_bands,
        "probability": args.spec_augment_prob,
    }
    net = SpeakerNet.SpeakerNet(network, loss, args.wav_scale, masks if args.spec_augment else None).to(device)
    if args.channels_last:
        net = net.to(memory_format=torch.channels_last)
    log = RunLog(args.save_path, writes=distributed.is_main())
    check(train_list, test, valid, args, loss, log)
    world, rank = distributed.world_size(), distributed.rank()
    loader = DatasetLoader.train_loader(train_list, args, world, rank, device, log.line)
    describe(net, args, log, device)

    optimizer = registry.build(registry.load("optimizer", args.optimizer), vars(args), list(net.parameters()))
    steps_per_epoch = max(1, len(loader.batch_sampler) // args.accumulate)
    schedule = {
        "steps_per_epoch": steps_per_epoch,
        "total_steps": args.max_steps or args.max_epoch * steps_per_epoch,
        "global_batch": run.samples_per_step(args),
    }
    scheduler, unit = registry.build(registry.load("scheduler", args.scheduler), {**vars(args), **schedule}, optimizer)
    normalise = bool(getattr(loss, "test_normalize", True))
    card["meta"] = {
        "wav_scale": args.wav_scale,
        "test_normalize": normalise,
        "speakers": train_list.speakers,
        "lists": {"train": train_list.describe(), "valid": valid and valid.describe(), "test": test.describe()},
        "args": stored_args(args),
        "versions": versions(),
    }
    state = run.prepare(net, optimizer, args, device, scheduler, unit, card)
    if not run.resume(state, log, args) and args.initial_model:
        weights, _ = checkpoint.weights_of(checkpoint.read(args.initial_model), args.initial_model)
        rows = args.keep_head_rows
        for line in checkpoint.load_weights(
            net,
            weights,
            args.initial_model,
            keep_head=args.keep_head,
            keep_head_rows=rows,
            allow_partial=args.allow_partial,
        ):
            log.line(line)
        run.restart_averages(state)
    log.record(args, card["meta"]["versions"])

    grows = hasattr(loss, "set_margin") and args.margin_end_epoch > 0

    def step(batch):
        wave, label = batch
        value, accuracy = state.parallel(wave, label)
        scalars = {getattr(loss, "ACCURACY", "accuracy"): accuracy}
        return value, {**scalars, "margin": loss.current_margin} if grows else scalars

    def set_margin(step_number):
        epochs = (args.margin_start_epoch, args.margin_end_epoch)
        now = margin_at(step_number, steps_per_epoch, *epochs, args.initial_margin, args.margin, args.margin_growth)
        loss.set_margin(now)

    def evaluate():
        chosen, root = (valid, args.valid_path) if valid else (test, args.test_path)
        scores = SpeakerNet.score_list(net, chosen, root, args, device, normalise)
        values = SpeakerNet.rates(scores, chosen, args) if scores is not None and chosen.labels is not None else {}
        values = distributed.gather_objects(values)[0]
        return {**values, "choose": values["veer"]} if valid and values else values

    before = {}
    if args.eval_first and state.step == 0:
        log.line("before training:")
        before = evaluate_on(net, test, args, log, device, normalise, "_before")
        log.scalars(0, 0, 0, evaluate())
    code = loop.fit(state, loader, step, evaluate, log, args, before_step=set_margin if grows else None)
    if not code:
        with Interruption(saved=True):
            finish(net, test, args, log, device, normalise, before)
            distributed.gather_objects(None)  # a rank that only waits hears signals too
    return code


def check(train_list, test, valid, args, loss, log):
    """Refuse, before any work, lists that would fail late; print what they hold."""
    classifies = getattr(loss, "CLASSIFIES", False)
    test_speakers = {lists.speaker_of(name) for name in test.names}
    for line in lists.check_training(train_list, args.nClasses, args.nPerSpeaker, classifies, test_speakers):
        log.line(line)
    if not distributed.is_main():
        return
    paths = [train_list.path(i) for i in lists.evenly(len(train_list.paths), args.check_files)]
    roots = [("train_list", paths, args.max_bad_files)]
    for name, trial_list, root in (("test_list", test, args.test_path), ("valid_list", valid, args.valid_path)):
        if trial_list is not None:
            lists.check_trials(trial_list)
            log.line(trial_list.describe())
            chosen = lists.evenly(len(trial_list.names), args.check_files)
            roots.append((name, [lists.join(root, trial_list.names[i]) for i in chosen], 0.0))
    for name, paths, bad_percent in roots:
        for line in lists.check_files(name, paths, bad_percent):
            log.line(line)
    if valid is None:
        log.line("no --valid_list: no checkpoint is chosen as best, the last one is the result")


def finish(net, test, args, log, device, normalise, before):
    """Evaluate the chosen weights on the test list and draw the curves of the run."""
    folder = Path(args.save_path)
    path = folder / "checkpoints" / (checkpoint.BEST if args.valid_list else checkpoint.LAST)
    weights, _ = distributed.from_main(lambda: checkpoint.weights_of(checkpoint.read(path), path))
    checkpoint.load_weights(net, weights, path)
    log.line(f"final evaluation of {path}:")
    after = evaluate_on(net, test, args, log, device, normalise)
    if distributed.is_main():
        curves = folder / "result" / "training_curves.png"
        plots.training_curves(curves, folder / "metrics.jsonl")
        log.line(f"training curves {curves}")
    if before and after:
        log.line(f"EER before training {before['veer']:.2f} %, after {after['veer']:.2f} %")


# ---------------------------------------------------------------- evaluation


def evaluate_on(net, test, args, log, device, normalise, suffix="") -> dict:
    """Score the test list and report; return the figures on rank 0, nothing on the others."""
    scores = SpeakerNet.score_list(net, test, args.test_path, args, device, normalise)
    if not distributed.is_main():
        return {}
    return SpeakerNet.report(scores, test, args, Path(args.save_path), normalise, log, suffix)


def evaluate_only(args):
    """Evaluate --initial_model, or the best or last checkpoint of --save_path, on --test_list."""
    device = distributed.device_of(args)
    log = RunLog(args.save_path, writes=distributed.is_main(), tensorboard=False)
    test = lists.read_trial_list(args.test_list)
    path = args.initial_model or str(checkpoint.chosen(args.save_path))
    weights, card = checkpoint.weights_of(checkpoint.read(path), path)
    if card:
        if args.model and f"models.{args.model}" != card["class"]:
            raise ValueError(f"{path} holds {card['class']}, not --model {args.model}: leave --model out")
        if args.wav_scale is not None and args.wav_scale != card["meta"]["wav_scale"]:
            log.line(
                f"warning: --wav_scale {args.wav_scale} ignored, {path} was trained with {card['meta']['wav_scale']}"
            )
        for name, value in card["kwargs"].items():
            if name in args.given and getattr(args, name) != value:
                log.line(f"warning: --{name} {getattr(args, name)} ignored, {path} was trained with {value}")
        net, normalise = (
            SpeakerNet.from_card(weights, card, path).to(device),
            bool(card["meta"].get("test_normalize", True)),
        )
        log.line(f"{card['class']} with its arguments from {path}")
    else:
        network, _ = build_network(args)
        net = SpeakerNet.SpeakerNet(network, wav_scale=args.wav_scale).to(device)
        for line in checkpoint.load_weights(net, weights, path, allow_partial=args.allow_partial):
            log.line(line)
        normalise = getattr(registry.load("loss", args.trainfunc), "test_normalize", True) if args.trainfunc else True
    log.line(f"parameters {sum(p.numel() for p in net.__S__.parameters()):,}, list {args.test_list}")
    lists.check_trials(test)
    paths = [lists.join(args.test_path, test.names[i]) for i in lists.evenly(len(test.names), args.check_files)]
    for line in lists.check_files("test_list", paths):
        log.line(line)
    evaluate_on(net, test, args, log, device, normalise)
    return 0


if __name__ == "__main__":
    run_main(main)
