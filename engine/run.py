"""How a training run begins: the flags every trainer has, its State in the asked precision, going on from a checkpoint.
Entry points: add_arguments(parser), build_optimizer, build_scheduler, prepare, resume, end.
"""

import argparse
import time

import torch

from engine import checkpoint, distributed, groups, registry, result
from engine.args import add_bool, short
from engine.log import RunLog
from engine.state import State

# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "seed": (0, 2**63 - 1), "max_epoch": (1, None), "max_steps": (0, None), "accumulate": (1, None), "lr": (0, None),
    "warmup_steps": (0, None), "anneal_steps": (0, None), "lr_decay": (0, 1),
    "weight_decay": (0, None), "warmup_epochs": (0, None), "final_lr": (0, None),
    "final_lr_ratio": (0, None), "initial_lr": (0, None), "base_lr": (0, None), "cycles": (1, None),
    "hold_steps": (0, None), "decay_steps": (1, None), "decay_rate": (0, 1), "decay_power": (0, None),
    "half_period_steps": (0, None), "plateau_patience": (0, None), "momentum": (0, 1), "clip_grad": (0, None),
    "test_interval": (1, None), "test_interval_steps": (0, None), "log_interval": (1, None),
    "max_skipped_steps": (0, None), "save_minutes": (0, None), "save_steps": (0, None), "keep_checkpoints": (0, None),
    "early_stop": (0, None),
}  # fmt: skip
# Flags that only optimizers and schedulers read: see engine.registry.check_taken.
CLASS_FLAGS = (
    "lr_decay", "warmup_epochs", "final_lr", "warm_from_zero", "lr_scale_by_batch", "plateau_patience", "momentum",
    "nesterov", "decoupled_weight_decay", "final_lr_ratio", "initial_lr", "tri_stage_ratios", "cycles",
    "half_period_steps", "base_lr", "warmup_steps", "anneal_steps", "anneal_shape",
    "hold_steps", "decay_steps", "decay_rate", "decay_power", "amsgrad", "betas",
)  # fmt: skip


