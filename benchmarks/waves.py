"""How fast waveform diffusion is: finding and reading speech, training and sampling steps, judging samples.

    python benchmarks/waves.py                              one thread of the CPU
    python benchmarks/waves.py --device cuda --compile      clips/s of training and sampling on a GPU, float32 and bf16

Times are medians of --repeats, on the CPU of processor time.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import soundfile
import torch

import DatasetLoader
from audio.durations import cache_places
from audio.wave_sources import find_recordings
from benchmarks._table import ROOT, in_new_process, machine, seconds_of, table
from diffusion import samplers, schedules
from models.UNet import MainModel as UNet
from models.WaveClassifier import MainModel as WaveClassifier

SAMPLE_RATE, WINDOW = 16000, 64000

# a command's own time is that of the process with its imports
COMMAND = """
import json, subprocess, sys, time
started = time.perf_counter()
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(json.dumps(time.perf_counter() - started))
"""
COMPARE = """
import json, sys, time
import stat_compare, scipy.linalg
started = time.perf_counter()
stat_compare.main([*sys.argv[1:], "--bootstrap", "0"])
print(json.dumps(time.perf_counter() - started))
"""


def clock(device: str):
    """Return the clock of a device: processor time, or the wall's after all that was asked of a GPU."""
    if device == "cpu":
        return time.process_time

    def finished():
        torch.cuda.synchronize()
        return time.perf_counter()

    return finished


def write_speech(folder: Path, files: int, seconds: float, form: str = "flac"):
    """Write `files` recordings of noise, ten of a speaker."""
    draw = np.random.default_rng(0)
    for number in range(files):
        path = folder / f"{number // 10:04d}" / "1" / f"{number:05d}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.05 * draw.standard_normal(int(seconds * SAMPLE_RATE)), SAMPLE_RATE, subtype="PCM_16")


def data(folder: Path, args) -> list[list]:
    """Time the first and second look at a folder of recordings, and reading of windows at random places."""
    write_speech(folder / "speech", args.files, 10)

    def first():
        for path in (*cache_places(folder / "speech"), folder / "speech" / "index.json"):
            path.unlink(missing_ok=True)
        find_recordings(str(folder / "speech"))

    found = seconds_of(first, args.repeats, time.perf_counter)[0]
    again = seconds_of(lambda: find_recordings(str(folder / "speech")), args.repeats, time.perf_counter)[0]
    windows = DatasetLoader.wave_windows([str(folder / "speech")], say=lambda line: None)
    chosen = np.random.default_rng(0).integers(len(windows), size=200)
    read = seconds_of(lambda: [windows[int(i)] for i in chosen], args.repeats, time.process_time)[0] / len(chosen)
    return [
        [f"index of {args.files} FLAC files of 10 s, first time (wall)", f"{found:.3f} s"],
        ["  again", f"{again:.3f} s"],
        ["a window of 4 s at a random place", f"{1000 * read:.2f} ms"],
    ]


def step_of(network, batch: int, length: int, device: str, bf16: bool):
    """Return a function that goes forward and backward."""
    x, t = torch.randn(batch, 1, length, device=device), torch.rand(batch, device=device)

    def step():
        network.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            answer = network(x, t)
        answer.float().square().mean().backward()

    return step


@torch.inference_mode()
def make(network, sampler: str, steps: int, batch: int, length: int, device: str, bf16: bool):
    """Make a batch of samples."""
    noise = samplers.noise_of(list(range(batch)), (1, length), torch.device(device))

    def predict(x, t):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            return network(x, t).float()

    times = schedules.time_grid("square", steps, "exp")
    samplers.SAMPLERS[sampler](predict, noise(), times, partial(schedules.alpha_bar, "exp"), noise, True)


def networks(args) -> list[list]:
    """Time a training step on 2 x 16,384 samples and a prediction on 1 x 64,000."""
    rows = []
    for channels in (32, 64):
        network = UNet(channels)
        trained = seconds_of(step_of(network, 2, 16384, "cpu", False), args.repeats, time.process_time)[0]
        network.eval()
        predict = partial(network, torch.randn(1, 1, WINDOW), torch.rand(1))
        with torch.inference_mode():
            predicted = seconds_of(predict, args.repeats, time.process_time)[0]
        rows.append([f"unet{channels}", f"{trained:.2f} s", f"{predicted:.2f} s"])
    return rows


