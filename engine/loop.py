"""The training loop of every script, once: what happens in a step, in an epoch, at an interruption and at the end.
Entry point: fit(state, loader, step_fn, evaluate_fn, log, args); engine/run.py makes the State.
"""

import contextlib
import signal
import time

import torch
from tqdm import tqdm

from engine import checkpoint, distributed
from engine.interruption import INTERRUPTED, Interruption
from engine.log import RunLog, words
from engine.state import State, averaged_weights


class Diverged(RuntimeError):
    """Too many steps had a loss or gradient that is not finite."""


class Averages:
    """Running means of scalars, kept on the device: reading them is the only point that waits for it."""

    def __init__(self):
        self.total, self.count, self.names = None, 0, ()

    def add(self, values: dict[str, torch.Tensor]):
        """Add one step's scalars (tensors of one element)."""
        self.names = tuple(values)
        row = torch.stack([v.detach().float().reshape(()) for v in values.values()])
        self.total = row if self.total is None else self.total + row
        self.count += 1

    def read(self) -> dict[str, float]:
        """Return the means over all ranks."""
        if self.total is None:
            return {}
        total = distributed.sum_over_ranks(self.total.clone()) / (self.count * distributed.world_size())
        return dict(zip(self.names, total.tolist()))


class Interval:
    """What is averaged between two entries of the log: scalars of batches and of steps, waiting for data, samples."""

    def __init__(self, state: State):
        self.means, self.steps = Averages(), Averages()
        self.started, self.waited, self.samples = time.perf_counter(), 0.0, state.samples


def fit(state: State, loader, step_fn, evaluate_fn, log: RunLog, args, before_step=None, after_step=None) -> int:
    """Train until --max_epoch or --max_steps; return 0, or INTERRUPTED after a signal (everything is saved then).

    Args:
        loader: its batch_sampler has set_epoch(epoch, first_batch); its batches are tuples of tensors.
        step_fn: step_fn(batch) -> (loss, {name: one-element tensor}).
        evaluate_fn: evaluate_fn() -> {name: float}, run every --test_interval epochs, or every --test_interval_steps,
            and at the end; "choose", where present, decides which checkpoint is best (lower is better). None: no
            evaluation.
        before_step, after_step: plain functions of the step number; what they change must lie in the state or follow
            from the step.

    Raises:
        Diverged: --max_skipped_steps steps were not finite.
    """
    with Interruption() as interruption:

        def evaluate():
            also = () if evaluate_fn is None else _evaluate(state, evaluate_fn, log, args, interruption)
            state.evaluated = state.step  # after: a run killed within an evaluation makes it again
            return also

        while state.epoch <= args.max_epoch and not (_is_done(state, args) or _stops_early(state, args)):
            caught = _train_epoch(state, loader, step_fn, log, args, before_step, after_step, interruption, evaluate)
            if not caught:
                complete = state.batch >= _usable_batches(loader, args)
                _finish_epoch(state, evaluate, log, args, complete)
                caught = interruption.compare_now()
            if caught:
                checkpoint.save_run(state, args.save_path)
                name = signal.Signals(caught).name
                log.say(
                    f"{name}: saved at epoch {state.epoch}, batch {state.batch}; the same command goes on from there"
                )
                log.close()
                return INTERRUPTED
    if _stops_early(state, args):
        log.line(f"stopped early: {state.evaluations_without_gain} evaluations without a better one")
    log.close()
    return 0


def _reached_max_steps(state, args):
    return bool(args.max_steps) and state.step >= args.max_steps


def _is_done(state, args):
    # a run killed in its last evaluation has reached its steps, but has not finished there
    return _reached_max_steps(state, args) and state.finished == state.step


def _stops_early(state, args):
    return bool(args.early_stop) and state.evaluations_without_gain >= args.early_stop


def _usable_batches(loader, args):
    # A last incomplete group of accumulated batches is left out: its step would weigh less than the others.
    return len(loader.batch_sampler) // args.accumulate * args.accumulate


def _due_by_steps(state, args):
    """Tell whether --test_interval_steps asks for an evaluation at this step, which has not been made yet."""
    interval = args.test_interval_steps
    return interval > 0 and state.step > 0 and state.step % interval == 0 and state.evaluated != state.step


