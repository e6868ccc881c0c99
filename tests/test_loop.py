"""The training loop on a toy problem, in this process: steps, skips, averages, checkpoints, stopping."""

import argparse
import json
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from engine import checkpoint, groups, loop, run
from engine.args import parse
from engine.interruption import INTERRUPTED
from engine.log import RunLog
from engine.state import seed_everything
from optimizer.adam import Optimizer as adam


class Batches:
    """The same batches of `size` in order every epoch, as the loop wants its batch_sampler."""

    def __init__(self, items, size):
        self.all = [list(range(i, i + size)) for i in range(0, items, size)]
        self.first = 0

    def set_epoch(self, epoch, first_batch=0):
        self.first = first_batch

    def __len__(self):
        return len(self.all)

    def __iter__(self):
        return iter(self.all[self.first :])


class Toy:
    """Linear regression by the loop: 32 points, batches of `size`."""

    def __init__(self, folder, size=4, bad_steps=(), scheduler=None, unit="epoch", evaluate=None, **flags):
        parser = argparse.ArgumentParser()
        parser.add_argument("--config"), parser.add_argument("--set", action="append", default=[])
        run.add_arguments(parser)
        self.args, _ = parse(parser, [])
        vars(self.args).update(
            {
                "save_path": str(folder),
                "batch_size": size,
                "mixedprec": False,
                "max_epoch": 2,
                "lr": 0.05,
                "log_interval": 3,
            },
            **flags,
        )
        seed_everything(0)
        self.module = torch.nn.Linear(3, 1)
        x = torch.randn(32, 3)
        y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3
        optimizer = adam(list(self.module.parameters()), self.args.lr)
        schedule = scheduler(optimizer) if scheduler else None
        card = {"class": "models.Toy", "kwargs": {}, "meta": {}}
        self.state = run.prepare(self.module, optimizer, self.args, torch.device("cpu"), schedule, unit, card)
        self.loader = DataLoader(TensorDataset(x, y), batch_sampler=Batches(32, size))
        self.log = RunLog(folder, tensorboard=False)
        self.bad_steps, self.evaluate, self.weights = bad_steps, evaluate, []

    def fit(self, **hooks):
        def step(batch):
            self.weights.append(self.module.weight.detach().clone())
            x, y = batch
            loss = (self.state.parallel(x) - y).square().mean()
            bad = self.state.step in self.bad_steps
            return (loss * float("nan") if bad else loss), {"accuracy": loss.detach() * 0}

        return loop.fit(self.state, self.loader, step, self.evaluate, self.log, self.args, **hooks)


def test_the_loss_falls_and_is_logged(tmp_path):
    toy = Toy(tmp_path, max_epoch=20)
    assert toy.fit() == 0
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["loss"] < 0.2 * entries[0]["loss"]
    assert entries[-1]["step"] == 160 and entries[-1]["samples"] == 640
    assert {"grad_norm", "lr", "utterances_per_second", "data_wait_percent"} <= set(entries[0])
    lines = (tmp_path / "result" / "scores.txt").read_text().splitlines()
    assert lines[0].startswith("Epoch 1, TLOSS ") and "LR 0.050000" in lines[0]


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path):
    toy = Toy(tmp_path, bad_steps=(3, 9))
    toy.fit()
    assert torch.equal(toy.weights[3], toy.weights[4]) and torch.equal(toy.weights[9], toy.weights[10])
    assert not torch.equal(toy.weights[4], toy.weights[5])
    assert toy.state.skipped_steps == 2 and torch.isfinite(toy.module.weight).all()
    moments = [m for entry in toy.state.optimizer.state_dict()["state"].values() for m in entry.values()]
    assert all(torch.isfinite(m).all() for m in moments)
    with pytest.raises(RuntimeError, match="2 steps had a loss or gradient that is not finite"):
        Toy(tmp_path / "b", bad_steps=(3, 4), max_skipped_steps=2).fit()


def test_accumulated_batches_equal_a_large_batch(tmp_path):
    large = Toy(tmp_path / "a", size=16)
    small = Toy(tmp_path / "b", size=4, accumulate=4)
    large.fit(), small.fit()
    assert large.state.step == small.state.step == 4 and large.state.samples == small.state.samples
    torch.testing.assert_close(large.module.weight, small.module.weight)


