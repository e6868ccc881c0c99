"""Autoencoders of log-mel features: from flags, or from a checkpoint, with the features that one was trained on.
Entry points: load, features_of, Features (of waves); add_arguments, chosen_classes, check, build.
"""

import inspect
from pathlib import Path

import torch
from torch import nn

import DiffusionNet
from audio.log_mel import SAMPLE_RATE, LogMel, sliding_normalisation
from engine import registry, run
from engine.args import add_bool, mapping, stored_args
from models.blocks.gaussians import KINDS as POSTERIORS
from models.blocks.gaussians import LIKELIHOODS
from models.blocks.quantiser import STARTS

TASK = "autoencoder"
# other names of the networks, and which of them are denoising
TYPES = {"ae": "AE", "vae": "VAE", "vqvae": "VQVAE", "dae": "AE", "dvae": "VAE", "vqdvae": "VQVAE"}
DENOISING = ("dae", "dvae", "vqdvae")
# flags that only networks read, see engine.registry.check_taken
FLAGS = (
    *("groups", "codewords", "likelihood", "posterior", "kl_weight", "commitment", "diversity_weight", "decay"),
    *("start", "dead_after", "update", "group_reduction", "soft_perplexity", "limit_std_to_prior", "least_std"),
    *("least_feature_std", "free_bits", "loss"),
)
# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "latent_channels": (1, None), "groups": (1, None), "codewords": (1, None), "kl_weight": (0, None),
    "kl_warmup_steps": (0, None), "commitment": (0, None), "diversity_weight": (0, None), "decay": (0, 1),
    "dead_after": (1, None), "least_std": (0, 1), "least_feature_std": (0, None), "free_bits": (0, None),
}  # fmt: skip
# sliding mean of the published features: frames on either side, no division by the deviation
NORMALISATION = {"left": 150, "right": 150, "variance": False}


class Features(nn.Module):
    """Normalised log-mel features of waves; `front_end` is the audio.log_mel.LogMel without the normalisation.

    Args:
        options: of the front end, as LogMel.options, and of NORMALISATION.

    Raises:
        ValueError: an option that is missing or none.
    """

    def __init__(self, options: dict):
        super().__init__()
        self.options = dict(options)
        try:
            self.normalisation = {name: options[name] for name in NORMALISATION}
            given = {name: value for name, value in options.items() if name not in NORMALISATION}
            rate = given.get("sample_rate", SAMPLE_RATE)
            times = {f"{name}_ms": 1000 * given.pop(name) / rate for name in ("frame", "shift")}
            self.front_end = LogMel(**given, **times)
        except (KeyError, TypeError) as error:
            raise ValueError(f"options of features: {error}") from None

    def forward(self, wave, lengths=None):
        """Return features (batch, bins, frames) and which frames are speech (batch, frames) of waves in [-1, 1].

        Args:
            wave: (batch, samples) at 16 kHz; lengths: (batch,) samples of each row that count, None for all. Frames
                after them are 0 and no speech.
        """
        mel, speech = self.front_end.with_speech(wave, lengths)
        counts = None if lengths is None else self.front_end.frames(lengths.to(wave.device))
        return sliding_normalisation(mel, counts, **self.normalisation), speech


def options_of(grid: str, dither: float, bins: int = 80) -> dict:
    """Return the options of Features with a grid of the FFT and a dither: what a card keeps as front_end."""
    return {**LogMel(bins=bins, grid=grid, dither=dither).options, **NORMALISATION}


def features_of(card: dict, device: torch.device | str = "cpu") -> Features:
    """Return what makes the features that the network of `card` was trained on.

    Raises:
        ValueError: the card does not say.
    """
    options = card["meta"].get("front_end")
    if not isinstance(options, dict):
        raise ValueError("this network does not say on what features it was trained: it has no front_end")
    return Features(options).to(device)


def load(path: str | Path, device: torch.device | str = "cpu", ema: str | float | None = None):
    """Return the autoencoder of a checkpoint, of models/AE, VAE or VQVAE, in evaluation mode, and its card.

    The card is {"class", "kwargs", "meta"}; its meta holds bins, front_end (see Features), chunk_frames [least, most],
    denoising, lists (name and hash of what it was trained and validated on), args and versions.

    Args:
        ema: rate of the averaged weights to take, "none" for those of the last step; None: the last rate there is.

    Raises:
        FileNotFoundError, ValueError: no such file, no autoencoder, weights that do not fit, no such average.
    """
    return DiffusionNet.load_network(path, TASK, device, ema)


# ---------------------------------------------------------------- from flags


