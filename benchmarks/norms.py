"""Time and memory of score normalisation by a cohort, one thread, beside the machine's rate of matrix products.
Entry point: python benchmarks/norms.py; every measurement runs in a process of its own, whose peak memory is stated.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

# in place of this file's own folder, where the name `scoring` would be this file
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks._table import in_new_process, machine, peak_megabytes, seconds_of, table

# Trials of the lists of VoxCeleb1, original and extended, here all over the files of the first.
TRIALS = (37_720, 581_480)
METHODS = ("none", "s-norm", "as-norm", "as-norm2")


def measure(args, method: str, trials: int) -> dict:
    """Score random trials of random embeddings and normalise the scores."""
    import numpy as np
    import torch

    from scoring.norms import score_and_normalise

    torch.set_num_threads(args.threads)
    draw = np.random.default_rng(0)
    vectors, cohort = (draw.standard_normal((rows, args.dim)).astype(np.float32) for rows in (args.files, args.cohort))
    pairs = draw.integers(0, args.files, (trials, 2))
    score_and_normalise(vectors[:100], pairs[:10] % 100, cohort[:500], method, 10)  # libraries load here
    wall, cpu = time.perf_counter(), time.process_time()
    score_and_normalise(vectors, pairs, cohort, method, args.top if method.startswith("as-norm") else 0)
    wall_end, cpu_end = time.perf_counter(), time.process_time()
    return {"wall": wall_end - wall, "cpu": cpu_end - cpu, "peak": peak_megabytes() / 1000}


def measure_product(args) -> dict:
    """Multiply all files with the whole cohort once: the least that any cohort normalisation takes."""
    import torch

    torch.set_num_threads(args.threads)
    files, cohort = torch.randn(args.files, args.dim), torch.randn(args.cohort, args.dim)
    wall, _, _ = seconds_of(lambda: files @ cohort.T, 3)
    cpu, _, _ = seconds_of(lambda: files @ cohort.T, 3, time.process_time)
    operations = 2 * args.files * args.cohort * args.dim
    return {"wall": wall, "cpu": cpu, "peak": peak_megabytes() / 1000, "rate": operations / cpu / 1e9}


def measurements() -> dict:
    """Return {name: function of the flags}."""
    found = {"torch's product of files and cohort": measure_product}
    for trials in TRIALS:
        for method in METHODS:
            name = f"{trials:,} trials, {'cosine only' if method == 'none' else method}"
            found[name] = lambda args, method=method, trials=trials: measure(args, method, trials)
    return found


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=4_708, help="files the trials are of (default: %(default)s)")
    parser.add_argument("--cohort", type=int, default=5_994, help="members of the cohort (default: %(default)s)")
    parser.add_argument("--top", type=int, default=300, help="nearest members of as-norm (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=192, help="numbers in an embedding (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs, of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--one", choices=measurements(), help="run one measurement here and print it as JSON")
    return parser


def main(argv=None):
    """Print the table, or with --one a measurement."""
    argv = sys.argv[1:] if argv is None else argv
    args = arguments().parse_args(argv)
    if args.one:
        print(json.dumps(measurements()[args.one](args)))
        return
    print(machine())
    print(
        f"{args.files:,} files, {args.cohort:,} members, top {args.top}, {args.dim} numbers; {args.threads} thread(s); "
        f"median of {args.repeats}\n"
    )
    rows = []
    for name in measurements():
        results = [in_new_process([__file__, *argv, "--one", name], args.threads) for _ in range(args.repeats)]
        rate = f"{statistics.median(r['rate'] for r in results):.0f}" if "rate" in results[0] else ""
        rows.append(
            [name, *(f"{statistics.median(r[key] for r in results):.2f}" for key in ("wall", "cpu", "peak")), rate]
        )
    print(table(["measurement", "wall s", "cpu s", "peak GB", "GFLOP/s"], rows))
    print("\npeak: resident memory of the whole process, data and libraries included")


if __name__ == "__main__":
    main()
