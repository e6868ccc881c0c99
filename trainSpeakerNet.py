"""Train a speaker network on a list of utterances and judge it on a list of trials by EER and minDCF.

    python trainSpeakerNet.py --model ResNetSE34L --trainfunc aamsoftmax --train_list L --train_path D ...
    python trainSpeakerNet.py --eval --initial_model exps/exp1/checkpoints/best.pt --test_list T --test_path E

The page in order: flags, network and loss, training, evaluation. The run folder --save_path gets args.yaml,
metrics.jsonl, tb/, checkpoints/ and result/. The same command goes on where it was stopped.
"""

import os
import time
from pathlib import Path

# Threads that wait must sleep and not spin: the loader needs the cores. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import DatasetLoader
import SpeakerNet
from audio import lists
from audio.crops import crop_samples
from engine import checkpoint, distributed, foreign, groups, loop, registry, run
from engine.args import add_bool, check_ranges, make_parser, parse, stored_args
from engine.interruption import Interruption
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything
from scheduler._margin import margin_at
from scoring import plots, report

# Flags that only the chosen classes read: one given for nothing is an error.
CLASS_FLAGS = (
    "encoder_type", "n_mels", "log_input", "sinc_stride", "margin", "scale", "hard_prob", "hard_rank", "sub_centres",
    "inter_topk", "inter_topk_margin", "continuous_fallback", "nClasses", *run.CLASS_FLAGS,
)  # fmt: skip
LOSS_RANGES = {
    "nClasses": (0, None), "hard_prob": (0, 1), "sub_centres": (1, None), "inter_topk": (0, None),
    "margin_start_epoch": (0, None), "margin_end_epoch": (0, None), "keep_head_rows": (0, None),
    "valid_frames": (0, 10**6), "valid_num_eval": (1, None),
}  # fmt: skip

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser: the flags of the original trainer under their names, and ours."""
    parser = make_parser(__doc__.splitlines()[0])
    SpeakerNet.add_arguments(parser)
    DatasetLoader.add_arguments(parser)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--trainfunc", default="", help=f"one of: {', '.join(registry.names('loss', 'speaker'))}")
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
    parser.add_argument(
        "--valid_frames",
        type=int,
        default=None,
        help="crop of --valid_list in frames of 10 ms, 0: whole files (default: --eval_frames)",
    )
    parser.add_argument(
        "--valid_num_eval", type=int, default=None, help="crops per file of --valid_list (default: --num_eval)"
    )
    parser.add_argument(
        "--additional_test_sets", nargs="*", default=[], metavar="LIST", help="further trial lists to test in the end"
    )
    add_bool(
        parser,
        "--enroll_training_data",
        help="in the end embed --train_list as --valid_list is, and keep the means of its speakers in best.pt and "
        "last.pt: the cohort of --score_norm and --post_process_scores",
    )
    parser.add_argument("--tag", default="", help="a word kept with the run, for tables of many runs")
    add_bool(parser, "--dry_run", help="check the flags and stop")
    parser.add_argument(
        "--check_configs",
        nargs="+",
        default=[],
        metavar="FILE",
        help="--dry_run: check these configs too, each for itself",
    )
    add_bool(parser, "--eval", help="evaluate --initial_model, or the run in --save_path, on --test_list and stop")
    add_bool(parser, "--eval_first", help="evaluate before the first step too")
    parser.add_argument("--save_path", default="exps/exp1", help="run folder")
    distributed.add_arguments(parser)
    return parser


def chosen_classes(args) -> dict:
    """Return {"--model X": class, ...} of what the names choose; --eval needs no more than a network."""
    chosen = [("models", args.model, "speaker"), ("loss", args.trainfunc, "speaker")]
    if args.eval:
        chosen = [entry for entry in chosen if entry[1]]
    else:
        chosen += [("optimizer", args.optimizer, None), ("scheduler", args.scheduler, None)]
    return {f"{registry.FLAG[folder]} {name}": registry.load(folder, name, task) for folder, name, task in chosen}


def read_flags(argv=None):
    """Return the flags of a command line after all checks that need no data."""
    parser = make_flags()
    args, given = parse(parser, argv, extend=lambda p, first: registry.add_arguments(p, chosen_classes(first).values()))
    if args.crop_seconds:
        args.max_frames = round(100 * args.crop_seconds)
    args.crop_samples = round(16000 * args.crop_seconds) or crop_samples(args.max_frames)
    check_ranges(args, {**SpeakerNet.RANGES, **DatasetLoader.RANGES, **run.RANGES, **LOSS_RANGES})
    args.given = given
    if not (args.eval or args.enroll_training_data) and (args.score_norm != "none" or args.post_process_scores):
        raise ValueError("--score_norm and --post_process_scores need a cohort: give --enroll_training_data too")
    if args.check_configs and not args.dry_run:
        raise ValueError("--check_configs works with --dry_run")
    for line in registry.check_taken(given, CLASS_FLAGS, chosen_classes(args)):
        print(line)
    return args


def main():
    """Read the flags and run on as many processes as they say."""
    args = read_flags()
    if args.dry_run:
        for path in args.check_configs:
            read_flags(["--config", path])
        return 0
    return distributed.launch(evaluate_only if args.eval else train, args)


# ---------------------------------------------------------------- network and loss


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
    samples = args.crop_samples
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
    started = time.time()
    seed_everything(args.seed + distributed.rank())
    device = distributed.device_of(args)
    train_list = lists.read_train_list(args.train_list, args.train_path)
    test = lists.read_trial_list(args.test_list)
    valid = lists.read_trial_list(args.valid_list) if args.valid_list else None
    more = [lists.read_trial_list(path) for path in args.additional_test_sets]
    args.nClasses = args.nClasses or len(train_list.speakers)
    args.valid_path = args.valid_path or args.test_path

    network, card = SpeakerNet.build_network(args)
    loss = build_loss(args)
    masks = DatasetLoader.mask_arguments(args)
    net = SpeakerNet.SpeakerNet(network, loss, args.wav_scale, masks, args.spec_augment_before_norm).to(device)
    if args.channels_last:
        net = net.to(memory_format=torch.channels_last)
    log = RunLog(args.save_path, writes=distributed.is_main())
    check(train_list, test, valid, more, args, loss, log)
    world, rank = distributed.world_size(), distributed.rank()
    loader = DatasetLoader.train_loader(train_list, args, world, rank, device, log.line)
    describe(net, args, log, device)

    optimizer = run.build_optimizer(net, args)
    freezer = groups.freezer_of(net, args.freeze)
    freezer.set_step(0)
    if freezer.parts:
        log.line(freezer.describe())
    steps_per_epoch = max(1, len(loader.batch_sampler) // args.accumulate)
    scheduler, unit = run.build_scheduler(optimizer, args, steps_per_epoch)
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
        for line in foreign.initialise(net, args):
            log.line(line)
        run.restart_averages(state)
    log.record(args, card["meta"]["versions"])

    grows = hasattr(loss, "set_margin") and args.margin_end_epoch > 0

    def step(batch):
        wave, label = batch
        value, accuracy = state.parallel(wave, label)
        scalars = {getattr(loss, "ACCURACY", "accuracy"): accuracy}
        return value, {**scalars, "margin": loss.current_margin} if grows else scalars

    freeze = run.freezing(state, freezer, args)

    def before_step(step_number):
        freeze(step_number)
        if grows:
            epochs = (args.margin_start_epoch, args.margin_end_epoch)
            now = margin_at(step_number, steps_per_epoch, *epochs, args.initial_margin, args.margin, args.margin_growth)
            loss.set_margin(now)

    crops = valid_crops(args)

    def evaluate():
        chosen, root = (valid, args.valid_path) if valid else (test, args.test_path)
        table = SpeakerNet.embed_list(net, chosen, root, args, device, crops if valid else None)
        values = {}
        if distributed.is_main() and chosen.labels is not None:
            if table.vectors.isfinite().all():
                scores = SpeakerNet.score_files(table, chosen, args, device, normalise)
                values = report.rates(scores, chosen.labels, args)
            else:
                log.line(f"warning: embeddings of {chosen.name} are not finite, which counts as an EER of 100 %")
                values = {"veer": 100.0, "mindcf": 1.0}
        values = distributed.gather_objects(values)[0]
        return {**values, "choose": values["veer"]} if valid and values else values

    before = {}
    if args.eval_first and state.step == 0:
        log.line("before training:")
        before, _ = SpeakerNet.evaluate_list(net, test, args, device, normalise, log, None, "_before")
        log.scalars(0, 0, 0, evaluate())
    try:
        code = loop.fit(state, loader, step, evaluate, log, args, before_step=before_step)
    except loop.Diverged as error:
        run.end(state, args, started, "diverged", {}, str(error))
        raise
    if not code:
        with Interruption(saved=True):
            cohort = enrolled(net, train_list, args, log, device) if args.enroll_training_data else None
            figures = finish(net, [test, *more], args, log, device, normalise, before, cohort)
            if state.best is not None:
                figures["val_eer"] = state.best / 100
            diverged = not all(value < 1 for name, value in figures.items() if "eer" in name)
            run.end(state, args, started, "diverged" if diverged else "done", figures)
            distributed.gather_objects(None)  # a rank that only waits hears signals too
    return code


def valid_crops(args) -> tuple[int, int]:
    """Return frames of 10 ms and number of crops per file of the validation list."""
    frames = args.eval_frames if args.valid_frames is None else args.valid_frames
    return frames, args.num_eval if args.valid_num_eval is None else args.valid_num_eval


def check(train_list, test, valid, more, args, loss, log):
    """Refuse, before any work, lists that would fail late; print what they hold."""
    classifies = getattr(loss, "CLASSIFIES", False)
    test_speakers = {lists.speaker_of(name) for tested in (test, *more) for name in tested.names}
    for line in lists.check_training(train_list, args.nClasses, args.nPerSpeaker, classifies, test_speakers):
        log.line(line)
    if not distributed.is_main():
        return
    paths = [train_list.path(i) for i in lists.evenly(len(train_list.paths), args.check_files)]
    roots = [("train_list", paths, args.max_bad_files)]
    judged = [("test_list", test, args.test_path), ("valid_list", valid, args.valid_path)]
    judged += [("additional_test_sets", tested, args.test_path) for tested in more]
    for name, trial_list, root in judged:
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


def enrolled(net, train_list, args, log, device) -> dict | None:
    """Embed the training speakers by the best weights and the last, and store each cohort in its checkpoint.

    Returns the cohort of the weights to test.
    """
    cohort = None
    for name in (checkpoint.LAST, checkpoint.BEST) if args.valid_list else (checkpoint.LAST,):
        path = Path(args.save_path) / "checkpoints" / name
        payload = distributed.from_main(lambda path=path: checkpoint.read(path))
        weights, _ = checkpoint.weights_of(payload, path)
        checkpoint.load_weights(net, weights, path)
        cohort = SpeakerNet.enroll(net, train_list, args, device, valid_crops(args))
        if distributed.is_main():
            checkpoint.write(path, {**payload, "meta": {**payload["meta"], "cohort": cohort}})
            log.line(f"cohort of {len(cohort['speakers'])} training speakers in {path}")
    return cohort


def finish(net, tests, args, log, device, normalise, before, cohort) -> dict:
    """Evaluate the chosen weights on the test lists and draw the curves of the run; return what result.json holds."""
    folder = Path(args.save_path)
    path = folder / "checkpoints" / (checkpoint.BEST if args.valid_list else checkpoint.LAST)
    weights, _ = distributed.from_main(lambda: checkpoint.weights_of(checkpoint.read(path), path))
    checkpoint.load_weights(net, weights, path)
    figures, after = {}, {}
    for test in tests:
        log.line(f"final evaluation of {path}:")
        values, entries = SpeakerNet.evaluate_list(net, test, args, device, normalise, log, cohort)
        figures, after = figures | entries, after or values
    if distributed.is_main():
        curves = folder / "result" / "training_curves.png"
        plots.training_curves(curves, folder / "metrics.jsonl")
        log.line(f"training curves {curves}")
    if before and after:
        log.line(f"EER before training {before['veer']:.2f} %, after {after['veer']:.2f} %")
    return figures


# ---------------------------------------------------------------- evaluation


def evaluate_only(args):
    """Evaluate --initial_model, or the best or last checkpoint of --save_path, on --test_list and further ones."""
    device = distributed.device_of(args)
    log = RunLog(args.save_path, writes=distributed.is_main(), tensorboard=False)
    tests = [lists.read_trial_list(path) for path in (args.test_list, *args.additional_test_sets)]
    path = args.initial_model or str(checkpoint.chosen(args.save_path))
    net, card = SpeakerNet.load_any(path, args, device, log.line)
    stated = card["meta"] if card else {}
    default = getattr(registry.load("loss", args.trainfunc), "test_normalize", True) if args.trainfunc else True
    normalise, cohort = bool(stated.get("test_normalize", default)), stated.get("cohort")
    if cohort is None and (args.score_norm != "none" or args.post_process_scores):
        raise ValueError(f"{path} holds no cohort: train with --enroll_training_data, or use score.py --cohort")
    log.line(f"parameters {sum(p.numel() for p in net.__S__.parameters()):,}, list {args.test_list}")
    for test in tests:
        lists.check_trials(test)
        paths = [lists.join(args.test_path, test.names[i]) for i in lists.evenly(len(test.names), args.check_files)]
        for line in lists.check_files("test_list", paths):
            log.line(line)
    for test in tests:
        SpeakerNet.evaluate_list(net, test, args, device, normalise, log, cohort)
    return 0


if __name__ == "__main__":
    run_main(main)
