"""Measure a diffusion model's loss on speech: by time, against shuffled conditions, as a bound in bits per sample.

    python eval_diffusion.py exps/diffusion/checkpoints/best.pt data/dev-clean --num_windows 500

Time and noise of a window follow from (--seed, its number) alone, so that two models are measured on the same. Flags
may be written with hyphens too, as --batch-size.
"""

import os
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch

import DiffusionNet
import SampleConditions
import WaveEvaluation
from diffusion import bound, objective, schedules
from engine import distributed
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import run_main

WORDS = {
    "true": "loss", "shuffled": "loss with label and vector of another speaker",
    "none": "loss without label and vector",
    "worse_shuffled": "which is worse by", "worse_none": "which is worse by",
    "bits": "variational bound in bits per 16-bit sample",
}  # fmt: skip


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    WaveEvaluation.add_arguments(parser, "diffusion model")
    parser.add_argument(
        "--cond_embeddings", nargs="+", default=[], metavar="FILE.npz", help="tables with a vector per utterance"
    )
    add_bool(parser, "--bits", help="the variational bound too, in bits per 16-bit sample: a second pass")
    return parser


def main(argv=None):
    """Read the flags and run on as many processes as they say."""
    args, _ = parse(make_flags(), argv)
    check_ranges(args, WaveEvaluation.RANGES)
    return distributed.launch(evaluate, args)


def evaluate(args):
    """Measure as one process or one rank of several; rank 0 prints and keeps the figures."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    net, card = DiffusionNet.load(args.checkpoint_path, device, args.ema, args.noise_schedule)
    data, windows, length = WaveEvaluation.read(args, card, net.rate, say)
    conditions = conditions_of(args, net, card["meta"], data, windows)
    found = WaveEvaluation.measure(data, windows, partial(of_batch, net, conditions, args), args, device)
    if not distributed.is_main():
        return
    report = WaveEvaluation.figures(found, ("true", "shuffled", "none"), args.buckets)
    if args.bits:
        losses, power = torch.from_numpy(found["bound"]), torch.from_numpy(found["power"])
        report["bits"] = WaveEvaluation.mean_of(bound.bits_per_sample(losses, power, net.schedule).numpy())
    print(f"{len(windows)} of {len(data)} windows of {length} samples, target {net.target}, noise of seed {args.seed}")
    WaveEvaluation.print_table(report, WORDS)
    WaveEvaluation.write_report(args, {"windows": len(windows), "length": length, "target": net.target}, report)


# ---------------------------------------------------------------- conditions


def conditions_of(args, net, meta: dict, data, windows: list[int]) -> dict[str, tuple]:
    """Return {"true", "shuffled", "none": (labels (windows,), vectors (windows, dim))}, each None where not taken.

    Shuffled are the label and vector of another window, of another speaker where there is one. None is measured where
    the model was trained to do without.

    Raises:
        ValueError: speakers that the model does not know, or vectors that are missing or superfluous.
    """
    if net.cond_dim is None and args.cond_embeddings:
        raise ValueError(f"{args.checkpoint_path} was trained without vectors: leave out --cond_embeddings")
    if net.cond_dim is not None and not args.cond_embeddings:
        raise ValueError(f"{args.checkpoint_path} was trained with vectors: give --cond_embeddings")
    who, labels, vectors = data.labels[windows], None, None
    if net.speakers is not None:
        labels = torch.from_numpy(WaveEvaluation.labels_among(meta.get("speakers"), net.speakers, data.speakers)[who])
    if net.cond_dim is not None:
        table = SampleConditions.read_tables(args.cond_embeddings)(data.names())
        utterances = data.windows.locate(windows)[0] if hasattr(data, "windows") else np.array(windows)
        vectors = table[torch.from_numpy(utterances)]
    if labels is None and vectors is None:
        return {"true": (None, None)}
    kinds, other = {"true": (labels, vectors)}, WaveEvaluation.speaker_rows(who, args.seed)
    if other is not None:
        kinds["shuffled"] = tuple(None if values is None else values[other] for values in (labels, vectors))
    if net.cond_dropout > 0:
        kinds["none"] = (None, None)
    return kinds


# ---------------------------------------------------------------- measuring


def of_batch(net, conditions: dict[str, tuple], args, numbers: list[int], x0, t, eps) -> dict[str, torch.Tensor]:
    """Return the loss of each window (batch,) with each of `conditions` and, of --bits, the squared error of the noise
    at a time of the bound, `bound`, and the mean square of the clean window, `power`."""
    given = {kind: [g if g is None else g[numbers] for g in both] for kind, both in conditions.items()}
    values = {kind: losses(net, x0, t, eps, own, net.target, args) for kind, own in given.items()}
    if args.bits:
        values["bound"] = losses(net, x0, bound.bound_times(t, net.schedule), eps, given["true"], "eps", args)
        values["power"] = x0.double().square().mean((1, 2))
    return values


def losses(net, x0, t, eps, given, target: str, args) -> torch.Tensor:
    """Return the squared error of each window (batch,) float64, at times `t`, of the noise or of the model's target."""
    label, vector = given
    with torch.autocast(x0.device.type, dtype=torch.bfloat16, enabled=args.mixedprec):
        noise = DiffusionNet.predict(net, label, vector)

        def predict(x, times):
            answer = noise(x, times).to(x.dtype)
            if target == "eps":
                return answer
            signal = schedules.alpha_bar(net.schedule, times.double())
            return objective.to_target(objective.eps_to_x0(x, answer, signal), answer, signal, target)

        return objective.losses(predict, x0, t.to(x0.device, torch.float32), eps, net.schedule, target).double()


if __name__ == "__main__":
    run_main(main)
