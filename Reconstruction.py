"""What an autoencoder of features makes of whole utterances, long ones in pieces that overlap.
Entry points: pieces_of, measure (reconstruction and scores), encode, decode, size_of.
"""

from typing import NamedTuple

import torch
from torch import nn

from scoring import compression

# fields of the models' outputs, one number for each utterance, and their names in tables and logs
SCORES = {
    "loss": "loss", "elbo": "elbo", "log_px": "log_px", "kl": "kldiv_z", "vq_loss": "vq_loss", "mse": "mse", "l1": "l1",
}  # fmt: skip
# read beside what is kept of a piece: the deepest published network without attention sees 113 frames
CONTEXT_FRAMES = 200
LEAST_PIECE_SECONDS = 10  # so that most of a piece is kept


class Measured(NamedTuple):
    """`scores` {name: number} in nats per dimension where they are nats; `mean` of p(x|z) (bins, frames); `codes`
    (groups, [bands,] positions) of a VQ-VAE, else None; `kl_per_channel` (channels,) nats of a VAE, else None."""

    scores: dict[str, float]
    mean: torch.Tensor
    codes: torch.Tensor | None
    kl_per_channel: torch.Tensor | None


def pieces_of(net: nn.Module, frames: int, longest: int = 0) -> list[tuple[slice, slice]]:
    """Return which positions of the latents are looked at together, and which of these are kept.

    An utterance of at most `longest` frames is one piece, as every one is where that is 0. Else a piece has as many
    frames, of which CONTEXT_FRAMES at either end, where there is speech, only tell the network what lies around.
    """
    stride, positions = net.pair.stride, net.pair.encoder.out_frames(frames)
    if not longest or frames <= longest:
        return [(slice(0, positions), slice(0, positions))]
    context = -(-CONTEXT_FRAMES // stride)
    step = max(1, longest // stride - 2 * context)
    found = []
    for first in range(0, positions, step):
        last = min(first + step, positions)
        start = max(0, first - context)
        found.append((slice(start, min(last + context, positions)), slice(first - start, last - start)))
    return found


def _frames(positions: slice, stride: int, frames: int) -> slice:
    """Return the frames of `positions`, of an utterance or a piece of so many."""
    return slice(positions.start * stride, min(positions.stop * stride, frames))


@torch.inference_mode()
def measure(net: nn.Module, x, target=None, longest: int = 0, eps=None) -> Measured:
    """Reconstruct one utterance and measure how well, exactly the frames that are there.

    Args:
        x: features (1, bins, frames); target: clean ones, None for `x`.
        longest: see pieces_of.
        eps: standard normal, of the latents' shape, for a VAE that takes a sample of q(z|x); None: its mean.
    """
    target, stride = x if target is None else target, net.pair.stride
    pieces, found = pieces_of(net, x.shape[2], longest), []
    for read, kept in pieces:
        cut = _frames(read, stride, x.shape[2])
        part = x[..., cut]
        own = _frames(kept, stride, part.shape[2])
        mask = None
        if len(pieces) > 1:
            mask = torch.zeros(1, part.shape[2], dtype=torch.bool, device=x.device)
            mask[:, own] = True
        given = {} if eps is None else {"eps": eps[..., read]}
        found.append((net(part, target[..., cut], mask, **given), own, kept))
    frames = torch.tensor([own.stop - own.start for _, own, _ in found], dtype=torch.float64)
    positions = torch.tensor([kept.stop - kept.start for _, _, kept in found], dtype=torch.float64)
    scores = {}
    for field, name in SCORES.items():
        if hasattr(found[0][0], field):
            weights = positions if field == "vq_loss" else frames
            values = torch.stack([getattr(out, field)[0].double().cpu() for out, _, _ in found])
            scores[name] = float(values @ weights / weights.sum())
    codes = per_channel = None
    if hasattr(found[0][0], "codes"):
        codes = torch.cat([out.codes[0][..., kept] for out, _, kept in found], -1)
        scores["log_perplexity"] = log_perplexity(usage_of(codes, net.quantiser.codewords))
        # the term of the perplexity is that of the utterance, not of its pieces
        scores["loss"] = scores["vq_loss"] - scores["elbo"] - net.diversity_weight * scores["log_perplexity"]
    if hasattr(found[0][0], "kl_per_channel"):
        per_channel = sum(out.kl_per_channel[0].double() for out, _, _ in found).cpu()
    return Measured(scores, torch.cat([out.mean[0][:, own] for out, own, _ in found], 1), codes, per_channel)


def usage_of(codes: torch.Tensor, codewords: int) -> torch.Tensor:
    """Return how often each codeword occurs in `codes` (groups, ...), (groups, codewords) int64 on the CPU."""
    rows = codes.flatten(1).cpu()
    offsets = codewords * torch.arange(len(rows))[:, None]
    return torch.bincount((rows + offsets).flatten(), minlength=len(rows) * codewords).view(len(rows), codewords)


def log_perplexity(usage: torch.Tensor) -> float:
    """Return the mean over groups of the entropy of `usage` (groups, codewords), nats."""
    share = usage.double() / usage.sum(1, keepdim=True).clamp(min=1)
    return float(torch.special.entr(share).sum(1).mean())


@torch.inference_mode()
def encode(net: nn.Module, x, longest: int = 0) -> torch.Tensor:
    """Return the latents of one utterance (1, bins, frames), of a VQ-VAE the codes: (1, channels or groups, ...)."""
    found = []
    for read, kept in pieces_of(net, x.shape[2], longest):
        found.append(net.encode(x[..., _frames(read, net.pair.stride, x.shape[2])])[..., kept])
    return torch.cat(found, -1)


@torch.inference_mode()
def decode(net: nn.Module, latents, frames: int, longest: int = 0) -> torch.Tensor:
    """Return features (1, bins, frames) of the latents or codes of one utterance of `frames`."""
    found, stride = [], net.pair.stride
    for read, kept in pieces_of(net, frames, longest):
        cut = _frames(read, stride, frames)
        count = cut.stop - cut.start
        found.append(net.decode(latents[..., read], count)[..., _frames(kept, stride, count)])
    return torch.cat(found, -1)


@torch.inference_mode()
def reconstruct(net: nn.Module, x, longest: int = 0) -> torch.Tensor:
    """Return the reconstruction (1, bins, frames) of one utterance, of a VAE from the mean of q(z|x)."""
    if not longest or x.shape[2] <= longest:
        return net.reconstruct(x)
    return decode(net, encode(net, x, longest), x.shape[2], longest)


def bands_of(net: nn.Module) -> int:
    """Return how many positions lie above each other in the latents, 1 for networks along time alone."""
    shape = net.pair.shape(1)
    return shape[0] if len(shape) == 2 else 1


def size_of(net: nn.Module) -> dict[str, float]:
    """Return `parameters`, `compression` (bits by bits, or numbers by numbers where latents are numbers), `latents`
    (numbers or codes a second), and of a VQ-VAE `bits_per_second`."""
    stride, bands = net.pair.stride, bands_of(net)
    size = {"parameters": sum(p.numel() for p in net.parameters())}
    if hasattr(net, "quantiser"):
        groups, codewords = net.quantiser.groups, net.quantiser.codewords
        return {
            **size, "compression": compression.ratio_of_codes(net.bins, groups, codewords, stride, bands),
            "latents": compression.FRAMES_PER_SECOND / stride * bands * groups,
            "bits_per_second": compression.bits_per_second(groups, codewords, stride, bands),
        }  # fmt: skip
    channels = net.pair.latent_channels
    return {
        **size, "compression": net.bins * stride / (channels * bands),
        "latents": compression.FRAMES_PER_SECOND / stride * bands * channels,
    }  # fmt: skip
