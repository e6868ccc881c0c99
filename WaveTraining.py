"""What the trainers of waveform networks share beside the windows: flags, checks, the files of the original layout.
Entry points: add_arguments, chosen_classes, check, describe, start_from, fit, track, original_payload.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

import TrainingRun
import WaveSets
from diffusion import schedules
from engine import checkpoint, distributed, registry, run
from engine.args import add_bool
from engine.state import State
from models.blocks.waves import check_length
from scoring import plots
from scoring.embeddings import whole_file

SAMPLE_RATE = 16000
RANGES = {**run.RANGES, **WaveSets.RANGES, "base_channels": (1, None)}
# the checkpoint of a run just before its learning rate falls
BEFORE_ANNEALING = "before_annealing.pt"
# the log of the original layout: its figures, and the flags by which its scripts of May 2021 named single files
ORIGINAL_LOG, LOGGED = "train_log.txt", ("loss", "vq_loss", "q0", "q1", "q2", "q3")
SINGLE_FILES = ("checkpoint_path", "ema_path", "log_file")

# ---------------------------------------------------------------- flags


def add_arguments(parser, task: str, model: str, save_path: str):
    """Add the flags of data, network and loop; `model` is the network by default."""
    WaveSets.add_arguments(parser)
    network = parser.add_argument_group("network")
    known = registry.names("models", task)
    network.add_argument(
        "--model", *(["--predictor"] if task == "diffusion" else []), default=model,
        type=lambda name: {n.lower(): n for n in known}.get(name.lower(), name), help=f"one of: {', '.join(known)}",
    )  # fmt: skip
    network.add_argument("--base_channels", type=int, default=32, help="width C of the first level")
    network.add_argument(
        "--schedule", choices=tuple(schedules.SCHEDULES), default="exp", help="variance of the signal over time"
    )
    add_bool(network, "--grad_checkpoint", help="compute activations again in the backward pass, for memory")
    network.add_argument(
        "--initial_model", "--pretrained_path", default="", help="take the weights it has in common with this file"
    )
    run.add_arguments(parser)
    parser.set_defaults(
        optimizer="adamw", scheduler="anneal", lr=1e-4, ema="0.9999", max_epoch=10**9, save_steps=1000,
        test_interval=1, test_interval_steps=5000,
    )  # fmt: skip
    add_bool(
        parser, "--original_files",
        help=f"also write model.pt, model_ema_RATE.pt and {ORIGINAL_LOG} as the original does, every --save_steps",
    )  # fmt: skip
    for name in SINGLE_FILES:
        parser.add_argument(
            f"--{name}", type=single_file, default=None, metavar="FILE",
            help="of the original, refused: give --save_path FOLDER, and --original_files for such files",
        )  # fmt: skip
    parser.add_argument("--tag", default="", help="a word kept with the run, for tables of many runs")
    add_bool(parser, "--dry_run", help="check the flags and stop")
    parser.add_argument("--save_path", "--output_dir", default=save_path, help="run folder")
    distributed.add_arguments(parser)


def single_file(path):
    """Refuse a file where a run is a folder."""
    raise argparse.ArgumentTypeError(
        f"{path}: a run is a folder, give --save_path FOLDER; --original_files puts model.pt, model_ema_RATE.pt "
        f"and {ORIGINAL_LOG} there"
    )


def chosen_classes(args, task: str) -> dict:
    """Return {"--model X": class, ...} of what the names choose."""
    chosen = [("models", args.model, task), ("optimizer", args.optimizer, None), ("scheduler", args.scheduler, None)]
    return {f"{registry.FLAG[folder]} {name}": registry.load(folder, name, task) for folder, name, task in chosen}


def check(args, given: dict, task: str, options: dict):
    """Refuse flags that lack or exclude each other, before any work.

    Args:
        given: as engine.args.parse returns it. options: {flag: value for the network}, what it is built with.

    Raises:
        ValueError: which, and what to do.
    """
    if not args.data_dir:
        raise ValueError("data_dir is missing: give a folder of speakers, a list of lines `speaker file`, or tones")
    for name, unset in (("channels_last", False), ("sync_bn", False)):
        if getattr(args, name) != unset:
            raise ValueError(f"--{name} does nothing for waveform networks: leave it out")
    if args.anneal_steps and not args.max_steps:
        raise ValueError("--anneal_steps needs --max_steps: the last steps of how many?")
    if args.test_interval_steps == 0 and args.max_epoch >= 10**9 and not args.max_steps and args.valid_list:
        raise ValueError("--test_interval_steps 0 needs --max_epoch or --max_steps: there would be no last evaluation")
    if args.early_stop and not args.valid_list:
        raise ValueError("--early_stop needs --valid_list: nothing is evaluated without")
    classes = chosen_classes(args, task)
    for line in registry.check_taken(given, run.CLASS_FLAGS, classes):
        print(line)
    cls = registry.load("models", args.model, task)
    taken = registry.taken(cls)
    for flag, (name, value) in options.items():
        if value and taken is not None and name not in taken:
            raise ValueError(f"--{flag} works with a network that has it: {args.model} has no {name}")
    samples = int(SAMPLE_RATE * args.window_seconds)
    with torch.device("meta"):
        network = cls(**registry.arguments_of(cls, dict(options.values())))
    try:
        if task == "classifier":
            if samples < network.rate:
                raise ValueError(f"{samples} samples: the classifier needs at least {network.rate}")
        else:
            check_length(samples, network.rate)
    except ValueError as error:
        raise ValueError(f"--window_seconds {args.window_seconds:g} is {error}") from None


# ---------------------------------------------------------------- the run


def describe(network, sets: WaveSets.Sets, args, log, device):
    """Print what is trained on what."""
    for line in sets.notes:
        log.line(line)
    parameters, world = sum(p.numel() for p in network.parameters()), distributed.world_size()
    log.line(f"{args.model}: {parameters:,} parameters, windows of {sets.train.samples} samples, {args.encoding}")
    log.line(
        f"global batch: {args.batch_size * world * args.accumulate} windows on {world} process(es), {device}, "
        f"{'bfloat16 or float16' if args.mixedprec else 'float32'}; {len(sets.train.speakers)} speakers"
    )
    if sets.valid is None:
        log.line("no --valid_list: no checkpoint is chosen as best, the last one is the result")


def start_from(network, path: str, read: Callable, copy: Callable) -> str:
    """Take over what a file's weights have in common with a network; return a line that says so.

    Args:
        read: read(path) returns the weights; copy: copy(weights) returns how many it has taken.

    Raises:
        FileNotFoundError, ValueError: no such file; nothing in common, or something of another shape.
    """
    weights = read(path)
    try:
        count = copy(weights)
    except ValueError as error:
        raise ValueError(f"{path} cannot start this network: {error}") from None
    if not count:
        raise ValueError(f"{path} has nothing in common with this network")
    return f"{count} of {len(list(network.parameters()))} parameters are those of {path}"


def fit(
    state: State, freezer, loader, step, judge, sets: WaveSets.Sets, log, args, started: float, original: Callable,
    after: Callable | None = None, settle: Callable | None = None,
) -> int:  # fmt: skip
    """Train to the end and judge the chosen weights; return the exit code.

    Args:
        step: as in engine.loop.fit. started: time.time() of the start.
        judge: judge() returns {name: float} of the validation set by the weights in state.module, in evaluation mode.
        original: original(weights or None) returns what a file in the original layout holds.
        after: after() is called when a step is done; it must leave the run as it was.
        settle: settle() is the end of an optimiser step, before anything is stored.
    """

    def after_step(number):
        if settle:
            settle()
        if args.anneal_steps and number == args.max_steps - args.anneal_steps:
            checkpoint.save_run(state, args.save_path, also=(BEFORE_ANNEALING,))
        if args.original_files and args.save_steps and number % args.save_steps == 0:
            write_files(state, args, original)
        if after:
            after()

    def at_end():
        if args.original_files:
            write_files(state, args, original)

    return TrainingRun.fit(
        state, freezer, loader, step, judge if sets.valid else None, log, args, started, after_step=after_step,
        at_end=at_end,
    )  # fmt: skip


def original_payload(payload: dict, meta: dict, weights: dict | None = None) -> dict:
    """Return what a file in the original layout holds, of other `weights` of the same names where given, and meta."""
    if weights is not None:
        payload["state_dict"] = {name: weights[name].detach().cpu().contiguous() for name in payload["state_dict"]}
    return {**payload, "meta": meta}


def write_files(state: State, args, write_original: Callable):
    """Write model.pt, model_ema_RATE.pt and the log; write_original(weights or None) returns what a file holds."""
    if not distributed.is_main():
        return
    folder = Path(args.save_path)
    checkpoint.write(folder / "model.pt", write_original(None))
    for rate, weights in state.ema.items():
        checkpoint.write(folder / f"model_ema_{rate}.pt", write_original(weights))
    if (folder / "metrics.jsonl").is_file():
        with whole_file(folder / ORIGINAL_LOG) as file:
            file.write(original_log(plots.read_metrics(folder / "metrics.jsonl"), args.save_steps).encode())


def original_log(records: list[dict], save_steps: int) -> str:
    """Return the records of metrics.jsonl up to a save as the original's log: `step 12: loss=0.93286 q0=0.96154`.

    A line `# saved` follows each save; save_steps 0: the last one only.
    """
    lines = []
    for record in records:
        figures = [f"{name}={record[name]:.5f}" for name in LOGGED if record.get(name) is not None]
        if "loss" in record:
            lines.append(f"step {record['step']}: {' '.join(figures)}")
            if save_steps and record["step"] % save_steps == 0:
                lines.append("# saved")
    if lines and lines[-1] != "# saved":
        lines.append("# saved")
    return "\n".join(lines) + "\n"


def track(tracker, t: torch.Tensor, values: torch.Tensor):
    """Take the values (batch,) of times `t` over all ranks into a tracker."""
    both = distributed.rows_of_all(torch.stack([t.float(), values.detach().float()], 1))
    tracker.add(both[:, 0], both[:, 1])