def on_gpu(args) -> list[list]:
    """Time clips of 4 s in training and in sampling by 25 steps of DPM-Solver++ and 50 ancestral ones."""
    rows = []
    for channels in (32, 64):
        for bf16, compiled in ((False, False), (True, False), (True, True)):
            if compiled and not args.compile:
                continue
            network = UNet(channels).to(args.device)
            if compiled:
                network.compile()
            given = (args.batch_size, WINDOW, args.device, bf16)
            rates = [args.batch_size / seconds_of(step_of(network, *given), args.repeats, clock(args.device))[0]]
            network.eval()
            for sampler, steps in (("dpmpp_2m", 25), ("ddpm", 50)):
                work = partial(make, network, sampler, steps, *given)
                rates.append(args.batch_size / seconds_of(work, args.repeats, clock(args.device))[0])
            form = "bf16" * bf16 + ", compiled" * compiled or "float32"
            rows.append([f"unet{channels}", form, *(f"{rate:.1f}" for rate in rates)])
    return rows


def judging(folder: Path, args) -> list[list]:
    """Time stat_generate's network over files of 4 s, and stat_compare on two files of 512 features."""
    write_speech(folder / "samples", args.samples, 4, "wav")
    classifier = WaveClassifier(921)
    card = {"num_labels": 921, "base_channels": 32}
    torch.save({"kwargs": card, "state_dict": classifier.state_dict()}, folder / "classifier.pt")
    flags = ["--checkpoint_path", folder / "classifier.pt", "--data_dir", folder / "samples", "--num_samples"]
    generate = ["stat_generate.py", folder / "s.npz", *flags, args.samples, "--bootstrap", 0, "--device", "cpu"]
    spent = in_new_process(["-c", COMMAND, *map(str, [ROOT / generate[0], *generate[1:]])])
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        features = draw.standard_normal((2000, 512))
        probs = draw.dirichlet(np.ones(9), 2000).astype(np.float32)
        np.savez(
            folder / f"{name}.npz", mean=features.mean(0).astype(np.float32), cov=np.cov(features.T), probs=probs,
            class_score=np.float32(1.5),
        )  # fmt: skip
    files = [str(folder / f"{name}.npz") for name in "ab"]
    work = sorted(in_new_process(["-c", COMPARE, *files]) for _ in range(3))[1]
    command = sorted(in_new_process(["-c", COMMAND, str(ROOT / "stat_compare.py"), *files]) for _ in range(3))[1]
    return [
        [
            f"stat_generate.py, {args.samples} files of 4 s, the whole command (wall)",
            f"{args.samples / spent:.2f} files/s",
        ],
        ["stat_compare.py, 512 features, after imports", f"{work:.3f} s"],
        ["  as a command", f"{command:.2f} s"],
    ]


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the rates of a GPU")
    parser.add_argument("--compile", action="store_true", help="on a GPU also compiled networks")
    parser.add_argument("--batch_size", type=int, default=32, help="clips of 4 s on a GPU")
    parser.add_argument("--files", type=int, default=1000, help="recordings of 10 s that are indexed")
    parser.add_argument("--samples", type=int, default=200, help="files of 4 s that are judged")
    parser.add_argument("--repeats", type=int, default=5, help="timings of which the median counts")
    args = parser.parse_args()
    if args.device != "cpu":
        print(f"{machine(args.device)}, clips of 4 s in batches of {args.batch_size}, medians of {args.repeats}\n")
        head = ["clips/s", "", "training", "dpmpp_2m, 25 steps", "ddpm, 50 steps"]
        print(table(head, on_gpu(args)))
        return
    torch.set_num_threads(1)
    print(f"{machine()}, 1 thread, medians of {args.repeats}\n")
    with tempfile.TemporaryDirectory() as folder:
        print(table(["data", "time"], data(Path(folder), args)), "\n")
        print(table(["network", "forward + backward, 2 x 16,384", "prediction, 1 x 64,000"], networks(args)), "\n")
        print(table(["judging", ""], judging(Path(folder), args)))


if __name__ == "__main__":
    main()