def add_arguments(parser):
    """Add the flags of the loop, the optimizer and the scheduler."""
    training = parser.add_argument_group("optimizer and scheduler")
    training.add_argument("--optimizer", default="adam", help=f"one of: {', '.join(registry.names('optimizer'))}")
    training.add_argument("--scheduler", default="steplr", help=f"one of: {', '.join(registry.names('scheduler'))}")
    training.add_argument("--lr", type=float, default=0.001, help="learning rate")
    training.add_argument(
        "--lr_decay",
        type=float,
        default=0.95,
        help="steplr, plateau, reduce_on_plateau: factor on the rate, for steplr every --test_interval epochs",
    )
    training.add_argument("--weight_decay", type=float, default=0.0, help="weight decay")
    training.add_argument("--warmup_epochs", type=float, default=0.0, help="cosine, exponential: epochs of warm-up")
    training.add_argument(
        "--final_lr",
        type=float,
        default=None,
        help="cosine, exponential: last learning rate (default: lr / 1000); exp_decay, tri_stage (default: "
        "5e-6); hold_exponential, hold_inverse_power (default: 1e-5)",
    )
    training.add_argument(
        "--final_lr_ratio", type=float, default=None, help="exp_decay, tri_stage: last rate as a share of --lr"
    )
    training.add_argument("--initial_lr", type=float, default=5e-6, help="tri_stage: learning rate of step 0")
    training.add_argument(
        "--tri_stage_ratios",
        type=float,
        nargs="+",
        default=[0.1, 0.4, 0.5],
        help="tri_stage: shares of warm-up, constant rate and decay in the steps of the run",
    )
    training.add_argument("--cycles", type=int, default=4, help="cyclic: cycles in the run, each peak half the last")
    training.add_argument(
        "--half_period_steps",
        "--step_size_up",
        type=int,
        default=0,
        help="cyclic: optimiser steps from the lowest rate to the peak (0: from --cycles)",
    )
    training.add_argument("--base_lr", type=float, default=1e-8, help="cyclic: lowest learning rate")
    training.add_argument(
        "--warmup_steps",
        type=int,
        default=0,
        help="optimiser steps of a rise in a straight line, for anneal from zero, hold_* from the lowest rate",
    )
    hold = "hold_exponential, hold_inverse_power"
    training.add_argument("--hold_steps", type=int, default=0, help=f"{hold}: steps before the fall, warm-up and all")
    training.add_argument("--decay_steps", type=int, default=8000, help="hold_exponential: steps of a --decay_rate")
    training.add_argument(
        "--decay_rate", type=float, default=0.5, help="hold_exponential: factor on the rate each --decay_steps"
    )
    training.add_argument("--decay_power", type=float, default=0.5, help="hold_inverse_power: rate as step^-power")
    training.add_argument(
        "--anneal_steps",
        type=int,
        default=0,
        help="anneal: last steps of the run, in which the rate falls to 0",
    )
    training.add_argument("--anneal_shape", choices=("linear", "cosine"), default="linear", help="anneal: how it falls")
    groups.add_arguments(training)
    add_bool(training, "--warm_from_zero", default=True, help="cosine, exponential: warm up from zero")
    add_bool(training, "--lr_scale_by_batch", help="cosine, exponential: multiply the rates by global batch / 64")
    training.add_argument(
        "--plateau_patience",
        type=int,
        default=2,
        help="plateau, reduce_on_plateau: evaluations without gain that it bears",
    )
    training.add_argument("--momentum", type=float, default=0.9, help="sgd: momentum")
    add_bool(training, "--nesterov", help="sgd: Nesterov's momentum")
    training.add_argument(
        "--betas", type=float, nargs=2, default=[0.9, 0.999], help="adam, radam: share of the averages kept per step"
    )
    add_bool(training, "--amsgrad", help="adam: divide by the largest average so far (AMSGrad)")
    add_bool(training, "--decoupled_weight_decay", help="radam: weight decay apart from the gradient, as in adamw")
    group = parser.add_argument_group("training loop")
    group.add_argument("--seed", type=int, default=10, help="seed of everything drawn at random")
    group.add_argument("--max_epoch", type=int, default=500, help="last epoch")
    group.add_argument(
        "--max_steps", type=int, default=0, help="stop after so many optimiser steps (0: --max_epoch alone)"
    )
    group.add_argument("--accumulate", type=int, default=1, help="batches per optimiser step")
    group.add_argument("--clip_grad", type=float, default=0.0, help="largest L2 norm of the gradient (0: not clipped)")
    group.add_argument(
        "--ema",
        "--ema_rate",
        type=ema_rates,
        default="0",
        metavar="RATE[,RATE...]",
        help="share of the averaged weights kept per step, e.g. 0.999; an average for each of several rates; "
        "evaluation then uses the last one (0: none)",
    )
    group.add_argument(
        "--test_interval",
        "--val_interval",
        type=int,
        default=10,
        help="epochs between evaluations; also the step of steplr",
    )
    group.add_argument(
        "--test_interval_steps",
        type=int,
        default=0,
        help="evaluate every so many optimiser steps instead, within epochs too (0: by epochs)",
    )
    group.add_argument(
        "--log_interval",
        type=int,
        default=50,
        help="optimiser steps between two entries of metrics.jsonl and TensorBoard",
    )
    group.add_argument(
        "--max_skipped_steps",
        type=int,
        default=100,
        help="stop when so many steps had a loss or gradient that is not finite",
    )
    group.add_argument(
        "--save_minutes",
        type=float,
        default=15,
        help="store the state within an epoch when so many minutes have passed",
    )
    group.add_argument(
        "--save_steps",
        "--save_interval",
        type=int,
        default=0,
        help="store the state every so many optimiser steps too (0: not)",
    )
    group.add_argument(
        "--keep_checkpoints", type=int, default=3, help="step_N.pt files kept beside best.pt and last.pt"
    )
    group.add_argument(
        "--early_stop", type=int, default=0, help="stop after so many evaluations without a better one (0: never)"
    )
    group.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: go on from the newest checkpoint of --save_path; never: refuse a folder that holds one",
    )
    add_bool(
        group,
        "--reset_lr",
        help="a resumed run takes --lr and --weight_decay as they are given now, not as they were when it began",
    )
    add_bool(group, "--compile", help="torch.compile the network (minutes at the start, faster steps)")
    add_bool(
        group, "--channels_last", help="store images channels last, which 2-d networks on a GPU or in bfloat16 prefer"
    )
    add_bool(group, "--sync_bn", help="BatchNorm statistics over all ranks (CUDA)")


