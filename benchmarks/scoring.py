"""Time and memory of scoring trials and of the error rates, one thread, on random data of the stated sizes.
Entry point: python benchmarks/scoring.py; every measurement runs in a process of its own, whose peak memory is stated.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

# in place of this file's own folder, where the name `scoring` would be this file
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks._table import in_new_process, machine, peak_megabytes, table


def used() -> tuple[float, float]:
    """Return wall-clock and processor seconds of this process so far."""
    return time.perf_counter(), time.process_time()


def measure_trials(args, mode: str) -> dict:
    """Score random trials of random unit-length embeddings."""
    import numpy as np
    import torch

    from scoring.trials import score_trials

    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(args.files * args.crops, args.dim, generator=generator)
    embeddings /= embeddings.norm(dim=1, keepdim=True)
    offsets = np.arange(args.files + 1) * args.crops
    pairs = np.random.default_rng(0).integers(0, args.files, (args.trials, 2))
    wall, cpu = used()
    score_trials(embeddings, offsets, pairs, mode)
    wall_end, cpu_end = used()
    return {"wall": wall_end - wall, "cpu": cpu_end - cpu, "peak": peak_megabytes() / 1000}


def _random_scores(count: int, separation: float = 2.0):
    import numpy as np

    generator = np.random.default_rng(0)
    labels = (generator.random(count) < 0.5).astype(np.int8)
    scores = generator.standard_normal(count)
    scores[labels == 1] += separation
    return scores, labels


def measure_rates(args, shared: bool) -> dict:
    """Compute EER, minDCF and Cllr of random scores, from one sort or by three separate calls."""
    from scoring.metrics import cllr, count_accepted, eer, eer_of, min_dcf, min_dcf_of

    scores, labels = _random_scores(args.scores)
    wall, cpu = used()
    if shared:
        counts = count_accepted(scores, labels)
        eer_of(counts)
        min_dcf_of(counts)
    else:
        eer(scores, labels)
        min_dcf(scores, labels)
    cllr(scores, labels)
    wall_end, cpu_end = used()
    return {"wall": wall_end - wall, "cpu": cpu_end - cpu, "peak": peak_megabytes() / 1000}


def measure_bootstrap(args) -> dict:
    """Draw 1000 bootstrap replicates of EER over 1,251 speakers on 37,720 trials."""
    import numpy as np

    from scoring.intervals import bootstrap_interval

    scores, labels = _random_scores(37_720, 4.0)
    sides = np.random.default_rng(1).integers(0, 1_251, (len(scores), 2))
    sides[labels == 1, 1] = sides[labels == 1, 0]
    wall, cpu = used()
    bootstrap_interval(scores, labels, sides)
    wall_end, cpu_end = used()
    return {"wall": wall_end - wall, "cpu": cpu_end - cpu, "peak": peak_megabytes() / 1000}


MEASUREMENTS = {
    "trials, distance": lambda args: measure_trials(args, "distance"),
    "trials, cosine": lambda args: measure_trials(args, "cosine"),
    "EER + minDCF + Cllr, one sort": lambda args: measure_rates(args, True),
    "EER + minDCF + Cllr, three calls": lambda args: measure_rates(args, False),
    "bootstrap of 37,720 trials": measure_bootstrap,
}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=581_480, help="trials to score (default: %(default)s)")
    parser.add_argument("--files", type=int, default=4_708, help="files they are drawn from (default: %(default)s)")
    parser.add_argument("--crops", type=int, default=10, help="crops of a file (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=512, help="numbers in an embedding (default: %(default)s)")
    parser.add_argument("--scores", type=int, default=10_000_000, help="scores to evaluate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs, of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--one", choices=MEASUREMENTS, help="run one measurement in this process and print it as JSON")
    return parser


def main(argv=None):
    """Print the table, or with --one a measurement."""
    argv = sys.argv[1:] if argv is None else argv
    args = arguments().parse_args(argv)
    if args.one:
        print(json.dumps(MEASUREMENTS[args.one](args)))
        return
    print(machine())
    print(
        f"{args.trials:,} trials of {args.files:,} files, {args.crops} x {args.crops} crops of {args.dim}; "
        f"{args.scores:,} scores; {args.threads} thread(s); median of {args.repeats}\n"
    )
    rows = []
    for name in MEASUREMENTS:
        results = [in_new_process([__file__, *argv, "--one", name], args.threads) for _ in range(args.repeats)]
        rows.append([name, *(f"{statistics.median(r[key] for r in results):.2f}" for key in ("wall", "cpu", "peak"))])
    print(table(["measurement", "wall s", "cpu s", "peak GB"], rows))
    print("\npeak: resident memory of the whole process, data and libraries included")


if __name__ == "__main__":
    main()
