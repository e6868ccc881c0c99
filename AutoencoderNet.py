"""Autoencoders of log-mel features as files: the network of a checkpoint, and the features that it was trained on.
Entry points: load, features_of; Features(options) of waves.
"""

from pathlib import Path

import torch
from torch import nn

import DiffusionNet
from audio.log_mel import SAMPLE_RATE, LogMel, sliding_normalisation

TASK = "autoencoder"
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
    """Return the options of Features with a grid of the FFT and a dither, which are kept with a network as front_end."""
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
    """Return the autoencoder of a checkpoint (a MainModel of models/AE, VAE or VQVAE), in evaluation mode, and its card.

    The card is {"class", "kwargs", "meta"}; its meta holds bins, front_end (see Features), chunk_frames [least, most],
    denoising, lists (name and hash of what it was trained and validated on), args and versions.

    Args:
        ema: rate of the averaged weights to take, "none" for those of the last step; None: the last rate there is.

    Raises:
        FileNotFoundError, ValueError: no such file, no autoencoder, weights that do not fit, no such average.
    """
    return DiffusionNet.load_network(path, TASK, device, ema)
