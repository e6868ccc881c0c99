"""Time of a training step of the VQ-VAEs of features, 512 codewords in 8 groups, beside that of its products alone.

    python benchmarks/autoencoder.py
    python benchmarks/autoencoder.py --network resnet1d --batch_size 256 --device cuda --bf16 --compile

One line per network: median and least seconds of a forward and backward pass, the least seconds of the matrix products
of which it consists, each convolution as one, with nothing between them, and frames per second.
"""

import math
import os
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._table import machine, seconds_of, table
from engine import registry
from engine.args import add_bool, make_parser, parse
from engine.log import run_main

CONVOLUTIONS = {
    "stem_channels": 256, "repeats": [1, 2, 3, 2], "channels": 256, "kernels": 3, "strides": [1, 2, 2, 2],
}  # fmt: skip
ATTENTION = {"d_model": 512, "heads": 8, "blocks": 6, "d_ff": 2048, "context": 25, "positions": "relative"}
# name: (options of the encoder, options of the decoder, latent channels)
NETWORKS = {
    "resnet1d": ({**CONVOLUTIONS, "stem_kernel": 5}, {**CONVOLUTIONS, "stem_kernel": 3}, 256),
    "transformer": (ATTENTION, ATTENTION, 512),
    "conformer": (ATTENTION, ATTENTION, 512),
}


class Products(TorchDispatchMode):
    """Notes the matrix products that are made, each as (batch, rows, inner, columns)."""

    def __init__(self):
        super().__init__()
        self.found = []

    def _convolution(self, x, weight, y, groups, times):
        rows, inner = len(y) * math.prod(y.shape[2:]), weight[0].numel()
        self.found += [(groups, rows, inner, len(weight) // groups)] * times

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:]
            self.found.append((len(a) if a.dim() == 3 else 1, *a.shape[-2:], b.shape[-1]))
        elif name == "convolution":
            self._convolution(args[0], args[1], out, args[8], 1)
        elif name == "convolution_backward":
            self._convolution(args[1], args[2], args[0], args[9], sum(args[10][:2]))
        elif "attention" in name:
            (q, k), backward = args[1:3] if "backward" in name else args[:2], "backward" in name
            batch = math.prod(q.shape[:-2])
            self.found += [(batch, q.shape[-2], q.shape[-1], k.shape[-2])] * (5 if backward else 2)
        return out


def make(name, device):
    """Return the VQ-VAE in training."""
    encoder, decoder, channels = NETWORKS[name]
    options = {"encoder": name, "encoder_options": encoder, "decoder_options": decoder, "latent_channels": channels}
    # its codebook may be larger than the first batch has positions
    model = registry.load("models", "VQVAE")(**options, codewords=512, groups=8, start="normal")
    return model.to(device).train()


def main():
    """Time the networks and print the table."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--network", choices=("all", *NETWORKS), default="all", help="one alone (default: all)")
    parser.add_argument("--batch_size", type=int, default=8, help="chunks per step")
    parser.add_argument("--frames", type=int, default=400, help="frames of 10 ms per chunk")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps, after one that is not")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    add_bool(parser, "--bf16", help="autocast to bfloat16")
    add_bool(parser, "--compile", help="torch.compile the encoder and the decoder")
    add_bool(parser, "--cpu_time", help="seconds of processor time, which other programs disturb less; cpu only")
    args, _ = parse(parser)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.cpu_time and device.type != "cpu":
        raise ValueError("--cpu_time needs --device cpu")
    clock = time.process_time if args.cpu_time else time.perf_counter
    x = torch.randn(args.batch_size, 80, args.frames, device=device)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    rows = []

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    for name in NETWORKS if args.network == "all" else [args.network]:
        model = make(name, device)

        def step(model=model):
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                loss = model(x).loss
            loss.mean().backward()
            wait()

        with Products() as products:
            step()
        shapes = products.found
        operands = {s: (torch.randn(*s[:3]).to(x.device, dtype), torch.randn(s[0], *s[2:]).to(x.device, dtype))
                    for s in set(shapes)}  # fmt: skip

        def multiply(shapes=shapes, operands=operands):
            for shape in shapes:
                torch.bmm(*operands[shape])
            wait()

        if args.compile:
            model.pair.encoder.compile()
            model.pair.decoder.compile()
        middle, least, _ = seconds_of(step, args.repeats, clock)
        alone = seconds_of(multiply, args.repeats, clock)[1]
        operations = sum(2 * math.prod(shape) for shape in shapes) / 1e9
        speed = args.batch_size * args.frames / middle
        rows.append([name, f"{middle:.3f}", f"{least:.3f}", f"{alone:.3f}", f"{operations:.0f}", f"{speed:,.0f}"])
    print(machine(args.device), f"{args.threads} thread(s), {args.batch_size} x {args.frames} frames", sep="; ")
    print(table(["VQ-VAE 512x8", "step, s", "least, s", "products alone, s", "GFLOP", "frames/s"], rows))


if __name__ == "__main__":
    run_main(main)
