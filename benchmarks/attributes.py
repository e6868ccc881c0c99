"""Training of attribute encoders: optimiser steps per second beside the bare matrix products of the same sizes.

    python benchmarks/attributes.py

Runs train_attributes.py on a table of random embeddings with some sums of losses, each in a process of its own, and
reads what it logged; the first interval of the log is left out. The matrix products of a step (forward, gradients of
weights and inputs; with arcface those with its class matrix too) are timed before and after each run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks._table import ROOT, in_new_process, machine, seconds_of, table
from scoring.embeddings import Table, write_table

SPEAKERS, EACH = 5_994, 16  # the speakers of VoxCeleb2; an epoch draws so many recordings of each
CLASSES, SAMPLES, INPUT, BITS = 32, 16, 256, 512
LOSSES = ("mse", "mse+triplet", "mse+arcface", "mse+triplet+arcface+sparsity")
INTERVAL = 10  # steps of an entry in the log


def products(trainfunc: str, threads: int) -> float:
    """Return the seconds of a step's matrix products alone: two for each layer's weights, and one to its input."""
    import torch

    torch.set_num_threads(threads)
    rows = CLASSES * SAMPLES
    layers = [(INPUT, BITS), (BITS, BITS), (BITS, BITS), (BITS, INPUT)]
    layers += [(BITS, SPEAKERS)] * ("arcface" in trainfunc)
    made = [(torch.randn(rows, a), torch.randn(a, b), torch.randn(rows, b)) for a, b in layers]

    def step():
        for number, (x, weight, gradient) in enumerate(made):
            x @ weight
            x.T @ gradient
            if number:  # the embeddings need no gradient
                gradient @ weight.T

    return seconds_of(step, 20)[0]


def bare_steps_per_second(trainfunc: str, threads: int) -> float:
    """Return how many steps the matrix products of a new process allow."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.attributes import products; "
    return 1 / in_new_process(["-c", f"{code}print(products({trainfunc!r}, {threads}))"], threads)


def steps_per_second(folder: Path, trainfunc: str, steps: int, args) -> float:
    """Train in a process of its own; return the median over the intervals of the log."""
    flags = {
        "train_embeddings": folder / "e.npz", "train_list": folder / "list.txt", "trainfunc": trainfunc,
        "classes_per_batch": CLASSES, "samples_per_class": SAMPLES, "internal_dim": BITS, "max_steps": steps,
        "log_interval": INTERVAL, "device": args.device, "save_path": folder / trainfunc,
    }  # fmt: skip
    command = [sys.executable, "train_attributes.py", *(str(w) for k, v in flags.items() for w in (f"--{k}", v))]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{trainfunc}: {done.stderr.strip()[-2000:]}")
    entries = [json.loads(line) for line in (folder / trainfunc / "metrics.jsonl").read_text().splitlines()]
    found = [e["utterances_per_second"] for e in entries if "utterances_per_second" in e][1:]
    return statistics.median(found) / (CLASSES * SAMPLES)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--steps", type=int, default=80, help="optimiser steps of each run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    if args.steps < 3 * INTERVAL:
        sys.exit(f"--steps {args.steps}: must be at least {3 * INTERVAL}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, draw = Path(name), np.random.default_rng(0)
        names = [f"{speaker}/{i}.wav" for speaker in range(SPEAKERS) for i in range(EACH)]
        vectors = (0.21 * draw.standard_normal((len(names), INPUT))).astype(np.float32)
        seconds = np.full(len(names), 5, np.float32)
        write_table(folder / "e.npz", Table(np.array(names, dtype=np.bytes_), vectors, seconds, {}))
        (folder / "list.txt").write_text("".join(f"{name.split('/')[0]} {name}\n" for name in names))
        for trainfunc in LOSSES:
            before = bare_steps_per_second(trainfunc, args.threads)
            found = steps_per_second(folder, trainfunc, args.steps, args)
            bare = (before + bare_steps_per_second(trainfunc, args.threads)) / 2
            rows.append([trainfunc, f"{found:.1f}", f"{bare:.1f}", f"{found / bare:.2f}"])
    print(f"{machine(args.device)}, {args.threads} thread(s)")
    print(
        f"batches of {CLASSES} speakers x {SAMPLES} recordings, {INPUT} numbers to {BITS} bits, {SPEAKERS:,} speakers; "
        f"{args.steps} steps each, medians over intervals of {INTERVAL}\n"
    )
    print(table(["losses", "steps/s", "bare products, steps/s", "share"], rows))


if __name__ == "__main__":
    main()