def _train_epoch(state, loader, step_fn, log, args, before_step, after_step, interruption, evaluate) -> int:
    """Train from the state's batch to the end of the epoch; return the number of a signal caught on the way, or 0."""
    state.module.train()
    loader.batch_sampler.set_epoch(state.epoch, state.batch)
    total = _usable_batches(loader, args)
    if total == 0:
        raise ValueError(f"an epoch has {len(loader.batch_sampler)} batches, fewer than --accumulate {args.accumulate}")
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    epoch_means, interval = Averages(), Interval(state)
    last_saved = time.monotonic()
    bar = tqdm(
        total=total,
        initial=state.batch,
        desc=f"epoch {state.epoch}",
        unit="batch",
        disable=None if log.writes else True,
        leave=False,
    )
    source = _batches(loader) if state.batch < total and not _reached_max_steps(state, args) else None
    while state.batch < total and not (_reached_max_steps(state, args) or _stops_early(state, args)):
        if _due_by_steps(state, args) and state.batch % args.accumulate == 0:
            also = evaluate()
            _save(state, args, also)
            state.module.train()
            caught, interval, last_saved = interruption.compare_now(), Interval(state), time.monotonic()
            if caught:
                bar.close()
                return caught
            continue  # the evaluation may have been the last before an early stop
        asked = time.perf_counter()
        batch = tuple(t.to(state.device, non_blocking=True) for t in next(source))
        interval.waited += time.perf_counter() - asked
        if state.batch % args.accumulate == 0 and before_step is not None:
            before_step(state.step)
        state.batch += 1
        complete = state.batch % args.accumulate == 0
        loss, scalars = _backward(state, step_fn, batch, args, complete)
        state.samples += batch[0].shape[0] * getattr(args, "nPerSpeaker", 1) * distributed.world_size()
        epoch_means.add({"loss": loss, **scalars})
        interval.means.add({"loss": loss, **scalars})
        bar.update()
        if not complete:
            continue
        interval.steps.add(dict(zip(("grad_norm", "skipped_steps"), _update(state, parameters, args.clip_grad))))
        state.step += 1
        state.update_ema()
        if state.scheduler is not None and state.scheduler_unit == "iteration":
            state.scheduler.step()
        if after_step is not None:
            after_step(state.step)
        caught, due = interruption.compare(time.monotonic() - last_saved > 60 * args.save_minutes)
        due = due or (args.save_steps > 0 and state.step % args.save_steps == 0)
        ends = state.batch == total or caught or _due_by_steps(state, args) or _reached_max_steps(state, args)
        if interval.steps.count == args.log_interval or ends or due:
            _log_interval(state, interval, log, args, bar)
            interval = Interval(state)
        if due and not caught and state.batch < total:
            checkpoint.save_run(state, args.save_path)
            last_saved = time.monotonic()
        if caught:
            bar.close()
            return caught
    bar.close()
    line = words({**epoch_means.read(), "lr": state.optimizer.param_groups[0]["lr"]})
    log.line(f"Epoch {state.epoch}, {line}")
    return 0


def _batches(loader):
    """Yield the loader's batches, and leave torch's generator as it was.

    A loader draws a seed for its processes from it when its first batch is asked for. A run resumed within an epoch
    asks once more than one that was never stopped, and would go on with other random numbers.
    """
    source = None
    while True:
        with torch.random.fork_rng(devices=[]):
            source = iter(loader) if source is None else source
            batch = next(source)
        yield batch


def _backward(state, step_fn, batch, args, complete):
    """Run forward and backward of one batch, in parts of --microbatch rows; return its loss and scalars.

    A part weighs as many rows as it has, so that losses that are means over rows give the gradients of the whole.
    Ranks exchange gradients with the last part of a step only.
    """
    rows, size = len(batch[0]), getattr(args, "microbatch", 0) or len(batch[0])
    done = []
    for start in range(0, rows, size):
        part = batch if size >= rows else tuple(tensor[start : start + size] for tensor in batch)
        share = len(part[0]) / rows
        waits = not (complete and start + size >= rows) and hasattr(state.parallel, "no_sync")
        with state.parallel.no_sync() if waits else contextlib.nullcontext():
            with torch.autocast(
                state.device.type, state.autocast or torch.bfloat16, enabled=state.autocast is not None
            ):
                loss, scalars = step_fn(part)
            scaled = loss if state.scaler is None else state.scaler.scale(loss)
            (share * scaled / args.accumulate).backward()
        done.append((share, {"loss": loss.detach(), **scalars}))
    if len(done) == 1:
        return loss, scalars
    means = {name: sum(share * values[name] for share, values in done) for name in done[0][1]}
    return means.pop("loss"), means