def test_clipping_bounds_the_step_of_plain_descent(tmp_path):
    toy = Toy(tmp_path, clip_grad=0.01, max_epoch=1)
    toy.state.optimizer = torch.optim.SGD(toy.module.parameters(), lr=1.0)
    toy.fit()
    moves = [(b - a).norm() for a, b in zip(toy.weights, toy.weights[1:])]
    assert max(moves) <= 0.01 + 1e-6 and min(moves) > 0


def test_averaged_weights_follow_their_formula_and_are_what_is_evaluated(tmp_path):
    seen = []
    toy = Toy(
        tmp_path,
        ema=0.5,
        max_epoch=1,
        evaluate=lambda: seen.append(toy.module.weight.detach().clone()) or {"veer": 1.0},
    )
    average = toy.module.weight.detach().clone()
    toy.fit()
    for number, weight in enumerate([*toy.weights[1:], toy.module.weight.detach()], 1):
        keep = min(0.5, (1 + number) / (10 + number))
        average = keep * average + (1 - keep) * weight
    torch.testing.assert_close(toy.state.ema[0.5]["weight"], average)
    torch.testing.assert_close(seen[0], average)
    assert not torch.equal(toy.module.weight, seen[0])
    weights, card = checkpoint.weights_of(checkpoint.read(tmp_path / "checkpoints" / "last.pt"))
    torch.testing.assert_close(weights["weight"], average)
    assert card["class"] == "models.Toy"


