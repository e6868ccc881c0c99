"""Speed of likelihood ratios of binary attributes, one thread: all against all, lists of trials, fits.
Entry point: python benchmarks/likelihood.py; random codes of the stated sizes, medians, processor seconds.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks._table import machine, peak_megabytes, seconds_of, table


def make_population(args):
    """Return a random population of the stated size."""
    import numpy as np

    from scoring.population import population

    draw = np.random.default_rng(0)
    labels = np.arange(args.speakers * args.utterances) % args.speakers
    rates = np.where(draw.random((args.speakers, args.attributes)) < draw.random(args.attributes), 0.8, 0.15)
    bits = (draw.random((len(labels), args.attributes)) < rates[labels]).astype(np.uint8)
    return population(bits, labels, [str(i) for i in range(args.speakers)])


def main(argv=None):
    """Measure and print one table each for scores and for fits."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--attributes", type=int, default=512, help="attributes of a code")
    parser.add_argument("--recordings", type=int, default=4708, help="recordings, compared all against all")
    parser.add_argument("--trials", type=int, default=581_480, help="trials of a list among them")
    parser.add_argument("--few", type=int, default=37_720, help="trials of a short list")
    parser.add_argument("--pooled", type=int, default=1000, help="sides of several recordings, all against all")
    parser.add_argument("--per_side", type=int, nargs="*", default=[3, 10], help="recordings of such a side")
    parser.add_argument("--speakers", type=int, default=1000, help="speakers of the population that is fitted")
    parser.add_argument("--utterances", type=int, default=20, help="recordings of each of them")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each, of which the median is given")
    parser.add_argument("--threads", type=int, default=1, help="threads")
    args = parser.parse_args(argv)

    import numpy as np
    import torch

    from scoring import likelihood

    torch.set_num_threads(args.threads)
    draw = np.random.default_rng(1)

    def median(function, *given):
        return seconds_of(lambda: function(*given), args.repeats, time.process_time)[0]

    codes = likelihood.single((draw.random((args.recordings, args.attributes)) < 0.4).astype(np.uint8))
    pop = make_population(args)
    bits = torch.from_numpy(codes.active.astype(np.float64))
    product = median(torch.mm, bits, bits.T)
    cells = args.recordings**2
    rows = [["matrix product alone (float64)", "1", f"{product:.2f}", f"{cells / product / 1e6:.1f}", "1.00", "", ""]]
    sides = {1: codes}
    for count in args.per_side:
        active = draw.binomial(count, 0.4, (args.pooled, args.attributes))
        sides[count] = likelihood.Side(active, np.full(args.pooled, count))
    for count, side in sides.items():
        many = len(side.active)
        lists = [draw.integers(0, many, (trials, 2)) for trials in (args.trials, args.few)]
        for kind in likelihood.KINDS:
            if count > 1 and kind in likelihood.SINGLE_ONLY:
                continue
            model = likelihood.fit_model(kind, pop)
            every = median(likelihood.score_all, model, side, side)
            listed = [median(likelihood.score_pairs, model, side, side, pairs) for pairs in lists]
            times = every / many**2 / (product / cells)
            speed = f"{many**2 / every / 1e6:.1f}"
            rows.append([kind, count, f"{every:.2f}", speed, f"{times:.2f}", *(f"{seconds:.2f}" for seconds in listed)])
    fits = [[kind, f"{median(likelihood.fit_model, kind, pop):.2f}"] for kind in likelihood.KINDS]
    print(f"{machine()}, {args.threads} thread(s), {args.attributes} attributes, peak {peak_megabytes():.0f} MB\n")
    print(f"all against all: {args.recordings} single recordings, {args.pooled} sides of several; processor seconds\n")
    head = [
        "model",
        "recordings a side",
        "s",
        "million pairs/s",
        "times the product",
        f"{args.trials} trials, s",
        f"{args.few} trials, s",
    ]
    print(table(head, rows))
    print(f"\nfits to {args.speakers} speakers of {args.utterances} recordings\n")
    print(table(["model", "s"], fits))


if __name__ == "__main__":
    main()
