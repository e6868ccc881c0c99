"""The whole training loop: utterances per second, share of the time spent waiting for data, use of the arithmetic.

    python benchmarks/train.py --model ResNetSE34L --batch_size 32
    python benchmarks/train.py --model ResNetSE34V2 --n_mels 64 --encoder_type ASP --batch_size 256 --mixedprec

Runs trainSpeakerNet.py with these flags (any of its flags may be given) on recordings made up in a temporary folder, as
files and packed, without and with augmentation crop by crop and in batches, and reads what it logged; the first of the
log's intervals, with the start of loader processes and memory pools in it, is left out.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks._table import ROOT, machine, table
from benchmarks.data import make_corpus
from corpora import packing

STEPS, INTERVAL = 40, 8


def logged(folder: Path, flags: list[str]) -> dict[str, float]:
    """Train for some steps in a process of its own; return the medians of what its log holds."""
    command = [sys.executable, "trainSpeakerNet.py", *flags, "--save_path", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr.strip()[-2000:]}")
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    entries = [entry for entry in entries if "data_wait_percent" in entry][1:]
    text = next(line for line in done.stdout.splitlines() if "GFLOP per crop" in line)
    found = {
        name: statistics.median(e[name] for e in entries) for name in ("utterances_per_second", "data_wait_percent")
    }
    # a backward pass costs two forward passes
    found["tflops"] = 3 * float(text.split(" GFLOP")[0].split()[-1]) * found["utterances_per_second"] / 1000
    return found


def main():
    """Print the table."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    given = sys.argv[1:] if "--model" in sys.argv else ["--model", "ResNetSE34L", *sys.argv[1:]]
    size = int(given[given.index("--batch_size") + 1]) if "--batch_size" in given else 32
    device = "cuda" if torch.cuda.is_available() and "cpu" not in given else "cpu"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = make_corpus(folder, 10 * max(size, 8), 8)
        packing.pack(utterances.paths, utterances.root, folder / "packed", len(os.sched_getaffinity(0)))
        (folder / "trials.txt").write_text(f"1 {utterances.paths[0]} {utterances.paths[1]}\n"
                                           f"0 {utterances.paths[0]} {utterances.paths[10]}\n")  # fmt: skip
        shared = {
            "train_list": folder / "train.txt", "test_list": folder / "trials.txt", "test_path": folder / "wav",
            "trainfunc": "softmax", "batch_size": size, "max_steps": STEPS, "log_interval": INTERVAL, "num_eval": 1,
            "bootstrap": 0, "musan_path": folder / "musan", "rir_path": folder / "rirs",
        }  # fmt: skip
        for number, (kind, root, flags) in enumerate([
            ("files, no augmentation", "wav", {}),
            ("files, augmented crop by crop", "wav", {"augment": True, "augment_device": "crop"}),
            ("files, augmented in batches", "wav", {"augment": True, "augment_device": "auto"}),
            ("packed, no augmentation", "packed", {}),
            ("packed, augmented in batches", "packed", {"augment": True, "augment_device": "auto"}),
        ]):  # fmt: skip
            options = {**shared, "train_path": folder / root, **flags}
            words = [
                word for key, value in options.items() if f"--{key}" not in given for word in (f"--{key}", str(value))
            ]
            found = logged(folder / f"run{number}", [*words, *given])
            rows.append([kind, f"{found['utterances_per_second']:,.0f}", f"{found['data_wait_percent']:.1f}",
                         f"{found['tflops']:.3f}"])  # fmt: skip
    print(f"{machine(device)}; {' '.join(given)}")
    print(
        f"{STEPS} steps each, medians over {STEPS // INTERVAL - 1} intervals of {INTERVAL} steps, recordings of 8 s\n"
    )
    print(table(["data", "utterances/s", "data wait %", "TFLOP/s"], rows))


if __name__ == "__main__":
    main()
