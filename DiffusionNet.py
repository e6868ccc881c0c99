"""A noise predictor with its diffusion process: what training calls, files of all layouts, predictions for samplers.
Entry points: DiffusionNet, load, load_network, predict, save_original, speaker_label.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from diffusion import guidance, objective, schedules
from engine import checkpoint, registry
from engine.args import nearest
from models.blocks import original

TASK = "diffusion"
# What a file in the original layout does not say: it was made for these.
ORIGINAL = {"target": "eps", "encoding": "linear", "sample_rate": 16000, "window": 64000, "cond_dropout": 0.0}


class DiffusionNet(nn.Module):
    """Network (`predictor`, so that state dicts have the names of vq-voice-swap), schedule and target of the training.

    Args:
        network: called as network(x (batch, 1, samples), t (batch,), label=, vector=) where it takes these.
        schedule: a name of diffusion.schedules.
        target: what the network predicts, eps, v or x0.
        cond_dropout: share of the conditions left out in training. Where above 0, label 0 of the network is "no
            label", the speakers' labels are one higher, and a vector of zeros is "no vector".
        cond: what vectors lose before the network sees them, {"mean": (dim,), "scale": number}, as plain data.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: str = "exp",
        target: str = "eps",
        cond_dropout: float = 0.0,
        cond: dict | None = None,
    ):
        super().__init__()
        self.predictor = network
        self.schedule = schedules.check_schedule(schedule)
        self.target = objective.check_target(target)
        self.cond_dropout = cond_dropout
        mean, scale = ([0.0], 1.0) if cond is None else (cond["mean"], cond["scale"])
        if len(mean) not in (1, self.cond_dim):
            raise ValueError(f"a mean of {len(mean)} numbers for vectors of {self.cond_dim}")
        self.register_buffer("cond_mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.cond_scale = float(scale)

    @property
    def rate(self) -> int:
        """The length of a wave must be a multiple of so many samples."""
        return self.predictor.rate

    @property
    def speakers(self) -> int | None:
        """The number of labels of speakers, None for a network without labels."""
        labels = self.predictor.num_labels
        return labels - 1 if labels and self.cond_dropout > 0 else labels

    @property
    def cond_dim(self) -> int | None:
        """The size of the vector that is given with each wave, None for a network without."""
        return getattr(self.predictor, "cond_dim", None)

    def forward(self, x0, t, eps, label=None, vector=None, u=None):
        """Return the mean squared error of each sequence (batch,), what training lowers.

        Args:
            x0: clean waves (batch, samples); eps: N(0, 1) of their shape; t: times (batch,) of U(0, 1).
            label: speakers (batch,), counted from 0; vector: (batch, cond_dim), as it stands in its table.
            u: (batch, 2) of U(0, 1), which decide by --cond_dropout where label and vector are left out.
        """
        vector = None if vector is None else self.standard(vector)
        if self.cond_dropout > 0:
            if label is not None:
                label = guidance.drop_labels(label, u[:, 0], self.cond_dropout)
            if vector is not None:
                vector = torch.where(u[:, 1:2] < self.cond_dropout, 0.0, vector)
        given = present(label=label, vector=vector)
        return objective.losses(
            lambda x, times: self.predictor(x, times, **given), x0[:, None], t, eps[:, None], self.schedule, self.target
        )

    def standard(self, vector):
        """Return vectors (batch, cond_dim) about zero and of about unit variance, as strong as a label."""
        return (vector - self.cond_mean) / self.cond_scale


def present(**conditions) -> dict:
    """Return the conditions that are not None."""
    return {name: value for name, value in conditions.items() if value is not None}


# ---------------------------------------------------------------- sampling


def predict(
    net: DiffusionNet,
    label: torch.Tensor | None = None,
    vector: torch.Tensor | None = None,
    label_scale: float = 0.0,
    vector_scale: float = 0.0,
) -> Callable:
    """Return the function of x (batch, [1,] samples) and t (batch,) that gives the noise, for the samplers.

    Args:
        label: speakers (batch,), counted from 0. A network trained with --cond_dropout can do without.
        vector: (batch, cond_dim), as it stands in its table, likewise.
        label_scale, vector_scale: weights of classifier-free guidance, which needs --cond_dropout (Ho and Salimans
            2207.12598): 0 is none, 1 goes twice as far from the answer without the condition.

    Raises:
        ValueError: a condition that the network has not, a missing one, labels or vectors of other sizes, or guidance
            that it was not trained for.
    """
    given = {"label": label, "vector": vector}
    for name, weight in (("label", label_scale), ("vector", vector_scale)):
        if weight and given[name] is None:
            raise ValueError(f"classifier-free guidance by {name} needs a {name} to guide to")
        if weight and net.cond_dropout == 0:
            raise ValueError(f"classifier-free guidance by {name}: this network was trained without --cond_dropout")
    wanted = {name: _checked(net, name, value) for name, value in given.items()}
    network = on_waves(net.predictor)

    def without(rows):
        return {name: value for name, value in none_of(net, rows).items() if wanted[name] is None}

    if present(**wanted):
        rows = len(next(iter(present(**wanted).values())))
        conditions = {**present(**wanted), **without(rows)}
        weights = {"label": label_scale, "vector": vector_scale}
        answer = guidance.classifier_free(network, conditions, none_of(net, rows), weights)
    else:

        def answer(x, t):
            return network(x, t, **without(len(x)))

    # noise, v and x0 at one x_t are affine in each other: to guide one is to guide all
    return objective.as_eps(answer, net.schedule, net.target)


def on_waves(predictor: nn.Module) -> Callable:
    """Return the function of x (batch, [1,] samples), t (batch,) and conditions that calls a network, in float32."""

    def network(x, t, **conditions):
        waves = x if x.dim() == 3 else x[:, None]
        return predictor(waves.float(), t.float(), **conditions).reshape(x.shape)

    return network


def none_of(net: DiffusionNet, rows: int) -> dict[str, torch.Tensor]:
    """Return what stands for "none" of each condition, {} of a network trained without --cond_dropout."""
    if net.cond_dropout == 0:
        return {}
    device = next(net.parameters()).device
    none = {}
    if net.speakers is not None:
        none["label"] = torch.zeros(rows, dtype=torch.int64, device=device)
    if net.cond_dim is not None:
        none["vector"] = torch.zeros(rows, net.cond_dim, device=device)
    return none


def _checked(net, name, value):
    """Return a condition as the network takes it, on its device; errors as in predict."""
    size = net.speakers if name == "label" else net.cond_dim
    if value is None:
        if size is not None and net.cond_dropout == 0:
            raise ValueError(f"this network needs a {name} for each sample")
        return None
    if size is None:
        raise ValueError(f"this network was trained without {name}s: leave out the {name}")
    if name == "vector":
        device = next(net.parameters()).device
        if value.dim() != 2 or value.shape[1] != size or not value.isfinite().all():
            raise ValueError(f"vectors {tuple(value.shape)}: this network takes {size} finite numbers for each sample")
        return net.standard(value.float().to(device))
    return checked_labels(net, value, none_first=net.cond_dropout > 0)


def checked_labels(net: nn.Module, label: torch.Tensor, none_first: bool) -> torch.Tensor:
    """Return the labels of speakers (batch,) as a network takes them, on its device: one higher where 0 is "none".

    Raises:
        ValueError: one is beyond `net.speakers`.
    """
    wrong = label[(label < 0) | (label >= net.speakers)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])}: this network has the labels 0 to {net.speakers - 1}")
    return (label.long() + none_first).to(next(net.parameters()).device)


