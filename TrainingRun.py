"""What the trainers of generative networks share: a run from its start or its checkpoint to its figures.
Entry points: prepare, fit, finish.
"""

from collections.abc import Callable
from pathlib import Path

from engine import checkpoint, distributed, groups, loop, run
from engine.interruption import Interruption
from engine.state import State
from scoring import plots


def prepare(
    net, args, device, batches: int, card: dict, trackers: dict, fixed: tuple[str, ...], log, start,
    ema_warm_up: bool = False,
) -> tuple[State, groups.Freezer]:  # fmt: skip
    """Return the State of a run, gone on from its checkpoint where there is one, and what freezes parts of the network.

    Args:
        batches: of an epoch. trackers, ema_warm_up: see State. fixed: see engine.run.resume.
        start: start() takes over the weights of --initial_model in a new run and returns a line.
    """
    optimizer = run.build_optimizer(net, args)
    freezer = groups.freezer_of(net, args.freeze)
    freezer.set_step(0)
    scheduler, unit = run.build_scheduler(optimizer, args, max(1, batches // args.accumulate))
    state = run.prepare(net, optimizer, args, device, scheduler, unit, card)
    state.ema_warm_up, state.trackers = ema_warm_up, trackers
    if not run.resume(state, log, args, fixed) and args.initial_model:
        log.line(start())
        run.restart_averages(state)
    log.record(args, card["meta"]["versions"])
    return state, freezer


def fit(
    state: State, freezer, loader, step, judge: Callable | None, log, args, started: float,
    before_step: Callable | None = None, after_step: Callable | None = None, at_end: Callable | None = None,
) -> int:  # fmt: skip
    """Train to the end and judge the chosen weights; return the exit code.

    Args:
        step: as in engine.loop.fit. started: time.time() of the start.
        judge: judge() returns {name: float} by the weights in state.module, in evaluation mode; rank 0 alone calls it.
            None: no checkpoint is chosen as best.
        before_step, after_step: as in engine.loop.fit.
        at_end: at_end() is called when the training is done, before the weights are chosen.
    """
    freezing = run.freezing(state, freezer, args)

    def evaluate():
        return distributed.gather_objects(judge() if distributed.is_main() else {})[0]

    def before(number):
        freezing(number)
        if before_step:
            before_step(number)

    try:
        code = loop.fit(
            state, loader, step, evaluate if judge else None, log, args, before_step=before, after_step=after_step
        )
    except loop.Diverged as error:
        run.end(state, args, started, "diverged", {}, str(error))
        raise
    if not code:
        with Interruption(saved=True):
            if at_end:
                at_end()
            figures = finish(state.module, judge, args, log) if distributed.is_main() else {}
            run.end(state, args, started, "done", figures)
            distributed.gather_objects(None)  # a rank that only waits hears signals too
    return code


def finish(module, judge: Callable | None, args, log) -> dict[str, float]:
    """Judge the chosen weights and draw the curves of the run; return what result.json holds."""
    folder, figures = Path(args.save_path), {}
    if judge:
        path = checkpoint.chosen(folder)
        weights, _ = checkpoint.weights_of(checkpoint.read(path), path)
        checkpoint.load_weights(module, weights, path)
        module.eval()
        figures = {name: value for name, value in judge().items() if name != "choose"}
        log.line(f"{path}: " + ", ".join(f"{name} {value:.5f}" for name, value in figures.items()))
    curves = folder / "result" / "training_curves.png"
    plots.training_curves(curves, folder / "metrics.jsonl")
    log.line(f"training curves {curves}")
    return figures
