"""Measure what a VQ-VAE's labels and codes are worth on speech: its loss with them, with others', and without codes.

    python eval_vqvae.py exps/vqvae/checkpoints/best.pt data/dev-clean --num_windows 500

Time and noise of a window follow from (--seed, its number) alone, so that two models are measured on the same. A voice
is in the labels where others' make the loss worse, speech is in the codes where it is worse without. Flags may be
written with hyphens too, as --batch-size.
"""

import os
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import torch

import Resynthesis
import VQVAENet
import WaveEvaluation
import WaveSampling
from diffusion import objective
from engine import distributed
from engine.args import check_ranges, make_parser, parse
from engine.log import run_main
from models.blocks import vq

WORDS = {
    "true": "loss", "shuffled": "loss with labels of other speakers", "none": "loss without labels",
    "no_codes": "loss without codes", "worse_shuffled": "  worse by", "worse_none": "  worse by",
    "worse_no_codes": "  worse by", "latents": "distance of latents to codes",
}  # fmt: skip


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    WaveEvaluation.add_arguments(parser, "VQ-VAE")
    Resynthesis.add_none_label(parser)
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
    net, card, _, _ = Resynthesis.load(args, device, say)
    data, windows, length = WaveEvaluation.read(args, card, net.rate, say)
    labels = labels_of(net, card["meta"], data, windows, args.seed)
    found = WaveEvaluation.measure(data, windows, partial(of_batch, net, labels, args), args, device)
    if not distributed.is_main():
        return
    report = WaveEvaluation.figures(found, (*labels, "no_codes"), args.buckets)
    report["latents"] = WaveEvaluation.mean_of(found["latents"])
    print(f"{len(windows)} of {len(data)} windows of {length} samples, noise of seed {args.seed}")
    WaveEvaluation.print_table(report, WORDS)
    usage = usage_of(torch.from_numpy(found["codes"]), len(net.vq.dictionary))
    print("codes: {used} of {dictionary} used, perplexity {perplexity:.1f}, of {positions} positions".format(**usage))
    WaveEvaluation.write_report(args, {"windows": len(windows), "length": length}, {**report, "codes": usage})


def labels_of(net, meta: dict, data, windows: list[int], seed: int) -> dict[str, torch.Tensor | None]:
    """Return {"true", "shuffled", "none": labels (windows,) or None for none}, "true" alone of a network without.

    Raises:
        ValueError: speakers that the model does not know.
    """
    if net.speakers is None:
        return {"true": None}
    who = data.labels[windows]
    labels = torch.from_numpy(WaveEvaluation.labels_among(meta.get("speakers"), net.speakers, data.speakers)[who])
    kinds, other = {"true": labels}, WaveEvaluation.speaker_rows(who, seed)
    if other is not None:
        kinds["shuffled"] = labels[other]
    return kinds | ({"none": None} if net.none_label else {})


def of_batch(net, labels: dict, args, numbers: list[int], x0, t, eps) -> dict[str, torch.Tensor]:
    """Return the loss of each window (batch,) with the labels of each kind and without codes, its codes (batch,
    positions), and the mean squared distance (batch,) of its latents to them, `latents`."""
    latents = net.network.latents(x0)
    found = net.vq(latents)
    no_codes = VQVAENet.no_codes(net, len(x0))

    def loss(label, cond):
        predict = VQVAENet.predict(net, cond, None if label is None else label[numbers])
        predict = WaveSampling.within(predict, args)
        return objective.losses(predict, x0, t.to(x0.device, torch.float32), eps, net.schedule).double()

    values = {kind: loss(label, found.embedded) for kind, label in labels.items()}
    values["no_codes"] = loss(labels["true"], no_codes)
    distance = (latents.float() - found.embedded).double().square().mean((1, 2))
    return {**values, "codes": found.codes, "latents": distance}


def usage_of(codes: torch.Tensor, dictionary: int) -> dict:
    """Return how the codes of all windows (windows, positions) use the dictionary, as plain numbers."""
    counts = torch.bincount(codes.flatten(), minlength=dictionary)
    return {
        "dictionary": dictionary, "used": int((counts > 0).sum()), "perplexity": float(vq.perplexity(counts)),
        "positions": codes.numel(),
    }  # fmt: skip


if __name__ == "__main__":
    run_main(main)
