"""Time of a training step of any network: features, forward, backward, on CPU or GPU, in every kind of arithmetic.

    python benchmarks/model.py --model ResNetSE34L --threads 1
    python benchmarks/model.py --model ResNetSE34V2 --n_mels 64 --encoder_type ASP --batch_size 256 --compile

One line per precision (float32, bfloat16) and memory layout, with --compile also compiled: median time of a step,
crops per second, and the share of what large matrix products reach on the same machine in the same precision.
"""

import os
import statistics
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import SpeakerNet
from benchmarks._table import machine, table
from engine import registry
from engine.args import add_bool, make_parser, parse
from engine.log import run_main


def wait(device):
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def roof(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Return the floating-point operations per second that a large matrix product reaches."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    wait(device)
    rates, end = [], time.perf_counter() + seconds
    while len(rates) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        a @ b
        wait(device)
        rates.append(2 * size**3 / (time.perf_counter() - started))
    return max(rates)


def step_seconds(network, wave, device, dtype, repeats) -> list[float]:
    """Return the seconds of `repeats` steps, after three that are not counted."""
    found = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            embedding = network(wave)
        embedding.float().square().mean().backward()
        network.zero_grad(set_to_none=True)
        wait(device)
        found.append(time.perf_counter() - started)
    return found[3:]


def main():
    """Time the steps of one network and print the table."""
    parser = make_parser(__doc__.splitlines()[0])
    SpeakerNet.add_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=32, help="crops per step")
    parser.add_argument("--max_frames", type=int, default=200, help="crop in frames of 10 ms")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps, after three that are not")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="", help="cuda or cpu (default: cuda where available)")
    parser.add_argument("--precisions", default="float32,bfloat16", help="float32, bfloat16 or both")
    add_bool(parser, "--compile", help="time the compiled network too")
    cls = lambda args: registry.load("models", args.model, "speaker")  # noqa: E731
    args, _ = parse(parser, extend=lambda p, first: registry.add_arguments(p, [cls(first)]))
    torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    samples = 160 * args.max_frames + 240
    wave = 3000 * torch.randn(args.batch_size, samples, device=device)
    rows = []
    for dtype in (getattr(torch, name) for name in args.precisions.split(",")):
        peak = roof(device, dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            network = registry.build(cls(args), vars(args)).to(device).train()
            # a backward pass costs two forward passes
            work = 3 * args.batch_size * SpeakerNet.flops(SpeakerNet.SpeakerNet(network), samples, device)
            network = network.to(memory_format=layout).train()
            for compiled in (False, True) if args.compile else (False,):
                module = torch.compile(network) if compiled else network
                found = step_seconds(module, wave, device, dtype, args.repeats)
                median = statistics.median(found)
                names = [str(dtype).removeprefix("torch."), "channels last" if layout == torch.channels_last else ""]
                rows.append([
                    ", ".join(filter(None, [*names, "compiled" if compiled else ""])),
                    f"{1000 * median:,.1f}", f"{1000 * min(found):,.1f}", f"{1000 * max(found):,.1f}",
                    f"{args.batch_size / median:,.0f}", f"{work / median / 1e12:.3f}",
                    f"{100 * work / median / peak:.1f}", f"{peak / 1e12:.3f}",
                ])  # fmt: skip
    print(f"{machine(str(device))}, {args.threads} CPU thread(s), medians of {args.repeats}")
    print(f"{args.model}, {args.batch_size} crops of {samples / 16000:.2f} s, forward and backward\n")
    head = ["arithmetic", "step ms", "fastest", "slowest", "crops/s", "TFLOP/s", "% of roof", "roof TFLOP/s"]
    print(table(head, rows))
    print("\nroof: the largest rate of square matrix products in the same precision, measured here")


if __name__ == "__main__":
    run_main(main)