def speaker_label(card: dict, net: DiffusionNet, word: str) -> int:
    """Return the label of a speaker by name, or by number where no speaker has it as name.

    Raises:
        ValueError: there is no such speaker.
    """
    names = card["meta"].get("speakers") or []
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < (net.speakers or 0):
        return int(word)
    known = f"speakers {', '.join(names[:5])}{', ...' * (len(names) > 5)}" if names else "no names of speakers"
    raise ValueError(f"no speaker {word!r}{nearest(word, names)}: labels 0 to {(net.speakers or 0) - 1}, {known}")


def encoding_of(card: dict, given: str | None, path: str | Path) -> str:
    """Return the encoding of the samples that a network of any task is used on: what its file says, else the flag.

    Raises:
        ValueError: they differ.
    """
    meta = card["meta"]
    stated = meta.get("encoding") if "encoding" not in meta.get("assumed", ()) else None
    if given and stated and given != stated:
        raise ValueError(f"{path} was trained on {stated} samples, not {given}: leave --encoding out")
    return given or stated or "linear"


# ---------------------------------------------------------------- files


def load(
    path: str | Path, device: torch.device | str = "cpu", ema: str | float | None = None, schedule: str = ""
) -> tuple[DiffusionNet, dict]:
    """Return the network of a checkpoint or of a file in the original layout, in evaluation mode, and its card.

    The card is {"class", "kwargs", "meta"}; its meta holds schedule, target, encoding, sample_rate (Hz), window
    (samples), speakers (names by label, None where unknown), cond (what the vectors are, or None), cond_dropout and, of
    the original layout, assumed: which of these the file does not say.

    Args:
        ema: as in load_network.
        schedule: of a file that holds a predictor's weights alone, as written before 29 May 2021, which does not say.

    Raises:
        FileNotFoundError, ValueError: see load_network; or no schedule is known, or another one is stated.
    """
    network, card = load_network(path, TASK, device, ema)
    meta = {**card["meta"], "schedule": schedule_of(card, schedule, path)}
    try:
        net = DiffusionNet(network, meta["schedule"], meta["target"], float(meta["cond_dropout"]), meta["cond"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be rebuilt from what it says of itself: {error}") from None
    return net.to(device).eval(), {**card, "meta": meta}


def schedule_of(card: dict, given: str | None, path: str | Path) -> str:
    """Return the schedule of a file: what it says, else the one given.

    Raises:
        ValueError: they differ, or there is neither.
    """
    stated = card["meta"].get("schedule")
    if stated is None and not given:
        known = ", ".join(schedules.SCHEDULES)
        raise ValueError(f"{path} holds weights alone and does not say its schedule: give it, one of {known}")
    if stated and given and stated != given:
        raise ValueError(f"{path} was trained with schedule {stated}, not {given}")
    return stated or given


def load_network(
    path: str | Path, task: str, device: torch.device | str = "cpu", ema: str | float | None = None
) -> tuple[nn.Module, dict]:
    """Return the network of a model's file, ours or of vq-voice-swap, in evaluation mode, and its card.

    It serves the tasks diffusion, classifier, vqvae, encoder_predictor and autoencoder.

    Args:
        ema: rate of the averaged weights to take, "none" for those of the last step; None: the last rate there is.

    Raises:
        FileNotFoundError, ValueError: no such file, no network of the task, weights that do not fit, no such average.
    """
    payload = checkpoint.read(path)
    weights, card = checkpoint.weights_of(payload, path)
    if card:
        chosen = _averaged(payload, ema, path)
        weights, card = checkpoint.weights_of({**payload, "state_dict": chosen, "training": None}, path)
        folder, _, name = card["class"].partition(".")
        try:
            network = registry.load(folder, name, task)(**card["kwargs"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be rebuilt from what it says of itself: {error}") from None
        own = network.state_dict()
        if not all(n in own for n in weights):
            weights = original.inner_weights(weights) or weights
    else:
        if ema not in (None, "none"):
            raise ValueError(f"{path} holds one set of weights: averaged ones are in files of their own there")
        network, weights, card = _recognise(payload, weights, task, path)
    checkpoint.load_weights(network, weights, path)
    return network.to(device).eval(), card


def _averaged(payload, ema, path):
    """Return the weights of a checkpoint of ours as they stand there: an average, or those of the last step."""
    training = payload.get("training")
    averages = training.get("ema") if isinstance(training, dict) else None
    averages = averages if isinstance(averages, dict) else {}
    if ema is None:
        return list(averages.values())[-1] if averages else payload["state_dict"]
    if ema == "none":
        return payload["state_dict"]
    found = [weights for rate, weights in averages.items() if str(rate) == str(ema) or _is_rate(ema, rate)]
    if not found:
        known = ", ".join(map(str, averages)) or "none"
        raise ValueError(f"{path} holds no average of rate {ema}; it holds: {known}")
    return found[0]


def _is_rate(text, rate):
    try:
        return float(text) == rate
    except ValueError:
        return False


def _recognise(payload, weights, task, path):
    """Return network, weights and card of a file in the original layout."""
    stated, meta = (payload[key] if isinstance(payload.get(key), dict) else {} for key in ("kwargs", "meta"))
    weights = {name.removeprefix("__S__."): tensor for name, tensor in weights.items()}
    for name in registry.names("models", task):
        cls = registry.load("models", name)
        # one that is inherited is of another class's constructor
        found = cls.from_foreign(weights, stated) if "from_foreign" in vars(cls) else None
        if found is not None:
            kwargs, weights = found
            break
    else:
        known = ", ".join(registry.names("models", task))
        raise ValueError(f"{path} is no network for the task {task}; known here: {known}")
    try:
        network = cls(**kwargs)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be rebuilt from what it says of itself: {error}") from None
    schedule = {"schedule": stated["schedule_name"]} if "schedule_name" in stated else {}
    assumed = {"assumed": sorted(ORIGINAL.keys() - meta.keys())}
    meta = {**ORIGINAL, **assumed, "speakers": None, "cond": None, **schedule, **meta}
    return network, weights, {"class": f"models.{name}", "kwargs": kwargs, "meta": meta}


def original_payload(net: DiffusionNet, meta: dict | None = None) -> dict:
    """Return what a file of `net` in the original layout holds, with our `meta` as one more key.

    Raises:
        ValueError: the layout has no words for this network.
    """
    if net.target != "eps":
        raise ValueError(f"the original layout knows only networks of target eps, this one is of {net.target}")
    return {**net.predictor.to_original(net.schedule), **({"meta": dict(meta)} if meta else {})}


def save_original(path: str | Path, net: DiffusionNet, meta: dict | None = None):
    """Write `net` in the layout of vq-voice-swap, atomically; see original_payload."""
    checkpoint.write(path, original_payload(net, meta))
