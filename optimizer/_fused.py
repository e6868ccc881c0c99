"""Whether torch's one-kernel optimizer step can be used.
Entry point: with_fused.
"""

from collections.abc import Iterable

import torch

DEVICES = ("cpu", "cuda")


def with_fused(parameters: Iterable) -> tuple[list, bool]:
    """Return the parameters (or parameter groups) as a list, and True where the fused step supports them.

    It needs real floating-point parameters that are all on the CPU or all on CUDA devices.
    """
    given = list(parameters)
    tensors = [t for item in given for t in (item["params"] if isinstance(item, dict) else [item])]
    kinds = {t.device.type for t in tensors}
    return given, len(kinds) == 1 and kinds <= set(DEVICES) and all(torch.is_floating_point(t) for t in tensors)