def add_arguments(parser):
    """Add the flags that say what is trained."""
    known = registry.names("models", TASK)
    net = parser.add_argument_group("network")
    net.add_argument(
        "--model", "--model_type", default="VAE", type=lambda name: model_name(name, known),
        help=f"one of: {', '.join(known)}; {', '.join(DENOISING)} are denoising ones",
    )  # fmt: skip
    backbones = ", ".join(registry.names("backbones"))
    net.add_argument("--encoder", default="resnet1d", help=f"one of: {backbones}")
    net.add_argument("--decoder", default="", help="likewise (default: as the encoder)")
    options = "arguments of its class, in YAML a mapping, else as repeats=[1,2],channels=256 or in JSON"
    net.add_argument("--encoder_options", type=mapping, default=None, metavar="OPTIONS", help=options)
    net.add_argument(
        "--decoder_options", type=mapping, default=None, metavar="OPTIONS",
        help="likewise (default: as the encoder's, for a decoder of the same name)",
    )  # fmt: skip
    net.add_argument("--latent_channels", type=int, default=80, help="numbers at each position of the latents")
    net.add_argument(
        "--likelihood", choices=tuple(LIKELIHOODS), default="normal-glob-diag-cov",
        help="variance of the features: 1, learned for each bin, or predicted",
    )  # fmt: skip
    net.add_argument("--least_feature_std", type=float, default=0.0, help="least standard deviation of the features")
    net.add_argument("--kl_weight", type=float, default=1.0, help="weight of the KL divergence")
    net.add_argument("--loss", choices=("mse", "l1", "smooth_l1"), default="mse", help="of an AE")
    vae = parser.add_argument_group("VAE")
    vae.add_argument("--kl_warmup_steps", type=int, default=0, help="optimiser steps in which --kl_weight rises from 0")
    vae.add_argument("--posterior", choices=POSTERIORS, default="global_diagonal", help="variance of the latents")
    add_bool(vae, "--limit_std_to_prior", default=True, help="standard deviation of the latents at most 1")
    vae.add_argument("--least_std", type=float, default=0.0, help="least standard deviation of the latents")
    vae.add_argument("--free_bits", type=float, default=0.0, help="nats per channel and position without cost")
    codes = parser.add_argument_group("VQ-VAE")
    codes.add_argument("--codewords", type=int, default=512, help="in the codebook of each group")
    codes.add_argument("--groups", type=int, default=1, help="groups of latent channels with a codebook each")
    codes.add_argument("--commitment", type=float, default=0.25, help="weight of the loss that holds latents to codes")
    codes.add_argument("--diversity_weight", type=float, default=0.1, help="weight of the log-perplexity")
    add_bool(codes, "--soft_perplexity", help="of soft assignments, which have a gradient")
    codes.add_argument("--update", choices=("ema", "gradient"), default="ema", help="how codewords learn")
    codes.add_argument("--decay", type=float, default=0.99, help="share of the averages kept per batch")
    codes.add_argument("--group_reduction", choices=("mean", "sum"), default="mean", help="of the groups' losses")
    codes.add_argument("--start", choices=STARTS, default="kmeans++", help="codewords are rows of the first batch")
    codes.add_argument("--dead_after", type=int, default=5, help="batches without use after which codewords restart")


def model_name(name: str, known: list[str]) -> str:
    """Return a name of --model, in any case, as it is in models/, or as it is in DENOISING."""
    lower = name.lower()
    return lower if lower in DENOISING else {n.lower(): n for n in known}.get(lower, name)


def chosen_classes(args) -> dict:
    """Return {"--model X": class, ...} of what the names choose."""
    model = TYPES.get(args.model, args.model)
    chosen = [("models", model, TASK)]
    chosen += [("optimizer", args.optimizer, None), ("scheduler", args.scheduler, None)]
    return {f"{registry.FLAG[folder]} {name}": registry.load(folder, name, task) for folder, name, task in chosen}


def check(args, given: dict, bins: int):
    """Set --model and --denoising of another name of a network; refuse flags that it does not have.

    Raises:
        ValueError: such a flag, or a network that cannot be built.
    """
    if args.model in DENOISING:
        args.denoising, args.model = True, TYPES[args.model]
    for line in registry.check_taken(given, (*run.CLASS_FLAGS, *FLAGS), chosen_classes(args)):
        print(line)
    if args.kl_warmup_steps and not takes_kl_weight(args):
        raise ValueError(f"--kl_warmup_steps has no effect: {args.model} has no divergence that learns")
    with torch.device("meta"):
        build(args, bins)


def takes_kl_weight(args) -> bool:
    """Tell whether a network takes another weight of the KL divergence at each step."""
    cls = registry.load("models", args.model, TASK)
    return "kl_weight" in inspect.signature(cls.forward).parameters


def build(args, bins: int):
    """Return the network and the arguments that it was built with.

    Raises:
        ValueError: names or options that do not exist or do not go together.
    """
    cls = registry.load("models", args.model, TASK)
    decoder, options = args.decoder or args.encoder, args.decoder_options
    if options is None:
        options = args.encoder_options if decoder == args.encoder else {}
    given = {"encoder_options": args.encoder_options or {}, "decoder": decoder, "decoder_options": options or {}}
    kwargs = registry.arguments_of(cls, {**stored_args(args), **given, "bins": bins})
    try:
        return cls(**kwargs), kwargs
    except (TypeError, RuntimeError, ArithmeticError, AttributeError, IndexError) as error:
        raise ValueError(f"--encoder_options or --decoder_options: {error}") from None
