"""A waveform VQ-VAE with its diffusion process: what training calls, files of all layouts, codes, predictions.
Entry points: VQVAENet, load, condition_of, predict, losses_given, original_payload.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import DiffusionNet
from diffusion import guidance, objective, schedules
from models.blocks import vq

TASK = "vqvae"


class VQVAENet(nn.Module):
    """Network (its parts are ours, so that state dicts have the names of vq-voice-swap), schedule, losses of training.

    Args:
        network: of models.WaveVQVAE's form, with predictor, encoder and vq.
        schedule: a name of diffusion.schedules.
        none_label: label 0 of the network is "no speaker", and the speakers' labels are one higher.
        no_class_prob: share of the labels left out in training, which needs none_label.
        no_vq_prob: share of the sequences of codes left out in training, for which zeros stand; None where unknown.
        jitter: see models.blocks.vq.jitter; in training.
        commitment: weight of the latents' own part in the loss of the quantiser.
        revival: weight of the loss that draws unused codes to the data, in place of reviving them.
        frozen: parts that never learn, by the beginning of their names; see engine.groups.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: str = "exp",
        none_label: bool = False,
        no_class_prob: float = 0.0,
        no_vq_prob: float | None = 0.0,
        jitter: float = 0.0,
        commitment: float = 0.25,
        revival: float = 0.0,
        frozen: tuple[str, ...] = (),
    ):
        super().__init__()
        if none_label and network.num_labels is None:
            raise ValueError("a network without labels has none for no speaker")
        if no_class_prob and not none_label:
            raise ValueError("labels can be left out only where a label stands for none")
        self.whole = (network,)  # in a tuple, or its parameters would have two names
        self.predictor, self.encoder, self.vq = network.predictor, network.encoder, network.vq
        self.schedule = schedules.check_schedule(schedule)
        self.none_label, self.no_class_prob, self.no_vq_prob = none_label, no_class_prob, no_vq_prob
        self.jitter, self.commitment, self.revival, self.frozen = jitter, commitment, revival, frozen

    @property
    def network(self) -> nn.Module:
        """The network with all its parts."""
        return self.whole[0]

    @property
    def rate(self) -> int:
        """The length of a wave must be a multiple of so many samples."""
        return self.network.rate

    @property
    def speakers(self) -> int | None:
        """The number of labels of speakers, None for a network without labels."""
        labels = self.network.num_labels
        return labels - 1 if labels and self.none_label else labels

    def freezing(self) -> dict[str, None]:
        """Return what never learns; see engine.groups.freezer_of."""
        return dict.fromkeys(self.frozen)

    def forward(self, x0, t, eps, label=None, u=None):
        """Return the mean squared error of each sequence (batch,), the loss of the quantiser and the codes (batch, T').

        Training lowers mean + loss. In training mode codes, labels and neighbours are exchanged at random.

        Args:
            x0: clean waves (batch, samples); eps: N(0, 1) of their shape; t: times (batch,) of U(0, 1).
            label: speakers (batch,), counted from 0.
            u: (batch, 2 + samples / encoder.rate) of U(0, 1), in training: they decide where the label and where the
                codes are left out, then where a position takes a neighbour's code.
        """
        found, drawn, label = {}, {}, self.label_of(label)
        if self.training:
            drawn = {"jitter": self.jitter, "jitter_draws": u[:, None, 2:]}
            drawn |= {"no_vq_prob": self.no_vq_prob or 0.0, "no_vq_draws": u[:, 1]}
            if label is not None and self.no_class_prob:
                label = torch.where(u[:, 0] < self.no_class_prob, 0, label)

        def predict(x, times):
            found["out"] = self.network(x, times, x0[:, None], label, **drawn)
            return found["out"].prediction

        losses = objective.losses(predict, x0[:, None], t, eps[:, None], self.schedule)
        out = found["out"]
        loss = vq.vq_loss(out.latents, out.embedded, self.commitment)
        if self.revival:
            loss = loss + self.revival * vq.revival_loss(out.latents, self.vq.dictionary)
        return losses, loss, out.codes

    def label_of(self, label):
        """Return the labels of the network for those of speakers (batch,), None for a network without."""
        return None if label is None or self.speakers is None else label + self.none_label


# ---------------------------------------------------------------- what a trained one says