def _update(state, parameters, clip_grad):
    """Apply the gradients unless they are not finite, decided on the device; return their norm and 1 where skipped."""
    optimizer = state.optimizer
    if state.scaler is not None:
        state.scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_grad > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_grad, norm)
    bad = (~torch.isfinite(norm)).float()
    if state.scaler is not None:
        state.scaler.step(optimizer)
        state.scaler.update()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        # The fused kernels read this flag themselves and leave weights and moments alone where it is 1.
        optimizer.grad_scale, optimizer.found_inf = None, bad
        optimizer.step()
        optimizer.found_inf = None
    elif state.device.type == "cpu":
        if not bad:
            optimizer.step()
    else:
        # Without a fused kernel, and without waiting for the device: such a step moves by its momentum only.
        for p in parameters:
            if p.grad is not None:
                p.grad = torch.where(bad.bool(), 0.0, p.grad)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, bad


def _log_interval(state, interval, log, args, bar):
    """Read the averages since the last call, the one point where the host waits for the device, and log them."""
    seconds = time.perf_counter() - interval.started
    steps = interval.steps.read()
    skipped = round(steps["skipped_steps"] * interval.steps.count)
    state.skipped_steps += skipped
    values = {
        **interval.means.read(),
        "grad_norm": steps["grad_norm"],
        "lr": state.optimizer.param_groups[0]["lr"],
        "utterances_per_second": (state.samples - interval.samples) / seconds,
        "data_wait_percent": 100 * interval.waited / seconds,
        "skipped_steps": state.skipped_steps,
    }
    for prefix, tracker in state.trackers.items():
        values |= tracker.named_means(prefix)
    log.scalars(state.step, state.epoch, state.samples, values)
    if skipped:
        log.line(f"step {state.step}: {skipped} of {interval.steps.count} steps skipped, loss or gradient not finite")
    if state.skipped_steps >= args.max_skipped_steps > 0:
        raise Diverged(
            f"{state.skipped_steps} steps had a loss or gradient that is not finite (at step {state.step}); the last "
            f"good state is in {args.save_path}/checkpoints; try a smaller --lr, --clip_grad 5, or no --mixedprec"
        )
    if values["data_wait_percent"] > 20 and state.step > interval.steps.count and hasattr(args, "nDataLoaderThread"):
        log.advise("advice: over 20 % of the time is waiting for data: raise --nDataLoaderThread or use a faster disk")
    memory = f", {torch.cuda.max_memory_allocated(state.device) / 2**30:.1f} GiB" if state.device.type == "cuda" else ""
    bar.set_postfix_str(
        f"loss {values['loss']:.3f}, {values['utterances_per_second']:.0f} utt/s, "
        f"data wait {values['data_wait_percent']:.0f} %{memory}",
        refresh=False,
    )


def _evaluate(state, evaluate_fn, log, args, interruption) -> tuple[str, ...]:
    """Evaluate, note whether it is the best so far, step a schedule that waits for it; return the names to save under.

    The state is stored before: an evaluation that fails or is killed costs no training.
    """
    checkpoint.save_run(state, args.save_path)
    state.module.eval()
    with averaged_weights(state), interruption.all_saved():
        scores = evaluate_fn()
    log.scalars(state.step, state.epoch, state.samples, scores)
    log.line(f"Epoch {state.epoch}, {words(scores)}")
    names = (f"step_{state.step}.pt",)
    if "choose" not in scores:
        return names
    if getattr(state.scheduler, "needs_metric", False):
        state.scheduler.step(scores["choose"])
    if state.best is not None and not scores["choose"] < state.best:
        state.evaluations_without_gain += 1
        return names
    state.best, state.best_step, state.evaluations_without_gain = scores["choose"], state.step, 0
    return (checkpoint.BEST, *names)


def _finish_epoch(state, evaluate, log, args, complete):
    """Evaluate where it is due, step an epoch scheduler, and store the state."""
    last = state.epoch >= args.max_epoch or _reached_max_steps(state, args)
    by_epochs = not args.test_interval_steps and complete and state.epoch % args.test_interval == 0
    due = (last and state.evaluated != state.step) or by_epochs or _due_by_steps(state, args)
    also = evaluate() if due else ()
    stepped = state.scheduler is not None and state.scheduler_unit == "epoch" and complete
    if stepped and not getattr(state.scheduler, "needs_metric", False):
        state.scheduler.step()
    state.finished = state.step
    if complete:
        state.epoch, state.batch = state.epoch + 1, 0
    _save(state, args, also)


def _save(state, args, also):
    checkpoint.save_run(state, args.save_path, also=also)
    if distributed.is_main():
        checkpoint.prune(args.save_path, args.keep_checkpoints)
