"""Time of a training step of any network: features, forward, loss, backward, on CPU or GPU.

    python benchmarks/model.py --model ResNetSE34L --threads 1

Prints the machine, versions and threads, then the median, fastest and slowest of --repeats steps, and crops per second.
"""

import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import SpeakerNet
from engine import registry
from engine.args import add_bool, make_parser, parse
from engine.log import run_main


def main():
    """Time the step of one network."""
    parser = make_parser(__doc__.splitlines()[0])
    SpeakerNet.add_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=32, help="crops per step")
    parser.add_argument("--max_frames", type=int, default=200, help="crop in frames of 10 ms")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps, after two that are not")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="", help="cuda or cpu (default: cuda where available)")
    for name in ("--mixedprec", "--channels_last", "--compile"):
        add_bool(parser, name, help="as in trainSpeakerNet.py")
    cls = lambda args: registry.load("models", args.model, "speaker")  # noqa: E731
    args, _ = parse(parser, extend=lambda p, first: registry.add_arguments(p, [cls(first)]))
    torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = registry.build(cls(args), vars(args)).to(device).train()
    if args.channels_last:
        network = network.to(memory_format=torch.channels_last)
    step = torch.compile(network) if args.compile else network
    wave = 3000 * torch.randn(args.batch_size, 160 * args.max_frames + 240, device=device)

    seconds = []
    for _ in range(args.repeats + 2):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.mixedprec):
            embedding = step(wave)
        embedding.float().square().mean().backward()
        network.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    seconds = seconds[2:]

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {args.threads} CPU thread(s), torch {torch.__version__}, Python {platform.python_version()}")
    options = [option for option in ("mixedprec", "channels_last", "compile") if getattr(args, option)]
    print(f"{args.model}, {args.batch_size} crops of {args.max_frames} frames, {', '.join(options) or 'float32'}")
    median = statistics.median(seconds)
    print(f"forward + backward: median {median:.3f} s (fastest {min(seconds):.3f}, slowest {max(seconds):.3f})")
    print(f"{args.batch_size / median:.1f} crops/s")


if __name__ == "__main__":
    run_main(main)