@torch.no_grad()
def condition_of(
    net: VQVAENet, samples: torch.Tensor, quantise: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return what the predictor is told of clean waves (batch, samples), and their codes (batch, positions), int64.

    Args:
        quantise: the values of the codes; False: the encoder's output as it is. Both are (batch, channels, positions).

    Raises:
        ValueError: the number of samples is no multiple of net.encoder.rate.
    """
    latents = net.network.latents(samples[:, None].to(next(net.parameters()).device))
    found = net.vq(latents)
    return (found.embedded if quantise else latents.float()), found.codes


def losses_given(net: VQVAENet, x0, t, eps, label=None, cond=None) -> torch.Tensor:
    """Return the mean squared error of each sequence (batch,) with any condition; arguments as in VQVAENet.

    Args:
        cond: as condition_of returns it, None for no codes.
    """
    cond = no_codes(net, len(x0)) if cond is None else cond
    given = DiffusionNet.present(label=net.label_of(label), cond=cond)
    return objective.losses(
        lambda x, times: net.predictor(x, times, **given), x0[:, None], t, eps[:, None], net.schedule
    )


def no_codes(net: VQVAENet, rows: int, positions: int = 1) -> torch.Tensor:
    """Return what stands for no codes; the network stretches any number of positions over a wave."""
    return net.vq.dictionary.new_zeros(rows, net.vq.dictionary.shape[1], positions)


def predict(
    net: VQVAENet,
    cond: torch.Tensor | None,
    label: torch.Tensor | None = None,
    label_scale: float = 0.0,
    vq_scale: float = 0.0,
) -> Callable:
    """Return the function of x (batch, [1,] samples) and t (batch,) that gives the noise, for the samplers.

    Args:
        cond: as condition_of returns it; of a network trained with --no_vq_prob also None, for no codes.
        label: speakers (batch,), counted from 0. A network with a label for none can do without.
        label_scale, vq_scale: weights of classifier-free guidance (Ho and Salimans 2207.12598): 0 is none, 1 goes twice
            as far from the answer without the condition.

    Raises:
        ValueError: a condition that the network has not, a missing one, labels beyond it, or guidance that it was not
            trained for.
    """
    for name, weight, given, able, flag in (
        ("label", label_scale, label, net.none_label, "--no_class_prob"),
        ("codes", vq_scale, cond, net.no_vq_prob != 0, "--no_vq_prob"),
    ):
        if weight and given is None:
            raise ValueError(f"classifier-free guidance by {name} needs {name} to guide to")
        if weight and not able:
            raise ValueError(f"classifier-free guidance by {name}: this network was trained without {flag}")
    if cond is None and net.no_vq_prob == 0:
        raise ValueError("this network needs codes for each sample: it was trained without --no_vq_prob")
    if label is not None and net.speakers is None:
        raise ValueError("this network was trained without labels: leave out the label")
    if label is None and net.speakers is not None and not net.none_label:
        raise ValueError("this network needs a label for each sample")
    network = DiffusionNet.on_waves(net.predictor)
    if label is None and cond is None:

        def unconditional(x, t):
            return network(x, t, **none_of(net, len(x)))

        return unconditional
    none = none_of(net, len(label if cond is None else cond), 1 if cond is None else cond.shape[2])
    label = None if label is None else DiffusionNet.checked_labels(net, label, net.none_label)
    conditions = {**none, **DiffusionNet.present(label=label, cond=cond)}
    return guidance.classifier_free(network, conditions, none, {"label": label_scale, "cond": vq_scale})


def none_of(net: VQVAENet, rows: int, positions: int = 1) -> dict[str, torch.Tensor]:
    """Return what stands for none of each condition that the network can do without or may be tried without."""
    none = {"cond": no_codes(net, rows, positions)}
    if net.none_label:
        none["label"] = torch.zeros(rows, dtype=torch.int64, device=none["cond"].device)
    return none


# ---------------------------------------------------------------- files


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    ema: str | float | None = None,
    schedule: str | None = None,
    none_label: bool | None = None,
) -> tuple[VQVAENet, dict]:
    """Return the network of a checkpoint or of a file in the original layout, in evaluation mode, and its card.

    The card is {"class", "kwargs", "meta"}; its meta holds schedule, encoding, sample_rate (Hz), window (samples),
    speakers (names by label, None where unknown), none_label, no_class_prob, no_vq_prob (None where unknown) and, of
    the original layout, assumed: which of these the file does not say.

    Args:
        ema: as in DiffusionNet.load_network.
        schedule: of a file that does not say.
        none_label: of a file that does not say: label 0 is "no speaker" (default: it is the first speaker).

    Raises:
        FileNotFoundError, ValueError: see DiffusionNet.load_network; or another schedule or none_label is stated.
    """
    network, card = DiffusionNet.load_network(path, TASK, device, ema)
    meta = {**card["meta"], "schedule": DiffusionNet.schedule_of(card, schedule, path)}
    stated = meta.get("none_label")
    if None not in (stated, none_label) and stated != none_label:
        raise ValueError(f"{path} was trained {'with' if stated else 'without'} a label for no speaker")
    meta["none_label"] = bool(none_label) if stated is None else stated
    meta["no_vq_prob"], meta["no_class_prob"] = meta.get("no_vq_prob"), meta.get("no_class_prob")
    try:
        net = VQVAENet(network, meta["schedule"], meta["none_label"], no_vq_prob=meta["no_vq_prob"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be rebuilt from what it says of itself: {error}") from None
    return net.to(device).eval(), {**card, "meta": meta}


def original_payload(net: VQVAENet, meta: dict | None = None) -> dict:
    """Return what a file of `net` in the original layout holds, with our `meta` as one more key."""
    return {**net.network.to_original(net.schedule), **({"meta": dict(meta)} if meta else {})}
