"""Deterministic weights for parity tests: every value follows from the parameter's name and shape alone.

fill(module) overwrites all parameters and the BatchNorm running statistics of a torch module in place;
every other buffer (windows, filterbanks, counters) is left as the module made it. Two modules with the
same parameter names and shapes therefore compute the same function, whoever wrote them.
"""

import zlib

import numpy as np
import torch


def values(name, shape):
    """float64 array of `shape` for the parameter or running statistic called `name`."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    draw = rng.standard_normal(shape)
    if name.endswith("running_var"):
        return 1.0 + 0.2 * np.abs(draw)
    if name.endswith("running_mean"):
        return 0.1 * draw
    if len(shape) >= 2:
        return draw / np.sqrt(max(1, int(np.prod(shape[1:]))))
    if name.endswith("weight"):
        return 1.0 + 0.1 * draw
    return 0.1 * draw


@torch.no_grad()
def fill(module, prefix=""):
    """Fill `module` in place; `prefix` is stripped from each name before it seeds the draw."""
    named = dict(module.named_parameters())
    named.update((n, b) for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var")))
    for name, tensor in named.items():
        key = name[len(prefix) :] if prefix and name.startswith(prefix) else name
        tensor.copy_(torch.as_tensor(values(key, tuple(tensor.shape)), dtype=tensor.dtype))
    return module


def noise(name, shape, scale=0.1):
    """float32 test input of `shape`, fixed by `name`; for waveforms, white noise of standard deviation `scale`."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return (scale * rng.standard_normal(shape)).astype(np.float32)