def ema_rates(text: str) -> str:
    """Check the rates of --ema, numbers in [0, 1) with commas between them, and return them as they are."""
    words = str(text).split(",")
    try:
        rates = [float(word) for word in words]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{short(text)} is no rate: write 0.999, or 0.99,0.9999") from None
    wrong = [word for word, rate in zip(words, rates) if not 0 <= rate < 1]
    if wrong:
        raise argparse.ArgumentTypeError(f"--ema {wrong[0]}: must be at least 0 and below 1")
    if len(set(rates)) < len(rates):
        raise argparse.ArgumentTypeError(f"--ema {short(text)}: a rate stands there twice")
    return str(text)


def rates_of(args) -> list[float]:
    """Return the rates of the averages that --ema asks for."""
    return [rate for rate in map(float, str(args.ema).split(",")) if rate > 0]


def build_optimizer(module, args):
    """Return the --optimizer of a module's parameters, parts of it at rates of their own."""
    parameters = groups.parameter_groups(module, args.lr_groups, args.lr)
    return registry.build(registry.load("optimizer", args.optimizer), vars(args), parameters)


def build_scheduler(optimizer, args, steps_per_epoch: int):
    """Return the --scheduler and by what it is stepped, "epoch" or "iteration"."""
    schedule = {
        "steps_per_epoch": steps_per_epoch,
        "total_steps": args.max_steps or args.max_epoch * steps_per_epoch,
        "global_batch": samples_per_step(args),
    }
    return registry.build(registry.load("scheduler", args.scheduler), {**vars(args), **schedule}, optimizer)


def prepare(module, optimizer, args, device, scheduler=None, scheduler_unit="epoch", card=None) -> State:
    """Return the State of a new run: precision, memory format, wrapping for several ranks, averages.

    `module` must already be on `device`.

    Raises:
        ValueError: options that do not go together.
    """
    if scheduler_unit not in ("epoch", "iteration"):
        raise ValueError(f"a scheduler is stepped by 'epoch' or 'iteration', not by {scheduler_unit!r}")
    if args.sync_bn and (device.type != "cuda" or not distributed.is_distributed()):
        raise ValueError("--sync_bn works over several CUDA processes only")
    autocast = scaler = None
    if args.mixedprec:
        autocast = torch.bfloat16
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            autocast, scaler = torch.float16, torch.amp.GradScaler("cuda")
    if device.type == "cuda":
        # TensorFloat-32 for float32 products: three times the speed at about three digits (stated in the log)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    if args.sync_bn:
        module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    state = State(
        module,
        wrapped(module, device, args),
        optimizer,
        scheduler,
        scheduler_unit,
        device,
        autocast,
        scaler,
        card=card or {},
    )
    state.start_ema(rates_of(args))
    return state


def wrapped(module, device, args):
    """Return the module as training calls it: over several ranks, compiled."""
    parallel = distributed.wrap(module, device)
    return torch.compile(parallel) if args.compile else parallel


def freezing(state: State, freezer: groups.Freezer, args):
    """Return before_step(step) for the loop: it freezes and thaws, and lets ranks exchange the gradients there are."""

    def before_step(step):
        if freezer.set_step(step):
            state.parallel = None  # the old wrapper takes its hooks off the parameters before the new one puts its on
            state.parallel = wrapped(state.module, state.device, args)

    return before_step


def restart_averages(state: State):
    """Begin the averages at the weights as they are now (after --initial_model)."""
    state.start_ema(list(state.ema))


