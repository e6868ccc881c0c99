"""Time of a training step of any network: features, forward, backward, on CPU or GPU, in every kind of arithmetic.

    python benchmarks/model.py --model ResNetSE34L --threads 1
    python benchmarks/model.py --model ResNetSE34V2 --n_mels 64 --encoder_type ASP --batch_size 256 --compile
    python benchmarks/model.py --model ECAPA --channels 1024 --from_features --max_frames 300 --batch_size 8

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
from torch.utils.flop_counter import FlopCounterMode

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


def operations(network, call, example) -> int:
    """Return the floating-point operations of `call`, of `network`, for one example (a multiply-add counts two)."""
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(example)
    network.train()
    return counter.get_total_flops()


def step_seconds(network, call, inputs, device, dtype, repeats) -> list[float]:
    """Return the seconds of `repeats` steps, after three that are not counted; `call` is the forward of `network`."""
    found = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            embedding = call(inputs)
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
    add_bool(parser, "--from_features", help="random features of --max_frames frames, not waves")
    cls = lambda args: registry.load("models", args.model, "speaker")  # noqa: E731
    args, _ = parse(parser, extend=lambda p, first: registry.add_arguments(p, [cls(first)]))
    torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    samples = 160 * args.max_frames + 240
    if args.from_features:
        inputs = torch.randn(args.batch_size, args.n_mels, args.max_frames, device=device)
    else:
        scale = getattr(cls(args), "WAV_SCALE", 32768.0) if args.wav_scale is None else args.wav_scale
        inputs = 0.1 * scale * torch.randn(args.batch_size, samples, device=device)
    rows = []
    for dtype in (getattr(torch, name) for name in args.precisions.split(",")):
        peak = roof(device, dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            network = registry.build(cls(args), vars(args)).to(device).train()
            if layout == torch.channels_last and not any(isinstance(m, torch.nn.Conv2d) for m in network.modules()):
                continue
            call = network.embed if args.from_features else network
            # a backward pass costs two forward passes
            work = 3 * args.batch_size * operations(network, call, inputs[:1])
            network.to(memory_format=layout)
            for compiled in (False, True) if args.compile else (False,):
                found = step_seconds(
                    network, torch.compile(call) if compiled else call, inputs, device, dtype, args.repeats
                )
                median = statistics.median(found)
                names = [str(dtype).removeprefix("torch."), "channels last" if layout == torch.channels_last else ""]
                rows.append([
                    ", ".join(filter(None, [*names, "compiled" if compiled else ""])),
                    f"{1000 * median:,.1f}", f"{1000 * min(found):,.1f}", f"{1000 * max(found):,.1f}",
                    f"{args.batch_size / median:,.0f}", f"{work / median / 1e12:.3f}",
                    f"{100 * work / median / peak:.1f}", f"{peak / 1e12:.3f}",
                ])  # fmt: skip
    print(f"{machine(str(device))}, {args.threads} CPU thread(s), medians of {args.repeats}")
    crops = f"{args.max_frames} frames of features" if args.from_features else f"{samples / 16000:.2f} s"
    print(f"{args.model}, {args.batch_size} crops of {crops}, forward and backward\n")
    head = ["arithmetic", "step ms", "fastest", "slowest", "crops/s", "TFLOP/s", "% of roof", "roof TFLOP/s"]
    print(table(head, rows))
    print("\nroof: the largest rate of square matrix products in the same precision, measured here")


if __name__ == "__main__":
    run_main(main)
