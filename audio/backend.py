"""The only place that imports torchaudio, also beside a CPU-only torch where its compiled extension cannot load.

Entry point: load_torchaudio(), called inside the function that needs it."""

import importlib
import sys
import types

import torch


def load_torchaudio():
    """Return the torchaudio module.

    PyPI's torchaudio is built against CUDA: beside a torch without CUDA its compiled extension cannot be loaded, though
    nothing here needs it. A stand-in for `torchaudio._extension` then reports the extension as unavailable.

    Raises ImportError with the install line where torchaudio is absent.
    """
    if torch.version.cuda is None and "torchaudio" not in sys.modules:
        sys.modules["torchaudio._extension"] = _no_extension()
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        sys.modules.pop("torchaudio._extension", None)
        raise ImportError("torchaudio is needed here: pip install torchaudio==2.11.0") from error


def _no_extension():
    """Make a module that answers torchaudio's questions about its extension with "not available"."""
    module = types.ModuleType("torchaudio._extension")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._check_cuda_version = lambda: None
    module.fail_if_no_align = lambda function: function
    return module