def samples_per_step(args) -> int:
    """Return the utterances of one optimiser step over all ranks."""
    return args.batch_size * getattr(args, "nPerSpeaker", 1) * args.accumulate * distributed.world_size()


def resume(state: State, log: RunLog, args, fixed: tuple[str, ...] = ()) -> bool:
    """Put the newest checkpoint of the run folder into `state`; return whether there was one.

    Rank 0 reads it for all, which might each see another state of a shared folder; it also clears up after killed runs.

    Args:
        fixed: names in the card's meta that must be those of the checkpoint.

    Raises:
        ValueError: --resume never and the folder holds checkpoints, or the checkpoint is of another network.
    """
    if distributed.is_main():
        checkpoint.remove_unfinished(args.save_path)
    found = distributed.from_main(lambda: checkpoint.newest(args.save_path))
    if found is None:
        return False
    path, payload = found
    if args.resume == "never":
        raise ValueError(f"--resume never: {args.save_path} already holds {path.name}; choose another --save_path")
    if payload["class"] != state.card["class"]:
        raise ValueError(
            f"{path} is of {payload['class']}, this run is of {state.card['class']}; choose another --save_path"
        )
    check_fixed(state.card["meta"], payload["meta"], fixed, path)
    checkpoint.load_weights(state.module, payload["state_dict"], path, keep_head=True)
    own = [dict(group) for group in state.optimizer.param_groups]
    state.restore(payload["training"], args.seed)
    choose_rates(state, own, args, log)
    log.rewind(state.step)
    log.say(f"resumed from {path}: epoch {state.epoch}, batch {state.batch}, step {state.step}")
    if payload["training"]["world_size"] != distributed.world_size():
        if hasattr(state.scheduler, "set_step"):
            # the learning rate follows the samples seen, whatever the number of processes
            state.scheduler.set_step(state.samples / samples_per_step(args))
        log.say(
            "note: the number of processes changed, so the random draws of the network differ from an uninterrupted run"
        )
    return True


def check_fixed(own: dict, stored: dict, names: tuple[str, ...], path):
    """Refuse to go on with a run whose meta differs in one of `names` (a ValueError says in which)."""
    for name in names:
        if own[name] != stored.get(name):
            raise ValueError(
                f"{path} was trained with {name} {short(stored.get(name))}, this command says {short(own[name])}; "
                "choose another --save_path"
            )


def choose_rates(state: State, own: list[dict], args, log: RunLog):
    """Take learning rate and weight decay from `own`, the parameter groups of this command, with --reset_lr.

    Otherwise those of the checkpoint hold, and a line says so where they differ.

    Raises:
        ValueError: --reset_lr with a scheduler whose rates are no function of the step.
    """
    changed = False
    for group, mine in zip(state.optimizer.param_groups, own):
        for name, key in (("lr", "initial_lr" if "initial_lr" in group else "lr"), ("weight_decay", "weight_decay")):
            if key not in group or group[key] == mine[key]:
                continue
            changed = True
            if args.reset_lr:
                log.say(f"--reset_lr: {name} {mine[key]:g} instead of {group[key]:g} from here on")
                group[key] = mine[key]
            else:
                log.say(f"note: {name} stays {group[key]:g}; --reset_lr takes {mine[key]:g}")
    if not (args.reset_lr and changed):
        return
    if not hasattr(state.scheduler, "set_step"):
        raise ValueError(f"--reset_lr needs a scheduler that follows the step, e.g. anneal, not {args.scheduler}")
    state.scheduler.base_lrs = [group["initial_lr"] for group in state.optimizer.param_groups]
    state.scheduler.set_step(state.scheduler.last_epoch)


def end(state: State, args, started: float, status: str, metrics: dict[str, float], error: str | None = None):
    """Write result.json of a run that began at the time.time() `started`, on rank 0; see engine.result.write."""
    if distributed.is_main():
        result.write(
            args.save_path, status, metrics, error, tag=args.tag, step=state.step, best_step=state.best_step,
            max_steps=args.max_steps, seconds=round(time.time() - started, 1),
            revision=state.card["meta"]["versions"]["revision"],
        )  # fmt: skip
