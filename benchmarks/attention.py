"""Cost of local and full attention over long inputs, and of a training step of transformer and conformer VQ-VAEs.
Entry point: python benchmarks/attention.py; random features, processor seconds of one thread, medians.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks._table import in_new_process, machine, peak_megabytes, seconds_of, table

HEADS, CHANNELS = 8, 512
FAMILIES = ("transformer", "conformer")


def long_input(args):
    """Print one JSON line: seconds and MB that forward and backward of one attention over --frames frames take."""
    import torch

    from models.blocks.attention import Attention

    torch.manual_seed(0)
    layer = Attention(CHANNELS, HEADS, args.context or None, args.positions)
    x, before = torch.randn(1, args.frames, CHANNELS, requires_grad=True), peak_megabytes()
    seconds = seconds_of(lambda: layer(x).sum().backward(), args.repeats, time.process_time)[0]
    print(json.dumps({"seconds": seconds, "megabytes": peak_megabytes() - before}))


def products_of(network, run):
    """Return {(rows, inputs, outputs): number} of the matrix products of the linear layers in one call run()."""
    import torch

    found = Counter()

    def note(layer, inputs, _):
        found[inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features] += 1

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return found


def training_step(args, family):
    """Return seconds of forward and backward, of its matrix products alone, and GFLOP of these."""
    import torch

    from engine import registry

    torch.manual_seed(0)
    options = {"context": 25, "positions": "relative"}
    cls = registry.load("models", args.model)
    sizes = {"latent_channels": CHANNELS, "codewords": 512, "groups": 8}
    network = cls(family, encoder_options=options, decoder_options=options, **sizes).train()
    x = torch.randn(args.batch, 80, 400)
    shapes = products_of(network, lambda: network(x))
    matrices = {(n, i, o): [torch.randn(*s) for s in ((n, i), (o, i), (n, o))] for n, i, o in shapes}

    def multiply():
        for shape, number in shapes.items():
            rows, weight, gradient = matrices[shape]
            for _ in range(number):
                rows @ weight.T, gradient @ weight, gradient.T @ rows

    def step():
        network.zero_grad()
        network(x).loss.mean().backward()

    whole, alone = [], []  # by turns: another program on the machine slows both alike
    for _ in range(args.repeats):
        whole.append(seconds_of(step, 1, time.process_time)[0])
        alone.append(seconds_of(multiply, 1, time.process_time)[0])
    operations = 6 * sum(number * n * i * o for (n, i, o), number in shapes.items())
    return sorted(whole)[len(whole) // 2], sorted(alone)[len(alone) // 2], operations / 1e9


def main(argv=None):
    """Measure and print a table of attention alone and one of training steps."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=3000, help="frames of the long input")
    parser.add_argument("--batch", type=int, default=8, help="chunks of 400 frames of a training step")
    parser.add_argument("--model", default="VQVAE", help="models/ file of the VQ-VAE of features")
    parser.add_argument("--families", nargs="*", default=FAMILIES, help="backbones whose training step is measured")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each, of which the median is given")
    parser.add_argument("--context", type=int, default=25, help="frames of local attention")
    parser.add_argument("--positions", default="", help="measure the attention with these alone (absolute, relative)")
    args = parser.parse_args(argv)

    import torch

    torch.set_num_threads(1)
    if args.positions:
        return long_input(args)
    print(machine())
    rows = []
    for positions in ("absolute", "relative"):
        for context in (0, args.context):
            command = [__file__, "--positions", positions, "--context", str(context), "--frames", str(args.frames)]
            found = in_new_process([*command, "--repeats", str(args.repeats)])
            name = f"local, {context} frames" if context else "full"
            rows.append([positions, name, f"{found['seconds']:.3f}", f"{found['megabytes']:.0f}"])
    print(table(["positions", f"attention over {args.frames} frames", "s", "MB"], rows))
    rows = []
    for family in args.families:
        whole, alone, operations = training_step(args, family)
        rows.append([family, f"{whole:.2f}", f"{alone:.2f}", f"{whole / alone:.2f}", f"{operations / alone:.0f}"])
    if rows:
        title = f"forward and backward, {args.batch} x 400 frames"
        print(table([title, "s", "products alone, s", "ratio", "GFLOP/s of these"], rows))


if __name__ == "__main__":
    main()
