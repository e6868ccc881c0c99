"""What is logged of an autoencoder of features while it trains: scores, use of the codes, channels that carry nothing.
Entry points: scalars, tracker_of (CodeFigures, ChannelFigures), restart_codes, validate, picture.
"""

import torch
from matplotlib.image import imread

from engine import distributed
from models.blocks.quantiser import epoch_usage, restart_dead
from Reconstruction import SCORES, log_perplexity, usage_of
from scoring.reconstruction_plots import draw_reconstruction

COLLAPSED_NATS = 0.01  # of a channel and position: it hardly depends on the input
MOST_ROWS = 128  # groups or channels that have a figure of their own in the log


def scalars(out) -> dict[str, torch.Tensor]:
    """Return the batch's means of what a model gives (its Output) but for the loss, by their names in the log."""
    found = {name: getattr(out, field).mean() for field, name in SCORES.items() if hasattr(out, field)}
    found.pop("loss")
    if hasattr(out, "log_perplexity"):
        found["perplexity"] = out.log_perplexity.exp()
    return found


class CodeFigures:
    """How the codebooks are used in the epoch so far, over all ranks: a tracker of engine.state.State.

    The counts are buffers of the quantiser; here are the codewords that have died and were restarted since the last
    entry of the log.
    """

    def __init__(self, net, device: torch.device | str = "cpu"):
        self.quantiser, self.dead = net.quantiser, torch.zeros((), dtype=torch.int64, device=device)

    def add(self, out, mask):
        """Do nothing: the quantiser counts."""

    def named_means(self, prefix: str = "") -> dict[str, float]:
        """Return the figures for the log by name: means over groups, the least, and those of each group."""
        found = epoch_usage(self.quantiser)
        named = {"codes_used": found["used"].tolist(), "epoch_perplexity": found["perplexity"].tolist()}
        figures = {}
        for name, values in named.items():
            figures |= {name: sum(values) / len(values), f"{name}_least": float(min(values))}
            figures |= rows(name, values)
        figures["dead_codes"] = float(self.dead)
        self.dead.zero_()
        return {prefix + name: value for name, value in figures.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all there is, as tensors."""
        return {"dead": self.dead}

    def load_state_dict(self, stored: dict[str, torch.Tensor]):
        """Take over what state_dict() returned."""
        self.dead.copy_(stored["dead"])


class ChannelFigures:
    """KL divergence of each latent channel since the last entry of the log, over all ranks: a tracker, as CodeFigures.

    It is in nats per position; a channel near 0 has collapsed to its prior.
    """

    def __init__(self, net, device: torch.device | str = "cpu"):
        self.stride = net.pair.stride
        self.sums = torch.zeros(net.pair.latent_channels + 1, dtype=torch.float64, device=device)

    def add(self, out, mask):
        """Take in the Output of a batch with the frames that count (batch, frames); every rank must call it."""
        positions = mask.sum()[None] / self.stride
        self.sums += distributed.sum_over_ranks(torch.cat([out.kl_per_channel.detach().sum(0), positions]).double())

    def named_means(self, prefix: str = "") -> dict[str, float]:
        """Return the figures for the log by name: how many channels have collapsed, and the divergence of each."""
        channels = (self.sums[:-1] / self.sums[-1].clamp(min=1)).tolist()
        self.sums.zero_()
        figures = {"collapsed_channels": collapsed(channels), **rows("kl_channel", channels)}
        return {prefix + name: value for name, value in figures.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all there is, as tensors."""
        return {"sums": self.sums}

    def load_state_dict(self, stored: dict[str, torch.Tensor]):
        """Take over what state_dict() returned."""
        self.sums.copy_(stored["sums"])


def tracker_of(net, device):
    """Return the tracker for a network, or None: an AE has neither codes nor a divergence."""
    if hasattr(net, "quantiser"):
        return CodeFigures(net, device)
    return ChannelFigures(net, device) if hasattr(net, "posterior") else None


def rows(name: str, values: list[float]) -> dict[str, float]:
    """Return figures of groups or channels under numbered names, none of a single one or of too many."""
    return (
        {f"{name}/{row:03d}": float(value) for row, value in enumerate(values)}
        if len(values) in range(2, MOST_ROWS)
        else {}
    )


def collapsed(channels: list[float]) -> float:
    """Return how many channels of so many nats per position carry nothing."""
    return float(sum(value < COLLAPSED_NATS for value in channels))


# ---------------------------------------------------------------- codes


@torch.no_grad()
def restart_codes(net, state, tracker: CodeFigures):
    """Restart the dead codewords after a step, in the averages of the weights too, which would follow slowly.

    After the first step the averages take over all of them: they were random before.
    """
    dead = restart_dead(net.quantiser, state.step, state.optimizer)
    tracker.dead += dead.sum()
    taken = torch.ones_like(dead) if state.step == 1 else dead
    for weights in state.ema.values():
        for name in ("codebook", "accumulators", "counts"):
            own = getattr(net.quantiser, name, None)
            if own is not None:
                average = weights[f"quantiser.{name}"]
                average.copy_(torch.where(taken if own.dim() == 2 else taken[..., None], own, average))


# ---------------------------------------------------------------- validation


@torch.no_grad()
def validate(net, loader, show=None) -> dict[str, float]:
    """Return the scores over the chunks of a loader, each alike, and what it chooses a checkpoint by.

    The network must be in evaluation mode, where latents are means.

    Args:
        show: called with input and target (1, bins, frames) of the first chunk.
    """
    sums, count, usage, channels, frames = {}, 0, 0, 0, 0
    for x, target, mask, *_ in loader:
        if show and not count:
            show(x[:1], target[:1])
        out = net(x, target, mask)
        for field, name in SCORES.items():
            if hasattr(out, field):
                sums[name] = sums.get(name, 0) + getattr(out, field).double().sum()
        count += len(x)
        if hasattr(out, "codes"):
            usage = usage + usage_of(out.codes.transpose(0, 1), net.quantiser.codewords)
        if hasattr(out, "kl_per_channel"):
            channels, frames = channels + out.kl_per_channel.double().sum(0), frames + mask.sum()
    figures = {f"valid_{name}": float(total) / count for name, total in sums.items()}
    if torch.is_tensor(usage):
        figures["valid_perplexity"] = float(torch.tensor(log_perplexity(usage)).exp())
        figures["valid_codes_used"] = float((usage > 0).sum(1).float().mean())
    if torch.is_tensor(channels):
        figures["valid_collapsed_channels"] = collapsed((channels * net.pair.stride / frames).tolist())
    return {**figures, "choose": figures["valid_loss"]}


@torch.no_grad()
def picture(net, x, target, folder, log, step: int):
    """Draw a chunk (1, bins, frames), its reconstruction and its latents into reconstructions/ of the run folder.

    One that is there stays: weights of an earlier step are judged again when the run ends.
    """
    path = folder / "reconstructions" / f"step_{step:06d}.png"
    if path.exists():
        return
    latents = net.encode(x)[0].flatten(0, -2).cpu().numpy()
    panels = {"original": target[0].cpu().numpy(), "reconstruction": net.reconstruct(x)[0].cpu().numpy()}
    if not torch.equal(x, target):
        panels["what goes in"] = x[0].cpu().numpy()
    quantiser = getattr(net, "quantiser", None)
    draw_reconstruction(path, panels, latents, quantiser.codewords if quantiser else 0, f"step {step}")
    log.picture("reconstruction", imread(path), step)