def test_best_is_chosen_old_checkpoints_go_and_training_stops_early(tmp_path):
    values = iter([5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
    toy = Toy(tmp_path, max_epoch=9, test_interval=1, keep_checkpoints=2, early_stop=3)
    toy.evaluate = lambda: {"choose": next(values)}
    toy.fit()
    assert toy.state.best == 3.0 and toy.state.epoch == 6
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step_32.pt", "step_40.pt"]
    assert checkpoint.read(tmp_path / "checkpoints" / "best.pt")["training"]["counters"]["step"] == 16
    again = Toy(tmp_path, max_epoch=9, test_interval=1, early_stop=3)
    assert run.resume(again.state, again.log, again.args) and again.fit() == 0
    assert again.state.epoch == 6 and again.weights == []


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_saves_and_the_run_goes_on_exactly(tmp_path, accumulate):
    whole = Toy(tmp_path / "a", ema=0.9, accumulate=accumulate)
    whole.fit()
    half = Toy(tmp_path / "b", ema=0.9, accumulate=accumulate)
    stop = lambda step: os.kill(os.getpid(), signal.SIGUSR1) if step == 5 else None  # noqa: E731
    assert half.fit(after_step=stop) == INTERRUPTED
    rest = Toy(tmp_path / "b", ema=0.9, accumulate=accumulate)
    assert run.resume(rest.state, rest.log, rest.args) and rest.state.step == 5
    assert rest.fit() == 0
    assert torch.equal(whole.module.weight, rest.module.weight)
    assert torch.equal(whole.state.ema[0.9]["weight"], rest.state.ema[0.9]["weight"])
    assert whole.state.samples == rest.state.samples


def test_steps_do_not_wait_for_the_device(tmp_path, monkeypatch):
    counts = {}

    def counting(name, method):
        def run(self, *args, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return method(self, *args, **kwargs)

        return run

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, counting(name, getattr(torch.Tensor, name)))
    totals = []
    for epochs in (1, 4):
        counts.clear()
        toy = Toy(tmp_path / str(epochs), max_epoch=epochs, log_interval=1000, ema=0.9, clip_grad=1.0)
        monkeypatch.setattr(checkpoint, "save_run", lambda *args, **kwargs: None)
        toy.fit()
        totals.append(sum(counts.values()))
    # what is read is read once an epoch, not once in each of its eight steps
    assert totals[1] - totals[0] <= 3 * 4


def test_options_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--sync_bn"):
        Toy(tmp_path, sync_bn=True)
    with pytest.raises(ValueError, match="fewer than --accumulate 9"):
        Toy(tmp_path, accumulate=9).fit()
    with pytest.raises(ValueError, match="stepped by 'epoch' or 'iteration'"):
        Toy(tmp_path, unit="sometimes")


def test_a_run_killed_in_its_last_evaluation_does_it_when_it_goes_on(tmp_path):
    class Killed(BaseException):
        pass

    def dies():
        raise Killed

    with pytest.raises(Killed):
        Toy(tmp_path, max_steps=5, evaluate=dies).fit()
    seen = []
    for _ in range(2):  # the second time there is nothing left to do
        again = Toy(tmp_path, max_steps=5, evaluate=lambda: seen.append(1) or {"choose": 1.0})
        assert run.resume(again.state, again.log, again.args) and again.state.step == 5
        assert again.fit() == 0 and again.weights == [] and len(seen) == 1
    assert (tmp_path / "checkpoints" / "best.pt").exists()


def test_the_state_is_stored_every_so_many_steps(tmp_path, monkeypatch):
    steps, save = [], checkpoint.save_run
    monkeypatch.setattr(checkpoint, "save_run", lambda s, *a, **k: steps.append(s.step) or save(s, *a, **k))
    Toy(tmp_path, max_epoch=1, save_steps=3).fit()
    assert steps == [3, 6, 8]


def test_evaluation_by_steps_happens_within_epochs_and_once_each(tmp_path):
    seen = []
    toy = Toy(tmp_path, test_interval_steps=3, keep_checkpoints=9, test_interval=1)
    toy.evaluate = lambda: seen.append(toy.state.step) or {"choose": abs(toy.state.step - 6)}
    toy.fit()  # two epochs of eight steps
    assert seen == [3, 6, 9, 12, 15, 16]
    assert (toy.state.best, toy.state.best_step, toy.state.evaluations_without_gain) == (0, 6, 4)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.pt", "last.pt", *(f"step_{step}.pt" for step in seen)}
    assert checkpoint.read(tmp_path / "checkpoints" / "best.pt")["training"]["counters"]["step"] == 6
    again = Toy(tmp_path / "b", test_interval_steps=3, early_stop=2, max_epoch=9)
    again.evaluate = lambda: {"choose": again.state.step}
    again.fit()
    assert again.state.step == 9 and "stopped early" in (tmp_path / "b/result/scores.txt").read_text()


def test_a_run_killed_in_an_evaluation_within_an_epoch_makes_it_again_and_ends_as_if_nothing_had_happened(tmp_path):
    class Killed(BaseException):
        pass

    whole = Toy(tmp_path / "a", test_interval_steps=3, evaluate=lambda: {"choose": 1.0})
    whole.fit()
    first = Toy(tmp_path / "b", test_interval_steps=3)

    def dies_at_six():
        if first.state.step == 6:
            raise Killed
        return {"choose": 1.0}

    first.evaluate = dies_at_six
    with pytest.raises(Killed):
        first.fit()
    seen = []
    rest = Toy(tmp_path / "b", test_interval_steps=3)
    rest.evaluate = lambda: seen.append(rest.state.step) or {"choose": 1.0}
    assert run.resume(rest.state, rest.log, rest.args) and rest.fit() == 0
    assert seen == [6, 9, 12, 15, 16] and torch.equal(whole.module.weight, rest.module.weight)
    assert whole.state.best_step == rest.state.best_step == 3


def test_a_part_thaws_at_its_step_and_a_resumed_run_knows_it(tmp_path):
    def frozen_for(steps, folder, **flags):
        toy = Toy(folder, max_epoch=1, **flags)
        freezer = groups.Freezer(toy.module, {"bias": steps})
        biases = []
        freeze = run.freezing(toy.state, freezer, toy.args)
        hook = lambda step: (freeze(step), biases.append(toy.module.bias.item()))  # noqa: E731
        run.resume(toy.state, toy.log, toy.args)
        assert toy.fit(before_step=hook) == 0
        return toy, biases

    toy, biases = frozen_for(5, tmp_path / "a")
    assert len(set(biases[:6])) == 1 and len(set(biases[5:])) == 3
    for steps in (2, 6):  # stopped while it is frozen, and afterwards
        frozen_for(5, tmp_path / str(steps), max_steps=steps)
        rest, _ = frozen_for(5, tmp_path / str(steps))
        assert torch.equal(toy.module.weight, rest.module.weight) and torch.equal(toy.module.bias, rest.module.bias)
