"""Files of what autoencoders of features make of recordings: codes in few bytes, latents, features as arrays.
Entry points: model_hash, pack, unpack, write_arrays, read_latents.
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import Reconstruction
from audio.code_stream import HEADER, bits_per_code, from_bytes, to_bytes
from scoring import compression
from scoring.embeddings import whole_file

CODES = ".codes"
# of a quantiser, what decides nothing of what is decoded
STATISTICS = ("accumulators", "counts", "idle", "usage", "started")


class Latents(NamedTuple):
    """What an utterance of `frames` became: `values` (1, channels or groups, [bands,] positions), codes where int64."""

    values: torch.Tensor
    frames: int


def model_hash(net: torch.nn.Module) -> str:
    """Return the sha256 of the weights that encode and decode, by which codes know their network."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        if name.rpartition(".")[2] not in STATISTICS:
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pack(net: torch.nn.Module, codes: torch.Tensor, frames: int, sha256: str) -> bytes:
    """Return the bytes of the codes (1, groups, [bands,] positions) of an utterance.

    Raises:
        RuntimeError: they do not give the same codes back, or are of another size than the bit rate says.
    """
    own, codewords = codes[0].cpu().numpy(), net.quantiser.codewords
    data = to_bytes(own, codewords, frames, sha256)
    back = from_bytes(data, sha256)
    seconds = own.shape[-1] * net.pair.stride / compression.FRAMES_PER_SECOND
    stated = rate_of(net) * seconds
    if back.frames != frames or not np.array_equal(back.codes, own) or not 0 <= round(size_of(data) - stated, 3) < 8:
        raise RuntimeError(f"codes of {frames} frames: {size_of(data)} bits do not give back {stated:g} bits of codes")
    return data


def size_of(data: bytes) -> int:
    """Return the bits of the codes in a stream, its header not counted."""
    return 8 * (len(data) - HEADER.size)


def rate_of(net: torch.nn.Module) -> float:
    """Return the bits a second of whole positions in files: log2 of the codewords is rounded up there."""
    whole = 2 ** bits_per_code(net.quantiser.codewords)
    bands = Reconstruction.bands_of(net)
    return compression.bits_per_second(net.quantiser.groups, whole, net.pair.stride, bands)


def unpack(net: torch.nn.Module, path: str | Path, sha256: str) -> Latents:
    """Read a file of codes or latents of one utterance.

    Raises:
        FileNotFoundError, ValueError: no such file, damaged, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of codes or latents")
    if path.suffix.lower() == ".npz":
        found, made_by = read_latents(path)
        if made_by != sha256:
            raise ValueError(f"{path}: latents of the model {made_by[:16]}, this one is {sha256[:16]}")
    elif not hasattr(net, "quantiser"):
        raise ValueError(f"{path}: codes need a VQ-VAE, this network has latents: give .npz files of --latents")
    else:
        try:
            stream = from_bytes(path.read_bytes(), sha256)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if stream.codewords != net.quantiser.codewords:
            raise ValueError(f"{path}: of {stream.codewords} codewords, this network has {net.quantiser.codewords}")
        found = Latents(torch.from_numpy(stream.codes)[None], stream.frames)
    channels = net.quantiser.groups if hasattr(net, "quantiser") else net.pair.latent_channels
    wanted = (channels, *net.pair.shape(found.frames))
    if tuple(found.values.shape[1:]) != wanted or found.values.is_floating_point() == hasattr(net, "quantiser"):
        raise ValueError(f"{path}: latents of shape {tuple(found.values.shape[1:])}, this network has {wanted}")
    codewords = net.quantiser.codewords if hasattr(net, "quantiser") else math.inf
    if hasattr(net, "quantiser") and not 0 <= int(found.values.min()) <= int(found.values.max()) < codewords:
        raise ValueError(f"{path}: codes must be from 0 to {codewords - 1}")
    return found


def write_arrays(path: str | Path, **arrays):
    """Write an .npz, whole or not at all."""
    with whole_file(path, sync=False) as file:
        np.savez(file, **arrays)


def read_latents(path: str | Path) -> tuple[Latents, str]:
    """Read the latents of one utterance, and the hash of the network that made them.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            values, frames, made_by = archive["latents"], int(archive["frames"]), str(archive["model"])
    except Exception:  # numpy raises all kinds on damaged bytes
        raise ValueError(f"{path}: not an .npz file of the latents of one recording") from None
    if values.dtype.kind not in "iuf" or not values.size or not np.isfinite(values).all() or frames < 1:
        raise ValueError(f"{path}: its latents are {values.dtype} {values.shape} of {frames} frames, or not finite")
    kind = np.float32 if values.dtype.kind == "f" else np.int64
    return Latents(torch.from_numpy(values.astype(kind))[None], frames), made_by
